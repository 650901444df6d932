"""The whole way from pixels to probabilities as one network, for those who have neither this library nor its notes."""

import torch
from torch import Tensor, nn

from sftlib.inputs import positive
from sftlib.model import Flipped, Model


class Deployed(nn.Module):
    """pictures uint8 RGB (N, 3, S, S) -> p (N, K) = softmax(logits / temperature), the normalisation of f inside

    ``flips``: the mean of the probabilities of a picture and its mirror image is taken first.
    """

    def __init__(self, model: Model, *, temperature: float = 1.0, flips: bool = False):
        super().__init__()
        self.preprocess = model.backbone.preprocess
        self.model = Flipped(model) if flips else model
        self.temperature = positive("temperature", temperature)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures uint8 (N, 3, S, S) -> p (N, K)"""
        x = self.preprocess.normalise(pictures)
        return torch.softmax(self.model(x) / self.temperature, 1)
