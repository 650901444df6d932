"""What comes in from outside: arrays and lists become tensors, and what cannot be meant is refused with its name."""

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max  # the squares of what is larger overflow in float64
ROUNDING = 1e-2  # how far a row of probabilities may be from the sum 1: bf16 keeps two digits


def tensor(value, name: str = "values") -> Tensor:
    """A tensor as it is; an array of NumPy, a number or a list of numbers as a new tensor. ValueError for all else."""
    if isinstance(value, Tensor):
        return value
    wanted = f"got {name} that are a {type(value).__name__}; expected a tensor, an array of NumPy or a list of numbers"
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{wanted}: fill what is masked, or leave it out")
    try:
        array = np.array(value, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{wanted} ({error})") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{wanted} (this holds {array.dtype})")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch has no arithmetic for wider unsigned numbers
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def numbers(value, name: str = "values", *, least: int = 1) -> np.ndarray:
    """value (n,) -> float64 (n,) of NumPy, finite; ValueError for another shape, NaN or fewer than `least`"""
    v = tensor(value, name)
    if v.ndim != 1 or len(v) < least or v.is_complex():
        raise ValueError(f"got {name} of shape {tuple(v.shape)}; expected (n,) with n at least {least}, real numbers")
    v = v.detach().cpu().double()
    sound = v.isfinite()
    if not sound.all():
        raise ValueError(
            f"got {name} that are NaN or infinite at {_places(~sound)}; expected finite numbers: a run that failed has "
            "no result, leave it out of all that is compared and say so"
        )
    return v.numpy()


def vectors(value, name: str = "features") -> Tensor:
    """value (N, D) -> float64 (N, D) on the CPU, finite, N and D at least 1"""
    z = tensor(value, name)
    if z.ndim != 2 or 0 in z.shape or z.is_complex():
        raise ValueError(
            f"got {name} {tuple(z.shape)} of {z.dtype}; expected (N, D), real, with N and D at least 1: maps "
            "(N, C, H, W) are pooled or flattened first, one example is z[None]"
        )
    z = z.detach().cpu().double()
    sound = z.abs() <= LARGEST
    if not sound.all():
        raise ValueError(
            f"got {name} with NaN or infinity in rows {_places(~sound.all(1))}; expected finite numbers below 3e38: "
            "look at these pictures and at the preprocessing, or extract in float32"
        )
    return z


def classes(value, n: int, name: str = "labels") -> Tensor:
    """value (n,) of integers -> int64 (n,) on the CPU"""
    y = tensor(value, name)
    if y.shape != (n,) or y.is_floating_point() or y.is_complex():
        raise ValueError(
            f"got {name} {tuple(y.shape)} of {y.dtype} for {n} rows; expected ({n},), one integer label a row: "
            "y.flatten() for (N, 1), y.argmax(1) for one-hot, y.long() for whole floats"
        )
    return y.detach().cpu().long()


def within(y: Tensor, num_classes: int, name: str = "labels") -> None:
    """y (N,) int64: ValueError unless all lie in 0 … num_classes − 1"""
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(
            f"got {name} in [{int(y.min())}, {int(y.max())}]; expected classes 0 … {num_classes - 1} for "
            f"{num_classes} classes: renumber them, y.unique(return_inverse=True)[1]"
        )


def probability_rows(value, name: str = "probabilities") -> Tensor:
    """value (N, K) -> float64 (N, K) on the CPU: nothing below 0, rows that sum to 1 but for rounding"""
    p = vectors(value, name)
    total = p.sum(1)
    if p.min() < 0 or (total - 1).abs().max() > ROUNDING:
        raise ValueError(
            f"got {name} from {p.min():.3g} with rows that sum to {total.min():.3g} … {total.max():.3g}; expected "
            "rows of probabilities: logits.softmax(1)"
        )
    return p


def finite(name: str, value, *, above=None, least=None, below=None, most=None, remedy: str = "") -> float:
    """value as a float; ValueError unless it is one finite number within the bounds"""
    try:
        refused = isinstance(value, bool | np.bool_ | str | bytes) or getattr(value, "ndim", 0)
        x = math.nan if refused else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        x = math.nan
    bounds = [(above, operator.gt, "above"), (least, operator.ge, "of at least"),
              (below, operator.lt, "below"), (most, operator.le, "of at most")]  # fmt: skip
    if not (math.isfinite(x) and all(holds(x, bound) for bound, holds, _ in bounds if bound is not None)):
        words = " and ".join(f"{word} {bound:g}" for bound, _, word in bounds if bound is not None)
        raise ValueError(f"got {name}={value!r}; expected a finite number {words}".rstrip() + _then(remedy))
    return x


def positive(name: str, value) -> float:
    """value as a float; ValueError unless it is one finite number above 0"""
    try:
        return finite(name, value, above=0)
    except ValueError:
        raise ValueError(f"got {name}={value!r}; expected a positive number, finite") from None


def whole(name: str, value, *, least: int = 1, most: int | None = None, remedy: str = "") -> int:
    """value as an int; ValueError unless it is a whole number from `least` to `most`"""
    try:
        n = least - 1 if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        n = least - 1
    if n < least or (most is not None and n > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"got {name}={value!r}; expected a whole number {bounds}{_then(remedy)}")
    return n


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are"""
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _then(remedy: str) -> str:
    return f": {remedy}" if remedy else ""


def _places(mask: Tensor) -> str:
    places = mask.nonzero().flatten().tolist()
    return f"{places[:5]}{' …' if len(places) > 5 else ''}"
