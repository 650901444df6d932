"""What ``fit`` gives after every update and every pass, and the controls that change a run while it goes on."""

import copy
import math
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from sftlib.inputs import finite, whole


class Losses(NamedTuple):
    """The losses of a step, as tensors () that nothing has waited for."""

    loss: Tensor
    task_loss: Tensor
    feature_loss: Tensor


@dataclass(frozen=True)
class Step:
    """One update, with ``n`` examples. ``step`` and ``epoch`` count from 1; ``lr`` is the largest rate of the groups.

    The losses are those *before* the update. They are read from the device when they are asked for, not before.
    """

    step: int
    steps: int
    epoch: int
    n: int
    losses: Losses
    lr: float
    examples_per_s: float
    feature_weight: float = 1.0  # the weight of this step
    micro_batch: int | None = None  # examples at once; None: the whole batch
    run: object = field(default=None, repr=False, compare=False)  # the `Run`, for a checkpoint

    loss = property(lambda self: self.losses.loss.item(), doc="L = L_g + feature_weight · L_f (+ penalty)")
    task_loss = property(lambda self: self.losses.task_loss.item(), doc="L_g")
    feature_loss = property(lambda self: self.losses.feature_loss.item(), doc="L_f, 0 when there is none")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data. ``train`` and ``val`` hold "loss", "n" and what the measure gives, such as
    "accuracy"; val may be None.

    "loss" is L_g in both, in nats per term, and missing where there is no task_loss. Where L is more than L_g,
    ``train`` holds its mean as "total". ``train`` is measured while the model learns, with augmentation and dropout;
    ``val`` after the epoch, without. ``key`` names the value that the run is judged by; None: there is no measure.
    ``higher_is_better`` is None where only ``validate`` measures, which does not say.
    """

    epoch: int
    epochs: int
    train: dict[str, float]
    val: dict[str, float] | None
    key: str | None = "accuracy"
    higher_is_better: bool | None = True
    run: object = field(default=None, repr=False, compare=False)


@dataclass(slots=True)
class Controls:
    """What a person may change while a run goes on; ``fit(…, controls=controls)`` reads it before each step.

    ``rate`` multiplies the rate of every group, after the schedule. ``feature_weight`` stands in for fit's own;
    None leaves fit's own. A value is checked when it is set: ValueError unless finite and at least 0.
    """

    rate: float = 1.0
    feature_weight: float | None = None

    def __setattr__(self, name: str, value: float | None) -> None:
        if not (value is None and name == "feature_weight"):
            value = finite(name, value, least=0)
        object.__setattr__(self, name, value)

    @classmethod
    def given(cls, controls: "Controls | None") -> "Controls":
        """The controls given, or untouched ones; ValueError for anything else."""
        if controls is not None and not isinstance(controls, cls):
            raise ValueError(f"got a {type(controls).__name__} as controls; expected Controls(), or None")
        return controls or cls()

    def go_on(self, saved: "Controls | None") -> None:
        """What nobody has changed takes what the run had that was ``saved``; changed ones stay."""
        if saved is not None and self == Controls():
            self.rate, self.feature_weight = saved.rate, saved.feature_weight


class Records(Iterator):
    """What ``fit`` returns: each `Step` and `Epoch` is made when it is asked for, and training happens with it.

    Thrown away before anything was asked for, they warn: nothing was trained.
    """

    def __init__(self, records: Generator):
        self._records, self._asked = records, False

    def __next__(self) -> Step | Epoch:
        self._asked = True
        return next(self._records)

    def close(self) -> None:
        """End the run here"""
        self._asked = True
        self._records.close()

    def __repr__(self) -> str:
        return "<a run that goes on while it is iterated over>" if self._asked else f"<{NOTHING}>"

    def __del__(self) -> None:
        if not self._asked and not sys.is_finalizing():
            warnings.warn(f"fit: {NOTHING}", stacklevel=2)


NOTHING = "nothing is trained yet: iterate over it, as in `for record in fit(…):` or `History(fit(…))`"


class History:
    """All records of a run: ``history = History(fit(…))`` trains to the end, and keeps its steps and its epochs."""

    def __init__(self, records: Iterable[Step | Epoch]):
        self.steps: list[Step] = []
        self.epochs: list[Epoch] = []
        for record in records:
            (self.epochs if isinstance(record, Epoch) else self.steps).append(record)

    def plot(self, axes):
        """Two axes of matplotlib -> the same: the loss by step, and what the run is judged by, by epoch"""
        left, right = axes
        left.plot([step.step for step in self.steps], [step.loss for step in self.steps], linewidth=0.8)
        left.set(xlabel="step", ylabel="loss")
        key = self.epochs[-1].key if self.epochs else None
        for name, style in (("train", "-o"), ("val", "--s")):
            points = [(e.epoch, getattr(e, name)[key]) for e in self.epochs if key in (getattr(e, name) or {})]
            if points:
                right.plot(*zip(*points, strict=True), style, label={"val": "validation"}.get(name, name))
        right.set(xlabel="epoch", ylabel=(key or "").replace("_", " "))
        if right.get_legend_handles_labels()[0]:
            right.legend()
        return axes


def best_epoch(
    records: Iterable[Step | Epoch], model: nn.Module, *, measure: str | None = None,
    higher_is_better: bool | None = None, patience: int | None = None,
) -> Iterator[Step | Epoch]:  # fmt: skip
    """``for record in best_epoch(fit(…), model):`` the same records; at their end ``model`` is as after the best epoch

    The best by ``val[measure]``, by default what the run is judged by, the first of equals; its parameters and buffers
    wait on the CPU until then. The direction of "loss" and of the run's own measure is known. ``patience``: the run
    ends after so many epochs without a better one. Where the iteration is left early, the model stays as it is. The
    optimizer's state is that of the last epoch, so go on training from a checkpoint instead. Data that chose the epoch
    no longer measure the model: test data do.
    """
    patience = math.inf if patience is None else whole("patience", patience, remedy="epochs, or None")
    if measure == "loss" and higher_is_better:
        raise ValueError("got measure='loss', higher_is_better=True; expected its true direction")
    return _until_best(records, model, measure, False if measure == "loss" else higher_is_better, patience)


def _until_best(records, model, measure, higher, patience) -> Iterator[Step | Epoch]:
    best, state, since = -math.inf, None, 0
    for record in records:
        if isinstance(record, Epoch):
            if record.run is not None:
                record.run.require_own(model)
            value = _measure(record, measure, higher)
            since += 1
            if value > best:
                best, since = value, 0
                state = {k: _on_cpu(v) for k, v in model.state_dict().items()}
        yield record
        if since >= patience:
            break
    if state is None:
        raise ValueError(f"no epoch had a finite {measure or 'measure'!r}; expected at least one to choose from")
    model.load_state_dict(state)


def _measure(epoch: Epoch, measure: str | None, higher: bool | None) -> float:
    """The value by which the epoch is judged, the larger the better"""
    name = measure or epoch.key
    if name == epoch.key and higher is None:
        higher = epoch.higher_is_better
    if epoch.val is None or name not in epoch.val:
        known = "nothing: give fit a val_loader" if epoch.val is None else f"{', '.join(epoch.val)}"
        raise ValueError(f"got measure={name!r}, but epoch {epoch.epoch} was validated by {known}")
    own = epoch.higher_is_better if name == epoch.key else None
    if higher is None or (own is not None and higher is not own):
        raise ValueError(f"got measure={name!r}, higher_is_better={higher}; expected its true direction")
    return epoch.val[name] if higher else -epoch.val[name]


def _on_cpu(value):
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
