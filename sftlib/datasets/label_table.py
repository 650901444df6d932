"""Labels in a table: a CSV file with the columns file and label, one line a picture."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from sftlib.datasets.decode import read_bytes
from sftlib.datasets.folder_walk import SPLIT_NAMES, SUFFIXES, Found, Problems, pictures_below, split_of
from sftlib.datasets.printable import printable, shown

COLUMNS = ("file", "label")


def find_labelled(root: Path, table: str | os.PathLike, problems: Problems, ignored: list[str]) -> list[Found]:
    """Every picture that the table names; its path is given below root, with / between folders.

    Pictures that it does not name go to ignored. Where all lie in folders train, val (and test) these are the splits.
    """
    label_of: dict[Path, str] = {}
    for line, name, label in _lines(_table_path(root, table)):
        path = Path(os.path.normpath(root / name))
        if not path.is_relative_to(root) or not name:
            problems.add(root / f"line {line}", f"file {printable(name)!r}: expected a path below the folder")
        elif not label:
            problems.add(path, f"has no label in line {line}")
        elif label_of.setdefault(path, label) != label:
            problems.add(path, f"has two labels, {printable(label_of[path])} and {printable(label)} (line {line})")
        elif path.suffix.lower() not in SUFFIXES or not os.path.isfile(path):
            problems.add(
                path, f"named in line {line}, is no picture file that is here (with its ending, as in a/1.jpg)"
            )
    for path in pictures_below(root, problems, []):
        if path not in label_of:
            ignored.append(shown(path.relative_to(root)))
    splits = _splits(list(label_of), problems)
    return [
        Found(splits[path], printable(label), path, shown(path.relative_to(root)))
        for path, label in sorted(label_of.items())
    ]


def _table_path(root: Path, table: str | os.PathLike) -> Path:
    if not isinstance(table, str | os.PathLike):
        raise ValueError(f"got labels={table!r:.80}; expected the path of a CSV file with the columns file and label")
    for path in (root / table, Path(table)):
        if path.is_file():
            return path
    raise ValueError(f"got labels={printable(os.fspath(table))!r}; expected a CSV file, in the folder or as a path")


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """-> number of the line, file, label of each"""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader]  # a name between quotes may have a line end in it
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{shown(path)}: {error}; expected a CSV file in UTF-8 (in Excel: 'CSV UTF-8')") from None
    first = rows[0][1] if rows else []
    head = tuple(word.strip().lower() for word in first)
    if head[:2] != COLUMNS or len(head) != 2:
        raise ValueError(
            f"{shown(path)} begins with {printable(','.join(first))!r:.80}; expected a line "
            "file,label and then one line a picture, with commas: cats/1.jpg,cat"
        )
    for number, row in rows[1:]:
        if len(row) not in (0, 2):
            raise ValueError(f"{shown(path)}, line {number}: got {len(row)} columns; expected two, file and label")
        if row:
            yield number, row[0].strip(), row[1].strip()


def _splits(paths: list[Path], problems: Problems) -> dict[Path, str]:
    """paths -> for each the split whose folder it lies in, or "" for all"""
    root = problems.root
    splits = {path: split_of(path.relative_to(root).parts[0]) for path in paths}
    if not {"train", "val"} <= set(splits.values()):
        return dict.fromkeys(paths, "")
    for path, split in splits.items():
        if not split:
            problems.add(path, f"lies in none of the folders {', '.join(SPLIT_NAMES)}, as others do")
    return splits
