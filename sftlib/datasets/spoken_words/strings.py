"""What a transcript can be learned from: words of one voice strung together, and phrases with their letters."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from sftlib.datasets.spoken_words.parts import Sound, SoundSplit
from sftlib.inputs import whole

PAD = -1  # fills y behind the end of the shorter strings
LETTERS = " abcdefghijklmnopqrstuvwxyz"  # the units of a phrase; the space stands between its words
COMMANDS = (
    ("bring", "carry", "drop", "find", "hide", "lift", "move", "open", "sell", "turn", "wash", "wrap"),
    ("black", "brown", "cheap", "dusty", "golden", "green", "heavy", "pink", "red", "soft", "velvet", "white"),
    ("box", "cup", "desk", "flag", "jar", "mirror", "plate", "quilt", "zip", "lamp", "ship", "table"),
)


def strung(split: SoundSplit, n: int, *, seed: int = 0, fewest: int = 2, most: int = 4) -> tuple[list[Sound], Tensor]:
    """split of words -> n strings of `fewest` to `most` of its sounds, one voice each; y (n, most): 1 + label, then -1

    Voices, lengths and sounds are drawn by the seed; a sound may come twice. 0 is left for CTC's blank.
    """
    n, fewest = whole("n", n), whole("fewest", fewest)
    most = whole("most", most, least=fewest)
    draw = Generator().manual_seed(whole("seed", seed, least=0))
    sounds, y = [], torch.full((n, most), PAD)
    for i in range(n):
        rows = _rows(split.speakers, fewest, most, draw)
        said, labels = split.batch(rows)
        rates = {rate for _, rate in said}
        if len(rates) > 1:
            raise ValueError(f"got sounds of one voice at {sorted(rates)} Hz; expected one rate: resample them first")
        sounds.append((torch.cat([samples for samples, _ in said]), said[0][1]))
        y[i, : len(rows)] = 1 + labels
    return sounds, y


def _rows(speakers: tuple[str, ...], fewest: int, most: int, draw: Generator) -> Tensor:
    """speakers (N) -> rows of one of them"""
    voice = speakers[torch.randint(len(speakers), (1,), generator=draw)]
    own = torch.tensor([i for i, s in enumerate(speakers) if s == voice])
    many = int(torch.randint(fewest, most + 1, (1,), generator=draw))
    return own[torch.randint(len(own), (many,), generator=draw)]


def phrases(n: int, *, seed: int = 0, slots: Sequence[Sequence[str]] = COMMANDS) -> list[str]:
    """-> n different phrases, drawn by the seed: a word of the first slot, one of the second, and so on"""
    if not slots or any(isinstance(words, str) or not words or len(set(words)) < len(words) for words in slots):
        raise ValueError(f"got slots={slots!r:.80}; expected lists of words, one or more in each, each word once")
    every = math.prod(len(words) for words in slots)
    n = whole("n", n, most=every, remedy="these slots have no more phrases")
    drawn = torch.randperm(every, generator=Generator().manual_seed(whole("seed", seed, least=0)))[:n]
    places = torch.unravel_index(drawn, tuple(len(words) for words in slots))
    return [
        " ".join(words[k] for words, k in zip(slots, some, strict=True)) for some in torch.stack(places, 1).tolist()
    ]


def spelled(split: SoundSplit, n: int, *, seed: int = 0) -> tuple[list[Sound], Tensor]:
    """split of phrases -> n of its sounds, none twice, drawn by the seed; y (n, U) of their letters, as `in_letters`

    A split of `load(words=phrases)` with a sound for each phrase and voice holds each phrase in each voice.
    """
    n = whole("n", n, most=len(split), remedy="so many sounds are in the split")
    rows = torch.randperm(len(split), generator=Generator().manual_seed(whole("seed", seed, least=0)))[:n]
    y = in_letters([split.words[i] for i in rows.tolist()])  # before a sound is made
    return split.batch(rows)[0], y


def in_letters(texts: Sequence[str]) -> Tensor:
    """N texts -> y (N, U): 1 + the place of each letter in LETTERS, then -1; 0 is left for CTC's blank"""
    if isinstance(texts, str) or not texts:
        raise ValueError(f"got texts={texts!r:.80}; expected a list of texts, one or more")
    for text in texts:
        if not text or text != " ".join(text.split()) or set(text) - set(LETTERS):
            raise ValueError(
                f"got {text!r:.80}; expected small letters a to z with one space between words: text.lower(), numbers "
                "written out, no signs"
            )
    return pad_sequence(
        [torch.tensor([1 + LETTERS.index(c) for c in text]) for text in texts], batch_first=True, padding_value=PAD
    )
