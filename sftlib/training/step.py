"""One update, on one page: L = L_g(g(f(x)), y) + λ L_f(f(x), y), its gradients, f ← f − α ∂L/∂f, g ← g − α ∂L/∂g."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.batches import count, each, explained, joined, rows
from sftlib.model import Model
from sftlib.runtime import FLOAT32, Precision, check_precision, device_of

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
    penalty: Callable[[Model], Tensor] | None = None
    combine: Callable | None = None
    terms: Callable | None = count

    @property
    def functions(self) -> dict[str, Callable | None]:
        """Those of its functions that may have parameters or state, by name"""
        names = ("task_loss", "feature_loss", "penalty", "combine")
        return {name: getattr(self, name) for name in names}


class Piece(NamedTuple):
    """Some rows of a batch, the terms of L_g in them, and how many examples they are."""

    rows: slice
    terms: float
    examples: int


class Outcome(NamedTuple):
    """What a batch gave before the update, as tensors that nothing has waited for: losses () and the model's output."""

    loss: Tensor  # L
    task_loss: Tensor  # L_g
    feature_loss: Tensor  # L_f
    penalty: Tensor
    output: object


def train_step(
    model: Model, x, y, optimizer: Optimizer, *, task_loss: Loss | None, feature_loss: Loss | None = None,
    feature_weight: float = 1.0, penalty=None, combine=None, terms: Callable | None = count, clip: float | None = None,
    precision: Precision = FLOAT32,
) -> Outcome:  # fmt: skip
    """x, y of N examples -> losses and output before the update f ← f − α ∂L/∂f, g ← g − α ∂L/∂g

    α is the rate of each of the optimizer's groups. ``task_loss=None`` trains on the feature loss alone. ``clip``: the
    gradient is made shorter where its norm, over all that the optimizer trains, is larger.
    """
    check_precision(precision, trains=True)
    objective = Objective(task_loss, feature_loss, feature_weight, penalty, combine, terms)
    optimizer.zero_grad()
    outcome = backward(model, x, y, pieces(y, terms), objective, precision)  # ∂L/∂f and ∂L/∂g
    update(optimizer, clip)
    return outcome


def update(optimizer: Optimizer, clip: float | None = None) -> None:
    """f ← f − α ∂L/∂f, g ← g − α ∂L/∂g, where the norm of the gradient is at most ``clip``"""
    if clip is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


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


def backward(model: Model, x, y, pieces: Sequence[Piece], objective: Objective, precision: Precision) -> Outcome:
    """Add ∂L/∂f and ∂L/∂g of the whole batch to the gradients; each piece weighs by its share of terms and examples.

    t of T terms and n of N examples give (t/T) L_g + (n/N) (λ L_f + penalty), T and N those of all workers.
    """
    T, N = model.totals(sum(p.terms for p in pieces), sum(p.examples for p in pieces))
    outcomes = []
    for piece in pieces:
        with model.exchange(last=piece is pieces[-1]):
            outcome = forward(model, rows(x, piece.rows), rows(y, piece.rows), objective, precision, piece.terms)
            _require_gradient(outcome.loss)
            of_terms = piece.terms / T if piece.terms else 0.0  # T is 0 where no term counts
            _weighted(outcome, objective, of_terms, piece.examples / N).backward()
        outcomes.append(Outcome(*(each(Tensor.detach, part) for part in outcome)))
    return outcomes[0] if len(outcomes) == 1 else _whole(outcomes, pieces, objective)


def forward(model: Model, x, y, objective: Objective, precision: Precision = FLOAT32, terms: float = 1.0) -> Outcome:
    """x, y of N examples -> L and what it is made of; with terms=0, where none counts, L_g is 0 and not 0/0"""
    device = device_of(model)
    with explained(x), precision.autocast(device.type):
        z, output = model.cut(x)
    z, output = at_least_float32(z), at_least_float32(output)
    L_g = L_f = P = torch.zeros((), device=device)
    if objective.task_loss is not None:
        L_g = loss_of("task_loss", objective.task_loss, output, y) if terms else _nothing(output)
    if objective.feature_loss is not None:
        L_f = loss_of("feature_loss", objective.feature_loss, z, y)
    if objective.penalty is not None:
        P = scalar("penalty", objective.penalty(model))
    L = _sum(L_g, L_f, P, objective) if objective.combine is None else objective.combine((L_g, L_f), model) + P
    return Outcome(scalar("loss", L), L_g, L_f, P, output)


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


def at_least_float32(nest):
    """Losses are computed in float32 when autocast gave less; float64 and whole numbers stay."""
    return each(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, nest)


def _sum(L_g: Tensor, L_f: Tensor, P: Tensor, objective: Objective) -> Tensor:
    return L_g + objective.feature_weight * L_f + P


def _weighted(outcome: Outcome, objective: Objective, of_terms, of_examples) -> Tensor:
    if objective.combine is not None:  # never cut: a balancer looks at its two losses as a whole
        return outcome.loss
    return _sum(
        outcome.task_loss * of_terms, outcome.feature_loss * of_examples, outcome.penalty * of_examples, objective
    )  # fmt: skip


def _whole(outcomes: Sequence[Outcome], pieces: Sequence[Piece], objective: Objective) -> Outcome:
    """The outcomes of the pieces of a batch -> that of the batch"""
    _, L_g, L_f, P, output = zip(*outcomes, strict=True)
    t, n = sum(p.terms for p in pieces), sum(p.examples for p in pieces)
    L_g = sum(loss * (p.terms / t) for loss, p in zip(L_g, pieces, strict=True)) if t else L_g[0]
    L_f = sum(loss * (p.examples / n) for loss, p in zip(L_f, pieces, strict=True))
    return Outcome(_sum(L_g, L_f, P[0], objective), L_g, L_f, P[0], joined(output))


def _require_gradient(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on anything that can train; expected a gradient: unfreeze a part that it "
            "goes through, and compute it from the tensors that it is given (no .item(), .detach(), numpy)"
        )


def _nothing(output) -> Tensor:
    """0, with a gradient of 0 for everything that made the output: several workers exchange it all the same"""
    leaves: list[Tensor] = []
    each(lambda t: leaves.append(t) or t, output)
    return sum(t.nan_to_num().sum() for t in leaves if t.is_floating_point()) * 0.0
