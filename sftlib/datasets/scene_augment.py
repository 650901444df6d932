"""Augmentation of scenes: boxes, masks and class maps move with the picture.

Each takes and gives (picture uint8 (3, H, W), target); draws come from the generator alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sftlib.datasets.scenes import Augment, Target, boxes_around, nearest


def flip(picture: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
    """Left and right exchanged with probability 1/2"""
    if torch.rand((), generator=generator) >= 0.5:
        return picture, target
    moved = {k: t.flip(-1) if k in ("masks", "class_map") else t for k, t in target.items()}
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    W = picture.shape[-1]
    moved["boxes"] = torch.stack([W - x2, y1, W - x1, y2], dim=1)
    return picture.flip(-1), moved


@dataclass(frozen=True)
class SceneCrop:
    """A random part with the picture's own proportions, resized to its size

    scale: share of the area that is kept, uniform between the two. An object is dropped when less than ``least`` of its
    box (with masks: of its pixels) is left; the others are cut at the edge. What is dropped stays in the picture.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    least: float = 0.3

    def __post_init__(self) -> None:
        pair = isinstance(self.scale, tuple | list) and len(self.scale) == 2
        if not pair or not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.least <= 1:
            raise ValueError(f"got {self}; expected two shares of the area, rising, and a least share, all in (0, 1]")

    def __call__(self, picture: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        H, W = picture.shape[-2:]
        u = torch.rand(3, generator=generator).tolist()
        side = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[0]) ** 0.5
        h, w = max(round(H * side), 1), max(round(W * side), 1)
        return cropped(picture, target, (int(u[1] * (H - h + 1)), int(u[2] * (W - w + 1)), h, w), self.least)


def cropped(
    picture: Tensor, target: Target, part: tuple[int, int, int, int], least: float = 0.3
) -> tuple[Tensor, Target]:
    """The part (top, left, height, width) of a scene, resized to the size that the picture has"""
    top, left, h, w = part
    H, W = picture.shape[-2:]
    window = (..., slice(top, top + h), slice(left, left + w))
    new = F.interpolate(picture[window][None], (H, W), mode="bilinear", antialias=True, align_corners=False)[0]
    moved = dict(target)
    if "class_map" in target:
        moved["class_map"] = nearest(target["class_map"][window], H, W)
    boxes, kept = _cut_boxes(target["boxes"], part, (H, W), least)
    if "masks" in target:
        masks = target["masks"][window]
        kept = masks.flatten(1).sum(1) >= least * target["masks"].flatten(1).sum(1).clamp(min=1)
        masks = nearest(masks, H, W)
        kept &= masks.flatten(1).any(1)
        moved["masks"] = masks[kept]
        boxes = torch.zeros_like(boxes)
        boxes[kept] = boxes_around(moved["masks"]) if kept.any() else boxes[kept]
    moved["boxes"], moved["labels"] = boxes[kept], target["labels"][kept]
    return new, moved


def _cut_boxes(boxes: Tensor, part, size, least: float) -> tuple[Tensor, Tensor]:
    """boxes (n, 4) -> the same in the part's pixels, cut at its edge; which keep at least this share (n,)"""
    top, left, h, w = part
    corner, limits = torch.tensor([left, top] * 2), torch.tensor([w, h] * 2)
    cut = (boxes - corner).clamp(min=0).minimum(limits.to(boxes))
    kept = _area(cut) >= least * _area(boxes)
    kept &= _area(cut) > 0
    return cut * torch.tensor([size[1] / w, size[0] / h] * 2), kept


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@dataclass(frozen=True)
class SceneChain:
    """One augmentation after the other."""

    steps: tuple[Augment, ...]

    def __call__(self, picture: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        for step in self.steps:
            picture, target = step(picture, target, generator)
        return picture, target
