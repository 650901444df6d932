"""What the losses share: the checks at the public boundary, unit vectors, float32 arithmetic."""

import functools

import torch
from torch import Tensor

from sftlib.inputs import tensor


def check_batch(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """-> z (N, D) floating, y (N,) int64, N and D >= 1; ValueError otherwise. Arrays of NumPy become tensors."""
    z, y = tensor(z, "features"), tensor(y, "labels")
    if z.ndim != 2:
        raise ValueError(
            f"got features of shape {tuple(z.shape)}, expected z (N, D): pool over height and width and "
            "flatten first, for instance z.mean((2, 3)) or z.flatten(1)"
        )
    if not z.is_floating_point():
        raise ValueError(f"got features of type {z.dtype}, expected floating point: use z.float()")
    if y.ndim != 1 or len(y) != len(z):
        raise ValueError(
            f"got labels of shape {tuple(y.shape)} for features of shape {tuple(z.shape)}, expected y (N,) "
            f"with N = {len(z)}: one class index a sample; y.flatten() for (N, 1), y.argmax(1) for one-hot"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"got labels of type {y.dtype}, expected integer class indices: use y.long()")
    if 0 in z.shape:
        raise ValueError(
            f"got an empty batch {tuple(z.shape)}, expected N >= 1 and D >= 1: drop empty batches in the loader"
        )
    return z, y.long()


def check_classes(z: Tensor, y: Tensor, rows: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """-> z (N, D), y (N,) int64, rows (K, D): as check_batch, same D, rows floating, labels in 0 … K - 1.

    The values of y are looked at on the CPU only: on an accelerator that would wait for the device at every
    step (there PyTorch's own device-side assertion stops an index that is out of range).
    """
    z, y = check_batch(z, y)
    rows = tensor(rows, name)
    if not rows.is_floating_point():
        raise ValueError(f"got {name} of type {rows.dtype}, expected floating point: use .float()")
    if rows.ndim != 2 or rows.shape[1] != z.shape[1]:
        raise ValueError(
            f"got {name} of shape {tuple(rows.shape)} for features of shape {tuple(z.shape)}, expected (K, D) "
            f"with D = {z.shape[1]}: one row a class, as long as a feature vector (a matrix (D, K) wants .T)"
        )
    if any_on_cpu((y < 0) | (y >= len(rows))):
        raise ValueError(
            f"got labels from {int(y.min())} to {int(y.max())}, expected 0 … {len(rows) - 1} for the "
            f"K = {len(rows)} rows of {name}: renumber the labels from 0, or make one row a class"
        )
    return z, y, rows


def any_on_cpu(mask: Tensor) -> bool:
    """Whether a value is true, where looking costs nothing: False on an accelerator and inside torch.func.vmap."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return bool(mask.any())
    except RuntimeError:  # vmap forbids a branch on values
        return False


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one type that holds them all, float32 or float64: bf16 has 8 bits, too few for a cosine."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return tuple(t.to(dtype) for t in tensors)


def no_autocast(t: Tensor) -> torch.autocast:
    """A context in which matrix products keep the type of their operands."""
    return torch.autocast(t.device.type, enabled=False)


def unit(v: Tensor) -> Tensor:
    """v (…, D) -> v / ||v||; a zero vector stays zero and passes no gradient back.

    `F.normalize` divides by max(||v||, 1e-12) and so sends a gradient of size 1e12 into a zero vector. Dividing
    by the largest entry first keeps the square from over- and underflowing; the result does not depend on that
    divisor, so it needs no gradient. NaN and infinity come out as NaN.
    """
    largest = v.detach().abs().amax(-1, keepdim=True)
    zero = largest < torch.finfo(v.dtype).tiny
    v = v / largest.masked_fill(zero, 1.0) * ~zero
    squared = (v * v).sum(-1, keepdim=True)
    return v * squared.masked_fill(zero, 1.0).rsqrt()


def class_sums(z: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """z (N, D), y (N,) -> sums (K, D), counts (K, 1). A matrix product: deterministic on a GPU, unlike index_add."""
    member = (y == torch.arange(num_classes, device=y.device)[:, None]).to(z.dtype)  # (K, N)
    with no_autocast(z):
        return member @ z, member.sum(1, keepdim=True)
