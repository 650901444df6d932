"""LoRA: a frozen weight W moves by a matrix of low rank, W + α/r · B A.

Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685, eq. (3). For a convolution the
matrices are those of the kernel read as (C_out, C_in · kh · kw): A is a convolution to r channels, B one by 1 x 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sftlib.adaptation.freezing import _require_module, freeze
from sftlib.inputs import positive, whole


class LoRA(nn.Module):
    """x -> base(x) + α/r · B(A(x)): ``base`` is a frozen nn.Linear or nn.Conv2d, A and B train, B = 0 at the start"""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        rank, alpha = whole("rank", rank), positive("alpha", alpha)
        if not isinstance(base, nn.Linear | nn.Conv2d):
            raise ValueError(f"got a {type(base).__name__}; expected nn.Linear or nn.Conv2d: wrap_lora looks for them")
        W = base.weight  # (D_out, D_in) or (C_out, C_in / groups, kh, kw)
        self.base = freeze(base)
        self.rank, self.scale = rank, alpha / rank
        self.A = nn.Parameter(W.new_empty(rank, *W.shape[1:]))
        self.B = nn.Parameter(W.new_zeros(len(W), rank, *[1] * (W.ndim - 2)))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as torch fills a Linear or Conv2d
        self.register_buffer("merged", None, persistent=False)  # W + ΔW; W itself is never touched

    def delta(self) -> Tensor:
        """ΔW = α/r · B A, in the shape of W; its rank as a matrix (C_out, …) is at most r"""
        return self.scale * (self.B.flatten(1) @ self.A.flatten(1)).view(self.base.weight.shape)

    @property
    def weight(self) -> Tensor:
        """W + ΔW, for modules that read a layer's weight instead of calling it (attention)"""
        return self.base.weight + self.delta() if self.merged is None else self.merged

    @property
    def bias(self) -> Tensor | None:
        """The bias of ``base``."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """x -> what ``base`` would give with the weight W + ΔW"""
        # Through A and B, the gradient of the large W is never formed. Groups do not split A: there, W + ΔW it is.
        if self.merged is None and getattr(self.base, "groups", 1) == 1:
            return self.base(x) + self.scale * self._up(self._down(x))
        return functional_call(self.base, {"weight": self.weight}, x)

    def _down(self, x: Tensor) -> Tensor:
        """x -> A x, with the strides, padding and checks of ``base``"""
        no_bias = {} if self.bias is None else {"bias": self.bias.new_zeros(self.rank)}
        return functional_call(self.base, {"weight": self.A, **no_bias}, x)

    def _up(self, h: Tensor) -> Tensor:
        return F.linear(h, self.B) if self.B.ndim == 2 else F.conv2d(h, self.B)

    def _load_from_state_dict(self, *args) -> None:
        _unmerge(self)  # W + ΔW of other values
        super()._load_from_state_dict(*args)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scale={self.scale:g}, merged={self.merged is not None}"


def wrap_lora(module: nn.Module, *, rank: int, alpha: float) -> nn.Module:
    """A Linear or Conv2d -> its `LoRA`; a bigger module -> itself, with every Linear and Conv2d in it wrapped

    Everything else in ``module`` is frozen, so that only the A and B train; the function it computes is unchanged at
    first: so wrap ``model.backbone``, and leave a new head out, which would stay nearly as it was drawn. Build the
    optimizer afterwards. ``freeze`` holds A and B too; ``unfreeze`` frees W as well.
    """
    _require_module(module)
    rank, alpha = whole("rank", rank), positive("alpha", alpha)
    if any(isinstance(m, LoRA) for m in module.modules()):
        raise ValueError("this module has LoRA inside already; expected one without: wrap once, with the rank wanted")
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise ValueError(f"this {type(module).__name__} has no Linear and no Conv2d; expected one to wrap")
    freeze(module)
    wrapped = {layer: LoRA(layer, rank, alpha) for layer in layers}  # one for a layer that is used twice
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if name and layer in wrapped:
            module.set_submodule(name, wrapped[layer])
    return wrapped.get(module, module)


@torch.no_grad()
def merge_lora(module: nn.Module) -> nn.Module:
    """Every LoRA inside computes W + ΔW once and then costs what its plain layer does; A and B train no more.

    Unmerge before training on or unfreezing; loading a state dict unmerges. The state dict is the same either way.
    """
    for lora in _loras(module):
        if lora.merged is None:
            lora.merged = lora.weight
        lora.A.requires_grad_(False)
        lora.B.requires_grad_(False)
    return module


def unmerge_lora(module: nn.Module) -> nn.Module:
    """Undo ``merge_lora``: W is the one there was, to the bit, and A and B train again unless frozen."""
    for lora in _loras(module):
        _unmerge(lora)
    return module


def _unmerge(lora: LoRA) -> None:
    if lora.merged is not None:
        lora.merged = None
        for p in (lora.A, lora.B):
            p.requires_grad_("train" not in lora.__dict__)  # as `freeze` marks what it froze


def _loras(module: nn.Module) -> list[LoRA]:
    _require_module(module)
    found = [m for m in module.modules() if isinstance(m, LoRA)]
    if not found:
        raise ValueError(f"this {type(module).__name__} has no LoRA inside; expected one that wrap_lora returned")
    return found
