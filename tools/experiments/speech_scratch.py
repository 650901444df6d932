"""Notebook 12: the network of `speech_training` from random weights, on two kinds of frames: the control.

    python tools/experiments/speech_scratch.py FOLDER [--limit N]

The same recordings, draws, batches, clipping and g, for four times as many steps. "scratch, same frames" hears what the
pretrained network hears, power without a logarithm. "scratch, log frames" hears logarithms, centred and scaled by the
sounds that are learned from, since no front end belongs to random weights. The rate of f is that of the fine-tuned
network; none was tried for the controls. `fitted` says how far they learned what they were given.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.experiments import speech_training
from tools.experiments.speech import SPEAKERS, chosen, labelled, main, parts

SEEDS = range(1)
WAYS = ("scratch, log frames", "scratch, same frames")


def settings() -> list[dict]:
    """Frames x the man left out, and how many recordings of each word"""
    return [{"left_out": speaker, "method": way, "n": speech_training.N} for way in WAYS for speaker in SPEAKERS]


def run(setting: dict, seed: int) -> dict:
    """One row, as those of `speech_training`"""
    lr = chosen("speech_training_rates", "fine-tuned", "accuracy")
    train, test = parts("recordings", "word", setting["left_out"], 0)
    rows = labelled(train.y, setting["n"], seed)
    return {"rate": lr, **speech_training.learned(setting["method"], lr, train, test, rows, seed)}


if __name__ == "__main__":
    raise SystemExit(main("speech_scratch"))
