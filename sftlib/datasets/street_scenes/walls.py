"""Houses: walls with windows, doors and shops, pitched and flat roofs; fences, which are low walls."""

import math
from dataclasses import dataclass, replace

import numpy as np

from sftlib.datasets.street_scenes import textures
from sftlib.datasets.street_scenes.view import BUILDING, FENCE, NEAR, Layer, Pen, View

PLASTER = np.array([
    (0.82, 0.76, 0.64), (0.72, 0.70, 0.66), (0.60, 0.33, 0.24), (0.50, 0.28, 0.22), (0.78, 0.62, 0.42),
    (0.86, 0.84, 0.80), (0.55, 0.52, 0.48), (0.66, 0.72, 0.70), (0.80, 0.70, 0.66), (0.38, 0.36, 0.36),
    (0.62, 0.56, 0.36), (0.45, 0.50, 0.56),
])  # fmt: skip
DEEP = 9.0  # metres from the front of a house to its back
ROOF = np.array([(0.38, 0.17, 0.12), (0.24, 0.22, 0.23), (0.33, 0.28, 0.25), (0.45, 0.24, 0.16)])


@dataclass(frozen=True)
class House:
    """From s0 to s1 along the street, its front u metres from the middle; lengths in metres"""

    s0: float
    s1: float
    u: float
    tall: float
    storey: float
    pitch: float  # of the windows
    window: tuple[float, float]  # share of pitch and of storey that a window takes
    wall: tuple
    trim: tuple
    roof: tuple
    ridge: float  # height of the roof above the wall; 0: flat
    shop: bool
    bricks: bool
    stony: bool
    lit: float  # share of the windows with light
    seed: int


def house(rng: np.random.Generator, s0: float, u: float, night: bool, city: bool) -> House:
    """A house drawn by lot; in a city they are higher and wider"""
    width = rng.uniform(8, 24) if city else rng.uniform(7, 13)
    storey, storeys = rng.uniform(2.8, 3.7), int(rng.integers(3, 9) if city else rng.integers(1, 4))
    wall = PLASTER[rng.integers(len(PLASTER))] * rng.uniform(0.75, 1.1)
    return House(
        s0, s0 + width, u, tall=storey * storeys + rng.uniform(0.3, 1.2), storey=storey, pitch=rng.uniform(1.7, 3.6),
        window=(rng.uniform(0.3, 0.75), rng.uniform(0.4, 0.65)), wall=tuple(np.clip(wall, 0.05, 0.95)),
        trim=tuple(np.clip(wall * rng.choice([0.6, 1.3]) + rng.normal(0, 0.04, 3), 0.05, 1)),
        roof=tuple(ROOF[rng.integers(len(ROOF))] * rng.uniform(0.8, 1.2)),
        ridge=0.0 if city and rng.random() < 0.7 else rng.uniform(1.5, 4), shop=rng.random() < (0.5 if city else 0.12),
        bricks=rng.random() < 0.4, stony=rng.random() < 0.4,
        lit=rng.uniform(0.15, 0.6) if night else 0.0, seed=int(rng.integers(2**31)),
    )  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """A standing plane where each column of the picture meets it: columns from left, metres along it and depth (w,)"""

    left: int
    along: np.ndarray
    depth: np.ndarray
    fine: np.ndarray  # metres along it that a pixel covers

    def part(self, start: int, stop: int) -> "Plane":
        """Of its columns those from start to stop"""
        window = slice(start, stop)
        return Plane(self.left + start, self.along[window], self.depth[window], self.fine[window])


def plane(view: View, start: tuple[float, float], end: tuple[float, float]) -> Plane | None:
    """From (X, d) to (X, d) before the camera; None where no column meets it"""
    (X0, d0), (X1, d1) = np.array([start, end]).tolist()
    dX, dd = X1 - X0, d1 - d0
    t = (np.arange(view.width, dtype=np.float32) + 0.5 - view.width / 2) / view.focal
    slant = dX - t * dd
    slant = np.where(np.abs(slant) < 1e-4, np.copysign(np.float32(1e-4), slant), slant)
    a = (t * d0 - X0) / slant
    depth = d0 + a * dd
    met = np.flatnonzero((a >= 0) & (a <= 1) & (depth > NEAR) & (depth < 400))
    if len(met) == 0:
        return None
    left, right = met[0], met[-1] + 1
    length = math.hypot(dX, dd)
    fine = np.abs(np.gradient(a * length)) if view.width > 1 else np.ones(1)
    return Plane(int(left), (a * length)[left:right], depth[left:right], np.maximum(fine[left:right], 1e-3))


def edge(inside, fine):
    """Signed distance to an edge (positive inside) in metres, metres a pixel covers -> share of the pixel inside"""
    return np.clip(inside / fine + 0.5, 0, 1)


def front(view: View, at: Plane, house: House, tone: float, blank: bool = False, below: int = 4096) -> Layer | None:
    """A wall of the house on a plane, down to row ``below``; blank: an end wall, with few windows and a gable"""
    high = house.tall + gable(house, at.along) * blank
    top, bottom = (view.horizon + view.focal * (view.eye - z) / at.depth for z in (high, 0.0))
    first, last = max(int(np.floor(top.min())) - 1, 0), min(int(np.ceil(bottom.max())) + 1, view.height, below)
    if last <= first:
        return None
    rows = np.arange(first, last, dtype=np.float32)[:, None] + 0.5
    fine = at.depth / view.focal  # metres of height that a pixel covers (w,)
    z = view.eye - (rows - view.horizon) * fine  # (h, w)
    colour, glow = _surface(house, at, z, fine, tone, blank)
    alpha = edge(high - z, fine) * edge(z, fine)
    glow = glow if house.lit else None
    return Layer(at.left, first, colour, alpha, np.broadcast_to(at.depth, z.shape), BUILDING, glow)


def gable(house: House, along: np.ndarray) -> np.ndarray:
    """Metres that an end wall is higher than the front, at places (w,) along it"""
    return house.ridge * np.clip(1 - np.abs(along / DEEP * 2 - 1), 0, 1)


def roof(view: View, house: House, tone: float) -> Layer | None:
    """The half of a pitched roof that faces the street"""
    back = house.u + math.copysign(DEEP / 2, house.u)
    eaves, ridge = (_before([view.camera(house.s0, u), view.camera(house.s1, u)]) for u in (house.u, back))
    if not house.ridge or eaves is None or ridge is None:
        return None
    corners = [view.pixel(X, d, house.tall) for X, d in eaves]
    corners += [view.pixel(X, d, house.tall + house.ridge) for X, d in ridge[::-1]]
    pen = Pen()
    pen.polygon(np.clip(corners, -4000, 4000), np.array(house.roof) * tone)
    if (layer := pen.layer(view, 0.0, BUILDING)) is None:
        return None
    h, w = layer.alpha.shape
    (X0, d0), (X1, d1) = eaves
    t = (layer.left + np.arange(w, dtype=np.float32) + 0.5 - view.width / 2) / view.focal
    slant = X1 - X0 - t * (d1 - d0)
    depth = d0 + np.clip((t * d0 - X0) / np.where(np.abs(slant) < 1e-4, 1e-4, slant), 0, 1) * (d1 - d0) + 0.3
    rows = np.arange(h)[:, None] + np.zeros((1, w))
    tiles = 0.75 + 0.25 * textures.sample(textures.rough(), rows * 3, np.arange(w)[None] + 0 * rows)
    return replace(layer, colour=layer.colour * tiles[..., None], depth=np.broadcast_to(np.float32(depth), (h, w)))


def _before(ends) -> list[tuple[float, float]] | None:
    """Two places (X, d), a line -> the part of it before the camera; None without one"""
    (X0, d0), (X1, d1) = ends = np.array(ends).tolist()
    if max(d0, d1) <= NEAR:
        return None
    if min(d0, d1) < NEAR:
        cut = (NEAR - d0) / (d1 - d0)
        ends[0 if d0 < NEAR else 1] = [X0 + cut * (X1 - X0), NEAR]
    return ends


def _surface(house: House, at: Plane, z, fine, tone: float, blank: bool) -> tuple[np.ndarray, np.ndarray]:
    """-> colour and glow (h, w, 3) of a wall"""
    rng = np.random.default_rng(house.seed)
    along = np.broadcast_to(at.along, z.shape)
    grain = textures.stones() if house.stony else textures.rough()
    wear = np.clip(8 * np.float32(0.02) / fine, 0.25, 1)  # far away the grain averages out
    light = 1 + (textures.sample(grain, -z * 22, along * 22) - 1) * (0.35 if house.stony else 0.06) * wear
    light = light * (1 + 0.05 * np.tanh(z - 2)) * tone
    if house.bricks:
        light = light * (1 - 0.25 * np.clip(0.04 / fine, 0, 1) * _lines(z, along))
    colour = np.array(house.wall, np.float32) * light[..., None]
    ledge = edge(0.18 - np.abs(z % house.storey - 0.1), fine) * (z > 1)
    colour += (ledge * 0.5)[..., None] * (np.array(house.trim, np.float32) * tone - colour)
    glow = np.zeros_like(colour)
    share, high = house.window
    pitch = house.pitch * (3.5 if blank else 1)
    _windows(colour, glow, house, rng, along / pitch, z / house.storey, (at.fine / pitch, fine / house.storey),
             (share * house.pitch / pitch, high), tone)  # fmt: skip
    if not blank:
        _ground_floor(colour, glow, house, rng, along, z, at.fine, fine, tone)
    return colour, glow


def _lines(z, along) -> np.ndarray:
    row = np.floor(z / 0.22)
    return np.maximum((z / 0.22) % 1 < 0.2, ((along / 0.5 + 0.5 * (row % 2)) % 1) < 0.1)


def _windows(colour, glow, house: House, rng, m, z, fine, share, tone: float) -> None:
    """Panes at places m, z counted in windows and storeys, framed; each with its own light"""
    table = rng.random((32, 64)).astype(np.float32)
    i, j = np.floor(z).astype(np.int32) % 32, np.floor(m).astype(np.int32) % 64
    upper = (z * house.storey < house.tall - 0.5 * house.storey * (1 - share[1])) & (z > (1 if house.shop else 0))
    dm, dz = share[0] / 2 - np.abs(m % 1 - 0.5), share[1] / 2 - np.abs(z % 1 - 0.52)
    frame = edge(dm + 0.035, fine[0]) * edge(dz + 0.035, fine[1]) * upper
    pane = edge(dm, fine[0]) * edge(dz, fine[1]) * upper
    bars = np.maximum(edge(0.02 - np.abs(m % 1 - 0.5), fine[0]), edge(0.02 - np.abs(z % 1 - 0.55), fine[1]))
    own = table[i, j]
    glass = (0.06 + 0.22 * own * np.clip(dz / share[1] + 0.3, 0, 1))[..., None] * np.float32([0.85, 0.97, 1.1])
    curtain = (own > 0.75) & (np.abs(m % 1 - 0.5) > share[0] * 0.27)
    glass = np.where(curtain[..., None], np.float32(0.6) * tone, glass)
    colour += frame[..., None] * (np.array(house.trim, np.float32) * tone - colour)
    colour += pane[..., None] * (glass - colour)
    colour += (pane * bars * 0.8)[..., None] * (np.array(house.trim, np.float32) * tone - colour)
    if not house.lit:
        return
    lit = (table[j % 32, i % 64] < house.lit) * pane * (1 - 0.6 * bars)
    glow += lit[..., None] * np.float32([1.0, 0.78, 0.45]) * (0.5 + 0.5 * own)[..., None]


def _ground_floor(colour, glow, house: House, rng, along, z, fine_m, fine_z, tone: float) -> None:
    """Shop windows with a sign above them, or a door"""
    low = house.storey
    if house.shop:
        shade = rng.uniform(0.1, 0.8, 3).astype(np.float32)
        board = edge(0.35 - np.abs(z - low + 0.1), fine_z)
        colour += board[..., None] * (shade * tone - colour)
        letters = board * ((along * 1.9 % 1) < 0.6) * (np.abs(z - low + 0.1) < 0.16) * (np.sin(along * 0.7) > -0.3)
        colour += (letters * 0.8)[..., None] * (1 - shade - colour)
        pane = edge(1.25 - np.abs(along % 3 - 1.5), fine_m) * edge(z - 0.5, fine_z) * edge(low - 0.6 - z, fine_z)
        inside = 0.12 + 0.25 * textures.sample(textures.stones(), z * 40, along * 40)[..., None] * shade
        colour += pane[..., None] * (inside - colour)
        if house.lit > 0.1:
            glow += (pane * 0.7)[..., None] * inside * 1.5
            glow += (letters * 0.7)[..., None] * np.float32([1.0, 0.9, 0.8])
        return
    place = house.pitch * (np.floor(0.5 * (house.s1 - house.s0) / house.pitch) + 0.5)
    door = edge(0.55 - np.abs(along - place), fine_m) * edge(2.2 - z, fine_z)
    colour += door[..., None] * (np.array(house.trim, np.float32) * tone * 0.5 - colour)


def fence(view: View, at: Plane, tall: float, colour: tuple, bars: bool) -> Layer | None:
    """A fence of bars, or of boards"""
    fine = at.depth / view.focal
    top, bottom = (view.horizon + (view.eye - z) / fine for z in (tall, 0))
    first, last = max(int(np.floor(top.min())) - 1, 0), min(int(np.ceil(bottom.max())) + 1, view.height)
    if last <= first:
        return None
    z = view.eye - (np.arange(first, last, dtype=np.float32)[:, None] + 0.5 - view.horizon) * fine
    along = np.broadcast_to(at.along, z.shape)
    alpha = edge(tall - z, fine) * edge(z, fine)
    post = np.maximum(edge(0.05 - np.abs(along % 0.22 - 0.11), at.fine), np.abs(z - tall + 0.08) < 0.05)
    light = 0.8 + 0.2 * textures.sample(textures.rough(), -z * 40, along * 60) * 0.5
    shade = np.array(colour, np.float32) * light[..., None]
    if bars:
        shade = shade * (0.45 + 0.55 * post)[..., None]
    else:
        shade = shade * (1 - 0.3 * (along % 0.2 < 0.03))[..., None]
    return Layer(at.left, first, shade, alpha, np.broadcast_to(at.depth, z.shape), FENCE)
