"""Whether torch.compile pays: it makes steps faster, but takes its time first, and needs a compiler on the machine."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sftlib.batches import to
from sftlib.model import Model
from sftlib.objective import Loss, cut, loss_of
from sftlib.runtime import FLOAT32, Precision, device_of

REPEATS = 5


@dataclass(frozen=True)
class CompileTimes:
    """Seconds of a training step without and with torch.compile, seconds of compiling, and a run's length in steps.

    ``problem`` says why nothing could be compiled; then ``compiled_s`` is infinite.
    """

    steps: int
    eager_s: float
    compiled_s: float
    compile_s: float
    problem: str = ""

    @property
    def break_even(self) -> float:
        """Steps after which the saved time has paid for the compiling; infinite when a step is not faster"""
        saved = self.eager_s - self.compiled_s
        return self.compile_s / saved if saved > 0 else math.inf

    @property
    def pays(self) -> bool:
        """Whether the run is longer than that"""
        return self.steps > self.break_even

    def __str__(self) -> str:
        eager = f"a step takes {1000 * self.eager_s:.1f} ms"
        if self.problem:
            return f"{eager}; compiling is not possible here: {self.problem}"
        times = f"{eager}, compiled {1000 * self.compiled_s:.1f} ms after {self.compile_s:.1f} s of compiling"
        if math.isinf(self.break_even):
            return f"{times}: never pays"
        return (
            f"{times}: pays after {math.ceil(self.break_even):,} steps, {'' if self.pays else 'not '}in {self.steps:,}"
        )


def compile_pays(
    model: Model, x: Tensor, y: Tensor, steps: int, *, task_loss: Loss = F.cross_entropy,
    precision: Precision = FLOAT32, compiler: Callable[[nn.Module], object] = nn.Module.compile,
) -> CompileTimes:  # fmt: skip
    """x (N, …), y (N,), one batch -> is a run of ``steps`` such steps shorter with a compiled f?

    If ``.pays``, call ``model.backbone.compile()`` before `fit`: the module stays itself, with its parameters and
    names. Measured on copies: a few steps, and the compiling, 10 to 60 s (so ask for long runs only). Each batch size
    is compiled anew, so give the loader ``drop_last=True``.
    """
    where = device_of(model)
    x, y = precision.place(to(x, where)), to(y, where)
    plain, compiled = (precision.place(copy.deepcopy(model)).train() for _ in range(2))

    def step(model: Model) -> None:
        loss = loss_of("task_loss", task_loss, cut(model, x, precision)[1], y)
        loss.backward()
        loss.item()  # waits for the device

    eager_s = _best_s(lambda: step(plain))
    start = time.perf_counter()
    try:
        compiler(compiled.backbone)
        step(compiled)  # compiles
        first_s = time.perf_counter() - start
        compiled_s = _best_s(lambda: step(compiled))
    except Exception as error:  # of many kinds: no compiler, no headers, a graph that it cannot take
        return CompileTimes(steps, eager_s, math.inf, time.perf_counter() - start, _why(error))
    return CompileTimes(steps, eager_s, compiled_s, max(first_s - compiled_s, 0.0))


def _best_s(step: Callable[[], None]) -> float:
    """Seconds of the fastest of a few; the first one, which allocates and selects kernels, does not count."""
    step()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def _why(error: Exception) -> str:
    """One line, with the remedy where it is known"""
    text = f"{type(error).__name__}: {error}"
    if any(sign in text for sign in ("compiler", "Compiler", "cl is not found", "Python.h")):
        return (
            "no C++ compiler, or no Python headers (install g++ and python3-dev, on Windows Visual Studio's Build "
            f"Tools, on macOS the command line tools). PyTorch says: {_first_line(error)}"
        )
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "nothing more")
