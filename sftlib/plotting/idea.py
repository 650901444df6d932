"""The picture of the course: a model cut into f and g, and the losses each of them learns from."""

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from sftlib.plotting.style import COLOURS, GREY, PALE

INK, QUIET = "#222222", "#8C8C8C"
# What can be highlighted, and its colour.
PARTS = {
    "x": COLOURS["green"],
    "f": COLOURS["blue"],
    "z": COLOURS["sky"],
    "g": COLOURS["orange"],
    "logits": COLOURS["yellow"],
    "L_g": COLOURS["vermillion"],
    "L_f": COLOURS["purple"],
    "L": COLOURS["green"],
    "gradient": COLOURS["vermillion"],
}
ROW, LOW = 3.4, 0.9  # the heights of the main row and of the feature loss, in drawing units
# Where each forward arrow starts and ends; a gradient runs back along all but the first.
FORWARD = {
    "x f": ((1.75, ROW), (2.5, ROW)),
    "f z": ((5.55, ROW), (6.3, ROW)),
    "z g": ((7.0, ROW), (7.85, ROW)),
    "g logits": ((10.0, ROW), (10.75, ROW)),
    "logits L_g": ((11.45, ROW), (12.4, ROW)),
    "L_g L": ((13.75, ROW), (14.75, ROW)),
}


def idea(ax, *, highlight=("f",)):
    """Names of PARTS -> ax with the f → g picture, those parts coloured; made for 9 × 3.4 inches."""
    unknown = sorted(set(highlight) - set(PARTS))
    if unknown:
        raise ValueError(f"nothing in the picture is called {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    look = {name: _look(name, name in highlight) for name in PARTS}
    ax.set(xlim=(-0.1, 16.5), ylim=(-0.65, 5.55), aspect="equal")
    ax.set_axis_off()
    _draw_parts(ax, look)
    _draw_labels(ax, set(highlight))
    _draw_forward(ax)
    _draw_gradient(ax, "gradient" in highlight)
    return ax


def _look(name, lit):
    if not lit:
        return {"facecolor": PALE, "edgecolor": QUIET, "linewidth": 1.2}
    return {"facecolor": PARTS[name], "edgecolor": INK, "linewidth": 2.2}


def _draw_parts(ax, look):
    for k in (2, 1, 0):  # a little stack of pictures
        ax.add_patch(Rectangle((0.15 + 0.17 * k, ROW - 0.75 + 0.17 * k), 1.2, 1.2, **look["x"]))
    corners = [(2.6, ROW - 1.25), (2.6, ROW + 1.25), (5.4, ROW + 0.65), (5.4, ROW - 0.65)]
    ax.add_patch(Polygon(corners, joinstyle="round", **look["f"]))
    _column(ax, 6.65, 5, look["z"])
    style = "round,pad=0,rounding_size=0.18"
    ax.add_patch(FancyBboxPatch((8.0, ROW - 0.65), 1.85, 1.3, boxstyle=style, **look["g"]))
    _column(ax, 11.1, 2, look["logits"])
    ax.add_patch(Circle((13.1, ROW), 0.6, **look["L_g"]))
    ax.add_patch(Circle((8.92, LOW), 0.6, **look["L_f"]))
    ax.add_patch(Circle((15.5, ROW), 0.72, **look["L"]))


def _column(ax, x, cells, look):
    for k in range(cells):
        ax.add_patch(Rectangle((x - 0.2, ROW - 0.2 * cells + 0.4 * k), 0.4, 0.4, **look))


def _draw_labels(ax, lit):
    def ink(part):  # white letters on the palette's dark colours
        return "white" if part in lit and part in ("x", "f", "L_g", "L") else INK

    def text(x, y, what, **how):
        ax.text(x, y, what, ha="center", va="center", **{"color": INK} | how)

    name = {"fontsize": 17, "fontweight": "bold", "fontstyle": "italic"}
    for part, x, y in (
        ("x", 0.75, ROW - 0.15),
        ("f", 4.0, ROW + 0.16),
        ("g", 8.92, ROW + 0.16),
        ("z", 6.65, ROW + 1.62),
    ):
        text(x, y, part, color=ink(part), **name)
    for part, x, y in (("L_g", 13.1, ROW), ("L_f", 8.92, LOW), ("L", 15.5, ROW)):
        text(x, y, f"${part}$", fontsize=16, color=ink(part))
    text(4.0, ROW - 0.38, "backbone", fontsize=10.5, color=ink("f"))
    text(8.92, ROW - 0.38, "head", fontsize=10.5)
    text(11.1, ROW + 1.02, "logits", fontsize=11)
    for x, y, shape in ((0.92, ROW - 1.05, "(N, C, H, W)"), (6.65, ROW + 1.24, "(N, D)"), (11.1, ROW + 0.66, "(N, K)")):
        text(x, y, shape, fontsize=9.5, color=GREY)
    for x, y in ((13.1, ROW + 1.5), (8.92, LOW + 1.32)):
        text(x, y, "y", fontsize=13, fontstyle="italic", fontweight="bold")
    text(12.2, LOW + 0.35, "× λ", fontsize=12)
    text(15.4, ROW + 1.05, "$L = L_g + λ\\,L_f$", fontsize=11.5)


def _arrow(ax, start, end, **look):
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.6} | look
    ax.add_patch(FancyArrowPatch(start, end, **style))


def _path(ax, points, **look):
    """A bent arrow: a line through the points, with a head at the end."""
    xs, ys = zip(*points[:-1], strict=True)
    ax.plot(xs, ys, color=look["color"], linewidth=1.6, linestyle=look.get("linestyle", "-"), solid_capstyle="butt")
    _arrow(ax, points[-2], points[-1], **look)


def _draw_forward(ax):
    for start, end in FORWARD.values():
        _arrow(ax, start, end, color=INK)
    _arrow(ax, (13.1, ROW + 1.25), (13.1, ROW + 0.65), color=INK)  # y -> L_g
    _arrow(ax, (8.92, LOW + 1.07), (8.92, LOW + 0.65), color=INK)  # y -> L_f
    _path(ax, [(6.55, ROW - 1.1), (6.55, LOW + 0.1), (8.27, LOW + 0.1)], color=INK)  # z -> L_f
    _path(ax, [(9.57, LOW + 0.1), (15.4, LOW + 0.1), (15.4, ROW - 0.78)], color=INK)  # L_f -> L


def _draw_gradient(ax, lit):
    look = {"color": PARTS["gradient"] if lit else QUIET, "linestyle": (0, (3, 2)), "linewidth": 2.0 if lit else 1.3}
    for name, (start, end) in FORWARD.items():
        if name != "x f":  # pictures are not learned
            _arrow(ax, (end[0], ROW - 0.28), (start[0], ROW - 0.28), **look)
    _path(ax, [(8.27, LOW - 0.15), (6.8, LOW - 0.15), (6.8, ROW - 1.1)], **look)  # L_f -> z
    _path(ax, [(15.68, ROW - 0.78), (15.68, LOW - 0.15), (9.57, LOW - 0.15)], **look)  # L -> L_f
    _arrow(ax, (0.2, 0.25), (1.1, 0.25), color=INK)
    ax.text(1.25, 0.25, "forward", fontsize=9.5, color=GREY, va="center")
    _arrow(ax, (1.1, -0.2), (0.2, -0.2), **look)
    ax.text(1.25, -0.2, "gradient", fontsize=9.5, color=GREY, va="center")
    if lit:
        ax.text(
            4.0,
            ROW - 1.62,
            "$f \\leftarrow f - \\alpha\\,\\partial L / \\partial f$",
            ha="center",
            fontsize=12,
            color=INK,
        )
        ax.text(
            8.92,
            ROW + 0.95,
            "$g \\leftarrow g - \\alpha\\,\\partial L / \\partial g$",
            ha="center",
            fontsize=12,
            color=INK,
        )
