"""The checks at the boundary of every score."""

import torch
from torch import Tensor


def checked(features: Tensor, labels: Tensor, name: str = "features") -> tuple[Tensor, Tensor, int]:
    """-> float64 features (N, D) and labels 0 … C - 1 on the CPU, C"""
    z, y = torch.as_tensor(features).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    if z.ndim != 2 or not z.shape[1] or y.shape != z.shape[:1] or y.is_floating_point():
        raise ValueError(
            f"got {name} {tuple(z.shape)} and labels {tuple(y.shape)} of type {y.dtype}, expected {name} "
            "(N, D) and one integer label a row: extract(backbone, loader) gives both"
        )
    bad = (~z.double().isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"got {name} with NaN or infinity in rows {bad[:5]}{' …' * (len(bad) > 5)}, expected finite numbers: "
            "look at these pictures and at the preprocessing, or extract in float32"
        )
    classes, y = y.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"got labels of {len(classes)} class(es), expected at least 2: nothing to tell apart")
    return z.double(), y, len(classes)


def checked_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """-> float64 rows (N, S) that sum to 1, labels 0 … C - 1, C"""
    theta, y, C = checked(probabilities, labels, "source_probabilities")
    total = theta.sum(1, keepdim=True)
    if theta.min() < 0 or (total - 1).abs().max() > 1e-2:
        raise ValueError(
            f"got source_probabilities from {theta.min():.3g} with rows that sum to {total.min():.3g} … "
            f"{total.max():.3g}, expected rows of probabilities: backbone.source_logits(x).softmax(1)"
        )
    return theta / total, y, C
