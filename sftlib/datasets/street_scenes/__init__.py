"""Street scenes, drawn on the spot: pictures with exact boxes, masks and class maps, any number, from a seed.

Perspective, bends, kerbs, markings, houses, trees, cars, people and bicycles of all sizes; weather, night, noise. The
texture of leaves and stones is that of a photograph that comes with scikit-learn (china.jpg, CC BY 2.0).
"""

from functools import partial

import numpy as np
import torch

from sftlib.datasets.scenes import Scene, SceneSplit, SceneSplits, boxes_of, check_picture_size
from sftlib.datasets.splits import check_seed
from sftlib.datasets.street_scenes.drawing import KINDS, drawn
from sftlib.datasets.street_scenes.view import CLASSES

VERSION = 1  # of the drawing

__all__ = ["CLASSES", "KINDS", "draw", "load"]


def load(
    *, size: tuple[int, int] = (320, 240), seed: int = 0, numbers: tuple[int, int, int] = (200, 50, 100),
    objects: tuple[str, ...] = ("pedestrian",),
) -> SceneSplits:  # fmt: skip
    """-> SceneSplits of pictures uint8 (3, height, width) for size = (width, height), as many as numbers says

    Targets hold boxes, labels and masks of ``objects`` (pedestrian, car, bicyclist), 1 for the first of them, and class
    maps of CLASSES. A picture is drawn when it is asked for, and kept.
    """
    check_picture_size(size, optional=False)
    check_seed(seed)
    check_objects(objects)
    three = isinstance(numbers, tuple | list) and len(numbers) == 3 and all(type(n) is int for n in numbers)
    if not three or min(numbers) < 0:
        raise ValueError(f"got numbers={numbers!r}; expected how many pictures train, val and test have, whole numbers")
    parts = [_split(3 * int(seed) + i, n, tuple(size), tuple(objects)) for i, n in enumerate(numbers)]
    return SceneSplits(*parts, classes=CLASSES, objects=("background", *objects))


def draw(seed: int, row: int, *, size: tuple[int, int] = (320, 240), objects=("pedestrian",)) -> Scene:
    """The scene of a row: a function of these numbers and nothing else

    Boxes and masks are those of what is seen. An object with less than 20 pixels, or 15 % of itself, in sight is not
    drawn at all, so every one in the picture has its box.
    """
    width, height = size
    drawing = drawn(seed, row, width, height)
    wanted = np.array([KINDS[name] for name in objects])
    rows = np.flatnonzero(np.isin(drawing.kinds, wanted))
    number = np.zeros(len(drawing.kinds) + 1, np.int16)
    number[rows + 1] = np.arange(1, len(rows) + 1)
    found = number[drawing.objects]
    labels = np.array([np.flatnonzero(wanted == kind)[0] + 1 for kind in drawing.kinds[rows]], np.int64)
    maps = torch.from_numpy(found), torch.from_numpy(drawing.classes)
    return Scene(torch.from_numpy(drawing.picture), boxes_of(found, len(rows)), torch.from_numpy(labels), *maps)


def check_objects(objects: tuple[str, ...]) -> None:
    """ValueError unless they are names of things that have boxes, each once"""
    listed = isinstance(objects, tuple | list) and len(objects) > 0
    if not listed or len(set(objects)) < len(objects) or not set(objects) <= set(KINDS):
        raise ValueError(f"got objects={objects!r}; expected a tuple of some of {', '.join(KINDS)}, each once")


def _split(seed: int, n: int, size: tuple[int, int], objects: tuple[str, ...]) -> SceneSplit:
    names = tuple(f"street {seed}/{row}" for row in range(n))
    make = partial(draw, seed, size=size, objects=objects)
    return SceneSplit(make, range(n), names, f"street_scenes {VERSION} {seed} {size} {objects}")
