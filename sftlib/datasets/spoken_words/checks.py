"""What `load` is asked for: refused where it cannot be meant."""

from collections.abc import Sequence
from dataclasses import replace

from sftlib.datasets.spoken_words.made import ACCENTS, VOICES, Range, Synthesis
from sftlib.datasets.spoken_words.parts import PARTS
from sftlib.inputs import finite, whole

LONGEST = 200  # characters of a phrase
LIMITS = {
    "words_per_minute": (80, 450), "pitch": (0, 99), "noise_db": (-20, 100), "room_s": (0, 3), "level_db": (-60, -10),
}  # fmt: skip
OPTIONAL = "noise_db", "room_s"


def check_choice(task: str, split: str | None, val: Sequence[str] | None, test: Sequence[str] | None) -> str:
    """-> "speakers" or "recordings"; ValueError unless task, split and the named speakers go together"""
    usual = {"word": "speakers", "speaker": "recordings"}
    if task not in usual:
        raise ValueError(f"got task={task!r}; expected 'word' or 'speaker'")
    if split not in {None, *usual.values()}:
        raise ValueError(f"got split={split!r}; expected 'speakers' or 'recordings'")
    split = split or usual[task]
    if task == "speaker" and split == "speakers":
        raise ValueError(
            "got task='speaker' with split='speakers'; no speaker of val and test would be known: split='recordings'"
        )
    for name, some in (("val_speakers", val), ("test_speakers", test)):
        if some is not None and split == "recordings":
            raise ValueError(f"got {name}={some!r:.80} with split='recordings'; expected it with split='speakers'")
        if isinstance(some, str) or some is not None and not all(isinstance(s, str) for s in some):
            raise ValueError(f"got {name}={some!r:.80}; expected a list of names, or None")
    return split


def check_words(words: Sequence[str], *, made: bool) -> None:
    """ValueError unless words are different texts that can be said"""
    if isinstance(words, str) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"got words={words!r:.80}; expected a list of words or phrases, one or more")
    for word in words:
        if len(word) > LONGEST or not word.isprintable() or made and not any(c.isalnum() for c in word):
            raise ValueError(
                f"got {word!r:.80} among words; expected letters or digits, printable, {LONGEST} characters at most"
            )
    if len({w.casefold().strip() for w in words}) < len(words):
        raise ValueError(f"got words={list(words)!r:.200}; expected each once: two of them are one class")


def check_synthesis(how: Synthesis) -> Synthesis:
    """The same, ranges as pairs of float; ValueError unless espeak has the voices and every range can be drawn from"""
    if not isinstance(how, Synthesis):
        raise ValueError(f"got synthesis={how!r:.80}; expected a spoken_words.Synthesis(…)")
    if not isinstance(how.counts, dict) or set(how.counts) != set(PARTS):
        raise ValueError(f"got counts={how.counts!r:.80}; expected numbers of sounds for train, val and test")
    for part, n in how.counts.items():
        whole(f"counts[{part!r}]", n, least=1 if part == "train" else 0)
    _check_among("voices", how.voices, VOICES)
    _check_among("accents", how.accents, ACCENTS)
    return replace(how, **{name: _range(name, getattr(how, name), *ends) for name, ends in LIMITS.items()})


def _check_among(name: str, some: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(some, str) or not isinstance(some, Sequence) or not some or len(set(some)) < len(some):
        raise ValueError(f"got {name}={some!r:.80}; expected a list of different names, one or more")
    if unknown := [s for s in some if s not in known]:
        raise ValueError(f"got {unknown!r:.80} among {name}; expected some of {', '.join(known)}")


def _range(name: str, ends: Range | None, least: float, most: float) -> Range | None:
    if ends is None and name in OPTIONAL:
        return None
    if not isinstance(ends, Sequence) or len(ends) != 2:
        none = ", or None" if name in OPTIONAL else ""
        raise ValueError(f"got {name}={ends!r:.80}; expected a range (lowest, highest){none}")
    low = finite(f"{name}[0]", ends[0], least=least, most=most)
    return low, finite(f"{name}[1]", ends[1], least=low, most=most)
