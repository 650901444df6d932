"""Where a run happens: device, workers, arithmetic, seeds, the quick/full switch, folders.

The only module that reads environment variables: ``SFT_PROFILE`` (quick or full).
"""

import contextlib
import ctypes
import functools
import math
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

ROOT = Path(__file__).resolve().parents[1]


def device() -> torch.device:
    """The fastest device present: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of ``module`` are; the CPU, if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


@dataclass(frozen=True)
class Group:
    """The workers of a run, as one of them sees it: its ``rank`` in 0 … world − 1. A run in one process is alone."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # where this worker computes

    @property
    def leads(self) -> bool:
        """Whether this worker writes the log and the checkpoints."""
        return self.rank == 0

    def gathered(self, value) -> list:
        """What each worker passes, in the order of their ranks, the same in every worker; waits for all"""
        values = [value]
        if self.world > 1:
            values = [None] * self.world
            dist.all_gather_object(values, value)
        return values


ALONE = Group()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device). The only place in the library that seeds globally."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"got seed {seed}; NumPy takes 0 … 2**32 - 1: choose a number in that range")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class Profile:
    """Which of two sizes a notebook runs at: ``quick`` for two CPU cores, ``full`` for a GPU."""

    name: str

    def pick(self, *, quick, full):
        """``quick`` under the quick profile, ``full`` under the full one."""
        return quick if self.name == "quick" else full


def profile() -> Profile:
    """The profile that SFT_PROFILE names; quick when it is not set. Never guessed from the hardware."""
    name = os.environ.get("SFT_PROFILE") or "quick"
    if name not in ("quick", "full"):
        raise ValueError(f"got SFT_PROFILE={name!r}; expected 'quick' or 'full': unset it for quick")
    return Profile(name)


def cache_folder() -> Path:
    """A folder for what can be computed again; created when missing. Git ignores it."""
    folder = ROOT / "data" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- arithmetic ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Precision:
    """Number format of convolutions and matrix products, and memory layout of pictures.

    Weights, losses and updates stay float32: under bfloat16, autocast rounds only the operands of the products.
    """

    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    def autocast(self, device_type: str):
        """A context in which products run in ``dtype``; does nothing for float32."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device_type, self.dtype)

    def place(self, thing):
        """A picture batch (N, C, H, W), or a module holding 4-d weights, laid out as this precision wants it."""
        if not self.channels_last:
            return thing
        if isinstance(thing, nn.Module):
            return thing.to(memory_format=torch.channels_last)
        return thing.contiguous(memory_format=torch.channels_last) if thing.dim() == 4 else thing

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{', channels last' if self.channels_last else ''}"


FLOAT32 = Precision()


def check_precision(precision, *, trains: bool = False) -> None:
    """ValueError unless it is a `Precision`, and one in which gradients are safe if it ``trains``."""
    if not isinstance(precision, Precision):
        raise ValueError(
            f"got precision={precision!r}; expected a sftlib.runtime.Precision: {FLOAT32!r}, "
            "Precision(torch.bfloat16), or measure_precision(model, x, y).precision"
        )
    if trains and precision.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"got {precision.dtype} for training; expected bfloat16 or float32: small gradients are 0 in float16, and "
            "nothing here scales them"
        )


CANDIDATES = (FLOAT32, Precision(torch.float32, True), Precision(torch.bfloat16, True))


@dataclass(frozen=True)
class PrecisionChoice:
    """The fastest precision, and the measured rate of every candidate in examples per second."""

    precision: Precision
    rates: dict[Precision, float]

    def __str__(self) -> str:
        mark = {self.precision: "  <- chosen"} | {p: "  not possible here" for p, r in self.rates.items() if r == 0}
        return "\n".join(f"{str(p):<24}{rate:7.0f} images/s{mark.get(p, '')}" for p, rate in self.rates.items())


def choose_precision(step: Callable[[Precision], object], examples: int, *, budget_s: float = 1.8) -> PrecisionChoice:
    """Time ``step(precision)``, which handles ``examples`` examples, under each candidate and keep the fastest.

    The candidates are float32, float32 channels-last and bfloat16 channels-last. They take turns, so that a machine
    that slows down slows all of them, and each is judged by its best turn. They have no more turns when three of the
    fastest each took less than 4/5 of any other's. A candidate other than plain float32 must win by 5 % to be chosen.
    The first turn of each (allocation, kernel selection) is not counted. A candidate that fails in it has the rate 0:
    an older GPU has no bfloat16 convolution, MPS not every channels-last operation.
    """
    start, times = time.perf_counter(), {precision: [] for precision in CANDIDATES}
    possible = [precision for precision in CANDIDATES if _works(step, precision)]
    for turn in range(1, 1000):
        for precision in possible:
            t = time.perf_counter()
            step(precision)
            _synchronize()
            times[precision].append(time.perf_counter() - t)
        spent = time.perf_counter() - start
        if spent * (turn + 2) / (turn + 1) > budget_s or (
            turn >= 3 and _is_decided(list(filter(None, times.values())))
        ):
            break
    rates = {p: examples / min(some, default=math.inf) for p, some in times.items()}
    fastest = max(rates, key=rates.get)
    return PrecisionChoice(fastest if rates[fastest] > 1.05 * rates[FLOAT32] else FLOAT32, rates)


def _is_decided(times: list[list[float]]) -> bool:
    """Of some candidates' times: whether all of one are far below all of every other"""
    first, *others = sorted(times, key=min)
    return all(max(first) < 0.8 * min(other) for other in others)


def _works(step: Callable[[Precision], object], precision: Precision) -> bool:
    try:
        step(precision)
        _synchronize()
    except RuntimeError:
        if precision == FLOAT32:
            raise
        return False
    return True


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


# --- memory ----------------------------------------------------------------------------------------------------

# From <malloc.h>. What the system's own allocator does with memory that is freed.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST_KEPT = 2**31 - 1  # bytes at the end of the heap; mallopt takes no larger number


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep memory that is freed for the next tensors; True where that was set (Linux with glibc).

    By default glibc gives the map of every larger activation back to the system as soon as it is freed, and the
    system clears its pages again for the next step: a quarter of the time of a training step on a CPU. From this
    call on the process keeps what it once used (up to 2 GiB at the end of its heap, and the gaps within) until
    it ends. Where the user set a MALLOC_… variable of glibc, theirs holds.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, MOST_KEPT))


# What devices and the CPU's allocator say when memory does not suffice
SIGNS = (
    "out of memory", "not enough memory", "can't allocate memory", "alloc_failed",
    "unable to find an engine",  # cuDNN, when there was no memory for any way of computing a convolution
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU's allocator, says that memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in SIGNS)


def versions() -> dict[str, str | int]:
    """What a result depends on besides code and seed: versions, threads, machine. Plain values, for checkpoints."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
