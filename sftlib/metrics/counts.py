"""Sums and counts that are divided once: means, hits, the confusion matrix."""

from numbers import Number

import numpy as np
import torch
from torch import Tensor

from sftlib.inputs import classes, tensor, vectors, whole, within

MOST_CLASSES = 2**15  # a matrix of that side takes 8 GiB


class Mean:
    """A weighted mean over batches: sums and counts are kept, and divided once, when ``value`` is read.

    The sum stays a tensor on its device until then, so adding a batch waits for nothing.
    """

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, total, count) -> None:
        """Add a batch by the *sum* over its examples and their number."""
        if np.ndim(total) or np.ndim(count) or not all(isinstance(v, Tensor | Number) for v in (total, count)):
            raise ValueError(
                f"got a total of shape {np.shape(total)} and count={count!r}; expected one number each, the "
                "batch's sum and how many examples it is of"
            )
        if not isinstance(count, Tensor) and not 0 <= count < np.inf:
            raise ValueError(f"got count={count!r}; expected the number of examples in the batch, 0 or more")
        self.total = self.total + total
        self.count += count

    def state(self) -> dict:
        """{"total", "count"}, tensors on the CPU"""
        return {name: v.detach().cpu() if isinstance(v, Tensor) else v for name, v in vars(self).items()}

    def load(self, state: dict) -> None:
        """Go on from a ``state``, in place of what was added here."""
        self.total, self.count = state["total"], state["count"]

    def merge(self, other: "Mean") -> None:
        """Add what was added to ``other``."""
        self.add(other.total, other.count)

    @property
    def value(self) -> float:
        """sum / count; ValueError when nothing was added."""
        if self.count == 0:
            raise ValueError("got no examples to average; expected at least one: is the loader empty?")
        return float(self.total) / float(self.count)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """logits (N, K, …), y (N, …) -> () number of labels at which the largest logit stands; one of NaN is never right"""
    logits, y = tensor(logits, "logits"), tensor(y, "labels")
    if logits.ndim < 2 or logits.shape[1] < 2 or y.shape != logits.shape[:1] + logits.shape[2:] or not _integer(y):
        raise ValueError(
            f"got logits {tuple(logits.shape)} and labels {tuple(y.shape)} of {y.dtype}; expected (N, K) with K at "
            "least 2 and one class index a row: soft or several labels a picture, and one output, have no accuracy"
        )
    largest, predicted = logits.max(dim=1)
    return ((predicted == y) & (largest == largest)).sum()


def _integer(y: Tensor) -> bool:
    return not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def confusion_matrix(predicted: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """predicted (N,), y (N,) -> (K, K) counts; row = true class, column = predicted class"""
    K = whole("num_classes", num_classes, most=MOST_CLASSES)
    n = len(y) if np.ndim(y) else 0
    predicted, y = classes(predicted, n, "predicted"), classes(y, n, "y")
    within(predicted, K, "predicted")
    within(y, K, "y")
    return torch.bincount(y * K + predicted, minlength=K**2).reshape(K, K)


def balanced_accuracy(confusion: Tensor) -> float:
    """confusion (K, K) -> mean over the classes that occur of the share found, in [0, 1]"""
    counts = vectors(confusion, "confusion")
    if len(counts) != counts.shape[1] or counts.min() < 0 or counts.sum() == 0:
        raise ValueError(
            f"got confusion {tuple(counts.shape)} from {counts.min():g}, sum {counts.sum():g}; expected counts (K, K), "
            "0 or more, of at least one example: confusion_matrix(predicted, y, num_classes)"
        )
    n = counts.sum(dim=1)
    return (counts.diagonal()[n > 0] / n[n > 0]).mean().item()
