"""The table of the files that shall stay: what `image_folder.load(root, labels=…)` takes."""

import csv
import os
from collections.abc import Collection
from pathlib import Path

from sftlib.datasets.splits import Splits


def write_list(path: str | os.PathLike, data: Splits, *, leave_out: Collection[str] = ()) -> int:
    """Write file,label of every picture of ``data`` but those named -> how many stay. The pictures stay where they are

    ValueError for a name that is none of its pictures, and where a class would be left without one.
    """
    rows = [(name, data.classes[k]) for part in (data.train, data.val, data.test)
            for name, k in zip(part.names, part.labels.tolist(), strict=True)]  # fmt: skip
    out = set(leave_out)
    if unknown := sorted(out - {name for name, _ in rows}):
        raise ValueError(f"got {unknown[0]!r} to leave out; expected names of pictures, as in data.train.names")
    kept = sorted(row for row in rows if row[0] not in out)
    if empty := sorted(set(data.classes) - {label for _, label in kept}):
        raise ValueError(f"got all pictures of {empty[0]!r} to leave out; expected at least one of each class to stay")
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *kept])
    os.replace(partial, path)
    return len(kept)
