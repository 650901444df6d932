"""Whether a probability means what it says."""

import torch
from torch import Tensor


def expected_calibration_error(probabilities: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """probabilities (N, K), y (N,) -> Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins, in [0, 1]

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, eq. (5). Bins are (a, b].
    """
    probabilities, y = probabilities.cpu().double(), y.cpu()  # MPS has no float64
    confidence, predicted = probabilities.max(dim=1)
    b = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, b, (predicted == y).double() - confidence)
    return (gap.abs().sum() / len(y)).item()
