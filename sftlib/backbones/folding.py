"""BatchNorm folded into the convolution before it: the same function with fewer passes over the map, for inference."""

import copy
from typing import TypeVar

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def fold_batchnorm(backbone: M) -> M:
    """f -> a copy of f in eval mode, equal up to rounding, without the BatchNorms that follow a convolution

    In eval mode BatchNorm is z -> γ (z − m) / √(v + ε) + β with m, v fixed: linear, so W' = W γ / √(v + ε) and
    b' = (b − m) γ / √(v + ε) + β do both at once. For a frozen extractor only: a folded network
    cannot learn γ, β, m, v.
    """
    folded = copy.deepcopy(backbone).eval()
    if not any(isinstance(m, _BatchNorm) for m in folded.modules()):
        return folded
    for conv_name, norm_name in conv_norm_pairs(folded):
        norm = folded.get_submodule(norm_name)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(folded.get_submodule(conv_name), norm))
        # timm's BatchNormAct2d holds the activation too, which stays.
        folded.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    return folded


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (_BatchNorm, nn.Conv2d)) or super().is_leaf_module(m, module_qualified_name)


def conv_norm_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm that alone reads its output, found in the traced computation."""
    calls = [n for n in _Tracer().trace(module).nodes if n.op == "call_module"]
    used = [n.target for n in calls]
    pairs = [(n.args[0], n) for n in calls if isinstance(module.get_submodule(n.target), _BatchNorm)]
    return [
        (conv.target, norm.target)
        for conv, norm in pairs
        if conv.op == "call_module" and isinstance(module.get_submodule(conv.target), nn.Conv2d)
        and len(conv.users) == 1 and used.count(conv.target) == used.count(norm.target) == 1
    ]  # fmt: skip
