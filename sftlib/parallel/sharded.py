"""A model whose parameters lie in pieces, one in each worker: for networks that one GPU does not hold (FSDP2)."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.model import Model
from sftlib.parallel.model import Cut, Parallel
from sftlib.parallel.shards import Shards
from sftlib.runtime import Group


class Sharded(Parallel):
    """As `Parallel`, but of parameters, gradients and what the optimizer keeps each worker holds 1/W.

    The stages of f, of one with a list of layers these, are gathered one at a time, when they compute (PyTorch's
    `fully_shard`, FSDP2; Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054, stage 3); the rest, with what f and g share,
    stays gathered between forward and backward. Build it on the CPU after freezing and after loading weights, and the
    optimizer *afterwards*: its tensors are the shards. Worker 0's weights are those of all. Every forward pass is one
    of all workers, so each needs an example of every batch, in evaluation too, and as many parts of it. Without
    workers it is a `Parallel`.
    """

    def _joined(self, cut: Cut) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh  # here, for they take half a second
        from torch.distributed.fsdp import fully_shard

        _give_out(self, self.group)
        mesh = init_device_mesh(self.group.device.type, (self.group.world,))
        for stage in [*_stages(self), cut]:
            fully_shard(stage, mesh=mesh)
        return cut

    def __deepcopy__(self, memo: dict):
        raise ValueError("got a Sharded to be copied; expected one to train: copy the model before it is cut in shards")

    def require_workers(self) -> None:
        """ValueError once the workers have parted: what is left is a worker's shard."""
        if self._cut[0] is None:
            raise ValueError(
                "got a Sharded whose workers have parted; expected its use within `with workers()`. Afterwards load "
                "the checkpoint that it saved into a Model"
            )

    def cut(self, x) -> tuple:
        """x of this worker's n >= 1 examples -> z, output, in a pass whose gradients are exchanged"""
        with warnings.catch_warnings():
            # Of a head that turns axes around, such as TokenHead. Losses do not write into what they are given.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            return super().cut(x)

    def forward(self, x):
        """x of this worker's n >= 1 examples -> output; every worker calls it"""
        learns = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        # What is gathered within inference mode could not be gathered again for training.
        with torch.inference_mode(False), torch.set_grad_enabled(learns):
            output = self.cut(x)[1]
        if self.group.world > 1:
            self._cut[0].reshard()  # no backward pass follows that would
        return output

    @contextmanager
    def exchange(self, *, last: bool) -> Iterator[None]:
        """Within, gradients add up; with those of the ``last`` piece they are exchanged, once a batch"""
        if self.group.world > 1:
            self._cut[0].set_requires_gradient_sync(last)
        yield

    def require_rows(self, loader: Shards) -> None:
        """ValueError where a batch leaves a worker without an example: the others would wait for it."""
        self.require_in_step(loader, None)

    def require_in_step(self, loader: Shards, micro_batch: int | None) -> None:
        """ValueError where a batch leaves a worker without an example, or some with more parts than others."""
        super().require_in_step(loader, micro_batch)
        n, W = len(loader.loader.split), self.group.world
        rest = 0 if loader.loader.drop_last else n % loader.loader.batch_size
        for N in {loader.loader.batch_size, rest} - {0}:
            most, least = (math.ceil(rows / (micro_batch or N)) for rows in (math.ceil(N / W), N // W))
            if most != least:
                raise ValueError(
                    f"got micro_batch={micro_batch} for batches of {N} in {W} workers, {most} parts in some and "
                    f"{least} in others; expected as many in each, for sharded parameters are gathered by all at once: "
                    "take a batch_size that the number of workers divides, and drop_last=True"
                )


def _stages(model: Model) -> list[nn.Module]:
    """The parts of f that are gathered by themselves: its children, of one that holds lists of layers the layers

    Only those with parameters of their own, none of which g has too; the rest is gathered with the whole.
    """
    of_g = {id(p) for p in model.head.parameters()}
    parts = [part for child in model.backbone.children() for part in _layers(child)]
    held = [(part, {id(p) for p in part.parameters()}) for part in parts]
    return [part for part, own in held if own and not own & of_g]


def _layers(part: nn.Module) -> list[nn.Module]:
    """A module -> what its outermost lists (nn.ModuleList) hold; without a list, itself"""
    lists = [m for m in part.modules() if isinstance(m, nn.ModuleList)]
    inner = {id(m) for some in lists for m in some.modules() if m is not some}
    return [layer for some in lists if id(some) not in inner for layer in some] or [part]


@torch.no_grad()
def _give_out(model: nn.Module, group: Group) -> None:
    """Worker 0's parameters and buffers to all"""
    for t in [*model.parameters(), *model.buffers()]:
        there = t.detach().to(group.device)
        dist.broadcast(there, 0)
        t.copy_(there)


def gathered(nest, *, keep: bool):
    """Values and tensors -> the same with shards gathered on the CPU; every worker calls it, some ``keep`` them"""
    if isinstance(nest, dict):
        return {key: gathered(inner, keep=keep) for key, inner in nest.items()}
    if type(nest) in (list, tuple):
        return type(nest)(gathered(inner, keep=keep) for inner in nest)
    if not _is_shard(nest):
        return nest
    full = nest.full_tensor()  # one at a time
    return full.cpu() if keep else full.new_empty(0)


def shards_of(state: dict, own: dict) -> dict:
    """A model's state -> the shards of it that this worker has, where its ``own`` state is in shards"""
    return {name: _like(value, own[name]) for name, value in state.items()}


def optimizer_shards(state: dict, optimizer: Optimizer) -> dict:
    """An optimizer's state -> with what it keeps of each number in shards as the parameters are"""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    parameters = dict(zip(numbers, held, strict=True))
    entries = {
        n: {name: _like(v, parameters[n]) if isinstance(v, Tensor) and v.shape == parameters[n].shape else v
            for name, v in entry.items()}
        for n, entry in state["state"].items()
    }  # fmt: skip
    return {**state, "state": entries}


def _like(value, own):
    """value -> its shard where ``own`` is one, as that lies"""
    if not _is_shard(own) or not isinstance(value, Tensor) or _is_shard(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def _is_shard(value) -> bool:
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
