"""A matplotlib figure that is redrawn in place, and an explorer of a pure function built on it."""

import html
import io
import traceback

import IPython.display
import ipywidgets as w
import numpy as np
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RED = "var(--jp-error-color1, #c62828)"  # JupyterLab's own red, which follows its theme

# Of the page, as long as an explorer is on it: the still figure beside it, known by the class that JupyterLab gives it
HIDE_STILL = (
    "<style>.jp-Cell:has(.sft-explorer) .jp-RenderedImage:has(.jp-needs-light-background), "
    ".jp-Cell:has(.sft-explorer) + .jp-Cell .jp-RenderedImage:has(.jp-needs-light-background) {display: none}</style>"
)


class FigureView(w.Image):
    """A matplotlib figure in a widget: draw into ``.ax`` (or ``.axes``), then call ``.draw()``."""

    def __init__(self, figsize=(6.0, 3.2), *, rows=1, columns=1):
        self._grid = (rows, columns)
        self.figure = Figure(figsize=figsize, dpi=100, layout="constrained")  # figsize in inches
        # No tooltip (a text for who cannot see the picture): a view of ipywidgets 8.1's Image fails to start with one.
        width = f"{figsize[0] * self.figure.dpi:.0f}px"  # else it is stretched over the page
        layout = w.Layout(width=width, max_width="100%", height="auto", align_self="flex-start")
        super().__init__(format="png", layout=layout)
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
        canvas, buffer = FigureCanvasAgg(self.figure), io.BytesIO()
        canvas.draw()  # once; savefig would draw twice, the first time only to lay the figure out
        PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "png")
        self.value = buffer.getvalue()

    def still(self):
        """The figure as an ordinary output: it is stored in the notebook, so it shows without a kernel.

        Where the explorer itself is alive, in the same cell or the one before, the page leaves it out (`HIDE_STILL`).
        """
        return Still(self.value)

    def __repr__(self):
        return "FigureView()"


class Still(IPython.display.Image):
    """A figure as an ordinary output, which JupyterLab puts on a light ground, and by that `HIDE_STILL` knows it."""

    def _repr_mimebundle_(self, include=None, exclude=None):
        return super()._repr_mimebundle_(include, exclude)[0], {"needs_background": "light"}


class Explorer(w.VBox):
    """Controls above a figure: ``arrays = update(settings)``, then ``plot(ax, arrays)``, at every change of a control.

    settings: name -> value of the control of that name. With several axes, ``plot`` receives the tuple of them.
    """

    def __init__(self, controls, update, plot, *, figsize=(6.0, 3.2), rows=1, columns=1):
        self.controls, self.update, self.plot, self.error = dict(controls), update, plot, None
        self.view, self.message = FigureView(figsize, rows=rows, columns=columns), w.HTML()
        for control in self.controls.values():
            if getattr(control.style, "description_width", None) == "":
                control.style.description_width = "12em"  # else a description is cut off after 80 pixels
                control.layout.width = "36em"
            control.observe(self._changed, "value")
        hidden = w.HTML(HIDE_STILL, layout=w.Layout(display="none"))
        super().__init__([*self.controls.values(), self.message, self.view, hidden])
        self.add_class("sft-explorer")
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
            self.error, self.message.value = error, error_text(error)
            raise
        self.error, self.message.value = None, ""

    def still(self):
        """The figure as an ordinary output, which shows without a kernel."""
        return self.view.still()

    def _changed(self, change):
        self.redraw()

    def __repr__(self):
        return f"Explorer({', '.join(self.controls)})"


def error_text(error):
    """error -> red HTML with its message; the way through the code unfolds"""
    what = f"<b>{type(error).__name__}: {html.escape(str(error))}</b>"
    where = html.escape("".join(traceback.format_exception(error, limit=-4)))
    return (
        f'<div role="alert" style="color:{RED};line-height:1.4">{what}'
        f"<details><summary>where</summary><pre>{where}</pre></details></div>"
    )
