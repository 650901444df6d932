"""Sounds as a split, and which sound is in which one."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from sftlib.datasets.ahead import ahead
from sftlib.datasets.splits import Split, stratified_split

PARTS = ("train", "val", "test")
OFFICIAL = 5  # recordings of each speaker and digit in the test part
AHEAD = 64  # sounds
Sound = tuple[Tensor, int]  # samples float32 (n,), rate in Hz


class Source(Protocol):
    """Where one sound comes from: a recording, or a take that is made when it is asked for"""

    def sound(self) -> Sound:
        """-> samples float32 (n,), a copy; rate in Hz"""

    def content(self) -> bytes:
        """What tells it from others, for a checksum"""


@dataclass(frozen=True, eq=False)
class SoundSplit(Split):
    """N sounds and labels (N,); words and speakers (N) as texts, names (N) say where each came from."""

    sounds: tuple[Source, ...]
    labels: Tensor
    words: tuple[str, ...]
    speakers: tuple[str, ...]
    names: tuple[str, ...]

    def __getitem__(self, i: int) -> tuple[Sound, int]:
        """i -> (samples float32 (n,), rate in Hz), label"""
        return self.sounds[i].sound(), int(self.labels[i])

    def batch(self, rows: Tensor) -> tuple[list[Sound], Tensor]:
        """rows (n,) -> n sounds, labels (n,): what a sound backbone's preprocess takes"""
        with closing(self.batches([rows])) as made:
            return next(made)

    def batches(self, rows: Iterable[Tensor]) -> Iterator[tuple[list[Sound], Tensor]]:
        """rows (n,) of one batch after the other -> what `batch` gives for each; the next sounds are made meanwhile"""
        rows = list(rows)
        order = [i for some in rows for i in some.tolist()]
        sounds = ahead(lambda i: self.sounds[i].sound(), order, threads=2, depth=AHEAD, cost=lambda i: 0, budget=1)
        with closing(sounds):
            for some in rows:
                yield list(islice(sounds, len(some))), self.labels[some]

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of names, labels and of what each sound is (made) or of its samples (recorded)"""
        before = super().fingerprint
        for source in self.sounds:
            before = zlib.crc32(source.content(), before)
        return before

    def __repr__(self) -> str:
        return f"SoundSplit({len(self):,} sounds of {len(set(self.speakers))} speakers)"


def by_number(indices: Sequence[int]) -> list[str]:
    """index of each recording -> its part: 0 to 4 test, 5 to 9 val, the others train"""
    return ["test" if i < OFFICIAL else "val" if i < 2 * OFFICIAL else "train" for i in indices]


def by_speaker(
    names: Sequence[str],
    fractions: Sequence[float],
    val: Sequence[str] | None,
    test: Sequence[str] | None,
    seed: int,
) -> dict[str, str]:
    """names of speakers -> the part of each: as val and test say, the others by the seed and the fractions

    A part that is named takes no others. Each part with a fraction gets a speaker as far as there are enough.
    """
    _check_named(names, val, test)
    part_of = {name: part for part, some in (("val", val), ("test", test)) for name in some or ()}
    shares = [f if part == "train" or some is None else 0.0
              for part, some, f in zip(PARTS, (None, val, test), fractions, strict=True)]  # fmt: skip
    rest = [name for name in names if name not in part_of]
    drawn = stratified_split(
        torch.zeros(len(rest)), [s / sum(shares) for s in shares], torch.Generator().manual_seed(seed)
    )
    part_of |= {rest[i]: part for part, rows in zip(PARTS, drawn, strict=True) for i in rows.tolist()}
    return part_of


def _check_named(names: Sequence[str], val: Sequence[str] | None, test: Sequence[str] | None) -> None:
    named = [*(val or ()), *(test or ())]
    if unknown := sorted(set(named) - set(names)):
        raise ValueError(f"got the speakers {unknown} in val_speakers or test_speakers; expected some of {list(names)}")
    if len(set(named)) < len(named):
        raise ValueError(f"got {named} as speakers of val and test; expected each once: no speaker is in two splits")
    if len(names) - len(named) < 1:
        raise ValueError(f"got {len(named)} of {len(names)} speakers for val and test; expected one or more for train")
    if not named and len(names) < 2:
        raise ValueError(f"got one speaker, {names[0]}; expected two or more, or split='recordings'")
