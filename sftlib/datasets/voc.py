"""Boxes in Pascal VOC's layout: Annotations/NAME.xml, JPEGImages/NAME.jpg, perhaps ImageSets/Main/train.txt and so on.

Everingham et al. 2010, The Pascal Visual Object Classes Challenge, IJCV 88, doi 10.1007/s11263-009-0275-4.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sftlib.datasets.printable import shown
from sftlib.datasets.published import (
    Item,
    Parts,
    files_in,
    listed,
    paired,
    read_picture,
    refuse,
    scene_splits,
    subfolder,
)
from sftlib.datasets.scenes import Scene, SceneSplits

OVER = 2.0  # pixels beyond the edge that are taken for rounding, and cut


@dataclass(frozen=True)
class Note:
    """What one XML file says: (name, difficult, xmin, ymin, xmax, ymax) of each object, size (width, height) or None"""

    objects: tuple[tuple[str, bool, float, float, float, float], ...]
    size: tuple[int, int] | None


def load(
    root: str | Path, *, size: tuple[int, int] | None = None, classes: Sequence[str] | None = None, seed: int = 0,
    fractions: Sequence[float] = (0.7, 0.1, 0.2), difficult: bool = False, first_pixel: int | None = None,
    skip_broken: bool = False,
) -> SceneSplits:  # fmt: skip
    """-> SceneSplits of pictures at size = (width, height), or as they are; labels count from 1 in `.objects`

    classes: those that are to be found, others are no objects; None: all that occur, sorted. VOC counts pixels from 1
    and includes the last: first_pixel=1; None: 1 unless a 0 occurs. Objects marked difficult are left out unless
    ``difficult``. ValueError names every file that is broken, lacks its partner or holds an impossible box; with
    skip_broken they are left out and listed in `.broken`.
    """
    root, parts = Path(root), Parts(seed, fractions)
    if first_pixel not in (None, 0, 1):
        raise ValueError(f"got first_pixel={first_pixel!r}; expected 1 as VOC counts, 0, or None to see from the boxes")
    answers = files_in(subfolder(root, "Annotations"), (".xml",))
    pairs, problems = paired(files_in(subfolder(root, "JPEGImages")), answers, "XML file in Annotations")
    notes, unread = _notes([xml for _, xml in pairs])
    splits_of = listed(root / "ImageSets" / "Main", ("train", "val", "test"))
    items = [
        Item(p, a, splits_of.get(p.stem)) for p, a in pairs if a in notes and (not splits_of or p.stem in splits_of)
    ]
    problems += unread + [f"{shown(root)}: ImageSets names {name}, of which there is no picture and XML file"
                          for name in splits_of.keys() - {p.stem for p, _ in pairs}]  # fmt: skip
    names = _classes(root, notes, classes, problems)
    first = first_pixel if first_pixel is not None else _first_pixel(notes)
    read = Read(notes, names, first, difficult, swapped=_looks_swapped(notes))
    splits, broken = scene_splits(root, items, read, size, parts, 1, skip_broken, problems)
    hard = sum(o[1] for note in notes.values() for o in note.objects)
    remarks = ("boxes count pixels from 0, not from 1 as VOC does",) if first == 0 else ()
    remarks += (f"{hard} objects marked difficult left out",) if hard and not difficult else ()
    return SceneSplits(*splits, classes=(), broken=broken, notes=remarks, objects=("background", *names))


@dataclass(frozen=True, repr=False)
class Read:
    """Picture file, XML file -> scene"""

    notes: dict[Path, Note]
    classes: tuple[str, ...]
    first_pixel: int
    difficult: bool
    swapped: bool  # the boxes look as x, y, width, height

    def __call__(self, picture_file: Path, xml: Path) -> Scene:
        picture, note = read_picture(picture_file), self.notes[xml]
        H, W = picture.shape[1:]
        if note.size not in (None, (W, H)):
            raise ValueError(
                f"{shown(xml)}: size {note.size[0]} x {note.size[1]}, the picture has {W} x {H}; expected as many, for "
                "the boxes are in its pixels (a photograph that is turned by EXIF is read upright)"
            )
        wanted = [o for o in note.objects if o[0] in self.classes and (self.difficult or not o[1])]
        boxes = [self._box(xml, o, W, H) for o in wanted]
        labels = torch.tensor([1 + self.classes.index(o[0]) for o in wanted], dtype=torch.long)
        return Scene(picture, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)

    def __repr__(self) -> str:
        return f"VOC {self.classes} {self.first_pixel} {self.difficult}"

    def _box(self, xml: Path, o: tuple, W: int, H: int) -> list[float]:
        name, _, *corners = o
        x1, y1, x2, y2 = corners[0] - self.first_pixel, corners[1] - self.first_pixel, *corners[2:]
        x2, y2 = (x2, y2) if self.first_pixel else (x2 + (x2 == x1), y2 + (y2 == y1))
        where = f"{shown(xml)}: {name} with xmin, ymin, xmax, ymax = {', '.join(f'{c:g}' for c in corners)}"
        if x2 <= x1 or y2 <= y1:
            hint = "; they look like x, y, width, height: write x + width and y + height" if self.swapped else ""
            raise ValueError(f"{where}; expected xmin < xmax and ymin < ymax{hint}")
        if min(x1, y1) < -OVER or x2 > W + OVER or y2 > H + OVER:
            raise ValueError(f"{where} reaches out of the picture of {W} x {H} pixels; expected it inside")
        box = [max(x1, 0), max(y1, 0), min(x2, W), min(y2, H)]
        if box[2] <= box[0] or box[3] <= box[1]:
            raise ValueError(f"{where} lies outside the picture of {W} x {H} pixels; expected it inside")
        return box


def _notes(files: Sequence[Path]) -> tuple[dict[Path, Note], list[str]]:
    """XML files -> what each says; a sentence for each that cannot be read"""
    notes, problems = {}, []
    for path in files:
        try:
            notes[path] = read_note(path)
        except (ValueError, OSError) as error:
            problems.append(f"{shown(path)}: {error}")
    return notes, problems


def read_note(path: Path) -> Note:
    """An XML file -> Note; ValueError with the reason"""
    try:
        tree = ET.fromstring(path.read_bytes())
    except ET.ParseError as error:
        raise ValueError(f"no XML that can be read ({error})") from None
    if tree.tag != "annotation":
        raise ValueError(f"begins with <{tree.tag}>; expected <annotation>, as VOC's")
    objects = tuple(_object(o, i) for i, o in enumerate(tree.findall("object"), start=1))
    sides = [tree.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    size = tuple(int(s) for s in sides) if all(s.isdigit() for s in sides) else None
    return Note(objects, size if size and min(size) > 0 else None)


def _object(o: ET.Element, i: int) -> tuple[str, bool, float, float, float, float]:
    name = (o.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"object {i} has no name; expected <name>class</name>")
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = (o.findtext(f"bndbox/{side}") or "").strip()
        try:
            corners.append(float(text))
        except ValueError:
            raise ValueError(f"object {i}, {name}, has {side}={text!r}; expected a number in <bndbox>") from None
        if not abs(corners[-1]) < 1e6:
            raise ValueError(f"object {i}, {name}, has {side}={text}; expected a place in the picture")
    return name, (o.findtext("difficult") or "0").strip() == "1", *corners


def _classes(
    root: Path, notes: dict[Path, Note], classes: Sequence[str] | None, problems: list[str]
) -> tuple[str, ...]:
    found = sorted({o[0] for note in notes.values() for o in note.objects})
    if classes is not None:
        if isinstance(classes, str) or not classes or not set(classes) <= set(found):
            raise ValueError(f"got classes={classes!r}; expected some of those in {shown(root)}: {', '.join(found)}")
        return tuple(classes)
    if not found:
        refuse(root, [*problems, "no object in any XML file; expected at least one"], False)
    return tuple(found)


def _first_pixel(notes: dict[Path, Note]) -> int:
    """0 where a box begins at 0: VOC's first pixel is 1"""
    return 0 if any(min(o[2:4]) == 0 for note in notes.values() for o in note.objects) else 1


def _looks_swapped(notes: dict[Path, Note]) -> bool:
    """Whether corners may be x, y, width, height: some end before they begin, and as such all lie in their pictures"""
    boxes = [(o, note.size) for note in notes.values() for o in note.objects]
    ends_early = any(o[4] < o[2] or o[5] < o[3] for o, _ in boxes)
    inside = all(size is None or (o[2] + o[4] <= size[0] + 2 and o[3] + o[5] <= size[1] + 2) for o, size in boxes)
    return ends_early and inside
