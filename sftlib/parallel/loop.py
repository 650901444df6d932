"""`fit` and `evaluate` in several workers: the same loop, measures over all workers' examples."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib import training
from sftlib.checkpoints import Checkpoint
from sftlib.model import Model
from sftlib.parallel.checkpoints import of_worker
from sftlib.parallel.group import Group, added, contact
from sftlib.parallel.model import Parallel
from sftlib.parallel.shards import Shards
from sftlib.runtime import FLOAT32, Precision
from sftlib.training import Epoch, Loss, Step, evaluate


def fit(
    model: Parallel, train_loader: Shards, optimizer: Optimizer, *, epochs: int, val_loader: Shards | None = None,
    task_loss: Loss | None = F.cross_entropy, feature_loss: Loss | None = None, feature_weight: float = 1.0,
    penalty: Callable[[Model], Tensor] | None = None, schedule: Callable[[int], float] | None = None,
    precision: Precision = FLOAT32, first_epoch: int = 1, resume: Checkpoint | None = None,
    micro_batch: int | None = None,
) -> Iterator[Step | Epoch]:  # fmt: skip
    """`training.fit` in every worker; its ``Epoch`` records count all workers' examples, its ``Step`` records one's.

    ``resume=load_checkpoint(…)`` goes on from what `parallel.save_checkpoint` wrote, or a run in one process.
    ``micro_batch``: examples at once in a worker; gradients are exchanged once a batch, with a slice's last part.
    Where memory runs out it is *not* halved, as it is in one process: part of the exchange may be under way, and the
    others wait for the rest of it. That worker ends with a MemoryError that says which micro_batch to try, the others
    because they lost contact, and the run goes on from its last checkpoint.

    ``combine`` is not offered: a balancer would see the gradients of L_g and L_f of a worker's slice, weigh them
    otherwise than the other workers do, and the average of such updates is not the balanced one; fixed weights are
    ``feature_weight``. A feature loss with state is refused.
    RuntimeError when another worker died or stays silent longer than the timeout.
    """
    _check(model, task_loss, feature_loss)
    if isinstance(resume, Checkpoint):
        resume, first_epoch = of_worker(resume, model.group), resume.epoch + 1
    records = training.fit(
        model, train_loader, optimizer, epochs=epochs, task_loss=_of_slice(task_loss),
        feature_loss=_of_slice(feature_loss), feature_weight=feature_weight, penalty=penalty, schedule=schedule,
        precision=precision, first_epoch=first_epoch, resume=resume, micro_batch=micro_batch,
    )  # fmt: skip
    progress = resume and resume.progress
    task_loss = task_loss or F.cross_entropy
    return _together(records, model, train_loader, val_loader, task_loss, precision, first_epoch, progress)


def _check(model: Parallel, task_loss, feature_loss) -> None:
    if not isinstance(model, Parallel):
        raise ValueError(f"got a {type(model).__name__}; expected Parallel(model, group)")
    model.require_workers()
    if isinstance(feature_loss, nn.Module) and feature_loss.state_dict():
        raise ValueError(
            f"got {type(feature_loss).__name__} as feature_loss; its state would differ from worker to worker: pass "
            "a function of (z, y) without state, a mean over examples"
        )
    if task_loss is None and any(p.requires_grad for p in model.head.parameters()):
        raise ValueError("got task_loss=None and a head that can train; no gradient would reach it: freeze(model.head)")


def _of_slice(loss: Loss | None) -> Loss | None:
    """The same loss; where a worker has no example, 0 in place of the mean over nothing (nan)"""
    if loss is None or not callable(loss):
        return loss
    return lambda t, y: loss(t, y) if len(y) else t.sum() * 0.0


def _together(
    records, model, train_loader, val_loader, task_loss, precision, first_epoch, progress
) -> Iterator[Step | Epoch]:
    """The records of one worker, the epochs' measures exchanged for those of all workers"""
    group, step = model.group, 0
    with contact(group, lambda: step):
        _require_same_plan(train_loader, first_epoch, group, progress)
        for record in records:
            if isinstance(record, Epoch):
                _require_same_plan(train_loader, record.epoch, group)
                val = None
                if val_loader is not None:
                    val = evaluate_slices(model, val_loader, task_loss=task_loss, precision=precision)
                record = replace(record, train=over_all_workers(record.train, group), val=val)
            else:
                step = record.step
            yield record


def evaluate_slices(
    model: Parallel, loader: Shards, *, task_loss: Loss = F.cross_entropy, precision: Precision = FLOAT32
) -> dict[str, float]:
    """`evaluate` over all workers' slices -> {"loss", "accuracy", "n"} of the whole, the same in every worker"""
    own = ((x, y) for x, y in loader if len(y))  # the last batch may leave a worker without an example
    return over_all_workers(evaluate(model, own, task_loss=task_loss, precision=precision), model.group)


def over_all_workers(measures: dict[str, float], group: Group) -> dict[str, float]:
    """{"loss", "accuracy", "n"} of this worker -> the same of all: sums and counts added up, then divided once"""
    if group.world == 1:
        return measures
    n = measures["n"]
    sums = torch.tensor([measures["loss"] * n, round(measures["accuracy"] * n), n], dtype=torch.float64)
    loss, hits, count = added(sums, group).tolist()
    return {"loss": loss / count, "accuracy": hits / count, "n": int(count)}


def _require_same_plan(shards: Shards, epoch: int, group: Group, progress: dict | None = None) -> None:
    """ValueError unless all workers are at the same place, with as many batches and the same generator state."""
    if group.world == 1:
        return
    batch, state = 0, shards.loader.generator.get_state()
    if progress is not None:  # the place that the loader will take
        batch, state = progress["batch"], progress["loader"]["generator"]
    crc = zlib.crc32(state.numpy().tobytes())
    own = torch.tensor([epoch, batch, len(shards), crc], dtype=torch.int64, device=group.device)
    largest = torch.cat([own, -own])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    names = ("epoch", "place in the epoch", "number of batches", "state of the loader's generator")
    for name, value, high, low in zip(names, own, *largest.chunk(2), strict=True):
        if high != -low:
            raise ValueError(
                f"the workers differ in their {name} (here {value}); expected the same in all: the same data, seed and "
                "checkpoint (a folder that every machine sees), and augmentation that draws from the generator alone"
            )
