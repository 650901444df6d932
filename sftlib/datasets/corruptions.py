"""Corrupted test pictures: uint8 (N, 3, H, W), generator, strength 1 to 5 -> uint8 (N, 3, H, W).

The strengths are those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261; hendrycks/robustness,
make_imagenet_c.py), meant for pictures of 224 pixels; two choices differ and are said. Grey pictures stay grey.
With `partial(blur, strength=3)` one is an `augment` of `loader`; `corrupted(split, blur, 3)` fixes a whole split.
"""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from sftlib.datasets.splits import PictureSplit

STRENGTHS = (1, 2, 3, 4, 5)


def blur(pictures: Tensor, generator: Generator | None = None, *, strength: int) -> Tensor:
    """Gaussian blur of σ = 1, 2, 3, 4, 6 pixels for a shorter side of 224, in proportion for others

    The rim is continued by its last pixel; the kernel ends at 4 σ.
    """
    sigma = _at(strength, pictures, (1, 2, 3, 4, 6)) * min(pictures.shape[-2:]) / 224
    radius = max(1, int(4 * sigma + 0.5))
    kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(pictures.device)
    x = pictures.flatten(0, 1)[:, None].float()  # (N · 3, 1, H, W)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None, :])
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None])
    return _uint8(x.view(pictures.shape))


def noise(pictures: Tensor, generator: Generator, *, strength: int) -> Tensor:
    """Gaussian noise of deviation 0.08, 0.12, 0.18, 0.26, 0.38 of the full range, drawn for each pixel

    One draw for the three channels (ImageNet-C: one for each), so that a grey photograph stays one.
    """
    deviation = 255 * _at(strength, pictures, (0.08, 0.12, 0.18, 0.26, 0.38))
    N, _, H, W = pictures.shape
    draw = torch.randn(N, 1, H, W, generator=generator, device=generator.device).to(pictures.device)
    return _uint8(pictures + deviation * draw)


def contrast(pictures: Tensor, generator: Generator | None = None, *, strength: int) -> Tensor:
    """m + c (x − m), m the mean of the channel in its picture, c = 0.4, 0.3, 0.2, 0.1, 0.05"""
    c = _at(strength, pictures, (0.4, 0.3, 0.2, 0.1, 0.05))
    m = pictures.float().mean((2, 3), keepdim=True)
    return _uint8(m + c * (pictures - m))


def brightness(pictures: Tensor, generator: Generator | None = None, *, strength: int) -> Tensor:
    """x + c, c = 0.1, 0.2, 0.3, 0.4, 0.5 of the full range on every channel (ImageNet-C: on the value in HSV)"""
    return _uint8(pictures + 255 * _at(strength, pictures, (0.1, 0.2, 0.3, 0.4, 0.5)))


def compression(pictures: Tensor, generator: Generator | None = None, *, strength: int) -> Tensor:
    """There and back through JPEG of quality 25, 18, 15, 10, 7"""
    quality = _at(strength, pictures, (25, 18, 15, 10, 7))
    out = np.empty((len(pictures), *pictures.shape[2:], 3), dtype=np.uint8)  # (N, H, W, 3)
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        out[i] = np.asarray(Image.open(file))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().to(pictures.device)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (blur, noise, contrast, brightness, compression)
}  # fmt: skip


def corrupted(split: PictureSplit, corruption: Callable[..., Tensor], strength: int, *, seed: int = 0) -> PictureSplit:
    """The same split with corrupted pictures; the same seed gives the same pictures."""
    if not isinstance(split, PictureSplit):
        raise ValueError("this split reads its files one by one; expected one in memory: load it with size=…")
    generator = Generator().manual_seed(seed)
    parts = [
        corruption(some, generator, strength=strength) for some in split.pictures.split(64)
    ]  # floats of 64 at a time
    return replace(split, pictures=torch.cat(parts))


def _at(strength: int, pictures: Tensor, values: tuple[float, ...]) -> float:
    """The value for this strength, once the pictures are seen to be pictures."""
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"got {pictures.dtype} of {tuple(pictures.shape)}; expected pictures uint8 (N, 3, H, W)")
    if strength not in STRENGTHS:
        raise ValueError(f"got strength={strength!r}; expected one of {STRENGTHS}, from weak to strong")
    return values[strength - 1]


def _uint8(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)
