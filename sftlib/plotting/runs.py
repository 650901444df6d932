"""The history of a training run, for print."""

import math

import numpy as np

from sftlib.plotting.charts import curves
from sftlib.plotting.style import GREY, MARKERS

SYMBOLS = {"rate": "α ×", "feature_weight": "λ ="}  # what the panel can change on the way


def run_curves(axes, history):
    """Two axes and a ``LiveRun.history`` -> the same two: loss by step, what the run is judged by, by epoch.

    A star stands at the epoch with the best validation, a dotted line where a rate or weight was changed.
    """
    left, right = axes
    left.plot(history["step"], history["loss"], color=GREY, linestyle="-", linewidth=0.7, alpha=0.5)
    smooth = {"smoothed": (history["step"], history["smooth_loss"])}
    curves(left, smooth, xlabel="step (pale: each by itself)", ylabel="loss (nats per example)")
    _changes(left, history)
    scores = {
        name: (history["epochs"], history[key])
        for name, key in (("train", f"train_{history['key']}"), ("validation", f"val_{history['key']}"))
        if any(map(math.isfinite, history[key]))
    }
    curves(right, scores, xlabel="epoch", ylabel=history["key"].replace("_", " "))
    best = best_epoch(history)
    if best is not None:
        at = history["epochs"][best], history[f"val_{history['key']}"][best]
        right.plot(*at, marker="*", markersize=15, color="black", markerfacecolor="white", linestyle="none")
        right.set_title(
            f"best validation: {at[1]:.3f}, epoch {at[0]} of {history['epochs'][-1]}", fontsize=11, loc="left"
        )
    for line in right.get_lines()[: len(scores)]:
        line.set_marker(MARKERS[0])  # with few epochs the points are what was measured
        line.set_markersize(4)
    return axes


def _changes(ax, history):
    """A dotted line with its words for each change; words that would lie over those before stand lower"""
    near = 0.08 * max(history["step"], default=1)  # steps that a line of words is wide
    before, place = -math.inf, 0
    for step, name, value in history["changes"]:
        before, place = step, (place + 1) % 3 if step - before < near else 0
        ax.axvline(step, color=GREY, linestyle=":", linewidth=1.2)
        ax.annotate(f"{SYMBOLS[name]} {value:.3g}", (step, 0.98 - 0.28 * place), xytext=(-3, 0), rotation=90,
                    xycoords=ax.get_xaxis_transform(), textcoords="offset points", ha="right", va="top", fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8})  # fmt: skip


def best_epoch(history):
    """-> position in "epochs" of the best validation, the earliest of equals; None without one, or a direction"""
    if history["higher_is_better"] is None:
        return None
    scores = np.array(history[f"val_{history['key']}"], dtype=float)
    best = np.nanargmax if history["higher_is_better"] else np.nanargmin
    return int(best(scores)) if np.isfinite(scores).any() else None
