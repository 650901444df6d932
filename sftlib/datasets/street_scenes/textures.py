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
    """(SIDE, SIDE) around 1: light and dark of a photographed temple's storeys, in small pieces"""
    return _quilt([_even(photograph("china")[175:345, 75:345].mean(2, keepdims=True))], 22)[..., 0]


@cache
def leaves() -> np.ndarray:
    """(SIDE, SIDE, 3) around 1: a photographed tree and bushes, in pieces"""
    photo = photograph("china")
    return _quilt([_even(photo[150:400, 560:640]), _even(photo[320:425, 385:560])], 52)


def _even(part: np.ndarray) -> np.ndarray:
    """part (h, w, C) in [0, 1] -> the same divided by its own blur"""
    h, w, _ = part.shape
    slow = np.stack([blurred(blurred(c, (h // 24 + 1, w // 24 + 1)), (h, w)) for c in part.transpose(2, 0, 1)], 2)
    return np.clip(part / np.maximum(slow, 0.04), 0.2, 2.5)


def _quilt(parts: list[np.ndarray], side: int) -> np.ndarray:
    """parts (h, w, C) -> (SIDE, SIDE, C): squares from them, laid over each other with soft edges, some mirrored"""
    rng, tile = np.random.default_rng(5), np.ones((SIDE, SIDE, parts[0].shape[2]), np.float32)
    ramp = np.minimum(np.arange(side) + 1, np.arange(side)[::-1] + 1) / (side / 5)
    soft = np.minimum(np.minimum(ramp[:, None], ramp[None]), 1)[..., None]
    for n in range(12 * (SIDE // side + 1) ** 2):
        part = parts[n % len(parts)]
        y, x = (int(rng.integers(room - side + 1)) for room in part.shape[:2])
        piece = part[y : y + side, x : x + side]
        if piece.std() < 0.8 * part.std():  # plain, or too dark to show anything
            continue
        piece = piece[:, ::-1] if rng.random() < 0.5 else piece
        rows, columns = ((rng.integers(SIDE) + np.arange(side)) % SIDE for _ in range(2))
        window = np.ix_(rows, columns)
        tile[window] += soft * (piece - tile[window])
    return tile


@cache
def _leaves_in_bytes() -> np.ndarray:
    return (leaves() * 100).astype(np.uint8)


def foliage(left: int, top: int, step: float, shape: tuple[int, int]) -> np.ndarray:
    """-> (h, w, 3) of the leaves around 1, from (left, top) of the tile on, ``step`` of its pixels for each"""
    h, w = (max(int(np.ceil(n * step)), 2) for n in shape)
    rows, columns = (top + np.arange(h)) % SIDE, (left + np.arange(w)) % SIDE
    image = Image.fromarray(_leaves_in_bytes()[np.ix_(rows, columns)])
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR), np.float32) / 100


def sample(tile: np.ndarray, v, h) -> np.ndarray:
    """tile (SIDE, SIDE, …) at rows v and columns h in its pixels, both of one shape"""
    return tile[np.asarray(v).astype(np.int32) % SIDE, np.asarray(h).astype(np.int32) % SIDE]
