"""The workers of a run: how they start and part, and what is said when one is gone."""

import contextlib
import gc
import os
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, early: its default arguments keep the group that exists by then
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from sftlib import runtime
from sftlib.runtime import Group


class Member(Protocol):
    """What exchanges numbers through the group, and lets go of it when the workers part."""

    def leave(self) -> None:
        """Exchange nothing any more."""


_members: weakref.WeakSet[Member] = weakref.WeakSet()  # of this process, whose group is torch's one default group


def enlist(member: Member) -> None:
    """Have ``member.leave()`` called when the workers part, if it lives by then"""
    _members.add(member)


@contextlib.contextmanager
def workers(*, timeout_s: float = 300.0) -> Iterator[Group]:
    """The group that torchrun started, NCCL between GPUs, else Gloo; without torchrun a group of one.

    A worker that waits longer than ``timeout_s`` for another ends with an error, and torchrun ends the rest. An error
    within ends the process at once, as Ctrl-C does, or ``sys.exit`` with another code than 0. After an ordinary end the
    group is gone: a ``Parallel`` still predicts, but it trains no more.
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
    except SystemExit as error:
        if error.code:
            _end_at_once(error)
        _part()
        raise
    except (Exception, KeyboardInterrupt) as error:
        _end_at_once(error)
    _part()


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
            "own error, if it left one, stands above or below; or one alone called what all must call "
            "(save_checkpoint, evaluate, fit: never under `if group.leads`). "
            "The last checkpoint is whole: start again from it. "
            f"({str(error).splitlines()[0]})"
        ) from None


def _lost_contact(error: RuntimeError) -> bool:
    words = ("connection closed", "connection reset", "timed out", "timeout", "connect to", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _part() -> None:
    """End the group, and Gloo's threads with it.

    They would outlive the group as long as anything refers to it, and one that lets go of a tensor while Python ends
    takes the process with it ("terminate called without an active exception"). When the last reference goes they have
    done their work and are waited for.
    """
    for member in list(_members):
        member.leave()
    gc.collect()  # what refers to itself as well
    dist.destroy_process_group()


def _end_at_once(error: BaseException) -> NoReturn:
    """Print the error, tell torchrun of it, and end this process.

    An ordinary end would wait in Gloo for the others, who wait for this worker, until the timeout is over. Nothing may
    come in between, such as an error of writing where nobody reads any more (stdout into a pipe that is closed).
    """
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    steps = (
        lambda: traceback.print_exception(error),
        lambda: get_error_handler().record_exception(error),
        sys.stdout.flush,
        sys.stderr.flush,
    )
    for step in steps:
        with contextlib.suppress(BaseException):
            step()
    os._exit(code)


def _own_gpu() -> int:
    local, gpus = dist.get_node_local_rank(), torch.cuda.device_count()
    if local >= gpus:
        raise ValueError(
            f"got worker {local} (counted from 0) on a machine with {gpus} GPU(s); expected one GPU for each: start "
            f"with --nproc-per-node={gpus}, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to compute on the CPU"
        )
    return local
