"""Anyone's own pictures: one folder a class, in train/, val/ and perhaps test/, or in one folder split by seed.

Every file is decoded once while loading, so what is wrong is said then, all of it, and not in the middle of a
training run.
"""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sftlib.datasets.decode import decode, in_threads, read_bytes
from sftlib.datasets.splits import PictureSplit, Splits, check_fractions, stratified_split

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
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Found:
    """One picture file: the split's folder it lies in ("" where one folder is to be split), its class, its path."""

    split: str
    class_name: str
    path: Path
    name: str  # the path below root, printable


@dataclass(frozen=True, eq=False)
class FileSplit(Dataset):
    """files (N) and labels (N,); a picture uint8 (3, H, W) is read when it is asked for, each of its own size"""

    files: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    size: int | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """i -> picture uint8 (3, H, W), label"""
        return torch.from_numpy(self.read(i)).permute(2, 0, 1), int(self.labels[i])

    def read(self, i: int) -> np.ndarray:
        """i -> uint8 (H, W, 3), without a tensor: the loader calls this in threads"""
        try:
            return decode(read_bytes(self.files[i]), self.size)
        except ValueError as error:
            raise ValueError(f"{shown(self.files[i])} has changed since it was loaded: {error}") from None


def load(
    root: str | os.PathLike,
    *,
    size: int | None = None,
    seed: int = 0,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    allow_duplicates: bool = False,
    memory_bytes: int = GIBIBYTE,
) -> Splits:
    """-> Splits of (picture uint8 (3, H, W), label), classes sorted by name

    root/train/CLASS/…, root/val/CLASS/… and perhaps root/test/CLASS/… are taken as they are (without test/,
    that split is empty); otherwise root/CLASS/… is split by seed, stratified, copies of one file kept together.
    size: shorter side in pixels, the middle square is kept; then everything stays in memory if it fits into
    memory_bytes, and without size each file is read again when its turn comes.

    Links to files and folders are followed. Hidden files, and others without a picture's suffix, are passed
    over and listed in Splits.ignored. All else that is wrong is one ValueError that names the files; the
    same bytes in two classes or two given splits are wrong too, unless allow_duplicates.
    """
    root = Path(root).expanduser()
    check_fractions(fractions)
    _check_root(root, size)
    problems, ignored = Problems(root), []
    found = _find(root, problems, ignored)
    _check_classes(found, root, problems)
    keep = size is not None and len(found) * 3 * size * size <= memory_bytes
    digests, pictures = _read_all(found, size, keep, problems)
    if not allow_duplicates:
        _check_duplicates(found, digests, problems)
    _check_enough(found, digests, fractions, problems)
    problems.raise_if_any()
    classes = tuple(sorted({f.class_name for f in found}))
    labels = torch.tensor([classes.index(f.class_name) for f in found])
    parts = _parts(found, labels, digests, fractions, torch.Generator().manual_seed(seed))
    splits = [_split(found, labels, rows, pictures, size) for rows in parts]
    return Splits(*splits, classes, tuple(ignored))


def _split(found: list[Found], labels: Tensor, rows: Tensor, pictures: Tensor | None, size: int | None) -> Dataset:
    """the examples of these rows, in memory where the pictures are"""
    mine = [found[i] for i in rows.tolist()]
    names = tuple(f.name for f in mine)
    if pictures is not None:
        return PictureSplit(pictures[rows], labels[rows], names)
    return FileSplit(tuple(f.path for f in mine), labels[rows], names, size)


def _check_root(root: Path, size: int | None) -> None:
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise ValueError(f"got root={shown(root)}, which {what}; expected a folder with one folder a class in it")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"got size={size!r}; expected the picture side in pixels, or None for files as they are")


# --- finding the files -----------------------------------------------------------------------------------------


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


def _find(root: Path, problems: Problems, ignored: list[str]) -> list[Found]:
    """every picture file below root; what is wrong goes to problems, what is passed over to ignored"""
    tops = _given_splits(root, problems)
    if tops:
        ignored += [shown(e.relative_to(root)) for e in _entries(root, problems) if e not in tops.values()]
    found = []
    for split, top in (tops or {"": root}).items():
        for entry in _entries(top, problems):
            if not _is_passed_over(entry) and entry.is_dir():
                files = sorted(_pictures_below(entry, frozenset({top.resolve()}), problems, ignored))
                class_name = unicodedata.normalize("NFC", entry.name)  # macOS writes é as two characters
                found += [Found(split, class_name, path, shown(path.relative_to(root))) for path in files]
                if not files:
                    problems.add(entry, "holds no picture")
            elif entry.suffix.lower() in SUFFIXES and not _is_passed_over(entry):
                problems.add(entry, "lies in no folder of a class")
            else:
                ignored.append(shown(entry.relative_to(root)))
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
        if entry.is_symlink() and not entry.exists():
            problems.add(entry, "a link that leads nowhere")
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


def _is_passed_over(path: Path) -> bool:
    """hidden, or left behind by a file manager or an archive"""
    return path.name.startswith(".") or path.name in ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


def shown(path: Path) -> str:
    """the path as text that can be printed, whatever bytes its name has"""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


# --- reading and judging them ----------------------------------------------------------------------------------


def _read_all(
    found: list[Found], size: int | None, keep: bool, problems: Problems
) -> tuple[list[bytes], Tensor | None]:
    """-> digests of the files (M), pictures uint8 (M, 3, size, size) if they are to be kept"""
    digests = []
    pictures = np.empty((len(found), 3, size, size), np.uint8) if keep else None
    results = in_threads(lambda f: _try_decode(f.path, size), found, label="reading pictures")
    for i, (digest, picture, reason) in enumerate(results):
        digests.append(digest)
        if reason:
            problems.add(found[i].path, reason)
        elif pictures is not None:
            pictures[i] = picture.transpose(2, 0, 1)  # (S, S, 3) -> (3, S, S)
    return digests, None if pictures is None else torch.from_numpy(pictures)


def _try_decode(path: Path, size: int | None) -> tuple[bytes, np.ndarray | None, str]:
    """-> the file's sha256 (its path's where it cannot be opened), the picture, what is wrong"""
    try:
        data = read_bytes(path)
    except ValueError as error:
        return os.fsencode(path), None, str(error)
    try:
        return hashlib.sha256(data).digest(), decode(data, size), ""
    except ValueError as error:
        return os.fsencode(path), None, str(error)


def _check_classes(found: list[Found], root: Path, problems: Problems) -> None:
    """two classes at least, and each in every split that is there"""
    classes, splits = {f.class_name for f in found}, {f.split for f in found}
    present = {(f.split, f.class_name) for f in found}
    if not found:
        problems.add(root, "no picture in any folder of a class")
    elif len(classes) == 1:
        problems.add(root, f"one class only, {min(classes)}; a classifier needs two")
    for split in splits - {""}:
        top = next(f.path for f in found if f.split == split)
        top = root / top.relative_to(root).parts[0]
        for class_name in classes:
            if (split, class_name) not in present:
                problems.add(top / class_name, "missing: other splits have this class")


def _check_duplicates(found: list[Found], digests: list[bytes], problems: Problems) -> None:
    first: dict[bytes, Found] = {}
    for f, digest in zip(found, digests, strict=True):
        twin = first.setdefault(digest, f)
        where = "class" if f.class_name != twin.class_name else "split" if f.split != twin.split else None
        if where:
            problems.add(f.path, f"the same file as {twin.name}, in another {where} (allow_duplicates=True lets it)")


def _check_enough(found: list[Found], digests: list[bytes], fractions: Sequence[float], problems: Problems) -> None:
    """where the seed splits: a class needs as many distinct pictures as there are splits"""
    needed = sum(f > 0 for f in fractions)
    distinct = defaultdict(set)
    for f, digest in zip(found, digests, strict=True):
        if f.split == "":
            distinct[f.class_name].add(digest)
    for class_name, kinds in distinct.items():
        if len(kinds) < needed:
            problems.add(problems.root / class_name, f"{len(kinds)} distinct picture(s), too few for {needed} splits")


def _parts(
    found: list[Found], labels: Tensor, digests: list[bytes], fractions: Sequence[float], generator: torch.Generator
) -> list[Tensor]:
    """-> the rows of train, val and test"""
    if found[0].split == "":
        numbers = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
        return stratified_split(labels, fractions, generator, torch.tensor([numbers[d] for d in digests]))
    return [torch.tensor([i for i, f in enumerate(found) if f.split == name], dtype=torch.long) for name in SPLIT_NAMES]
