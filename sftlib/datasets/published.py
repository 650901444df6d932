"""Folders in published layouts: files paired by name, read once with all that is wrong named in one error."""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sftlib.datasets.decode import decode, in_threads, read_bytes
from sftlib.datasets.printable import shown
from sftlib.datasets.scenes import KEEP_BYTES, Scene, SceneSplit, check_picture_size, resized
from sftlib.datasets.splits import check_seed, check_three_fractions, stratified_split

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
NAMED = 20  # problems that an error spells out
SPLITS = ("train", "val", "test")

ReadScene = Callable[[Path, Path], Scene]  # picture file, file of its boxes or labels


@dataclass(frozen=True)
class Item:
    """A picture's file, that of its boxes or labels, and the split that the folder puts it into, or None"""

    picture: Path
    answer: Path
    split: str | None = None


@dataclass(frozen=True)
class Items:
    """make of a SceneSplit: reads the row's files, at (width, height) or as they are"""

    items: tuple[Item, ...]
    read: ReadScene
    size: tuple[int, int] | None

    def __call__(self, row: int) -> Scene:
        item = self.items[row]
        try:
            return resized(self.read(item.picture, item.answer), self.size)
        except ValueError as error:
            raise ValueError(f"{shown(item.picture)}: {error}") from None


@dataclass(frozen=True)
class Parts:
    """How pictures come into splits where the folder does not say: seed and shares"""

    seed: int
    fractions: Sequence[float]

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_three_fractions(self.fractions)

    def assigned(self, items: Sequence[Item], neighbours: int) -> list[str]:
        """The split of each item; ``neighbours`` that follow each other by name stay together

        Where the folder names only some splits, the others are empty; a validation split is then cut from train.
        """
        given = {item.split for item in items} - {None}
        open_ = [i for i, item in enumerate(items) if item.split is None]
        if given and "val" not in given:
            open_ = [i for i, item in enumerate(items) if item.split in (None, "train")]
        names = [item.split for item in items]
        if not open_:
            return names
        share = self.fractions[1] / (self.fractions[0] + self.fractions[1])
        fractions = (1 - share, share, 0.0) if given else self.fractions
        groups = torch.arange(len(open_)) // neighbours
        generator = torch.Generator().manual_seed(self.seed)
        parts = stratified_split(torch.zeros(len(open_)), fractions, generator, groups)
        for name, rows in zip(SPLITS, parts, strict=True):
            for i in rows.tolist():
                names[open_[i]] = name
        return names


def scene_splits(
    root: Path, items: Sequence[Item], read: ReadScene, size: tuple[int, int] | None, parts: Parts, neighbours: int,
    skip_broken: bool, problems: Sequence[str] = (), look: Callable[[Scene], None] | None = None,
) -> tuple[list[SceneSplit], tuple[str, ...]]:  # fmt: skip
    """-> train, val and test; what was left out and why. ``look`` is shown every scene once

    ``problems`` were found before. ValueError names all of them, unless skip_broken.
    """
    check_picture_size(size)
    if not items and not problems:
        raise ValueError(f"{shown(root)}: no picture in it; expected files {', '.join(PICTURES)}")
    make, kept, problems = Items(tuple(items), read, size), {}, list(problems)

    def attempt(row: int) -> Scene | str:
        try:
            return make(row)
        except ValueError as error:
            return str(error)

    held, good = 0, []
    for row, scene in enumerate(in_threads(attempt, range(len(items)), label="reading pictures")):
        if isinstance(scene, str):
            problems.append(scene)
            continue
        good.append(row)
        if look is not None:
            look(scene)
        held += scene.bytes
        if held <= KEEP_BYTES:
            kept[row] = scene
    refuse(root, problems, skip_broken and bool(good))
    names = parts.assigned([items[row] for row in good], neighbours)
    identity = f"{read} {size} {zlib.crc32(repr([_sizes(items[row]) for row in good]).encode())}"
    splits = []
    for split in SPLITS:
        rows = [row for row, name in zip(good, names, strict=True) if name == split]
        files = [shown(items[row].picture.relative_to(root)) for row in rows]
        splits.append(SceneSplit(make, rows, files, identity, kept))
    return splits, tuple(problems)


def _sizes(item: Item) -> tuple[int, int]:
    return item.picture.stat().st_size, item.answer.stat().st_size


def refuse(root: Path, problems: Sequence[str], passed: bool) -> None:
    """ValueError with all problems, unless they are passed over"""
    if problems and not passed:
        more = f"\n… and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise ValueError(
            f"{shown(root)}: {len(problems)} problem(s):\n" + "\n".join(problems[:NAMED]) + more
            + "\nMend the files, or leave them out with skip_broken=True"
        )  # fmt: skip


def subfolder(root: Path, *names: str) -> Path:
    """The first of these folders that is in root; ValueError without"""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{shown(root)} has no folder {' or '.join(names)}; expected the folder that holds it")


def files_in(folder: Path, endings: Sequence[str] = PICTURES) -> dict[str, Path]:
    """{name without ending: file}, sorted by name; ValueError for two files of one name"""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in endings and path.is_file() and not path.name.startswith("."):
            if path.stem in found:
                raise ValueError(f"{shown(path)} and {shown(found[path.stem].name)} have one name: keep one of them")
            found[path.stem] = path
    return found


def paired(pictures: dict[str, Path], answers: dict[str, Path], what: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pictures and answers by name -> pairs; a sentence for each that lacks the other"""
    problems = [f"{shown(p)}: has no {what} of its name" for name, p in pictures.items() if name not in answers]
    problems += [f"{shown(a)}: has no picture of its name" for name, a in answers.items() if name not in pictures]
    return [(p, answers[name]) for name, p in pictures.items() if name in answers], problems


def read_picture(path: Path) -> Tensor:
    """file -> uint8 (3, H, W)"""
    return torch.from_numpy(np.ascontiguousarray(decode(read_bytes(path)).transpose(2, 0, 1)))


def read_label_image(path: Path) -> np.ndarray:
    """file -> numbers int (H, W), of a palette its indices, or colours uint8 (H, W, 3); ValueError names the file"""
    try:
        data = read_bytes(path)
        if not data:
            raise ValueError("an empty file (0 bytes)")
        with Image.open(io.BytesIO(data)) as image:
            if image.format in ("JPEG", "WEBP"):
                raise ValueError(f"{image.format} changes the numbers of labels; expected PNG")
            values = np.array(image if image.mode in ("L", "P", "I", "I;16", "1") else image.convert("RGB"))
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{shown(path)}: damaged, or no label image ({error})") from None
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    return values if values.ndim == 3 else values.astype(np.int64)


def check_same_size(picture: Tensor, labels: np.ndarray, path: Path) -> None:
    """ValueError unless both are of one height and width"""
    if tuple(picture.shape[1:]) != labels.shape[:2]:
        raise ValueError(
            f"{shown(path)} has {labels.shape[1]} x {labels.shape[0]} pixels, the picture {picture.shape[2]} x "
            f"{picture.shape[1]}; expected as many"
        )


def listed(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Text files of picture names, train.txt and the like -> {name: split}; {} where there are none

    ``names`` are the files' names without ending in the order of SPLITS. ValueError for a name in two of them.
    """
    found: dict[str, str] = {}
    for split, name in zip(SPLITS, names, strict=True):
        path = folder / f"{name}.txt"
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip():
                    stem = Path(line.split()[0]).stem
                    if found.setdefault(stem, split) != split:
                        raise ValueError(f"{shown(path)}: {stem} is in {found[stem]} too; expected it in one split")
    return found
