"""Checkpoints of a run in several workers: one file, from which any number of workers goes on.

Model, optimizer, schedule and the loader's place are the same in every worker, so the file holds them once, as that of
one process does. Two things differ: the measures of the epoch so far, for each worker counts its own rows, and the
global generators, once dropout has drawn masks for slices of different lengths. They are gathered from all workers.
"""

from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from sftlib import checkpoints
from sftlib.checkpoints import Checkpoint
from sftlib.parallel.group import Group, contact
from sftlib.parallel.model import Parallel
from sftlib.records import Epoch, Step

MEASURES = ("loss", "hits")  # of the epoch so far: (sum, number of examples)


def save_checkpoint(
    path: str | Path, model: Parallel, optimizer: Optimizer, *, step: Step | None = None, epoch: Epoch | None = None,
    seed: int | None = None, settings: dict | None = None, allow_nonfinite: bool = False,
) -> Path:  # fmt: skip
    """`checkpoints.save_checkpoint` of this worker's last record: call it in *every* worker; worker 0 writes.

    As many workers go on from the file bit for bit (on CPUs, same machine and versions). Another number of them, one
    process included, goes on up to rounding: they share out the measures, and begin dropout from worker 0's generators.
    """
    run = checkpoints.run_at(step or epoch)  # in every worker: a loss of its own rows may be the one that is not finite
    if not allow_nonfinite:
        checkpoints.require_finite_run(model, optimizer, run)
    with contact(model.group, lambda: run.step):
        progress = _of_all(run.state_dict(), model.group)
    if model.group.leads:
        checkpoints.save_checkpoint(
            path, model, optimizer, step=step, epoch=epoch, progress=progress, seed=seed, settings=settings,
            allow_nonfinite=allow_nonfinite,
        )  # fmt: skip
    return Path(path)


def of_worker(found: Checkpoint, group: Group) -> Checkpoint:
    """What ``load_checkpoint`` returned -> the same with the progress of this worker"""
    progress = found.progress
    if progress["loader"] is None:
        raise ValueError(
            "got a checkpoint of a run whose loader did not say where it was; expected one of a loader from "
            "sftlib.datasets.loader, whose place several workers can take up"
        )
    parts = progress.get("workers") or []
    if len(parts) == group.world:
        return replace(found, progress=progress | parts[group.rank])
    shares = {name: _share(*progress[name], group) for name in MEASURES if name in progress}
    return replace(found, progress=progress | shares)


def _of_all(own: dict, group: Group) -> dict:
    """The progress of this worker -> that of the run: measures of all workers, and as "workers" what each needs"""
    names = [name for name in MEASURES if name in own]  # none between epochs
    parts = [{name: own[name] for name in ("generators", *names)}]
    if group.world > 1:
        (part,), parts = parts, [None] * group.world
        dist.all_gather_object(parts, part)
    sums = {name: tuple(map(sum, zip(*(part[name] for part in parts), strict=True))) for name in names}
    return own | sums | {"workers": parts}


def _share(total: Tensor, count: int, group: Group) -> tuple[Tensor, int]:
    """A sum over ``count`` examples -> a part for this worker, no less than one example; hits stay whole numbers"""
    first, last = group.rank, group.rank + 1
    own = count * last // group.world - count * first // group.world
    if total.is_floating_point():
        return total * (own / count), own
    return total * last // group.world - total * first // group.world, own
