"""Anyone's own pictures: one folder a class, in train/, val/ and perhaps test/, or in one folder split by seed.

Every file is decoded once while loading, so what is wrong is said then, all of it, and not in the middle of a
training run. Links to files and folders are followed. Hidden files, and others without a picture's suffix, are passed
over and listed in Splits.ignored.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Hashable, Sequence
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
from sftlib.datasets.folder_guess import guessed
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
    memory_bytes: int = GIBIBYTE, guess: bool = False, most: int | None = None,
) -> Splits:  # fmt: skip
    """-> Splits of (picture uint8 (3, H, W), label), classes sorted by name

    root/train/CLASS/…, root/val/CLASS/… and perhaps root/test/CLASS/… are taken as they are (without test/,
    that split is empty); otherwise root/CLASS/… is split by seed, stratified, copies of one file kept together.
    size: shorter side in pixels, the middle square is kept; then everything stays in memory if it fits into
    memory_bytes. What does not, or has no size, is read from its file again when its turn comes.

    groups: a function of a picture's path below root; where it returns the same (a patient, a camera), pictures stay in
    one split: `lambda path: path.parts[1]` for CLASS/PATIENT/….png. labels: a CSV file with the columns file (a path
    below root) and label, in place of a folder a class. bits: that 16-bit files use (10 or 12 with many cameras).
    guess: other layouts are read as `folder_guess` says, and Splits.notes says how. most: of more pictures than this
    about so many are drawn by split and class, before they are read.

    ValueError for all that is wrong at once; its `problems` has every file. The same bytes in two classes or two given
    splits are wrong too, unless allow_duplicates. skip_broken leaves out files that cannot be read (Splits.broken lists
    them). allow_missing: val and test may lack a class.
    """
    root = existing(root)
    _check_settings(size, groups, bits, seed, fractions, memory_bytes, most)
    said = Said(Problems(root), [], [])
    found = _drawn(_found(root, labels, guess, groups is not None, allow_missing, said), most, seed, said.notes)
    files, broken = _read_all(found, size, bits, memory_bytes, said.problems, skip_broken)
    together = _judged(files, groups, fractions, allow_missing, allow_duplicates, said.problems)
    if groups is None and labels is None and not guess:
        warn_of_folders_within(files.found, root)
    warn_of_few_bits(files.highest, bits)
    classes, y = _labels(files.found, by_number=labels is not None)
    parts = _parts(files.found, y, together, fractions, torch.Generator().manual_seed(int(seed)))
    check_parts(parts, y, classes, fractions, allow_missing)
    splits = (_split(files, y, rows, size, bits) for rows in parts)
    return Splits(*splits, classes, tuple(said.ignored), broken, tuple(said.notes))


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


def existing(root: str | os.PathLike) -> Path:
    """A folder as a person writes it, with ~ or from here on -> its whole path; ValueError where there is none"""
    if not isinstance(root, str | os.PathLike):
        raise ValueError(f"got root={root!r:.80}; expected the path of a folder with one folder a class in it")
    path = Path(os.path.expanduser(os.fspath(root))).absolute()
    if not os.path.isdir(path):
        what = "is a file" if os.path.isfile(path) else "does not exist, or may not be looked at"
        raise ValueError(f"got root={shown(path)}, which {what}; expected a folder with one folder a class in it")
    return path


def _check_settings(size, groups, bits, seed, fractions, memory_bytes, most) -> None:
    check_three_fractions(fractions)
    check_size(size)
    if groups is not None and not callable(groups):
        raise ValueError(f"got groups={groups!r:.80}; expected a function of a path: lambda path: path.parts[1]")
    if bits not in range(8, 17):
        raise ValueError(f"got bits={bits!r}; expected how many bits of a 16-bit file are used, 8 to 16")
    check_seed(seed)
    if most is not None:
        whole("most", most)
    if not isinstance(memory_bytes, int | float) or not memory_bytes >= 0:
        raise ValueError(f"got memory_bytes={memory_bytes!r}; expected the bytes that pictures may take in memory")


class Said(NamedTuple):
    """What is said of a folder while it is looked at: what is wrong, what is passed over, how it is read"""

    problems: Problems
    ignored: list[str]
    notes: list[str]


def _found(root: Path, labels, guess: bool, grouped: bool, allow_missing: bool, said: Said) -> list[Found]:
    if labels is not None:
        return find_labelled(root, labels, said.problems, said.ignored)
    if guess:
        return guessed(root, *said)
    return find(root, said.problems, said.ignored, grouped=grouped, allow_missing=allow_missing)


def _drawn(found: list[Found], most: int | None, seed: int, notes: list[str]) -> list[Found]:
    """About ``most`` of the files, of each split and class the same share"""
    if most is None or len(found) <= most:
        return found
    kinds = sorted({(f.split, f.class_name) for f in found})
    strata = torch.tensor([kinds.index((f.split, f.class_name)) for f in found])
    share, generator = most / len(found), torch.Generator().manual_seed(int(seed))
    rows, _ = stratified_split(strata, (share, 1 - share), generator)
    notes.append(f"{len(rows):,} of {len(found):,} pictures, drawn by part and class")
    return [found[i] for i in rows.tolist()]


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


def without(data: Splits, names: Collection[str]) -> Splits:
    """The same without the pictures of these names; ValueError for a name that is none of them"""
    parts = {name: getattr(data, name) for name in SPLIT_NAMES}
    if unknown := sorted(set(names) - {n for part in parts.values() for n in part.names}):
        raise ValueError(f"got {unknown[0]!r} to leave out; expected names of pictures, as in data.train.names")
    out = set(names)
    return replace(data, **{
        name: part.subset([i for i, n in enumerate(part.names) if n not in out]) for name, part in parts.items()
    })  # fmt: skip


def with_all_parts(data: Splits, *, seed: int = 0, groups: Callable[[Path], Hashable] | None = None) -> Splits:
    """The same; an empty validation part gets 15 of 85 training pictures, an empty test part half of the validation
    ones, drawn by class; what ``groups`` says belongs together stays so

    ValueError where there are fewer than two to draw from.
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, giver, share in (("val", "train", 15 / 85), ("test", "val", 0.5)):
        part = getattr(data, giver)
        if len(getattr(data, name)):
            continue
        if len(part) < 2:
            raise ValueError(f"got {len(part)} picture(s) in {giver} and none in {name}; expected two at least")
        keys = part.names if groups is None else groups_of(part, groups)
        together = rows_kept_together([name.encode() for name in part.names], keys)
        stay, go = stratified_split(part.labels, (1 - share, share), generator, together)
        data = replace(data, **{giver: part.subset(stay), name: part.subset(go)})
    return data


def groups_of(part: Split, groups: Callable[[Path], Hashable]) -> list[Hashable]:
    """What ``groups`` says of the path of each picture of a part"""
    return [groups(Path(name)) for name in part.names]
