"""What a model gives and how good it is: prediction, and means over a whole data set."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from sftlib import guards
from sftlib.batches import as_batch, at_least_float32, count, each, explained, to
from sftlib.metrics import Accuracy, Metric, Tally
from sftlib.model import Model, eval_mode
from sftlib.objective import Loss, Objective, loss_of, terms_of
from sftlib.parallel import require_shards
from sftlib.runtime import ALONE, FLOAT32, Precision, check_precision, device_of


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable, *, task_loss: Loss | None = F.cross_entropy,
    metric: Callable[[], Metric] | None = Accuracy, terms: Callable | None = count, precision: Precision = FLOAT32,
) -> dict[str, float]:  # fmt: skip
    """loader of (x, y) -> {"loss": mean in nats per term, unless task_loss is None; what metric() measures; "n"}

    In eval mode; the model's modes are as before when it returns. Means are sums of terms over sums of counts, so they
    do not depend on the batches. A loader that augments, or draws with repetition, is measured as it is, with a
    warning. ValueError for a loss that is no mean over ``terms``, and for outputs and targets that
    the metric cannot take; FloatingPointError for a loss that is not finite. Of several workers every one calls this;
    the result is that of all their examples.
    """
    guards.check_functions(task_loss=task_loss, terms=terms)
    guards.check_metric(metric)
    group = model.group if isinstance(model, Model) else ALONE
    require_shards(loader, group)
    if group.world > 1:
        model.require_rows(loader)
    guards.warn_of_redrawing(loader)
    tally, trial = Tally(metric), guards.Trial(Objective(task_loss, terms=terms), metric)
    with eval_mode(task_loss) if isinstance(task_loss, nn.Module) else nullcontext():
        for output, y, there in _outputs(model, loader, precision):
            if trial.is_due(y):
                trial.look(output, there)
            n = count(y)
            t = n if terms is None else terms_of(terms, y)
            if task_loss is not None and t:
                tally.add_loss(loss_of("task_loss", task_loss, output, there), t)
            tally.add(n, output, there)
    whole = tally.merged(group.gathered(tally.state()))
    if task_loss is not None:
        _require_finite(whole.measures["loss"].value, model)
    return whole.values(loss=task_loss is not None)


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


def _require_finite(loss: float, model: nn.Module) -> None:
    if math.isfinite(loss):
        return
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    found = f"{broken[0]} holds values that are not finite" if broken else "the parameters are finite"
    raise FloatingPointError(
        f"the mean loss of an evaluation is {loss}, so that what else was measured means nothing; {found}: look at "
        "the data, their preprocessing, and the loss"
    )
