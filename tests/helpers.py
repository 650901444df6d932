"""Small models and data for the tests: prime sizes, so that no two dimensions can be mistaken for each other.

And words on what a test found: the error of a call, the end of another process.
"""

import subprocess

import torch
from torch import nn

from sftlib.model import LinearHead, Model

N, D, K = 13, 7, 3


class TinyBackbone(nn.Module):
    """x (N, 3, H, W) -> z (N, 7), with everything that freezing must hold still: BatchNorm and dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, D, 3, bias=False)
        self.norm = nn.BatchNorm2d(D)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3))


def tiny_model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(TinyBackbone(), LinearHead(D, K))


def plain_model(seed: int = 0) -> Model:
    """Without BatchNorm and dropout: the same in train and eval mode."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 5, D), nn.Tanh())
    return Model(backbone, LinearHead(D, K))


def batches(count: int = 2, n: int = N, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A loader in the simplest form: a list of (x (n, 3, 5, 5), y (n,))."""
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 3, 5, 5, generator=g), torch.randint(K, (n,), generator=g)) for _ in range(count)]


def message(work) -> str:
    """The error that ``work()`` raises"""
    try:
        work()
    except (ValueError, MemoryError) as error:
        return str(error)
    return "no error"


def said(done: subprocess.CompletedProcess) -> str:
    """A process that ended -> how, and what it wrote: the words of an assertion on it"""
    return f"exit status {done.returncode}\n--- stdout ---\n{done.stdout}\n--- stderr ---\n{done.stderr}"
