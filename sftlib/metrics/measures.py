"""Measures that batches are added to: what each counts, kept as sums, divided once when it is asked for.

Nothing is read from the device while batches are added. ``state()`` (plain values and tensors on the CPU) goes into
checkpoints and from worker to worker; ``merge`` adds what another worker, or another part of the data, has counted.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sftlib.inputs import whole


@runtime_checkable
class Metric(Protocol):
    """What `fit` and `evaluate` ask of a measure; ``key`` names the one of its values that a run is judged by."""

    key: str
    higher_is_better: bool

    def add(self, output, y) -> None:
        """Count a batch: what the model gave for it, and its targets."""

    def values(self) -> dict[str, float | list[float]]:
        """What was measured on all that was added"""

    def state(self) -> dict:
        """Tensors on the CPU and plain values, from which ``load`` goes on"""

    def load(self, state: dict) -> None:
        """Go on from a ``state``, in place of what was counted here."""

    def merge(self, other: "Metric") -> None:
        """Add what ``other`` has counted."""


class Sums:
    """Named sums, as tensors on the device of what is added: the state of a measure that only adds."""

    def __init__(self):
        self._sums: dict[str, Tensor | float] = {}

    def _count(self, **values: Tensor | float) -> None:
        if self._sums and values and values.keys() != self._sums.keys():
            raise ValueError(
                f"got a measure with the sums {sorted(self._sums)}, and {sorted(values)} to add; expected the same: "
                "its state is of another measure, or not whole"
            )
        for name, value in values.items():
            so_far = self._sums.get(name, 0)
            if isinstance(so_far, Tensor) and isinstance(value, Tensor):
                so_far = so_far.to(value.device)
            self._sums[name] = so_far + value

    def state(self) -> dict:
        """Name -> sum, tensors on the CPU"""
        return {name: v.detach().cpu() if isinstance(v, Tensor) else v for name, v in self._sums.items()}

    def load(self, state: dict) -> None:
        """Go on from a ``state``, in place of what was counted here."""
        self._sums = dict(state)

    def merge(self, other: "Sums") -> None:
        """Add what ``other`` has counted."""
        self._count(**other._sums)


class Accuracy(Sums):
    """Share of the targets whose class has the largest output: (N, K, …) against y (N, …), in [0, 1].

    For tokens and pixels too: the classes are axis 1. Targets equal to ``ignore_index`` (-100 of PyTorch's losses, say)
    are not counted.
    """

    key, higher_is_better = "accuracy", True

    def __init__(self, *, ignore_index: int | None = None):
        super().__init__()
        self.ignore_index = ignore_index

    def add(self, output: Tensor, y: Tensor) -> None:
        """output (N, K, …), y whole numbers (N, …): ValueError for other shapes."""
        check_classes(output, y)
        valid = _valid(y, self.ignore_index)
        outside = valid & ((y < 0) | (y >= output.shape[1]))
        largest, predicted = output.max(dim=1)
        hits = valid & (predicted == y) & (largest == largest)  # one of NaN is never right
        self._count(hits=hits.sum(), counted=valid.sum(), outside=outside.sum())

    def values(self) -> dict[str, float]:
        """{"accuracy"}; ValueError where nothing was counted, or a target was no class."""
        _require_counted(self._sums, "targets")
        return {"accuracy": float(self._sums["hits"]) / float(self._sums["counted"])}


class Exact(Sums):
    """Share of the examples all of whose targets have the largest output: (N, K, A) against y (N, A), in [0, 1].

    Of a language model it is the share of answers that it writes word for word, their end included, when it always
    takes the most probable token: with the right tokens before it, each step of such writing is one of these maxima.
    Targets equal to ``ignore_index`` are not counted; an example without any other is left out.
    """

    key, higher_is_better = "exact", True

    def __init__(self, *, ignore_index: int = -100):
        super().__init__()
        self.ignore_index = ignore_index

    def add(self, output: Tensor, y: Tensor) -> None:
        """output (N, K, A), y whole numbers (N, A): ValueError for other shapes."""
        check_classes(output, y)
        valid = _valid(y, self.ignore_index)
        outside = valid & ((y < 0) | (y >= output.shape[1]))
        largest, predicted = output.max(dim=1)
        right = ((predicted == y) & (largest == largest) | ~valid).flatten(1).all(1) & valid.flatten(1).any(1)
        self._count(hits=right.sum(), counted=valid.flatten(1).any(1).sum(), outside=outside.sum())

    def values(self) -> dict[str, float]:
        """{"exact"}; ValueError where nothing was counted, or a target was no class."""
        _require_counted(self._sums, "examples")
        return {"exact": float(self._sums["hits"]) / float(self._sums["counted"])}


class MeanIoU(Sums):
    """Intersection over union of K classes over a whole data set, from one confusion matrix, and its mean over classes.

    Everingham et al. 2010, The Pascal Visual Object Classes Challenge, section 4.3: pixels of all pictures are counted
    together, IoU_k = n_kk / (n_k· + n_·k − n_kk). Targets equal to ``ignore_index`` are not counted. A class that is
    neither there nor predicted has no IoU (NaN in "iou") and is left out of the mean.
    """

    key, higher_is_better = "mean_iou", True

    def __init__(self, num_classes: int, ignore_index: int | None = 255):
        super().__init__()
        self.num_classes, self.ignore_index = whole("num_classes", num_classes, least=2), ignore_index

    def add(self, output: Tensor, y: Tensor) -> None:
        """output (N, K, H, W), y whole numbers (N, H, W): ValueError for other shapes."""
        check_classes(output, y)
        K = self.num_classes
        if output.shape[1] != K:
            raise ValueError(f"got outputs of {output.shape[1]} classes; expected the {K} of MeanIoU({K})")
        valid = _valid(y, self.ignore_index)
        outside = valid & ((y < 0) | (y >= K))
        cell = torch.where(valid & ~outside, y.long() * K + output.argmax(dim=1), K * K)  # the last cell: not counted
        cells = torch.zeros(K * K + 1, dtype=torch.long, device=y.device)
        cells.index_add_(0, cell.flatten(), torch.ones_like(cell).flatten())
        self._count(cells=cells, counted=valid.sum(), outside=outside.sum())

    @property
    def confusion(self) -> Tensor:
        """(K, K) pixels; row = true class, column = predicted class"""
        _require_counted(self._sums, "pixels")
        return self._sums["cells"].cpu()[:-1].reshape(self.num_classes, self.num_classes)

    def values(self) -> dict[str, float | list[float]]:
        """{"mean_iou", "iou": K numbers, "pixel_accuracy"}, all in [0, 1]"""
        n = self.confusion.double()
        found = n.diagonal()
        iou = found / (n.sum(dim=0) + n.sum(dim=1) - found)  # 0 / 0 is NaN
        return {
            "mean_iou": iou[~iou.isnan()].mean().item(),
            "iou": iou.tolist(),
            "pixel_accuracy": (found.sum() / n.sum()).item(),
        }


def check_classes(output, y) -> None:
    """ValueError unless output (N, K, …) scores the classes y (N, …), whole numbers."""
    for name, value in (("the model's output", output), ("y", y)):
        if not isinstance(value, Tensor):
            raise ValueError(
                f"got a {type(value).__name__} as {name}; expected a tensor: give fit and evaluate the metric of this "
                "kind of model (metric=…), or None"
            )
    if output.ndim < 2 or output.shape[1] < 2 or y.shape != output.shape[:1] + output.shape[2:] or not _whole(y):
        raise ValueError(
            f"got outputs of shape {tuple(output.shape)} and y {y.dtype} of shape {tuple(y.shape)}; expected a score "
            "for each class, (N, K, …), and the class numbers, whole numbers (N, …). Targets that are no single "
            "classes (soft, several at once, one output of yes or no) need a metric of their own: metric=…, or None"
        )


def _whole(y: Tensor) -> bool:
    return not (y.is_floating_point() or y.is_complex() or y.dtype is torch.bool)


def _valid(y: Tensor, ignore_index: int | None) -> Tensor:
    return torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index


def _require_counted(sums: dict, what: str) -> None:
    if not sums or not sums["counted"]:
        raise ValueError(f"got no {what} to measure; expected at least one: is the loader empty, or all of y ignored?")
    if sums["outside"]:
        raise ValueError(
            f"got {int(sums['outside'])} {what} of no class; expected 0 … K − 1, K the model's outputs, or the "
            "number that is ignored (ignore_index)"
        )
