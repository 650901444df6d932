"""Cars, vans and lorries: a side view drawn across its width, in perspective."""

from dataclasses import dataclass

import numpy as np

from sftlib.datasets.street_scenes.view import CAR, NEAR, Layer, Pen, View

PAINT = np.array([
    (0.08, 0.08, 0.09), (0.30, 0.31, 0.33), (0.62, 0.63, 0.65), (0.88, 0.88, 0.87), (0.55, 0.07, 0.08),
    (0.10, 0.20, 0.45), (0.16, 0.32, 0.25), (0.78, 0.66, 0.45), (0.85, 0.62, 0.10), (0.35, 0.50, 0.62),
])  # fmt: skip
GLASS, TYRE = (0.10, 0.13, 0.16), (0.04, 0.04, 0.045)

# Side views, front first: (along, height) in shares of length and height; g: the piece that begins there is glass
BODIES = {
    "saloon": ((1.0, 0.32, ""), (0.99, 0.52, ""), (0.74, 0.62, "g"), (0.56, 0.97, ""), (0.30, 1.0, "g"),
               (0.13, 0.64, ""), (0.01, 0.60, ""), (0.0, 0.30, "")),
    "hatchback": ((1.0, 0.30, ""), (0.98, 0.50, ""), (0.76, 0.60, "g"), (0.58, 0.97, ""), (0.18, 1.0, "g"),
                  (0.03, 0.62, ""), (0.0, 0.30, "")),
    "van": ((1.0, 0.26, ""), (0.99, 0.42, ""), (0.90, 0.52, "g"), (0.78, 0.95, ""), (0.04, 1.0, ""), (0.0, 0.2, "")),
    "lorry": ((1.0, 0.20, ""), (1.0, 0.40, "g"), (0.97, 0.72, ""), (0.80, 0.74, ""), (0.79, 1.0, ""), (0.0, 1.0, ""),
              (0.0, 0.22, "")),
}  # fmt: skip
SIZES = {"saloon": (4.5, 1.45, 1.78), "hatchback": (4.0, 1.50, 1.72), "van": (5.0, 2.1, 1.95), "lorry": (7.0, 3.1, 2.4)}


@dataclass(frozen=True)
class Car:
    """kind of body, place of its middle in the street, heading 1 away from the camera or -1 towards it"""

    body: str
    s: float
    u: float
    heading: int
    paint: tuple
    lights: bool

    @property
    def length(self) -> float:
        """In metres"""
        return SIZES[self.body][0]

    @property
    def width(self) -> float:
        """In metres"""
        return SIZES[self.body][2]


def car(rng: np.random.Generator, s: float, u: float, heading: int, lights: bool) -> Car:
    """A car of some body and paint at a place"""
    body = str(rng.choice(list(BODIES), p=(0.38, 0.38, 0.17, 0.07)))
    paint = np.clip(PAINT[rng.integers(len(PAINT))] * rng.uniform(0.85, 1.15) + rng.normal(0, 0.02, 3), 0.03, 0.95)
    return Car(body, s, u, heading, tuple(paint), lights)


def painted(view: View, car: Car) -> Layer | None:
    """The car as it is seen; None when too near to be, or outside the picture"""
    corners = _corners(view, car)  # (2 sides, n, 3): x, y, d
    if corners[..., 2].min() < NEAR + 0.4:
        return None
    pen, flat = Pen(), corners[..., :2]
    near = int(corners[1, :, 2].mean() < corners[0, :, 2].mean())
    glass = [p[2] == "g" for p in BODIES[car.body]]
    strips = [(corners[:, [i, (i + 1) % len(glass)], 2].mean(), i) for i in range(len(glass))]
    _underneath(view, car, pen)
    for _, i in sorted(strips, reverse=True):
        quad = np.stack([flat[0, i], flat[1, i], flat[1, (i + 1) % len(glass)], flat[0, (i + 1) % len(glass)]])
        tone = (1.12, 1.0, 0.8)[0 if abs(BODIES[car.body][i][1] - BODIES[car.body][(i + 1) % len(glass)][1]) < 0.12
                                else 1 + (i + 1 == len(glass))]  # fmt: skip
        pen.polygon(quad, GLASS if glass[i] else tuple(c * tone for c in car.paint))
        if i == 0 or i == len(glass) - 2:
            _ends(pen, quad, car, front=i == 0, faces=_faces(quad, near))
    if abs(flat[near, 0, 0] - flat[near, -1, 0]) > 1.5:
        _flank(view, car, pen, flat[near], near)
    return pen.layer(view, float(corners[..., 2].mean()), CAR, counted=True)


def _corners(view: View, car: Car) -> np.ndarray:
    """-> (2, n, 3): the side view on the left and on the right, (x, y, d); the roof is narrower"""
    length, height, width = SIZES[car.body]
    profile = np.array([p[:2] for p in BODIES[car.body]])
    inset = np.where(profile[:, 1] > 0.7, 0.84 if car.body in ("saloon", "hatchback") else 0.97, 1.0)
    return np.stack([_place(view, car, profile[:, 0], side * inset * width / 2, profile[:, 1] * height)
                     for side in (-1, 1)])  # fmt: skip


def _place(view: View, car: Car, along, across, z) -> np.ndarray:
    """along in shares of the length, metres to the right, height -> (n, 3): x, y, d"""
    s = car.s + car.heading * (along - 0.5) * car.length
    turn = view.bend * (np.square(car.s) / 2 + car.s * (s - car.s)) - view.bend * np.square(s) / 2  # stays straight
    X, d = view.camera(s, car.u + across + turn)
    d = np.maximum(d, 0.1)
    return np.stack([*view.pixel(X, d, z), d], -1)


def _faces(quad: np.ndarray, near: int) -> bool:
    """Whether an end is wide enough to be seen"""
    return abs(quad[0, 0] - quad[1, 0]) > 2


def _ends(pen: Pen, quad: np.ndarray, car: Car, front: bool, faces: bool) -> None:
    """Lamps, plate and bumper of one end: corners left low, right low, right high, left high"""
    if not faces:
        return
    a, b, c, e = quad if front else quad[[3, 2, 1, 0]]  # the lower two first

    def at(x, z):
        return (a * (1 - x) + b * x) * (1 - z) + (e * (1 - x) + c * x) * z

    def box(x0, x1, z0, z1, colour, shine=False):
        pen.polygon([at(x0, z0), at(x1, z0), at(x1, z1), at(x0, z1)], colour, shine)

    box(0, 1, -0.25, 0.18, (0.09, 0.09, 0.1))
    lamp = ((0.98, 0.96, 0.85) if car.lights else (0.8, 0.82, 0.84)) if front else (
        (0.95, 0.1, 0.05) if car.lights else (0.5, 0.05, 0.06))  # fmt: skip
    wide, low, high = (0.18, 0.45, 0.85) if car.body in ("saloon", "hatchback") or front else (0.09, 0.15, 0.4)
    for x in (0.03, 0.97 - wide):
        box(x, x + wide, low, high, lamp, car.lights)
    box(0.38, 0.62, 0.02 if wide < 0.1 else 0.14, 0.12 if wide < 0.1 else 0.36, (0.85, 0.85, 0.8))
    if front:
        box(0.28, 0.72, 0.45, 0.75, (0.06, 0.06, 0.07))


def _flank(view: View, car: Car, pen: Pen, outline: np.ndarray, near: int) -> None:
    """The near side: body, windows, wheels"""
    pen.polygon(outline, tuple(c * 0.9 for c in car.paint))
    _, height, width = SIZES[car.body]
    side = (2 * near - 1) * width / 2
    panes = {"saloon": ((0.17, 0.40), (0.42, 0.69)), "hatchback": ((0.09, 0.38), (0.40, 0.71)), "van": ((0.72, 0.87),),
             "lorry": ((0.84, 0.95),)}[car.body]  # fmt: skip
    low, high = (0.62, 0.92) if car.body in ("saloon", "hatchback") else (0.52, 0.80)
    low, high = (0.44, 0.66) if car.body == "lorry" else (low, high)
    for x0, x1 in panes:
        lean = 0.4 * (x1 - x0)
        top0, top1 = (x0 + lean * (x0 < 0.35), x1 - lean * (x1 > 0.6)) if car.body != "lorry" else (x0, x1)
        pane = _place(view, car, np.array([x0, x1, top1, top0]), side * np.array([1, 1, 0.86, 0.86]),
                      np.array([low, low, high, high]) * height)  # fmt: skip
        pen.polygon(pane[:, :2], GLASS)
    turn = np.linspace(0, 2 * np.pi, 15, endpoint=False)
    radius = 0.32 if car.body != "lorry" else 0.45
    for along in (0.17, 0.82):
        for r, colour in ((radius * 1.12, (0.03, 0.03, 0.03)), (radius, TYRE), (radius * 0.55, (0.5, 0.5, 0.52))):
            rim = _place(view, car, along + r * np.cos(turn) / car.length, side * 1.01, radius + r * np.sin(turn))
            pen.polygon(rim[:, :2], colour)


def _underneath(view: View, car: Car, pen: Pen) -> None:
    """What stands on the ground: the dark between the wheels, and the tyres"""
    half = 0.86 * car.width / 2
    dark = [_place(view, car, along, across, z) for along, across, z in (
        (0.92, -half, 0.0), (0.92, half, 0.0), (0.92, half, 0.4), (0.92, -half, 0.4))]  # fmt: skip
    low = [_place(view, car, along, across, z) for along, across, z in (
        (0.1, -half, 0.0), (0.1, half, 0.0), (0.1, half, 0.4), (0.1, -half, 0.4))]  # fmt: skip
    for quad in (dark, low):
        legs = [q[:2] for q in quad]
        for x0, x1 in ((0.0, 0.16), (0.84, 1.0)):
            pen.polygon([legs[0] * (1 - x0) + legs[1] * x0, legs[0] * (1 - x1) + legs[1] * x1,
                         legs[3] * (1 - x1) + legs[2] * x1, legs[3] * (1 - x0) + legs[2] * x0], TYRE)  # fmt: skip
        mid = [legs[0] * 0.5 + legs[3] * 0.5, legs[1] * 0.5 + legs[2] * 0.5, legs[2], legs[3]]
        pen.polygon(mid, (0.03, 0.03, 0.03))
