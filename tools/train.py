"""Fine-tune a classifier of pictures in one process or in many: the same script, the same parameters.

    python tools/train.py PICTURES --out RUN                     one process, on the CPU or one GPU
    torchrun --standalone --nproc-per-node=2 tools/train.py PICTURES --out RUN                   two workers on the CPU
    torchrun --standalone --nproc-per-node=8 tools/train.py PICTURES --out RUN                   eight GPUs, one each
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id=RUN --rdzv-endpoint=HOST:29500 \\
             tools/train.py PICTURES --out RUN                   two machines: this line on both; HOST is one of them

PICTURES is a folder with one folder a class (see sftlib.datasets.image_folder); without it the solar cells are used.
--batch counts the whole batch, not a worker's part, so nothing else changes with the number of workers. Worker 0
prints the log, adds it to RUN/log.csv, and writes RUN/last.pt after every epoch, and within it after every STEPS steps
of --checkpoint-every. --resume goes on from there: on CPUs bit for bit with as many workers on the same machine, up to
rounding with any other number (with several machines PICTURES and RUN must be folders that all of them see). When a
worker dies, torchrun ends the others and names it; to have it start again by itself:
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
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sftlib.adaptation import eval_stats_train_affine, freeze, param_groups
from sftlib.backbones import load_backbone
from sftlib.checkpoints import Checkpoint, load_checkpoint
from sftlib.datasets import augment, image_folder, loader, solar_cells
from sftlib.datasets.loading import Loader
from sftlib.datasets.on_device import to_device
from sftlib.model import LinearHead, Model
from sftlib.parallel import Group, Parallel, Shards, fit, save_checkpoint, workers
from sftlib.runtime import FLOAT32, Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import Epoch

COLUMNS = ("epoch", "train_loss", "train_accuracy", "train_n", "val_loss", "val_accuracy", "val_n")


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


def loaders(options: argparse.Namespace, data, preprocess, group: Group) -> tuple[Loader, Loader]:
    """-> batches of the training and of the validation pictures, whole ones: `Shards` takes a worker's rows"""
    train_split, val_split = (to_device(split, group.device) for split in (data.train, data.val))
    crop_and_flip = augment.Chain((augment.Crop(options.size, scale=(0.5, 1)), augment.flip))
    batches = loader(train_split, preprocess, batch_size=options.batch, shuffle=True, augment=crop_and_flip)
    return batches, loader(val_split, preprocess, batch_size=options.batch)


def last_checkpoint(options: argparse.Namespace, model: Model, optimizer) -> Checkpoint | None:
    """What OUT/last.pt holds, put into the objects given; None where there is none"""
    path = options.out / "last.pt"
    if not path.exists():
        return None
    if not options.resume:
        raise ValueError(f"{path} is there already: --resume goes on from it, another --out keeps it")
    return load_checkpoint(path, model, optimizer, exact=False)


def train(options: argparse.Namespace, group: Group) -> Iterator[Epoch]:
    """Train in this worker; yields what `fit` says of the epochs"""
    seed_everything(options.seed)  # the same order and augmentation in every worker
    data = image_folder.load(options.pictures, size=options.size) if options.pictures else solar_cells.load()
    precision = Precision(torch.bfloat16, channels_last=True) if options.bf16 else FLOAT32
    model, optimizer = build(options, len(data.classes))
    model.to(group.device)
    batches, val = loaders(options, data, model.backbone.preprocess, group)
    found = last_checkpoint(options, model, optimizer)
    if found is not None and group.leads:
        done = found.progress["batch"] if found.progress else 0
        print(f"goes on after epoch {found.epoch} and {done} of {len(batches)} batches", flush=True)
    if found is not None and found.epoch >= options.epochs:
        return
    model = Parallel(model, group, precision=precision)
    steps = options.epochs * len(batches)
    schedule = warmup_cosine(steps, warmup=min(options.warmup, steps // 2))
    for record in fit(
        model, Shards(batches, group), optimizer, epochs=options.epochs, val_loader=Shards(val, group),
        schedule=schedule, precision=precision, resume=found, micro_batch=options.micro_batch,
    ):  # fmt: skip
        if isinstance(record, Epoch):
            save_checkpoint(options.out / "last.pt", model, optimizer, epoch=record, seed=options.seed)  # every worker
            yield record
        elif options.checkpoint_every and record.step % options.checkpoint_every == 0:
            save_checkpoint(options.out / "last.pt", model, optimizer, step=record, seed=options.seed)


def write(record: Epoch, epochs: int, path: Path) -> None:
    """One line on the screen and one in the log at ``path``"""
    values = [record.epoch, *record.train.values(), *record.val.values()]
    print("epoch {}/{epochs}  train loss {:.4f} accuracy {:.4f} (n {})  val loss {:.4f} accuracy {:.4f} (n {})".format(
        *values, epochs=epochs), flush=True)  # fmt: skip
    new = not path.exists()
    with open(path, "a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(([COLUMNS] if new else []) + [values])


def count(word: str) -> int:
    """A whole number of at least 1"""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"got {word}; expected a whole number of at least 1")
    return int(word)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line's words -> options"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", type=Path, help="folder with one folder a class; default: solar cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: last.pt and log.csv")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt where there is one")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--random", action="store_true", help="random weights in place of pretrained ones")
    parser.add_argument("--freeze", action="store_true", help="freeze f, train g alone")
    parser.add_argument("--size", type=int, default=224, help="picture side in pixels")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="pictures in a batch, all workers together")
    parser.add_argument("--micro-batch", type=count, metavar="N", help="pictures at once in a worker; default: all")
    parser.add_argument("--checkpoint-every", type=count, metavar="STEPS", help="steps; default: after epochs only")
    parser.add_argument("--rate-f", type=float, default=1e-3)
    parser.add_argument("--rate-g", type=float, default=1e-2)
    parser.add_argument("--warmup", type=int, default=10, help="steps over which the rates rise")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 and channels-last: for GPUs, AMX, AVX512-bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for a worker that hangs")
    return parser.parse_args(words)


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
    options.out.mkdir(parents=True, exist_ok=True)
    with workers(timeout_s=options.timeout) as group:
        if group.leads:
            print(f"{group.world} worker(s), {group.device.type}", flush=True)
        for record in train(options, group):
            if group.leads:
                write(record, options.epochs, options.out / "log.csv")


if __name__ == "__main__":
    main()
