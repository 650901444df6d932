"""A tensor that f and g share, as a language model's embedding and output matrix: it learns from both, or from none."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def shared_parameters(f: nn.Module, g: nn.Module) -> list[tuple[str, str]]:
    """The parameters that are one tensor in two modules -> (name in f, name in g) of each"""
    names = {id(p): name for name, p in f.named_parameters()}
    return [(names[id(p)], name) for name, p in g.named_parameters(remove_duplicate=False) if id(p) in names]


def untie(model: M) -> M:
    """Give g = model.head parameters of its own, with the same values, where it shares them with f = model.backbone.

    Freezing one of the two, or a rate for each, means something only then. An optimizer made before does not know the
    new parameters: make it afterwards. Returns the same model; without a shared parameter nothing happens.
    """
    own = {}
    for _, name in shared_parameters(model.backbone, model.head):
        owner, _, last = name.rpartition(".")
        owner = model.head.get_submodule(owner)
        p = getattr(owner, last)
        if id(p) not in own:
            own[id(p)] = nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
        setattr(owner, last, own[id(p)])
    return model
