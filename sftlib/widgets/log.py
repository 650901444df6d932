"""What a panel knows of its run: the history in plain numbers, the time worked, the memory held, the sliders."""

import contextlib
import math
import sys
import threading
import time
from collections import deque
from typing import NamedTuple

import ipywidgets as w

MOST_UNREAD = 500  # steps whose losses may wait on the device for the next drawing


class Change(NamedTuple):
    """From ``step`` on, ``name`` ("rate" or "feature_weight") had this value."""

    step: int
    name: str
    value: float


class Last(NamedTuple):
    """Where the run is, in plain numbers: a ``Step`` would keep its tensors alive."""

    step: int
    steps: int
    epoch: int
    lr: float


class Log:
    """What a run recorded. Losses stay on the device until the next drawing: reading one makes the host wait for it."""

    STEP = ("step", "epoch", "loss", "task_loss", "feature_loss", "lr", "examples_per_s")

    def __init__(self):
        epoch = ("epochs", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
        self.history = {name: [] for name in (*self.STEP, *epoch, "smooth_loss", "changes")}
        self.history |= {"key": "accuracy", "higher_is_better": True}
        self.last, self.first_step = None, 1
        self.epoch_ends, self.epochs = [], None  # the last step of each epoch; how many epochs there will be
        self._unread, self._average = [], 0.0
        self._arrived, self._pace = 0.0, deque(maxlen=50)  # (examples, seconds) of the latest steps

    def add(self, record, now_s):
        """Keep a Step or an Epoch of ``fit``, which came after ``now_s`` seconds of work.

        They are told apart by their fields, so that a panel needs no torch.
        """
        if hasattr(record, "train"):
            self._add_epoch(record)
        else:
            self._add_step(record, now_s - self._arrived)
        self._arrived = now_s

    def _add_step(self, record, seconds):
        if self.last is None:
            self.first_step = record.step
        self.last = Last(record.step, record.steps, record.epoch, record.lr)
        # What the step says of its own rate is the host's time; a device may still be at work. From record to record,
        # drawings included, is what a person waits.
        self._pace.append((record.n, seconds))
        self._unread.append(record)
        if len(self._unread) >= MOST_UNREAD:
            self.read()

    def _add_epoch(self, record):
        self.history["epochs"].append(record.epoch)
        self.epoch_ends.append(self.last.step if self.last else 0)
        self.epochs = record.epochs
        self._judge_by(record.key or "accuracy", record.higher_is_better)
        for part in ("train", "val"):
            values = getattr(record, part) or {}
            for name in ("loss", self.history["key"]):
                self.history[f"{part}_{name}"].append(values.get(name, math.nan))

    def _judge_by(self, key, higher_is_better):
        """The measure of this run, which its first epoch tells"""
        before = self.history["key"]
        if key != before:
            for part in ("train", "val"):
                self.history[f"{part}_{key}"] = self.history.pop(f"{part}_{before}")
        self.history |= {"key": key, "higher_is_better": higher_is_better}

    def change(self, changed):
        """name -> new value, in force from the next step on"""
        step = 1 if self.last is None else self.last.step + 1
        self.history["changes"] += [Change(step, name, value) for name, value in changed.items()]

    def read(self):
        """-> history, with every step so far"""
        unread, self._unread = self._unread, []
        for record in unread:
            for name in self.STEP:
                self.history[name].append(getattr(record, name))
            self._smooth(self.history["loss"][-1])
        return self.history

    def _smooth(self, loss, keep=0.9):
        """Exponential average, divided by the weight it has gathered so far so that its start is not pulled to 0."""
        self._average = keep * self._average + (1 - keep) * (loss if math.isfinite(loss) else self._average)
        smooth = self.history["smooth_loss"]
        smooth.append(self._average / (1 - keep ** (len(smooth) + 1)))

    @property
    def examples_per_s(self):
        """Over the latest 50 steps; validation and pauses do not count."""
        return sum(n for n, _ in self._pace) / max(1e-9, sum(s for _, s in self._pace))

    def left_s(self, worked_s):
        """seconds worked -> seconds still to work, if the steps to come take as long as those so far"""
        done = self.last.step - self.first_step + 1  # a run that was resumed began in the middle
        return worked_s / done * (self.last.steps - self.last.step)


class Clock:
    """Seconds of work since it was made; paused time does not count."""

    def __init__(self):
        self._before, self._since = 0.0, time.perf_counter()

    @property
    def seconds(self):
        """Worked so far, in seconds."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    def pause(self):
        """Stop counting."""
        self._before, self._since = self.seconds, None

    def resume(self):
        """Count again."""
        self._since = time.perf_counter()


class Switch:
    """Stop and Pause of one run, which may be pressed in another thread."""

    def __init__(self):
        self._stopped, self._going = threading.Event(), threading.Event()
        self._going.set()

    @property
    def stopped(self):
        """Whether the run shall end."""
        return self._stopped.is_set()

    @property
    def paused(self):
        """Whether the run shall wait."""
        return not self._going.is_set()

    def stop(self):
        """Ask the run to end; one that is paused wakes up for it."""
        self._stopped.set()
        self._going.set()

    def pause(self):
        """Ask the run to wait; one that is to end does not."""
        if not self.stopped:
            self._going.clear()

    def resume(self):
        """Let the run go on."""
        self._going.set()

    def wait(self):
        """Return when the run is no longer paused."""
        while not self._going.wait(0.2):  # in pieces: an endless wait hears no kernel interrupt on Windows
            pass


class Dials(w.HBox):
    """Sliders for the ``Controls`` of a run. What they say is handed over between two steps, by ``apply``."""

    def __init__(self, controls):
        self.controls, self.sliders = controls, {}
        if controls is not None:
            self.sliders["rate"] = _slider("rate ×", controls.rate, (-3, 2))
        if getattr(controls, "feature_weight", None) is not None:
            self.sliders["feature_weight"] = _slider("feature weight", controls.feature_weight, (-3, 2))
        self._set = {name: getattr(controls, name) for name in self.sliders}
        self._shown = {name: slider.value for name, slider in self.sliders.items()}
        super().__init__(list(self.sliders.values()))

    def apply(self):
        """-> name -> new value, of what a slider, or a program in the controls, has changed since the last call"""
        changed = {}
        for name, slider in self.sliders.items():
            if slider.value != self._shown[name]:
                changed[name] = float(slider.value)
                setattr(self.controls, name, changed[name])
            elif getattr(self.controls, name) != self._set[name]:
                changed[name] = float(getattr(self.controls, name))
                slider.value = changed[name]
            self._set[name], self._shown[name] = getattr(self.controls, name), slider.value
        return changed


def _slider(name, value, powers):
    """A slider on a logarithmic scale from 10**powers[0] to 10**powers[1]; it tells its value when it is let go."""
    style = {"description_width": "initial"}
    return w.FloatLogSlider(
        value=value, base=10, min=powers[0], max=powers[1], step=0.05, description=name, readout_format=".3g",
        continuous_update=False, style=style, layout=w.Layout(width="360px"),
    )  # fmt: skip


def memory():
    """-> the memory that the run holds, in words: the device's if there is one, else the process's; "" if unknown"""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        held, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties().total_memory
        return f"{held / 1e9:.1f} of {total / 1e9:.0f} GB on the GPU"
    if torch is not None and torch.backends.mps.is_available():
        return f"{torch.mps.driver_allocated_memory() / 1e9:.1f} GB on the GPU"
    with contextlib.suppress(Exception):  # psutil comes with ipykernel; without it, nothing is shown
        import psutil

        return f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
    return ""
