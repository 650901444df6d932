"""What is minimised, L = L_g(output, y) + λ L_f(z, y): what its losses are means over, what of them is refused."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sftlib.batches import at_least_float32, count, explained, rows
from sftlib.runtime import FLOAT32, Precision, device_of

FUNCTIONS = ("task_loss", "feature_loss", "penalty", "combine")  # of an objective; some have state
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective:
    """What is minimised: L_g(output, y) + feature_weight · L_f(z, y) + penalty(model), or combine((L_g, L_f), model)

    L_g is a mean over terms(y): over N examples by default; over the pixels or tokens that count, or the sum of their
    class weights, where the loss leaves some out or weighs them. None says that it is no such mean. L_f is a mean
    over examples.
    """

    task_loss: Loss | None = F.cross_entropy
    feature_loss: Loss | None = None
    feature_weight: float = 1.0
    penalty: Callable[[nn.Module], Tensor] | None = None
    combine: Callable | None = None
    terms: Callable | None = count

    @property
    def functions(self) -> dict[str, Callable | None]:
        """Those of its functions that may have parameters or state, by name"""
        return {name: getattr(self, name) for name in FUNCTIONS}

    def total(self, L_g: Tensor, L_f: Tensor, P: Tensor) -> Tensor:
        """L of its parts, where no ``combine`` weighs them"""
        return L_g + self.feature_weight * L_f + P


class Piece(NamedTuple):
    """Some rows of a batch, the terms of L_g in them, and how many examples they are."""

    rows: slice
    terms: float
    examples: int


def pieces(y, terms: Callable | None, sizes: Sequence[int] | None = None) -> list[Piece]:
    """y of N examples -> what is computed at once: all, or so many after so many"""
    found, start = [], 0
    for size in sizes or [count(y)]:
        some = slice(start, start + size)
        found.append(Piece(some, float(size) if terms is None else terms_of(terms, rows(y, some)), size))
        start += size
    return found


def terms_of(terms: Callable, y) -> float:
    """How many terms the loss of a batch is a mean over; ValueError unless that is a finite number of at least 0"""
    given = terms(y)
    single = isinstance(given, numbers.Real) or (isinstance(given, Tensor) and given.numel() == 1)
    if not single or not 0 <= float(given) < math.inf:
        got = (
            f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) and not single else f"{given!r:.60}"
        )
        raise ValueError(
            f"got terms(y) = {got}; expected one number of at least 0, how many terms the loss is a mean over, such as "
            "(y != -100).sum()"
        )
    return float(given)


def cut(model: nn.Module, x, precision: Precision = FLOAT32) -> tuple:
    """x of N examples -> z = f(x), output = g(z), computed in this precision, as float32 at least, as losses want it"""
    with explained(x), precision.autocast(device_of(model).type):
        z, output = model.cut(x)
    return at_least_float32(z), at_least_float32(output)


def loss_of(name: str, loss: Loss, values, y) -> Tensor:
    """The task loss () of outputs, or the feature loss of z; ValueError for what it cannot take, and for no number"""
    try:
        return scalar(name, loss(values, y))
    except (TypeError, AttributeError) as error:
        if isinstance(values, Tensor):
            raise
        raise ValueError(
            f"got a {type(values).__name__} as the model's output, which the {name} does not take ({error}); "
            "expected a task_loss of this kind of model, such as sum_of_losses for a detector, ctc for transcripts"
        ) from error
    except RuntimeError as error:
        if not (isinstance(y, Tensor) and isinstance(values, Tensor) and _says_what_it_is_of(error)):
            raise
        raise ValueError(
            f"got {tuple(values.shape)} of {values.dtype} from the model, and y {tuple(y.shape)} of {y.dtype}: the "
            f"{name} does not take them ({str(error).splitlines()[0]}); expected a loss of (the model's, y), in "
            "this order, and the y that it asks for: whole numbers for F.cross_entropy"
        ) from error
    except IndexError as error:  # PyTorch's word for a label that is no class
        if not (isinstance(y, Tensor) and isinstance(values, Tensor) and y.numel() and name == "task_loss"):
            raise
        raise ValueError(
            f"got labels from {int(y.min())} to {int(y.max())}; expected 0 … {values.shape[1] - 1} for "
            f"{values.shape[1]} outputs of the head: renumber them, or give the head more outputs ({error})"
        ) from error


def _says_what_it_is_of(error: RuntimeError) -> bool:
    """Whether an operation complains of types or shapes, and not of memory or the like"""
    words = ("type", "not implemented for", "shape", "size")
    return not isinstance(error, torch.OutOfMemoryError) and any(word in str(error) for word in words)


def scalar(name: str, value) -> Tensor:
    """The value; ValueError unless it is one real number in a tensor"""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.reshape(())
    got = f"type {type(value).__name__}"
    if isinstance(value, Tensor):
        got = f"type {value.dtype}" if value.is_complex() else f"shape {tuple(value.shape)}"
    raise ValueError(
        f"got a {name} of {got}; expected a tensor with one real number, a mean over examples: leave out "
        "reduction='none', or take its .mean()"
    )


def holder_of(function):
    """Whose attributes are the state of ``function``: None for a plain function, for a method its object"""
    while isinstance(function, functools.partial) or inspect.ismethod(function):
        function = function.func if isinstance(function, functools.partial) else function.__self__
    return None if inspect.isroutine(function) or isinstance(function, type) else function
