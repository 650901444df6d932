"""The four modes of BatchNorm in fine-tuning: which statistics it uses × whether its affine map γ, β trains.

y = γ (x − m) / √(v + ε) + β, where m, v are the statistics
- of the batch, while the running ones follow ("train stats"; in ``eval()`` the running ones, as ever), or
- the running ones, which stay as they are, in training too ("eval stats").

Each function sets every BatchNorm inside ``module``, leaves all else alone and returns ``module``. The mode holds
through later ``train()`` and ``eval()`` calls, copies and pickles. Of ``freeze``, ``unfreeze`` and these, the last call
on a BatchNorm holds: to train BatchNorm inside a frozen backbone, freeze first.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sftlib.adaptation.freezing import _require_module, freeze, in_train_mode, unfreeze


def train_stats_train_affine(module: nn.Module) -> nn.Module:
    """m, v of the batch; γ, β train: plain training, which fastai keeps up inside a frozen body (``train_bn``)."""
    for norm in batchnorms(module):
        unfreeze(norm)
    return module


def eval_stats_train_affine(module: nn.Module) -> nn.Module:
    """m, v stay; γ, β train: what small batches need."""
    for norm in batchnorms_with_statistics(module):
        freeze(norm).requires_grad_(True)
    return module


def eval_stats_frozen_affine(module: nn.Module) -> nn.Module:
    """m, v and γ, β stay: a fixed map, as inside ``freeze`` and as torchvision's ``FrozenBatchNorm2d``."""
    for norm in batchnorms_with_statistics(module):
        freeze(norm)
    return module


def train_stats_frozen_affine(module: nn.Module) -> nn.Module:
    """m, v of the batch; γ, β stay: what ``requires_grad = False`` alone leaves, usually by mistake."""
    for norm in batchnorms(module):
        unfreeze(norm).requires_grad_(False)
    return module


def following(module: nn.Module) -> list[str]:
    """Names of every BatchNorm that would take its statistics from the batch in training, whatever the mode is now"""
    return [name for name, m in in_train_mode(module) if isinstance(m, _BatchNorm)]


def batchnorms(module: nn.Module) -> list[nn.Module]:
    """Every BatchNorm inside ``module``; ValueError if there is none."""
    _require_module(module)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        raise ValueError(f"this {type(module).__name__} has no BatchNorm; expected one, as in EfficientNet or ResNet")
    return norms


def batchnorms_with_statistics(module: nn.Module) -> list[nn.Module]:
    """The same; ValueError if one keeps no running statistics."""
    norms = batchnorms(module)
    if any(norm.running_mean is None for norm in norms):
        raise ValueError("a BatchNorm keeps no running statistics; build it with track_running_stats=True")
    return norms
