"""Whether a probability means what it says, and one number that mends it."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sftlib.inputs import classes, finite, probability_rows, vectors, whole, within
from sftlib.metrics.intervals import Interval, proportion_interval

LEAST, MOST = -6.0, 6.0  # log T is looked for between these


class Reliability(NamedTuple):
    """Of each bin of confidence that holds examples: mean confidence, accuracy, and how many (B,)"""

    confidence: Tensor
    accuracy: Tensor
    n: Tensor


def reliability(probabilities: Tensor, y: Tensor, *, bins: int = 15) -> Reliability:
    """probabilities (N, K), y (N,) -> what was said and what was right, by bins (a, b] of equal width"""
    p, y = _checked(probabilities, y)
    bins = whole("bins", bins, most=10**6)
    confidence, predicted = p.max(dim=1)
    b = (confidence * bins).ceil().long().clamp(1, bins) - 1
    n, said, right = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, b, values)
        for values in (torch.ones_like(confidence), confidence, (predicted == y).double())
    )
    there = n > 0
    return Reliability(said[there] / n[there], right[there] / n[there], n[there].long())


class GroupReliability(NamedTuple):
    """Of a group of n examples: what was said on average, and what was right, with its interval"""

    group: Hashable
    n: int
    confidence: float
    accuracy: Interval

    @property
    def visible(self) -> bool:
        """Whether what was said lies outside the interval of what was right"""
        return not self.accuracy.low <= self.confidence <= self.accuracy.high

    def __str__(self) -> str:
        a, word = self.accuracy, "too sure" if self.confidence > self.accuracy.mean else "not sure enough"
        right = f"{a.mean:.2f} right [{a.low:.2f}, {a.high:.2f}]"
        return f"{self.n} of {self.group}: {self.confidence:.2f} sure, {right}{f', {word}' if self.visible else ''}"


def reliability_by_group(
    probabilities: Tensor, y: Tensor, groups: Sequence[Hashable], *, confidence: float = 0.95
) -> list[GroupReliability]:
    """probabilities (N, K), y (N,), a group for each of N -> mean confidence and accuracy of each, the largest first

    Groups are what is known before the truth: the class that was *predicted*, a camera, a patient. Within the examples
    of one true class even a calibrated model is too sure or not sure enough. The intervals, Wilson's for a proportion
    (Wilson 1927, JASA 22, 209–212), hold together with probability ``confidence`` (Bonferroni).
    """
    p, y = _checked(probabilities, y)
    groups = [int(g) if isinstance(g, Tensor) else g for g in groups]
    if len(groups) != len(y):
        raise ValueError(f"got {len(groups)} groups for {len(y)} examples; expected one for each")
    counts = Counter(groups)
    each = 1 - (1 - finite("confidence", confidence, above=0, below=1)) / len(counts)
    said, predicted = p.max(dim=1)
    right, found = predicted == y, []
    for group, n in counts.most_common():
        mine = torch.tensor([g == group for g in groups])
        accuracy = proportion_interval(int(right[mine].sum()), n, confidence=each)
        found.append(GroupReliability(group, n, said[mine].mean().item(), accuracy))
    return found


def expected_calibration_error(probabilities: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """probabilities (N, K), y (N,) -> Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins, in [0, 1]

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, eq. (3). Bins are (a, b].
    """
    confidence, accuracy, n = reliability(probabilities, y, bins=bins)
    return ((accuracy - confidence).abs() * n / n.sum()).sum().item()


def temperature(logits: Tensor, y: Tensor) -> float:
    """logits (N, K), y (N,) of pictures that were not trained on -> T > 0: softmax(logits / T) is calibrated best

    The T of least cross-entropy (Guo et al. 2017, section 4.2). It changes no prediction. Targets are (N + 1)/(N + 2)
    and not 1, as in Platt 1999, Probabilistic outputs for support vector machines, section 2.2: were all N right, the
    best T would else be 0, and the next mistake infinitely bad. ValueError for logits that tell no class from another.
    """
    z = vectors(logits, "logits")
    y = classes(y, len(z))
    within(y, z.shape[1])
    if (z == z[:, :1]).all():
        raise ValueError("got logits that are all the same in each row; expected a model that tells classes apart")
    target = torch.full_like(z, 1 / (len(z) + 2) / (z.shape[1] - 1))
    target[torch.arange(len(z)), y] = (len(z) + 1) / (len(z) + 2)
    low, high = LEAST, MOST
    while high - low > 1e-9:  # the slope in log T changes its sign once: the loss is convex in 1/T
        middle = (low + high) / 2
        p = (z / math.exp(middle)).softmax(1)
        slope = ((target - p) * z).sum()  # of the loss, in log T, times N T
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp((low + high) / 2)


def _checked(probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """float64 on the CPU: MPS has none"""
    p = probability_rows(probabilities)
    y = classes(y, len(p))
    if p.shape[1] < 2:
        raise ValueError(f"got probabilities {tuple(p.shape)} of one class; expected K at least 2: stack 1 − p and p")
    within(y, p.shape[1])
    return p, y
