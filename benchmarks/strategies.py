"""Accuracy against seconds: nine ways to train, PyTorch's tutorial loop, fastai, a Hugging Face Trainer, Lightning.

    python benchmarks/strategies.py [--seeds 3] [--quick] [--only METHOD ...] [--csv FILE] [--tune]

SqueezeNet 1.1 with its ImageNet weights tells defective from functional solar cells at 96 pixels. Everybody gets, for a
seed, the same 400 labelled pictures in memory, the same first weights of g, the same kind of flips, 5 passes over the
pictures (some rows of ours more) and one process. Ours are `extract`, `linear_probe` and `fit`, the arithmetic
measured once (shown, not counted). The others (benchmarks/others.py) run as their authors show them, in float32,
pictures transformed one by one; first with their own batch size and rate, then with a batch of 32 and a rate chosen as
ours are: by accuracy on the 222 validation pictures with a seed that is not used again (--tune shows it; at METHODS
stands which rows have been through it). Nobody validates between epochs. Seconds count from pictures in memory and a
model with its weights to the trained model: wall, and of all cores together. Accuracy is on the 334 test pictures,
looked at once for a row.

Who is not installed is left out, and it says so; none of them is needed by the project. Prints the table with its
frontier (rows that no other beats in both), for each row of theirs the fastest of ours that is as accurate, and, last,
one ratio. Run it on a quiet machine.
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import others
import ours
import torch
from frontier import print_comparison, print_table

from sftlib.backbones import load_backbone
from sftlib.datasets import loader, solar_cells
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, seed_everything
from sftlib.training import evaluate, measure_precision

SIDE, TUNING_SEED = 96, 1001


# --- what is compared ------------------------------------------------------------------------------------------------


def theirs(train: Callable, batch: int) -> Callable[[ours.Job], Model]:
    def run(job: ours.Job) -> Model:
        pictures = others.Pictures(job.split, job.preprocess)
        train(job.model, pictures, epochs=job.epochs, rate=job.rate, batch=batch)
        return job.model.cpu()

    return run


@dataclass(frozen=True)
class Method:
    """A row of the table: how it trains, at which rate, which rates --tune tries, and whose it is."""

    train: Callable[[ours.Job], Model]
    rate: float
    tried: tuple[float, ...] = ()  # empty: the authors' own rate
    longer: int = 1  # times the epochs
    package: str = ""  # "": ours


OURS, HIGH = (3e-4, 1e-3, 3e-3), (3e-3, 1e-2, 3e-2)
# Chosen by --tune: the probe's, the cached rows', "full", "LP-FT", the tutorial's, fastai's. "Twice as long" takes over
# its shorter row's; gradual, discriminative, biases, LoRA, scratch, Trainer and Lightning stand at a first guess.
METHODS = {
    "linear probe": Method(ours.linear, 1.0, (0.1, 1.0, 10.0)),  # its weight decay
    "above stage3, cached": Method(partial(ours.cached, stage="stage3"), 1e-3, OURS),
    "above stage2, cached": Method(partial(ours.cached, stage="stage2"), 1e-3, OURS),
    "... LP-FT, flips": Method(partial(ours.cached_flips, stage="stage2"), 3e-3, OURS),
    "... four times as long": Method(partial(ours.cached_flips, stage="stage2"), 1e-3, OURS, longer=4),
    "full": Method(ours.full, 1e-3, OURS),
    "full, twice as long": Method(ours.full, 1e-3, OURS, longer=2),
    "LP-FT": Method(ours.lp_ft, 3e-3, OURS),
    "LP-FT, twice as long": Method(ours.lp_ft, 3e-3, OURS, longer=2),
    "gradual": Method(ours.top_down, 3e-3, OURS),
    "discriminative": Method(ours.discriminative, 3e-3, OURS),
    "biases": Method(ours.biases, 1e-2, HIGH),
    "LoRA, rank 4": Method(ours.lora, 1e-2, HIGH),
    "scratch": Method(ours.scratch, 1e-2, HIGH),
    "tutorial": Method(theirs(others.tutorial, 4), 1e-3, package="torch"),
    "tutorial, tuned": Method(theirs(others.tutorial, ours.BATCH), 1e-3, (3e-4, 1e-3, 3e-3), package="torch"),
    "fastai": Method(theirs(others.fastai, 64), 2e-3, package="fastai"),
    "fastai, tuned": Method(theirs(others.fastai, ours.BATCH), 2e-3, (5e-4, 2e-3, 8e-3), package="fastai"),
    "Trainer": Method(theirs(others.hugging_face, 8), 5e-5, package="accelerate"),
    "Trainer, tuned": Method(theirs(others.hugging_face, ours.BATCH), 5e-5, (2e-5, 5e-5, 2e-4), package="accelerate"),
    "Lightning": Method(theirs(others.lightning, ours.BATCH), 1e-3, package="lightning"),
    "Lightning, tuned": Method(theirs(others.lightning, ours.BATCH), 5e-5, (2e-5, 5e-5, 2e-4), package="lightning"),
}


def installed(package: str) -> str | None:
    """name of a package -> its version, or None"""
    try:
        return version(package) if package else "ours"
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Bench:
    """The pictures, the arithmetic and the epochs that all share."""

    cells: object
    pictures: int
    epochs: int
    precision: Precision

    def once(self, name: str, seed: int, part: str, rate: float | None = None) -> dict:
        """Train one method with one seed -> accuracy on a part, seconds"""
        method = METHODS[name]
        seed_everything(seed)
        rows = torch.randperm(len(self.cells.train), generator=torch.Generator().manual_seed(seed))[: self.pictures]
        f = load_backbone("squeezenet1_1", size=SIDE)
        model = Model(f, LinearHead(f.feature_dim, len(self.cells.classes)))
        rate, epochs = rate or method.rate, self.epochs * method.longer
        job = ours.Job(self.cells.train.subset(rows), model, epochs, rate, seed, self.precision)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            trained = method.train(job)
        except FloatingPointError:  # the rate is too high
            trained = model
        spent = {"wall_s": time.perf_counter() - wall, "process_s": time.process_time() - cpu}
        test = loader(getattr(self.cells, part), f.preprocess, batch_size=128)
        return {"method": name, "seed": seed, "rate": rate, "epochs": epochs, "pictures": self.pictures,
                "accuracy": evaluate(trained, test)["accuracy"], **spent}  # fmt: skip


def prepare(pictures: int, epochs: int) -> Bench:
    """Load the cells, measure the arithmetic."""
    cells = solar_cells.load(size=SIDE, seed=0)
    f = load_backbone("squeezenet1_1", size=SIDE)
    x, y = next(iter(loader(cells.train, f.preprocess, batch_size=ours.BATCH)))
    start = time.perf_counter()
    choice = measure_precision(Model(f, LinearHead(f.feature_dim, 2)), x, y)
    print(f"{choice}\n({time.perf_counter() - start:.1f} s of measuring, once for a machine)", flush=True)
    return Bench(cells, pictures, epochs, choice.precision)


# --- tables ----------------------------------------------------------------------------------------------------------


def tune(bench: Bench, names: list[str]) -> None:
    """Print each method's accuracy on the validation part at the rates that may be chosen"""
    for name in names:
        found = {rate: bench.once(name, TUNING_SEED, "val", rate)["accuracy"] for rate in METHODS[name].tried}
        if found:
            print(f"{name:<24}", "  ".join(f"{rate:g}: {a:.3f}" for rate, a in found.items()), flush=True)


def write(rows: list[dict], path: Path) -> None:
    """Keep the rows, one a method and seed, with the version of whose code it was."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*rows[0], "version", "torch", "threads"], lineterminator="\n")
        table.writeheader()
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        for row in rows:
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            table.writerow({**rounded, "version": installed(METHODS[row["method"]].package), **about})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="64 pictures, 2 epochs, 2 seeds: does it run?")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--tune", action="store_true", help="show the accuracies by which the rates were chosen")
    parser.add_argument("--csv", type=Path, help="keep the rows in this file")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.pictures, options.epochs = 2, 64, 2
    names = [name for name in options.only if installed(METHODS[name].package)]
    for package in sorted({METHODS[name].package for name in options.only if name not in names}):
        extra = "transformers accelerate" if package == "accelerate" else package
        print(f"{package} is not installed, its rows are left out: pip install {extra}")
    bench = prepare(options.pictures, options.epochs)
    if options.tune:
        return tune(bench, names)
    for name in names:  # imports and first allocations are nobody's seconds
        replace(bench, pictures=ours.BATCH, epochs=2).once(name, TUNING_SEED, "val")
    rows = []
    for seed in range(options.seeds):
        for name in names:
            rows.append(bench.once(name, seed, "test"))
            print(f"seed {seed} {name:<24}{rows[-1]['accuracy']:.3f} {rows[-1]['wall_s']:6.2f} s", flush=True)
    print_table(rows)
    competitors = [name for name in names if METHODS[name].package]
    if competitors and len(competitors) < len(names):
        print_comparison(rows, competitors)
    if options.csv:
        write(rows, options.csv)


if __name__ == "__main__":
    main()
