"""Recordings in a folder, {digit}_{speaker}_{index}.wav: read once, and all that is wrong named in one error."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sftlib.datasets.printable import printable, shown
from sftlib.datasets.spoken_words import waves

NAME = re.compile(r"(\d+)_(.+)_(\d+)\.wav", re.IGNORECASE)
LAYOUT = "{digit}_{speaker}_{index}.wav"
NAMED = 20  # faults that an error lists


@dataclass(frozen=True, eq=False)
class Recording:
    """What one file holds: samples float32 (n,), its rate, and what its name says"""

    samples: np.ndarray
    rate: int
    word: int
    speaker: str
    index: int
    name: str

    def sound(self) -> tuple[Tensor, int]:
        """-> samples float32 (n,), a copy; rate in Hz"""
        return torch.from_numpy(self.samples.copy()), self.rate

    def content(self) -> bytes:
        """Its samples"""
        return self.samples.tobytes()


def read(root: Path, words: Sequence[str], skip_broken: bool) -> tuple[list[Recording], list[str], list[str]]:
    """-> recordings by name; files passed over; faults. ValueError that names the faults, unless skip_broken"""
    root = _folder(root)
    found, ignored, faults, seen = [], [], [], {}
    for path in sorted(root.iterdir(), key=lambda path: _order(path.name)):
        if path.name.startswith(".") or path.suffix.lower() != ".wav" or not path.is_file():
            ignored.append(printable(path.name))
            continue
        try:
            recording = _recording(path, words)
            first = seen.setdefault((recording.rate, recording.samples.tobytes()), recording.name)
            if first != recording.name:
                raise ValueError(f"the same sound as {first}")
            found.append(recording)
        except (OSError, ValueError) as error:
            faults.append(f"{printable(path.name)}: {error}")
    if faults and not skip_broken:
        raise ValueError(_report(root, faults, len(found)))
    if not found:
        raise ValueError(
            f"got {shown(root)} with no recording in it; expected files {{digit}}_{{speaker}}_{{index}}.wav"
        )
    return found, ignored, faults


def _folder(root: Path) -> Path:
    """root, or the folder "recordings" in it, as the Free Spoken Digit Dataset has it"""
    if not root.is_dir():
        raise ValueError(
            f"got root={shown(root)}, which is no folder; expected one with {{digit}}_{{speaker}}_{{index}}.wav"
        )
    inside = root / "recordings"
    return inside if inside.is_dir() and not any(root.glob("*.[wW][aA][vV]")) else root


def _order(name: str) -> tuple:
    """By word, speaker and number, so that 10 comes behind 9"""
    found = NAME.fullmatch(name)
    return (0, int(found[1]), found[2], int(found[3]), name) if found else (1, 0, "", 0, name)


def _recording(path: Path, words: Sequence[str]) -> Recording:
    found = NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"its name is not {LAYOUT}")
    word = int(found[1])
    if word >= len(words):
        raise ValueError(f"{word} is no place in the {len(words)} words, 0 to {len(words) - 1}")
    return Recording(*waves.read(path), word, printable(found[2]), int(found[3]), printable(path.name))


def _report(root: Path, faults: list[str], good: int) -> str:
    lines = "\n".join(f"  {fault}" for fault in faults[:NAMED])
    more = f"\n  and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
    return (
        f"got {len(faults):,} recordings in {shown(root)} that cannot be used, beside {good:,} that can:\n{lines}{more}"
        "\nexpected WAV files of 25 ms or more, with sound in them, each once. Mend or remove them; skip_broken=True "
        "leaves them out and lists them in .broken"
    )
