import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import said
from torch import nn

from sftlib import environment, runtime
from sftlib.runtime import FLOAT32, Precision, choose_precision, profile, seed_everything


def test_profile_is_quick_unless_the_variable_says_otherwise(monkeypatch):
    monkeypatch.delenv("SFT_PROFILE", raising=False)
    assert profile().name == "quick" and profile().pick(quick=3, full=50) == 3
    monkeypatch.setenv("SFT_PROFILE", "full")
    assert profile().name == "full" and profile().pick(quick=3, full=50) == 50
    monkeypatch.setenv("SFT_PROFILE", "fast")
    with pytest.raises(ValueError, match="'fast'; expected 'quick' or 'full'"):
        profile()


def test_seed_everything_repeats_all_three_generators():
    draws = []
    for _ in range(2):
        seed_everything(11)
        draws.append((random.random(), np.random.random(), torch.rand(1).item()))
    seed_everything(12)
    assert draws[0] == draws[1] and draws[0] != (random.random(), np.random.random(), torch.rand(1).item())
    with pytest.raises(ValueError, match="seed -1"):
        seed_everything(-1)


def test_device_is_one_that_works():
    assert torch.zeros(1, device=runtime.device()).item() == 0


def test_float32_changes_nothing():
    x = torch.randn(2, 3, 5, 7)
    assert FLOAT32.place(x) is x
    with FLOAT32.autocast("cpu"):
        assert (x.reshape(6, 35) @ x.reshape(35, 6)).dtype is torch.float32


def test_bfloat16_channels_last_lays_out_pictures_and_weights():
    precision, x, conv = Precision(torch.bfloat16, True), torch.randn(2, 3, 5, 7), nn.Conv2d(3, 5, 3)
    assert precision.place(x).is_contiguous(memory_format=torch.channels_last) and torch.equal(precision.place(x), x)
    assert precision.place(conv).weight.is_contiguous(memory_format=torch.channels_last)
    assert precision.place(x[0]) is not None and precision.place(torch.zeros(2, 3)).shape == (2, 3)
    with precision.autocast("cpu"):
        assert conv(x).dtype is torch.bfloat16


class Clock:
    """Stands in for time.perf_counter; moves only when told to."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(runtime, "time", clock)
    return clock


def test_the_fastest_precision_is_chosen_and_ties_go_to_float32(clock):
    slow = {FLOAT32: 0.02, runtime.CANDIDATES[1]: 0.02, runtime.CANDIDATES[2]: 0.002}
    choice = choose_precision(lambda p: clock.pass_by(slow[p]), 10, budget_s=0.2)
    assert choice.precision == runtime.CANDIDATES[2] and choice.rates[FLOAT32] == pytest.approx(500)
    even = choose_precision(lambda p: clock.pass_by(0.01), 10, budget_s=0.2)
    assert even.precision == FLOAT32


def test_three_turns_suffice_where_one_precision_is_far_ahead_in_each(clock):
    start, slow = clock.now, {FLOAT32: 0.5, runtime.CANDIDATES[1]: 0.4, runtime.CANDIDATES[2]: 0.3}
    choice = choose_precision(lambda p: clock.pass_by(slow[p]), 10, budget_s=60)
    assert choice.precision == runtime.CANDIDATES[2] and clock.now - start == pytest.approx(4 * 1.2)
    uneven = iter([0.3, 0.3, 0.35, 0.3] + [0.3] * 99)  # one turn of the fastest is not far below 0.4
    start = clock.now
    choose_precision(lambda p: clock.pass_by(slow[p] if p != runtime.CANDIDATES[2] else next(uneven)), 10, budget_s=9)
    assert clock.now - start > 7


def test_choosing_stays_within_its_budget_and_measures_each_candidate(clock):
    start = clock.now
    choose_precision(lambda p: clock.pass_by(0.02), 10, budget_s=0.5)
    assert 0.4 < clock.now - start <= 0.5
    choose_precision(lambda p: clock.pass_by(7), 10, budget_s=0.5)  # too slow for the budget: once counted, each
    assert clock.now - start < 0.5 + 7 * 6 + 1


def test_an_arithmetic_that_the_device_cannot_do_is_left_out_and_said(clock):
    def step(precision):
        if precision.channels_last:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        clock.pass_by(0.01)

    choice = choose_precision(step, 10, budget_s=0.2)
    assert choice.precision == FLOAT32 and [*choice.rates.values()] == [pytest.approx(1000), 0, 0]
    assert str(choice).count("not possible here") == 2
    with pytest.raises(RuntimeError, match="float32 too"):
        choose_precision(lambda p: (_ for _ in ()).throw(RuntimeError("float32 too")), 10)


def test_environment_report_names_a_missing_package_and_the_remedy(monkeypatch):
    assert all(check.ok for check in environment.environment_report())
    monkeypatch.setattr(environment, "OFFLINE", {"solar cell pictures": "no-such-package"})
    (bad,) = [check for check in environment.environment_report() if not check.ok]
    assert str(bad).startswith("[FAIL] solar cell pictures") and "lab.py setup" in str(bad)


def test_a_device_that_cannot_compute_is_reported_with_the_remedy(monkeypatch):
    monkeypatch.setattr(environment, "device", lambda: torch.device("meta"))  # nothing can be read from it
    (bad,) = [check for check in environment.environment_report() if not check.ok]
    assert str(bad).startswith("[FAIL] device: meta: ") and "CUDA_VISIBLE_DEVICES= for the CPU" in bad.remedy


FAULTS = """
import resource, torch
from torch import nn
from sftlib.features import extract
from sftlib.model import LinearHead, Model
from sftlib.training import fit
f = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
# An activation has 36 MB; up to 32 glibc keeps some by itself.
model, batch = Model(f, LinearHead(7, 2)), (torch.randn(5, 3, 509, 509), torch.tensor([0, 1, 0, 1, 1]))
{run}
pages = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt for _ in steps]
print(pages[-1] - pages[-6])
"""
FIT = "steps = (r for r in fit(model, [batch] * 11, torch.optim.SGD(model.parameters(), 0.1), epochs=1))"
EXTRACT = "steps = (extract(f, [batch]) for _ in range(11))"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is steered")
@pytest.mark.parametrize("run", [FIT, EXTRACT])
def test_steps_get_their_memory_from_the_process_unless_the_user_steers_glibc(run):
    faults = []
    for variable in ({}, {"MALLOC_TOP_PAD_": "131072"}):  # glibc's own default
        env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | variable
        done = subprocess.run([sys.executable, "-c", FAULTS.format(run=run)], env=env, text=True, capture_output=True)
        assert done.returncode == 0, said(done)
        faults.append(int(done.stdout))
    assert 10 * faults[0] < faults[1]
