"""Somebody's folder of pictures, laid out in another way than `image_folder` asks for: read as makes sense.

What is read so, in this order; each is said in a note:

- folders around all others (what an archive unpacks to) are passed through;
- parts called training_set, seg_test, Validation-Images and the like are train, val and test; val may be missing; with
  train alone, all is one folder to be split;
- where folders beside each other all hold the same two folders or more, as styles hold things, the inner ones are the
  classes;
- where all pictures lie in one folder, the words before the numbers in their names are: cat.17.jpg, Beagle_3.png.

Pictures that have no class in that reading are left out by name.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sftlib.datasets.folder_walk import Found, Problems, named_as_split, pictures_below, refuse_masks_as_classes, tells
from sftlib.datasets.printable import printable, shown

Places = Mapping[Path, tuple[str, ...]]  # a file -> its folders that still tell something, and its name

NUMBERED = re.compile(r"(.*?)[\s._-]*\(?\d+\)?")  # of a file's name without its ending
CAMERAS = frozenset("img dsc dscn dscf pxl mvi p image photo picture pic frame scan screenshot untitled".split())
FEWEST = 10  # pictures of a class that names of files tell, on average


def guessed(root: Path, problems: Problems, ignored: list[str], notes: list[str]) -> list[Found]:
    """Every picture below root with its part ("": all are to be split) and its class; how it was read goes to notes"""
    files = pictures_below(root, problems, ignored)
    places = _unwrapped({path: path.relative_to(root).parts for path in files}, notes)
    inside = _parts(places, problems, notes)
    if named := {} if inside else _by_name(places, notes):
        found = [_found("", name, path, root) for path, name in named.items()]
    else:
        inside = inside or {"": places}
        level = _level_of_classes(inside.get("train", places if "" not in inside else inside[""]), notes)
        found = [
            _found(split, parts[level], path, root)
            for split, some in inside.items() for path, parts in some.items() if len(parts) > level + 1
        ]  # fmt: skip
        _note_folders_within(inside, level, root, notes)
    for some in inside.values():
        refuse_masks_as_classes(_tops(some), problems)
    _refuse_parts_as_classes(found, problems)
    if not found:
        problems.add(root, "no picture in any folder of a class")
    elif left := set(files) - {f.path for f in found}:
        names = _listed(shown(path.relative_to(root)) for path in left)
        notes.append(f"left out, for nothing tells their class: {len(left)} picture(s), {names}")
    return found


def _found(split: str, class_name: str, path: Path, root: Path) -> Found:
    name = printable(unicodedata.normalize("NFC", class_name))  # macOS writes é as two characters
    return Found(split, name, path, shown(path.relative_to(root)))


def _unwrapped(places: Places, notes: list[str], passes: Callable[[str], bool] = lambda name: True) -> Places:
    """Without folders, of names that may be passed through, that lie around all others"""
    while True:
        deep = {path: parts for path, parts in places.items() if len(parts) > 1}
        tops = {parts[0] for parts in deep.values()}
        if len(tops) != 1 or all(len(parts) == 2 for parts in deep.values()) or not passes(min(tops)):
            return places
        notes.append(f"{printable(min(tops))} lies around all others")
        places = {path: parts[1:] for path, parts in deep.items()}


def _parts(places: Places, problems: Problems, notes: list[str]) -> dict[str, Places]:
    """-> train, and of val and test what is there, each without its own folder; {} where no train holds classes"""
    inside: dict[str, Places] = {}
    for top in sorted({parts[0] for parts in places.values() if len(parts) > 2}):
        split = named_as_split(top)
        if split in inside:
            problems.add(problems.root / top, f"a second folder for {split}")
        elif split:
            some = {path: parts[1:] for path, parts in places.items() if parts[0] == top}
            inside[split] = _unwrapped(some, notes, lambda name: not tells(name))
    if "train" not in inside:
        return {}
    notes.append(f"parts that are given: {', '.join(sorted(inside))}")
    return inside if len(inside) > 1 else {"": inside["train"]}


def _level_of_classes(places: Places, notes: list[str]) -> int:
    """0: the outer folders are the classes, 1: those in them"""
    within: dict[str, set[str]] = {}
    for parts in (parts for parts in places.values() if len(parts) > 1):
        within.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 else "")
    same = next(iter(within.values()), set())
    if len(within) < 2 or len(same) < 2 or "" in same or any(inner != same for inner in within.values()):
        return 0
    notes.append(f"{_listed(within)} each hold the same {len(same)} folders, taken as the classes: {_listed(same)}")
    return 1


def _by_name(places: Places, notes: list[str]) -> dict[Path, str]:
    """The class of each picture, where all lie in one folder and their names tell it; else {}"""
    told = {path: match[1] for path in places if (match := NUMBERED.fullmatch(path.stem)) and match[1]}
    names = set(told.values())
    together = len({path.parent for path in places}) == 1 and len(told) == len(places) >= FEWEST * len(names)
    if not together or len(names) < 2 or CAMERAS & {name.lower() for name in names}:
        return {}
    notes.append(f"all pictures lie in one folder; the words in their names are taken as the classes: {_listed(names)}")
    return told


def _refuse_parts_as_classes(found: list[Found], problems: Problems) -> None:
    """train/ and test/ without folders of classes in them are no classes themselves"""
    named = sorted({f.class_name for f in found if named_as_split(f.class_name)})
    for name in named if len(named) > 1 else []:
        problems.add(problems.root / name, "the name of a part, not of a class: expected folders of classes in it")


def _note_folders_within(inside: Mapping[str, Places], level: int, root: Path, notes: list[str]) -> None:
    deep = sorted(path for some in inside.values() for path, parts in some.items() if len(parts) > level + 2)
    if deep:
        where = shown(deep[0].parent.relative_to(root))
        notes.append(f"{len(deep)} picture(s) lie in folders within a class, as {where}; groups=… can keep each whole")


def _tops(places: Places) -> list[Path]:
    """The outer folders of those that still tell something"""
    return sorted({path.parents[len(parts) - 2] for path, parts in places.items() if len(parts) > 1})


def _listed(names: Iterable[str]) -> str:
    names = sorted(map(printable, names))
    return ", ".join(names[:7]) + (f" … ({len(names)})" if len(names) > 7 else "")
