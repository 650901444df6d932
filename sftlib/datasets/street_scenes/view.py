"""Where things are seen: a camera in a street that bends, a canvas with depth, and a pen that smooths edges.

Lengths are metres. A place in the street is (s along it, u to the right of its middle), a place before the camera
(X to the right, d away), a place in the picture (x, y) in pixels. Heights z are above the ground.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sftlib.datasets.street_scenes.textures import rough, sample

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "vegetation", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
SKY, BUILDING, POLE, ROAD, PAVEMENT, VEGETATION, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))
NEAR = 0.6  # metres: nothing nearer is drawn
CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 14, endpoint=False)) for f in (np.cos, np.sin)], 1)
FINE = 3  # a pen's lines are drawn this many times larger, then averaged


@dataclass(frozen=True)
class View:
    """A pinhole camera: focal length and horizon in pixels, eye in metres above the ground, yaw in radians

    It stands ``place`` metres right of the street's middle; the street bends by s² · bend / 2.
    """

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    yaw: float
    place: float
    bend: float

    def camera(self, s, u):
        """(s, u) in the street -> (X, d) before the camera"""
        v = u + self.bend * np.square(s) / 2 - self.place
        c, n = math.cos(self.yaw), math.sin(self.yaw)
        return v * c - s * n, s * c + v * n

    def street(self, X, d):
        """(X, d) before the camera -> (s, u) in the street"""
        c, n = math.cos(self.yaw), math.sin(self.yaw)
        s = d * c - X * n
        return s, X * c + d * n + self.place - self.bend * np.square(s) / 2

    def pixel(self, X, d, z):
        """(X, d), height z -> (x, y) in the picture"""
        return self.width / 2 + self.focal * X / d, self.horizon + self.focal * (self.eye - z) / d

    def seen(self, s: float, u: float, margin: float = 1.0) -> bool:
        """Whether what stands there, ``margin`` metres to each side, can be in the picture"""
        X, d = self.camera(s, u)
        return d > NEAR + 1 and abs(X) - margin < d * self.width / 2 / self.focal


@dataclass(frozen=True)
class Layer:
    """A part of the picture: colour (h, w, 3), alpha (h, w) in [0, 1], from (left, top); depth and kind () or (h, w)

    glow (h, w, 3): light of its own. counted: whether it is an object with a box.
    """

    left: int
    top: int
    colour: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray | float
    kind: np.ndarray | int
    glow: np.ndarray | None = None
    counted: bool = False

    def window(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """Where it lies in a picture, and that part of itself; None outside"""
        h, w = self.alpha.shape
        top, bottom = max(self.top, 0), min(self.top + h, height)
        left, right = max(self.left, 0), min(self.left + w, width)
        if top >= bottom or left >= right:
            return None
        inner = slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)
        return (slice(top, bottom), slice(left, right)), inner


@dataclass
class Canvas:
    """What has been painted: colour and glow (H, W, 3), class, depth and number of the object (H, W)"""

    colour: np.ndarray
    glow: np.ndarray
    classes: np.ndarray
    away: np.ndarray  # depth, of ground and sky too
    depth: np.ndarray = field(init=False)  # of things; infinite where there is ground and sky alone
    objects: np.ndarray = field(init=False)  # 0: none
    glows: bool = False  # whether anything gives light

    def __post_init__(self) -> None:
        self.depth = np.full(self.classes.shape, np.inf, np.float32)
        self.objects = np.zeros(self.classes.shape, np.int16)

    def paint(self, layer: Layer, number: int = 0) -> None:
        """Lay one thing over those behind it; behind nearer ones it is hidden."""
        if (found := layer.window(*self.classes.shape)) is None:
            return
        place, inner = found
        depth, kind = (v[inner] if np.ndim(v) else v for v in (layer.depth, layer.kind))
        alpha = np.where(depth < self.depth[place], layer.alpha[inner], 0)
        solid, a = alpha >= 0.5, alpha[..., None]
        self.colour[place] += a * (layer.colour[inner] - self.colour[place])
        if layer.glow is not None:
            self.glow[place] += a * (layer.glow[inner] - self.glow[place])
            self.glows = True
        elif self.glows:
            self.glow[place] *= 1 - a
        for target, value in ((self.depth, depth), (self.away, depth), (self.classes, kind), (self.objects, number)):
            np.copyto(target[place], value, where=solid, casting="unsafe")


def visible(layers: list[Layer], height: int, width: int) -> np.ndarray:
    """layers (n) -> how many pixels of each are seen, (n,)"""
    depth, owner = np.full((height, width), np.inf, np.float32), np.full((height, width), -1, np.int32)
    for i, layer in enumerate(layers):
        if (found := layer.window(height, width)) is not None:
            place, inner = found
            own = layer.depth[inner] if np.ndim(layer.depth) else layer.depth
            solid = (layer.alpha[inner] >= 0.5) & (own < depth[place])
            np.copyto(depth[place], own, where=solid, casting="unsafe")
            owner[place][solid] = i
    return np.bincount(owner[owner >= 0], minlength=len(layers))


class Pen:
    """Polygons and discs in picture coordinates, drawn finely and averaged into a layer"""

    def __init__(self):
        self.strokes: list[tuple[np.ndarray, tuple, bool]] = []  # corners (n, 2) or a disc's box (2, 2), colour

    def polygon(self, corners, colour, shine: bool = False) -> None:
        """corners (n, 2), colour (3,) in [0, 1]; shine: it gives light"""
        self.strokes.append((np.asarray(corners, np.float32), tuple(colour), shine))

    def disc(self, x: float, y: float, rx: float, ry: float, colour, shine: bool = False) -> None:
        """An ellipse around (x, y)"""
        self.polygon(CIRCLE * (rx, ry) + (x, y), colour, shine)

    def limb(self, start, end, r0: float, r1: float, colour) -> None:
        """A stroke from start to end, round, r0 and r1 half as wide as it is there"""
        (x0, y0), (x1, y1) = start, end
        length = max(np.hypot(x1 - x0, y1 - y0), 1e-6)
        nx, ny = -(y1 - y0) / length, (x1 - x0) / length
        self.polygon(
            [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1), (x1 - nx * r1, y1 - ny * r1),
             (x0 - nx * r0, y0 - ny * r0)], colour,
        )  # fmt: skip
        self.disc(x0, y0, r0, r0, colour)
        self.disc(x1, y1, r1, r1, colour)

    def layer(self, view: View, depth: float, kind: int, counted: bool = False, rounded: bool = False) -> Layer | None:
        """What was drawn, as a layer at this depth, perhaps shaded as if round; None when it is outside the picture"""
        corners = np.concatenate([s[0] for s in self.strokes])
        low, high = np.floor(corners.min(0)) - 1, np.ceil(corners.max(0)) + 1
        low = np.maximum(low, (-2, -2)).astype(int)
        w, h = (np.minimum(high, (view.width + 2, view.height + 2)).astype(int) - low).tolist()
        if w < 1 or h < 1:
            return None
        paint, mask = self._drawn(low, (w, h), [(colour, 255) for _, colour, _ in self.strokes])
        shine = None
        if any(shines for _, _, shines in self.strokes):
            shine, _ = self._drawn(
                low, (w, h), [(colour if shines else (0, 0, 0), 0) for _, colour, shines in self.strokes]
            )
        over = np.maximum(mask, 1e-3)[..., None]
        if rounded:
            over = over / _roundness(mask)[..., None]
        shine = None if shine is None else shine / over
        return Layer(*low.tolist(), paint / over, mask, depth, kind, shine, counted)

    def _drawn(self, low, size: tuple[int, int], inks) -> tuple[np.ndarray, np.ndarray]:
        """Corner and size of a part of the picture, (colour, cover) of each stroke -> (h, w, 3), (h, w) in [0, 1]"""
        images = [Image.new(mode, (size[0] * FINE, size[1] * FINE)) for mode in ("RGB", "L")]
        paint, mask = (ImageDraw.Draw(image) for image in images)
        for (points, _, _), (colour, cover) in zip(self.strokes, inks, strict=True):
            path = ((points - low) * FINE).ravel().tolist()
            paint.polygon(path, tuple(int(min(max(c, 0), 1) * 255) for c in colour))
            if cover:
                mask.polygon(path, cover)
        return tuple(np.asarray(image.reduce(FINE), np.float32) / 255 for image in images)


def _roundness(mask: np.ndarray) -> np.ndarray:
    """mask (h, w) in [0, 1] -> light around 1: more where it ends on the left and above, less on the right and below"""
    image = Image.fromarray((mask * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(max(mask.shape[0] / 45, 0.6))
    )
    soft = np.pad(np.asarray(image, np.float32) / 255, 1, mode="edge")
    slope = (soft[1:-1, 2:] - soft[1:-1, :-2]) + 0.5 * (soft[2:, 1:-1] - soft[:-2, 1:-1])
    grain = sample(rough(), *np.indices(mask.shape) + int(mask.sum()))
    return 1 + np.clip(slope * min(mask.shape[0] / 60, 2.0), -0.35, 0.35) + 0.07 * (grain - 1)
