"""Notebook 12: who speaks and which word, read off the layers of one network that was trained on voices.

    python tools/experiments/speech.py FOLDER [--limit N]

FOLDER holds the recordings, {digit}_{speaker}_{index}.wav, or a folder "recordings" that does. The stored table was
made from 2,000 recordings of four men (50 of each digit and man, 8 kHz) of the Free Spoken Digit Dataset, Jakobovski
and contributors, CC BY-SA 4.0. The rows of made words need no folder.

The task is which of ten digits, by a voice that was not heard. Of the recordings each man is left out in turn, and the
other three are learned from; made words have other voices in the test part, 12 of 48. n recordings of each word are
drawn by the seed; the 5 are among the 10, and so on.

A probe (l2 0.1, not tuned: factors of 10 change little) reads h1, h2, h3, the states of the three layers at the last
frame or their mean over the frames, or z. Controls: mean and deviation over the frames of the logarithm of the mels,
without a network; z and the mean of h2 of random weights, whose frames are logarithms, centred and scaled by those that
are learned from, since no front end belongs to random weights.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sftlib import results
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, spoken_words, trimmed
from sftlib.features import linear_probe
from sftlib.runtime import seed_everything

SEEDS = range(5)
FOLDER = "SPEECH_RECORDINGS"  # environment variable by which `main` names the folder
SPEAKERS = ("george", "jackson", "lucas", "theo")
FROZEN = ("mels", "h1", "h2", "h3", "h1, mean", "h2, mean", "h3, mean", "z", "random z", "random h2, mean")
L2 = 0.1
MADE = spoken_words.Synthesis(counts={"train": 500, "val": 0, "test": 240})
Frames = tuple[Tensor, Tensor]  # (N, T, 40), (N,)


def settings() -> list[dict]:
    """Data x task x the voice left out x way x recordings of a class"""
    rows = [("recordings", "word", speaker, way, 10) for speaker in SPEAKERS for way in FROZEN]
    rows += [("made", "word", "", way, 10) for way in FROZEN]
    return [dict(zip(("data", "task", "left_out", "method", "n"), row, strict=True)) for row in rows]


def run(setting: dict, seed: int) -> dict:
    """One row: accuracy in [0, 1] on the test part, and how many sounds that is of"""
    way, n = setting["method"], setting["n"]
    which = setting["data"], setting["task"], setting["left_out"], seed if setting["data"] == "made" else 0
    train, test = parts(*which)
    rows = labelled(train.y, n, seed)
    if way.startswith("random "):
        z, z_test = random_features(*which, n, seed)
        hits = probe(train.y[rows], test.y, z[way], z_test[way])
    else:
        z, z_test = features(*which)
        hits = probe(train.y[rows], test.y, z[way][rows], z_test[way])
    return {"accuracy": mean(hits), "tested": len(hits)}


@cache
def chosen(table: str, way: str, measure: str) -> float:
    """-> the rate at which a way does best, on the mean over the seeds, in a stored table; the first of equals"""
    found = {}
    for row in results.read(table):
        if row["method"] == way:
            found.setdefault(float(row["rate"]), []).append(float(row[measure]))
    if not found:
        raise ValueError(f"got no row of {way!r} in {table}; expected it there first: tools/experiments/run.py {table}")
    return max(found, key=lambda lr: sum(found[lr]) / len(found[lr]))


def mean(hits: Tensor) -> float:
    """hits (N,) bool -> their share, four digits"""
    return round(hits.double().mean().item(), 4)


# ------------------------------------------------------------------------------------------------------------ the data


@cache
def parts(data: str, task: str, left_out: str, seed: int) -> tuple[NestSplit, NestSplit]:
    """-> train and test, ((frames (N, T, 40), lengths (N,)), labels (N,))"""
    if data == "made":
        words = spoken_words.load(seed=seed, synthesis=MADE)
        return framed(words.train), framed(words.test)
    every, speakers = recorded()
    his = torch.tensor([speaker == left_out for speaker in speakers])
    return every.subset((~his).nonzero().flatten()), every.subset(his.nonzero().flatten())


@cache
def recorded() -> tuple[NestSplit, tuple[str, ...]]:
    """-> all recordings with their words, and who speaks (N): the front end is passed once, not once a man"""
    every = spoken_words.load(folder(), val_speakers=[], test_speakers=[]).train
    return framed(every), every.speakers


def folder() -> Path:
    """Where the recordings are, as `main` was told; ValueError that says how to tell it"""
    if FOLDER not in os.environ:
        raise ValueError("the rows of recordings need a folder: python tools/experiments/speech.py FOLDER")
    return Path(os.environ[FOLDER])


def framed(split: spoken_words.SoundSplit) -> NestSplit:
    """Sounds -> frames, made once"""
    sounds, y = split.batch(torch.arange(len(split)))
    return NestSplit(load_backbone("voice_lstm", pretrained=False).preprocess(sounds), y)


def labelled(y: Tensor, n: int, seed: int) -> Tensor:
    """labels y (N,) -> rows, n of each class; those of a smaller n are among those of a larger"""
    draw = torch.Generator().manual_seed(seed)
    members = ((y == k).nonzero().flatten() for k in y.unique().tolist())
    return torch.cat([some[torch.randperm(len(some), generator=draw)][:n] for some in members])


def scaled(train: NestSplit, rows: Tensor) -> Callable[[Frames], Frames]:
    """What makes logarithms of frames, centred and scaled by band over the rows that are learned from"""
    frames, lengths = train.x[0][rows], train.x[1][rows]
    heard = logarithm(frames)[inside(frames, lengths)]  # (all their frames, 40)
    centre, spread = heard.mean(0), heard.std(0)

    def change(x: Frames) -> Frames:
        return (logarithm(x[0]) - centre) / spread * inside(*x)[..., None], x[1]

    return change


def logarithm(frames: Tensor) -> Tensor:
    """power (…, 40) -> its logarithm; 1e-6 is 60 dB below what is loud here, and bounds silence"""
    return (frames + 1e-6).log()


def inside(frames: Tensor, lengths: Tensor) -> Tensor:
    """frames (N, T, 40), lengths (N,) -> (N, T) bool: no padding"""
    return torch.arange(frames.shape[1]) < lengths[:, None]


# ------------------------------------------------------------------------------------------------------- what is frozen


def probe(y: Tensor, y_test: Tensor, z: Tensor, z_test: Tensor) -> Tensor:
    """labels and features of what is learned from and of the test part -> hits (N,) on the test part"""
    return linear_probe(z, y, l2=L2)(z_test).argmax(1) == y_test


@cache
def features(data: str, task: str, left_out: str, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """-> what of the pretrained f, or of the mels, -> (N, D), of the train and of the test part"""
    f, what = load_backbone("voice_lstm"), [way for way in FROZEN if not way.startswith("random ")]
    train, test = parts(data, task, left_out, seed)
    return values(f, train, what), values(f, test, what)


@lru_cache(maxsize=1)
def random_features(data: str, task: str, left_out: str, made: int, n: int, seed: int) -> tuple[dict, dict]:
    """-> way -> (N, D) of random weights, of the rows that are learned from and of the test part"""
    train, test = parts(data, task, left_out, made)
    rows = labelled(train.y, n, seed)
    seed_everything(seed)
    f, change = load_backbone("voice_lstm", pretrained=False), scaled(train, rows)
    what = [way.removeprefix("random ") for way in FROZEN if way.startswith("random ")]
    found = (values(f, split, what, change) for split in (train.subset(rows), test))
    return tuple({f"random {name}": z for name, z in held.items()} for held in found)


def values(f: nn.Module, split: NestSplit, what: list[str], change: Callable = lambda x: x) -> dict[str, Tensor]:
    """-> what -> (N, D), by batches of like length"""
    order = split.x[1].argsort()
    found = {name: [] for name in what}
    for some in order.split(128):
        x = change(trimmed(split.batch(some), None)[0])
        with torch.no_grad():
            every = {"mels": statistics(x)} | read(f, x)
        for name in what:
            found[name].append(every[name])
    return {name: torch.cat(parts)[order.argsort()] for name, parts in found.items()}


def statistics(x: Frames) -> Tensor:
    """(frames (N, T, 40), lengths (N,)) -> (N, 80): mean and deviation over the frames of the logarithm"""
    log = logarithm(x[0])
    mean = averaged(log, x[1])
    return torch.cat([mean, averaged((log - mean[:, None]).square(), x[1]).sqrt()], dim=1)


def averaged(h: Tensor, lengths: Tensor) -> Tensor:
    """h (N, T, D), lengths (N,) -> (N, D): the mean over the frames that are no padding"""
    return (h * inside(h, lengths)[..., None]).sum(1) / lengths[:, None]


def read(f: nn.Module, x: Frames) -> dict[str, Tensor]:
    """frames -> what -> (N, 256): z, and of each layer the state at the last frame and the mean over the frames"""
    found, (h, lengths) = {}, x
    for layer in ("h1", "h2", "h3"):
        h, _ = getattr(f, f"lstm{layer[1]}")((h, lengths))
        found |= {layer: h[torch.arange(len(h)), lengths - 1], f"{layer}, mean": averaged(h, lengths)}
    return found | {"z": f.embedding((h, lengths))}


def main(name: str = "speech") -> int:
    """Name the folder for the process, and run what is missing of an experiment"""
    from tools.experiments import run as experiments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, metavar="N", help="run at most N rows now")
    args = parser.parse_args()
    os.environ[FOLDER] = str(args.folder.resolve())
    return experiments.main([name, *(["--limit", str(args.limit)] if args.limit else [])])


if __name__ == "__main__":
    raise SystemExit(main())
