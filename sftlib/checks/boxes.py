"""What the checkers of boxes share: boxes at random, the overlap of two, a box around a place."""

import torch
from torch import Tensor


def draw(seed: int):
    """-> shape -> numbers in [0, 1), the same ones for a seed"""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(*shape, generator=generator)


def boxes_at_random(rand, n: int, spread: float = 40.0) -> Tensor:
    """n boxes (n, 4), x1, y1, x2, y2, of which many overlap"""
    corner = rand(n, 2) * spread
    return torch.cat([corner, corner + 5 + rand(n, 2) * torch.tensor([20.0, 35.0])], dim=1)


def overlap(p, q) -> float:
    """Two boxes of four numbers -> their IoU, 0 where neither has an area"""
    w, h = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
    both = w * h if w > 0 and h > 0 else 0.0
    either = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - both
    return both / either if either > 0 else 0.0


def around(x, y, w, h):
    """The middle and the sides of a box -> its corners"""
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2
