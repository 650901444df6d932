"""The stored tables of longer experiments: data/results/NAME.csv, one row a seed and setting."""

import csv
import io
import os
from pathlib import Path

from sftlib.runtime import cache_folder


def folder() -> Path:
    """data/results, where the tables are."""
    return cache_folder().parent / "results"


def read(table: str | Path) -> list[dict[str, str]]:
    """Name or path of a table -> its rows as dicts of text, [] where there is none.

    A last line that a crash cut off does not count.
    """
    path = table if isinstance(table, Path) else folder() / f"{table}.csv"
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return list(csv.DictReader(io.StringIO(whole)))


def numbers(rows: list[dict[str, str]], value: str, *by: str) -> dict:
    """Rows, a column, the columns that tell its values apart -> {one text, or a tuple of texts: number}.

    ``numbers(read("regimes"), "test", "regime", "seed")["full", "3"]`` is a float. A column that is missing, no number,
    or values that `by` does not tell apart are a ValueError.
    """
    found = {}
    for row in rows:
        if missing := [column for column in (value, *by) if column not in row]:
            raise ValueError(f"got column {missing[0]!r}; the table has {', '.join(row)}")
        key = row[by[0]] if len(by) == 1 else tuple(row[column] for column in by)
        if key in found:
            raise ValueError(f"two rows have {', '.join(by)} = {key}: name further columns, or leave rows out")
        try:
            found[key] = float(row[value])
        except ValueError:
            raise ValueError(f"column {value!r} holds {row[value]!r}, which is no number") from None
    return found


def append(path: Path, row: dict) -> None:
    """Add a row in one write that reaches the disk; a last line that a crash cut goes. Other columns: ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read(path)
    if rows and list(rows[0]) != list(row):
        raise ValueError(f"{path.name} has the columns {list(rows[0])}, this row has {list(row)}: rename the old file")
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if not rows and not (path.exists() and path.stat().st_size):
        writer.writeheader()
    writer.writerow(row)
    with open(path, "ab", buffering=0) as file:
        file.write(text.getvalue().encode())
        os.fsync(file.fileno())
