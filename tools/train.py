"""Fine-tune a classifier of pictures in one process or in many: the same script, the same parameters.

    python tools/train.py PICTURES --out RUN                     one process, on the CPU or one GPU
    torchrun --standalone --nproc-per-node=2 tools/train.py PICTURES --out RUN                   two workers on the CPU
    torchrun --standalone --nproc-per-node=8 tools/train.py PICTURES --out RUN                   eight GPUs, one each
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id=RUN --rdzv-endpoint=HOST:29500 \\
             tools/train.py PICTURES --out RUN                   two machines: this line on both; HOST is one of them

PICTURES is a folder with one folder a class (see sftlib.datasets.image_folder); without it the solar cells are used.
--batch counts the whole batch, not a worker's part, so nothing else changes with the number of workers. Worker 0
prints the log, adds it to RUN/log.csv, and writes RUN/last.pt after every epoch; --resume goes on from there, with
any number of workers (with several machines PICTURES and RUN must be folders that all of them see). When a worker
dies, torchrun ends the others and names it; with --max-restarts=3 and --resume it starts again by itself.

On the CPU set OMP_NUM_THREADS to cores / workers: two threads fighting for each core are many times slower. On Windows
and macOS the workers run on the CPU through Gloo; if PyTorch for Windows says that it was built without libuv, set
the environment variable USE_LIBUV=0 (neither system was at hand to test this script on).
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sftlib.adaptation import eval_stats_train_affine, freeze, param_groups
from sftlib.backbones import load_backbone
from sftlib.checkpoints import load_checkpoint, save_checkpoint
from sftlib.datasets import augment, image_folder, loader, solar_cells
from sftlib.datasets.on_device import to_device
from sftlib.model import LinearHead, Model
from sftlib.parallel import Group, Parallel, Shards, fit, workers
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


def train(options: argparse.Namespace, group: Group) -> Iterator[Epoch]:
    """Train in this worker; yields what `fit` says of the epochs"""
    seed_everything(options.seed)  # the same order and augmentation in every worker
    data = image_folder.load(options.pictures, size=options.size) if options.pictures else solar_cells.load()
    precision = Precision(torch.bfloat16, channels_last=True) if options.bf16 else FLOAT32
    model, optimizer = build(options, len(data.classes))
    model.to(group.device)
    crop_and_flip = augment.Chain((augment.Crop(options.size, scale=(0.5, 1)), augment.flip))
    train_split, val_split = (to_device(split, group.device) for split in (data.train, data.val))
    batches = loader(
        train_split, model.backbone.preprocess, batch_size=options.batch, shuffle=True, augment=crop_and_flip
    )
    val = loader(val_split, model.backbone.preprocess, batch_size=options.batch)
    path, first_epoch = options.out / "last.pt", 1
    if path.exists():
        if not options.resume:
            raise ValueError(f"{path} is there already: --resume goes on from it, another --out keeps it")
        found = load_checkpoint(path, model, optimizer, generator=batches.generator, exact=False)
        first_epoch = found.epoch + 1
    if first_epoch > options.epochs:
        return
    model = Parallel(model, group, precision=precision)
    steps = options.epochs * len(batches)
    schedule = warmup_cosine(steps, warmup=min(options.warmup, steps // 2))
    for record in fit(
        model, Shards(batches, group), optimizer, epochs=options.epochs, val_loader=Shards(val, group),
        schedule=schedule, precision=precision, first_epoch=first_epoch,
    ):  # fmt: skip
        if isinstance(record, Epoch):
            if group.leads:
                save_checkpoint(
                    path, model, optimizer, epoch=record.epoch, generator=batches.generator, precision=precision,
                    seed=options.seed,
                )  # fmt: skip
            yield record


def write(record: Epoch, epochs: int, path: Path) -> None:
    """One line on the screen and one in the log at ``path``"""
    values = [record.epoch, *record.train.values(), *record.val.values()]
    print("epoch {}/{epochs}  train loss {:.4f} accuracy {:.4f} (n {})  val loss {:.4f} accuracy {:.4f} (n {})".format(
        *values, epochs=epochs), flush=True)  # fmt: skip
    new = not path.exists()
    with open(path, "a", newline="") as file:
        csv.writer(file).writerows(([COLUMNS] if new else []) + [values])


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
    parser.add_argument("--rate-f", type=float, default=1e-3)
    parser.add_argument("--rate-g", type=float, default=1e-2)
    parser.add_argument("--warmup", type=int, default=10, help="steps over which the rates rise")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 and channels-last: for GPUs, AMX, AVX512-bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for a worker that hangs")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Run the script with these words, by default those of the command line"""
    options = arguments(words)
    options.out.mkdir(parents=True, exist_ok=True)
    with workers(timeout_s=options.timeout) as group:
        if group.leads:
            print(f"{group.world} worker(s), {group.device.type}", flush=True)
        for record in train(options, group):
            if group.leads:
                write(record, options.epochs, options.out / "log.csv")


if __name__ == "__main__":
    main()
