"""A classifier is two modules: output = g(f(x)), f the backbone, g the head; they are saved and loaded apart."""

import contextlib
from collections.abc import Iterator

from torch import nn

from sftlib.model.files import load_parts, save_parts
from sftlib.model.flips import Flipped
from sftlib.model.heads import FrameHead, LinearHead, Standardise, Subsample, TokenHead
from sftlib.runtime import ALONE

__all__ = [
    "Flipped",
    "FrameHead",
    "LinearHead",
    "Model",
    "Standardise",
    "Subsample",
    "TokenHead",
    "eval_mode",
    "load_parts",
    "save_parts",
]


class Model(nn.Module):
    """x of N examples -> head(backbone(x)): any extractor f joined to any classifier g.

    For picture classifiers x is (N, 3, H, W), z = backbone(x) is (N, D) and the output are logits (N, K). Other kinds
    have nests in their place (`sftlib.batches`).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        for name, part in (("backbone", backbone), ("head", head)):
            if not isinstance(part, nn.Module):
                raise ValueError(f"got a {type(part).__name__} as {name}; expected a torch.nn.Module")
        self.backbone = backbone
        self.head = head

    group = ALONE  # the workers that share its training; see `sftlib.training.Parallel`

    def forward(self, x):
        """x of N examples -> output = g(f(x)); for pictures x is (N, 3, H, W) and the output logits (N, K)"""
        return self.cut(x)[1]

    def cut(self, x) -> tuple:
        """x of N examples -> z = f(x), output = g(z)"""
        z = self.backbone(x)  # (N, D)
        return z, self.head(z)  # (N, K)

    def totals(self, terms: float, examples: int) -> tuple:
        """Terms and examples of this worker's part of a batch -> those that its losses are divided by"""
        return terms, examples

    def exchange(self, *, last: bool):
        """A context for the forward and backward pass of a piece of a batch, the ``last`` one or not"""
        return contextlib.nullcontext()


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """``with eval_mode(module):`` eval mode inside; afterwards each part is in the mode that it was in."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
