"""Terms that keep fine-tuning near its start (L2-SP) or its features of full rank (BSS)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sftlib.inputs import tensor, whole
from sftlib.losses._common import any_on_cpu, at_least_float32


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """-> a copy of every parameter by name: the `start` of l2_sp, taken before training"""
    return {name: w.detach().clone() for name, w in _parameters(module).items()}


def l2_sp(module: nn.Module, start: dict[str, Tensor]) -> Tensor:
    """parameters w, start values w0 -> scalar: 1/2 sum (w - w0)^2; its gradient is w - w0.

    start = snapshot(module), or a deep copy of state_dict() (its buffers are not used). Use it with weight
    decay 0 on these parameters: decay pulls towards 0, this towards w0.
    Li et al. 2018, Explicit inductive bias for transfer learning, arXiv 1802.01483.
    """
    parameters = _parameters(module)
    _check_start(parameters, {*parameters, *module.state_dict()}, start)
    terms = []
    for name, w in parameters.items():
        w, w0 = at_least_float32(w, start[name])
        terms.append((w - w0.detach()).square().sum())
    return 0.5 * sum(terms)


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    if not isinstance(module, nn.Module):
        raise ValueError(f"got a {type(module).__name__}, expected a torch.nn.Module, such as model.backbone")
    return dict(module.named_parameters())


def _check_start(parameters: dict[str, Tensor], names: set[str], start: dict[str, Tensor]) -> None:
    if not parameters:
        raise ValueError("got a module without parameters, expected one with weights to hold near their start")
    if not isinstance(start, Mapping) or not all(isinstance(v, Tensor) for v in start.values()):
        raise ValueError(f"got a start that is a {type(start).__name__}, expected name -> tensor: snapshot(module)")
    missing, unknown = sorted(parameters.keys() - start.keys()), sorted(start.keys() - names)
    if missing or unknown:
        raise ValueError(
            f"got a start without {missing[:5]} and with unknown {unknown[:5]}, expected one tensor for every "
            "parameter: pass the module the start was taken from, for instance l2_sp(model.backbone, start)"
        )
    for name, w in parameters.items():
        if start[name].shape != w.shape:
            raise ValueError(
                f"got start[{name!r}] of shape {tuple(start[name].shape)}, expected {tuple(w.shape)}: "
                "take the start from the same module"
            )
        if w.numel() and start[name].data_ptr() == w.data_ptr():
            raise ValueError(
                f"got start[{name!r}] that is the parameter itself, expected a copy: it would move along and the "
                "penalty stay 0 for ever; use snapshot(module)"
            )


def batch_spectral_shrinkage(z: Tensor, *, k: int) -> Tensor:
    """z (N, D) -> scalar: sum of the k smallest squared singular values of the batch of features.

    A batch has min(N, D) singular values. Gradient 2 sum sigma_i u_i v_i^T, without the differences of singular
    values that make the gradient of the singular *vectors* blow up. Not divided by N.
    Chen et al. 2019, Catastrophic forgetting meets negative transfer (NeurIPS).
    """
    z = tensor(z, "features")
    if any_on_cpu(~z.isfinite()):
        raise ValueError(
            "got features with NaN or infinity, expected finite numbers: training has diverged before this"
        )
    if z.ndim != 2 or not z.is_floating_point():
        raise ValueError(f"got z {tuple(z.shape)} of type {z.dtype}, expected floating features (N, D)")
    k = whole("k", k, most=min(z.shape), remedy="at most min(N, D); lower k, or drop the last small batch")
    (z,) = at_least_float32(z)
    return torch.linalg.svdvals(z)[-k:].square().sum()  # they come in falling order
