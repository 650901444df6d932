"""The checks at the boundary of every score."""

from torch import Tensor

from sftlib.inputs import classes, probability_rows, vectors


def checked(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """-> float64 features (N, D) and labels 0 … C - 1 on the CPU, C"""
    z = vectors(features)
    return z, *_renumbered(labels, len(z))


def checked_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """-> float64 rows (N, S) that sum to 1, labels 0 … C - 1, C"""
    theta = probability_rows(probabilities, "source_probabilities")
    return theta / theta.sum(1, keepdim=True), *_renumbered(labels, len(theta))


def _renumbered(labels: Tensor, n: int) -> tuple[Tensor, int]:
    found, y = classes(labels, n).unique(return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"got labels of {len(found)} class(es), expected at least 2: nothing to tell apart")
    return y, len(found)
