import copy
import math
import time

import pytest
import torch
from helpers import batches, plain_model, tiny_model

from sftlib.training import CompileTimes, compile_pays


def test_break_even_is_where_the_saved_time_has_paid_for_the_compiling():
    times = CompileTimes(steps=1000, eager_s=0.05, compiled_s=0.03, compile_s=13.0)
    assert times.break_even == pytest.approx(650) and times.pays
    total = lambda n: (n * 0.05, 13 + n * 0.03)  # noqa: E731
    assert total(640)[0] < total(640)[1] and total(660)[0] > total(660)[1]
    assert str(times).endswith("50.0 ms, compiled 30.0 ms after 13.0 s of compiling: pays after 650 steps, in 1,000")
    assert str(CompileTimes(600, 0.05, 0.03, 13.0)).endswith("pays after 650 steps, not in 600")


def test_a_compiled_step_that_is_no_faster_never_pays():
    times = CompileTimes(steps=10**9, eager_s=0.03, compiled_s=0.03, compile_s=1.0)
    assert times.break_even == math.inf and not times.pays and "never pays" in str(times)


class Ticking:
    """A forward pass that takes `seconds` of a clock, and `first` more the next time; copies share the clock"""

    def __init__(self, module, clock):
        self.module, self.clock, self.seconds, self.first = module, clock, 1.0, 0.0

    def __call__(self, x):
        self.clock["now"] += self.seconds + self.first
        self.first = 0.0
        return type(self.module).forward(self.module, x)

    def __deepcopy__(self, memo):
        return Ticking(copy.deepcopy(self.module, memo), self.clock)


def test_compiling_is_measured_on_copies(monkeypatch):
    model, (x, y) = tiny_model(), batches()[0]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])

    model.backbone.forward = Ticking(model.backbone, clock)

    def compiler(module):
        clock["now"] += 2.0
        module.forward.seconds = 0.5
        module.forward.first = 11.0

    times = compile_pays(model, x, y, 29, compiler=compiler)
    assert (times.eager_s, times.compiled_s, times.compile_s) == pytest.approx((1.0, 0.5, 2 + 11.0))
    assert times.break_even == pytest.approx(26) and times.pays
    model.backbone.__dict__.pop("forward")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("\nNo working C++ compiler found in config.cpp.cxx: (None, 'g++')"), "no C++ compiler"),
        (RuntimeError("Compiler: cl is not found."), "no C++ compiler"),
        (TypeError("this graph cannot be traced\nmore"), "TypeError: this graph cannot be traced"),
    ],
)
def test_where_nothing_can_be_compiled_the_reason_is_said_and_it_does_not_pay(error, words):
    def compiler(module):
        def fail(x):
            raise error

        module.forward = fail

    times = compile_pays(plain_model(), *batches()[0], 10**9, compiler=compiler)
    assert not times.pays and times.break_even == math.inf and 0 < times.eager_s < math.inf
    assert "compiling is not possible here: " + words in str(times) and "\n" not in str(times)
