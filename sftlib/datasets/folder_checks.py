"""What may be wrong with a folder of pictures as a whole: classes, copies, splits; and what is only odd."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sftlib.datasets.folder_walk import SPLIT_NAMES, Found, Problems
from sftlib.datasets.printable import shown


def check_classes(found: list[Found], allow_missing: bool, problems: Problems) -> None:
    """two classes at least, and each in every split that is there"""
    classes, root = {f.class_name for f in found}, problems.root
    if not found:
        problems.add(root, "no picture")
    if len(classes) == 1:
        problems.add(root, f"one class only, {min(classes)}; a classifier needs two{_deeper(found, root)}")
    tops = {f.split: root / f.path.relative_to(root).parts[0] for f in found if f.split}
    present = {(f.split, f.class_name) for f in found}
    for split, top in tops.items():
        for class_name in classes:
            if (split, class_name) not in present and not (allow_missing and split != "train"):
                problems.add(
                    top / class_name,
                    "missing: other splits have this class"
                    + (" (allow_missing=True lets it)" if split != "train" else ""),
                )


def _deeper(found: list[Found], root: Path) -> str:
    """A word on where the classes may be, when the folder that was taken for one has folders in it"""
    folders = {f.path.relative_to(root).parts[0] for f in found if len(f.path.relative_to(root).parts) > 2}
    if len(folders) != 1 or any(f.split for f in found):
        return ""
    return f": are the classes the folders in {shown(root / min(folders))}? Then load that"


def check_duplicates(found: list[Found], digests: list[bytes], problems: Problems) -> None:
    """the same bytes are no two classes, and lie in no two given splits"""
    first: dict[bytes, Found] = {}
    for f, digest in zip(found, digests, strict=True):
        twin = first.setdefault(digest, f)
        where = "class" if f.class_name != twin.class_name else "split" if f.split != twin.split else None
        if where:
            problems.add(f.path, f"the same file as {twin.name}, in another {where} (allow_duplicates=True lets it)")


def check_enough(
    found: list[Found], together: Tensor, fractions: Sequence[float], problems: Problems, noun: str
) -> None:
    """where the seed splits: a class needs as many distinct pictures, or groups, as there are splits"""
    needed = sum(f > 0 for f in fractions)
    distinct = defaultdict(set)
    for f, number in zip(found, together.tolist(), strict=True):
        if f.split == "":
            distinct[f.class_name].add(number)
    for class_name, kinds in distinct.items():
        if len(kinds) < needed:
            problems.add(
                problems.root / class_name,
                f"{len(kinds)} distinct {noun}, too few for {needed} splits (allow_missing=True lets it)",
            )


def warn_of_folders_within(found: list[Found], root: Path) -> None:
    """folders within a class may be groups, or the classes: a warning says how they were taken"""
    within = [f for f in found if len(f.path.relative_to(root).parts) > (3 if f.split else 2)]
    if not within:
        return
    folder, class_name = within[0].name.rsplit("/", 1)[0], within[0].class_name
    warnings.warn(
        f"image_folder: {len(within)} picture(s) lie in folders within a class, such as {folder}; each is taken by "
        f"itself, for the class {class_name}, so those of one folder may come into train and into test. If a folder "
        "holds what belongs together (a patient, a camera, a day), pass groups=lambda path: path.parent; if each "
        "picture stands for itself, groups=lambda path: path; if the folders are the classes, load what holds them",
        stacklevel=3,
    )


def warn_of_few_bits(highest: list[int | None], bits: int) -> None:
    """highest values of the files with 16 bits -> a warning where most use a quarter of them or less"""
    values = sorted(value for value in highest if value is not None)
    if values and (middle := values[len(values) // 2]) < 2 ** (bits - 2):
        warnings.warn(
            f"image_folder: half of the {len(values)} files with 16 bits hold no value above {middle:,}, of 0 to "
            f"{2**bits - 1:,}, so at most {middle * 255 // (2**bits - 1) + 1} of 256 greys are left of them. Where a "
            f"camera gives 10, 12 or 14 bits, pass bits=… with that number (the highest value of all, {values[-1]:,}, "
            f"takes {values[-1].bit_length()})",
            stacklevel=3,
        )


def check_parts(
    parts: list[Tensor], y: Tensor, classes: Sequence[str], fractions: Sequence[float], allow_missing: bool
) -> None:
    """ValueError where groups leave a class out of a split that the seed made"""
    for name, rows, fraction in zip(SPLIT_NAMES, parts, fractions, strict=True):
        missing = [c for k, c in enumerate(classes) if not (y[rows] == k).any()]
        if len(rows) and fraction > 0 and missing and (name == "train" or not allow_missing):
            raise ValueError(
                f"image_folder: {name} has no picture of {', '.join(missing[:5])}: too few groups; expected every "
                "class in every split: take another seed or other fractions, or make smaller groups"
            )
