"""What is tried on a first batch, before anything has moved: do the measure and the losses fit what the model gives?"""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sftlib.batches import count, each, joined, rows
from sftlib.metrics import Metric
from sftlib.model import Model, eval_mode
from sftlib.runtime import Precision
from sftlib.training.states import holder_of
from sftlib.training.step import Loss, Objective, Piece, at_least_float32, pieces, scalar

SAME = 1e-3  # relative: two losses that differ by less are the same but for rounding


def tried(objective: Objective, metric: Callable[[], Metric] | None) -> Objective:
    """The same objective for the first batch: its task loss looks at what it is given before it answers."""

    def task_loss(output, part) -> Tensor:
        seen = each(Tensor.detach, output)
        try_metric(metric, seen, part)
        if objective.task_loss is None:
            return torch.zeros((), device=part.device if isinstance(part, Tensor) else None)
        try_loss(objective, seen, part)
        return objective.task_loss(output, part)

    return replace(objective, task_loss=task_loss)


def try_metric(metric: Callable[[], Metric] | None, output, y) -> None:
    """ValueError, the measure's own, unless it can take this output for these targets."""
    if metric is not None:
        measure = metric()
        measure.add(output, y)
        if has_values((output, y)):
            _require_labels(output, y, measure)


def _require_labels(output, y, measure: Metric) -> None:
    """The measure's own error; where y are class numbers, one that says what they are"""
    try:
        measure.values()
    except ValueError:
        if not (isinstance(output, Tensor) and isinstance(y, Tensor) and y.numel()):
            raise
        low, high, K = int(y.min()), int(y.max()), output.shape[1]
        if 0 <= low and high < K:
            raise
        remedy = "subtract 1" if (low, high) == (1, K) else "renumber them, or give the head more outputs"
        raise ValueError(
            f"got labels from {low} to {high}; expected 0 … {K - 1} for {K} outputs of the head: {remedy}"
        ) from None


@torch.no_grad()
def try_loss(objective: Objective, output, y) -> None:
    """ValueError unless the task loss of the batch is what its halves give, weighted by their terms."""
    n, loss = count(y), objective.task_loss
    if loss is None or objective.terms is None or n < 2 or not has_values((output, y)):
        return
    if holder_of(loss) is not None:
        loss = copy.deepcopy(loss)  # it may keep what it sees
    halves = pieces(y, objective.terms, [(n + 1) // 2, n // 2])
    with forked(output):
        _require_mean("task_loss", loss, output, y, halves, objective.terms is count)


@torch.no_grad()
def require_means(
    model: Model, x, y, parts: Sequence[Piece], objective: Objective, precision: Precision, *, because: str = ""
) -> None:
    """ValueError unless each loss of a batch is the weighted mean of those of its parts; in eval mode, part by part"""
    with eval_mode(model), precision.autocast(next(model.parameters()).device.type):
        some = [tuple(map(at_least_float32, Model.cut(model, rows(x, part.rows)))) for part in parts]
    z, output = (joined(values) for values in zip(*some, strict=True))
    by_examples = [part._replace(terms=float(part.examples)) for part in parts]
    for name, loss, values, weighed in (
        ("task_loss", objective.task_loss, output, parts),
        ("feature_loss", objective.feature_loss, z, by_examples),
    ):
        if loss is not None:
            _require_mean(name, loss, values, y, weighed, objective.terms is count, because)


def _require_mean(name: str, loss: Loss, values, y, parts: Sequence[Piece], default: bool, because: str = "") -> None:
    t = sum(part.terms for part in parts)
    if not t:
        return
    whole = scalar(name, loss(values, y))
    inner = [(scalar(name, loss(rows(values, p.rows), rows(y, p.rows))), p.terms) for p in parts if p.terms]
    mean = sum(value * (terms / t) for value, terms in inner)
    if not torch.isclose(whole, mean.to(whole.dtype), rtol=SAME, atol=1e-6, equal_nan=True):
        raise ValueError(f"{because}{': ' if because else ''}{_no_mean(name, whole, mean, parts, default)}")


def _no_mean(name: str, whole: Tensor, mean: Tensor, parts: Sequence[Piece], default: bool) -> str:
    n = sum(part.examples for part in parts)
    hint = "take a smaller batch_size, or a loss of single examples"
    if name == "task_loss":
        hint = (
            "pass terms=, a function of y that counts what the loss divides by (the pixels or tokens that are not "
            "ignored, the sum of the class weights), or terms=None for a loss that is no such mean"
        )
    of = "examples" if default or name != "task_loss" else "terms"
    return (
        f"{name} of {n} examples is {whole.item():.6g}, the mean over {len(parts)} parts of them, weighted by their "
        f"{of}, is {mean.item():.6g}; expected the same, a mean over {of}. A loss that sums is none (leave out "
        "reduction='sum'), nor one that leaves targets out or weighs them, compares the examples of a batch with each "
        f"other, or moves its state: {hint}"
    )


def has_values(nest) -> bool:
    """Whether its tensors can be read; those of the device "meta", and fake ones, cannot"""
    found: list[Tensor] = []
    each(lambda t: found.append(t) or t, nest)
    try:
        for t in found:
            if t.numel():
                t.flatten()[0].item()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def forked(nest):
    """A context after which the generators are as before, that of the nest's device too"""
    devices: list[torch.device] = []
    each(lambda t: devices.append(t.device) or t, nest)
    cuda = [d for d in devices if d.type == "cuda"][:1]
    return torch.random.fork_rng(cuda) if devices else contextlib.nullcontext()
