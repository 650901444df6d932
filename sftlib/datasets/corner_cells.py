"""Solar cells of which only the corners are left: what a network says of the type, it can know from there alone.

Mono cells are cut from round crystals, so their corners are cut off. The middle of every picture is replaced by one
and the same, the mean of all. Where a map of "what mattered" does not show the corners here, it is wrong.
"""

import torch
from torch import Tensor

from sftlib.datasets import solar_cells
from sftlib.datasets.splits import PictureSplit, Splits
from sftlib.inputs import whole

LEG = 0.22  # of the triangle that stays in each corner, of the picture's side


def load(*, size: int = 128, count: int = 240, seed: int = 0) -> tuple[Splits, Tensor]:
    """-> Splits of about ``count`` pictures (half train, a quarter val and test each), and the mask of the corners
    (size, size), true where a picture says something"""
    count = whole("count", count, least=8)
    cells = solar_cells.load(task="cell_type", size=size, seed=seed)
    mask = corners(size)
    mean = cells.train.pictures[:, :1].float().mean(0).round().to(torch.uint8)  # (1, size, size)
    parts = []
    for part, share in ((cells.train, 2), (cells.val, 4), (cells.test, 4)):
        some = part.subset(torch.arange(min(len(part), count // share)))
        left = torch.where(mask, some.pictures[:, :1], mean).expand(-1, 3, -1, -1)
        parts.append(PictureSplit(left, some.labels, some.names))
    return Splits(*parts, cells.classes), mask


def corners(size: int, leg: float = LEG) -> Tensor:
    """-> (size, size) booleans: the four right-angled triangles in the corners, with legs of ``leg`` · size pixels"""
    place = torch.arange(whole("size", size))
    near = torch.minimum(place, size - 1 - place)  # of an edge
    return near[:, None] + near[None] < leg * size
