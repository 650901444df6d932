"""Three widgets: a figure that is redrawn in place, an explorer of a pure function, a panel around a training run.

They hold no mathematics. None of them prints, uses pyplot or captures output: an error in a callback is shown in the
widget, kept in ``.error`` and raised, so that a person, a test and pytest --nbval all see it.
"""

import html
import io
import math
import threading
import time
import traceback
import weakref

import IPython.display
import ipywidgets as w
from matplotlib.figure import Figure

from sftlib.plotting import svg_curves

RED = "var(--jp-error-color1, #c62828)"  # JupyterLab's own red, which follows its theme


class FigureView(w.Image):
    """A matplotlib figure in a widget: draw into ``.ax`` (or ``.axes``), then call ``.draw()``."""

    def __init__(self, figsize=(6.0, 3.2), *, rows=1, columns=1, alt="figure"):
        """figsize in inches; alt: what the figure shows, in words, for who cannot see it"""
        self._grid = (rows, columns)
        self.figure = Figure(figsize=figsize, dpi=100, layout="constrained")
        width = f"{figsize[0] * self.figure.dpi:.0f}px"
        super().__init__(format="png", tooltip=alt, layout=w.Layout(
            width=width, max_width="100%", height="auto", align_self="flex-start", object_fit="contain"))  # fmt: skip
        self.clear()

    def clear(self):
        """Empty axes; colour bars and legends of the former drawing are gone as well."""
        self.figure.clear()
        self.axes = tuple(self.figure.subplots(*self._grid, squeeze=False).flat)

    @property
    def ax(self):
        """The first, mostly the only, axes."""
        return self.axes[0]

    def draw(self):
        """Send the figure as it now is to the page."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=self.figure.dpi, metadata={"Software": None})
        self.value = buffer.getvalue()

    def still(self):
        """The figure as an ordinary output: it is stored in the notebook, so it shows without a kernel."""
        return IPython.display.Image(self.value)

    def __repr__(self):
        return "FigureView()"


class Explorer(w.VBox):
    """Controls above a figure: ``arrays = update(settings)``, then ``plot(ax, arrays)``, at every change of a control.

    settings: name -> value of the control of that name. With several axes, ``plot`` receives the tuple of them.
    """

    def __init__(self, controls, update, plot, *, figsize=(6.0, 3.2), rows=1, columns=1, alt="figure"):
        self.controls, self.update, self.plot, self.error = dict(controls), update, plot, None
        self.view, self.message = FigureView(figsize, rows=rows, columns=columns, alt=alt), w.HTML()
        for control in self.controls.values():
            if getattr(control.style, "description_width", None) == "":
                control.style.description_width = "9em"  # else a description is cut off after 80 pixels
                control.layout.width = "32em"
            control.observe(self._changed, "value")
        super().__init__([*self.controls.values(), self.message, self.view])
        self.redraw()

    @property
    def settings(self):
        """name -> value, as the controls now stand"""
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self):
        """Compute and draw for the present settings; raises what ``update`` or ``plot`` raise, after showing it."""
        try:
            arrays = self.update(self.settings)
            self.view.clear()
            self.plot(self.view.ax if len(self.view.axes) == 1 else self.view.axes, arrays)
            self.view.draw()
        except Exception as error:
            self.error, self.message.value = error, _error_text(error)
            raise
        self.error, self.message.value = None, ""

    def still(self):
        """The figure as an ordinary output, which shows without a kernel."""
        return self.view.still()

    def _changed(self, change):
        self.redraw()

    def __repr__(self):
        return f"Explorer({', '.join(self.controls)})"


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
        end = "stopped"
        try:
            with LiveRun._turn:
                self.error, self.message.value, self.bar.bar_style = None, "", ""
                if not stop.is_set():
                    self.status.value, self._log, self._began = "starting", _Log(), time.monotonic()
                    self._follow(stop)
                    end = "stopped" if stop.is_set() else "finished"
        except KeyboardInterrupt:  # the kernel was interrupted: the same as Stop
            stop.set()
        except BaseException as error:  # noqa: B036 - whatever it is, wait() and run() raise it
            end, self.error, self.message.value = "failed", error, _error_text(error)
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
            getattr(records, "close", lambda: None)()
            self._draw()

    def _draw(self):
        history, last = self._log.read(), self._log.last_step
        if last is not None:
            self.bar.max, self.bar.value = last.steps, last.step
            self.status.value = _status(history, last, time.monotonic() - self._began)
        loss = {"_each step": (history["step"], history["loss"]), "smoothed": (history["step"], self._log.smooth)}
        accuracy = {
            name: (history["epochs"], history[key])
            for name, key in (("train", "train_accuracy"), ("validation", "val_accuracy"))
            if any(map(math.isfinite, history[key]))
        }
        plots = svg_curves("loss (nats per example)", loss, xlabel="step")
        plots += svg_curves("accuracy", accuracy, xlabel="epoch")
        self.curves.value = f'<div style="display:flex;flex-wrap:wrap;gap:16px">{plots}</div>'

    def _show_end(self, end, stop):
        if stop is not self._stop:
            return  # this panel was started again meanwhile: the buttons and the status belong to the new run
        self.bar.bar_style = {"finished": "success", "stopped": "warning", "failed": "danger"}[end]
        progress = self.status.value.partition(" · ")
        self.status.value = f"{end} · {self.status.value}" if progress[0].startswith("step") else end
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


def _status(history, last, elapsed_s):
    left_s = elapsed_s / last.step * (last.steps - last.step)
    clock = f"{_minutes(left_s)} left" if last.step < last.steps else f"{_minutes(elapsed_s)} in all"
    return (
        f"step {last.step}/{last.steps} · epoch {last.epoch} · loss {history['loss'][-1]:.4f} · lr {last.lr:.1e} · "
        f"{last.images_per_s:.0f} images/s · {clock}"
    )


def _minutes(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _error_text(error):
    """error -> red HTML with its message; the way through the code unfolds"""
    where = "".join(traceback.format_exception(error, limit=-4))
    return (
        f'<div role="alert" style="color:{RED};line-height:1.4"><b>{type(error).__name__}: {html.escape(str(error))}</b>'
        f"<details><summary>where</summary><pre>{html.escape(where)}</pre></details></div>"
    )
