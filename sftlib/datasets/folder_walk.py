"""Finding the pictures of a folder: which file belongs to which split and class, and what is wrong with the rest."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What counts as a picture. The last three Pillow cannot read; they are here to be named instead of passed over.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jp2 .png .bmp .gif .tif .tiff .webp .avif .tga .ppm .pgm .pbm .pnm .heic .heif .jxl".split()
)
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHOWN = 20  # problems that an error lists before it only counts
NOWHERE = "a link that leads nowhere"


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
        if not self.reasons:
            return
        lines = [f"  {path}: {reason}" for path, reason in sorted(self.reasons.items())]
        more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise ValueError(
            f"image_folder: got {len(lines)} problem(s) in {shown(self.root)}; expected pictures that can be "
            "read, in one folder a class, every class in every split:\n"
            + "\n".join(lines[:SHOWN] + more)
            + "\nMend, move or remove them, then load again."
        )


def find(root: Path, problems: Problems, ignored: list[str]) -> list[Found]:
    """every picture file below root; what is wrong goes to problems, what is passed over to ignored"""
    tops = _given_splits(root, problems)
    if tops:
        ignored += [shown(e.relative_to(root)) for e in _entries(root, problems) if e not in tops.values()]
    found = []
    for split, top in (tops or {"": root}).items():
        for entry in _entries(top, problems):
            if _leads_nowhere(entry):
                problems.add(entry, NOWHERE)
            elif not _is_passed_over(entry) and entry.is_dir():
                files = sorted(_pictures_below(entry, frozenset({top.resolve()}), problems, ignored))
                class_name = unicodedata.normalize("NFC", entry.name)  # macOS writes é as two characters
                found += [Found(split, class_name, path, shown(path.relative_to(root))) for path in files]
                if not files:
                    problems.add(entry, "holds no picture")
            elif entry.suffix.lower() in SUFFIXES and not _is_passed_over(entry):
                problems.add(entry, "lies in no folder of a class")
            else:
                ignored.append(shown(entry.relative_to(root)))
        if not any(f.split == split for f in found):
            problems.add(top, "no picture in any folder of a class")
    return found


def _given_splits(root: Path, problems: Problems) -> dict[str, Path]:
    """-> {"train": folder, "val": folder, …}; empty where root is one folder to be split

    A lone folder `train` with pictures and no folders in it is a class (between bus and car).
    """
    folders = [e for e in _entries(root, problems) if e.is_dir()]
    tops: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        for folder in (f for f in folders if f.name.lower() in names):
            if split in tops:
                problems.add(folder, f"a second folder for {split}, beside {tops[split].name}")
            tops.setdefault(split, folder)
    train = tops.get("train")
    if train is None or not ("val" in tops or any(e.is_dir() for e in _entries(train, problems))):
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
        elif not _is_passed_over(entry) and entry.is_dir():
            yield from _pictures_below(entry, above | {here}, problems, ignored)
        elif not _is_passed_over(entry) and entry.is_file() and entry.suffix.lower() in SUFFIXES:
            yield entry
        else:
            ignored.append(shown(entry.relative_to(problems.root)))


def _entries(folder: Path, problems: Problems) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        problems.add(folder, f"cannot be opened ({error.strerror or error})")
        return []


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _is_passed_over(path: Path) -> bool:
    """hidden, or left behind by a file manager or an archive"""
    return path.name.startswith(".") or path.name in ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


def shown(path: Path) -> str:
    """the path as text that can be printed, whatever bytes its name has"""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")
