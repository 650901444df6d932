"""Notebook 12: training the voice network further for words, against the same network from scratch.

    python tools/experiments/speech_training.py FOLDER [--limit N]

The recordings, their draws and the man who is left out are those of `speech`. Adam, gradients clipped to a norm of 3
(the published training's), products in bfloat16, batches of 25. g, a linear layer on z, learns at a rate of 0.03.

fine-tuned: f and g together, g from random weights. LP-FT: the same, but g starts as the linear probe on the frozen z
(Kumar et al. 2022, arXiv 2202.10054). discriminative: the rate falls by 2.6 from each layer of f to the one below
(Howard and Ruder 2018, arXiv 1801.06146). 80 updates, fixed beforehand, not tuned. The rate of f is each way's best in
`speech_training_rates`, on made words: no recording chose anything. 10 recordings of each word are learned from; 5 and
50 in `speech_budgets`. The control is in `speech_scratch`.

`fitted` is the accuracy on the sounds that are learned from, in the last pass over them.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sftlib.adaptation import geometric_rates, param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader, trimmed
from sftlib.features import linear_probe
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import Epoch, fit, predict
from tools.experiments.speech import L2, SPEAKERS, Frames, chosen, labelled, main, mean, parts, scaled

SEEDS = range(5)
WAYS = ("fine-tuned", "LP-FT", "discriminative")
N, BATCH, LR_G, CLIP, FACTOR = 10, 25, 3e-2, 3.0, 2.6
STEPS, SCRATCH_STEPS = 80, 320  # updates; from scratch
TRAINING = Precision(torch.bfloat16)


def settings() -> list[dict]:
    """Way x the man left out, and how many recordings of each word"""
    return [{"left_out": man, "method": way, "n": N} for way in WAYS for man in SPEAKERS]


def run(setting: dict, seed: int) -> dict:
    """One row: the rate of f, accuracies in [0, 1], of how many sounds, seconds of one core to train"""
    lr = chosen("speech_training_rates", setting["method"], "accuracy")
    train, test = parts("recordings", setting["left_out"], 0)
    return {"rate": lr, **learned(setting["method"], lr, train, test, setting["n"], seed)}


def learned(way: str, lr: float, train: NestSplit, test: NestSplit, n: int, seed: int) -> dict:
    """Train on n sounds of each word of the train part -> accuracy on the test part, and what it took"""
    mine, make = train.subset(labelled(train.y, n, seed)), trimmed
    if way == "scratch, log frames":
        make = partial(_changed, scaled(mine.x))
    start = time.process_time()
    model, groups = build(way, lr, mine, seed)
    batches = nest_loader(mine, make, batch_size=BATCH, shuffle=True, lengths=mine.x[1], drop_last=True,
                          generator=torch.Generator().manual_seed(seed))  # fmt: skip
    steps = SCRATCH_STEPS if from_scratch(way) else STEPS
    epochs = -(-steps // len(batches))
    schedule = warmup_cosine(epochs * len(batches), warmup=10)
    how = {"epochs": epochs, "schedule": schedule, "clip": CLIP, "precision": TRAINING}
    *_, last = (e for e in fit(model, batches, torch.optim.Adam(groups), **how) if isinstance(e, Epoch))
    spent = time.process_time() - start
    tested = nest_loader(test, make, batch_size=100, lengths=test.x[1])
    hits = torch.cat([output.argmax(1) == y for output, y in predict(model, tested, precision=TRAINING)])
    found = {"accuracy": mean(hits), "tested": len(hits), "fitted": round(last.train["accuracy"], 4)}
    return {**found, "steps": epochs * len(batches), "cpu_s": round(spent, 2)}


def from_scratch(way: str) -> bool:
    """Whether f starts from random weights"""
    return way.startswith("scratch")


def _changed(change: Callable[[Frames], Frames], examples: tuple, generator: torch.Generator) -> tuple:
    x, y = trimmed(examples, generator)
    return change(x), y


def build(way: str, lr: float, mine: NestSplit, seed: int) -> tuple[Model, list[dict]]:
    """-> g ∘ f as training starts, and its groups"""
    seed_everything(seed)
    f = load_backbone("voice_lstm", pretrained=not from_scratch(way))
    g = LinearHead(f.feature_dim, len(mine.y.unique()))
    if way == "LP-FT":
        with torch.no_grad():
            g = linear_probe(f(trimmed((mine.x, mine.y), None)[0]), mine.y, l2=L2)
    rates = {"f": (f, lr)}
    if way == "discriminative":
        rates = geometric_rates(dict(f.named_children()), lr=lr, factor=FACTOR)
    return Model(f, g), param_groups(**rates, g=(g, LR_G))


if __name__ == "__main__":
    raise SystemExit(main("speech_training"))
