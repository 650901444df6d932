"""Anyone's own pictures: one folder a class, in train/, val/ and perhaps test/, or in one folder split by seed.

Every file is decoded once while loading, so what is wrong is said then, all of it, and not in the middle of a
training run.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sftlib.datasets.decode import decode, in_threads, read_bytes
from sftlib.datasets.folder_walk import SPLIT_NAMES, Found, Problems, find, shown
from sftlib.datasets.splits import PictureSplit, Splits, check_fractions, stratified_split

GIBIBYTE = 2**30


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
    found = find(root, problems, ignored)
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
    if len(classes) == 1:
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
