"""The panel around a training run: Start, Stop, progress, live curves."""

import contextlib
import math
import threading
import time
import weakref

import ipywidgets as w

from sftlib.plotting import svg_curves
from sftlib.widgets.figure import error_text


class LiveRun(w.VBox):
    """A panel around a training run: ``panel = LiveRun(lambda: fit(…)); display(panel); history = panel.run()``.

    ``make_records()`` returns a fresh iterator of the records of ``sftlib.training.fit``; it is called at each start.
    ``run()`` trains in the calling cell: interrupting the kernel stops it. The Start button (``start()``) trains in a
    thread, so that Stop can be pressed; where updates from threads do not show (Colab), use ``run()``.
    One run at a time: a new one stops the old one and waits until it has ended, for two threads that compute with
    tensors slow each other down twentyfold.

    ``history``: name -> list; "step", "epoch", "loss", "task_loss", "feature_loss", "lr" and "images_per_s" have an
    entry a step; "epochs", "train_loss", "train_accuracy", "val_loss" and "val_accuracy" one an epoch.
    """

    _turn = threading.RLock()  # held by the run that computes
    _latest = None  # weak reference to the panel that was started last

    def __init__(self, make_records, *, refresh_s=0.15):
        self.make_records, self.refresh_s, self.error = make_records, refresh_s, None
        self._log, self._stop, self._thread, self._began = _Log(), threading.Event(), None, 0.0
        self.start_button = w.Button(description="Start", icon="play", button_style="success")
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True)
        self.bar = w.IntProgress(min=0, max=1, layout=w.Layout(width="280px"))
        self.status, self.curves, self.message = w.HTML("ready"), w.HTML(), w.HTML()
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.buttons = w.HBox([self.start_button, self.stop_button, self.bar])
        super().__init__([self.buttons, self.status, self.message, self.curves])
        self._draw()

    @property
    def history(self):
        """name -> list of what was recorded so far in this run, or in the last one"""
        return self._log.history

    @property
    def running(self):
        """Whether the thread that Start began is still at work."""
        return self._thread is not None and self._thread.is_alive()

    def run(self):
        """Train inside the calling cell -> history; raises what the loop raised."""
        self._work(self._begin())
        return self.wait()

    def start(self):
        """Train in the background; returns at once. Nothing happens when it is training already."""
        if self.running and not self._stop.is_set():
            return
        stop = self._begin()
        self._thread = threading.Thread(target=self._work, args=(stop,), name="LiveRun", daemon=True)
        self._thread.start()

    def stop(self):
        """Ask the run to end after the present step; returns at once."""
        self._stop.set()
        self.stop_button.disabled = True

    def wait(self, timeout_s=None):
        """Block until the run has ended -> history; raises what the loop raised. A kernel interrupt stops the run."""
        if self._thread is not None:
            try:
                self._thread.join(timeout_s)
            except KeyboardInterrupt:
                self.stop()
                self._thread.join(timeout_s)
            if self.running:
                raise TimeoutError(f"still running after {timeout_s} s; wait longer, or end it with stop()")
        if self.error is not None:
            raise self.error
        return self.history

    def _begin(self):
        """Ask whoever computes now to stop -> the stop signal of the run to come, which then waits for its turn."""
        other = LiveRun._latest and LiveRun._latest()
        if other is not None:
            other.stop()
        LiveRun._latest = weakref.ref(self)
        self._stop = threading.Event()  # a new one: the former run of this panel keeps its own, and ends
        self.start_button.disabled, self.stop_button.disabled = True, False
        self.status.value = "waiting for the other run to end"
        return self._stop

    def _work(self, stop):
        try:
            with LiveRun._turn:
                self._take_turn(stop)
        except KeyboardInterrupt:  # interrupted while it waited for its turn
            self._show_end("stopped", stop)

    def _take_turn(self, stop):
        end = "stopped"
        try:
            self.error, self.message.value, self.bar.bar_style = None, "", ""
            if not stop.is_set():
                self.status.value, self._log, self._began = "starting", _Log(), time.monotonic()
                self._follow(stop)
                end = "stopped" if stop.is_set() else "finished"
        except KeyboardInterrupt:  # the kernel was interrupted: the same as Stop
            stop.set()
        except BaseException as error:  # whatever it is, wait() and run() raise it
            end, self.error, self.message.value = "failed", error, error_text(error)
        finally:
            self._show_end(end, stop)

    def _follow(self, stop):
        drawn, records = time.monotonic(), self.make_records()
        try:
            for record in records:
                self._log.add(record)
                if time.monotonic() - drawn >= self.refresh_s:
                    self._draw()
                    drawn = time.monotonic()
                if stop.is_set():
                    break
        finally:  # at the end, at Stop and after an error alike
            with contextlib.closing(records) if hasattr(records, "close") else contextlib.nullcontext():
                self._draw()

    def _draw(self):
        history, last = self._log.read(), self._log.last_step
        if last is not None:
            self.bar.max, self.bar.value = last.steps, last.step
            self.status.value = f"{_status(history, last)} · {_minutes(self._left_s(last))} left"
        loss = {"_each step": (history["step"], history["loss"]), "smoothed": (history["step"], self._log.smooth)}
        accuracy = {
            name: (history["epochs"], history[key])
            for name, key in (("train", "train_accuracy"), ("validation", "val_accuracy"))
            if any(map(math.isfinite, history[key]))
        }
        plots = svg_curves("loss (nats per example)", loss, xlabel="step (pale: each step by itself)")
        plots += svg_curves("accuracy", accuracy, xlabel="epoch")
        self.curves.value = f'<div style="display:flex;flex-wrap:wrap;gap:16px">{plots}</div>'

    def _left_s(self, last):
        return (time.monotonic() - self._began) / last.step * (last.steps - last.step)

    def _show_end(self, end, stop):
        if stop is not self._stop:
            return  # this panel was started again meanwhile: the buttons and the status belong to the new run
        self.bar.bar_style = {"finished": "success", "stopped": "warning", "failed": "danger"}[end]
        last, took = self._log.last_step, _minutes(time.monotonic() - self._began)
        self.status.value = end if last is None else f"{end} · {_status(self.history, last)} · {took} in all"
        self.start_button.disabled, self.stop_button.disabled = False, True

    def __repr__(self):
        return "LiveRun()"


class _Log:
    """What a run recorded. Losses stay on the device until the next drawing: reading one makes the host wait for it."""

    STEP = ("step", "epoch", "loss", "task_loss", "feature_loss", "lr", "images_per_s")
    EPOCH = ("epochs", "train_loss", "train_accuracy", "val_loss", "val_accuracy")

    def __init__(self):
        self.history = {name: [] for name in self.STEP + self.EPOCH}
        self.smooth, self.last_step = [], None
        self._unread, self._average = [], 0.0

    def add(self, record):
        """Keep a Step or an Epoch of ``fit``: told apart by their fields, so that a panel needs no torch."""
        if hasattr(record, "train"):
            self._add_epoch(record)
        else:
            self._unread.append(record)
            self.last_step = record

    def _add_epoch(self, record):
        self.history["epochs"].append(record.epoch)
        for part in ("train", "val"):
            values = getattr(record, part) or {}
            for name in ("loss", "accuracy"):
                self.history[f"{part}_{name}"].append(values.get(name, math.nan))

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
        self.smooth.append(self._average / (1 - keep ** (len(self.smooth) + 1)))


def _status(history, last):
    return (
        f"step {last.step}/{last.steps} · epoch {last.epoch} · loss {history['loss'][-1]:.4f} · lr {last.lr:.1e} · "
        f"{last.images_per_s:.0f} images/s"
    )


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
