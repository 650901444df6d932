"""Every figure of the course: ``f(ax, arrays) -> ax``. Palette and style live here and nowhere else.

A function draws into the axes it is given and returns them; it never shows or saves. Colour never carries a
meaning alone: there is always a line style, a marker, a symbol or a text as well.
"""

from sftlib.plotting.charts import bands, confusion, curves, embedding, heat, intervals, reliability
from sftlib.plotting.idea import PARTS, idea
from sftlib.plotting.maps import overlay
from sftlib.plotting.networks import pictures, shapes, share_bars
from sftlib.plotting.runs import best_epoch, run_curves
from sftlib.plotting.style import COLOURS, LINES, MARKERS, short, use_style
from sftlib.plotting.svg import svg_curves

__all__ = ["COLOURS", "LINES", "MARKERS", "PARTS", "bands", "best_epoch", "confusion", "curves", "embedding", "heat",
           "idea", "intervals", "overlay", "pictures", "reliability", "run_curves", "shapes", "share_bars", "short",
           "svg_curves", "use_style"]  # fmt: skip
