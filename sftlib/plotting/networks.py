"""Pictures with what a network said of them, and what a network looks like along its stages."""

import numpy as np

from sftlib.plotting.style import COLOURS, GREY, dark, short

F_COLOUR, G_COLOUR = COLOURS["blue"], COLOURS["orange"]


def pictures(axes, pictures, titles=None, *, right=None):
    """axes (≥ N), pictures uint8 (N, 3, H, W), N titles, right (N,) bool -> axes; ✓ or ✗ where `right` is given."""
    pictures, flat = np.asarray(pictures), np.ravel(axes)
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.dtype != np.uint8:
        raise ValueError(
            f"pictures of shape {pictures.shape} and {pictures.dtype}; expected uint8 (N, 3, H, W), as a split gives"
        )
    if len(flat) < len(pictures):
        raise ValueError(
            f"{len(pictures)} pictures for {len(flat)} axes; expected an axes for each: plt.subplots(rows, columns)"
        )
    titles = [""] * len(pictures) if titles is None else titles
    marks = [None] * len(pictures) if right is None else right
    for ax in flat:
        ax.set_axis_off()
    for ax, picture, title, mark in zip(flat, pictures, titles, marks, strict=False):
        ax.imshow(picture.transpose(1, 2, 0))  # (H, W, 3)
        _caption(ax, title, mark)
    return axes


def _caption(ax, title, right):
    if right is None:
        ax.set_title(title, fontsize=10, fontweight="normal")
        return
    colour = dark(COLOURS["green"] if right else COLOURS["vermillion"])
    ax.set_title(f"{'✓' if right else '✗'} {title}", fontsize=10, color=colour, fontweight="normal")
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=colour, linewidth=2.5, linestyle="-" if right else (0, (3, 1.5)))


def shapes(ax, names, shapes, *, cut, parameters=None):
    """n names, n shapes of one picture's way, e.g. (64, 31, 31) -> ax with a bar a stage, f above g.

    A bar is the number of values that leave the stage; the first `cut` stages are f, the others g.
    parameters: n counts.
    """
    if not len(names) == len(shapes) or not 0 < cut < len(names):
        raise ValueError(
            f"{len(names)} names, {len(shapes)} shapes, cut {cut}; expected one shape a name and a cut inside them"
        )
    values = [int(np.prod(shape)) for shape in shapes]
    rows = np.arange(len(names))
    in_f = rows < cut
    ax.barh(rows[in_f], np.asarray(values)[in_f], height=0.72, color=F_COLOUR)
    ax.barh(rows[~in_f], np.asarray(values)[~in_f], height=0.72, color=G_COLOUR, hatch="///", edgecolor="white")
    texts = [_shape_text(shape, parameters and parameters[row]) for row, shape in enumerate(shapes)]
    for row, text in enumerate(texts):
        ax.annotate(text, (values[row], row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_xscale("log")
    ax.set_xlim(1, _limit_with_room(ax, values, texts))
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("values that leave the stage, for one picture")
    ax.grid(False, axis="y")
    _mark_cut(ax, cut, len(names))
    return ax


def _shape_text(shape, parameters):
    text = " × ".join(f"{n:,}" for n in shape)
    return text if parameters is None else f"{text}   ·   {short(parameters)} parameters"


def _limit_with_room(ax, values, texts):
    """The end of a logarithmic axis from 1 that leaves room for each bar's text beside it."""
    width = 0.85 * ax.figure.get_figwidth() * 72  # points; tick labels take the rest
    return max(
        max(value, 1.5) ** (1 / (1 - (5.4 * len(text) + 12) / width)) for value, text in zip(values, texts, strict=True)
    )


def _mark_cut(ax, cut, stages):
    """A line at the cut, and a bracket with its letter beside the rows of f and those of g."""
    ax.axhline(cut - 0.5, color="black", linestyle="--", linewidth=1.5)
    frame = ax.get_yaxis_transform()  # x in shares of the width, y in rows
    for name, colour, top, bottom in (("f", F_COLOUR, 0, cut - 1), ("g", G_COLOUR, cut, stages - 1)):
        ax.plot([1.01, 1.01], [top - 0.36, bottom + 0.36], color=colour, linewidth=4, linestyle="-", transform=frame,
                clip_on=False, solid_capstyle="butt")  # fmt: skip
        ax.text(1.025, (top + bottom) / 2, name, color=dark(colour), fontsize=16, fontweight="bold",
                fontstyle="italic", va="center", transform=frame)  # fmt: skip


def share_bars(ax, shares):
    """shares: name of a quantity -> (amount in f, amount in g) -> ax with one bar of 100 % each."""
    for row, (name, (f, g)) in enumerate(shares.items()):
        if f < 0 or g < 0 or f + g == 0:
            raise ValueError(f"{name!r} is {f} in f and {g} in g; expected two amounts ≥ 0 that are not both 0")
        part = f / (f + g)
        ax.barh(row, part, color=F_COLOUR, height=0.5)
        ax.barh(row, 1 - part, left=part, color=G_COLOUR, hatch="///", edgecolor="white", height=0.5)
        for side, share, amount, at, align in (("f", part, f, 0, "left"), ("g", 1 - part, g, 1, "right")):
            ax.annotate(f"{side}: {short(amount)} ({share:.1%})", (at, row - 0.28), xytext=(3 if at == 0 else 0, 0),
                        textcoords="offset points", ha=align, va="bottom", fontsize=10)  # fmt: skip
    ax.set_yticks(range(len(shares)), shares)
    ax.set_ylim(len(shares) - 0.6, -0.75)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel("share of the whole model")
    ax.grid(False, axis="y")
    ax.tick_params(colors=GREY, labelcolor="black")
    return ax
