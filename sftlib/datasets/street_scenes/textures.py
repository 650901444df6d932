"""Surfaces: noise, and the texture of two photographs' leaves and stones, as tiles that repeat without a seam."""

from functools import cache

import numpy as np
from PIL import Image

from sftlib.datasets.photo_details import photograph

SIDE = 256  # pixels of a tile


def blurred(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """field (h, w) -> (H, W), smooth between its points"""
    return np.asarray(Image.fromarray(np.float32(field)).resize(size[::-1], Image.Resampling.BICUBIC))


def clouds(rng: np.random.Generator, size: tuple[int, int], first: int = 3, octaves: int = 4) -> np.ndarray:
    """-> (H, W), about 0 ± 1: noise whose strength halves with its size"""
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        n = first * 2**octave
        total += blurred(rng.normal(size=(n, n * 3 // 2)), size) / 2**octave
    return total / 1.15


@cache
def rough() -> np.ndarray:
    """(SIDE, SIDE) around 1: asphalt, plaster and cloth; even noise with some coarser spots"""
    rng = np.random.default_rng(7)
    coarse = np.kron(rng.normal(size=(SIDE // 4, SIDE // 4)), np.ones((4, 4)))
    return np.float32(1 + 0.5 * rng.normal(size=(SIDE, SIDE)) + 0.5 * coarse)


@cache
def stones() -> np.ndarray:
    """(SIDE, SIDE) around 1: light and dark of a photographed temple's storeys"""
    return _even(photograph("china")[175:345, 75:345].mean(2))


@cache
def leaves() -> np.ndarray:
    """(SIDE, SIDE, 3) around 1: a photographed tree and bushes"""
    photo = photograph("china")
    tree, bushes = photo[150:400, 560:640], photo[320:425, 385:560]
    return np.stack([_even(np.concatenate([_tile(tree[..., c], SIDE, 96), _tile(bushes[..., c], SIDE, 160)], 1))
                     for c in range(3)], 2)  # fmt: skip


def _even(grey: np.ndarray) -> np.ndarray:
    """grey (h, w) in [0, 1] -> (SIDE, SIDE), divided by its own blur, mirrored so that it repeats"""
    h, w = grey.shape
    slow = blurred(blurred(grey, (h // 24 + 1, w // 24 + 1)), (h, w))
    return _tile(np.clip(grey / np.maximum(slow, 0.04), 0.2, 2.5), SIDE, SIDE)


def _tile(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    grey = np.concatenate([grey, grey[::-1]])
    grey = np.concatenate([grey, grey[:, ::-1]], 1)
    repeats = -(-height // grey.shape[0]), -(-width // grey.shape[1])
    return np.float32(np.tile(grey, repeats)[:height, :width])


def sample(tile: np.ndarray, v, h) -> np.ndarray:
    """tile (SIDE, SIDE, …) at rows v and columns h in its pixels, both of one shape"""
    return tile[np.asarray(v).astype(np.int32) % SIDE, np.asarray(h).astype(np.int32) % SIDE]
