"""The workers of a run, and sums over them."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from sftlib import runtime


@dataclass(frozen=True)
class Group:
    """The workers of a run, as one of them sees it: its ``rank`` in 0 … world − 1, and where it computes."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this worker writes the log and the checkpoints."""
        return self.rank == 0


@contextlib.contextmanager
def workers(*, timeout_s: float = 300.0) -> Iterator[Group]:
    """The group that torchrun started, NCCL between GPUs, else Gloo; without torchrun a group of one.

    A worker that waits longer than ``timeout_s`` for another ends with an error, and torchrun ends the rest.
    """
    if not dist.is_torchelastic_launched():
        yield Group(0, 1, runtime.device())
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _own_gpu())
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s))
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    except Exception as error:
        _end_at_once(error)
    dist.destroy_process_group()


@contextlib.contextmanager
def contact(group: Group, step: Callable[[], int]) -> Iterator[None]:
    """Within, an error that says that another worker is gone becomes one that says what to do, after step ``step()``"""
    try:
        yield
    except RuntimeError as error:
        if not _lost_contact(error):
            raise
        raise RuntimeError(
            f"worker {group.rank} lost contact with another one after step {step()}: that one died or hangs, and its "
            "own error, if it left one, stands above or below. The last checkpoint is whole: start again from it. "
            f"({str(error).splitlines()[0]})"
        ) from None


def _lost_contact(error: RuntimeError) -> bool:
    words = ("connection closed", "connection reset", "timed out", "timeout", "connect to", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _end_at_once(error: Exception) -> None:
    """Print the error, tell torchrun of it, and end this process.

    An ordinary end would wait in Gloo for the others, who wait for this worker, until the timeout is over.
    """
    traceback.print_exception(error)
    get_error_handler().record_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _own_gpu() -> int:
    local, gpus = dist.get_node_local_rank(), torch.cuda.device_count()
    if local >= gpus:
        raise ValueError(
            f"got worker {local} (counted from 0) on a machine with {gpus} GPU(s); expected one GPU for each: start "
            f"with --nproc-per-node={gpus}, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to compute on the CPU"
        )
    return local


def added(sums: Tensor, group: Group) -> Tensor:
    """sums (…) of this worker -> (…), added up over all; waits for them"""
    if group.world > 1:
        sums = sums.to(group.device)
        dist.all_reduce(sums)
    return sums
