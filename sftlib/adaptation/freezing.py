"""What is tuned and what is not: modules are frozen, with their parameters, buffers and mode."""

import functools

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
    return all(map(stays_in_eval, module.modules())) and not trainable(module)


def stays_in_eval(module: nn.Module) -> bool:
    """Whether `freeze` keeps this module, without what is inside it, in eval mode."""
    return "train" in module.__dict__


def in_train_mode(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts, by name, that ``module.train()`` puts into train mode; every mode is as before afterwards"""
    _require_module(module)
    modes = [(m, m.training) for m in module.modules()]
    module.train()
    found = [(name, m) for name, m in module.named_modules() if m.training]
    for m, mode in modes:
        m.training = mode
    return found


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` that require a gradient, each once."""
    _require_module(module)
    return [p for p in module.parameters() if p.requires_grad]


def train_only(module: nn.Module, *parts: nn.Module) -> nn.Module:
    """Freeze all of ``module`` but ``parts`` of it, as in ``train_only(backbone, backbone.stage1)``; returns it."""
    _require_module(module)
    inside = {id(m) for m in module.modules()}
    for part in parts:
        _require_module(part)
        if id(part) not in inside:
            raise ValueError(f"got a {type(part).__name__} that is no part of the module; expected such as model.head")
    freeze(module)
    for part in parts:
        unfreeze(part)
    return module


def train_biases_only(module: nn.Module) -> nn.Module:
    """Freeze all of ``module`` but its biases, those of normalisations included (their statistics stay); returns it.

    Ben Zaken et al. 2022, BitFit, arXiv 2106.10199: the head trains as well, so call this on the backbone.
    """
    freeze(module)
    biases = [p for m in module.modules() for name, p in m.named_parameters(recurse=False) if name.endswith("bias")]
    if not biases:
        raise ValueError(f"no part of this {type(module).__name__} has a bias; expected one to train")
    for bias in biases:
        bias.requires_grad_(True)
    return module


def _train_frozen(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stands in for ``module.train``: the module stays in eval mode, parts unfrozen since then follow ``mode``."""
    module.training = False
    for child in module.children():
        child.train(mode)
    return module


def _require_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"got a {type(module).__name__}; expected a torch.nn.Module, such as model.backbone")
