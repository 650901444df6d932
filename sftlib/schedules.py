"""Learning-rate schedules: each is a function step -> factor, by which every group's own rate is multiplied.

Steps count from 0; a factor of 1 means the rate that the optimizer was built with.
"""

import math
from collections.abc import Callable

from sftlib.inputs import finite, whole

Schedule = Callable[[int], float]


def warmup_cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Linear from 1/warmup to 1 over ``warmup`` steps, then half a cosine down to ``final`` at the last step.

    Source: Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983, eq. (5), without restarts.
    """
    steps, warmup = whole("steps", steps), whole("warmup", warmup, least=0)
    if warmup >= steps:
        raise ValueError(f"got warmup={warmup}, steps={steps}; expected 0 <= warmup < steps")
    final = finite("final", final, least=0, most=1)

    def factor(step: int) -> float:
        step = whole("step", step, least=0)
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return factor
