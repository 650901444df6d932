"""What is tuned and what is not: freezing of modules, and the parameter groups of the optimizer."""

import functools
import math

from torch import nn


def freeze(module: nn.Module) -> nn.Module:
    """Stop ``module`` from changing in any way; returns it.

    Its parameters require no gradient, and it stays in eval mode (BatchNorm uses and keeps its running statistics,
    dropout is off) whatever ``train()`` is called on it or on a model around it. Copies and pickles stay frozen.
    """
    _require_module(module)
    module.requires_grad_(False)
    for part in module.modules():
        # A partial of a module-level function, bound to the module: deepcopy and pickle carry it along.
        part.train = functools.partial(_train_frozen, part)
    return module.eval()


def unfreeze(module: nn.Module) -> nn.Module:
    """Undo ``freeze`` for ``module``, which takes its mode from ``train()`` again; returns it.

    The optimizer does not know of it yet: build one whose groups hold the module's parameters.
    """
    _require_module(module)
    module.requires_grad_(True)
    for part in module.modules():
        part.__dict__.pop("train", None)
    return module.train()


def is_frozen(module: nn.Module) -> bool:
    """Whether all of ``module`` is frozen: no trainable parameter, no part that ``train()`` can switch."""
    _require_module(module)
    return all("train" in part.__dict__ for part in module.modules()) and not trainable(module)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` that require a gradient, each once."""
    return [p for p in module.parameters() if p.requires_grad]


def param_groups(**groups: tuple[nn.Module, float]) -> list[dict]:
    """``param_groups(backbone=(f, 1e-3), head=(g, 1e-2))`` -> groups for any torch optimizer, each with its rate.

    A group holds the trainable parameters of its module. Raises ValueError for a module without any (it is frozen),
    for a parameter in two groups, and for a rate that is not a positive number.
    """
    if not groups:
        raise ValueError("got no groups; expected at least one, as in param_groups(head=(model.head, 1e-2))")
    result, owner = [], {}
    for name, (module, lr) in groups.items():
        _require_module(module)
        if not (isinstance(lr, (int, float)) and math.isfinite(lr) and lr > 0):
            raise ValueError(f"got learning rate {lr!r} for group {name!r}; expected a positive number")
        params = trainable(module)
        if not params:
            raise ValueError(f"group {name!r} is frozen, nothing in it can train: unfreeze() it first, or leave it out")
        for p in params:
            if id(p) in owner:
                raise ValueError(f"groups {owner[id(p)]!r} and {name!r} share a parameter: give each part to one group")
            owner[id(p)] = name
        result.append({"params": params, "lr": lr, "name": name})
    return result


def _train_frozen(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stands in for ``module.train``: the module stays in eval mode, parts unfrozen since then follow ``mode``."""
    module.training = False
    for child in module.children():
        child.train(mode)
    return module


def _require_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"got a {type(module).__name__}; expected a torch.nn.Module, such as model.backbone")
