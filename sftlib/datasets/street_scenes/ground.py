"""What lies flat: road with markings and crossings, kerbs, pavements, lawns; and the shadows on it."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sftlib.datasets.street_scenes import textures
from sftlib.datasets.street_scenes.view import CIRCLE, PAVEMENT, ROAD, VEGETATION, Canvas, View
from sftlib.datasets.street_scenes.walls import edge


@dataclass(frozen=True)
class Street:
    """Lengths in metres. pavements and verges: width on the left and on the right; side roads: (s, width, side)"""

    half: float  # of the road's width
    pavements: tuple[float, float]
    setbacks: tuple[float, float]  # from the pavement to the houses
    lawns: tuple[bool, bool]
    lanes: int
    marking: tuple
    dashes: tuple[float, float]  # length of a stroke and from one to the next
    edges: bool
    crossing: float | None  # where a zebra crossing lies
    side_roads: tuple[tuple[float, float, int], ...]
    asphalt: tuple
    paving: tuple
    slabs: float
    grass: tuple
    seed: int

    def house_line(self, side: int) -> float:
        """u of the fronts of the houses; side 0 left, 1 right"""
        return (2 * side - 1) * (self.half + self.pavements[side] + self.setbacks[side])


def street(rng: np.random.Generator) -> Street:
    """A street drawn by lot"""
    lanes = int(rng.choice([1, 2, 2, 2, 3, 4]))
    half = lanes * rng.uniform(2.6, 3.4) / 2 + rng.choice([0, 0.5, 2.0])
    grey, warm = rng.uniform(0.16, 0.42), rng.normal(0, 0.015)
    paving = rng.uniform(0.32, 0.68) * np.array([1, 0.97, 0.92]) * (1 + rng.normal(0, 0.04, 3))
    if rng.random() < 0.2:
        paving = np.array([0.52, 0.34, 0.28]) * rng.uniform(0.8, 1.2)
    roads = [(rng.uniform(8, 45), rng.uniform(5, 9), int(rng.integers(2))) for _ in range(rng.integers(0, 3))]
    return Street(
        half=float(half), pavements=tuple(rng.uniform(1.4, 4.5, 2).tolist()),
        setbacks=tuple(np.where(rng.random(2) < 0.45, 0.0, rng.uniform(1.5, 7, 2)).tolist()),
        lawns=tuple(rng.random(2) < 0.6), lanes=lanes,
        marking=(0.85, 0.70, 0.2) if rng.random() < 0.2 else (0.88, 0.88, 0.86),
        dashes=(rng.uniform(1.5, 4), rng.uniform(5, 10)), edges=rng.random() < 0.4,
        crossing=rng.uniform(6, 26) if rng.random() < 0.35 else None, side_roads=tuple(roads),
        asphalt=(grey + warm, grey, grey - warm), paving=tuple(np.clip(paving, 0.1, 0.85)), slabs=rng.uniform(0.4, 1.5),
        grass=tuple(np.clip(np.array([0.24, 0.36, 0.13]) * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03, 3), 0.04, 0.7)),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def paint(canvas: Canvas, view: View, street: Street, shade: np.ndarray, snow: float) -> None:
    """Ground below the horizon. shade (H, W): share of the light that is left; snow: share of white"""
    first = max(int(np.ceil(view.horizon + 1)), 0)
    if first >= view.height:
        return
    rows = np.arange(first, view.height, dtype=np.float32)[:, None] + 0.5
    d = view.focal * view.eye / (rows - view.horizon)  # (h, 1)
    X = (np.arange(view.width, dtype=np.float32) + 0.5 - view.width / 2) / view.focal * d  # (h, w)
    s, u = view.street(X, d)
    c, n = abs(math.cos(view.yaw)), abs(math.sin(view.yaw))
    across, deep = d / view.focal, d * d / (view.focal * view.eye)  # metres that a pixel covers: wide and high
    fine_u, fine_s = across * c + deep * n * 0.5 + 0.003, across * n + deep * c + 0.003
    colour, kind = _surfaces(street, s, u, fine_u, fine_s, snow, across)
    canvas.colour[first:] = colour * shade[first:, :, None]
    canvas.classes[first:] = kind
    canvas.away[first:] = np.broadcast_to(d, X.shape)


def _surfaces(street: Street, s, u, fine_u, fine_s, snow: float, across) -> tuple[np.ndarray, np.ndarray]:
    """-> colour (h, w, 3) and class (h, w)"""
    right = (u > 0).astype(np.int8)
    beyond = np.abs(u) - street.half  # metres from the kerb
    paved = np.where(right, *np.float32(street.pavements[::-1]))
    lawn = np.where(right, *street.lawns[::-1])
    road = np.where(beyond < 0, edge(-beyond, fine_u), 1 - edge(beyond, fine_u))
    for at, width, side in street.side_roads:
        inside = edge(width / 2 - np.abs(s - at), fine_s) * (right == side)
        road = np.maximum(road, inside)
    wear = np.clip(0.05 / across, 0.12, 1)
    grain = 1 + (textures.sample(textures.rough(), s * 28, u * 28) - 1) * 0.10 * wear
    patches = 1 + 0.10 * (textures.sample(_patches(), s * 9, u * 9))
    tracks = 1 - 0.06 * np.cos(u / street.half * street.lanes * 2 * np.pi)
    asphalt = np.array(street.asphalt, np.float32) * (grain * patches * tracks)[..., None]
    asphalt = _marked(asphalt, street, s, u, fine_u, fine_s)
    joints = np.maximum(edge(0.015 - np.abs(s % street.slabs - street.slabs / 2), fine_s),
                        edge(0.015 - np.abs(u % street.slabs - street.slabs / 2), fine_u))  # fmt: skip
    joints = joints * np.clip(0.08 / across, 0, 1)
    paving = np.array(street.paving, np.float32) * (grain * patches * (1 - 0.35 * joints))[..., None]
    kerb = edge(0.16 - np.abs(beyond - 0.08), fine_u)
    paving = paving + (kerb * 0.6)[..., None] * (np.float32(0.62) * grain[..., None] - paving)
    gutter = edge(0.12 - np.abs(beyond + 0.1), fine_u) * 0.35
    asphalt = asphalt * (1 - gutter[..., None])
    green = edge(beyond - paved, fine_u) * lawn
    blades = textures.sample(textures.rough(), s * 40, u * 40)
    grass = np.array(street.grass, np.float32) * (0.75 + 0.25 * blades * wear + 0.2 * (patches - 1))[..., None]
    colour = paving + green[..., None] * (grass - paving)
    colour = colour + road[..., None] * (asphalt - colour)
    ruts = 0.45 - 0.5 * np.cos(u / street.half * street.lanes * 2 * np.pi)
    white = snow * np.where(road > 0.5, ruts, 1).clip(0, 1)
    colour = colour + white[..., None] * (np.float32(0.86) * patches[..., None] - colour)
    kind = np.where(road >= 0.5, ROAD, np.where(green >= 0.5, VEGETATION, PAVEMENT))
    return colour, kind


@cache
def _patches() -> np.ndarray:
    tile = textures.rough()
    coarse = np.asarray(Image.fromarray(tile).resize((16, 16), Image.Resampling.BOX)) - 1
    wide = textures.blurred(np.pad(coarse, 4, mode="wrap"), (384, 384))
    return np.clip(wide[64:320, 64:320] * 4, -1.5, 1.5)


def _marked(asphalt, street: Street, s, u, fine_u, fine_s) -> np.ndarray:
    """Lane lines, edge lines and a zebra crossing, worn"""
    line = np.zeros_like(u)
    lane = 2 * street.half / street.lanes
    length, period = street.dashes
    stroke = edge(length / 2 - np.abs(s % period - period / 2), fine_s)
    for i in range(1, street.lanes):
        solid = 2 * i == street.lanes and street.edges
        line = np.maximum(line, edge(0.07 - np.abs(u + street.half - i * lane), fine_u) * (1 if solid else stroke))
    if street.edges:
        line = np.maximum(line, edge(0.06 - np.abs(street.half - 0.35 - np.abs(u)), fine_u))
    if street.crossing is not None:
        bars = edge(0.25 - np.abs(u % 1.0 - 0.5), fine_u) * edge(1.6 - np.abs(s - street.crossing), fine_s)
        stop = edge(0.15 - np.abs(s - street.crossing + 2.6), fine_s)
        line = np.where(np.abs(s - street.crossing) < 3.2, np.maximum(bars, stop), line)
    worn = line * np.clip(0.55 + 0.45 * textures.sample(textures.rough(), s * 15, u * 15), 0.2, 1)
    return asphalt + worn[..., None] * (np.float32(street.marking) - asphalt)


class Shadows:
    """Shadows on the ground as polygons; ``slant`` (along the street, across it): metres a metre of height throws"""

    def __init__(self, view: View, slant: tuple[float, float], strength: float):
        self.view, self.slant, self.strength = view, slant, strength
        self.image = Image.new("L", (view.width, view.height), 0)
        self.ink = ImageDraw.Draw(self.image)

    def polygon(self, places, strength: int = 255) -> None:
        """places (n, 2) in the street"""
        X, d = self.view.camera(*np.asarray(places, np.float64).T)
        if d.max() < 0.7:
            return
        x, y = self.view.pixel(X, np.maximum(d, 0.7), 0)
        self.ink.polygon(np.stack([x, y], 1).clip(-4000, 4000).ravel().tolist(), strength)

    def disc(self, s: float, u: float, rs: float, ru: float, strength: int = 255) -> None:
        """An ellipse on the ground"""
        self.polygon(CIRCLE * (rs, ru) + (s, u), strength)

    def standing(self, s: float, u: float, half: float, low: float, high: float) -> None:
        """Of a thing half as wide on each side, between two heights; and where it touches the ground"""
        if self.strength > 0:
            ks, ku = self.slant
            norm = max(np.hypot(ks, ku), 1e-6)
            side = np.array([-ku, ks]) / norm * half
            foot, head = np.array([s + ks * low, u + ku * low]), np.array([s + ks * high, u + ku * high])
            self.polygon([foot - side, foot + side, head + side * 0.8, head - side * 0.8])
        if low == 0:
            self.disc(s, u, half * 0.9, half * 0.9, 150)

    def light(self, ambient: float) -> np.ndarray:
        """-> (H, W): share of the light that is left"""
        soft = self.image.filter(ImageFilter.BoxBlur(self.view.width / 300))
        dark = np.asarray(soft, np.float32) / 255
        return 1 - dark * max(self.strength, 0.35) * (1 - ambient)
