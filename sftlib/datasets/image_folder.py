"""Anyone's own pictures: one folder a class, in train/, val/ and perhaps test/, or in one folder split by seed.

Every file is decoded once while loading, so what is wrong is said then, all of it, and not in the middle of a
training run. Links to files and folders are followed. Hidden files, and others without a picture's suffix, are passed
over and listed in Splits.ignored.
"""

import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sftlib.datasets.decode import check_size, decoded, in_threads, read_bytes
from sftlib.datasets.files import FileSplit
from sftlib.datasets.folder_checks import (
    check_classes,
    check_duplicates,
    check_enough,
    check_parts,
    warn_of_few_bits,
    warn_of_folders_within,
)
from sftlib.datasets.folder_walk import SPLIT_NAMES, Found, Problems, find
from sftlib.datasets.grouping import number_groups, rows_kept_together
from sftlib.datasets.label_table import find_labelled
from sftlib.datasets.printable import shown
from sftlib.datasets.splits import PictureSplit, Split, Splits, check_seed, check_three_fractions, stratified_split
from sftlib.inputs import whole

GIBIBYTE = 2**30


def load(
    root: str | os.PathLike, *, size: int | None = None, groups: Callable[[Path], Hashable] | None = None,
    labels: str | os.PathLike | None = None, skip_broken: bool = False, allow_missing: bool = False, bits: int = 16,
    seed: int = 0, fractions: Sequence[float] = (0.7, 0.15, 0.15), allow_duplicates: bool = False,
    memory_bytes: int = GIBIBYTE,
) -> Splits:  # fmt: skip
    """-> Splits of (picture uint8 (3, H, W), label), classes sorted by name

    root/train/CLASS/…, root/val/CLASS/… and perhaps root/test/CLASS/… are taken as they are (without test/,
    that split is empty); otherwise root/CLASS/… is split by seed, stratified, copies of one file kept together.
    size: shorter side in pixels, the middle square is kept; then everything stays in memory if it fits into
    memory_bytes. What does not, or has no size, is read from its file again when its turn comes.

    groups: a function of a picture's path below root; where it returns the same (a patient, a camera), pictures stay in
    one split: `lambda path: path.parts[1]` for CLASS/PATIENT/….png. labels: a CSV file with the columns file (a path
    below root) and label, in place of a folder a class. bits: that 16-bit files use (10 or 12 with many cameras).

    ValueError for all that is wrong at once; its `problems` has every file. The same bytes in two classes or two given
    splits are wrong too, unless allow_duplicates. skip_broken leaves out files that cannot be read (Splits.broken lists
    them). allow_missing: val and test may lack a class.
    """
    root = _root(root)
    _check_settings(size, groups, bits, seed, fractions, memory_bytes)
    problems, ignored = Problems(root), []
    if labels is None:
        found = find(root, problems, ignored, grouped=groups is not None, allow_missing=allow_missing)
    else:
        found = find_labelled(root, labels, problems, ignored)
    files, broken = _read_all(found, size, bits, memory_bytes, problems, skip_broken)
    together = _judged(files, groups, fractions, allow_missing, allow_duplicates, problems)
    if groups is None and labels is None:
        warn_of_folders_within(files.found, root)
    warn_of_few_bits(files.highest, bits)
    classes, y = _labels(files.found, by_number=labels is not None)
    parts = _parts(files.found, y, together, fractions, torch.Generator().manual_seed(int(seed)))
    check_parts(parts, y, classes, fractions, allow_missing)
    return Splits(*(_split(files, y, rows, size, bits) for rows in parts), classes, tuple(ignored), broken)


@dataclass(frozen=True, eq=False)
class Files:
    """The files that can be read, M of them, and what was seen of each; pictures (M, 3, size, size) where kept"""

    found: list[Found]
    digests: list[bytes]
    pixels: Tensor  # (M,)
    highest: list[int | None]  # value of a 16-bit file
    pictures: Tensor | None


def _split(files: Files, y: Tensor, rows: Tensor, size: int | None, bits: int) -> Split:
    """the examples of these rows, in memory where the pictures are"""
    mine = [files.found[i] for i in rows.tolist()]
    names = tuple(f.name for f in mine)
    if files.pictures is not None:
        return PictureSplit(files.pictures[rows], y[rows], names)
    return FileSplit(tuple(f.path for f in mine), y[rows], names, size, files.pixels[rows], bits)


def _root(root: str | os.PathLike) -> Path:
    if not isinstance(root, str | os.PathLike):
        raise ValueError(f"got root={root!r:.80}; expected the path of a folder with one folder a class in it")
    path = Path(os.path.expanduser(os.fspath(root))).absolute()
    if not os.path.isdir(path):
        what = "is a file" if os.path.isfile(path) else "does not exist, or may not be looked at"
        raise ValueError(f"got root={shown(path)}, which {what}; expected a folder with one folder a class in it")
    return path


def _check_settings(size, groups, bits, seed, fractions, memory_bytes) -> None:
    check_three_fractions(fractions)
    check_size(size)
    if groups is not None and not callable(groups):
        raise ValueError(f"got groups={groups!r:.80}; expected a function of a path: lambda path: path.parts[1]")
    if bits not in range(8, 17):
        raise ValueError(f"got bits={bits!r}; expected how many bits of a 16-bit file are used, 8 to 16")
    check_seed(seed)
    if not isinstance(memory_bytes, int | float) or not memory_bytes >= 0:
        raise ValueError(f"got memory_bytes={memory_bytes!r}; expected the bytes that pictures may take in memory")


# --- reading and judging them ----------------------------------------------------------------------------------


def _read_all(
    found: list[Found], size: int | None, bits: int, memory_bytes: float, problems: Problems, skip_broken: bool
) -> tuple[Files, tuple[str, ...]]:
    """-> the files, and one line for each that is broken, if these are left out (else they are problems)"""
    keep = size is not None and len(found) * 3 * size * size <= memory_bytes
    pictures = np.empty((len(found), 3, size, size), np.uint8) if keep else None
    read, good, broken = partial(_try_read, size=size, bits=bits, keep=keep), [], []
    for f, seen in zip(found, in_threads(read, found, label="reading pictures"), strict=True):
        if seen.reason and skip_broken:
            broken.append(f"{f.name}: {seen.reason}")
            continue
        if seen.reason:
            problems.add(f.path, seen.reason)
        elif pictures is not None:
            pictures[len(good)] = seen.picture
        good.append((f, seen.digest, seen.pixels, seen.highest))
    for class_name in {f.class_name for f in found} - {f.class_name for f, *_ in good}:
        problems.add(problems.root / class_name, "a class of which no picture can be read")
    readable, digests, pixels, highest = map(list, zip(*good, strict=True)) if good else ([], [], [], [])
    kept = None if pictures is None else torch.from_numpy(pictures[: len(good)])
    return Files(readable, digests, torch.tensor(pixels, dtype=torch.long), highest, kept), tuple(broken)


class _Seen(NamedTuple):
    """What one file holds: its sha256 (its path where it cannot be read), or what is wrong with it"""

    digest: bytes
    reason: str = ""
    picture: np.ndarray | None = None  # uint8 (3, H, W)
    pixels: int = 0
    highest: int | None = None


def _try_read(f: Found, *, size: int | None, bits: int, keep: bool) -> _Seen:
    try:
        data = read_bytes(f.path)
        picture, highest = decoded(data, size, bits)
    except ValueError as error:
        return _Seen(os.fsencode(f.path), str(error))
    height, width, _ = picture.shape
    kept = picture.transpose(2, 0, 1) if keep else None
    return _Seen(hashlib.sha256(data).digest(), "", kept, height * width, highest)


def _judged(
    files: Files, groups, fractions: Sequence[float], allow_missing: bool, allow_duplicates: bool, problems: Problems
) -> Tensor:
    """-> numbers (M,): rows with the same one stay in one split. FolderError for all that is wrong with the folder"""
    check_classes(files.found, allow_missing, problems)
    if not allow_duplicates:
        check_duplicates(files.found, files.digests, problems)
    together = rows_kept_together(files.digests, number_groups(files.found, groups, problems))
    if not allow_missing:
        noun = "picture(s)" if groups is None else "group(s)"
        check_enough(files.found, together, fractions, problems, noun)
    problems.raise_if_any()
    return together


def _labels(found: list[Found], by_number: bool) -> tuple[tuple[str, ...], Tensor]:
    """-> classes sorted by name (those of a table that are all whole numbers by these), labels (M,)"""
    classes = sorted({f.class_name for f in found})
    if by_number and all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    number = {name: k for k, name in enumerate(classes)}
    return tuple(classes), torch.tensor([number[f.class_name] for f in found])


def _parts(
    found: list[Found], y: Tensor, together: Tensor, fractions: Sequence[float], generator: torch.Generator
) -> list[Tensor]:
    """-> the rows of train, val and test"""
    if found[0].split == "":
        return stratified_split(y, fractions, generator, together)
    return [torch.tensor([i for i, f in enumerate(found) if f.split == name], dtype=torch.long) for name in SPLIT_NAMES]


# --- parts of what was loaded --------------------------------------------------------------------------------------


def with_test(data: Splits, *, seed: int = 0) -> Splits:
    """The same; where the test part is empty, half of the validation pictures become it, drawn by class

    ValueError where there are fewer than two of them.
    """
    check_seed(seed)
    if len(data.test):
        return data
    if len(data.val) < 2:
        raise ValueError(f"got {len(data.val)} validation pictures and no test pictures; expected two at least")
    generator = torch.Generator().manual_seed(seed)
    val, test = stratified_split(data.val.labels, (0.5, 0.5), generator)
    return replace(data, val=data.val.subset(val), test=data.val.subset(test))


def at_most(data: Splits, count: int, *, seed: int = 0) -> Splits:
    """The same, or of more pictures than ``count`` about so many, drawn by class in each part"""
    count = whole("count", count)
    check_seed(seed)
    parts = {name: getattr(data, name) for name in ("train", "val", "test")}
    share = count / sum(map(len, parts.values()))
    if share >= 1:
        return data
    generator = torch.Generator().manual_seed(seed)
    return replace(data, **{
        name: part.subset(stratified_split(part.labels, (share, 1 - share), generator)[0]) if len(part) else part
        for name, part in parts.items()
    })  # fmt: skip
