"""Notebook 12, going deeper: what is said, written down in words and in letters, by layers that learned voices.

All sounds are made by espeak; the test part has other voices. In words: strings of 2 to 4 digits, each said alone; 160
to learn from. In letters: commands of three words, each said in one breath; 600 to learn from, and none of their
phrases is in the test part. `unheard` is the error rate on commands all of whose words were never learned from.

Every way ends in g, a linear layer on means of 4 frames (words) or 2 (letters), learned with CTC (Adam, batches of 20,
gradients clipped to a norm of 3, products in bfloat16). frames: g alone on logarithms of the frames: no network.
frozen: g alone on h2. frozen, random: the same with random weights, which hear those logarithms, since no front end
belongs to them. fine-tuned: g alone on h2, then layer 2 with it, as many updates in all. scratch: both layers from
random weights on the logarithms, with g, for three times as many updates as layer 2 had. constant: always the
transcript that is nearest to those that are learned from. The rate of each is the best of three to five, on other
sounds (`speech_transcripts_rates`): of g where it learns alone, else of f.

Errors are edits over units said; `fitted` counts them on what is learned from, in the last pass. Writing nothing: 1.
`cpu_s` are seconds of one core to learn, without the layers that are passed once.
"""

import time
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from sftlib import losses, metrics, results
from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader, spoken_words, trimmed
from sftlib.model import FrameHead, Model, Subsample
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import Epoch, fit, predict
from tools.experiments.speech import scaled

SEEDS = range(5)
ALONE = ("frames", "frozen", "frozen, random")  # g learns, nothing else
WAYS = ("constant", *ALONE, "fine-tuned", "scratch")
LR_G, BATCH, CLIP, WARMUP, LONGER = 3e-2, 20, 3.0, 10, 3
TRAINING = Precision(torch.bfloat16)
TESTED = 120  # strings
KNOWN = 9  # words of each slot of a command that are learned from


@dataclass(frozen=True)
class Task:
    """A kind of transcript: strings to learn from, frames in a mean, classes with the blank, updates of g, then of f"""

    n: int
    every: int
    classes: int
    warm: int
    steps: int


TASKS = {
    "words": Task(160, 4, 1 + len(spoken_words.DIGITS), 60, 80),
    "letters": Task(600, 2, 1 + len(spoken_words.LETTERS), 60, 120),
}
Parts = dict[str, NestSplit]  # name -> ((frames (N, T, 40), lengths (N,)), y (N, U))


def settings() -> list[dict]:
    """Units x ways"""
    return [{"units": units, "method": way} for units in TASKS for way in WAYS]


def run(setting: dict, seed: int) -> dict:
    """One row: the rate, error rates on the test part, on unheard words and on what is learned from, what it took

    And the first string of the test part and of those with unheard words, as it is and as it was written.
    """
    units, way = setting["units"], setting["method"]
    if way == "constant":
        return constant(units, parts(units, seed))
    found, model = learned(units, way, chosen(units, way), seed)
    data = states(units, way, seed)
    return found | examples(units, data, {name: writes(model, data[name]) for name in data})


def chosen(units: str, way: str) -> float:
    """-> the rate with the fewest errors in the table of rates; the first of equals"""
    rows = [r for r in results.read("speech_transcripts_rates") if (r["units"], r["method"]) == (units, way)]
    if not rows:
        raise ValueError(f"got no rate of {way!r} in {units}; expected it first: run.py speech_transcripts_rates")
    return float(min(rows, key=lambda row: float(row["error_rate"]))["rate"])


# ------------------------------------------------------------------------------------------------------------ the data


@lru_cache(maxsize=1)
def parts(units: str, seed: int) -> Parts:
    """-> train, test, and of letters unheard"""
    made = words(seed) if units == "words" else commands(seed)
    front = load_backbone("voice_lstm", pretrained=False).preprocess
    return {name: NestSplit(front(sounds), y) for name, (sounds, y) in made.items()}


def words(seed: int) -> dict:
    """Strings of digits: -> name -> sounds, y (N, 4)"""
    how = spoken_words.Synthesis(counts={"train": 400, "val": 0, "test": 240})
    said = spoken_words.load(val_speakers=[], seed=seed, synthesis=how)
    some = {"train": (said.train, TASKS["words"].n), "test": (said.test, TESTED)}
    return {name: spoken_words.strung(split, n, seed=seed) for name, (split, n) in some.items()}


def commands(seed: int) -> dict:
    """Commands in their letters: -> name -> sounds, y (N, U)"""
    known, new = ([slot[some] for slot in spoken_words.COMMANDS] for some in (slice(KNOWN), slice(KNOWN, None)))
    texts = spoken_words.phrases(300, seed=seed, slots=known)
    unheard = spoken_words.phrases(27, seed=seed, slots=new)
    return {
        "train": said(texts[:240], "train", TASKS["letters"].n, seed),
        "test": said(texts[240:], "test", TESTED, seed),
        "unheard": said(unheard, "test", TESTED, seed),
    }


def said(texts: list[str], part: str, n: int, seed: int) -> tuple:
    """texts, by the voices of a part -> n sounds of a text and a voice each; y (n, U)"""
    many = len(texts) * len(spoken_words.VOICES)
    how = spoken_words.Synthesis(counts={"train": many, "val": 0, "test": many})
    split = getattr(spoken_words.load(words=texts, val_speakers=[], seed=seed, synthesis=how), part)
    return spoken_words.spelled(split, n, seed=seed)


def transcripts(y: Tensor) -> list[list[int]]:
    """y (N, U) -> units of each"""
    return [[k for k in row if k > 0] for row in y.tolist()]


# ------------------------------------------------------------------------------------------------------------ the ways


def constant(units: str, data: Parts) -> dict:
    """Writes the one of 100 transcripts that is the fewest edits from all 100"""
    some = transcripts(data["train"].y[:100])
    always = min(some, key=lambda text: sum(metrics.edit_distance(text, other) for other in some))

    def rate(name):
        y = transcripts(data[name].y)
        return round(sum(metrics.edit_distance(always, text) for text in y) / sum(map(len, y)), 4)

    found = row(0.0, {name: rate(name) for name in data}, rate("train"), 0, 0.0)
    return found | examples(units, data, dict.fromkeys(data, always))


def learned(units: str, way: str, lr: float, seed: int) -> tuple[dict, Model]:
    """Learn in this way, at this rate of f (of g where it learns alone) -> one row without examples, g ∘ f"""
    task, data = TASKS[units], states(units, way, seed)
    start = time.process_time()
    seed_everything(seed)
    f = load_backbone("voice_lstm", pretrained=way == "fine-tuned")
    layers = {"fine-tuned": [f.lstm2], "scratch": [f.lstm1, f.lstm2]}.get(way, [])
    every = Subsample(task.every)
    g = FrameHead(data["train"].x[0].shape[2] if way in ALONE else 256, task.classes)
    model = Model(nn.Sequential(*layers, every), g)
    if way in ALONE:
        took = learn(model, param_groups(g=(g, lr)), data["train"], task.warm + task.steps, seed)
    else:
        if way == "fine-tuned":
            learn(Model(every, g), param_groups(g=(g, LR_G)), passed(layers, data["train"]), task.warm, seed)
        steps = LONGER * task.steps if way == "scratch" else task.steps
        took = learn(model, param_groups(f=(model.backbone, lr), g=(g, LR_G)), data["train"], steps, seed)
    spent = time.process_time() - start
    return row(lr, {name: errors(model, data[name]) for name in data if name != "train"}, *took, spent), model


@lru_cache(maxsize=1)
def states(units: str, way: str, seed: int) -> Parts:
    """-> what the layers that learn get: the layers below, which stay as they are, are passed once"""
    data = parts(units, seed)
    seed_everything(seed)
    f = load_backbone("voice_lstm", pretrained=way in ("frozen", "fine-tuned"))
    if way not in ("frozen", "fine-tuned"):
        change = scaled(data["train"].x)
        data = {name: NestSplit(change(split.x), split.y) for name, split in data.items()}
    below = {"frozen": [f.lstm1, f.lstm2], "frozen, random": [f.lstm1, f.lstm2], "fine-tuned": [f.lstm1]}
    return {name: passed(below.get(way, []), split) for name, split in data.items()}


@torch.no_grad()
def passed(layers: list[nn.Module], split: NestSplit) -> NestSplit:
    """Frames -> states of these layers"""
    return NestSplit(nn.Sequential(*layers)(split.x), split.y)


def learn(model: Model, groups: list[dict], split: NestSplit, steps: int, seed: int) -> tuple[float, int]:
    """Train in place -> error rate in the last pass, updates"""
    draw = torch.Generator().manual_seed(seed)
    batches = nest_loader(split, trimmed, batch_size=BATCH, shuffle=True, lengths=split.x[1], drop_last=True,
                          generator=draw)  # fmt: skip
    epochs = -(-steps // len(batches))
    done = epochs * len(batches)
    how = {"epochs": epochs, "schedule": warmup_cosine(done, warmup=WARMUP), "clip": CLIP, "precision": TRAINING}
    run = fit(model, batches, torch.optim.Adam(groups), task_loss=losses.ctc, metric=metrics.ErrorRate, **how)
    *_, last = (record for record in run if isinstance(record, Epoch))
    return last.train["error_rate"], done


def errors(model: Model, split: NestSplit) -> float:
    """-> error rate, greedy"""
    found = metrics.ErrorRate()
    for output, y in predict(model, nest_loader(split, trimmed, batch_size=60, lengths=split.x[1]), precision=TRAINING):
        found.add(output, y)
    return round(found.values()["error_rate"], 4)


def row(lr: float, rates: dict[str, float], fitted: float, steps: int, spent: float) -> dict:
    """What a row holds"""
    found = {"rate": lr, "error_rate": rates["test"], "unheard": rates.get("unheard", "")}
    return found | {"fitted": round(fitted, 4), "steps": steps, "cpu_s": round(spent, 2)}


def writes(model: Model, split: NestSplit) -> list[int]:
    """-> the units that are written for the first string, greedy"""
    ((output, _),) = predict(model, nest_loader(split.subset([0]), trimmed), precision=TRAINING)
    return metrics.greedy_decode(*output)[0]


def examples(units: str, data: Parts, written: dict[str, list[int]]) -> dict[str, str]:
    """The first string of the test part and of unheard: as it is, and as it was written"""
    found = {}
    for name in ("test", "unheard"):
        said = transcripts(data[name].y[:1])[0] if name in data else []
        found |= {f"{name}_said": text(units, said), f"{name}_written": text(units, written.get(name, []))}
    return found


def text(units: str, some: list[int]) -> str:
    """units, from 1 -> text"""
    names, between = (spoken_words.DIGITS, " ") if units == "words" else (spoken_words.LETTERS, "")
    return between.join(names[k - 1] for k in some)
