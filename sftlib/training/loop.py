"""The training loop, in sight: epochs as an iterator of records, evaluation, prediction."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.batches import as_batch, count, each, explained, to
from sftlib.metrics import Accuracy, Mean, Metric
from sftlib.model import Model, eval_mode
from sftlib.runtime import ALONE, FLOAT32, Precision, check_precision, device_of, keep_freed_memory
from sftlib.training import guards
from sftlib.training.checkpoints import Checkpoint
from sftlib.training.first_batch import Trial
from sftlib.training.parts import Parts
from sftlib.training.processes.group import contact
from sftlib.training.processes.model import require_same_plan, require_shards, require_shareable
from sftlib.training.records import Controls, Epoch, Losses, Step, at_least_zero
from sftlib.training.run import Run
from sftlib.training.step import Loss, Objective, at_least_float32, loss_of, terms_of, update
from sftlib.training.watch import Watch


def fit(
    model: Model, train_loader: Iterable, optimizer: Optimizer, *, epochs: int, val_loader: Iterable | None = None,
    task_loss: Loss | None = F.cross_entropy, feature_loss: Loss | None = None, feature_weight: float = 1.0,
    penalty: Callable[[Model], Tensor] | None = None, combine: Callable | None = None, terms: Callable | None = count,
    metric: Callable[[], Metric] | None = Accuracy, validate: Callable[[Model], dict] | None = None,
    schedule: Callable[[int], float] | None = None, clip: float | None = None, precision: Precision = FLOAT32,
    first_epoch: int = 1, resume: Checkpoint | None = None, controls: Controls | None = None,
    micro_batch: int | None = None,
) -> Iterator[Step | Epoch]:  # fmt: skip
    """Train f and g; yields a ``Step`` after every update and an ``Epoch`` after every pass.

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
    guards.check_call(model, optimizer, objective, metric, schedule=schedule, validate=validate)
    if resume is not None:
        guards.check_resume(resume, first_epoch, precision)
        first_epoch, controls = resume.epoch + 1, _gone_on(guards.check_controls(controls), resume.controls)
    guards.check_loop(train_loader, val_loader, epochs, first_epoch)
    guards.check_arithmetic(precision, clip)
    require_shareable(model, objective, train_loader, val_loader, micro_batch)
    keep_freed_memory()
    parts = Parts(model, micro_batch, objective, precision)
    guards.check_batch_sizes(model, train_loader, micro_batch)
    controls, group = guards.check_controls(controls), model.group
    run = Run(train_loader, objective, metric, precision, controls, parts, group, first_epoch)
    if validate is None and val_loader is not None:
        how = {"task_loss": task_loss, "metric": metric, "terms": terms, "precision": precision}
        validate = partial(evaluate, loader=val_loader, **how)
    return _run(model, optimizer, run, epochs, validate, schedule, clip, resume and resume.progress)


def _run(model, optimizer, run: Run, epochs, validate, schedule, clip, saved) -> Iterator[Step | Epoch]:
    device, steps = device_of(run.precision.place(model)), len(run.loader) * epochs
    run.step = len(run.loader) * (run.epoch - 1)
    watch, judged = Watch(model, optimizer, run.objective.functions.values()), run.metric and run.metric()
    guards.warn_of_moving_statistics(model)
    ahead = device.type == "cuda"  # on MPS such a copy may read memory that was freed since (pytorch issue 189690)
    trial = Trial(run.objective, run.metric)
    for epoch in range(run.epoch, epochs + 1):
        model.train()  # what is frozen stays in eval mode
        norms = guards.following(model)
        batches, saved = run.begin(epoch) if saved is None else run.resume(saved), None
        with contact(run.group, lambda: run.step):
            require_same_plan(run.loader, epoch, run.batch, run.group)
        mark = time.perf_counter()
        for given in batches:
            x, y = as_batch(given, model)
            guards.check_batch_size(count(y), run.parts.size, norms, run.group)
            lr = _steer(optimizer, _scheduled(schedule, run.step), run.controls.rate)
            weight = run.controls.feature_weight
            weight = run.objective.feature_weight if weight is None else weight
            pieces, objective = run.parts.of(y), trial.of(y)  # terms are counted before y moves
            x, y = each(run.precision.place, to(x, device, ahead)), to(y, device, ahead)
            watch.before_forward(run.step)
            with contact(run.group, lambda: run.step):
                weighed = replace(objective, feature_weight=weight)
                outcome = run.parts.backward(x, y, pieces, weighed, optimizer)  # ∂L/∂f and ∂L/∂g
            watch.before_update(lr, outcome.loss, x)
            update(optimizer, clip)  # f ← f − α ∂L/∂f, g ← g − α ∂L/∂g
            run.add(outcome, pieces, y)
            watch.after_update(last=run.batch == len(run.loader))
            n, rate = count(y), count(y) / (time.perf_counter() - mark)
            yield Step(run.step, steps, epoch, n, Losses(*outcome[:3]), lr, rate, weight, run.parts.size, run)
            mark = time.perf_counter()
        watch.end_epoch()
        run.over = True
        with contact(run.group, lambda: run.step):
            require_same_plan(run.loader, epoch, run.batch, run.group)
            train, val = run.values(), guards.validated(validate, model)
        yield Epoch(epoch, epochs, train, val, *_judged(judged, val), run)


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable, *, task_loss: Loss | None = F.cross_entropy,
    metric: Callable[[], Metric] | None = Accuracy, terms: Callable | None = count, precision: Precision = FLOAT32,
) -> dict[str, float]:  # fmt: skip
    """loader of (x, y) -> {"loss": mean in nats per term, unless task_loss is None; what metric() measures; "n"}

    In eval mode; the model's modes are as before when it returns. Means are sums of terms over sums of counts, so they
    do not depend on the batches. ValueError for a loss that is no mean over ``terms``, and for outputs and targets that
    the metric cannot take; FloatingPointError for a loss that is not finite. Of several workers every one calls this;
    the result is that of all their examples.
    """
    guards.check_functions(task_loss=task_loss, terms=terms)
    guards.check_metric(metric)
    group, measures, n = _group_of(model), _fresh(task_loss, metric), 0
    require_shards(loader, group)
    if group.world > 1:
        model.require_rows(loader)
    trial = Trial(Objective(task_loss, terms=terms), metric)
    with eval_mode(task_loss) if isinstance(task_loss, nn.Module) else nullcontext():
        for output, y, there in _outputs(model, loader, precision):
            if trial.is_due(y):
                trial.look(output, there)
            n += count(y)
            t = count(y) if terms is None else terms_of(terms, y)
            if task_loss is not None and t:
                measures["loss"].add(loss_of("task_loss", task_loss, output, there) * t, t)
            if metric is not None:
                measures["metric"].add(output, there)
    states = group.gathered((n, {name: measure.state() for name, measure in measures.items()}))
    whole = _merged([state for _, state in states], task_loss, metric)
    values = {"loss": _finite(whole["loss"].value, model)} if task_loss is not None else {}
    return values | (whole["metric"].values() if metric is not None else {}) | {"n": sum(n for n, _ in states)}


def predict(model: nn.Module, loader: Iterable, *, precision: Precision = FLOAT32) -> Iterator[tuple]:
    """loader of (x, y) -> (output, y) batch by batch, y where the model is; in eval mode, which each batch enters and
    leaves, so whoever stops early leaves the model as it was"""
    for output, _, y in _outputs(model, loader, precision):
        yield output, y


def _outputs(model: nn.Module, loader: Iterable, precision: Precision) -> Iterator[tuple]:
    """-> output, y as the loader gave it, y where the model is; batches without an example are passed over"""
    check_precision(precision)
    device, seen = device_of(model), False
    for given in loader:
        x, y = as_batch(given, model)
        seen = True
        if count(y) == 0:  # the last batch may leave a worker without one
            continue
        placed = each(precision.place, to(x, device))
        with eval_mode(model), torch.inference_mode(), explained(placed), precision.autocast(device.type):
            output = model(placed)
        yield at_least_float32(output), y, to(y, device)
    if not seen:
        raise ValueError("got a loader without a single batch; expected (x, y) pairs: is the split empty?")


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times the rate that it was built with (kept as "initial_lr")."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _steer(optimizer: Optimizer, scheduled: float | None, rate: float) -> float:
    """Set the rates of the next step -> the largest.

    Without a schedule, and while the control rests, what was set by hand stays.
    """
    if scheduled is not None:
        set_rates(optimizer, scheduled * rate)
    elif rate != optimizer.param_groups[0].get("control", 1.0):
        set_rates(optimizer, rate)
        for group in optimizer.param_groups:
            group["control"] = rate  # in the optimizer, so that a checkpoint holds it
    return guards.largest_rate(optimizer)


def _scheduled(schedule: Callable[[int], float] | None, step: int) -> float | None:
    return None if schedule is None else at_least_zero(f"schedule({step})", schedule(step))


def _gone_on(controls: Controls, saved: Controls | None) -> Controls:
    """Controls that nobody has changed take what the run had; changed ones stay"""
    if saved is not None and controls == Controls():
        controls.rate, controls.feature_weight = saved.rate, saved.feature_weight
    return controls


def _judged(measure: Metric | None, val: dict | None) -> tuple[str | None, bool | None]:
    """By which value an epoch is judged, and whether more is better: the measure's, else the first of a validation,
    which does not say"""
    if measure is not None:
        return measure.key, measure.higher_is_better
    return next((name for name in val or {} if name not in ("loss", "n")), None), None


def _fresh(task_loss, metric) -> dict:
    measures = {} if task_loss is None else {"loss": Mean()}
    return measures if metric is None else measures | {"metric": metric()}


def _merged(states: list[dict], task_loss, metric) -> dict:
    whole = _fresh(task_loss, metric)
    for state in states:
        other = _fresh(task_loss, metric)
        for name, measure in whole.items():
            other[name].load(state[name])
            measure.merge(other[name])
    return whole


def _finite(loss: float, model: nn.Module) -> float:
    if math.isfinite(loss):
        return loss
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    found = f"{broken[0]} holds values that are not finite" if broken else "the parameters are finite"
    raise FloatingPointError(
        f"the mean loss of an evaluation is {loss}, so that what else was measured means nothing; {found}: look at "
        "the data, their preprocessing, and the loss"
    )


def _group_of(model: nn.Module):
    return model.group if isinstance(model, Model) else ALONE
