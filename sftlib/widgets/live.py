"""The panel around a training run: Start, Pause, Stop, progress, live curves, rates that can be changed on the way."""

import math
import threading
import time
import traceback
import weakref

import ipywidgets as w

from sftlib.plotting import best_epoch, run_curves, svg_curves
from sftlib.plotting.runs import SYMBOLS
from sftlib.widgets.figure import error_text
from sftlib.widgets.log import Clock, Dials, Log, Switch, memory

END = object()  # what `next` gives when no record is left
SHARE = 50  # a drawing that took t seconds is followed by none for 50 t: the panel costs at most 2 % of the run


class LiveRun(w.VBox):
    """A panel around a training run: ``panel = LiveRun(lambda: fit(…)); display(panel); history = panel.run()``.

    ``make_records()`` returns a fresh iterator of the records of ``sftlib.training.fit``; it is called at each start.
    ``run()`` trains in the calling cell: interrupting the kernel stops it. The Start button (``start()``) trains in a
    thread, so that Pause and Stop can be pressed; where updates from threads do not show (Colab), use ``run()``.
    One run at a time: a new one stops the old one and waits until it has ended, for two threads that compute with
    tensors slow each other down twentyfold.

    With the ``controls`` that ``fit(…, controls=controls)`` was given, the panel has sliders for the factor on every
    learning rate and, unless it is None, for the feature weight. What they say holds from the next step on.

    ``history``: name -> list; "step", "epoch", "loss", "task_loss", "feature_loss", "lr", "examples_per_s" and
    "smooth_loss" have an entry a step; "epochs", "train_loss", "train_accuracy", "val_loss" and "val_accuracy" one an
    epoch; "changes" has (step, name, value) for each change on the way. Where a run is judged by another measure than
    accuracy, "key" names it, and "train_" and "val_" stand before it. Plain numbers: no tensor is kept.
    ``plot(axes)`` draws it for print.
    """

    _turn = threading.RLock()  # held by the run that computes
    _latest = None  # weak reference to the panel that was started last

    def __init__(self, make_records, *, controls=None, refresh_s=0.15):
        self.make_records, self.refresh_s, self.error = make_records, refresh_s, None
        self.dials, self._log, self._clock, self._switch = Dials(controls), Log(), Clock(), Switch()
        self._thread, self._draw_at = None, 0.0
        self.start_button = w.Button(description="Start", icon="play", button_style="success")
        self.pause_button = w.Button(description="Pause", icon="pause", disabled=True)
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True)
        self.bar, self.epoch_bar = _bar("all"), _bar("epoch")
        self.status, self.curves, self.message = w.HTML("ready"), w.HTML(), w.HTML()
        self.start_button.on_click(lambda _: self.start())
        self.pause_button.on_click(lambda _: self.resume() if self.paused else self.pause())
        self.stop_button.on_click(lambda _: self.stop())
        self.buttons = w.HBox([self.start_button, self.pause_button, self.stop_button])
        self.bars = w.HBox([self.bar, self.epoch_bar])
        super().__init__([self.buttons, self.bars, self.dials, self.status, self.message, self.curves])
        self._draw()

    @property
    def history(self):
        """name -> list of what was recorded so far in this run, or in the last one"""
        return self._log.history

    @property
    def running(self):
        """Whether the thread that Start began is still at work, or paused."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def paused(self):
        """Whether the run waits, or will after the present step."""
        return self._switch.paused

    def run(self):
        """Train inside the calling cell -> history; raises what the loop raised."""
        self._work(self._begin())
        return self.wait()

    def start(self):
        """Train in the background; returns at once. Nothing happens when it is training already."""
        if self.running and not self._switch.stopped:
            return
        switch = self._begin()
        self._thread = threading.Thread(target=self._work, args=(switch,), name="LiveRun", daemon=True)
        self._thread.start()

    def pause(self):
        """Ask the run to wait after the present step; returns at once."""
        if not self.pause_button.disabled:
            self._switch.pause()
            self._show_pause()

    def resume(self):
        """Let a paused run go on with its next step; returns at once."""
        self._switch.resume()
        self._show_pause()

    def stop(self):
        """Ask the run to end after the present step; returns at once."""
        self._switch.stop()
        self._show_pause()
        self.stop_button.disabled = self.pause_button.disabled = True

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

    def plot(self, axes):
        """Two axes -> the same two, with the loss and the accuracies of the run so far, for print"""
        return run_curves(axes, self.history)

    def close(self):
        """Stop the run and give back everything that the page and the kernel hold of this panel."""
        self.stop()
        for part in (*self.buttons.children, *self.bars.children, *self.dials.children, *self.children, self):
            for own in ("layout", "style"):
                if part.has_trait(own):
                    getattr(part, own).close()
            if part is not self:
                part.close()
        super().close()

    def _begin(self):
        """Ask whoever computes now to stop -> the switch of the run to come, which then waits for its turn."""
        other = LiveRun._latest and LiveRun._latest()
        if other is not None:
            other.stop()
        LiveRun._latest = weakref.ref(self)
        self._switch = Switch()  # a new one: the former run of this panel keeps its own, and ends
        self.start_button.disabled, self.stop_button.disabled, self.pause_button.disabled = True, False, False
        self.status.value = "waiting for the other run to end"
        return self._switch

    def _work(self, switch):
        try:
            with LiveRun._turn:
                self._take_turn(switch)
        except KeyboardInterrupt:  # interrupted while it waited for its turn
            self._show_end("stopped", switch)

    def _take_turn(self, switch):
        end = "stopped"
        try:
            self.error, self.message.value, self.bar.bar_style = None, "", ""
            if not switch.stopped:
                self.status.value, self._log, self._clock = "starting", Log(), Clock()
                self._draw_at = time.perf_counter() + self.refresh_s
                self.dials.apply()
                self._follow(switch)
                end = "stopped" if switch.stopped else "finished"
        except KeyboardInterrupt:  # the kernel was interrupted: the same as Stop
            switch.stop()
        except BaseException as error:  # whatever it is, wait() and run() raise it
            end, self.error, self.message.value = "failed", error, error_text(error)
            traceback.clear_frames(error.__traceback__)  # else it keeps alive the batch that did not fit into memory
        finally:
            self._show_end(end, switch)

    def _follow(self, switch):
        records = self.make_records()
        try:
            iterator = iter(records)
            while self._may_go_on(switch) and (record := next(iterator, END)) is not END:
                self._log.add(record, self._clock.seconds)
                del record  # its tensors are not to outlive the next step
                if time.perf_counter() >= self._draw_at:
                    self._draw()
        finally:  # at the end, at Stop and after an error alike
            try:
                self._draw()
            finally:
                if hasattr(records, "close"):
                    records.close()

    def _may_go_on(self, switch):
        """Wait while paused; then, unless the run shall stop, hand what the sliders say to the step to come."""
        if switch.paused:
            self._clock.pause()
            try:
                self._draw()
                self.status.value = f"paused · {self.status.value}"
                switch.wait()
            finally:
                self._clock.resume()
        if not switch.stopped:
            self._log.change(self.dials.apply())
        return not switch.stopped

    def _draw(self):
        log = self._log
        log.read()  # may wait for the device, which is no cost of the panel
        began = time.perf_counter()
        if log.last is not None:
            self._show_progress()
            left = _minutes(log.left_s(self._clock.seconds))
            self.status.value = " · ".join(filter(None, (_status(log), memory(), f"{left} left")))
        self.curves.value = _curves(log)
        now = time.perf_counter()
        self._draw_at = now + max(self.refresh_s, SHARE * (now - began))

    def _show_progress(self):
        log = self._log
        self.bar.max, self.bar.value = log.last.steps, log.last.step
        self.epoch_bar.layout.visibility = "visible" if log.epochs else "hidden"
        if log.epochs:
            length = max(1, log.last.steps // log.epochs)
            self.epoch_bar.max = length
            self.epoch_bar.value = (log.last.step - 1) % length + 1
            self.epoch_bar.description = f"epoch {log.last.epoch} of {log.epochs}"

    def _show_pause(self):
        self.pause_button.description = "Resume" if self.paused else "Pause"
        self.pause_button.icon = "play" if self.paused else "pause"

    def _show_end(self, end, switch):
        if switch is not self._switch:
            return  # this panel was started again meanwhile: the buttons and the status belong to the new run
        self.bar.bar_style = {"finished": "success", "stopped": "warning", "failed": "danger"}[end]
        took = _minutes(self._clock.seconds)
        self.status.value = end if self._log.last is None else f"{end} · {_status(self._log)} · {took} in all"
        self._switch.resume()
        self._show_pause()
        self.start_button.disabled, self.stop_button.disabled, self.pause_button.disabled = False, True, True

    def __repr__(self):
        return "LiveRun()"


def _bar(description):
    layout, style = w.Layout(width="330px"), {"description_width": "initial"}
    return w.IntProgress(min=0, max=1, description=description, layout=layout, style=style)


def _curves(log):
    """Log -> HTML with the loss and the accuracies so far; the best epoch ringed, the changes as dotted lines"""
    history, best = log.history, best_epoch(log.history)
    smooth = history["smooth_loss"]
    loss = {"_each step": (history["step"], history["loss"]), "smoothed": (history["step"], smooth)}
    scores = {
        name: (history["epochs"], history[key])
        for name, key in (("train", f"train_{history['key']}"), ("validation", f"val_{history['key']}"))
        if any(map(math.isfinite, history[key]))
    }
    changes = [(step, f"{SYMBOLS[name]} {value:.3g}") for step, name, value in history["changes"]]
    loss_ring, ring = [], []
    if best is not None:
        end = log.epoch_ends[best]
        loss_ring = [(end, smooth[end - log.first_step], "best epoch")]
        ring = [(history["epochs"][best], history[f"val_{history['key']}"][best], "best")]
    loss_label = "step (pale: each step by itself)"
    plots = svg_curves("loss (nats per example)", loss, xlabel=loss_label, marks=loss_ring, events=changes)
    plots += svg_curves(history["key"].replace("_", " "), scores, xlabel="epoch (dot: the last)", marks=ring)
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{plots}</div>'


def _status(log):
    last = log.last
    return (
        f"step {last.step}/{last.steps} · epoch {last.epoch} · loss {log.history['loss'][-1]:.4f} · lr {last.lr:.1e} · "
        f"{log.examples_per_s:.0f} examples/s"
    )


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
