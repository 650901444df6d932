"""The options of tools/sft.py: how they are read, what of them a run keeps, and what of them cannot be."""

import argparse
import math
import time
from pathlib import Path

import torch

from tools import run_options
from tools.run_options import number

STRATEGIES = {"top-k": 3e-4, "lora": 1e-3, "full": 1e-4}  # with their rates, those of notebook 11
ARITHMETICS = ("float32", "bfloat16")
CHANGING = ("lr",)
KEPT = (
    "data", "validation", "skip_broken", "model", "strategy", "layers", "rank", "epochs", "batch_size", "drop_last",
    "max_tokens", "train_prompt", "precision", "seed", *CHANGING,
)  # fmt: skip
SIDE, GAIN = 768, 0.8  # of the product that is timed; the part of float32's time below which bfloat16 is taken


def arguments(words: list[str] | None, description: str) -> argparse.Namespace:
    """The command line's words -> options; at --resume those that are left out are the run's"""
    parser = _parser(description)
    options, resumed = run_options.parsed(parser, words, KEPT)
    if not resumed:
        _require_of_strategy(parser, options)
    if options.data is None:
        parser.error(f"expected a file of JSON lines, or --resume with a run that is there: {options.out / 'last.pt'}")
    options.data, options.validation = Path(options.data), held_back(str(options.validation))
    if options.strategy == "lora":
        options.rank = options.rank or 16
    options.lr = options.lr or STRATEGIES[options.strategy]
    if Path(options.model).is_dir():
        options.model = str(Path(options.model).resolve())
    return options


def _require_of_strategy(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Leave with a word where an option belongs to another strategy"""
    for name, strategy in (("layers", "top-k"), ("rank", "lora")):
        if getattr(options, name) is not None and options.strategy != strategy:
            parser.error(f"got --{name} with --strategy {options.strategy}; expected it with {strategy} alone")


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    count, above_0 = number(int, 1), number(float, 0, above=True)
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in STRATEGIES.items())
    add = parser.add_argument
    add("data", nargs="?", type=Path, help="a file of JSON lines, one conversation a line")
    add("--out", type=Path, required=True, help="folder of the run: checkpoints, log.csv, metrics.json, model/")
    add("--resume", action="store_true", help="go on from OUT/last.pt where there is one")
    add("--check", action="store_true", help="look at the rows and the set-up, train nothing")
    add("--skip-broken", action="store_true", help="leave out rows that cannot be used")
    add("--validation", type=held_back, default=0.1, help="a share above 0 and below 1, or a file; default: 0.1")
    add("--model", default="smollm2_135m", help="smollm2_135m (default), a name of Hugging Face's, or a folder")
    add("--strategy", choices=STRATEGIES, default="top-k", help="what learns; default: top-k")
    add("--layers", type=count, metavar="K", help="the last K layers learn (top-k); default: a fifth of them")
    add("--rank", type=count, help="of LoRA's matrices (lora); default: 16")
    add("--lr", type=above_0, help=f"the highest rate; default: {rates}")
    add("--epochs", type=count, default=2, help="default: 2")
    add("--batch-size", type=count, default=8, help="rows in a batch, all workers together; default: 8")
    add("--micro-batch", type=count, metavar="N", help="rows at once in a worker; default: all")
    add("--drop-last", action="store_true", help="leave out a smaller last batch of training rows")
    add("--max-tokens", type=number(int, 8), default=1024, help="of a conversation; default: 1024")
    add("--train-prompt", action="store_true", help="learn every token, the questions too")
    add("--cache-gb", type=number(float, 0), metavar="GB", help="memory for the output of frozen layers; 0: none kept")
    add("--checkpoint-every", type=count, metavar="STEPS", help="steps; default: after epochs only")
    add("--precision", choices=("auto", *ARITHMETICS), default="auto", help="of products; default: the faster here")
    add("--shard", action="store_true", help="each worker holds a part of every tensor, for a model too big for one")
    add("--seed", type=number(int, 0, 2**32 - 1), default=0)
    add("--timeout", type=above_0, default=300.0, help="seconds to wait for a worker that hangs")
    return parser


def held_back(word: str) -> float | Path:
    """A share, or a file"""
    try:
        share = float(word)
    except ValueError:
        return Path(word)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"got {word}; expected a share above 0 and below 1, or a file of rows")
    return share


def kept(options: argparse.Namespace) -> dict:
    """What a run keeps of its options, as plain values"""
    values = {name: getattr(options, name) for name in KEPT}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def require_same_run(path: Path, saved: dict, here: dict) -> None:
    """ValueError, naming the first difference, unless the run at ``path`` can go on with these settings"""
    free = ("data", "validation")  # the rows themselves are compared
    run_options.require_same_run(path, saved, here, free=free, changing=CHANGING, also=("rows",))


def arithmetic(wanted: str, device: torch.device) -> str:
    """auto -> the faster of `ARITHMETICS` on the device, by a product that is timed; other words as they are"""
    if wanted != "auto":
        return wanted
    seconds = {name: _product_s(getattr(torch, name), device) for name in ARITHMETICS}
    return "bfloat16" if seconds["bfloat16"] < GAIN * seconds["float32"] else "float32"


def _product_s(dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of a product of two matrices, the best of some; infinite where the device has none of that type"""
    try:
        a = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
        return min(_timed(a) for _ in range(5))
    except RuntimeError:
        return math.inf


def _timed(a: torch.Tensor) -> float:
    start = time.perf_counter()
    (a @ a)[0, 0].item()  # waits for the device
    return time.perf_counter() - start
