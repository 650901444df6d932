"""What the catalogue says of one set of weights."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sftlib.backbones import cuts

INPUTS = ("pictures", "texts", "sound")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One set of weights: what network it belongs to, where it comes from, what it was measured at."""

    name: str
    inputs: str = "pictures"  # what `preprocess` takes: one of INPUTS
    feature_dim: int
    params: int  # of the whole published network, its own head included
    top1: float | None = None  # pictures: ImageNet validation accuracy in [0, 1], at the published size
    top1_source: str = ""
    weights: str
    licence: str
    offline: bool  # comes with the installed packages
    has_batchnorm: bool
    preprocess: Callable  # with .at(size) -> the same for another size, and .size
    build: Callable[[], nn.Module]  # the whole network with random weights
    fill: Callable[[nn.Module], None]  # puts the published weights into it
    cut: Callable[[nn.Module], cuts.Cut]
    empty: Callable[[], nn.Module] | None = None  # the network without values, where making random ones takes long
    fixed_size: bool = False  # takes pictures of the published size only

    @property
    def input_size(self) -> int | None:
        """Pixels a side of a picture, tokens at most of a text; None: any length of sound."""
        return self.preprocess.size
