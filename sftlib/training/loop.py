"""The training loop, in sight: updates one after the other, epochs as an iterator of records."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from sftlib import guards
from sftlib.batches import as_batch, count, each, to
from sftlib.inputs import finite
from sftlib.metrics import Accuracy, Metric
from sftlib.model import Model
from sftlib.objective import Loss, Objective
from sftlib.parallel import require_shareable
from sftlib.runtime import FLOAT32, Precision, device_of, keep_freed_memory
from sftlib.training.checkpoints import Checkpoint, require_goes_on
from sftlib.training.evaluation import evaluate
from sftlib.training.parts import Parts
from sftlib.training.records import Controls, Epoch, Losses, Records, Step
from sftlib.training.run import Run
from sftlib.training.step import update


def fit(
    model: Model, train_loader: Iterable, optimizer: Optimizer, *, epochs: int, val_loader: Iterable | None = None,
    task_loss: Loss | None = F.cross_entropy, feature_loss: Loss | None = None, feature_weight: float = 1.0,
    penalty: Callable[[Model], Tensor] | None = None, combine: Callable | None = None, terms: Callable | None = count,
    metric: Callable[[], Metric] | None = Accuracy, validate: Callable[[Model], dict] | None = None,
    schedule: Callable[[int], float] | None = None, clip: float | None = None, precision: Precision = FLOAT32,
    first_epoch: int = 1, resume: Checkpoint | None = None, controls: Controls | None = None,
    micro_batch: int | None = None,
) -> Records:  # fmt: skip
    """`for record in fit(…):` trains f and g; a ``Step`` comes after every update, an ``Epoch`` after every pass.

    Arguments are checked at this call; training happens while the result is iterated over, and stops where that stops.
    Losses, ``penalty``, ``combine`` and ``terms`` are those of `Objective`. ``metric()`` makes what measures an epoch;
    None: no measure while training. ``validate(model)`` -> numbers by name stands in for `evaluate` on ``val_loader``.
    ``schedule(step)``, step from 0, multiplies each group's own rate. ``clip``: the gradient over all that is trained
    is scaled to this Euclidean norm where it is longer. ``resume=load_checkpoint(…)`` goes on where that was
    made, ``first_epoch`` > 1 after a whole epoch. ``controls`` may be changed on the way, from another thread too.
    ``micro_batch``: examples at once, see `Parts`. Of several workers (`Parallel`, `Shards`) every one calls this; its
    epochs count all workers' examples, its steps one worker's.

    ValueError for batches that do not fit, before anything moved. FloatingPointError at the first loss, or epoch end,
    that is not finite; all is then back at the last copy (every 20 steps) of a state whose loss was finite.
    """
    objective = Objective(task_loss, feature_loss, feature_weight, penalty, combine, terms)
    guards.check_call(model, optimizer, objective, metric, precision, clip, schedule=schedule, validate=validate)
    controls = Controls.given(controls)
    if resume is not None:
        require_goes_on(resume, first_epoch, epochs, precision)
        first_epoch = resume.epoch + 1
        controls.go_on(resume.controls)
    guards.check_loop(train_loader, val_loader, epochs, first_epoch)
    require_shareable(model, objective, train_loader, val_loader, micro_batch)
    keep_freed_memory()
    parts = Parts(model, micro_batch, objective, precision)
    parts.require_enough(*guards.batch_sizes(train_loader) - {0})
    if validate is None and val_loader is not None:
        how = {"task_loss": task_loss, "metric": metric, "terms": terms, "precision": precision}
        validate = partial(evaluate, loader=val_loader, **how)
    run = Run(train_loader, parts, metric, controls, first_epoch)
    return Records(_updates(run, optimizer, epochs, validate, schedule, clip, resume and resume.progress))


def _updates(run: Run, optimizer: Optimizer, epochs, validate, schedule, clip, saved) -> Iterator[Step | Epoch]:
    model, steps, parts = run.model, len(run.loader) * epochs, run.parts
    device = device_of(run.precision.place(model))
    ahead = device.type == "cuda"  # on MPS such a copy may read memory that was freed since (pytorch issue 189690)
    watch = guards.Watch(model, optimizer, run.objective.functions.values())
    guards.warn_of_freezing(model)
    trial = guards.Trial(run.objective, run.tally.metric)
    for epoch in range(run.epoch, epochs + 1):
        parts.begin_epoch()
        batches, saved = run.begin(epoch) if saved is None else run.resume(saved), None
        run.require_same_plan()
        mark = time.perf_counter()
        for given in batches:
            x, y = as_batch(given, model)
            n, pieces, objective = count(y), parts.of(y), trial.of(y)  # terms are counted before y moves
            weight, lr = _weight(run), _rate(run, optimizer, schedule, steps)  # λ, α
            x, y = each(run.precision.place, to(x, device, ahead)), to(y, device, ahead)
            watch.before_forward(run.step)
            with run.contact():
                objective = replace(objective, feature_weight=weight)
                outcome = parts.backward(x, y, pieces, objective, optimizer)  # L, ∂L/∂f and ∂L/∂g
            watch.before_update(lr, outcome.loss, x)
            update(optimizer, clip)  # f ← f − α ∂L/∂f, g ← g − α ∂L/∂g
            run.add(outcome, pieces, y)
            watch.after_update(last=run.batch == len(run.loader))
            rate = n / (time.perf_counter() - mark)
            yield Step(run.step, steps, epoch, n, Losses(*outcome[:3]), lr, rate, weight, parts.size, run)
            mark = time.perf_counter()
        watch.end_epoch()
        run.over = True
        run.require_same_plan()
        with run.contact():
            train, val = run.values(), guards.validated(validate, model)
        yield Epoch(epoch, epochs, train, val, *_judged(run.tally.measure, val), run)


def _weight(run: Run) -> float:
    """λ of the next step"""
    chosen = run.controls.feature_weight
    return run.objective.feature_weight if chosen is None else chosen


def _rate(run: Run, optimizer: Optimizer, schedule: Callable[[int], float] | None, steps: int) -> float:
    """Set the rates of the next step -> α, the largest

    Without a schedule, and while the control rests, what was set by hand stays.
    """
    control = run.controls.rate
    if schedule is not None:
        factor = finite(f"schedule({run.step})", schedule(run.step), least=0)
        if factor == 0:
            guards.warn_of_rate_0(schedule, run.step, steps)
        set_rates(optimizer, factor * control)
    elif control != optimizer.param_groups[0].get("control", 1.0):
        set_rates(optimizer, control)
        for group in optimizer.param_groups:
            group["control"] = control  # in the optimizer, so that a checkpoint holds it
    return guards.largest_rate(optimizer)


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times the rate that it was built with (kept as "initial_lr")."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _judged(measure: Metric | None, val: dict | None) -> tuple[str | None, bool | None]:
    """By which value an epoch is judged, and whether more is better: the measure's, else the first of a validation,
    which does not say"""
    if measure is not None:
        return measure.key, measure.higher_is_better
    return next((name for name in val or {} if name not in ("loss", "n")), None), None
