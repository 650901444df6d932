"""Heads g: what turns features into the outputs that a loss compares with y."""

import torch.nn.functional as F
from torch import Tensor, nn


class LinearHead(nn.Linear):
    """z (N, D) -> logits (N, K) = z Wᵀ + b, with weight W (K, D) and bias b (K,), initialised as torch does."""

    def __init__(self, feature_dim: int, num_classes: int):
        for name, value in (("feature_dim", feature_dim), ("num_classes", num_classes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"got {name}={value!r}; expected a whole number of at least 1")
        super().__init__(feature_dim, num_classes)

    def forward(self, z: Tensor) -> Tensor:
        """z (N, D) -> logits (N, K)"""
        if z.dim() != 2 or z.shape[1] != self.in_features:
            raise ValueError(
                f"got features of shape {tuple(z.shape)}; this head expects (N, {self.in_features}): "
                "flatten what the backbone gives, or build the head with the backbone's feature_dim"
            )
        return super().forward(z)


class Standardise(nn.Module):
    """z (N, D) -> (z − mean) / deviation, both fixed: those of the features (n, D) that it is made with

    As the last layer of f it lets features point anywhere, which losses on their directions ask for. A tenth of the
    mean deviation is added to each, so that features that are hardly used stay small.
    """

    def __init__(self, z: Tensor):
        super().__init__()
        if z.dim() != 2 or len(z) < 2:
            raise ValueError(f"got features of shape {tuple(z.shape)}; expected (n, D) of two examples or more")
        self.register_buffer("mean", z.detach().mean(0))
        self.register_buffer("deviation", z.detach().std(0) + 0.1 * z.detach().std(0).mean())

    def forward(self, z: Tensor) -> Tensor:
        """z (N, D) -> (N, D)"""
        return (z - self.mean) / self.deviation


class TokenHead(nn.Module):
    """z (N, A, D) -> logits (N, V, A): one of V words for each of A positions, a sentence as a picture of one row

    ``weight`` (V, D) is a language model's output matrix, without a bias; it may be the matrix of its input too.
    """

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, z: Tensor) -> Tensor:
        """z (N, A, D) -> logits (N, V, A)"""
        return F.linear(z, self.weight).transpose(1, 2)


class FrameHead(nn.Linear):
    """(h (N, T, D), lengths (N,)) -> (log p (N, T, K), lengths): a distribution over K units, blank first, a frame"""

    def forward(self, z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(h (N, T, D), lengths (N,)) -> (log p (N, T, K), lengths (N,))"""
        h, lengths = z
        return super().forward(h).log_softmax(dim=-1), lengths


class Subsample(nn.Module):
    """(h (N, T, D), lengths (N,)) -> (h (N, ⌊T / n⌋, D), lengths): means of n frames; a rest at the end is dropped

    So no mean holds padding, and a recogniser's output has n times fewer frames to align. A sound of less than n frames
    is left with none, which CTC refuses.
    """

    def __init__(self, n: int):
        super().__init__()
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"got n={n!r}; expected a whole number of frames, at least 1")
        self.n = n

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(h (N, T, D), lengths (N,)) -> (h (N, ⌊T / n⌋, D), lengths (N,))"""
        h, lengths = x
        return h[:, : h.shape[1] // self.n * self.n].unflatten(1, (-1, self.n)).mean(2), lengths // self.n
