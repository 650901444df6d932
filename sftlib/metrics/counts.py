"""Sums and counts that are divided once: means, hits, the confusion matrix."""

import torch
from torch import Tensor


class Mean:
    """A weighted mean over batches: sums and counts are kept, and divided once, when ``value`` is read.

    The sum stays a tensor on its device until then, so adding a batch waits for nothing.
    """

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, total, count: int) -> None:
        """Add a batch by the *sum* over its examples and their number."""
        self.total = self.total + total
        self.count += count

    @property
    def value(self) -> float:
        """sum / count; ValueError when nothing was added."""
        if self.count == 0:
            raise ValueError("got no examples to average; expected at least one: is the loader empty?")
        return float(self.total) / self.count


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """logits (N, K), y (N,) -> () number of rows whose largest logit is that of y"""
    return (logits.argmax(dim=1) == y).sum()


def confusion_matrix(predicted: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """predicted (N,), y (N,) -> (K, K) counts; row = true class, column = predicted class"""
    for name, labels in (("predicted", predicted), ("y", y)):
        if labels.dim() != 1 or labels.shape != y.shape:
            raise ValueError(f"got {name} of shape {tuple(labels.shape)}; expected (N,) like y {tuple(y.shape)}")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f"got {name} in [{labels.min()}, {labels.max()}]; expected classes 0 … {num_classes - 1}")
    return torch.bincount(y * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: Tensor) -> float:
    """confusion (K, K) -> mean over the classes that occur of the share found, in [0, 1]"""
    n = confusion.sum(dim=1)
    return (confusion.diagonal()[n > 0] / n[n > 0]).mean().item()
