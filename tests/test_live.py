"""The panel in use: pause, rates changed on the way, marks, bounded drawing, and long use that leaks nothing."""

import gc
import re
import threading
import time
import tracemalloc
import weakref
from dataclasses import dataclass
from types import SimpleNamespace as Record
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from ipywidgets.widgets.widget import _instances

from sftlib.plotting import best_epoch, run_curves, svg_curves
from sftlib.widgets import LiveRun, live

LIMIT_S = 20  # a test that hangs fails instead


@dataclass
class Controls:
    rate: float = 1.0
    feature_weight: float | None = None


def step(number, steps=10**9, epoch=1, loss=0.5, lr=1e-3, **more):
    return Record(
        step=number, steps=steps, epoch=epoch, loss=loss, task_loss=0.5, feature_loss=0.0, lr=lr, examples_per_s=211.0,
        **{"n": 11, **more},
    )  # fmt: skip


def epoch(number, train, val, epochs=7):
    return Record(
        epoch=number,
        epochs=epochs,
        train={"loss": 0.5, "accuracy": train},
        val=None if val is None else {"loss": 0.6, "accuracy": val},
        key="accuracy",
        higher_is_better=True,
    )


class Endless:
    """Steps for ever; ``reached(n)`` waits until step n was asked for, ``count`` is how many were."""

    def __init__(self, pause_s=0.0):
        self.count, self.closed, self.pause_s = 0, 0, pause_s
        self._news = threading.Condition()

    def __call__(self):
        self.count = 0
        end = time.monotonic() + LIMIT_S
        try:
            while time.monotonic() < end:
                with self._news:
                    self.count += 1
                    self._news.notify_all()
                yield step(self.count)
        finally:
            self.closed += 1

    def reached(self, n):
        with self._news:
            return self._news.wait_for(lambda: self.count >= n, LIMIT_S)


def seen(widget, pattern):
    """Wait until the widget's value matches; -> the value."""
    found, matches = threading.Event(), re.compile(pattern)

    def look(_=None):
        if matches.search(widget.value):
            found.set()

    widget.observe(look, "value")
    look()
    assert found.wait(LIMIT_S), f"{pattern!r} never came; the value is {widget.value!r}"
    widget.unobserve(look, "value")
    return widget.value


# ------------------------------------------------------------------------------------------------------------ pause


def test_no_step_is_made_while_paused_and_resume_goes_on_with_the_next():
    loop = Endless()
    panel = LiveRun(loop, refresh_s=1000)
    panel.start_button.click()
    assert loop.reached(3) and not panel.pause_button.disabled
    panel.pause_button.click()
    seen(panel.status, "^paused · step ")
    assert panel.paused and panel.running and panel.pause_button.description == "Resume"
    before = loop.count
    with loop._news:
        assert not loop._news.wait_for(lambda: loop.count > before, 0.1)  # nobody asks for a step
    assert len(panel.history["step"]) == before  # and what was done is drawn
    panel.pause_button.click()
    assert loop.reached(before + 3) and not panel.paused and panel.pause_button.description == "Pause"
    panel.stop_button.click()
    history = panel.wait(LIMIT_S)
    assert history["step"] == list(range(1, loop.count + 1))  # none was lost or made twice
    assert panel.pause_button.disabled


def test_paused_time_is_not_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def loop():
        for number in (1, 2, 3):
            now[0] += 10
            if number == 2:
                panel.pause()
                threading.Thread(target=later).start()
            yield step(number, steps=5)

    def later():
        seen(panel.status, "^paused · .* 0:30 left$")  # 20 s for two steps, three to go
        now[0] += 1000
        panel.resume()

    panel = LiveRun(loop, refresh_s=1e9)
    panel.run()
    assert panel.status.value.endswith(" · 0:30 in all")
    assert panel._log.left_s(panel._clock.seconds) == pytest.approx(20)


def test_stop_ends_a_paused_run_and_so_does_a_new_one():
    first, second = Endless(), Endless()
    panel, other = LiveRun(first), LiveRun(second)
    panel.start()
    assert first.reached(2)
    panel.pause()
    seen(panel.status, "^paused")
    panel.stop_button.click()
    panel.wait(LIMIT_S)
    assert first.closed == 1 and not panel.paused and panel.pause_button.description == "Pause"
    panel.start()
    assert first.reached(2)
    panel.pause()
    seen(panel.status, "^paused")
    other.start()  # another panel, or the same cell once more
    assert second.reached(2) and first.closed == 2
    other.stop()
    other.wait(LIMIT_S)
    panel.wait(LIMIT_S)


def test_a_run_in_the_cell_waits_while_paused():
    order = []

    def loop():
        panel.pause()
        threading.Thread(target=later).start()
        yield step(1, steps=2)
        order.append("step 2")
        yield step(2, steps=2)

    def later():
        seen(panel.status, "^paused")
        order.append("resume")
        panel.resume()

    panel = LiveRun(loop)
    assert panel.run()["step"] == [1, 2] and order == ["resume", "step 2"]
    assert panel.status.value.startswith("finished")


def test_interrupting_the_kernel_while_paused_is_stop(monkeypatch):
    def interrupted(switch):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.Switch, "wait", interrupted)
    closed = []

    def loop():
        try:
            panel.pause()
            yield step(1)
            yield step(2)
        finally:
            closed.append(True)

    panel = LiveRun(loop)
    assert panel.run()["step"] == [1] and closed == [True]
    assert panel.status.value.startswith("stopped · step 1/") and not panel.paused


def test_pause_without_a_run_does_nothing():
    panel = LiveRun(lambda: [step(1, steps=1)])
    panel.pause()
    assert not panel.paused
    assert panel.run()["step"] == [1]


# --------------------------------------------------------------------------------------------------------- controls


def rates(controls, base=0.1):
    """A loop that reads the controls before each step, as fit does."""
    for number in range(1, 8):
        yield step(number, steps=7, lr=base * controls.rate)


def test_a_slider_moved_on_the_way_changes_the_next_step_and_is_kept():
    controls = Controls()

    def loop():
        for record in rates(controls):
            if record.step == 3:
                panel.dials.sliders["rate"].value = 0.1
            if record.step == 5:
                panel.dials.sliders["rate"].value = 10.0
            yield record

    panel = LiveRun(loop, controls=controls)
    history = panel.run()
    assert history["lr"] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 1.0, 1.0])
    assert [tuple(c) for c in history["changes"]] == [(4, "rate", 0.1), (6, "rate", 10.0)]
    assert "α × 0.1" in panel.curves.value and "α × 10" in panel.curves.value


def test_controls_changed_by_a_program_move_the_slider_and_are_kept():
    controls = Controls(feature_weight=0.5)

    def loop():
        for record in rates(controls):
            if record.step == 2:
                controls.feature_weight = 2.0
            yield record

    panel = LiveRun(loop, controls=controls)
    assert [tuple(c) for c in panel.run()["changes"]] == [(3, "feature_weight", 2.0)]
    assert panel.dials.sliders["feature_weight"].value == 2.0 and "λ = 2" in panel.curves.value


def test_what_the_sliders_say_before_the_start_holds_from_the_first_step():
    controls = Controls()
    panel = LiveRun(lambda: rates(controls), controls=controls)
    panel.dials.sliders["rate"].value = 0.5
    history = panel.run()
    assert history["lr"] == pytest.approx([0.05] * 7) and history["changes"] == []


def test_a_value_off_the_slider_is_not_overwritten_by_it():
    controls = Controls(feature_weight=0.0)
    panel = LiveRun(lambda: rates(controls), controls=controls)
    panel.run()
    assert controls.feature_weight == 0.0
    controls.rate = 1e4  # beyond the right end
    assert panel.run()["lr"] == pytest.approx([1e3] * 7) and controls.rate == 1e4


def test_there_are_sliders_for_what_can_be_changed_and_no_others():
    names = [list(LiveRun(list, controls=c).dials.sliders) for c in (None, Controls(), Controls(feature_weight=0.3))]
    assert names == [[], ["rate"], ["rate", "feature_weight"]]


def test_the_sliders_lead_fit():
    torch = pytest.importorskip("torch")
    from sftlib import training
    from sftlib.adaptation import param_groups
    from sftlib.model import LinearHead, Model

    torch.manual_seed(0)
    model = Model(torch.nn.Linear(7, 5), LinearHead(5, 3))
    batches = [(torch.randn(11, 7), torch.randint(0, 3, (11,))) for _ in range(5)]
    controls = training.Controls()

    def loop():
        groups = param_groups(f=(model.backbone, 0.01), g=(model.head, 0.1))
        for record in training.fit(model, batches, torch.optim.SGD(groups), epochs=1, controls=controls):
            if getattr(record, "step", 0) == 2:
                panel.dials.sliders["rate"].value = 0.01
            yield record

    panel = LiveRun(loop, controls=controls)
    history = panel.run()
    assert history["lr"] == pytest.approx([0.1, 0.1, 0.001, 0.001, 0.001])
    assert history["changes"][0][:2] == (3, "rate")


# --------------------------------------------------------------------------------------------------- what is shown


def epochs():
    """Seven epochs of two steps whose validation is best in the third."""
    for k, val in enumerate((0.5, 0.6, 0.9, 0.7, 0.9, 0.8, 0.75), 1):
        yield step(2 * k - 1, steps=14, epoch=k, loss=1 / k)
        yield step(2 * k, steps=14, epoch=k, loss=1 / k)
        yield epoch(k, 0.5 + 0.06 * k, val)


def test_the_best_epoch_is_ringed_in_both_curves_and_the_epochs_are_counted():
    panel = LiveRun(epochs)
    panel.run()
    assert best_epoch(panel.history) == 2  # the third; the fifth is only as good
    assert panel.curves.value.count('r="6"') == 2
    assert ">best epoch</text>" in panel.curves.value and ">best</text>" in panel.curves.value
    assert panel.epoch_bar.description == "epoch 7 of 7" and panel.epoch_bar.value == panel.epoch_bar.max == 2


def test_without_validation_nothing_is_ringed():
    panel = LiveRun(lambda: [step(1, steps=1), epoch(1, 0.5, None)])
    panel.run()
    assert best_epoch(panel.history) is None and 'r="6"' not in panel.curves.value


def test_examples_a_second_are_those_between_the_records(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def loop():
        for number, n, seconds in ((1, 31, 2), (2, 31, 3), (3, 13, 1)):
            now[0] += seconds
            yield step(number, n=n)
        now[0] += 100  # validation
        yield epoch(1, 0.5, 0.5)

    panel = LiveRun(loop, refresh_s=1e9)
    panel.run()
    assert panel._log.examples_per_s == pytest.approx(75 / 6)


def test_a_run_that_goes_on_in_the_middle_knows_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def loop():
        for number in (11, 12):
            now[0] += 10
            yield step(number, steps=17)

    panel = LiveRun(loop, refresh_s=1e9)
    panel.run()
    assert panel._log.left_s(panel._clock.seconds) == pytest.approx(50)  # 10 s a step, five to go


def test_the_history_is_drawn_for_print():
    panel = LiveRun(epochs)
    panel.run()
    panel.history["changes"].append((5, "rate", 0.1))
    fig, axes = plt.subplots(1, 2)
    assert panel.plot(axes) is axes and run_curves(axes, panel.history) is axes
    assert [t.get_text() for t in axes[0].texts].count("α × 0.1") == 2
    assert axes[1].get_title(loc="left") == "best validation: 0.900, epoch 3 of 7"
    assert {t.get_text().strip() for t in axes[1].texts} == {"train", "validation"}
    plt.close(fig)


def test_the_words_of_changes_close_together_do_not_lie_over_each_other():
    panel = LiveRun(epochs)
    panel.run()
    first = panel.history["step"][0]
    panel.history["changes"] += [(first, "rate", 50.0), (first, "rate", 1.0), (first, "feature_weight", 0.5)]
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    run_curves(axes, panel.history)
    boxes = [t.get_window_extent() for t in axes[0].texts if t.get_rotation() == 90]
    assert len(boxes) >= 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close(fig)


def test_rings_and_events_lie_inside_the_picture_at_their_places():
    root = ElementTree.fromstring(
        svg_curves(
            "loss", {"a": ([0, 10], [0.0, 1.0])}, xlabel="x", width=300, height=170, marks=[(10, 1.0, "top")],
            events=[(5, "α × 2"), (10, "λ = 3")],
        )
    )  # fmt: skip
    ring = next(c for c in root.iter("circle") if c.get("r") == "6")
    assert (float(ring.get("cx")), float(ring.get("cy"))) == (290.0, 40.0)
    halves = [p.get("d") for p in root.iter("path") if p.get("stroke-dasharray") == "2 3"]
    assert halves == ["M168.0 138V40", "M290.0 138V40"]
    assert [t.get("text-anchor") for t in root.iter("text") if t.text in ("top", "λ = 3")] == ["end", "end"]


# ------------------------------------------------------------------------------------------------ cost and leakage


def test_drawings_that_are_slow_become_rare(monkeypatch):
    now, drawn = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def loop():
        for number in range(1, 1001):
            now[0] += 0.01
            yield step(number, steps=1000)

    def slow(change):
        drawn.append(now[0])
        now[0] += 0.02  # a drawing takes 20 ms

    panel = LiveRun(loop, refresh_s=0.15)
    panel.curves.observe(slow, "value")
    panel.run()
    assert 9 <= len(drawn) <= 12  # 10 s of work, 20 ms each: at most 2 %


def test_a_long_history_is_drawn_at_the_price_of_a_short_one():
    panel = LiveRun(lambda: (step(k, loss=1 / k) for k in range(1, 30_001)), refresh_s=1000)
    panel.run()
    assert len(panel.history["loss"]) == 30_000 and len(panel.curves.value) < 20_000


def test_nothing_that_a_step_computed_outlives_its_drawing():
    class Losses:
        loss = 0.5

    alive = weakref.WeakSet()

    def loop():
        for number in range(1, 2001):
            losses = Losses()
            alive.add(losses)
            record = step(number, losses=losses)
            del losses
            yield record
            del record
            if number % 100 == 0:
                most.append(len(alive))

    most = []
    panel = LiveRun(loop, refresh_s=1000)
    panel.run()
    gc.collect()
    assert len(alive) == 0 and max(most) <= 501
    plain = {type(v) for values in panel.history.values() if isinstance(values, list) for v in values}
    assert plain <= {int, float}


def test_an_error_keeps_no_batch_alive():
    class Batch:
        pass

    alive = weakref.WeakSet()

    def loop():
        batch = Batch()
        alive.add(batch)
        yield step(1)
        raise MemoryError("out of memory")

    panel = LiveRun(loop)
    panel.start()
    with pytest.raises(MemoryError):
        panel.wait(LIMIT_S)
    gc.collect()
    assert isinstance(panel.error, MemoryError) and len(alive) == 0
    assert "out of memory" in panel.message.value


def test_long_use_leaks_neither_threads_nor_memory():
    """60 starts, 120 pauses, 12,000 steps; `benchmarks/panel.py` does what half an hour of use does."""
    loop = Endless()
    panel = LiveRun(loop, controls=Controls(feature_weight=1.0), refresh_s=0.005)
    rate = panel.dials.sliders["rate"]

    def use(times):
        for _ in range(times):
            loop.count = 0
            panel.start()
            for target in (50, 100):
                assert loop.reached(target)
                panel.pause()
                rate.value = 0.5 if rate.value != 0.5 else 2.0
                panel.resume()
            assert loop.reached(200)
            panel.stop()
            panel.wait(LIMIT_S)

    use(10)
    gc.collect()
    threads, widgets = threading.active_count(), len(_instances)
    tracemalloc.start()
    try:
        use(60)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert threading.active_count() == threads and len(_instances) == widgets and loop.closed == 70
    # what the last run recorded is new as well: that, and the picture of it, and nothing else
    assert grown < 5e5, f"{grown / 1e3:.0f} kB more than before"


def test_a_closed_panel_is_gone_with_all_its_parts():
    before = len(_instances)
    panel = LiveRun(lambda: [step(1, steps=1)], controls=Controls(feature_weight=1.0))
    panel.run()
    gone = weakref.ref(panel)
    panel.close()
    del panel
    gc.collect()
    assert gone() is None and len(_instances) == before
