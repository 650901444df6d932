"""Drawn shapes: patterned figures on patterned ground, 64 x 64 pixels in colour; the class is the figure's outline.

Made by the project, from a seed, as PNG files that `image_folder` reads. Place, size, turn, colours, patterns and
light vary and say nothing of the class; all five outlines cover the same area on average.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from sftlib import runtime

CLASSES = ("circle", "cross", "square", "star", "triangle")
COUNTS = {"train": 600, "val": 200, "test": 400}  # pictures, the same number of each class
SIDE, FINE = 64, 2  # pixels; each is the mean of FINE x FINE points, which smooths the edges
VERSION = 1  # of the drawing: another one gets another folder


def folder(*, seed: int = 0, counts: dict[str, int] = COUNTS) -> Path:
    """-> a folder with train/CLASS/…, val/CLASS/… and test/CLASS/…, drawn at the first call, in the cache"""
    name = "_".join(map(str, [f"drawn_shapes_v{VERSION}", seed, *counts.values()]))
    root = runtime.cache_folder() / name
    if not root.exists():
        partial = root.with_name(f"{name}.{os.getpid()}.partial")
        write(partial, seed=seed, counts=counts)
        os.replace(partial, root)  # whole or not at all
    return root


def write(root: Path, *, seed: int = 0, counts: dict[str, int] = COUNTS) -> None:
    """Draw counts[split] pictures of each split into root/split/CLASS/NNNN.png."""
    for s, (split, count) in enumerate(counts.items()):
        for i in range(count):
            label = i % len(CLASSES)
            path = root / split / CLASSES[label] / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(label, np.random.default_rng([seed, s, i]))).save(path)


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """label -> uint8 (64, 64, 3)"""
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"got label {label}, expected 0 … {len(CLASSES) - 1}: {', '.join(CLASSES)}")
    axis = (np.arange(SIDE * FINE) + 0.5) / (SIDE * FINE) * 2 - 1  # the picture spans -1 … 1
    x, y = np.meshgrid(axis, axis)
    size = rng.uniform(0.36, 0.62)
    left, top = rng.uniform(-1, 1, 2) * (0.9 - size)
    turn, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
    u, v = (x - left) / size * squeeze, (y - top) / size / squeeze
    inside = np.hypot(u, v) < outline(label, np.arctan2(v, u) + turn)
    picture = np.where(inside[..., None], pattern(x, y, rng), pattern(x, y, rng))
    light = 1 + rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y
    picture = (picture * light[..., None]).reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3))
    picture += rng.normal(0, 0.04, picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def outline(label: int, angle: np.ndarray) -> np.ndarray:
    """angles (…) in radians -> distance (…) of the outline from the middle; the enclosed area is about 2"""
    name = CLASSES[label]
    if name == "circle":
        return np.full_like(angle, 0.80)
    if name == "cross":
        return _cross(angle, arm=1.02, half_width=0.285)
    if name == "star":
        return _star(angle, points=5, outer=1.13, inner=0.56)
    corners, radius = {"square": (4, 1.0), "triangle": (3, 1.24)}[name]
    sector = 2 * np.pi / corners
    return radius * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)


def _cross(angle: np.ndarray, arm: float, half_width: float) -> np.ndarray:
    c, s = np.abs(np.cos(angle)).clip(1e-9), np.abs(np.sin(angle)).clip(1e-9)
    lying, standing = np.minimum(arm / c, half_width / s), np.minimum(half_width / c, arm / s)
    return np.maximum(lying, standing)


def _star(angle: np.ndarray, points: int, outer: float, inner: float) -> np.ndarray:
    """Straight lines between corners on two circles in turn."""
    half = np.pi / points
    a = np.abs(angle % (2 * half) - half)  # 0 at an inner corner, half at an outer one
    return outer * inner * np.sin(half) / (outer * np.sin(half - a) + inner * np.sin(a))


def pattern(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """coordinates (n, n) -> colours (n, n, 3) in [0, 1]: stripes, checks, clouds or plain, between two colours"""
    first, second = rng.uniform(0.1, 0.95, (2, 3))
    turn, pitch, phase = rng.uniform(0, np.pi), rng.uniform(6, 24), rng.uniform(0, 6)
    along = pitch * (x * np.cos(turn) + y * np.sin(turn)) + phase
    across = pitch * (y * np.cos(turn) - x * np.sin(turn))
    kinds = (
        lambda: np.sin(along) > 0,
        lambda: np.sin(along) * np.sin(across) > 0,
        lambda: (np.sin(along) + np.sin(1.7 * across + 2 * np.sin(along / 3)) + 2) / 4,
        lambda: np.zeros_like(x),
    )
    share = kinds[rng.integers(len(kinds))]()[..., None]
    return first + (second - first) * share * rng.uniform(0.3, 1)
