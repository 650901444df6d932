"""The look of every figure: palette, line styles, sizes."""

import matplotlib
from cycler import cycler
from matplotlib import font_manager
from matplotlib.colors import to_rgb

# Okabe and Ito 2008, "Color Universal Design": told apart with every common form of colour blindness.
# In the order of use: the neighbours differ most, and yellow, pale on white, is left out of the cycle.
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
CYCLE = tuple(COLOURS.values())[:7]
LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
GREY, PALE = "#595959", "#EDEDED"  # 7 : 1 on white, so small grey text stays readable

# Fonts that hold what DejaVu Sans lacks (class names may be in any script); a font that is not there is not named,
# because matplotlib warns of each.
OTHER_SCRIPTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB",
                 "SimHei", "WenQuanYi Zen Hei", "Arial Unicode MS")  # fmt: skip

STYLE = {
    "figure.figsize": (7.0, 3.4),  # inches; at 100 dots an inch as wide as the text of a notebook
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.facecolor": "white",  # figures keep their white sheet on a dark theme
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "axes.prop_cycle": cycler(color=CYCLE) + cycler(linestyle=LINES),
    "image.interpolation": "nearest",
    "svg.hashsalt": "sftlib",  # else every rebuild writes other ids
}


def use_style():
    """Set the course's style for every figure made from here on; call it once, in the set-up cell."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in installed)]
    matplotlib.rcParams.update(STYLE | {"font.family": fonts})


def dark(colour):
    """ "#CC79A7" -> (r, g, b) a third darker: a colour of the palette, to be read as small text on white."""
    return tuple(0.66 * part for part in to_rgb(colour))


def short(number):
    """722496 -> "722 k": three significant digits and the unit k, M, G or T; below 1,000 the number itself."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{number:.3g}"
