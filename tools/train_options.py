"""The options of tools/train.py: how they are read, what of them a run keeps, and what of them cannot be."""

import argparse
from collections.abc import Callable
from pathlib import Path

from sftlib.strategies import STRATEGIES
from tools import run_options
from tools.run_options import number

RATES = ("rate_f", "rate_g")  # may be changed at --resume
PATHS = ("pictures", "labels")  # the pictures and labels themselves are compared by the loader
KEPT = (
    *PATHS, "skip_broken", "keep_folders", "backbone", "random", "strategy", "size", "epochs", "time_budget", "batch",
    "drop_last", "class_weights", "class_sampling", "label_smoothing", "best_by", "patience", "flips", "temperature",
    "warmup", "bf16", "seed", *RATES,
)  # fmt: skip
BEST_BY = ("accuracy", "loss")
EPOCHS, MOST_EPOCHS = 5, 50  # without and with --time-budget


def arguments(words: list[str] | None, description: str) -> argparse.Namespace:
    """The command line's words -> options; at --resume those that are left out are the run's"""
    parser = _parser(description)
    options, _ = run_options.parsed(parser, words, KEPT)
    if options.class_weights and options.class_sampling:
        parser.error("got --class-weights and --class-sampling; expected one: both would count rare classes twice")
    if options.labels and not options.pictures:
        parser.error("got --labels without PICTURES; expected the folder that its files lie in")
    for name in PATHS:
        value = getattr(options, name)
        setattr(options, name, value and Path(value))
    options.epochs = options.epochs or (MOST_EPOCHS if options.time_budget else EPOCHS)
    return options


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    count, above_0 = number(int, 1), number(float, 0, above=True)  # a rate, or seconds
    parser.add_argument("pictures", nargs="?", type=Path, help="folder with one folder a class; default: solar cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints, log.csv, test.csv")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt where there is one")
    parser.add_argument("--check", action="store_true", help="look at the pictures and the set-up, train nothing")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="a table file,label in place of a folder a class")
    parser.add_argument("--skip-broken", action="store_true", help="leave out files that cannot be read")
    parser.add_argument("--keep-folders", action="store_true", help="folders within classes stay whole, by their name")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--random", action="store_true", help="random weights in place of pretrained ones")
    parser.add_argument("--strategy", choices=STRATEGIES, default="full", help="what learns; default: full")
    parser.add_argument("--freeze", dest="strategy", action="store_const", const="probe", help="--strategy probe")
    parser.add_argument("--size", type=count, default=224, help="picture side in pixels")
    parser.add_argument("--epochs", type=count, help=f"default: {EPOCHS}, or what --time-budget allows")
    parser.add_argument("--time-budget", type=above_0, metavar="SECONDS", help="as many epochs as fit in, at least one")
    parser.add_argument("--batch", type=count, default=32, help="pictures in a batch, all workers together")
    parser.add_argument("--drop-last", action="store_true", help="leave out a smaller last batch of training pictures")
    _add_loss_and_choice(parser, count)
    parser.add_argument("--micro-batch", type=count, metavar="N", help="pictures at once in a worker; default: all")
    parser.add_argument("--checkpoint-every", type=count, metavar="STEPS", help="steps; default: after epochs only")
    parser.add_argument("--rate-f", type=above_0, default=1e-3)
    parser.add_argument("--rate-g", type=above_0, default=1e-2)
    parser.add_argument("--warmup", type=number(int, 0), default=10, help="steps over which the rates rise")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 and channels-last: for GPUs, AMX, AVX512-bf16")
    parser.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0)
    parser.add_argument("--timeout", type=above_0, default=300.0, help="seconds to wait for a worker that hangs")
    return parser


def _add_loss_and_choice(parser: argparse.ArgumentParser, count: Callable) -> None:
    """What the loss counts, which epoch is kept, and how it is looked at in the end"""
    flag = {"action": "store_true"}
    parser.add_argument("--class-weights", **flag, help="weigh the loss, so that each class counts alike")
    parser.add_argument("--class-sampling", **flag, help="draw pictures with repetition, each class as often")
    parser.add_argument("--label-smoothing", type=number(float, 0, 0.99), default=0.0, metavar="S", help="0 … 0.99")
    parser.add_argument("--best-by", choices=BEST_BY, default="accuracy", help="what of validation keeps an epoch")
    parser.add_argument("--patience", type=count, metavar="EPOCHS", help="end after so many without a better one")
    parser.add_argument("--flips", **flag, help="in the end look at each picture and at its mirror image")
    parser.add_argument("--temperature", **flag, help="in the end scale the logits by what validation says")


def kept(options: argparse.Namespace) -> dict:
    """What a run keeps of its options, as plain values"""
    values = {name: getattr(options, name) for name in KEPT}
    return values | {name: values[name] and str(values[name]) for name in PATHS}


def require_same_run(path: Path, saved: dict, here: dict) -> None:
    """ValueError, naming the first difference, unless the run at ``path`` can go on with these settings"""
    run_options.require_same_run(path, saved, here, free=PATHS, changing=RATES, also=("classes", "preprocess"))


def require_out_apart(options: argparse.Namespace) -> None:
    """ValueError where the run would lie among the pictures and be taken for a class of them"""
    if options.pictures and options.out.resolve().is_relative_to(options.pictures.resolve()):
        raise ValueError(
            f"got --out {options.out} within {options.pictures}; expected a folder outside of the pictures"
        )
