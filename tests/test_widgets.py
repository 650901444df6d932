"""Widgets without a browser: traits are set as a front end would set them, and what a person would see is read back."""

import gc
import math
import re
import threading
import time
import weakref
from dataclasses import dataclass

import ipywidgets as w
import pytest

from sftlib.widgets import Explorer, FigureView, LiveRun

LIMIT_S = 20  # a test that hangs fails instead


@dataclass
class Step:
    step: int
    steps: int
    epoch: int
    loss: float
    task_loss: float = 0.5
    feature_loss: float = 0.0
    lr: float = 1e-3
    examples_per_s: float = 211.0
    n: int = 11


@dataclass
class Epoch:
    epoch: int
    epochs: int
    train: dict
    val: dict | None
    key: str = "accuracy"
    higher_is_better: bool = True


def records(epochs=3, per_epoch=7, val=True):
    """Records like those of fit: loss 1/step, accuracies that tell train from validation and one epoch from another."""
    for epoch in range(1, epochs + 1):
        for k in range(1, per_epoch + 1):
            step = (epoch - 1) * per_epoch + k
            yield Step(step, epochs * per_epoch, epoch, loss=1 / step)
        train = {"loss": 0.5, "accuracy": 0.5 + 0.1 * epoch}
        yield Epoch(epoch, epochs, train, {"loss": 0.6, "accuracy": 0.4 + 0.1 * epoch} if val else None)


class Endless:
    """A run that Stop ends; counts what is at work at the same time, and knows whether it was closed."""

    at_work, most_at_work = 0, 0

    def __init__(self):
        self.started, self.closed = threading.Event(), 0

    def __call__(self):
        Endless.at_work += 1
        Endless.most_at_work = max(Endless.most_at_work, Endless.at_work)
        try:
            step, end = 0, time.monotonic() + LIMIT_S  # a Stop that does not work must not hang the whole suite
            while time.monotonic() < end:
                step += 1
                yield Step(step, 10**9, 1, loss=0.5)
                self.started.set()
        finally:
            Endless.at_work -= 1
            self.closed += 1


# ------------------------------------------------------------------------------------------------ LiveRun


def test_run_records_every_step_and_epoch():
    panel = LiveRun(lambda: records(epochs=3, per_epoch=7))
    history = panel.run()
    assert history["step"] == list(range(1, 22))
    assert history["loss"] == [1 / k for k in range(1, 22)]
    assert history["epoch"] == [1] * 7 + [2] * 7 + [3] * 7
    assert history["epochs"] == [1, 2, 3]
    assert history["train_accuracy"] == pytest.approx([0.6, 0.7, 0.8])
    assert history["val_accuracy"] == pytest.approx([0.5, 0.6, 0.7])
    assert not panel.running


def test_the_last_frame_is_always_drawn():
    panel = LiveRun(lambda: records(epochs=3, per_epoch=7), refresh_s=1000)
    panel.run()
    assert panel.bar.value == panel.bar.max == 21
    said = r"finished · step 21/21 · epoch 3 · loss 0\.0476 · lr 1\.0e-03 · [\d.]+ examples/s · "
    assert re.match(said, panel.status.value), panel.status.value
    assert panel.curves.value.count("<polyline") == 4  # loss of each step, smoothed; accuracy of train, of validation
    assert "train 0.800" in panel.curves.value and "validation 0.700" in panel.curves.value


def test_redraws_go_by_time_not_by_step():
    panel, drawn = LiveRun(lambda: records(epochs=1, per_epoch=997), refresh_s=1000), []
    panel.curves.observe(drawn.append, "value")
    panel.run()
    assert len(drawn) == 1


def test_without_validation_there_is_one_accuracy_curve():
    panel = LiveRun(lambda: records(epochs=2, per_epoch=3, val=False))
    history = panel.run()
    assert all(map(math.isnan, history["val_accuracy"])) and len(history["val_accuracy"]) == 2
    assert "validation" not in panel.curves.value and "train 0.700" in panel.curves.value


def test_losses_are_read_only_when_something_is_drawn():
    reads = []

    class Lazy(Step):
        @property
        def loss(self):
            reads.append(self.step)
            return 0.25

        @loss.setter
        def loss(self, value):
            pass

    def loop():
        for step in range(1, 12):
            yield Lazy(step, 11, 1, loss=0.0)
            assert reads == []  # nothing has waited for the device

    assert LiveRun(loop, refresh_s=1000).run()["loss"] == [0.25] * 11
    assert reads == list(range(1, 12))


def test_smoothed_loss_of_a_constant_is_that_constant_from_the_first_step():
    panel = LiveRun(lambda: (Step(k, 13, 1, loss=0.7) for k in range(1, 14)))
    panel.run()
    assert panel.history["smooth_loss"] == pytest.approx([0.7] * 13)


def test_smoothed_loss_is_the_weighted_mean_written_out():
    losses = [3.0, 1.0, 2.0, 5.0, 4.0]
    panel = LiveRun(lambda: (Step(k, 5, 1, loss=v) for k, v in enumerate(losses, 1)))
    panel.run()
    weights = [0.9 ** (4 - k) for k in range(5)]
    assert panel.history["smooth_loss"][-1] == pytest.approx(
        sum(a * b for a, b in zip(weights, losses, strict=True)) / sum(weights)
    )


def test_start_returns_and_the_run_ends_by_itself():
    panel = LiveRun(lambda: records(epochs=2, per_epoch=5))
    panel.start_button.click()
    assert len(panel.wait(LIMIT_S)["loss"]) == 10
    assert panel.status.value.startswith("finished · step 10/10")
    assert not panel.start_button.disabled and panel.stop_button.disabled


def test_stop_ends_the_run_and_closes_the_generator():
    loop, generators = Endless(), []  # held here: else reference counting would close what the panel forgets

    def make_records():
        generators.append(loop())
        return generators[-1]

    panel = LiveRun(make_records)
    panel.start_button.click()
    assert loop.started.wait(LIMIT_S)
    assert panel.running and panel.start_button.disabled and not panel.stop_button.disabled
    panel.stop_button.click()
    history = panel.wait(LIMIT_S)
    assert loop.closed == 1 and not panel.running
    assert panel.status.value.startswith("stopped · step ")
    assert panel.bar.value == history["step"][-1] == len(history["loss"])  # the last frame holds the last step
    assert not panel.start_button.disabled and panel.stop_button.disabled


def test_start_twice_is_one_run():
    loop = Endless()
    panel = LiveRun(loop)
    panel.start()
    assert loop.started.wait(LIMIT_S)
    thread = panel._thread
    panel.start()
    assert panel._thread is thread
    panel.stop()
    panel.wait(LIMIT_S)
    assert loop.closed == 1


def test_starting_again_after_stop_begins_afresh():
    first, second = Endless(), Endless()
    loops = iter([first, second])
    panel = LiveRun(lambda: next(loops)())
    panel.start()
    assert first.started.wait(LIMIT_S)
    panel.stop()
    panel.start()  # while the first run may still be on its way out
    assert second.started.wait(LIMIT_S) and first.closed == 1
    assert panel.start_button.disabled and not panel.stop_button.disabled  # they belong to the second run
    panel.stop()
    panel.wait(LIMIT_S)
    assert second.closed == 1
    assert panel.history["step"][0] == 1 and len(panel.history["step"]) == panel.history["step"][-1]


def test_a_second_panel_stops_the_first_and_waits_for_its_end():
    Endless.most_at_work = 0
    first, second = Endless(), Endless()
    a, b = LiveRun(first), LiveRun(second)
    a.start()
    assert first.started.wait(LIMIT_S)
    b.start()
    assert second.started.wait(LIMIT_S)
    assert first.closed == 1 and Endless.most_at_work == 1
    b.stop()
    b.wait(LIMIT_S)
    a.wait(LIMIT_S)
    assert a.status.value.startswith("stopped") and not a.start_button.disabled


def test_run_in_the_cell_waits_for_a_run_in_the_background():
    Endless.most_at_work = 0
    first = Endless()
    a = LiveRun(first)
    a.start()
    assert first.started.wait(LIMIT_S)
    seen = []

    def loop():
        seen.append(Endless.at_work)
        yield from records(epochs=1, per_epoch=3)

    LiveRun(loop).run()
    assert seen == [0] and first.closed == 1


def test_a_run_stopped_before_its_turn_never_begins():
    made = []
    b, c = LiveRun(lambda: made.append("b") or records()), LiveRun(records)
    with LiveRun._turn:  # somebody computes
        b.start()
        c.start()
    c.wait(LIMIT_S)
    b.wait(LIMIT_S)
    assert made == [] and b.status.value == "stopped" and c.status.value.startswith("finished")


def failing():
    yield Step(1, 2, 1, loss=0.5)
    raise ValueError("lr <must> be positive")


def test_an_error_in_the_loop_is_shown_kept_and_raised_by_wait():
    panel = LiveRun(failing)
    panel.start()
    with pytest.raises(ValueError, match="be positive"):
        panel.wait(LIMIT_S)
    assert isinstance(panel.error, ValueError)
    assert "ValueError: lr &lt;must&gt; be positive" in panel.message.value
    assert panel.status.value.startswith("failed · step 1/2") and panel.bar.bar_style == "danger"
    assert not panel.start_button.disabled and panel.stop_button.disabled


def test_an_error_before_the_first_record_is_raised_by_run():
    def refuses():
        raise TypeError("fit() got no loader")

    panel = LiveRun(refuses)
    with pytest.raises(TypeError, match="no loader"):
        panel.run()
    assert panel.status.value == "failed"


def test_the_next_run_clears_the_error():
    loops = iter([failing, records])
    panel = LiveRun(lambda: next(loops)())
    with pytest.raises(ValueError):
        panel.run()
    panel.run()
    assert panel.error is None and panel.message.value == ""


def test_interrupting_the_kernel_is_stop():
    closed = []

    def loop():
        try:
            yield Step(1, 5, 1, loss=0.5)
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    panel = LiveRun(loop)
    assert panel.run()["step"] == [1]
    assert panel.status.value.startswith("stopped · step 1/5") and closed == [True]


def test_wait_names_what_to_do_when_time_is_up():
    loop = Endless()
    panel = LiveRun(loop)
    panel.start()
    with pytest.raises(TimeoutError, match="stop()"):
        panel.wait(0.01)
    panel.stop()
    panel.wait(LIMIT_S)


def test_a_plain_list_of_records_will_do():
    assert LiveRun(lambda: list(records(epochs=1, per_epoch=3))).run()["step"] == [1, 2, 3]


def test_fifty_starts_and_stops_leave_no_thread():
    before = threading.active_count()
    loop = Endless()
    panel = LiveRun(loop, refresh_s=1000)
    for _ in range(50):
        loop.started.clear()
        panel.start()
        assert loop.started.wait(LIMIT_S)
        panel.stop()
        panel.wait(LIMIT_S)
    assert loop.closed == 50
    assert threading.active_count() == before


def test_the_status_tells_the_time_that_is_left_and_at_the_end_the_time_it_took(monkeypatch):
    clock = iter(range(0, 10_000, 10))  # every look at the clock is 10 s after the last one
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    panel, seen = LiveRun(lambda: iter([Step(1, 3, 1, loss=0.5)]), refresh_s=1000), []
    panel.status.observe(lambda change: seen.append(change.new), "value")
    panel.run()
    # made at 0, began at 30, due asked at 40, record at 50, due again at 60, drawn at 70, time left asked at 80
    assert re.search(r" examples/s · ([\d.]+ GB · )?1:40 left$", seen[-2])  # 50 s for one step, two to go
    assert seen[-1].endswith(" examples/s · 1:10 in all")


def test_the_panel_follows_fit():
    torch = pytest.importorskip("torch")
    from sftlib.adaptation import param_groups
    from sftlib.model import LinearHead, Model
    from sftlib.training import fit

    torch.manual_seed(0)
    model = Model(torch.nn.Linear(7, 5), LinearHead(5, 3))
    batches = [(torch.randn(11, 7), torch.randint(0, 3, (11,))) for _ in range(2)]
    groups = param_groups(f=(model.backbone, 0.01), g=(model.head, 0.1))
    panel = LiveRun(lambda: fit(model, batches, torch.optim.SGD(groups), epochs=3, val_loader=batches))
    history = panel.run()
    assert history["step"] == [1, 2, 3, 4, 5, 6] and history["epochs"] == [1, 2, 3]
    assert all(type(v) is float for v in history["loss"] + history["val_accuracy"])
    assert panel.status.value.startswith("finished · step 6/6 · epoch 3") and " · lr 1.0e-01 · " in panel.status.value


# ------------------------------------------------------------------------------------------------ FigureView, Explorer


def test_a_figure_view_holds_a_png_of_the_size_asked_for():
    view = FigureView((3.1, 1.7), rows=1, columns=2)
    view.axes[1].plot([1, 2], [3, 4])
    view.draw()
    assert view.value[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(view.value[16:20]), int.from_bytes(view.value[20:24])) == (
        310,
        170,
    )  # PNG header: width, height
    assert view.still().data == view.value


def test_the_same_drawing_gives_the_same_bytes():
    def png():
        view = FigureView((2.3, 1.9))
        view.ax.plot([1, 2, 3], [3, 1, 2])
        view.draw()
        return view.value

    assert png() == png()


def explorer(update, plot=lambda ax, line: ax.plot(line)):
    controls = {"slope": w.FloatSlider(value=2.0, min=0, max=5), "bend": w.Checkbox(value=False)}
    return Explorer(controls, update, plot, figsize=(2.3, 1.7)), controls


def test_moving_a_control_computes_and_redraws():
    seen = []
    panel, controls = explorer(lambda settings: seen.append(settings) or [0, settings["slope"]])
    before = panel.view.value
    controls["slope"].value = 3.0
    assert seen == [{"slope": 2.0, "bend": False}, {"slope": 3.0, "bend": False}]
    assert panel.view.value != before and panel.view.ax.lines[0].get_ydata()[1] == 3.0
    assert len(panel.view.ax.lines) == 1  # the former line is gone


def test_an_error_in_update_is_shown_kept_and_raised_and_goes_away():
    def update(settings):
        if settings["bend"]:
            raise ValueError("cannot bend")
        return [0, 1]

    panel, controls = explorer(update)
    drawn = panel.view.value
    with pytest.raises(ValueError, match="cannot bend"):
        controls["bend"].value = True
    assert isinstance(panel.error, ValueError) and "ValueError: cannot bend" in panel.message.value
    assert panel.view.value == drawn
    controls["bend"].value = False
    assert panel.error is None and panel.message.value == ""


def test_several_axes_are_handed_over_together():
    panel = Explorer({}, lambda settings: [1, 2], lambda axes, line: [ax.plot(line) for ax in axes],
                     figsize=(4.1, 1.9), rows=1, columns=3)  # fmt: skip
    assert [len(ax.lines) for ax in panel.view.axes] == [1, 1, 1]


def test_many_redraws_keep_one_figure():
    panel, controls = explorer(lambda settings: [0, settings["slope"]])
    figures = weakref.WeakSet([panel.view.figure])
    for k in range(17):
        controls["slope"].value = k / 5
        figures.add(panel.view.figure)
    gc.collect()
    assert len(figures) == 1 and len(panel.view.figure.axes) == 1


def test_representations_hold_no_address():
    panel, _ = explorer(lambda settings: [0, 1])
    assert [repr(panel), repr(panel.view), repr(LiveRun(records))] == [
        "Explorer(slope, bend)",
        "FigureView()",
        "LiveRun()",
    ]
