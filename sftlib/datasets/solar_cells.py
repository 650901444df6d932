"""Solar cells (ELPV): 2,624 electroluminescence photographs, 300 x 300 grey, from 44 modules.

Each has the probability of a defect as an expert saw it (0, 1/3, 2/3, 1) and the cell's type (mono- or
polycrystalline). Buerhop-Lutz et al. 2018, doi 10.4229/35thEUPVSEC20182018-5CV.3.15; Deitsch et al. 2019,
arXiv 1807.02894. Licence CC BY-NC-SA 4.0. Read from the installed package `elpv-dataset`; none of its code runs.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sftlib import runtime
from sftlib.datasets.decode import decode, in_threads, read_bytes
from sftlib.datasets.splits import PictureSplit, Splits, check_seed, check_three_fractions, stratified_split
from sftlib.inputs import whole

LABELS_SHA256 = "0abe6fe7700aea571717d7d7dfec005a47c6207b4cde26a4556b6807a115483d"
PICTURES_SHA256 = "23ca267689338c754ae3cc3ef36005bdbbb96f3dbeb401031e3a5e46b0dad8d5"  # all files, in label order
SIDE = 300  # pixels
LARGEST_SIDE = 1024  # 2.75 GB for all
LEG = 0.22  # of the triangle in each corner, of the picture's side
TYPES = ("mono", "poly")
TASKS = {"defect": ("functional", "defective"), "cell_type": TYPES}
REMEDY = "install it again: pip install --force-reinstall --no-deps elpv-dataset==1.0.0.post1"


@dataclass(frozen=True, eq=False, repr=False)
class Cells(PictureSplit):
    """A PictureSplit that also knows, for each picture, what the expert said and what cell it is."""

    probabilities: Tensor  # (N,) of a defect: 0, 1/3, 2/3 or 1
    types: Tensor  # (N,) index into TYPES


def load(
    *,
    task: str = "defect",
    size: int | None = None,
    seed: int = 0,
    fractions: Sequence[float] = (0.75, 0.10, 0.15),
    certain_only: bool = True,
    types: Sequence[str] = TYPES,
) -> Splits:
    """-> Splits of (picture uint8 (3, size, size), label); size None: 300 as published

    task "defect": functional 0, defective 1, where a probability of 1/2 and more is defective; "cell_type":
    mono 0, poly 1. certain_only keeps the 2,223 pictures with probability 0 or 1; the authors train on all
    and weight by the expert's confidence, for which every split has `.probabilities`.

    All 2,624 are split first, stratified by probability and type, then filtered: for one seed and fractions,
    every task, size and filter cuts along the same line, and no test picture ever turns up in a train split.
    """
    _check_arguments(task, size, types)
    check_three_fractions(fractions)
    check_seed(seed)
    names, probabilities, kinds = _table()
    parts = stratified_split((probabilities * 3).round().long() * 2 + kinds, fractions, _generator(seed))
    keep = torch.isin(kinds, torch.tensor([TYPES.index(t) for t in types]))
    if certain_only:
        keep &= (probabilities == 0) | (probabilities == 1)
    labels = kinds if task == "cell_type" else (probabilities >= 0.5).long()
    everything = Cells(_pictures(names, SIDE if size is None else int(size)), labels, names, probabilities, kinds)
    return Splits(*(everything.subset(rows[keep[rows]]) for rows in parts), TASKS[task])


def corners_only(*, size: int = 128, count: int = 240, seed: int = 0) -> tuple[Splits, Tensor]:
    """-> Splits of about ``count`` pictures (half train, a quarter val and test each), and the mask of the corners
    (size, size), true where a picture says something

    Mono cells are cut from round crystals, so their corners are cut off. The middle of every picture is replaced by one
    and the same, the mean of all, so that the corners alone tell the type: what shows where a network looked must show
    them here.
    """
    count = whole("count", count, least=8)
    cells = load(task="cell_type", size=size, seed=seed)
    mask = corners(size)
    mean = cells.train.pictures[:, :1].float().mean(0).round().to(torch.uint8)  # (1, size, size)
    parts = []
    for part, share in ((cells.train, 2), (cells.val, 4), (cells.test, 4)):
        some = part.subset(torch.arange(min(len(part), count // share)))
        left = torch.where(mask, some.pictures[:, :1], mean).expand(-1, 3, -1, -1)
        parts.append(PictureSplit(left, some.labels, some.names))
    return Splits(*parts, cells.classes), mask


def corners(size: int, leg: float = LEG) -> Tensor:
    """-> (size, size) booleans: the four right-angled triangles in the corners, with legs of ``leg`` · size pixels"""
    place = torch.arange(whole("size", size))
    near = torch.minimum(place, size - 1 - place)  # of an edge
    return near[:, None] + near[None] < leg * size


def _check_arguments(task: str, size: int | None, types: Sequence[str]) -> None:
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"got task={task!r}; expected one of {', '.join(map(repr, TASKS))}")
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if size is not None and not (whole and 1 <= size <= LARGEST_SIDE):
        raise ValueError(
            f"got size={size!r}; expected the picture side in pixels, 1 to {LARGEST_SIDE:,}, or None for {SIDE}"
        )
    if isinstance(types, str) or not types or not set(types) <= set(TYPES):
        raise ValueError(f"got types={types!r}; expected some of {TYPES}, for example types=('mono',)")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _table() -> tuple[tuple[str, ...], Tensor, Tensor]:
    """-> names (M), probabilities (M,), types (M,) in the order of labels.csv"""
    data = read_bytes(_package_folder() / "labels.csv")
    _check_digest("labels.csv", hashlib.sha256(data).hexdigest(), LABELS_SHA256)
    rows = [line.split() for line in data.decode("ascii").splitlines()]
    probabilities = torch.tensor([float(row[1]) for row in rows])
    return tuple(row[0] for row in rows), probabilities, torch.tensor([TYPES.index(row[2]) for row in rows])


def _package_folder() -> Path:
    spec = find_spec("elpv_dataset")  # finds the folder without running the package
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the package elpv-dataset is not installed: pip install elpv-dataset==1.0.0.post1")
    return Path(spec.submodule_search_locations[0]) / "data"


def _check_digest(what: str, got: str, expected: str) -> None:
    if got != expected:
        raise ValueError(
            f"elpv-dataset: {what} has sha256 {got[:16]}…, expected {expected[:16]}…; "
            f"the package is damaged or of another version: {REMEDY}"
        )


def _pictures(names: Sequence[str], side: int) -> Tensor:
    """names (M) -> uint8 (M, 3, side, side), one grey channel shown three times; decoded once, then cached"""
    shape = (len(names), 1, side, side)
    path = _cache_path(side)
    grey = None if path is None else _read_cache(path, shape)
    if grey is None:
        grey = _decode_all(names, side)
        if path is not None:
            _write_cache(path, grey)
    return torch.from_numpy(grey).expand(-1, 3, -1, -1)


def _decode_all(names: Sequence[str], side: int) -> np.ndarray:
    """names (M) -> uint8 (M, 1, side, side); ValueError when the files are not the published ones"""
    folder, digest = _package_folder(), hashlib.sha256()
    grey = np.empty((len(names), 1, side, side), np.uint8)
    for i, (data, picture) in enumerate(in_threads(lambda name: _read(folder / name, side), names)):
        digest.update(data)
        grey[i, 0] = picture
    _check_digest("the picture files", digest.hexdigest(), PICTURES_SHA256)
    return grey


def _read(path: Path, side: int) -> tuple[bytes, np.ndarray]:
    try:
        data = read_bytes(path)
        return data, decode(data, side)[:, :, 0]
    except ValueError as error:
        raise ValueError(f"elpv-dataset: images/{path.name} is {error}: {REMEDY}") from None


# --- the decoded pictures on disk: an array of uint8 in NumPy's format, its sha256 behind it --------------------


def _cache_path(side: int) -> Path | None:
    """where the decoded pictures of these files and this side lie; None when nothing can be written"""
    try:
        return runtime.cache_folder() / f"solar_cells_{PICTURES_SHA256[:12]}_{side}.npy"
    except OSError:  # a read-only copy of the course: decode each time
        return None


def _read_cache(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """-> the array, or None when there is none or it is not whole"""
    try:
        with path.open("rb") as file:
            grey = np.load(file, allow_pickle=False)
            stored = file.read()
    except (OSError, ValueError, EOFError):
        return None
    whole = grey.shape == shape and grey.dtype == np.uint8 and hashlib.sha256(grey).digest() == stored
    return grey if whole else None


def _write_cache(path: Path, grey: np.ndarray) -> None:
    """Written beside and renamed, so that a reader never meets half a file. No place left: no cache."""
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, grey, allow_pickle=False)
            file.write(hashlib.sha256(grey).digest())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
