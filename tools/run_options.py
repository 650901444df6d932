"""What tools/train.py and tools/sft.py share of their options: numbers, those of a run, which of them must agree."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from sftlib.model.files import load_safely


def number(kind: type, low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A reader of numbers of this kind from ``low`` (or above it) to ``high``"""

    def read(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)) or (above and value == low):
            what = "a whole number" if kind is int else "a finite number"
            most = f" and at most {high:g}" if math.isfinite(high) else ""
            least = f"{'above' if above else 'of at least'} {low}"
            raise argparse.ArgumentTypeError(f"got {word}; expected {what} {least}{most}")
        return value

    return read


def parsed(
    parser: argparse.ArgumentParser, words: list[str] | None, kept: Sequence[str]
) -> tuple[argparse.Namespace, bool]:
    """The command line's words -> options, of which at --resume those left out are the run's; whether they were"""
    options = parser.parse_args(words)
    last = options.out / "last.pt"
    resumed = options.resume and last.exists()
    if resumed:
        parser.set_defaults(**options_of_run(last, kept))
        options = parser.parse_args(words)
    return options, resumed


def options_of_run(path: Path, names: Sequence[str]) -> dict:
    """The options of these names that the run at ``path`` was started with"""
    state = load_safely(path)
    try:
        return {name: state["settings"]["options"][name] for name in names}
    except (KeyError, TypeError):
        raise ValueError(
            f"{path} was not written by this script, or by another version of it; expected the last.pt of a run of it"
        ) from None


def require_same_run(
    path: Path, saved: dict, here: dict, *, free: Sequence[str], changing: Sequence[str], also: Sequence[str]
) -> None:
    """ValueError, naming the first difference, unless the run at ``path`` can go on with these settings

    Options in ``free`` are judged elsewhere, those in ``changing`` may be others; ``also``: more entries to compare.
    """
    pairs = {
        _spelled(name): (value, here["options"][name]) for name, value in saved["options"].items()
        if name not in (*free, *changing)
    } | {name: (saved[name], here[name]) for name in also}  # fmt: skip
    for name, (there, now) in pairs.items():
        if there != now:
            raise ValueError(
                f"got {name} {now}, and {path} is of a run with {there}; expected the same: leave the option out, or "
                f"start another run with another --out. Only {' and '.join(map(_spelled, changing))} can change on "
                "the way"
            )


def require_new_addresses() -> None:
    """ValueError where torchrun would start workers again with the addresses of dead ones: they may wait for ever"""
    variable = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and os.environ.get(variable) != "1":
        raise ValueError(
            f"got --max-restarts; expected the environment variable {variable}=1 with it, set for torchrun on every "
            "machine: without it new workers may look for the dead ones and wait for ever"
        )


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"
