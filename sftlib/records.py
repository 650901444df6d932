"""What ``fit`` gives after every update and every pass, and the controls that change a run while it goes on."""

import math
import numbers
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Outcome(NamedTuple):
    """What a step computed, as tensors that nothing has waited for: losses () in nats per example, logits (N, K)."""

    loss: Tensor
    task_loss: Tensor
    feature_loss: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Step:
    """One update. ``step`` and ``epoch`` count from 1; ``lr`` is the largest rate of the optimizer's groups.

    The losses are those *before* the update. They are read from the device when they are asked for, not before.
    """

    step: int
    steps: int
    epoch: int
    outcome: Outcome
    lr: float
    images_per_s: float
    feature_weight: float = 1.0  # the weight of this step
    micro_batch: int | None = None  # examples at once; None: the whole batch
    run: object = field(default=None, repr=False, compare=False)  # the run's `Progress`, for a checkpoint

    loss = property(lambda self: self.outcome.loss.item(), doc="L = L_g + feature_weight · L_f (+ penalty)")
    task_loss = property(lambda self: self.outcome.task_loss.item(), doc="L_g")
    feature_loss = property(lambda self: self.outcome.feature_loss.item(), doc="L_f, 0 when there is none")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data. ``train`` and ``val`` hold "loss", "accuracy" and "n"; val may be None.

    ``train`` is measured while the model learns, with augmentation and dropout; ``val`` after the epoch, without.
    """

    epoch: int
    epochs: int
    train: dict[str, float]
    val: dict[str, float] | None
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
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value) and value >= 0):
                raise ValueError(f"got {name}={value!r}; expected a finite number of at least 0")
            value = float(value)
        object.__setattr__(self, name, value)
