"""What is tried on a first batch, and on new targets: do the measure and the losses fit what the model gives?"""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sftlib.batches import count, each, joined, leaves, rows
from sftlib.metrics import Metric
from sftlib.model import Model, eval_mode
from sftlib.objective import Loss, Objective, Piece, cut, holder_of, loss_of, pieces
from sftlib.runtime import Precision

SAME = 1e-3  # relative: two losses that differ by less are the same but for rounding
MOST_KINDS = 64  # classes that are looked for: one that weighs them has shown it by then
MOST_ALONE = 16  # examples
BELOW, BEYOND = -1, 1  # kinds of numbers that are no class


class Trial:
    """Tries the measure and the task loss on a first batch, and the loss again where targets come that are new to it.

    A loss that weighs classes, or leaves targets out, does not show it on one class, and sorted data begin with one. So
    an example of each class, and of each number that is none, is kept, and these are tried together.
    """

    def __init__(self, objective: Objective, metric: Callable[[], Metric] | None):
        self.objective, self.metric = objective, metric
        self.waits, self.classes = True, 0  # for two examples; K
        self.known: set[int] = set()  # what targets there were
        self.kept: list[tuple] = []  # (output, y) of single examples
        self.targets: int | None = None  # of an example

    def of(self, y) -> Objective:
        """y of a batch, before it moves, so that nothing waits -> the objective that it is to be computed with"""
        return replace(self.objective, task_loss=self._loss) if self.is_due(y) else self.objective

    def is_due(self, y) -> bool:
        """Whether something in y has not been tried; of what is on a device, the first batch alone"""
        if self.waits:
            return True
        readable = self.classes and isinstance(y, Tensor) and y.device.type == "cpu" and y.numel() and has_values(y)
        return bool(readable and (self._kinds(y) - self.known or y[0].numel() != self.targets))

    def look(self, output, y) -> None:
        """ValueError unless the measure can take this, and the task loss is a mean over its terms."""
        n, readable = count(y), has_values((output, y))
        if self.waits and self.metric is not None:
            _try_metric(self.metric(), output, y, readable)
        if self.objective.task_loss is not None and self.objective.terms is not None and n and readable:
            if self.waits:
                _try_loss(self.objective, output, y, [(n + 1) // 2, n // 2])
            self._try_kinds(output, y)
        self.waits = self.waits and n + len(self.kept) < 2

    def _loss(self, output, part) -> Tensor:
        seen = each(Tensor.detach, output)
        self.look(seen, part)
        if self.objective.task_loss is None:
            return torch.zeros((), device=part.device if isinstance(part, Tensor) else None)
        return self.objective.task_loss(output, part)

    def _try_kinds(self, output, y) -> None:
        scored = isinstance(output, Tensor) and isinstance(y, Tensor) and y.shape == output.shape[:1] + output.shape[2:]
        if scored and not y.is_floating_point():
            self.classes = output.shape[1]
            self._require_as_many(y)
        kinds = self._kinds(y) if scored else set()
        chosen = [self._row(y, kind) for kind in sorted(kinds - self.known)]
        chosen = chosen or list(range(min(count(y), 2 - len(self.kept))))
        self.known |= kinds
        self.kept += [(rows(output, slice(i, i + 1)), rows(y, slice(i, i + 1))) for i in chosen]
        if chosen and len(self.kept) > 1:
            outputs, targets = zip(*self.kept, strict=True)
            some = (_cropped(outputs, 2), _cropped(targets, 1)) if scored else (joined(outputs), joined(targets))
            n = len(self.kept)
            _try_loss(self.objective, *some, [1] * min(n, MOST_ALONE) + [n - MOST_ALONE] * (n > MOST_ALONE))

    def _kinds(self, y) -> set[int]:
        """Of labels (N,) which there are; of maps and tokens whether there are some below 0 and some beyond K - 1"""
        if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype is torch.bool or not y.numel():
            return set()
        if y.ndim == 1:
            kinds = set(y.unique().tolist())
            return kinds if len(self.known) < MOST_KINDS else {k for k in kinds if not 0 <= k < self.classes}
        low, high = int(y.min()), int(y.max())
        return {0} | ({BELOW} if low < 0 else set()) | ({BEYOND} if high >= self.classes else set())

    def _row(self, y: Tensor, kind: int) -> int:
        """The example with most of it"""
        of_kind = y == kind
        if y.ndim > 1 and kind:
            of_kind = y < 0 if kind == BELOW else y >= self.classes
        return int(of_kind.flatten(1).sum(1).argmax()) if y.ndim > 1 else int(of_kind.nonzero()[0])

    def _require_as_many(self, y: Tensor) -> None:
        """ValueError where examples have more targets in one batch than in another and are to weigh the same"""
        targets, self.targets = self.targets, y[0].numel()
        if targets not in (None, self.targets) and self.objective.terms is count:
            raise ValueError(
                f"got {targets} targets an example in one batch and {self.targets} in another, and a loss that is to "
                "be a mean over examples; expected a mean over targets: pass terms=, a function of y that counts them, "
                "such as lambda y: (y != -100).sum()"
            )


def _cropped(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """n of (1, …) -> (n, …), from ``axis`` on as long as the shortest"""
    shortest = [min(sizes) for sizes in zip(*(t.shape[axis:] for t in tensors), strict=True)]
    return torch.cat([t[(slice(None),) * axis + tuple(map(slice, shortest))] for t in tensors])


def _try_metric(measure: Metric, output, y, readable: bool) -> None:
    """The measure's own error for what it cannot take; where y are class numbers, one that says what they are"""
    measure.add(output, y)
    try:
        if readable:
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
def _try_loss(objective: Objective, output, y, sizes: Sequence[int]) -> None:
    """ValueError unless the task loss of the batch is what parts of these sizes give, weighted by their terms."""
    if count(y) < 2:
        return
    if any(not t.ndim for t in leaves(output)):
        raise ValueError(
            "got single numbers as the model's output, such as the losses of a detector in train mode, which are no "
            "mean over its examples; expected terms=None with them, and metric=None in fit"
        )
    loss = objective.task_loss
    if holder_of(loss) is not None:
        loss = copy.deepcopy(loss)  # it may keep what it sees
    with forked(output):
        _require_mean("task_loss", loss, output, y, pieces(y, objective.terms, sizes), objective.terms is count)


@torch.no_grad()
def require_means(
    model: Model, x, y, parts: Sequence[Piece], objective: Objective, precision: Precision, *, because: str = ""
) -> None:
    """ValueError unless each loss of a batch is the weighted mean of those of its parts; in eval mode, part by part"""
    with eval_mode(model):
        some = [cut(model, rows(x, part.rows), precision) for part in parts]
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
    whole = loss_of(name, loss, values, y)
    inner = [(loss_of(name, loss, rows(values, p.rows), rows(y, p.rows)), p.terms) for p in parts if p.terms]
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
    try:
        for t in leaves(nest):
            if t.numel():
                t.flatten()[0].item()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def forked(nest):
    """A context after which the generators are as before, that of the nest's device too"""
    devices = [t.device for t in leaves(nest)]
    cuda = [d for d in devices if d.type == "cuda"][:1]
    return torch.random.fork_rng(cuda) if devices else contextlib.nullcontext()
