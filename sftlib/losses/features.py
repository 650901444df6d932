"""Losses on features alone: center and supervised contrastive."""

import torch
from torch import Tensor, nn

from sftlib.inputs import finite, positive, whole
from sftlib.losses._common import (
    at_least_float32,
    check_batch,
    check_classes,
    class_sums,
    no_autocast,
    unit,
)


def center(z: Tensor, y: Tensor, centers: Tensor) -> Tensor:
    """z (N, D), y (N,), centers (K, D) -> scalar: mean over the batch of 1/2 ||z_i - c_{y_i}||^2.

    Wen's factor 1/2 is kept; his sum over the batch is a mean here, so that the weight of the loss does not
    depend on the batch: dL/dz_i = (z_i - c_{y_i}) / N. Alone it is minimised by one point for everything;
    it needs a task loss beside it.
    Wen et al. 2016, A discriminative feature learning approach for deep face recognition (ECCV), eq. (2).
    """
    z, y, centers = check_classes(z, y, centers, "centers")
    z, c = at_least_float32(z, centers[y])
    return 0.5 * (z - c).square().sum(1).mean()


@torch.no_grad()
def update_centers(centers: Tensor, z: Tensor, y: Tensor, *, rate: float) -> Tensor:
    """centers (K, D), z (N, D), y (N,) -> moved centers (K, D): c_j - rate * sum_{y_i=j} (c_j - z_i) / (1 + n_j).

    That is a step of rate * n_j / (1 + n_j) towards the mean of the n_j features of class j; a class that is
    not in the batch stays where it is. Wen et al. 2016, eq. (4), with rate in (0, 1].
    """
    z, y, centers = check_classes(z, y, centers, "centers")
    rate = finite("rate", rate, above=0, most=1)  # above 1 a center jumps past the mean
    z, c = at_least_float32(z, centers)
    sums, counts = class_sums(z, y, len(c))
    return (c - rate * (counts * c - sums) / (1 + counts)).to(centers.dtype)


class CenterLoss(nn.Module):
    """z (N, D), y (N,) -> scalar: `center` with its own centers, which follow Wen's rule in training mode.

    The centers are a buffer, not a parameter: no optimizer, so no weight decay or momentum moves the center of
    a class that is not in the batch. The loss is that of the centers before their step.
    """

    def __init__(self, num_classes: int, feature_dim: int, *, rate: float = 0.5):
        super().__init__()
        self.rate = finite("rate", rate, above=0, most=1)
        shape = whole("num_classes", num_classes), whole("feature_dim", feature_dim)
        self.register_buffer("centers", torch.zeros(shape))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (N, D), y (N,) -> scalar"""
        loss = center(z, y, self.centers)
        if self.training:
            self.centers.copy_(update_centers(self.centers, z, y, rate=self.rate))
        return loss


def supervised_contrastive(z: Tensor, y: Tensor, *, temperature: float) -> Tensor:
    """z (N, D), y (N,) -> scalar: mean over anchors i that have a positive of

        -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p / T) / sum_{a != i} exp(z_i.z_a / T) ),   P(i) = {p != i: y_p = y_i}

    with z normalised here and no further factor. Other codes multiply by T or T/0.07, or count anchors
    without a positive as zero. A batch without any positive pair gives 0 that still carries the graph.
    Khosla et al. 2020, Supervised contrastive learning, arXiv 2004.11362, eq. (2) (L_out).
    """
    z, y = check_batch(z, y)
    positive("temperature", temperature)
    (z,) = at_least_float32(z)
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    pair = (y[:, None] == y) & ~itself  # (N, N)
    with no_autocast(z):
        similarity = unit(z) @ unit(z).T / temperature
    # the most negative number and not -inf: a lone sample's row would be NaN
    log_p = similarity.masked_fill(itself, torch.finfo(z.dtype).min).log_softmax(1)
    count = pair.sum(1)
    loss = -log_p.masked_fill(~pair, 0).sum(1) / count.clamp(min=1)  # (N,), 0 without a positive
    return loss.sum() / (count > 0).sum().clamp(min=1)
