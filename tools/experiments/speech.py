"""Notebook 12: who speaks and which word, read off the layers of one network that was trained on voices.

    python tools/experiments/speech.py FOLDER [--limit N]

FOLDER holds the recordings, {digit}_{speaker}_{index}.wav, or a folder "recordings" that does. The stored table was
made from 2,000 recordings of four men (50 of each digit and man, 8 kHz) of the Free Spoken Digit Dataset, Jakobovski
and contributors, CC BY-SA 4.0. The rows of made words need no folder.

The first task is which of ten digits, by a voice that was not heard. Of the recordings each man is left out in turn,
and the other three are learned from; made words have other voices in the test part, 12 of 48. The second is which of
the four men speaks; there the recordings with an index of 0 to 4 are the test, the dataset's official part, and all
others are learned from. n sounds of each class are drawn by the seed; the 5 are among the 10, and so on.

A probe (l2 0.1, not tuned: of one draw of made words, 0.01 changes a point or less, 1 costs the mels up to 8) reads h1,
h2, h3, the states of the three layers: at the last frame, their mean over the frames, or "parts", the means of six
parts of the sound in their order; or it reads z.
Two controls have as many numbers as six parts, without their order: "shuffled", the parts of each sound in an order of
its own, drawn at random; and "sorted", each feature's six values by size.
Controls without this network: mean and deviation over the frames of the logarithm of the mels, or its six parts; and
z, the mean and the parts of h2 of random weights, whose frames are logarithms, centred and scaled by those that are
learned from, since no front end belongs to random weights.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

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
OFFICIAL = 5  # of the recordings of one word by one man, those that are the dataset's own test part
READ = ("mels", "mels, parts", "h1", "h2", "h3", "h1, mean", "h2, mean", "h3, mean", "h2, parts", "z")
RANDOM = ("random z", "random h2, mean", "random h2, parts")
UNORDERED = tuple(f"{what}, parts {change}" for what in ("mels", "h2") for change in ("shuffled", "sorted"))
OF_WORDS = (*READ, *UNORDERED, *RANDOM)
SOME = ("mels", "mels, parts", "h2, mean", "h2, parts", "z")
BUDGETS = {5: SOME, 10: OF_WORDS, 50: SOME}  # sounds of each word, and what is read with so many
OF_SPEAKERS = ("mels", "h1, mean", "h2, mean", "h3, mean", "z", "random z", "random h2, mean")
PARTS, L2 = 6, 0.1
MADE = spoken_words.Synthesis(counts={"train": 500, "val": 0, "test": 240})
Frames = tuple[Tensor, Tensor]  # (N, T, 40), (N,)


class Sounds(NamedTuple):
    """N sounds: frames and words, who speaks (N), and which are the test where no man is left out (N,)"""

    split: NestSplit
    speakers: tuple[str, ...]
    kept: Tensor


def settings() -> list[dict]:
    """Data x task x the voice left out x way x sounds of a class"""
    rows = [("recordings", "word", man, way, n) for man in SPEAKERS for n, ways in BUDGETS.items() for way in ways]
    rows += [("recordings", "speaker", "", way, 10) for way in OF_SPEAKERS]
    rows += [("made", "word", "", way, 10) for way in OF_WORDS]
    return [dict(zip(("data", "task", "left_out", "method", "n"), row, strict=True)) for row in rows]


def run(setting: dict, seed: int) -> dict:
    """One row: accuracy in [0, 1] on the test part, and how many sounds that is of"""
    way, n = setting["method"], setting["n"]
    which = setting["data"], setting["task"], setting["left_out"], seed if setting["data"] == "made" else 0
    y, train, test = divided(*which)
    rows = train[labelled(y[train], n, seed)]
    if way in RANDOM:
        z, z_test = (found[way] for found in random_features(*which, n, seed))
    else:
        z = without_order(features(which[0], which[3]), way, seed)
        z, z_test = z[rows], z[test]
    hits = linear_probe(z, y[rows], l2=L2)(z_test).argmax(1) == y[test]
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
def sounds(data: str, made: int) -> Sounds:
    """Words that are made, by this seed, or all recordings: the front end is passed once, not once a man"""
    if data == "made":
        words = spoken_words.load(seed=made, synthesis=MADE)
        both = words.train, words.test
        return framed(*both, kept=torch.arange(sum(map(len, both))) >= len(words.train))
    every = spoken_words.load(folder(), val_speakers=[], test_speakers=[]).train
    indices = [int(Path(name).stem.rpartition("_")[2]) for name in every.names]
    return framed(every, kept=torch.tensor(indices) < OFFICIAL)


def folder() -> Path:
    """Where the recordings are, as `main` was told; ValueError that says how to tell it"""
    if FOLDER not in os.environ:
        raise ValueError("the rows of recordings need a folder: python tools/experiments/speech.py FOLDER")
    return Path(os.environ[FOLDER])


def framed(*splits: spoken_words.SoundSplit, kept: Tensor) -> Sounds:
    """Sounds of one split behind the other -> frames, made once"""
    heard = [split.batch(torch.arange(len(split))) for split in splits]
    x = load_backbone("voice_lstm", pretrained=False).preprocess([sound for some, _ in heard for sound in some])
    y = torch.cat([labels for _, labels in heard])
    return Sounds(NestSplit(x, y), sum((split.speakers for split in splits), ()), kept)


def divided(data: str, task: str, left_out: str, made: int) -> tuple[Tensor, Tensor, Tensor]:
    """-> labels (N,) of all sounds, rows that may be learned from, rows that test"""
    split, speakers, kept = sounds(data, made)
    names = sorted(set(speakers))
    y = torch.tensor([names.index(s) for s in speakers]) if task == "speaker" else split.y
    test = torch.tensor([s == left_out for s in speakers]) if left_out else kept
    return y, (~test).nonzero().flatten(), test.nonzero().flatten()


def parts(data: str, left_out: str, made: int) -> tuple[NestSplit, NestSplit]:
    """-> the words to learn from and to test, ((frames (N, T, 40), lengths (N,)), labels (N,))"""
    _, train, test = divided(data, "word", left_out, made)
    split = sounds(data, made).split
    return split.subset(train), split.subset(test)


def labelled(y: Tensor, n: int, seed: int) -> Tensor:
    """labels y (N,) -> rows, n of each class; those of a smaller n are among those of a larger"""
    draw = torch.Generator().manual_seed(seed)
    members = ((y == k).nonzero().flatten() for k in y.unique().tolist())
    return torch.cat([some[torch.randperm(len(some), generator=draw)][:n] for some in members])


def scaled(learned: Frames) -> Callable[[Frames], Frames]:
    """What makes logarithms of frames, centred and scaled by band over those that are learned from"""
    heard = logarithm(learned[0])[inside(*learned)]  # (all their frames, 40)
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


@lru_cache(maxsize=2)
def features(data: str, made: int) -> dict[str, Tensor]:
    """-> what of the pretrained f, or of the mels, -> (N, D), of all sounds"""
    return values(load_backbone("voice_lstm"), sounds(data, made).split, READ)


@lru_cache(maxsize=1)
def random_features(data: str, task: str, left_out: str, made: int, n: int, seed: int) -> tuple[dict, dict]:
    """-> way -> (N, D) of random weights, of the rows that are learned from and of the test part"""
    y, train, test = divided(data, task, left_out, made)
    rows, split = train[labelled(y[train], n, seed)], sounds(data, made).split
    seed_everything(seed)
    f, change = load_backbone("voice_lstm", pretrained=False), scaled(split.subset(rows).x)
    what = [way.removeprefix("random ") for way in RANDOM]
    found = (values(f, split.subset(some), what, change) for some in (rows, test))
    return tuple({f"random {name}": z for name, z in held.items()} for held in found)


def without_order(found: dict[str, Tensor], way: str, seed: int) -> Tensor:
    """what -> (N, D), a way -> (N, D): itself, or six parts whose order is lost, drawn by the seed or by size"""
    what, _, change = way.rpartition(" ")
    if change not in ("shuffled", "sorted"):
        return found[way]
    six = found[what].unflatten(1, (PARTS, -1))  # (N, 6, D / 6)
    if change == "sorted":
        return six.sort(dim=1).values.flatten(1)
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(len(six), PARTS, generator=draw).argsort(1)
    return six[torch.arange(len(six))[:, None], order].flatten(1)


def values(f: nn.Module, split: NestSplit, what: tuple | list, change: Callable = lambda x: x) -> dict[str, Tensor]:
    """-> what -> (N, D), by batches of like length"""
    order = split.x[1].argsort()
    found = {name: [] for name in what}
    for some in order.split(128):
        x = change(trimmed(split.batch(some), None)[0])
        with torch.no_grad():
            every = {"mels": statistics(x), "mels, parts": pooled(logarithm(x[0]), x[1])} | read(f, x)
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


def pooled(h: Tensor, lengths: Tensor) -> Tensor:
    """h (N, T, D), lengths (N,) of 6 or more -> (N, 6 · D): the means of six parts, in their order"""
    own = [h[i, :n].tensor_split(PARTS) for i, n in enumerate(lengths.tolist())]
    return torch.stack([torch.cat([part.mean(0) for part in some]) for some in own])


def read(f: nn.Module, x: Frames) -> dict[str, Tensor]:
    """frames -> what -> (N, D): z, and of each layer the last state, the mean and the parts of its states"""
    found, (h, lengths) = {}, x
    for layer in ("h1", "h2", "h3"):
        h, _ = getattr(f, f"lstm{layer[1]}")((h, lengths))
        found |= {layer: h[torch.arange(len(h)), lengths - 1], f"{layer}, mean": averaged(h, lengths)}
        found[f"{layer}, parts"] = pooled(h, lengths)
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
