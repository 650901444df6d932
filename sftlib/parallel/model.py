"""The model of one worker, and how its gradients become those of all workers' examples."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from sftlib.model import Model
from sftlib.parallel.group import Group, enlist
from sftlib.runtime import FLOAT32, Precision


class _Cut(nn.Module):
    """x (N, …) -> z (N, D), logits (N, K): the forward pass that DDP wraps"""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.backbone(x)  # (N, D)
        return z, self.head(z)  # (N, K)


class _Weighted(torch.autograd.Function):
    """t -> t, whose gradient is multiplied by ``weight`` () on the way back"""

    @staticmethod
    def forward(ctx, t: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return t.view_as(t)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (weight,) = ctx.saved_tensors
        return gradient * weight.to(gradient.dtype), None


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
        cut = _Cut(self.backbone, self.head)
        if dist.is_initialized():
            _refuse_batch_statistics(self, group)
            cut = DistributedDataParallel(cut, gradient_as_bucket_view=True)
            cut.broadcast_buffers = False  # equal from the start, and no BatchNorm moves them
            enlist(self)
        self._cut = (cut,)  # in a tuple, so that its names stay out of the state and of the checkpoints
        self._weight = self._weight_of_slice = None  # () of the slice that is computed in parts; else None

    def __setstate__(self, state: dict) -> None:
        """Of a copy, whose DDP is another one."""
        super().__setstate__(state)
        if self.exchanges:
            enlist(self)

    @property
    def exchanges(self) -> bool:
        """Whether other workers take part in every batch, and wait for this one"""
        return not isinstance(self._cut[0], _Cut)

    def leave(self) -> None:
        """Let go of DDP, and with it of the group. From then on the model predicts, as the ``Model`` it is."""
        self._cut = (None,)

    def require_workers(self) -> None:
        """ValueError once the workers have parted: each would train on its own rows alone, without a word."""
        if self._cut[0] is None:
            raise ValueError(
                "got a Parallel whose workers have parted; expected its training within `with workers()`. To go on in "
                "one process train Model(model.backbone, model.head), which is in this worker what it is in all"
            )

    @contextlib.contextmanager
    def part(self, k: int, count: int, n: int) -> Iterator[None]:
        """Within, a forward and a backward pass go over part k (from 0) of ``count`` of this worker's slice (n).

        Gradients add up here; with those of the last part they are exchanged, once, however many parts others have.
        """
        if k == 0:
            self._weight_of_slice = self._weight_of(n)
        local = self.exchanges and k < count - 1
        self._weight = self._weight_of_slice
        try:
            with self._cut[0].no_sync() if local else contextlib.nullcontext():
                yield
        finally:
            self._weight = None

    def cut(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, …), this worker's slice -> z (n, D), logits (n, K); n may be 0"""
        self.require_workers()
        n = len(x)
        weight = self._weight_of(n) if self._weight is None else self._weight
        if n == 0:  # take part in the exchange all the same, with a picture that counts for nothing
            x = x.new_zeros(1, *x.shape[1:])
        z, logits = self._cut[0](x)
        if self.group.world == 1:
            return z, logits
        return _Weighted.apply(z[:n], weight), _Weighted.apply(logits[:n], weight)

    def _weight_of(self, n: int) -> Tensor:
        """n of this worker's slice -> () n · world / N: DDP divides by the number of workers, the mean is over N"""
        if self.group.world == 1:
            return torch.ones(())
        total = torch.full((), float(n), device=self.group.device)  # filled on the device: nothing waits
        dist.all_reduce(total)
        return n * self.group.world / total


def _refuse_batch_statistics(model: nn.Module, group: Group) -> None:
    fine = nn.SyncBatchNorm if group.device.type == "cuda" else ()
    model.train()  # what is frozen stays in eval mode
    names = [
        n for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training and not isinstance(m, fine)
    ]
    if names:
        raise ValueError(
            f"{names[0]} (and {len(names) - 1} more) would take BatchNorm statistics from the batch, of which each "
            "worker sees a slice; expected BatchNorm in eval mode: call eval_stats_train_affine(model) or freeze f "
            "before Parallel(…). On GPUs nn.SyncBatchNorm.convert_sync_batchnorm(model) is the other way (with "
            "drop_last); on CPUs PyTorch has none"
        )
