"""Notebook 12: `speech_training` and its control `speech_scratch`, with 5 and with 50 recordings of each word.

    python tools/experiments/speech_budgets.py FOLDER [--limit N]

The same men, rates and numbers of updates, whatever is learned from: 80, and 320 from scratch, in batches of 25.
With 50 recordings of each word that is 4 passes over them, and 16 from scratch; `fitted` says how far they are learned.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.experiments.speech import SPEAKERS, main
from tools.experiments.speech_training import run as run

SEEDS = range(5)
WAYS = ("fine-tuned", "LP-FT", "discriminative", "scratch, log frames")


def settings() -> list[dict]:
    """Recordings of each word x way x the man left out"""
    return [{"left_out": man, "method": way, "n": n} for n in (5, 50) for way in WAYS for man in SPEAKERS]


if __name__ == "__main__":
    raise SystemExit(main("speech_budgets"))
