"""Whether a probability means what it says."""

import torch
from torch import Tensor

from sftlib.inputs import classes, probability_rows, whole, within


def expected_calibration_error(probabilities: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """probabilities (N, K), y (N,) -> Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins, in [0, 1]

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, eq. (5). Bins are (a, b].
    """
    p = probability_rows(probabilities)  # float64 on the CPU: MPS has none
    y, bins = classes(y, len(p)), whole("bins", bins, most=10**6)
    if p.shape[1] < 2:
        raise ValueError(f"got probabilities {tuple(p.shape)} of one class; expected K at least 2: stack 1 − p and p")
    within(y, p.shape[1])
    confidence, predicted = p.max(dim=1)
    b = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, b, (predicted == y).double() - confidence)
    return (gap.abs().sum() / len(y)).item()
