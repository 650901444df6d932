"""Measures of a classifier, as sums and counts that are divided once, and intervals for what is claimed of them."""

from dataclasses import dataclass

import numpy as np
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


def expected_calibration_error(probabilities: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """probabilities (N, K), y (N,) -> Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins, in [0, 1]

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, eq. (5). Bins are (a, b].
    """
    probabilities, y = probabilities.cpu().double(), y.cpu()  # MPS has no float64
    confidence, predicted = probabilities.max(dim=1)
    b = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, b, (predicted == y).double() - confidence)
    return (gap.abs().sum() / len(y)).item()


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference of zero lies outside the interval; if not: no difference that we can see."""
        return not self.low <= 0 <= self.high


def mean_interval(values, *, confidence: float = 0.95) -> Interval:
    """values (n,), one per seed -> mean ± t · s/√n (Student's t, n − 1 degrees of freedom)

    ValueError for fewer than two values: one run has no spread.
    """
    from scipy.stats import t as student  # imported late: SciPy takes a second

    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) < 2:
        raise ValueError(f"got values of shape {v.shape}; expected one number per seed, at least two")
    half = student.ppf((1 + confidence) / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return Interval(v.mean().item(), (v.mean() - half).item(), (v.mean() + half).item())


def paired_interval(a, b, *, confidence: float = 0.95) -> Interval:
    """a (n,), b (n,) of the same seeds -> interval of the mean difference a − b

    Pairing removes what the seeds have in common (the split, the first weights), which is most of the noise.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"got {a.shape} and {b.shape}; expected one value per seed in both, in the same order")
    return mean_interval(a - b, confidence=confidence)


def bootstrap_interval(values, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """values (n,), one per example -> percentile interval of their mean over resampled examples"""
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"got values of shape {v.shape}; expected one number per example, at least one")
    index = np.random.default_rng(seed).integers(len(v), size=(draws, len(v)))
    low, high = np.quantile(v[index].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(v.mean().item(), low.item(), high.item())
