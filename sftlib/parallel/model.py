"""The model of one worker, and how its gradients become those of all workers' examples."""

import zlib
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sftlib.adaptation import following
from sftlib.inputs import listed
from sftlib.model import Model
from sftlib.objective import Objective
from sftlib.parallel.group import enlist
from sftlib.parallel.shards import Shards
from sftlib.runtime import ALONE, FLOAT32, Group, Precision


class Cut(Model):
    """x of N examples -> z, output: the forward pass that DDP wraps"""

    forward = Model.cut


class Parallel(Model):
    """The model of one worker: a ``Model`` with the same f and g, whose gradients are those of all workers' examples.

    Build it after freezing and after loading weights; worker 0's weights are copied to the others. The optimizer may
    be built before or after. ``precision`` is that of `fit`: DDP wants the weights laid out before it sees them.
    ValueError for a BatchNorm that would follow the batch: each worker has only a part of it.
    """

    def __init__(self, model: Model, group: Group, *, precision: Precision = FLOAT32):
        super().__init__(model.backbone, model.head)
        self.group = group
        precision.place(self)
        cut = Cut(self.backbone, self.head)
        if dist.is_initialized():
            refuse_batch_statistics(self, group)
            cut = self._joined(cut)
            enlist(self)
        self._cut = (cut,)  # in a tuple, so that its names stay out of the state and of the checkpoints

    def _joined(self, cut: Cut) -> nn.Module:
        """The forward pass, joined to those of the other workers"""
        cut = DistributedDataParallel(cut, gradient_as_bucket_view=True)
        cut.broadcast_buffers = False  # equal from the start, and no BatchNorm moves them
        return cut

    def __setstate__(self, state: dict) -> None:
        """Of a copy, whose DDP is another one."""
        super().__setstate__(state)
        if self._exchanges:
            enlist(self)

    @property
    def _exchanges(self) -> bool:
        return isinstance(self._cut[0], DistributedDataParallel)

    def leave(self) -> None:
        """Let go of what joins the workers, and so of the group. What is left predicts, as the ``Model`` it is."""
        self._cut, self.group = (None,), ALONE

    def require_workers(self) -> None:
        """ValueError once the workers have parted: each would train on its own rows alone, without a word."""
        if self._cut[0] is None:
            raise ValueError(
                "got a Parallel whose workers have parted; expected its training within `with workers()`. To go on in "
                "one process train Model(model.backbone, model.head), which is in this worker what it is in all"
            )

    def forward(self, x):
        """x -> output of this worker alone: nothing is exchanged"""
        return Model.cut(self, x)[1]

    def cut(self, x) -> tuple:
        """x of this worker's n examples -> z, output, in a pass whose gradients are exchanged"""
        self.require_workers()
        return self._cut[0](x)

    def totals(self, terms: float, examples: int) -> tuple:
        """Terms and examples of this worker -> those of all over their number, by which DDP divides the gradients"""
        if self.group.world == 1:
            return terms, examples
        # filled on the device: nothing waits
        sums = torch.stack([torch.full((), float(n), device=self.group.device) for n in (terms, examples)])
        dist.all_reduce(sums)
        return tuple(sums / self.group.world)

    def require_in_step(self, loader: Shards, micro_batch: int | None) -> None:
        """ValueError where a batch leaves a worker without an example to train on."""
        loader.require_trainable()

    def require_rows(self, loader: Shards) -> None:
        """ValueError where evaluation needs an example of every batch in each worker, and has none; here it does not"""

    def exchange(self, *, last: bool):
        """Within, gradients add up; with those of the ``last`` piece they are exchanged, once a batch"""
        return self._cut[0].no_sync() if self._exchanges and not last else nullcontext()


def require_shareable(
    model: Model, objective: Objective, train_loader, val_loader, micro_batch: int | None
) -> None:  # fmt: skip
    """ValueError unless several workers can train the model with these losses; one process can with any."""
    if isinstance(model, Parallel):
        model.require_workers()
    for loader in (train_loader, val_loader):
        require_shards(loader, model.group)
    if model.group.world == 1:
        return
    if objective.combine is not None:
        raise ValueError(
            "got combine in several workers; expected fixed weights (feature_weight): a balancer would weigh the "
            "gradients of each worker's slice otherwise than the other workers do, and the average is no balance"
        )
    for name, loss in objective.functions.items():
        if isinstance(loss, nn.Module) and loss.state_dict():
            raise ValueError(
                f"got {type(loss).__name__} as {name}; its state would differ from worker to worker: pass a function "
                "without state, a mean over its terms"
            )
    if objective.task_loss is None and any(p.requires_grad for p in model.head.parameters()):
        raise ValueError("got task_loss=None and a head that can train; no gradient would reach it: freeze(model.head)")
    model.require_in_step(train_loader, micro_batch)
    if val_loader is not None:
        model.require_rows(val_loader)


def require_shards(loader, group: Group) -> None:
    """ValueError unless it is `Shards` where the group is several workers: each must see its own rows, and all all."""
    world = loader.group.world if isinstance(loader, Shards) else 0
    if loader is None or world == group.world or world + group.world == 1:
        return
    if group.world == 1:
        raise ValueError(
            f"got Shards for {world} workers and a model of one; expected Parallel(model, group) within `with "
            "workers()`, or the loader itself: else a part of the rows would count as all"
        )
    raise ValueError(
        f"got a {type(loader).__name__}{f' for {world} worker(s)' if world else ''} in one of {group.world} workers; "
        "expected Shards(loader, group), a worker's rows of every batch: else each would count all of them"
    )


def require_same_plan(shards, epoch: int, batch: int, group: Group) -> None:
    """ValueError unless all workers are at the same place, with as many batches and the same generator state."""
    if group.world == 1:
        return
    crc = zlib.crc32(shards.loader.generator.get_state().numpy().tobytes())
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


def refuse_batch_statistics(model: nn.Module, group: Group) -> None:
    """ValueError for a BatchNorm that would follow a worker's part of the batch."""
    fine = nn.SyncBatchNorm if group.device.type == "cuda" else ()
    names = [name for name in following(model) if not isinstance(model.get_submodule(name), fine)]
    if names:
        raise ValueError(
            f"{listed(names)} would take BatchNorm statistics from the batch, of which each "
            "worker sees a slice; expected BatchNorm in eval mode: call eval_stats_train_affine(model) or freeze f "
            "before Parallel(…). On GPUs nn.SyncBatchNorm.convert_sync_batchnorm(model) is the other way (with "
            "drop_last); on CPUs PyTorch has none"
        )
