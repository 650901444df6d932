"""Two looks at a picture: as it is, and mirrored."""

import math

import torch
from torch import Tensor, nn


class Flipped(nn.Module):
    """x (N, 3, H, W) -> log p (N, K), the mean of model's probabilities for the picture and for its mirror image

    Test-time augmentation: twice the computing, for what a mirror image shows as well (no letters, no left hands).
    log p are logits too: their softmax is p.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 3, H, W) -> log p (N, K)"""
        both = torch.stack([self.model(x).log_softmax(1), self.model(x.flip(-1)).log_softmax(1)])
        return both.logsumexp(0) - math.log(2)
