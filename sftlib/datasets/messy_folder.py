"""A folder as folders are: real pictures in files, with the faults that real folders have, planted from a seed.

Solar cells (`solar_cells`, of which the licence is) by type and state, four classes of unequal size: copies, some of
them saved again, mirrored or brightened, some in another class; wrong labels; dark, blurred, broken and odd files.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sftlib import runtime
from sftlib.datasets import solar_cells

CLASSES = ("mono defective", "mono functional", "poly defective", "poly functional")
VERSION = 1  # of what is planted: another one gets another folder
WRONG, COPIES, ELSEWHERE = 0.05, 0.04, 2  # shares of the pictures; copies that lie in another class


@dataclass(frozen=True)
class Planted:
    """What is wrong with which file (its path below the folder), as it was planted"""

    labels: dict[str, str] = field(default_factory=dict)  # file -> the class that the experts saw
    copies: dict[str, str] = field(default_factory=dict)  # file -> the file that it is a copy of
    broken: list[str] = field(default_factory=list)
    dark: list[str] = field(default_factory=list)
    blurred: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)  # in size or shape

    def found(self, files: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
        """Files and pairs of files that a look named -> kind -> how many of those planted it found, of how many"""
        files, named = set(files), {frozenset(pair) for pair in pairs}
        hits = {"copies": (sum(frozenset(pair) in named for pair in self.copies.items()), len(self.copies))}
        for kind in ("dark", "blurred", "odd"):
            hits[kind] = (len(files & set(getattr(self, kind))), len(getattr(self, kind)))
        return hits


def folder(*, seed: int = 0, count: int = 320) -> tuple[Path, Planted]:
    """-> a folder with one folder a class, made at the first call in the cache, and what was planted in it"""
    root = runtime.cache_folder() / f"messy_folder_v{VERSION}_{seed}_{count}"
    told = root.with_suffix(".json")
    if not (root.exists() and told.exists()):
        partial = root.with_name(f"{root.name}.{os.getpid()}.partial")
        planted = write(partial, seed=seed, count=count)
        told.write_text(json.dumps(asdict(planted)), encoding="utf-8")
        if not root.exists():
            os.replace(partial, root)  # whole or not at all
    return root, Planted(**json.loads(told.read_text(encoding="utf-8")))


def write(root: Path, *, seed: int = 0, count: int = 320) -> Planted:
    """Write root/CLASS/NNNN.jpg of ``count`` pictures, and the copies and other faults beside them -> what they are"""
    if not isinstance(count, int) or count < 100:
        raise ValueError(f"got count={count!r}; expected 100 pictures or more: each class needs some")
    rng, planted = np.random.default_rng(seed), Planted()
    chosen = [(image, name) for image, name in _cells(count, rng)]
    wrong = set(rng.choice(count, round(WRONG * count), replace=False).tolist())
    files = []
    for i, (image, truth) in enumerate(chosen):
        label = str(rng.choice([c for c in CLASSES if c != truth])) if i in wrong else truth
        path = root / label / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)
        files.append((image, path))
        if label != truth:
            planted.labels[_name(path, root)] = truth
    free = [i for i in rng.permutation(count).tolist() if i not in wrong]
    _plant_copies(root, [files[i] for i in free[: round(COPIES * count)]], planted)
    _plant_faults(root, [files[i] for i in free[-8:]], planted)
    return planted


def _cells(count: int, rng: np.random.Generator) -> Iterator[tuple[Image.Image, str]]:
    """Pictures drawn without repetition, and the class of each"""
    cells = solar_cells.load()
    rows = [(part, i) for part in (cells.train, cells.val, cells.test) for i in range(len(part))]
    for k in rng.choice(len(rows), count, replace=False):
        part, i = rows[k]
        name = f"{solar_cells.TYPES[part.types[i]]} {cells.classes[part.labels[i]]}"
        yield Image.fromarray(part.pictures[i, 0].contiguous().numpy()), name


def _plant_copies(root: Path, originals: list, planted: Planted) -> None:
    """The same bytes, then: smaller, brighter and mirrored ones; the last of them in another class"""
    changes = (
        None,
        lambda image: image.resize((240, 240), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(1.2),
        ImageOps.mirror,
    )
    for n, (image, path) in enumerate(originals):
        other = CLASSES[(CLASSES.index(path.parent.name) + 1) % len(CLASSES)]
        place = root / other if n >= len(originals) - ELSEWHERE else path.parent
        copy, change = place / f"copy_{n:02}.jpg", changes[n % len(changes)]
        if change is None:
            copy.write_bytes(path.read_bytes())
        else:
            change(image).save(copy, quality=75)
        planted.copies[_name(copy, root)] = _name(path, root)


def _plant_faults(root: Path, files: list, planted: Planted) -> None:
    """In place of the pictures: three dark, two blurred, one long, one large, one cut off in the middle of the file"""
    for image, path in files[:3]:
        ImageEnhance.Brightness(image).enhance(0.15).save(path, quality=92)
        planted.dark.append(_name(path, root))
    for image, path in files[3:5]:
        image.filter(ImageFilter.GaussianBlur(30)).save(path, quality=92)
        planted.blurred.append(_name(path, root))
    (long, long_path), (large, large_path), (_, broken) = files[5:8]
    long.crop((0, 0, 300, 90)).save(long_path, quality=92)
    large.resize((1500, 1500)).save(large_path, quality=60)
    planted.odd.extend((_name(long_path, root), _name(large_path, root)))
    broken.write_bytes(broken.read_bytes()[:3000])
    (broken.parent / "empty.png").touch()
    planted.broken.extend((_name(broken, root), _name(broken.parent / "empty.png", root)))


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
