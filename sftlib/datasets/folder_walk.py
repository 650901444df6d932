"""Finding the pictures of a folder: which file belongs to which split and class, and what is wrong with the rest."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sftlib.datasets.printable import printable, shown

# What counts as a picture. The last three Pillow cannot read; they are here to be named instead of passed over.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jp2 .png .bmp .gif .tif .tiff .webp .avif .tga .ppm .pgm .pbm .pnm .heic .heif .jxl".split()
)
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_OTHER_SPLIT_NAMES = {"validate": "val", "dev": "val", "eval": "val", "evaluation": "val", "holdout": "test"}
# What a folder of a split is called besides: training_set, train_images, test-data
_FILLER = re.compile(r"(data)?sets?|images?|imgs?|pictures?|pics|photos?|data|split|folder|files?|samples?|[^a-z]")
_PICTURES = frozenset(("images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "frames"))
_OUTLINES = frozenset(
    "mask masks label labels annotation annotations groundtruth gt segmentation segmentations segmentationclass "
    "segmentationobject trimaps bboxes boxes".split()
)
SHOWN = 20  # problems that an error lists before it only counts
NOWHERE = "a link that leads nowhere"


class FolderError(ValueError):
    """What is wrong with a folder of pictures. ``problems`` has it all: {path below the folder: reason}"""

    def __init__(self, message: str, problems: dict[str, str]):
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True)
class Found:
    """One picture file: the split's folder it lies in ("" where one folder is to be split), its class, its path."""

    split: str
    class_name: str
    path: Path
    name: str  # the path below root, printable


class Problems:
    """What is wrong with which path, gathered so that one error says it all."""

    def __init__(self, root: Path):
        self.root, self.reasons = root, {}

    def add(self, path: Path, reason: str) -> None:
        """the first reason for a path stays"""
        self.reasons.setdefault(shown(path.relative_to(self.root)), reason)

    def raise_if_any(self) -> None:
        """FolderError when there are"""
        if not self.reasons:
            return
        reasons = dict(sorted(self.reasons.items()))
        lines = [f"  {path}: {reason}" for path, reason in reasons.items()]
        more = [f"  … and {len(lines) - SHOWN} more (all are in .problems of this error)"] if len(lines) > SHOWN else []
        raise FolderError(
            f"image_folder: got {len(lines)} problem(s) in {shown(self.root)}; expected pictures that can be "
            "read, in one folder a class, every class in every split:\n"
            + "\n".join(lines[:SHOWN] + more)
            + "\nMend, move or remove them, then load again (skip_broken=True leaves out files that cannot be read).",
            reasons,
        )


def find(
    root: Path, problems: Problems, ignored: list[str], *, grouped: bool = False, allow_missing: bool = False
) -> list[Found]:
    """every picture file below root; what is wrong goes to problems, what is passed over to ignored

    grouped: folders within the classes are known to be groups. allow_missing: a class may be empty in val and test.
    """
    tops = _given_splits(root, problems)
    beside = [e for e in _entries(root, problems) if e not in tops.values()] if tops else []
    ignored += [shown(e.relative_to(root)) for e in beside]
    _refuse_splits_as_classes(beside if tops else _folders(root, problems), bool(tops) or grouped, problems)
    for top in tops.values() or [root]:
        refuse_masks_as_classes(_folders(top, problems), problems)
    found = []
    for split, top in (tops or {"": root}).items():
        for entry in _entries(top, problems):
            if _leads_nowhere(entry):
                problems.add(entry, NOWHERE)
            elif not _is_passed_over(entry) and _is_folder(entry, problems):
                files = sorted(_pictures_below(entry, frozenset({top.resolve()}), problems, ignored))
                # macOS writes é as two characters
                class_name = printable(unicodedata.normalize("NFC", entry.name))
                found += [Found(split, class_name, path, shown(path.relative_to(root))) for path in files]
                if not files and not (allow_missing and split in ("val", "test")):
                    problems.add(entry, "holds no picture")
            elif entry.suffix.lower() in SUFFIXES and not _is_passed_over(entry):
                problems.add(entry, "lies in no folder of a class")
            else:
                ignored.append(shown(entry.relative_to(root)))
        if not any(f.split == split for f in found):
            problems.add(top, "no picture in any folder of a class")
    return found


def pictures_below(root: Path, problems: Problems, ignored: list[str]) -> list[Path]:
    """every picture file below root, in whatever folders"""
    return sorted(_pictures_below(root, frozenset(), problems, ignored))


def split_of(folder_name: str) -> str:
    """train, val or test for the name of a folder that is given for it, else "" """
    return next((split for split, names in SPLIT_NAMES.items() if folder_name.lower() in names), "")


REMEDY = "call the folders of the splits train, val and test, or move all classes into one folder"


def _refuse_splits_as_classes(folders: list[Path], known: bool, problems: Problems) -> None:
    """Folders beside each other that are splits under other names; known: what lies in them needs no guess"""
    inside = {f: {e.name for e in _folders(f, problems)} for f in folders if os.path.isdir(f)}
    splits = [f for f in inside if named_as_split(f.name)]
    if len(splits) > 1 or any(inside[f] for f in splits):
        for folder in splits:
            problems.add(folder, f"the name of a split, not of a class: {REMEDY}")
    elif not known and len(inside) > 1 and all(names and names == inside[folders[0]] for names in inside.values()):
        for folder in inside:
            problems.add(
                folder,
                f"holds the same folders as those beside it, as splits do: {REMEDY}; if these are classes, "
                "groups=lambda path: … says what the folders in them are",
            )


def refuse_masks_as_classes(folders: list[Path], problems: Problems) -> None:
    """Of folders beside each other, masks or labels beside pictures are problems"""
    masks = [f for f in folders if _letters(f.name) in _OUTLINES]
    if any(_letters(f.name) in _PICTURES for f in folders):
        for folder in masks:
            problems.add(
                folder, "stands beside the pictures: masks or labels of them, no class (labels=… takes a table)"
            )


def named_as_split(name: str) -> str:
    """train, val or test for test_set, Validation-Images, dev, …; "" for other names"""
    rest = _FILLER.sub("", name.lower())
    return split_of(rest) or _OTHER_SPLIT_NAMES.get(rest, "")


def tells(name: str) -> bool:
    """False for names that say nothing of a class: images, data, train, test-set, …"""
    return _FILLER.sub("", name.lower()) != "" and not named_as_split(name)


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _given_splits(root: Path, problems: Problems) -> dict[str, Path]:
    """-> {"train": folder, "val": folder, …}; empty where root is one folder to be split

    A lone folder `train` with pictures and no folders in it is a class (between bus and car).
    """
    folders = _folders(root, problems)
    tops: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        for folder in (f for f in folders if f.name.lower() in names):
            if split in tops:
                problems.add(folder, f"a second folder for {split}, beside {tops[split].name}")
            tops.setdefault(split, folder)
    train = tops.get("train")
    if train is None or not ("val" in tops or _folders(train, problems)):
        return {}
    if "val" not in tops:
        problems.add(root / "val", f"missing beside {train.name}: make one, or put all classes into one folder")
    return tops


def _pictures_below(folder: Path, above: frozenset[Path], problems: Problems, ignored: list[str]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        problems.add(folder, "a link that leads back to a folder above it")
        return
    for entry in _entries(folder, problems):
        if _leads_nowhere(entry):
            problems.add(entry, NOWHERE)
        elif not _is_passed_over(entry) and _is_folder(entry, problems):
            yield from _pictures_below(entry, above | {here}, problems, ignored)
        elif not _is_passed_over(entry) and entry.suffix.lower() in SUFFIXES and os.path.isfile(entry):
            yield entry
        else:
            ignored.append(shown(entry.relative_to(problems.root)))


def _entries(folder: Path, problems: Problems) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        problems.add(folder, f"cannot be opened ({error.strerror or error})")
        return []


def _is_folder(path: Path, problems: Problems) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and not _leads_nowhere(path):  # no right to look
            problems.add(path, f"cannot be opened ({error.strerror or error})")
        return False


def _folders(folder: Path, problems: Problems) -> list[Path]:
    return [e for e in _entries(folder, problems) if not _is_passed_over(e) and _is_folder(e, problems)]


def _leads_nowhere(path: Path) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _is_passed_over(path: Path) -> bool:
    """hidden, or left behind by a file manager or an archive"""
    return path.name.startswith(".") or path.name in ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
