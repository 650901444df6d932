"""People: walking, standing and riding, of any age, in clothes of all kinds, drawn limb by limb."""

from dataclasses import dataclass

import numpy as np

from sftlib.datasets.street_scenes.view import BICYCLIST, PEDESTRIAN, Layer, Pen, View

SKIN = np.array([(0.96, 0.80, 0.69), (0.88, 0.67, 0.52), (0.72, 0.50, 0.36), (0.50, 0.33, 0.23), (0.33, 0.21, 0.15)])
HAIR = np.array([(0.08, 0.06, 0.05), (0.20, 0.13, 0.08), (0.42, 0.27, 0.14), (0.75, 0.60, 0.35), (0.62, 0.62, 0.62)])
CLOTH = np.array([
    (0.07, 0.07, 0.09), (0.10, 0.13, 0.25), (0.25, 0.26, 0.28), (0.45, 0.46, 0.48), (0.85, 0.84, 0.80),
    (0.55, 0.44, 0.30), (0.75, 0.68, 0.55), (0.60, 0.10, 0.12), (0.15, 0.35, 0.22), (0.15, 0.35, 0.62),
    (0.90, 0.72, 0.15), (0.85, 0.40, 0.15), (0.70, 0.35, 0.55), (0.30, 0.20, 0.35),
])  # fmt: skip
JEANS = np.array([(0.07, 0.07, 0.09), (0.14, 0.19, 0.33), (0.25, 0.33, 0.47), (0.30, 0.29, 0.28), (0.62, 0.56, 0.45)])


@dataclass(frozen=True)
class Look:
    """Size in metres, angles in radians, colours; ``side``: seen from the side (1) or from before or behind (0)"""

    tall: float
    stout: float
    side: float
    faces: int  # 1 to the right, -1 to the left
    back: bool
    stride: float
    arms: tuple[float, float]
    skin: tuple
    hair: tuple
    top: tuple
    legs: tuple
    shoes: tuple
    coat: float  # how far it reaches below the hips, in heights
    skirt: bool
    long_hair: bool
    hat: bool
    bag: int  # 0 none, 1 on the back, 2 in the hand
    umbrella: bool


def look(rng: np.random.Generator, rain: bool) -> Look:
    """A person, drawn by lot"""
    child = rng.random() < 0.15
    tall = rng.uniform(1.0, 1.45) if child else np.clip(rng.normal(1.70, 0.09), 1.48, 1.96)
    skirt = rng.random() < 0.2
    stands = rng.random() < 0.3
    return Look(
        tall=float(tall), stout=rng.uniform(0.85, 1.35), side=float(rng.choice([0, 0.35, 0.7, 1])),
        faces=int(rng.choice([-1, 1])), back=rng.random() < 0.5,
        stride=rng.uniform(0, 0.08) if stands else rng.uniform(0.2, 0.6),
        arms=tuple(rng.uniform(-0.5, 0.7, 2) + (rng.random(2) < 0.15) * 0.9),
        skin=_near(SKIN, rng), hair=_near(HAIR, rng), top=_near(CLOTH, rng),
        legs=_near(CLOTH if skirt or rng.random() < 0.15 else JEANS, rng), shoes=_near(CLOTH, rng, 0.6),
        coat=rng.choice([0.0, 0.02, 0.06, 0.15, 0.25]), skirt=skirt, long_hair=rng.random() < 0.4,
        hat=rng.random() < 0.15, bag=int(rng.choice([0, 0, 1, 2])), umbrella=rain and rng.random() < 0.5,
    )  # fmt: skip


def _near(palette: np.ndarray, rng: np.random.Generator, shade: float = 1.0) -> tuple:
    return tuple(np.clip(palette[rng.integers(len(palette))] * rng.uniform(0.8, 1.2) * shade
                         + rng.normal(0, 0.03, 3), 0.02, 1))  # fmt: skip


class Frame:
    """Draws in heights of a person: x to the right of the feet, z up from the ground"""

    def __init__(self, view: View, X: float, d: float, tall: float, squeeze: float = 1.0):
        self.pen, self.squeeze = Pen(), squeeze
        self.x, self.y = view.pixel(X, d, 0)
        self.scale = view.focal / d * tall

    def at(self, p) -> tuple[float, float]:
        """(x, z) in heights -> picture"""
        return self.x + p[0] * self.scale * self.squeeze, self.y - p[1] * self.scale

    def limb(self, p, q, r0, r1, colour) -> None:
        """A stroke between two places"""
        self.pen.limb(self.at(p), self.at(q), r0 * self.scale, r1 * self.scale, colour)

    def polygon(self, points, colour) -> None:
        """Corners (n, 2)"""
        self.pen.polygon([self.at(p) for p in points], colour)

    def disc(self, p, rx, rz, colour) -> None:
        """An ellipse"""
        x, y = self.at(p)
        self.pen.disc(x, y, rx * self.scale, rz * self.scale, colour)


def pedestrian(view: View, X: float, d: float, who: Look) -> Layer | None:
    """Someone on foot at (X, d)"""
    frame = Frame(view, X, d, who.tall)
    _legs(frame, who)
    _upper(frame, who, hips=(0.0, 0.5), lean=0.02 * who.side * who.faces)
    return frame.pen.layer(view, d, PEDESTRIAN, counted=True, rounded=True)


def _shade(colour, factor: float) -> tuple:
    return tuple(c * factor for c in colour)


def _legs(frame: Frame, who: Look) -> None:
    """Two legs with a knee each; the one farther away is darker"""
    apart = 0.055 * (1 - 0.75 * who.side) * who.stout
    for leg, (sign, dark) in enumerate(((1, 0.72), (-1, 1.0))):
        swing = sign * who.stride * (0.25 + 0.75 * who.side) * who.faces
        hip = (sign * apart * 0.9, 0.5)
        bent = 0.35 * who.stride * who.side * who.faces * (leg == 0)
        lift = 0.10 * who.stride * (1 - who.side) * (leg == 0)
        knee = (hip[0] + 0.24 * np.sin(swing), 0.5 - 0.23 * np.cos(swing) + lift / 2)
        ankle = (knee[0] + 0.23 * np.sin(swing - bent - 0.1 * who.faces * who.side), 0.04 + lift + 0.06 * abs(bent))
        colour = _shade(who.skin if who.skirt else who.legs, dark)
        width = 0.046 * who.stout**0.7
        frame.limb(hip, knee, width * 1.1, width * 0.85, colour)
        frame.limb(knee, ankle, width * 0.8, width * 0.55, colour)
        toe = (ankle[0] + 0.06 * who.faces * max(who.side, 0.15), ankle[1] - 0.02)
        frame.limb((ankle[0], ankle[1] - 0.015), toe, 0.026, 0.022, _shade(who.shoes, dark))


def _upper(frame: Frame, who: Look, hips: tuple[float, float], lean: float) -> None:
    """From the hips up: far arm, torso, head, near arm, what is carried"""
    x, z = hips
    shoulder = (x + lean + 0.0, z + 0.31)
    half = (0.125 - 0.055 * who.side) * who.stout**0.6
    if who.umbrella:
        _umbrella(frame, who, shoulder)
    _arm(frame, who, (shoulder[0] - half * 0.95 * (1 - who.side), shoulder[1] - 0.02), who.arms[0], 0.75, far=True)
    if who.bag == 1 and who.side > 0.5:
        behind = x - who.faces * 0.1
        frame.limb((behind, z + 0.26), (behind, z + 0.1), 0.055, 0.06, _shade(who.shoes, 0.9))
    waist, hem = half * 0.82, z - 0.02 - who.coat
    if who.skirt:
        frame.polygon([(x - waist, z + 0.04), (x + waist, z + 0.04), (x + waist * 1.4, z - 0.2),
                       (x - waist * 1.4, z - 0.2)], who.legs)  # fmt: skip
    frame.polygon([
        (shoulder[0] - half * 0.75, shoulder[1] + 0.02), (shoulder[0] + half * 0.75, shoulder[1] + 0.02),
        (shoulder[0] + half, shoulder[1] - 0.03), (x + waist, z + 0.1), (x + half * (0.9 + who.coat), hem),
        (x - half * (0.9 + who.coat), hem), (x - waist, z + 0.1), (shoulder[0] - half, shoulder[1] - 0.03),
    ], who.top)  # fmt: skip
    dark = [(shoulder[0] + half * 0.3, shoulder[1] + 0.01), (shoulder[0] + half, shoulder[1] - 0.03),
            (x + waist, z + 0.1), (x + half * 0.9, hem), (x + half * 0.35, hem)]  # fmt: skip
    frame.polygon(dark, _shade(who.top, 0.85))
    if who.bag == 1 and who.side <= 0.5 and who.back:
        frame.limb((x, z + 0.24), (x, z + 0.12), 0.075, 0.08, _shade(who.shoes, 1.1))
    _head(frame, who, (shoulder[0] + lean, shoulder[1]))
    _arm(frame, who, (shoulder[0] + half * 0.95 * (1 - who.side), shoulder[1] - 0.02), who.arms[1], 1.0, far=False)


def _arm(frame: Frame, who: Look, start, angle: float, dark: float, far: bool) -> None:
    """Upper and lower arm; seen from before they hang outwards"""
    swing = angle * who.faces if who.side > 0.5 else (0.12 + 0.25 * abs(angle)) * (-1 if far else 1)
    bent = max(angle, 0.1) * 0.9 * (who.faces if who.side > 0.5 else (0.4 if far else -0.4))
    if who.umbrella and not far:
        swing, bent = 0.3 * who.faces, 1.9 * who.faces
    elbow = (start[0] + 0.155 * np.sin(swing), start[1] - 0.155 * np.cos(swing))
    hand = (elbow[0] + 0.14 * np.sin(swing + bent), elbow[1] - 0.14 * np.cos(swing + bent))
    frame.limb(start, elbow, 0.036 * who.stout**0.5, 0.03, _shade(who.top, dark * 0.95))
    frame.limb(elbow, hand, 0.029, 0.022, _shade(who.top, dark * 0.92))
    frame.disc(hand, 0.022, 0.026, _shade(who.skin, dark))
    if who.bag == 2 and not far and not who.umbrella:
        frame.limb((hand[0], hand[1] - 0.05), (hand[0], hand[1] - 0.12), 0.035, 0.045, who.shoes)


def _head(frame: Frame, who: Look, neck) -> None:
    big = 0.068 * (1.25 if who.tall < 1.45 else 1.0)
    middle = (neck[0] + 0.012 * who.faces * who.side, neck[1] + 0.045 + big)
    frame.limb((neck[0], neck[1] - 0.01), middle, 0.03, 0.03, _shade(who.skin, 0.8))
    if who.long_hair:
        frame.limb(middle, (middle[0] - 0.02 * who.faces * who.side, neck[1] - 0.02), big * 0.85, big * 0.8, who.hair)
    frame.disc((middle[0], middle[1] + 0.008), big * 0.84, big * 1.05, who.hair)
    if not who.back or who.side > 0.5:
        frame.disc((middle[0] + 0.016 * who.faces * who.side, middle[1] - 0.014), big * 0.66, big * 0.86, who.skin)
    if who.hat:
        frame.disc((middle[0], middle[1] + big * 0.55), big * 0.92, big * 0.62, who.top)


def _umbrella(frame: Frame, who: Look, shoulder) -> None:
    x, z = shoulder[0] + 0.1 * who.faces, shoulder[1] + 0.3
    frame.limb((x, z), (x, z - 0.35), 0.008, 0.008, (0.2, 0.2, 0.2))
    turn = np.linspace(0, np.pi, 11)
    frame.polygon(np.stack([x + 0.33 * np.cos(turn), z - 0.08 + 0.17 * np.sin(turn)], 1), who.shoes)


def bicyclist(view: View, X: float, d: float, who: Look, squeeze: float) -> Layer | None:
    """Someone on a bicycle; squeeze in (0, 1]: how far from the side it is seen"""
    tall = max(who.tall, 1.5)
    frame, iron = Frame(view, X, d, tall, squeeze), _shade(who.shoes, 0.8)
    f, wheel = who.faces, 0.34 / tall
    for x in (-0.55 / tall, 0.5 / tall):
        turn = np.linspace(0, 2 * np.pi, 15)
        rim = [frame.at((x + wheel * np.cos(t), wheel * (1 + np.sin(t)))) for t in turn]
        for a, b in zip(rim[:-1], rim[1:], strict=True):
            frame.pen.limb(a, b, 0.016 * frame.scale, 0.016 * frame.scale, (0.05, 0.05, 0.05))
    axle, saddle, bar = (-0.05 * f, 0.18), (-0.13 * f, 0.53), (0.2 * f, 0.57)
    back, front = (-0.5 / tall * f, wheel), (0.52 / tall * f, wheel)
    for p, q in ((back, axle), (axle, saddle), (axle, (0.18 * f, 0.5)), (saddle, (0.18 * f, 0.5)), (bar, front),
                 (back, saddle)):  # fmt: skip
        frame.limb(p, q, 0.012, 0.012, iron)
    for knee, foot, dark in (((0.12 * f, 0.42), (0.02 * f, 0.12), 0.75), ((0.14 * f, 0.5), (-0.04 * f, 0.22), 1.0)):
        frame.limb((-0.11 * f, 0.56), knee, 0.05, 0.042, _shade(who.legs, dark))
        frame.limb(knee, foot, 0.04, 0.026, _shade(who.legs, dark))
        frame.limb(foot, (foot[0] + 0.05 * f, foot[1] - 0.01), 0.024, 0.02, _shade(who.shoes, dark))
    chest, neck = (0.05 * f, 0.78), (0.09 * f, 0.86)
    frame.limb((-0.12 * f, 0.58), chest, 0.075, 0.085, who.top)
    frame.limb(chest, neck, 0.085, 0.05, who.top)
    frame.limb((0.08 * f, 0.83), (0.13 * f, 0.69), 0.034, 0.03, _shade(who.top, 0.85))
    frame.limb((0.13 * f, 0.69), (0.2 * f, 0.59), 0.028, 0.022, _shade(who.top, 0.85))
    _head(frame, who, (neck[0] + 0.02 * f, neck[1]))
    return frame.pen.layer(view, d, BICYCLIST, counted=True, rounded=True)
