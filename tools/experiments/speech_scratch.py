"""Notebook 12: the network of `speech_training` from random weights: the controls.

    python tools/experiments/speech_scratch.py FOLDER [--limit N]

The same recordings, draws, batches, clipping and g, for four times as many steps. "scratch, log frames" hears
logarithms, centred and scaled by the sounds that are learned from, since no front end belongs to random weights.
"scratch, same frames" hears what the pretrained network hears, power without a logarithm, and fits little of its
own sounds: the weaker control. The rate of f is each control's own, chosen as those of the pretrained network are, in
`speech_training_rates`. `fitted` says how far it learned what it was given.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.experiments.speech import SPEAKERS, main
from tools.experiments.speech_training import N
from tools.experiments.speech_training import run as run

SEEDS = range(5)
WAYS = ("scratch, log frames", "scratch, same frames")


def settings() -> list[dict]:
    """Control x the man left out, and how many recordings of each word"""
    return [{"left_out": man, "method": way, "n": N} for way in WAYS for man in SPEAKERS]


if __name__ == "__main__":
    raise SystemExit(main("speech_scratch"))
