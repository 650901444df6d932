"""Texts with labels, and what their datasets share: files of an installed package, checked before they are used."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from sftlib.datasets.splits import Split


@dataclass(frozen=True, eq=False)
class TextSplit(Split):
    """N texts and labels (N,); names (N) say where each text came from."""

    texts: tuple[str, ...]
    labels: Tensor
    names: tuple[str, ...]

    def __getitem__(self, i: int) -> tuple[str, int]:
        """i -> text, label"""
        return self.texts[i], int(self.labels[i])

    def batch(self, rows: Tensor) -> tuple[list[str], Tensor]:
        """rows (n,) -> n texts, labels (n,)"""
        return [self.texts[i] for i in rows.tolist()], self.labels[rows]

    def __repr__(self) -> str:
        return f"TextSplit({len(self):,} texts)"


def package_folder(package: str, remedy: str) -> Path:
    """Where the files of an installed package lie, without running it; FileNotFoundError that names the remedy"""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the texts of the package {package} are not installed: {remedy}")
    return Path(found.submodule_search_locations[0])


def checked_file(path: Path, sha256: str, remedy: str) -> bytes:
    """-> the content of one file; FileNotFoundError or ValueError unless it is there and has this SHA-256"""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {remedy}")
    content = path.read_bytes()
    _require(path.name, hashlib.sha256(content).hexdigest(), sha256, remedy)
    return content


def checked_folder(root: Path, pattern: str, sha256: str, remedy: str) -> list[tuple[str, bytes]]:
    """-> (name below root, content) of each file, in the order of their names; they have one SHA-256 together

    It goes over the length and the bytes of each name, then of each content. ValueError for another sum.
    """
    names = sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))
    files, digest = [(name, (root / name).read_bytes()) for name in names], hashlib.sha256()
    for name, content in files:
        for part in (name.encode("utf-8"), content):
            digest.update(len(part).to_bytes(8, "little") + part)
    _require(f"the {len(files):,} texts in {root}", digest.hexdigest(), sha256, remedy)
    return files


def _require(what: str, got: str, sha256: str, remedy: str) -> None:
    if got != sha256:
        raise ValueError(
            f"{what}: SHA-256 {got[:16]}…, expected {sha256[:16]}…; damaged, or of another version: {remedy}"
        )


def letters(text: str) -> str:
    """text -> its letters and digits, small, without links: what makes two texts copies of one"""
    return "".join(c for c in re.sub(r"https?://\S+", "", text.casefold()) if c.isalnum())


def first_of_each(keys: Sequence[str]) -> list[int]:
    """keys (N) -> the places where each key stands for the first time"""
    return list({key: i for i, key in reversed(list(enumerate(keys)))}.values())[::-1]


def shortened(tokenizer, text: str, size: int) -> str:
    """text -> its first words, at most ``size`` tokens of them, with single spaces between them"""
    words = text.split()
    if not words or size < 1:
        raise ValueError(f"got {text!r:.40} and size={size}; expected a text with a word, and 1 token or more")
    whole = " ".join(words)
    places = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    if len(places) <= size:
        return whole
    end = places[size - 1][1]
    kept = whole[:end] if whole[end].isspace() else whole[:end].rpartition(" ")[0]
    return kept.rstrip() or words[0]
