"""Weights between and among trained models: θ are state dicts of one architecture."""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sftlib.adaptation.batchnorm import batchnorms_with_statistics
from sftlib.inputs import finite
from sftlib.inputs import tensor as as_tensor

State = dict[str, Tensor]


def interpolate(theta0: State, theta1: State, a: float) -> State:
    """θ0, θ1 -> (1 − a) θ0 + a θ1; integers (counts of batches) are θ0's

    Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT), arXiv 2109.01903. θ0 needs the head too: a
    linear probe's. With BatchNorm inside, ``recompute_batchnorm`` afterwards.
    """
    a = finite("a", a, least=0, most=1)
    return _combination([theta0, theta1], [1 - a, a])


def average(thetas: Sequence[State]) -> State:
    """θ_1, …, θ_n -> their mean; integers (counts of batches) are θ_1's

    Wortsman et al. 2022, Model soups, arXiv 2203.05482: the uniform soup. With BatchNorm inside,
    ``recompute_batchnorm`` afterwards.
    """
    if isinstance(thetas, Mapping) or not thetas:
        raise ValueError("got no state dicts; expected at least one, as model.state_dict() gives it")
    return _combination(thetas, [1 / len(thetas)] * len(thetas))


@torch.no_grad()
def recompute_batchnorm(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """batches of (x, y) -> model, whose running statistics are now the means over these batches; returns it

    Every BatchNorm inside, frozen or not, normalises by its batch meanwhile; dropout is off. No parameter and no mode
    changes; after an error the statistics are those of before. Batches count equally (let the loader drop a short last
    one), and are as at training: same preprocessing.
    """
    norms = batchnorms_with_statistics(model)
    kept = [copy.deepcopy(norm.state_dict()) for norm in norms]
    modes = [(m, m.training) for m in model.modules()]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    batches = 0
    try:
        for m, _ in modes:
            m.training = m in norms  # the attribute: what is frozen does not listen to train()
        for batches, (x, _) in enumerate(loader, start=1):  # noqa: B007  counted for the error below
            for norm in norms if batches == 1 else ():
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for the mean over all batches so far
            model(as_tensor(x, "x").to(device))
        if not batches:
            raise ValueError("got a loader without a single batch; expected (x, y) pairs: is the split empty?")
        if not all(norm.running_mean.isfinite().all() and norm.running_var.isfinite().all() for norm in norms):
            raise ValueError("got statistics that are NaN or infinite; expected finite ones: look at the pictures "
                             "and at the weights")  # fmt: skip
    except BaseException:
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for m, mode in modes:
            m.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model


def _combination(thetas: Sequence[State], weights: Sequence[float]) -> State:
    """Σ w_i θ_i in float64, rounded once; the result shares no memory with any θ"""
    first = thetas[0]
    for theta in thetas:
        _check_state(theta)
    for theta in thetas[1:]:
        if {k: v.shape for k, v in theta.items()} != {k: v.shape for k, v in first.items()}:
            different = [k for k in {**first, **theta} if k not in first or k not in theta
                         or first[k].shape != theta[k].shape]  # fmt: skip
            raise ValueError(f"the state dicts differ in {different[0]!r}; expected those of one architecture")
    return {
        name: sum(w * theta[name].double() for w, theta in zip(weights, thetas, strict=True)).to(tensor.dtype)
        if tensor.is_floating_point() else tensor.clone()
        for name, tensor in first.items()
    }  # fmt: skip


def _check_state(theta: State) -> None:
    if not isinstance(theta, Mapping) or not all(isinstance(v, Tensor) for v in theta.values()):
        raise ValueError(f"got a {type(theta).__name__}; expected a dict of tensors: model.state_dict()")
    broken = [name for name, v in theta.items() if not v.isfinite().all()]
    if broken:
        raise ValueError(f"got NaN or infinity in {broken[0]!r}; expected finite weights: this run diverged")
