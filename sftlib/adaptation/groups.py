"""Which part of a model learns at which rate: parameter groups for any torch optimizer."""

import math
from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from sftlib.adaptation.freezing import _require_module, trainable
from sftlib.inputs import finite, positive, whole


def param_groups(**groups: tuple[nn.Module, float]) -> list[dict]:
    """``param_groups(backbone=(f, 1e-3), head=(g, 1e-2))`` -> groups for any torch optimizer, each with its rate.

    A group holds the trainable parameters of its module. Raises ValueError for a module without any (it is frozen),
    for a parameter in two groups, and for a rate that is not a positive number.
    """
    if not groups:
        raise ValueError("got no groups; expected at least one, as in param_groups(head=(model.head, 1e-2))")
    result, owner = [], {}
    for name, pair in groups.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"got a {type(pair).__name__} for group {name!r}; expected (module, learning rate)")
        module, lr = pair
        _require_module(module)
        lr = positive(f"learning rate of group {name!r}", lr)
        params = trainable(module)
        if not params:
            raise ValueError(f"group {name!r} is frozen, nothing in it can train: unfreeze() it first, or leave it out")
        for p in params:
            if id(p) in owner:
                raise ValueError(f"groups {owner[id(p)]!r} and {name!r} share a parameter: give each part to one group")
            owner[id(p)] = name
        result.append({"params": params, "lr": lr, "name": name})
    return result


def add_group(optimizer: Optimizer, **groups: tuple[nn.Module, float]) -> None:
    """``unfreeze(f.stage4); add_group(optimizer, stage4=(f.stage4, 1e-4))``: a live optimizer takes parts over.

    Its other groups keep their momentum. Do so between two calls of ``fit`` (one an epoch, with ``first_epoch``).
    ValueError as in ``param_groups``, and for a parameter that it has already.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = param_groups(**groups)
    for group in new:
        if any(id(p) in held for p in group["params"]):
            raise ValueError(f"the optimizer already holds a parameter of {group['name']!r}: add each part once")
    for group in new:
        optimizer.add_param_group(group)


def geometric_rates(parts: Mapping[str, nn.Module], *, lr: float, factor: float) -> dict[str, tuple[nn.Module, float]]:
    """L parts, the input's first -> {name: (part l, lr / factor^(L − l))} for ``param_groups``: the top learns at lr

    Discriminative rates (Howard and Ruder 2018, arXiv 1801.06146, section 3.2: factor 2.6) over the stages of a
    backbone, ``dict(f.named_children())``; layer-wise decay d is factor = 1 / d over ``blocks(f)``.
    A part without a matrix or kernel (a normalisation, a pooling) shares l with the part below. What has nothing to
    train is left out, and frozen parts are counted: unfreezing one changes no other rate.
    """
    lr, factor = positive("lr", lr), positive("factor", factor)
    if not isinstance(parts, Mapping):
        raise ValueError(
            f"got parts that are a {type(parts).__name__}; expected name -> module: dict(f.named_children())"
        )
    depth, level = {}, 0
    for name, part in parts.items():
        _require_module(part)
        level += any(p.ndim > 1 for p in part.parameters())
        depth[name] = level  # l
    if not math.log(lr) - (level - 1) * math.log(factor) > -700:  # e^-700 is about 1e-304
        raise ValueError(f"got factor={factor:g} for {level} levels; expected one at which lr / factor^{level - 1} is "
                         "above 0: 2.6 is usual")  # fmt: skip
    return {name: (part, lr / factor ** (level - depth[name])) for name, part in parts.items() if trainable(part)}


def blocks(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """name -> block, the input's first: the children, with plain ``nn.Sequential`` opened down to what they hold"""
    _require_module(module)
    found = {}
    for name, child in module.named_children():
        inside = blocks(child, f"{prefix}{name}.") if type(child) is nn.Sequential else {f"{prefix}{name}": child}
        found.update(inside)
    return found


def decay_matrices_only(groups: list[dict], weight_decay: float) -> list[dict]:
    """Groups -> each as two: matrices and kernels with ``weight_decay``, vectors (biases, normalisations) without"""
    weight_decay = finite("weight_decay", weight_decay, least=0)
    if not isinstance(groups, list | tuple) or not all(
        isinstance(group, dict) and {"params", "name"} <= group.keys() for group in groups
    ):
        raise ValueError("got groups without 'params' or 'name'; expected those of param_groups(part=(module, lr))")
    return [
        {**group, "params": params, "weight_decay": decay, "name": f"{group['name']}{suffix}"}
        for group in groups
        for matrices, decay, suffix in ((True, weight_decay, ""), (False, 0.0, " (vectors)"))
        if (params := [p for p in group["params"] if (p.ndim > 1) == matrices])
    ]


def gradual(stages: Sequence[str], epoch: int, *, per_epoch: int = 1) -> tuple[str, ...]:
    """stages, the input's first; epoch from 1 -> those that train in it: none, then the top one, the top two, …

    The head trains alone in epoch 1 (Howard and Ruder 2018, arXiv 1801.06146, section 3.3). Leave out stages that
    have nothing to train: ``gradual(f.stages[:-1], epoch)``, for the last one is a pooling.
    """
    epoch, per_epoch = whole("epoch", epoch), whole("per_epoch", per_epoch)
    return tuple(stages[max(0, len(stages) - (epoch - 1) * per_epoch) :])
