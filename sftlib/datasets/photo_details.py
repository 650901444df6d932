"""Photo details: which of eight details of two photographs is this? Drawn on the spot, seeded, any number.

A picture is a detail cut out at a random place, size and angle, its colour channels in random order, its contrast
lowered, noise added. The details are the same in all splits; what has to be learned is to know them again. So it is a
task near to what the ImageNet networks saw, and it says nothing about other photographs. The photographs come with
scikit-learn: china.jpg and flower.jpg, CC BY 2.0, named with their authors in sklearn/datasets/images/README.txt.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sftlib.datasets.decode import check_size, decode, read_bytes
from sftlib.datasets.splits import PictureSplit, Splits


@dataclass(frozen=True)
class Detail:
    """A rectangle of a photograph, in pixels from the top left corner."""

    name: str
    photo: str
    left: int
    top: int
    right: int
    bottom: int


DETAILS = (
    Detail("roof of the top", "china", 110, 70, 310, 132),
    Detail("roof of the middle", "china", 75, 248, 340, 285),
    Detail("storey in the middle", "china", 95, 185, 320, 245),
    Detail("storey at the bottom", "china", 80, 280, 345, 345),
    Detail("dark tree", "china", 560, 150, 640, 400),
    Detail("grey bushes", "china", 385, 320, 560, 425),
    Detail("heart of the flower", "flower", 235, 145, 385, 290),
    Detail("rim of the flower", "flower", 180, 250, 430, 345),
)
NOISE, CONTRAST, SPAN = 0.05, (0.4, 0.9), (36, 80)  # deviation and factors of the full range; side in pixels


def load(*, size: int = 96, seed: int = 0, numbers: tuple[int, int, int] = (1000, 240, 480)) -> Splits:
    """-> Splits of (picture uint8 (3, size, size), label of 8), as many pictures as numbers says"""
    check_size(size)
    three = isinstance(numbers, tuple | list) and len(numbers) == 3 and all(type(n) is int for n in numbers)
    if size is None or not three or min(numbers) < 1:
        raise ValueError(f"got size={size}, numbers={numbers}; expected a side in pixels and three numbers ≥ 1")
    photos = {name: _photo(name) for name in ("china", "flower")}
    gen = Generator().manual_seed(seed)
    parts = [_split(photos, n, size, gen) for n in numbers]
    return Splits(*parts, tuple(detail.name for detail in DETAILS))


def _split(photos: dict[str, Tensor], n: int, size: int, gen: Generator) -> PictureSplit:
    labels = torch.arange(n)[torch.randperm(n, generator=gen)] % len(DETAILS)  # as many of each, within one
    pictures = torch.stack([_picture(photos, DETAILS[y], size, gen) for y in labels.tolist()])
    return PictureSplit(pictures, labels, tuple(f"{DETAILS[y].name} {i}" for i, y in enumerate(labels.tolist())))


def _picture(photos: dict[str, Tensor], detail: Detail, size: int, gen: Generator) -> Tensor:
    """-> uint8 (3, size, size)"""
    u = torch.rand(5, generator=gen)  # place (2), side, angle, contrast
    order = torch.randperm(3, generator=gen)  # of the colour channels
    x = cut_out(photos[detail.photo], detail, size, u)[order]
    c = CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * u[4]
    x = x.mean() + c * (x - x.mean()) + NOISE * torch.randn(x.shape, generator=gen)
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def cut_out(photo: Tensor, detail: Detail, size: int, u: Tensor) -> Tensor:
    """photo (3, H, W) in [0, 1], draws u (≥ 4,) in [0, 1) -> (3, size, size), a turned square inside the detail"""
    H, W = photo.shape[1:]
    side = SPAN[0] + (SPAN[1] - SPAN[0]) * u[2]
    turn = 2 * torch.pi * u[3]
    x = detail.left + side / 2 + u[0] * (detail.right - detail.left - side).clamp(min=0)
    y = detail.top + side / 2 + u[1] * (detail.bottom - detail.top - side).clamp(min=0)
    cos, sin = side * torch.cos(turn), side * torch.sin(turn)
    theta = torch.stack([cos / W, -sin / W, 2 * x / W - 1, sin / H, cos / H, 2 * y / H - 1]).view(1, 2, 3)
    grid = F.affine_grid(theta, [1, 3, size, size], align_corners=False)
    return F.grid_sample(photo[None], grid, padding_mode="reflection", align_corners=False)[0]


def _photo(name: str) -> Tensor:
    """-> (3, H, W) in [0, 1]"""
    return torch.from_numpy(photograph(name)).permute(2, 0, 1)


def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-learn's, china or flower -> float32 (H, W, 3) in [0, 1]"""
    spec = find_spec("sklearn")  # finds the folder without importing it
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
    return decode(read_bytes(folder / f"{name}.jpg")).astype(np.float32) / 255
