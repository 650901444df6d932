"""A folder of pictures with boxes, whichever of the published layouts it has."""

from pathlib import Path

from sftlib.datasets import penn_fudan, voc
from sftlib.datasets.printable import shown
from sftlib.datasets.scenes import SceneSplits

BOXES = {"PedMasks": penn_fudan.load, "Annotations": voc.load}  # a folder that only this layout has -> its loader


def with_boxes(root: str | Path, *, size: tuple[int, int] | None = None, seed: int = 0) -> SceneSplits:
    """-> SceneSplits of a folder in Penn-Fudan's layout or Pascal VOC's, told apart by their subfolders

    Other settings are those of `penn_fudan.load` and `voc.load`. ValueError for a folder in neither layout, or both.
    """
    found = [name for name in BOXES if (Path(root) / name).is_dir()]
    if len(found) != 1:
        has = " and ".join(found) if found else "neither"
        raise ValueError(
            f"{shown(root)} has {has}; expected one of PNGImages with PedMasks (Penn-Fudan), or JPEGImages with "
            "Annotations (Pascal VOC)"
        )
    return BOXES[found[0]](root, size=size, seed=seed)
