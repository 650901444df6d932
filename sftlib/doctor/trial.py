"""The model's outputs on some examples, and an ordinary training step where the user gives none."""

import inspect
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sftlib.batches import to
from sftlib.doctor.look import pair
from sftlib.runtime import device_of


def forward(model: nn.Module, batch):
    """A batch -> the model's output. A Mapping goes in by its names where the model takes them; a detector gets y."""
    batch = to(batch, device_of(model))
    x, y = pair(batch)
    names = inspect.signature(model.forward).parameters
    by_name = any(p.kind is p.VAR_KEYWORD for p in names.values())  # as wrappers that hand on what they are given
    if isinstance(x, Mapping) and (set(x) & set(names) or by_name):
        return model(**batch) if "labels" in batch and ("labels" in names or by_name) else model(**x)
    detects = isinstance(x, list) and isinstance(y, list) and len(names) > 1
    return model(x, y) if detects and model.training else model(x)


def scores(output) -> Tensor | None:
    """The tensor of scores in an output, with at least one floating number an example; None without"""
    if isinstance(output, Mapping):
        output = next((output[name] for name in ("logits", "out") if name in output), None)
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def loss_of(model: nn.Module, batch, task_loss: Callable | None, feature_loss: Callable | None) -> Tensor:
    """The loss of a batch: the losses given; else what the model gives itself; else cross-entropy, where it fits

    ValueError where none can be told.
    """
    _, y = pair(batch)
    y = to(y, device_of(model))
    if feature_loss is not None:
        if not callable(getattr(model, "cut", None)):
            raise ValueError("feature_loss needs z: a model with cut(x) -> (z, output), as sftlib.model.Model has")
        x = to(pair(batch)[0], device_of(model))
        z, output = model.cut(x)
        of_task = 0.0 if task_loss is None else task_loss(output, y)
        return of_task + feature_loss(z, y)
    output = forward(model, batch)
    if task_loss is not None:
        return _told(task_loss, output, y)
    return own_loss(output, y)


def own_loss(output, y) -> Tensor:
    """The loss of an output that tells it: one with a loss, a detector's, or scores (N, K, …) for classes (N, …)"""
    if getattr(output, "loss", None) is not None:
        return output.loss
    if isinstance(output, Mapping) and output and all(isinstance(v, Tensor) and v.ndim == 0 for v in output.values()):
        return sum(output.values())
    logits = scores(output)
    whole = isinstance(y, Tensor) and not y.is_floating_point() and y.dtype is not torch.bool
    if logits is None or not whole or logits.ndim < 2 or y.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError("the loss is not known; pass task_loss= or step=")
    return F.cross_entropy(logits, y.long())


def _told(task_loss: Callable, output, y) -> Tensor:
    """The task loss of an output as the model gives it; of one that it cannot take, of the scores in it"""
    try:
        return task_loss(output, y)
    except (TypeError, AttributeError):
        if isinstance(output, Tensor) or scores(output) is None:
            raise
        return task_loss(scores(output), y)
