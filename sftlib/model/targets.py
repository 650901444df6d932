"""What a detector learns from is checked before it learns: a wrong box gives a wrong number without a word."""

from collections.abc import Sequence

import torch
from torch import Tensor

OVER = 1.0  # pixels beyond the edge that are taken for rounding


def check_targets(targets: Sequence[dict[str, Tensor]], sizes: Sequence[tuple[int, int]], num_classes: int) -> None:
    """N targets {"boxes" (n, 4), "labels" (n,)}, sizes (H, W) of their pictures -> ValueError that names a fault

    Boxes are x1, y1, x2, y2 in pixels inside the picture with an area; labels count from 1, 0 is the background. A
    picture without an object has boxes (0, 4).
    """
    if len(targets) != len(sizes):
        raise ValueError(f"got {len(targets)} targets for {len(sizes)} pictures; expected one for each")
    for i, (target, (H, W)) in enumerate(zip(targets, sizes, strict=True)):
        if fault := _fault(target, H, W, num_classes):
            raise ValueError(f"picture {i} of the batch: {fault}")


def _fault(target: dict[str, Tensor], H: int, W: int, num_classes: int) -> str:
    """What is wrong with a target, or nothing"""
    if not {"boxes", "labels"} <= target.keys():
        return f"got a target with {sorted(target)}; expected boxes and labels"
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        return (
            f"got boxes {tuple(boxes.shape)}, {boxes.dtype}; expected (n, 4) of floating point numbers, (0, 4) where "
            "there is no object"
        )
    if labels.shape != (len(boxes),) or labels.dtype != torch.int64:
        return f"got labels {tuple(labels.shape)}, {labels.dtype}, for {len(boxes)} boxes; expected int64, one a box"
    return (_box_fault(boxes, H, W) or _label_fault(labels, num_classes)) if len(boxes) else ""


def _box_fault(boxes: Tensor, H: int, W: int) -> str:
    x1, y1, x2, y2 = boxes.unbind(1)
    flat = ~((x2 > x1) & (y2 > y1) & boxes.isfinite().all(1))  # a NaN is no box either
    outside = (x1 < -OVER) | (y1 < -OVER) | (x2 > W + OVER) | (y2 > H + OVER)
    wrong = flat | outside
    if not wrong.any():
        return ""
    i = int(wrong.int().argmax())
    got = f"got box {i} = {[round(v, 2) for v in boxes[i].tolist()]} in a picture of {W} x {H} pixels"
    as_corners = boxes + torch.cat([torch.zeros_like(boxes[:, :2]), boxes[:, :2]], dim=1)
    inside = (as_corners <= as_corners.new_tensor([W, H, W, H]) + OVER).all() and (boxes[:, 2:] > 0).all()
    hint = "; are they x, y, width, height? Then give x + width and y + height" if flat[i] and inside else ""
    return f"{got}; expected x1 < x2 and y1 < y2, inside the picture{hint}"


def _label_fault(labels: Tensor, num_classes: int) -> str:
    low, high = int(labels.min()), int(labels.max())
    if low >= 1 and high < num_classes:
        return ""
    why = "0 is the background: count from 1" if low == 0 else f"num_classes is {num_classes}, the background included"
    return f"got labels from {low} to {high}; expected 1 … {num_classes - 1} ({why})"
