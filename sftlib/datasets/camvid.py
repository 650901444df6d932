"""CamVid: streets from a car, every pixel named. Brostow et al. 2009, Pattern Recognition Letters 30, 88-97,
doi 10.1016/j.patrec.2008.04.005. Any folder in one of the layouts in which it is published.

| pictures | label images | |
|---|---|---|
| train, val, test | trainannot, valannot, testannot | numbers 0 … 10, 11 for what counts for nothing (SegNet's) |
| train, val, test | train_labels, val_labels, test_labels | colours, class_dict.csv |
| 701_StillsRaw_full | LabeledApproved_full | colours, label_colors.txt (the authors') |
| images | labels | numbers, codes.txt; or colours |
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sftlib.datasets.printable import shown
from sftlib.datasets.published import (
    SPLITS,
    Item,
    Parts,
    check_same_size,
    files_in,
    listed,
    paired,
    read_label_image,
    read_picture,
    scene_splits,
)
from sftlib.datasets.scenes import IGNORED, Scene, SceneSplits

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
# The 32 names of the authors in the 11 classes of Badrinarayanan et al. 2015, SegNet, arXiv 1511.00561; others are void
ELEVEN = {
    "sky": ("Sky",), "building": ("Building", "Wall", "Bridge", "Tunnel", "Archway"),
    "pole": ("Column_Pole", "TrafficCone"), "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"), "tree": ("Tree", "VegetationMisc"),
    "sign": ("SignSymbol", "Misc_Text", "TrafficLight"), "fence": ("Fence",),
    "car": ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    "pedestrian": ("Pedestrian", "Child", "CartLuggagePram", "Animal"), "bicyclist": ("Bicyclist", "MotorcycleScooter"),
}  # fmt: skip
NEIGHBOURS = 20  # frames of one drive follow each other: as many stay in one split
NOTHING = ("void", "unlabelled", "unlabeled", "ignore", "background")


@dataclass(frozen=True)
class Table:
    """names of the classes; number of each colour (n, 3) or of each index, 255 for what counts for nothing"""

    classes: tuple[str, ...]
    colours: np.ndarray | None  # uint8 (n, 3), of which ``numbers`` are the classes
    numbers: np.ndarray  # uint8 (n,)


def load(
    root: str | Path, *, size: tuple[int, int] | None = None, classes: Sequence[str] | None = None, seed: int = 0,
    fractions: Sequence[float] = (0.6, 0.15, 0.25), first: int | None = None, eleven: bool = True,
    skip_broken: bool = False,
) -> SceneSplits:  # fmt: skip
    """-> SceneSplits of pictures at size = (width, height), or as they are, with class maps of `.classes`

    classes: names of the numbers in the label images; None: codes.txt, or the 11 of SegNet. first: the number of the
    first class, 0 or 1; None: 0, and it has to occur. eleven: the authors' 32 names as the 11 classes. ValueError names
    every file that is broken, lacks its partner or holds an unknown colour or number; with skip_broken they are left
    out and listed in `.broken`.
    """
    root, parts = Path(root), Parts(seed, fractions)
    if first not in (None, 0, 1):
        raise ValueError(f"got first={first!r}; expected the number of the first class in the label images, 0 or 1")
    items, problems = _items(root)
    table = _table(root, classes, eleven, colours=_has_colours(items))
    read = Read(table, first or 0)
    begins: list[bool] = []  # of each picture, whether it has the first class
    look = None if table.colours is not None else lambda scene: begins.append(bool((scene.class_map == 0).any()))
    splits, broken = scene_splits(root, items, read, size, parts, NEIGHBOURS, skip_broken, problems, look)
    if first is None and begins and not any(begins):
        _refuse_shift(root, table.classes[0])
    return SceneSplits(*splits, classes=table.classes, broken=broken)


@dataclass(frozen=True, repr=False)
class Read:
    """Picture file, label image -> scene"""

    table: Table
    first: int

    def __call__(self, picture_file: Path, label_file: Path) -> Scene:
        picture, labels = read_picture(picture_file), read_label_image(label_file)
        check_same_size(picture, labels, label_file)
        if (labels.ndim == 3) != (self.table.colours is not None):
            has, others = ("colours", "numbers") if labels.ndim == 3 else ("numbers", "colours")
            raise ValueError(f"{shown(label_file)}: has {has}, others have {others}; expected one kind in a folder")
        numbers = _from_colours if labels.ndim == 3 else _from_numbers
        return Scene(picture, class_map=torch.from_numpy(numbers(labels, self.table, label_file, self.first)))

    def __repr__(self) -> str:
        return f"CamVid {self.table.classes} {self.table.numbers.tolist()} {self.first}"


def _from_numbers(labels: np.ndarray, table: Table, path: Path, first: int) -> np.ndarray:
    """numbers (H, W) -> class map uint8 (H, W)"""
    last = first + len(table.numbers) - 1
    unknown = np.unique(labels[((labels < first) | (labels > last)) & (labels != IGNORED)])
    if len(unknown):
        hint = "; do they count from 1? first=1" if first == 0 and unknown.tolist() == [last + 1] else ""
        raise ValueError(
            f"{shown(path)}: numbers {unknown[:8].tolist()} stand for no class; expected {first} to {last}, and "
            f"{IGNORED} for what counts for nothing{hint}"
        )
    return np.append(table.numbers, np.uint8(IGNORED))[np.where(labels == IGNORED, len(table.numbers), labels - first)]


def _from_colours(labels: np.ndarray, table: Table, path: Path, first: int) -> np.ndarray:
    """colours (H, W, 3) -> class map uint8 (H, W)"""
    codes, known = _codes(labels), _codes(table.colours)
    order = np.argsort(known)
    place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    unknown = known[order][place] != codes
    if unknown.any():
        colours = np.unique(labels[unknown], axis=0)
        raise ValueError(
            f"{shown(path)}: colours {colours[:4].tolist()} ({unknown.sum()} pixels) are not in the table of classes; "
            "expected those alone: a label image that was resized smoothly, or saved as JPEG, has mixed ones"
        )
    return table.numbers[order][place]


def _codes(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def _items(root: Path) -> tuple[list[Item], list[str]]:
    """-> pictures with their label images, as one of the layouts has them; what lacks its partner"""
    items, problems = [], []
    for split in SPLITS:
        for labels in (f"{split}annot", f"{split}_labels"):
            if (root / split).is_dir() and (root / labels).is_dir():
                found, lacking = _pairs(root / split, root / labels)
                items, problems = items + [Item(*pair, split) for pair in found], problems + lacking
    for pictures, labels in (("701_StillsRaw_full", "LabeledApproved_full"), ("images", "labels")):
        if not items and not problems and (root / pictures).is_dir() and (root / labels).is_dir():
            found, problems = _pairs(root / pictures, root / labels)
            given = listed(root, ("train", "valid", "test"))
            items = [Item(*pair, given.get(pair[0].stem, "train" if given else None)) for pair in found]
    if not items and not problems:
        raise ValueError(
            f"{shown(root)}: no CamVid in it; expected the folders train and trainannot (or train_labels), images and "
            "labels, or 701_StillsRaw_full and LabeledApproved_full"
        )
    return items, problems


def _pairs(pictures: Path, labels: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    answers = files_in(labels)
    stems = files_in(pictures)
    named = {}
    for name, path in answers.items():
        short = next((name.removesuffix(end) for end in ("_L", "_P", "_mask", "_label") if name.endswith(end)), name)
        named[name if name in stems else short] = path
    return paired(stems, named, f"label image in {labels.name}")


def _has_colours(items: Sequence[Item]) -> bool:
    """Whether the first label image that can be read has colours"""
    for item in items:
        try:
            return read_label_image(item.answer).ndim == 3
        except ValueError:
            continue
    return False


def _table(root: Path, classes: Sequence[str] | None, eleven: bool, colours: bool) -> Table:
    if colours:
        return _colour_table(root, eleven)
    if classes is None and (root / "codes.txt").is_file():
        classes = tuple((root / "codes.txt").read_text(encoding="utf-8").split())
        return _grouped(classes, None, eleven)
    if classes is not None:
        if isinstance(classes, str) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"got classes={classes!r}; expected the names of two classes or more, in a tuple")
        return _grouped(tuple(classes), None, False)
    return _grouped((*CLASSES, "void"), None, False)


def _colour_table(root: Path, eleven: bool) -> Table:
    """label_colors.txt (R G B name) or class_dict.csv (name, r, g, b)"""
    text, table = root / "label_colors.txt", root / "class_dict.csv"
    try:
        if text.is_file():
            rows = [line.split() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
            names, colours = [row[3] for row in rows], [[int(v) for v in row[:3]] for row in rows]
        elif table.is_file():
            rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))[1:]
            names, colours = [row[0].strip() for row in rows], [[int(v) for v in row[1:4]] for row in rows]
        else:
            raise ValueError(
                f"{shown(root)}: its label images have colours; expected label_colors.txt (R G B name in a line) or "
                "class_dict.csv (name,r,g,b), which say what they mean"
            )
        return _grouped(tuple(names), np.array(colours, np.uint8).reshape(-1, 3), eleven)
    except (IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{shown(text if text.is_file() else table)}: cannot be read ({error})") from None


def _grouped(names: tuple[str, ...], colours: np.ndarray | None, eleven: bool) -> Table:
    """Names of colours or numbers -> classes: the 11 where these are the authors' names, else all but void"""
    if eleven and {"Sky", "Road", "Sidewalk"} <= set(names):
        of = {name: k for k, (_, members) in enumerate(ELEVEN.items()) for name in members}
        return Table(CLASSES, colours, np.array([of.get(name, IGNORED) for name in names], np.uint8))
    classes = tuple(name for name in names if name.lower() not in NOTHING)
    return Table(classes, colours, np.array([classes.index(n) if n in classes else IGNORED for n in names], np.uint8))


def _refuse_shift(root: Path, name: str) -> None:
    """No pixel has the number 0: nothing tells whether the numbers begin with 1"""
    raise ValueError(
        f"{shown(root)}: no label image has a pixel of number 0, {name}; expected some: where numbers begin with 1, "
        f"pass first=1; where {name} does not occur in these pictures, first=0"
    )
