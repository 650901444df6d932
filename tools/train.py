"""Fine-tune a classifier of pictures in one process or in many: the same script, the same parameters.

    python tools/train.py PICTURES --out RUN                     one process, on the CPU or one GPU
    torchrun --standalone --nproc-per-node=2 tools/train.py PICTURES --out RUN                   two workers on the CPU
    torchrun --standalone --nproc-per-node=8 tools/train.py PICTURES --out RUN                   eight GPUs, one each
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id=RUN --rdzv-endpoint=HOST:29500 \\
             tools/train.py PICTURES --out RUN                   two machines: this line on both; HOST is one of them

PICTURES is a folder with one folder a class (see sftlib.datasets.image_folder); without it the solar cells are used.
--batch counts the whole batch, not a worker's part, so nothing else changes with the number of workers. Worker 0
prints the log and writes it to RUN/log.csv, the run to RUN/last.pt after every epoch, and within it after every STEPS
steps of --checkpoint-every, and the epoch of the highest accuracy on the validation pictures to RUN/best.pt, with which
it looks at the test pictures once, at the end: RUN/test.csv. tools/predict.py RUN PICTURES uses it.
--resume goes on from last.pt: on CPUs bit for bit with as many workers on the same machine, up to rounding with any
other number (with several machines PICTURES and RUN must be folders that all of them see). Options that are left out
are then the run's; other classes, pictures or options are refused, but for --rate-f and --rate-g, which change from
there on (after a loss that was not finite: the run is as it was before, try a tenth).
When a worker dies, torchrun ends the others and names it; to have it start again by itself:
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --max-restarts=3 (the rest as above) --resume
Without that variable new workers may look for the dead ones at their old address (pytorch/pytorch issue 135712).
Out of memory: --micro-batch N computes at most N pictures at once in a worker, and the updates stay those of --batch.
One process finds N by itself; of several, one that runs out ends the run and says which N to try.

On the CPU set OMP_NUM_THREADS to cores / workers: two threads fighting for each core are many times slower. On Windows
and macOS the workers run on the CPU through Gloo (neither system was at hand to test this script on). PyTorch for
Windows is built without libuv, which --standalone asks for: give in its place --rdzv-backend=c10d
--rdzv-conf=store_type=file, and set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
"""

import argparse
import csv
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sftlib.adaptation import eval_stats_train_affine, freeze, param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import Splits, augment, image_folder, loader, solar_cells
from sftlib.datasets.loading import Loader
from sftlib.datasets.on_device import to_device
from sftlib.model import LinearHead, Model
from sftlib.model.files import load_safely
from sftlib.runtime import FLOAT32, Group, Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import (
    Checkpoint,
    Epoch,
    Parallel,
    Shards,
    evaluate,
    fit,
    load_checkpoint,
    save_checkpoint,
    workers,
)

COLUMNS = ("epoch", "train_loss", "train_accuracy", "train_n", "val_loss", "val_accuracy", "val_n")
RATES = ("rate_f", "rate_g")  # may be changed at --resume
KEPT = ("pictures", "backbone", "random", "freeze", "size", "epochs", "batch", "warmup", "bf16", "seed", *RATES)


def build(options: argparse.Namespace, classes: int) -> tuple[Model, torch.optim.Optimizer]:
    """The model f, g and the optimizer of what is not frozen; BatchNorm keeps its statistics"""
    f = load_backbone(options.backbone, pretrained=not options.random, size=options.size)
    if any(isinstance(m, _BatchNorm) for m in f.modules()):
        eval_stats_train_affine(f)  # each worker has a part of the batch only
    g = LinearHead(f.feature_dim, classes)
    if options.freeze:
        freeze(f)
        groups = param_groups(g=(g, options.rate_g))
    else:
        groups = param_groups(f=(f, options.rate_f), g=(g, options.rate_g))
    return Model(f, g), torch.optim.SGD(groups, momentum=0.9)


def loaders(options: argparse.Namespace, data: Splits, preprocess, group: Group) -> tuple[Loader, Loader]:
    """-> batches of the training and of the validation pictures, whole ones: `Shards` takes a worker's rows"""
    train_split, val_split = (to_device(split, group.device) for split in (data.train, data.val))
    crop_and_flip = augment.Chain((augment.Crop(options.size, scale=(0.5, 1)), augment.flip))
    batches = loader(train_split, preprocess, batch_size=options.batch, shuffle=True, augment=crop_and_flip)
    return batches, loader(val_split, preprocess, batch_size=options.batch)


def described(options: argparse.Namespace, data: Splits, preprocess) -> dict:
    """What RUN keeps beside the weights: the options, the classes in their order, how pictures are prepared"""
    kept = {name: getattr(options, name) for name in KEPT}
    kept["pictures"] = options.pictures and str(options.pictures)
    return {"options": kept, "classes": list(data.classes), "preprocess": str(preprocess), "log": []}


def resumed(options: argparse.Namespace, model: Model, optimizer, settings: dict) -> Checkpoint | None:
    """What OUT/last.pt holds, put into the objects given; None where there is none. ValueError for another run"""
    path = options.out / "last.pt"
    if not path.exists():
        return None
    if not options.resume:
        raise ValueError(f"{path} is there already: --resume goes on from it, another --out keeps it")
    require_same_run(path, load_safely(path)["settings"], settings)
    found = load_checkpoint(path, model, optimizer, exact=False)
    for group in optimizer.param_groups:  # the rates of this call, in place of those that the file holds
        group["initial_lr"] = options.rate_f if group["name"] == "f" else options.rate_g
    settings["log"] += found.settings["log"]
    return found


def require_same_run(path: Path, saved: dict, here: dict) -> None:
    """ValueError, naming the first difference, unless the run at ``path`` can go on with these settings"""
    free = ("pictures", *RATES)  # the pictures themselves are compared by the loader
    pairs = {f"--{n.replace('_', '-')}": (v, here["options"][n]) for n, v in saved["options"].items() if n not in free}
    pairs |= {name: (saved[name], here[name]) for name in ("classes", "preprocess")}
    for name, (there, now) in pairs.items():
        if there != now:
            raise ValueError(
                f"got {name} {now}, and {path} is of a run with {there}; expected the same: leave the option out, or "
                "start another run with another --out. Only --rate-f and --rate-g can change on the way"
            )


def train(options: argparse.Namespace, group: Group) -> None:
    """Train in this worker, from the start or from OUT/last.pt; at the end look once at the test pictures"""
    seed_everything(options.seed)  # the same order and augmentation in every worker
    data = image_folder.load(options.pictures, size=options.size) if options.pictures else solar_cells.load()
    precision = Precision(torch.bfloat16, channels_last=True) if options.bf16 else FLOAT32
    model, optimizer = build(options, len(data.classes))
    model.to(group.device)
    batches, val = loaders(options, data, model.backbone.preprocess, group)
    settings = described(options, data, model.backbone.preprocess)
    found = resumed(options, model, optimizer, settings)
    log, say = settings["log"], print if group.leads else (lambda *_, **__: None)
    if found is not None:
        say(f"goes on after epoch {found.epoch} and {found.progress['batch']} of {len(batches)} batches", flush=True)
        write(options.out / "log.csv", log, group)
    model = Parallel(model, group, precision=precision)
    if found is None or found.epoch < options.epochs:
        for record in epochs(options, group, model, optimizer, batches, val, precision, found, settings):
            log.append([record.epoch, *record.train.values(), *record.val.values()])
            if log[-1] == best(log):
                save_checkpoint(options.out / "best.pt", model, optimizer, epoch=record, settings=settings)
            save_checkpoint(options.out / "last.pt", model, optimizer, epoch=record, settings=settings)
            write(options.out / "log.csv", log, group)
            say(
                "epoch {}/{epochs}  train loss {:.4f} accuracy {:.4f} (n {})  val loss {:.4f} accuracy {:.4f} (n {})"
                .format(*log[-1], epochs=options.epochs), flush=True,
            )  # fmt: skip
    test(options, group, model, data, precision, say)


def epochs(options, group, model, optimizer, batches, val, precision, found, settings) -> Iterator[Epoch]:
    """The records of the epochs that remain; checkpoints within them on the way"""
    steps = options.epochs * len(batches)
    for record in fit(
        model, Shards(batches, group), optimizer, epochs=options.epochs, val_loader=Shards(val, group),
        schedule=warmup_cosine(steps, warmup=min(options.warmup, steps // 2)), precision=precision, resume=found,
        micro_batch=options.micro_batch,
    ):  # fmt: skip
        if isinstance(record, Epoch):
            yield record
        elif options.checkpoint_every and record.step % options.checkpoint_every == 0:
            save_checkpoint(options.out / "last.pt", model, optimizer, step=record, settings=settings)


def best(log: list[list]) -> list:
    """The row of the highest accuracy on the validation pictures, of equal ones that of the lowest loss"""
    return max(log, key=lambda row: (row[5], -row[4]))


def test(options, group: Group, model: Parallel, data: Splits, precision: Precision, say: Callable) -> None:
    """OUT/test.csv, once: what the weights of the best epoch do on pictures that chose nothing"""
    path = options.out / "test.csv"
    if path.exists() or len(data.test) < group.world:
        say("test: done before" if path.exists() else "test: too few pictures in that part")
        return
    state = load_safely(options.out / "best.pt")
    model.load_state_dict(state["model"])
    pictures = to_device(data.test, group.device)
    batches = loader(pictures, model.backbone.preprocess, batch_size=max(options.batch, group.world))
    found = evaluate(model, Shards(batches, group), precision=precision)
    row = [best(state["settings"]["log"])[0], *found.values()]
    say("test, with the weights of epoch {}: loss {:.4f} accuracy {:.4f} (n {})".format(*row), flush=True)
    write(path, [row], group, ("epoch", "test_loss", "test_accuracy", "test_n"))


def write(path: Path, rows: list[list], group: Group, columns: tuple[str, ...] = COLUMNS) -> None:
    """The table as a whole, in place of the one before; worker 0 writes"""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    if group.leads:
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")
        os.replace(partial, path)


def number(kind: type, low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A reader of numbers of this kind from ``low`` (or above it) to ``high``"""

    def read(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)) or (above and value == low):
            what = "a whole number" if kind is int else "a finite number"
            raise argparse.ArgumentTypeError(f"got {word}; expected {what} {'above' if above else 'of at least'} {low}")
        return value

    return read


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line's words -> options; at --resume those that are left out are the run's"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count, rate = number(int, 1), number(float, 0, above=True)  # a rate, or seconds
    parser.add_argument("pictures", nargs="?", type=Path, help="folder with one folder a class; default: solar cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoints, log.csv, test.csv")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt where there is one")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--random", action="store_true", help="random weights in place of pretrained ones")
    parser.add_argument("--freeze", action="store_true", help="freeze f, train g alone")
    parser.add_argument("--size", type=count, default=224, help="picture side in pixels")
    parser.add_argument("--epochs", type=count, default=5)
    parser.add_argument("--batch", type=count, default=32, help="pictures in a batch, all workers together")
    parser.add_argument("--micro-batch", type=count, metavar="N", help="pictures at once in a worker; default: all")
    parser.add_argument("--checkpoint-every", type=count, metavar="STEPS", help="steps; default: after epochs only")
    parser.add_argument("--rate-f", type=rate, default=1e-3)
    parser.add_argument("--rate-g", type=rate, default=1e-2)
    parser.add_argument("--warmup", type=number(int, 0), default=10, help="steps over which the rates rise")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 and channels-last: for GPUs, AMX, AVX512-bf16")
    parser.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0)
    parser.add_argument(
        "--timeout", type=number(float, 0, above=True), default=300.0, help="seconds to wait for a worker that hangs"
    )
    options = parser.parse_args(words)
    if options.resume and (options.out / "last.pt").exists():
        parser.set_defaults(**options_of_run(options.out / "last.pt"))
        options = parser.parse_args(words)
    options.pictures = options.pictures and Path(options.pictures)
    return options


def options_of_run(path: Path) -> dict:
    """The options that the run at ``path`` was started with"""
    state = load_safely(path)
    try:
        return {name: state["settings"]["options"][name] for name in KEPT}
    except (KeyError, TypeError):
        raise ValueError(f"{path} was not written by this script; expected the last.pt of a run of it") from None


def require_out_apart(options: argparse.Namespace) -> None:
    """ValueError where the run would lie among the pictures and be taken for a class of them"""
    if options.pictures and options.out.resolve().is_relative_to(options.pictures.resolve()):
        raise ValueError(
            f"got --out {options.out} within {options.pictures}; expected a folder outside of the pictures"
        )


def require_new_addresses() -> None:
    """ValueError where torchrun would start workers again with the addresses of dead ones: they may wait for ever"""
    variable = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and os.environ.get(variable) != "1":
        raise ValueError(
            f"got --max-restarts; expected the environment variable {variable}=1 with it, set for torchrun on every "
            "machine: without it new workers may look for the dead ones and wait for ever"
        )


def main(words: list[str] | None = None) -> None:
    """Run the script with these words, by default those of the command line"""
    options = arguments(words)
    require_new_addresses()
    require_out_apart(options)
    options.out.mkdir(parents=True, exist_ok=True)
    with workers(timeout_s=options.timeout) as group:
        if group.leads:
            print(f"{group.world} worker(s), {group.device.type}", flush=True)
        try:
            train(options, group)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} {options.out / 'last.pt'} is of before that: go on from it with the same command and --resume"
                f" --rate-f {options.rate_f / 10:g} --rate-g {options.rate_g / 10:g}, or, where there is none yet, "
                "start again with these rates"
            ) from None


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ArithmeticError, OSError, MemoryError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("train.py: stopped; --resume goes on from RUN/last.pt, where there is one", file=sys.stderr)
        sys.exit(130)
