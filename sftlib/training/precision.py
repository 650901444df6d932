"""Which arithmetic is fastest for a model, measured on this machine."""

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from sftlib.batches import as_batch, count, each, rows, to
from sftlib.model import Model
from sftlib.runtime import (
    CANDIDATES,
    FLOAT32,
    Precision,
    PrecisionChoice,
    choose_precision,
    device_of,
    keep_freed_memory,
)
from sftlib.training.parts import out_of_memory
from sftlib.training.step import Loss, Objective, forward


def measure_precision(
    model: Model, x, y=None, *, task_loss: Loss = F.cross_entropy, terms: Callable | None = count
) -> PrecisionChoice:
    """x, y of N examples -> the fastest precision for training on such batches; without y, for inference

    Works on copies of the model, in about 2 s: of the N examples it uses as many as that allows on a CPU. Other
    devices take all of them, or what memory holds: with a few, the time would be that of launching the work.
    """
    keep_freed_memory()
    where = device_of(model)
    x, labels = as_batch((x, [None] * count(x) if y is None else y), model)
    x, y = to(x, where), None if y is None else to(labels, where)
    copies = {p: p.place(_copied(model).train(y is not None)) for p in CANDIDATES}

    def step(precision: Precision, n: int) -> None:
        batch = each(precision.place, rows(x, slice(n)))
        if y is None:
            with torch.inference_mode(), precision.autocast(where.type):
                copies[precision](batch)
        else:
            part = rows(y, slice(n))
            forward(copies[precision], batch, part, Objective(task_loss, terms=terms), precision).loss.backward()

    if where.type != "cpu":
        return _choose_precision(step, count(x))
    step(FLOAT32, 2)  # allocations and kernel selection, once
    start = time.perf_counter()
    step(FLOAT32, 2)
    n = max(2, min(count(x), int(2 * 0.15 / (time.perf_counter() - start))))  # about 0.15 s a step
    return _choose_precision(step, n)


def _copied(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"got a model that cannot be copied, and it is measured on copies ({str(error).splitlines()[0]}); expected "
            "torch.nn.utils.parametrizations.weight_norm in place of the old torch.nn.utils.weight_norm; or choose a "
            "Precision without measuring"
        ) from error


def _choose_precision(step: Callable[[Precision, int], None], n: int) -> PrecisionChoice:
    """With n examples, or as many as memory holds"""
    try:
        return choose_precision(lambda precision: step(precision, n), n, budget_s=1.5)
    except RuntimeError as error:
        if n < 2 or not out_of_memory(error):
            raise
    return _choose_precision(step, n // 2)  # here, and not above: the error holds on to the tensors of the attempt
