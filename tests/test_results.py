"""Tables of experiments: read as csv reads them, rows that crashes cut off, numbers by their columns."""

import csv

import pytest

from sftlib import results


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.csv"
    for seed in range(3):
        for way in ("a, b", "c"):
            results.append(path, {"seed": seed, "way": way, "score": seed + len(way) / 8, "note": f"n{seed}"})
    return path


def test_rows_are_those_that_csv_reads(path):
    with open(path, encoding="utf-8", newline="") as file:
        assert results.read(path) == list(csv.DictReader(file)) != []
    assert results.read(path.with_name("none.csv")) == [] == results.read("no such table")


def test_a_stored_table_is_found_by_its_name():
    assert results.read("search") == results.read(results.folder() / "search.csv") != []


def test_numbers_are_keyed_by_the_columns_named(path):
    rows = results.read(path)
    assert results.numbers(rows, "score", "way", "seed")["a, b", "2"] == 2.5
    only = [r for r in rows if r["way"] == "c"]
    assert results.numbers(only, "score", "seed") == {"0": 0.125, "1": 1.125, "2": 2.125}


@pytest.mark.parametrize(
    "value, by, words",
    [
        ("scor", ("way", "seed"), "got column 'scor'; the table has seed, way, score, note"),
        ("score", ("way", "sed"), "got column 'sed'"),
        ("score", ("way",), "two rows have way = a, b"),
        ("note", ("way", "seed"), "'n0', which is no number"),
    ],
)
def test_numbers_that_cannot_be_told_apart_are_refused(path, value, by, words):
    with pytest.raises(ValueError, match=words):
        results.numbers(results.read(path), value, *by)


def test_a_row_with_other_columns_is_refused_and_nothing_is_lost(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="rename the old file"):
        results.append(path, {"seed": 5, "score": 1})
    assert path.read_bytes() == before
