"""Which arithmetic is fastest for a model, measured on this machine."""

import copy
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from sftlib.batches import as_batch, count, each, leaves, rows, to
from sftlib.model import Model
from sftlib.objective import Loss, cut, loss_of
from sftlib.runtime import (
    CANDIDATES,
    FLOAT32,
    Precision,
    PrecisionChoice,
    cache_folder,
    choose_precision,
    device_of,
    keep_freed_memory,
    out_of_memory,
    versions,
)


def measure_precision(
    model: Model, x, y=None, *, task_loss: Loss = F.cross_entropy, terms: object = None, remember: bool = False
) -> PrecisionChoice:
    """x, y of N examples -> the fastest precision for training on such batches; without y, for inference

    Works on copies of the model, in about 2 s: of the N examples it uses as many as that allows on a CPU. Other
    devices take all of them, or what memory holds: with a few, the time would be that of launching the work.
    ``remember``: what was measured is kept in data/cache, and taken again for a network of the same parts, with the
    same parts frozen, on batches of the same form, with the same versions, threads and processor. ``terms`` changes
    nothing here: it is taken so that the task's settings for ``fit`` can be handed on as they are.
    """
    if not remember:
        return _measured(model, x, y, task_loss)
    path = cache_folder() / "precision.json"
    known, key = _remembered(path), _key(model, x, y)
    if key in known:
        rates = dict(zip(CANDIDATES, known[key]["rates"], strict=True))
        return PrecisionChoice(CANDIDATES[known[key]["chosen"]], rates)
    choice = _measured(model, x, y, task_loss)
    entry = {"chosen": CANDIDATES.index(choice.precision), "rates": [choice.rates[p] for p in CANDIDATES]}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(_remembered(path) | {key: entry}), encoding="utf-8")
    os.replace(partial, path)
    return choice


def _remembered(path: Path) -> dict:
    """What was measured so far; nothing where the file is missing or damaged, for it can be measured again"""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {key: entry for key, entry in known.items() if len(entry["rates"]) == len(CANDIDATES)}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def _key(model: Model, x, y) -> str:
    """What the speed of arithmetic hangs on, as a digest"""
    forms = [(tuple(t.shape), str(t.dtype)) for t in leaves((x, y))]
    parts = [(name, tuple(p.shape), str(p.dtype), p.requires_grad) for name, p in model.named_parameters()]
    where = device_of(model)
    processor = torch.cuda.get_device_name(where) if where.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return hashlib.sha256(repr((parts, forms, versions(), str(where), processor)).encode()).hexdigest()


def _measured(model: Model, x, y, task_loss: Loss) -> PrecisionChoice:
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
            loss_of("task_loss", task_loss, cut(copies[precision], batch, precision)[1], rows(y, slice(n))).backward()

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
