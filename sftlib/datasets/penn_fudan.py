"""Penn-Fudan: 170 photographs with pedestrians. Wang et al. 2007, Object Detection Combining Recognition and
Segmentation, ACCV. Any folder in its layout: PNGImages/NAME.png, PedMasks/NAME_mask.png (0 ground, 1 … n people).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sftlib.datasets.printable import shown
from sftlib.datasets.published import (
    Item,
    Parts,
    check_same_size,
    files_in,
    paired,
    read_label_image,
    read_picture,
    scene_splits,
    subfolder,
)
from sftlib.datasets.scenes import Scene, SceneSplits, boxes_of

NEIGHBOURS = 5  # photographs of one place follow each other: as many stay in one split


def load(
    root: str | Path, *, size: tuple[int, int] | None = None, seed: int = 0,
    fractions: Sequence[float] = (0.7, 0.1, 0.2), skip_broken: bool = False,
) -> SceneSplits:  # fmt: skip
    """-> SceneSplits of pictures at size = (width, height), or as they are; label 1 is a pedestrian

    A mask without people is a picture without a box. ValueError names every file that is broken or lacks its partner;
    with skip_broken they are left out and listed in `.broken`.
    """
    root, parts = Path(root), Parts(seed, fractions)
    pictures, masks = files_in(subfolder(root, "PNGImages")), files_in(subfolder(root, "PedMasks"))
    masks = {name.removesuffix("_mask"): path for name, path in masks.items()}
    pairs, problems = paired(pictures, masks, "mask in PedMasks")
    items = [Item(*pair) for pair in pairs]
    splits, broken = scene_splits(root, items, read, size, parts, NEIGHBOURS, skip_broken, problems)
    return SceneSplits(*splits, classes=(), broken=broken, objects=("background", "pedestrian"))


def read(picture_file: Path, mask_file: Path) -> Scene:
    """A picture and its mask -> the scene; ValueError for a mask that is none"""
    picture, mask = read_picture(picture_file), read_label_image(mask_file)
    check_same_size(picture, mask, mask_file)
    if mask.ndim == 3:
        raise ValueError(f"{shown(mask_file)}: has colours; expected one number for each pixel, 0 ground, 1 … n people")
    numbers = np.unique(mask)
    people = numbers[numbers > 0]
    if numbers[0] < 0 or not np.array_equal(people, np.arange(1, len(people) + 1)):
        raise ValueError(
            f"{shown(mask_file)}: numbers {numbers[:12].tolist()}; expected 0 for the ground and 1 … n for n people, "
            "none left out (0 and 255 tell people from ground, but not one from another)"
        )
    if numbers[0] != 0 and len(people) == 1:
        raise ValueError(f"{shown(mask_file)}: one person fills the picture; expected 0 where there is ground")
    labels = torch.ones(len(people), dtype=torch.long)
    return Scene(picture, boxes_of(mask, len(people)), labels, torch.from_numpy(mask.astype(np.int16)))
