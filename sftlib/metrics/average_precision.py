"""How well a detector finds boxes: average precision as COCO computes it."""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

# NumPy's spacing, as in COCO's code: the last bit decides where an overlap or a recall is exactly a threshold
THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()  # of the overlap (IoU) from which a box is found
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))
MOST_BOXES = 100  # of a class in a picture: the surest ones count

Boxes = dict[str, Tensor]


class AveragePrecision:
    """Average precision over recall, classes and overlaps from 0.5 to 0.95, all in [0, 1]; COCO's definition.

    Lin et al. 2014, Microsoft COCO, arXiv 1405.0312, and its evaluation code: within a picture and class the surest box
    takes the free true box that it overlaps most; precision is made non-increasing and read at 101 recalls. Boxes are
    torchvision's: {"boxes" (n, 4) x1 y1 x2 y2, "scores" (n,), "labels" (n,)} against {"boxes", "labels"}. Crowds and
    areas are not told apart.
    """

    key, higher_is_better = "ap", True

    def __init__(self):
        self._pictures: list[tuple[Boxes, Boxes]] = []

    def add(self, output: list[Boxes], y: list[Boxes]) -> None:
        """A batch: for each picture what was found, and what is there; either may be empty."""
        if not (isinstance(output, list) and isinstance(y, list) and len(output) == len(y)):
            raise ValueError(
                f"got a {type(output).__name__} and a {type(y).__name__}; expected two lists with a dict of boxes for "
                "each picture: a detector gives them in eval mode"
            )
        found = [{k: d[k].detach() for k in ("boxes", "scores", "labels")} for d in output]
        self._pictures += zip(found, [{k: t[k] for k in ("boxes", "labels")} for t in y], strict=True)

    def values(self) -> dict[str, float | list[float]]:
        """{"ap", "ap50", "ap75", "ap_of_class"}: means over the classes that occur; "ap_of_class" in their order"""
        ap = self.of_pictures(range(len(self._pictures)))
        return {
            "ap": ap.mean().item(),
            "ap50": ap[:, 0].mean().item(),
            "ap75": ap[:, 5].mean().item(),
            "ap_of_class": ap.mean(dim=1).tolist(),
        }

    def of_pictures(self, chosen) -> Tensor:
        """Numbers of pictures, repeated ones count twice (a bootstrap) -> AP (classes that occur, overlaps)"""
        pictures = [tuple({k: t.cpu() for k, t in side.items()} for side in self._pictures[i]) for i in chosen]
        classes = torch.cat([y["labels"] for _, y in pictures]).unique() if pictures else torch.empty(0)
        if len(classes) == 0:
            raise ValueError("got no true box in any picture; expected at least one to be found: look at the targets")
        return torch.stack([_of_class(pictures, k) for k in classes])

    def state(self) -> dict:
        """{"pictures": what was added, on the CPU}"""
        return {"pictures": [tuple({k: t.cpu() for k, t in s.items()} for s in pair) for pair in self._pictures]}

    def load(self, state: dict) -> None:
        """Go on from a ``state``, in place of what was added here."""
        self._pictures = [tuple(pair) for pair in state["pictures"]]

    def merge(self, other: "AveragePrecision") -> None:
        """Add what was added to ``other``."""
        self._pictures += other._pictures


def _of_class(pictures: list[tuple[Boxes, Boxes]], k: Tensor) -> Tensor:
    """-> AP (overlaps,) of class k, which occurs"""
    scores, hits, there = [], [], 0
    for found, y in pictures:
        own = found["labels"] == k
        order = found["scores"][own].argsort(descending=True, stable=True)[:MOST_BOXES]
        true = y["boxes"][y["labels"] == k]
        scores.append(found["scores"][own][order].double())
        hits.append(_hits(box_iou(found["boxes"][own][order].double(), true.double())))
        there += len(true)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    hit = torch.cat(hits)[order].T.double()  # (overlaps, boxes found)
    true_so_far = hit.cumsum(dim=1)
    precision = true_so_far / torch.arange(1, hit.shape[1] + 1, dtype=torch.float64)
    precision = precision.flip(1).cummax(dim=1).values.flip(1)  # the best that any larger recall reaches
    return torch.stack([_area(r, p) for r, p in zip(true_so_far / there, precision, strict=True)])


def _area(recall: Tensor, precision: Tensor) -> Tensor:
    """recall (n,) ascending, precision (n,) -> mean precision over the 101 recalls; 0 beyond the last one reached"""
    at = torch.searchsorted(recall.contiguous(), RECALLS)  # the first box with at least this recall
    return torch.cat([precision, precision.new_zeros(1)])[at].mean()


def _hits(iou: Tensor) -> Tensor:
    """iou (found, surest first; true) -> bool (found, overlaps): whether the box took a true one that was still free"""
    hits = torch.zeros(len(iou), len(THRESHOLDS), dtype=torch.bool)
    if iou.shape[1] == 0:
        return hits
    for t, threshold in enumerate(THRESHOLDS):
        free = torch.ones(iou.shape[1], dtype=torch.bool)
        for i, overlaps in enumerate(iou):
            best = overlaps.where(free, -1.0)
            j = iou.shape[1] - 1 - int(best.flip(0).argmax())  # of equal ones the last, as COCO takes it
            if best[j] >= threshold:
                hits[i, t], free[j] = True, False
    return hits
