"""One update, on one page: L = L_g(g(f(x)), y) + λ L_f(f(x), y), its gradients, f ← f − α ∂L/∂f, g ← g − α ∂L/∂g."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.batches import count, each, joined, leaves, rows
from sftlib.model import Model
from sftlib.objective import Loss, Objective, Piece, cut, loss_of, pieces, scalar
from sftlib.runtime import FLOAT32, Precision, check_precision, device_of


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


def forward(model: Model, x, y, objective: Objective, precision: Precision = FLOAT32, terms: float = 1.0) -> Outcome:
    """x, y of N examples -> L and what it is made of; with terms=0, where none counts, L_g is 0 and not 0/0"""
    z, output = cut(model, x, precision)  # z = f(x), output = g(z)
    L_g = L_f = P = torch.zeros((), device=device_of(model))
    if objective.task_loss is not None:
        L_g = loss_of("task_loss", objective.task_loss, output, y) if terms else _nothing(output)
    if objective.feature_loss is not None:
        L_f = loss_of("feature_loss", objective.feature_loss, z, y)
    if objective.penalty is not None:
        P = scalar("penalty", objective.penalty(model))
    L = objective.total(L_g, L_f, P) if objective.combine is None else objective.combine((L_g, L_f), model) + P
    return Outcome(scalar("loss", L), L_g, L_f, P, output)


def backward(model: Model, x, y, pieces: Sequence[Piece], objective: Objective, precision: Precision) -> Outcome:
    """Add ∂L/∂f and ∂L/∂g of the whole batch to the gradients; each piece weighs by its share of terms and examples.

    t of T terms and n of N examples give (t/T) L_g + (n/N) (λ L_f + penalty), T and N those of all workers.
    """
    T, N = model.totals(sum(p.terms for p in pieces), sum(p.examples for p in pieces))
    outcomes = []
    for piece in pieces:
        with model.exchange(last=piece is pieces[-1]):
            found = forward(model, rows(x, piece.rows), rows(y, piece.rows), objective, precision, piece.terms)
            L = found.loss
            _require_gradient(L)
            if objective.combine is None:  # one with it is never cut: a balancer looks at its two losses as a whole
                t, n = piece.terms / T if piece.terms else 0.0, piece.examples / N  # T is 0 where no term counts
                L = objective.total(t * found.task_loss, n * found.feature_loss, n * found.penalty)
            L.backward()
        outcomes.append(Outcome(*(each(Tensor.detach, part) for part in found)))
    return outcomes[0] if len(outcomes) == 1 else _whole(outcomes, pieces, objective)


def update(optimizer: Optimizer, clip: float | None = None) -> None:
    """f ← f − α ∂L/∂f, g ← g − α ∂L/∂g, where the norm of the gradient is at most ``clip``"""
    if clip is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def _whole(outcomes: Sequence[Outcome], pieces: Sequence[Piece], objective: Objective) -> Outcome:
    """The outcomes of the pieces of a batch -> that of the batch"""
    _, L_g, L_f, (P, *_), output = zip(*outcomes, strict=True)
    T, N = sum(p.terms for p in pieces), sum(p.examples for p in pieces)
    L_g = sum(loss * (p.terms / T) for loss, p in zip(L_g, pieces, strict=True)) if T else L_g[0]
    L_f = sum(loss * (p.examples / N) for loss, p in zip(L_f, pieces, strict=True))
    return Outcome(objective.total(L_g, L_f, P), L_g, L_f, P, joined(output))


def _require_gradient(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on anything that can train; expected a gradient: unfreeze a part that it "
            "goes through, and compute it from the tensors that it is given (no .item(), .detach(), numpy)"
        )


def _nothing(output) -> Tensor:
    """0, with a gradient of 0 for everything that made the output: several workers exchange it all the same"""
    return sum(t.nan_to_num().sum() for t in leaves(output) if t.is_floating_point()) * 0.0
