"""A picture with the class of every pixel laid over it."""

import numpy as np
from matplotlib.colors import to_rgb

from sftlib.plotting.style import COLOURS

# Pale and strong by turns, so that neighbours of the list differ; more classes begin again from the front
CLASS_COLOURS = ("#AEC7E8", COLOURS["blue"], "#7F7F7F", COLOURS["purple"], "#F7B6D2", COLOURS["green"],
                 COLOURS["yellow"], "#8C564B", COLOURS["orange"], COLOURS["vermillion"], COLOURS["sky"])  # fmt: skip
LEAST = 0.015  # of the picture: smaller classes are not named


def overlay(ax, picture, classes, names, *, opacity=0.6, named=True):
    """picture uint8 (3, H, W), classes (H, W) whole numbers, K names -> ax with the classes' colours over the picture

    Each class is named in its widest place, for colours alone are hard to tell apart. Pixels of no class (255) stay
    as they are. opacity: 0 shows the picture, 1 the classes alone.
    """
    picture, classes = np.asarray(picture), np.asarray(classes)
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.shape[1:] != classes.shape:
        raise ValueError(
            f"a picture {picture.shape} and classes {classes.shape}; expected (3, H, W) and (H, W) of one size"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"got opacity={opacity}; expected 0 (the picture) to 1 (the classes)")
    colours = np.array([to_rgb(CLASS_COLOURS[k % len(CLASS_COLOURS)]) for k in range(len(names))])
    known = (classes >= 0) & (classes < len(names))
    share = np.where(known, opacity, 0.0)[..., None]
    shown = picture.transpose(1, 2, 0) / 255 * (1 - share) + colours[np.where(known, classes, 0)] * share
    ax.imshow(shown.clip(0, 1))
    ax.set_axis_off()
    for k in np.unique(classes[known]) if named and opacity > 0 else ():
        mask = classes == k
        if mask.mean() >= LEAST:
            y, x = widest(mask)
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
            ax.text(x, y, names[k], fontsize=7, ha="center", va="center", bbox=box)
    return ax


def widest(mask):
    """mask bool (H, W) with a pixel -> (row, column) of the one that is farthest from what is outside"""
    from scipy.ndimage import distance_transform_edt  # imported late: SciPy takes a second

    return np.unravel_index(distance_transform_edt(np.pad(mask, 1)).argmax(), np.add(mask.shape, 2)) - np.ones(2, int)
