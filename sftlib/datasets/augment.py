"""Batched augmentation: pictures uint8 (N, 3, H, W), generator -> uint8, each picture with its own draw.

Every function draws from the generator alone, so its state says what comes next, and the draws of one picture
depend on its row and not on its content. `Chain((Crop(224), flip))` is the usual pair for photographs;
solar cells look the same from all sides: `Chain((Crop(128, scale=(0.5, 1)), flip, flip_vertical, rotate))`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from math import log

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Augment = Callable[[Tensor, Generator], Tensor]
TRIES = 10  # as torchvision


def _grey_once(augment: Augment) -> Augment:
    """Grey pictures shown as three equal channels are worked on once: a third of the work, the same answer."""

    @wraps(augment)
    def run(pictures: Tensor, generator: Generator) -> Tensor:
        return _on_one_channel(pictures, lambda channel: augment(channel, generator))

    return run


def _on_one_channel(pictures: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    channels = pictures.shape[1]
    if channels == 1 or pictures.stride(1) != 0:
        return work(pictures)
    return work(pictures[:, :1]).expand(-1, channels, -1, -1)


@_grey_once
def flip(pictures: Tensor, generator: Generator) -> Tensor:
    """pictures (N, C, H, W) -> (N, C, H, W), each one left-right mirrored with probability 1/2"""
    return torch.where(_coin(pictures, generator), pictures.flip(-1), pictures)


@_grey_once
def flip_vertical(pictures: Tensor, generator: Generator) -> Tensor:
    """pictures (N, C, H, W) -> (N, C, H, W), each one turned upside down (mirrored) with probability 1/2"""
    return torch.where(_coin(pictures, generator), pictures.flip(-2), pictures)


@_grey_once
def rotate(pictures: Tensor, generator: Generator) -> Tensor:
    """pictures (N, C, S, S) -> (N, C, S, S), each one turned by 0, 90, 180 or 270 degrees with equal chance"""
    if pictures.shape[-1] != pictures.shape[-2]:
        raise ValueError(
            f"got pictures of {tuple(pictures.shape[-2:])} pixels; expected square ones, for a quarter turn "
            "swaps height and width: put Crop before rotate"
        )
    turns = torch.randint(4, (len(pictures),), generator=generator, device=generator.device)
    turned = torch.empty_like(pictures)
    for quarter in range(4):
        mine = _beside(pictures, (turns == quarter).nonzero().flatten())
        turned[mine] = torch.rot90(pictures[mine], quarter, (-2, -1))
    return turned


def _coin(pictures: Tensor, generator: Generator) -> Tensor:
    """pictures (N, …) -> heads or tails (N, 1, 1, 1)"""
    draw = torch.rand(len(pictures), 1, 1, 1, generator=generator, device=generator.device)
    return _beside(pictures, draw < 0.5)


def _beside(pictures: Tensor, draws: Tensor) -> Tensor:
    """draws -> the same on the device of pictures. On MPS it waits: the copy could read memory that was freed since"""
    return draws.to(pictures.device, non_blocking=pictures.is_cuda)  # pytorch issue 189690


@dataclass(frozen=True)
class Crop:
    """pictures (N, C, H, W), generator -> (N, C, size, size): a random part of each, resized (antialiased)

    scale: share of the area that is kept, uniform between the two; ratio: width / height of the part,
    log-uniform. The draws are those of torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv 1409.4842,
    section 6), with the same defaults.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        pairs = all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in (self.scale, self.ratio))
        if not (
            type(self.size) is int and self.size >= 1 and pairs
            and 0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]
        ):  # fmt: skip
            raise ValueError(
                f"got {self}; expected size ≥ 1 and two rising pairs: 0 < scale ≤ 1 (share of the area), "
                "0 < ratio (width / height)"
            )

    def __call__(self, pictures: Tensor, generator: Generator) -> Tensor:
        height, width = pictures.shape[-2:]
        boxes = self.boxes(len(pictures), height, width, generator)
        return _on_one_channel(pictures, lambda channel: resized_boxes(channel, boxes, self.size))

    def boxes(self, n: int, height: int, width: int, generator: Generator) -> Tensor:
        """-> boxes (n, 4): top, left, height, width in pixels, drawn inside height x width

        Ten tries a picture; where none fits, the largest middle part of an allowed ratio. Each picture costs
        the same number of draws, whatever they are.
        """
        draws = torch.rand(n, 2 * TRIES + 2, generator=generator, device=generator.device).cpu().double()
        w, h = self._tries(draws[:, :TRIES], draws[:, TRIES:-2], height * width)  # (n, TRIES)
        fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
        first, found = fits.int().argmax(1, keepdim=True), fits.any(1)
        w = torch.where(found, w.gather(1, first).flatten(), min(width, round(height * self.ratio[1])))
        h = torch.where(found, h.gather(1, first).flatten(), min(height, round(width / self.ratio[0])))
        top = torch.where(found, draws[:, -2] * (height - h + 1), (height - h) / 2).floor()
        left = torch.where(found, draws[:, -1] * (width - w + 1), (width - w) / 2).floor()
        return torch.stack([top, left, h, w], 1).long()

    def _tries(self, u: Tensor, v: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """uniform draws u, v (n, TRIES) -> widths and heights (n, TRIES)"""
        area = pixels * (self.scale[0] + (self.scale[1] - self.scale[0]) * u)
        low, high = log(self.ratio[0]), log(self.ratio[1])
        aspect = (low + (high - low) * v).exp()
        return (area * aspect).sqrt().round(), (area / aspect).sqrt().round()


def resized_boxes(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """pictures uint8 (N, C, H, W), boxes (N, 4) of top, left, height, width -> (N, C, size, size)

    On the CPU one by one: PyTorch's uint8 kernel takes 0.16 ms a grey picture of 224 pixels, a batched grid_sample is
    slower and does not antialias. Elsewhere, where there is no such kernel, all at once.
    """
    if pictures.device.type != "cpu":
        return boxes_by_products(pictures.float(), boxes, size).round().clamp(0, 255).to(torch.uint8)
    out = pictures.new_empty(len(pictures), pictures.shape[1], size, size)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        box = pictures[i : i + 1, :, top : top + height, left : left + width]
        out[i] = F.interpolate(box, size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return out


def boxes_by_products(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """pictures float (N, C, H, W), boxes (N, 4) -> (N, C, size, size), bilinear and antialiased, whatever the boxes

    Resizing is linear in the rows and in the columns, so it is two products of matrices, with PyTorch's own weights.
    """
    boxes = _beside(pictures, boxes)
    rows = _weights(boxes[:, 0], boxes[:, 2], pictures.shape[-2], size)  # (N, 1, size, H)
    columns = _weights(boxes[:, 1], boxes[:, 3], pictures.shape[-1], size)  # (N, 1, size, W)
    return rows @ pictures @ columns.mT  # (N, C, size, H) @ … -> (N, C, size, size)


def _weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """start, length (N,) of a part of `side` pixels -> (N, 1, size, side): how much each pixel gives to each output

    A triangle around the output's centre, as wide as the output is in source pixels and at least 1.
    """
    step = length.float()[:, None, None] / size  # source pixels per output pixel
    centre = step * (torch.arange(size, device=start.device)[:, None] + 0.5)  # (N, size, 1)
    pixel = torch.arange(side, device=start.device) - start[:, None, None]  # (N, 1, side), from the start of the part
    triangle = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0)  # (N, size, side)
    inside = (pixel >= 0) & (pixel < length[:, None, None])
    weights = triangle * inside
    return (weights / weights.sum(-1, keepdim=True))[:, None]


@dataclass(frozen=True)
class Chain:
    """One augmentation after the other, in the order of steps."""

    steps: tuple[Augment, ...]

    def __call__(self, pictures: Tensor, generator: Generator) -> Tensor:
        for step in self.steps:
            pictures = step(pictures, generator)
        return pictures
