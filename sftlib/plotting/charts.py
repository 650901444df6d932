"""Curves, bands, intervals, tables of numbers, confusion matrices and maps of features."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from sftlib.plotting.style import COLOURS, CYCLE, LINES, MARKERS, dark


def curves(ax, series, *, xlabel, ylabel):
    """series: name -> (x (n,), y (n,)) -> ax with one line each, named at its end.

    Set the scale and the limits of the axes before, for the places of the names follow from them.
    """
    ends = []
    for i, (name, (x, y)) in enumerate(series.items()):
        x, y = _line(name, x, y)
        ax.plot(x, y, color=CYCLE[i % len(CYCLE)], linestyle=LINES[i % len(LINES)], label=name)
        ends.append((name, x, y))
    return _finish(ax, ends, xlabel, ylabel)


def lowest_and_highest(ys):
    """ys (S, n) -> (lower (n,), upper (n,)): the whole range over the S seeds."""
    return ys.min(axis=0), ys.max(axis=0)


def bands(ax, x, series, *, xlabel, ylabel, interval=lowest_and_highest):
    """x (n,), series: name -> ys (S, n), S seeds -> ax with the mean of each as a line in a band.

    interval(ys (S, n)) -> (lower (n,), upper (n,)) decides what the band shows: the range unless told.
    """
    ends = []
    for i, (name, ys) in enumerate(series.items()):
        ys = np.asarray(ys, dtype=float)
        if ys.ndim != 2 or ys.shape[1] != len(x):
            raise ValueError(
                f"{name!r} has shape {ys.shape}; expected (seeds, {len(x)}): one row a seed, one column an x"
            )
        colour, mean = CYCLE[i % len(CYCLE)], ys.mean(axis=0)
        ax.fill_between(x, *interval(ys), color=colour, alpha=0.18, linewidth=0)
        ax.plot(x, mean, color=colour, linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)], label=name)
        ends.append((name, np.asarray(x, dtype=float), mean))
    return _finish(ax, ends, xlabel, ylabel)


def intervals(ax, rows, *, scale=1, against=None, shift=0.0, colour=COLOURS["blue"], marker="o", label=None):
    """rows: name -> interval with .mean, .low, .high -> ax with a line for each from low to high, the first on top

    Its mean is a mark. against: a dotted line there, and hollow marks for intervals that hold it. shift: in rows,
    downwards, to draw two series side by side. scale: 100 for points of a hundred.
    """
    for row, i in enumerate(rows.values()):
        holds = against is not None and i.low <= against <= i.high
        ax.plot([scale * i.low, scale * i.high], [row + shift] * 2, "-", color=colour, linewidth=3)
        ax.plot(scale * i.mean, row + shift, marker, color=colour, markersize=7,
                markerfacecolor="white" if holds else colour, label=None if row else label)  # fmt: skip
    if against is not None:
        ax.axvline(scale * against, color="black", linestyle=":", linewidth=1.2)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(False, axis="y")
    return ax


def heat(ax, values, *, rows, columns, texts=None, limits=None):
    """values (R, C) -> ax with a cell for each, the darker the larger, and in it its number, or its text

    texts (R, C): what is written instead. limits: (the palest, the darkest); from the values unless told.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values of shape {values.shape}; expected {(len(rows), len(columns))}: rows, columns")
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    ax.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        ax.text(j, i, f"{value:.2f}" if texts is None else texts[i][j], ha="center", va="center", fontsize=9,
                color="white" if value > low + 0.55 * (high - low) else "black")  # fmt: skip
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    ax.tick_params(length=0)
    return ax


def confusion(ax, matrix, classes):
    """matrix (K, K) of counts, rows = truth, columns = prediction -> ax; in a cell its count, its share of the row."""
    matrix, k = np.asarray(matrix), len(classes)
    if matrix.shape != (k, k):
        raise ValueError(f"a matrix of shape {matrix.shape} for {k} classes; expected ({k}, {k})")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{count:,}\n{share[row, column]:.0%}" if k <= 7 else f"{count:,}"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=11 if k <= 7 else 8)
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if k > 3 else {}
    ax.set_xticks(range(k), classes, **turn)
    ax.set_yticks(range(k), classes)
    ax.set(xlabel="predicted", ylabel="true")
    ax.grid(False)
    ax.tick_params(length=0)
    return ax


def reliability(ax, said, was, n, *, title):
    """confidence (B,), accuracy (B,), examples (B,) of each bin -> ax; on the dotted line a model keeps its word"""
    ax.plot([0, 1], [0, 1], color="#595959", linestyle=":", linewidth=1.2)
    ax.plot(said, was, marker="o")
    for x, y, count in zip(said, was, n, strict=True):
        ax.annotate(f"{int(count)}", (float(x), float(y)), xytext=(5, 5), textcoords="offset points", fontsize=8)
    ax.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.06))
    return ax


def embedding(ax, points, labels, classes):
    """points (N, 2), labels (N,) in 0 … K - 1 -> ax with one colour and one marker a class."""
    points, labels = np.asarray(points), np.asarray(labels)
    if points.ndim != 2 or points.shape != (len(labels), 2):
        raise ValueError(
            f"points {points.shape} with {len(labels)} labels; expected (N, 2) and (N,): project to 2-D first"
        )
    for k, name in enumerate(classes):
        here = points[labels == k]
        marker, colour = MARKERS[k % len(MARKERS)], CYCLE[k % len(CYCLE)]
        ax.scatter(*here.T, marker=marker, color=colour, s=26, alpha=0.75, edgecolor="white", linewidth=0.4,
                   label=f"{name} ({len(here)})")  # fmt: skip
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="class (pictures)", alignment="left")
    ax.set(xlabel="first direction", ylabel="second direction", xticks=[], yticks=[])
    return ax


def _line(name, x, y):
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{name!r} has x {x.shape} and y {y.shape}; expected two rows of the same length")
    return x, y


def _finish(ax, ends, xlabel, ylabel):
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if all(np.all(x == np.round(x)) for _, x, _ in ends) and ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no epoch 2.5
    _name_ends(ax, ends)
    return ax


def _name_ends(ax, ends):
    """Write each name to the right of its line's last point, moved up or down as far as the neighbours need."""
    known = [(n, x[np.isfinite(y)][-1], y[np.isfinite(y)][-1]) for n, x, y in ends if np.isfinite(y).any()]
    right = max((x for _, x, _ in known), default=0)
    points = 72 / ax.figure.dpi  # a pixel in points
    height = [ax.transData.transform((x, y))[1] * points for _, x, y in known]
    colours = {line.get_label(): line.get_color() for line in ax.get_lines()}
    for (name, _, y), own, placed in zip(known, height, spread(height, gap=14), strict=True):
        ax.annotate(f" {name}", (right, y), xytext=(4, placed - own), textcoords="offset points",
                    color=dark(colours[name]), va="center", annotation_clip=False)  # fmt: skip


def spread(heights, gap):
    """heights (n,) -> heights (n,) at least `gap` apart, in the same order and near their own."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    for _ in range(50):  # push neighbours apart by halves; a handful of names settles in a few rounds
        short_by = gap - np.diff(placed)
        if (short_by <= 1e-9).all():
            break
        for i in np.flatnonzero(short_by > 0):
            push = max(0.0, gap - (placed[i + 1] - placed[i])) / 2
            placed[i], placed[i + 1] = placed[i] - push, placed[i + 1] + push
    out = np.empty_like(placed)
    out[order] = placed
    return out
