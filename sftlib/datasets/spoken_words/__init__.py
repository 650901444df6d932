"""Spoken words, with two labels for each sound: which word, and who speaks.

Without a folder they are made on the spot by espeak; with one they are recordings, {digit}_{speaker}_{index}.wav.

```python
from sftlib.datasets import spoken_words
words = spoken_words.load()                           # other voices in val and test than in train
words = spoken_words.load("recordings", test_speakers=["theo"])
frames, lengths = load_backbone("voice_lstm").preprocess(words.train.batch(torch.arange(16))[0])
```
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from sftlib.datasets.splits import Splits, check_seed, check_three_fractions
from sftlib.datasets.spoken_words import made, recordings
from sftlib.datasets.spoken_words.checks import check_choice, check_synthesis, check_words
from sftlib.datasets.spoken_words.made import ACCENTS, VOICES, Synthesis
from sftlib.datasets.spoken_words.parts import PARTS, SoundSplit, by_number, by_speaker
from sftlib.datasets.spoken_words.strings import COMMANDS, LETTERS, in_letters, phrases, spelled, strung
from sftlib.datasets.spoken_words.waves import decode

__all__ = [
    "ACCENTS",
    "COMMANDS",
    "DIGITS",
    "LETTERS",
    "VOICES",
    "SoundSplit",
    "Synthesis",
    "decode",
    "in_letters",
    "load",
    "phrases",
    "spelled",
    "strung",
]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load(
    root: Path | str | None = None,
    *,
    task: str = "word",
    split: str | None = None,
    words: Sequence[str] = DIGITS,
    fractions: Sequence[float] = (0.6, 0.15, 0.25),
    val_speakers: Sequence[str] | None = None,
    test_speakers: Sequence[str] | None = None,
    seed: int = 0,
    synthesis: Synthesis | None = None,
    skip_broken: bool = False,
) -> Splits:
    """-> Splits of ((samples float32 (n,), rate in Hz), label); a split has .words and .speakers (N), as texts, too

    root: a folder of {digit}_{speaker}_{index}.wav, digit being the place in words; or the one above "recordings".
    None: words and phrases that espeak says, as `synthesis` has it.
    task: "word" or "speaker", what the label is. split: "speakers" (usual for words), no speaker is in two splits:
    those of val_speakers and test_speakers, else by the seed, fractions counting speakers; or "recordings" (usual for
    speakers), every speaker is in all splits. Then of recordings index 0 to 4 is test, the Free Spoken Digit Dataset's
    official part, and 5 to 9 val; of made sounds each is another one anyway.
    ValueError names every file that cannot be used in one list; skip_broken=True leaves them out.
    """
    split = check_choice(task, split, val_speakers, test_speakers)
    check_words(words, made=root is None)
    check_three_fractions(fractions)
    check_seed(seed)
    named = None if split == "recordings" else (val_speakers, test_speakers)
    if root is not None:
        if synthesis is not None:
            raise ValueError("got a folder and synthesis=…; expected one of them: recordings are not made")
        return _recorded(Path(root).expanduser(), tuple(words), task, named, fractions, seed, skip_broken)
    how = check_synthesis(synthesis or Synthesis())
    return _made(tuple(words), task, named, fractions, seed, how)


def _recorded(root, words, task, named, fractions, seed, skip_broken) -> Splits:
    """Recordings read and divided"""
    found, ignored, broken = recordings.read(root, words, skip_broken)
    names = tuple(sorted({r.speaker for r in found}))
    if named is None:
        part_of = by_number([r.index for r in found])
    else:
        parts = by_speaker(names, fractions, *named, seed)
        part_of = [parts[r.speaker] for r in found]
    used = sorted({r.word for r in found})
    spoken = [words[k] for k in used]
    split_of = {}
    for part in PARTS:
        some = [r for r, p in zip(found, part_of, strict=True) if p == part]
        labels = [used.index(r.word) if task == "word" else names.index(r.speaker) for r in some]
        split_of[part] = SoundSplit(
            tuple(some), torch.tensor(labels, dtype=torch.long), tuple(words[r.word] for r in some),
            tuple(r.speaker for r in some), tuple(r.name for r in some),
        )  # fmt: skip
    classes = tuple(spoken) if task == "word" else names
    known = {*split_of["train"].labels.tolist()}
    if lacking := [name for k, name in enumerate(classes) if k not in known]:
        raise ValueError(
            f"got no recording of {', '.join(lacking)} for train; expected some of every {task} (with "
            "split='recordings' those with an index of 10 or more): other speakers for val and test, or other files"
        )
    return Splits(**split_of, classes=classes, ignored=tuple(ignored), broken=tuple(broken), notes=_notes(split_of))


def _made(words, task, named, fractions, seed, how) -> Splits:
    """Takes: row i of a split says word i mod K, in one voice of the split after the other"""
    people = made.speakers(how, seed)
    parts = None if named is None else by_speaker(tuple(sorted(people)), fractions, *named, seed)
    names = tuple(sorted(people))
    split_of = {}
    for p, part in enumerate(PARTS):
        own = [name for name in names if parts is None or parts[name] == part]
        n = how.counts[part] if own else 0
        rows = [(i % len(words), own[i // len(words) % len(own)]) for i in range(n)]
        takes = tuple(people[s].take(words[k], (seed, 1 + p, i), how) for i, (k, s) in enumerate(rows))
        labels = [k if task == "word" else names.index(s) for k, s in rows]
        split_of[part] = SoundSplit(
            takes, torch.tensor(labels, dtype=torch.long), tuple(words[k] for k, _ in rows),
            tuple(s for _, s in rows), tuple(f"{part}/{k}_{s}_{i}" for i, (k, s) in enumerate(rows)),
        )  # fmt: skip
    return Splits(**split_of, classes=words if task == "word" else names, notes=_notes(split_of))


def _notes(split_of: dict[str, SoundSplit]) -> tuple[str, ...]:
    """Who speaks in each split"""
    return tuple(f"{part}: {', '.join(sorted(set(split.speakers)))}" for part, split in split_of.items() if len(split))
