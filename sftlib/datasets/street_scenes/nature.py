"""Sky, what closes the street far away, trees and hedges; lamps and signs."""

import numpy as np

from sftlib.datasets.street_scenes import textures
from sftlib.datasets.street_scenes.view import BUILDING, POLE, SIGN, VEGETATION, Canvas, Layer, Pen, View

LEAF = np.array([(0.22, 0.34, 0.12), (0.30, 0.42, 0.16), (0.16, 0.27, 0.12), (0.36, 0.42, 0.20), (0.55, 0.38, 0.12),
                 (0.60, 0.26, 0.10)])  # fmt: skip


def sky(rng: np.random.Generator, view: View, zenith, low, cover: float, cloud) -> np.ndarray:
    """-> colour (H, W, 3): from zenith to horizon, with a share of clouds"""
    rows = (np.arange(view.height, dtype=np.float32) / max(view.horizon, 1)).clip(0, 1)[:, None, None]
    colour = np.float32(zenith) + (np.float32(low) - np.float32(zenith)) * rows**1.3
    colour = np.broadcast_to(colour, (view.height, view.width, 3)).copy()
    height = max(int(view.horizon), 8)
    field = textures.clouds(rng, (height, view.width))
    share = np.clip((field - 1.6 + 3.2 * cover) / 1.2, 0, 1)[..., None] * min(2 * cover, 1)
    share = share[: view.height]
    tone = np.float32(cloud) * (1 + 0.12 * np.clip(field, -1.5, 1.5)[: view.height, :, None])
    colour[: len(share)] += share * (tone - colour[: len(share)])
    return colour


def backdrop(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Hills, trees or roofs on the horizon, to the edges of the picture"""
    houses = rng.random() < 0.5
    x = np.arange(view.width)
    if houses:
        steps = np.cumsum(rng.integers(view.width // 40 + 1, view.width // 10 + 3, 40))
        tops = rng.uniform(0.01, 0.10, 41)[np.searchsorted(steps, x)] * view.height
    else:
        tops = view.height * (0.05 + 0.025 * textures.clouds(rng, (8, view.width), first=2, octaves=5)[3])
    first = max(int(view.horizon - tops.max()) - 1, 0)
    y = np.arange(first, min(int(view.horizon) + 3, view.height), dtype=np.float32)[:, None] + 0.5
    alpha = np.clip(y - np.float32(view.horizon - tops), 0, 1)
    shade = rng.uniform(0.3, 0.55, 3) if houses else LEAF[rng.integers(4)]
    colour = np.broadcast_to(np.float32(shade), (len(y), view.width, 3))
    if houses:
        colour = colour * np.where((x // 3 % 2 == 0) & (y // 3 % 2 < 1), 0.75, 1)[..., None].astype(np.float32)
    canvas.paint(Layer(0, first, colour, alpha, 250.0, BUILDING if houses else VEGETATION))


def tree(rng: np.random.Generator, view: View, X: float, d: float, tall: float, leaf: tuple, bare: bool) -> list[Layer]:
    """Crown before trunk; a bare one is branches alone"""
    pen, (x, y) = Pen(), view.pixel(X, d, 0)
    scale = view.focal / d
    trunk = 0.03 * tall + 0.06
    fork = rng.uniform(0.22, 0.4) * tall
    bark = tuple(np.array([0.24, 0.19, 0.15]) * rng.uniform(0.7, 1.3))
    pen.limb((x, y), (x + rng.normal(0, 0.1) * scale, y - fork * scale), trunk * scale, trunk * 0.7 * scale, bark)
    _branches(pen, rng, (x, y - fork * 0.9 * scale), -np.pi / 2, 0.34 * tall * scale, trunk * 0.6 * scale, bark,
              5 if bare else 2)  # fmt: skip
    layers = [pen.layer(view, d, VEGETATION)]
    if not bare:
        layers.append(crown(rng, view, X, d, (fork * 0.8, tall), rng.uniform(0.28, 0.45) * tall, leaf))
    return [layer for layer in layers if layer is not None]


def _branches(pen: Pen, rng, start, angle: float, length: float, width: float, bark, depth: int) -> None:
    if depth == 0 or length < 1.5:
        return
    for turn in rng.normal((-0.5, 0.45), 0.25) if depth < 5 else rng.normal((-0.6, 0.0, 0.6), 0.15):
        end = start[0] + length * np.cos(angle + turn), start[1] + length * np.sin(angle + turn)
        pen.polygon(_stroke(start, end, max(width, 0.22)), bark)
        _branches(pen, rng, end, angle + turn, length * rng.uniform(0.55, 0.75), width * 0.6, bark, depth - 1)


def _stroke(start, end, half: float) -> list:
    (x0, y0), (x1, y1) = start, end
    n = np.array([y1 - y0, x0 - x1]) / max(np.hypot(x1 - x0, y1 - y0), 1e-6) * half
    return [(x0 + n[0], y0 + n[1]), (x1 + n[0] * 0.6, y1 + n[1] * 0.6), (x1 - n[0] * 0.6, y1 - n[1] * 0.6),
            (x0 - n[0], y0 - n[1])]  # fmt: skip


def crown(rng, view: View, X: float, d: float, heights, radius: float, leaf) -> Layer | None:
    """Leaves between two heights, ``radius`` metres to each side: blobs with a ragged edge"""
    (x0, y0), (x1, y1) = view.pixel(X - radius, d, heights[1]), view.pixel(X + radius, d, heights[0])
    left, top = int(np.floor(x0)), int(np.floor(y0))
    w, h = int(np.ceil(x1)) - left, int(np.ceil(y1)) - top
    if w < 2 or h < 2 or left > view.width or left + w < 0 or top > view.height or top + h < 0:
        return None
    cut = max(-top, 0), max(-left, 0)  # only the part in the picture is drawn
    shape = min(h, view.height - top) - cut[0], min(w, view.width - left) - cut[1]
    if min(shape) < 1:
        return None
    field, lit = _blobs(rng, cut, shape, (h, w))
    grain = view.focal / d
    texture = textures.foliage(*rng.integers(0, textures.SIDE, 2).tolist(), 26.0 / max(grain, 6), shape)
    ragged = field + 0.28 * (texture.mean(2) - 1) - 0.05
    alpha = np.clip(ragged * (min(w, h) / 5) + 0.5, 0, 1)
    wear = min(max(grain / 14, 0.45), 1.0)
    colour = np.float32(leaf) * (1 + wear * (texture - 1)) * (0.95 + 0.6 * lit)[..., None]
    return Layer(left + cut[1], top + cut[0], np.clip(colour, 0.01, 1), alpha, d - 0.05, VEGETATION)


def _blobs(rng, cut, shape, whole) -> tuple[np.ndarray, np.ndarray]:
    """Nine balls of leaves, of a crown of ``whole`` pixels the part from cut on -> how deep inside, how lit (shape)"""
    coarse = tuple(min(n, 40) for n in shape)
    v, u = ((np.float32(c) + (np.arange(n, dtype=np.float32) + 0.5) * np.float32(m / n)) / np.float32(w) * 2 - 1
            for c, n, m, w in zip(cut, coarse, shape, whole, strict=True))  # fmt: skip
    centres, radii = rng.uniform(-0.55, 0.55, (9, 2)).tolist(), rng.uniform(0.35, 0.6, 9).tolist()
    field, lit = np.full(coarse, -1.0, np.float32), np.zeros(coarse, np.float32)
    for (bu, bv), r in zip(centres, radii, strict=True):
        inside = 1 - np.sqrt(np.square(u[None] - bu) + np.square(v[:, None] - bv)) / r
        lit = np.where(inside > field, -(v[:, None] - bv) / r * 0.5 - (u[None] - bu) / r * 0.2, lit)
        field = np.maximum(field, inside)
    return (field, lit) if coarse == shape else (textures.blurred(field, shape), textures.blurred(lit, shape))


def lamp(rng, view: View, X: float, d: float, tall: float, toward: float, lit: bool) -> list[Layer]:
    """A street lamp whose arm reaches ``toward`` metres to the right"""
    pen, grey = Pen(), tuple(np.float32([1, 1, 1]) * rng.uniform(0.12, 0.4))
    scale = view.focal / d

    def at(dx, z):
        return view.pixel(X + dx, d, z)

    pen.limb(at(0, 0), at(0, 1), max(0.10 * scale, 0.5), max(0.08 * scale, 0.5), grey)
    pen.limb(at(0, 1), at(0, tall), max(0.07 * scale, 0.45), max(0.05 * scale, 0.4), grey)
    pen.limb(at(0, tall), at(toward, tall + 0.3), max(0.04 * scale, 0.35), max(0.04 * scale, 0.35), grey)
    x, y = at(toward, tall + 0.22)
    pen.disc(x, y, max(0.35 * scale, 0.8), max(0.12 * scale, 0.6), (1.0, 0.85, 0.6) if lit else grey, lit)
    layer = pen.layer(view, d, POLE)
    return [] if layer is None else [layer]


def sign(rng: np.random.Generator, view: View, X: float, d: float) -> list[Layer]:
    """A post and what it carries: a disc, a triangle, a panel, or traffic lights"""
    post, board, scale = Pen(), Pen(), view.focal / d
    tall, kind = rng.uniform(2.0, 2.8), rng.integers(5)
    (x0, y0), (x1, y1) = view.pixel(X, d, 0), view.pixel(X, d, tall + 0.2)
    post.limb((x0, y0), (x1, y1), max(0.04 * scale, 0.4), max(0.04 * scale, 0.4), (0.42, 0.42, 0.43))
    x, y = view.pixel(X, d, tall)
    r = 0.32 * scale * rng.uniform(0.9, 1.3)
    red, white, blue = (0.72, 0.06, 0.07), (0.92, 0.92, 0.9), (0.05, 0.2, 0.6)
    if kind == 0:
        board.disc(x, y, r, r, red)
        board.disc(x, y, r * 0.7, r * 0.7, white)
        arrow = [(x - r * 0.4, y - r * 0.3), (x + r * 0.3, y - r * 0.3), (x + r * 0.3, y + r * 0.3)]
        board.polygon(arrow, (0.1, 0.1, 0.1))
    elif kind == 1:
        for size, ink in ((1.15, red), (0.72, white)):
            low = y + r * size * 0.75
            board.polygon([(x, y - r * size), (x + r * size, low), (x - r * size, low)], ink)
    elif kind == 2:
        board.disc(x, y, r, r, blue)
        board.polygon([(x, y - r * 0.6), (x + r * 0.4, y), (x, y + r * 0.6), (x - r * 0.2, y)], white)
    elif kind == 3:
        w, ink = r * rng.uniform(0.9, 2.0), (blue, (0.05, 0.35, 0.2), (0.9, 0.75, 0.2))[rng.integers(3)]
        board.polygon([(x - w, y - r), (x + w, y - r), (x + w, y + r), (x - w, y + r)], ink)
        board.polygon([(x - w * 0.7, y - r * 0.2), (x + w * 0.6, y - r * 0.2), (x + w * 0.6, y + r * 0.2),
                       (x - w * 0.7, y + r * 0.2)], white)  # fmt: skip
    else:
        board.polygon([(x - r * 0.55, y - r * 1.4), (x + r * 0.55, y - r * 1.4), (x + r * 0.55, y + r * 1.4),
                       (x - r * 0.55, y + r * 1.4)], (0.06, 0.06, 0.06))  # fmt: skip
        on = rng.integers(3)
        for i, ink in enumerate(((0.95, 0.1, 0.05), (0.95, 0.65, 0.05), (0.1, 0.9, 0.35))):
            bright = ink if i == on else tuple(c * 0.2 for c in ink)
            board.disc(x, y + (i - 1) * r * 0.85, r * 0.34, r * 0.34, bright, bool(i == on))
    layers = [post.layer(view, d, POLE), board.layer(view, d - 0.03, SIGN)]
    return [layer for layer in layers if layer is not None]
