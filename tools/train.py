"""Fine-tune a classifier of pictures in one process or in many: the same script, the same parameters.

    python tools/train.py PICTURES --out RUN                     one process, on the CPU or one GPU
    torchrun --standalone --nproc-per-node=2 tools/train.py PICTURES --out RUN                   two workers on the CPU
    torchrun --standalone --nproc-per-node=8 tools/train.py PICTURES --out RUN                   eight GPUs, one each
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-id=RUN --rdzv-endpoint=HOST:29500 \\
             tools/train.py PICTURES --out RUN                   two machines: this line on both; HOST is one of them

PICTURES is a folder with one folder a class (see sftlib.datasets.image_folder); without it the solar cells are used.
--labels CSV: a table in place of the folders, a line file,label for every picture, its path below PICTURES; notebook 15
writes one (keep.csv).
--batch counts the whole batch, not a worker's part, so nothing else changes with the number of workers. Worker 0
prints the log and writes it to RUN/log.csv, the run to RUN/last.pt after every epoch, and within it after every STEPS
steps of --checkpoint-every, and the epoch of the highest accuracy on the validation pictures (--best-by loss: of the
lowest loss) to RUN/best.pt, with which it looks at the test pictures once, at the end: RUN/test.csv. tools/predict.py
and tools/serve.py use it.

--check looks at the pictures (copies, dark, blurred, odd ones, labels that look wrong) and at the set-up, and trains
nothing. --skip-broken leaves out files that cannot be read, and names them. --keep-folders: what lies in folders of one
name within the classes (a patient, a camera, a day) stays in one part. --strategy says what learns:
  probe    g alone, f frozen         partial  g and the last stage of f       lora  g, and small matrices beside f's
  full     f and g (the default)     lp-ft    f and g, from the best g on the frozen features
Unequal classes: --class-weights weighs the loss, in training and validation, by 1/n of a picture's class, a mean over
the sum of these weights; --class-sampling draws rare classes more often instead. --label-smoothing S: targets of 1 - S,
and S shared out. --patience N ends the run after N epochs without a better one.
At the end: --temperature divides g by one number that makes probabilities mean what they say, chosen on the validation
pictures and written into best.pt; --flips looks at each test picture and at its mirror image (predict.py --flips too).

--time-budget SECONDS times some steps first and takes as many epochs as fit in, at least one; they stay the run's.

--resume goes on from last.pt: on CPUs bit for bit with as many workers on the same machine, up to rounding with any
other number (with several machines PICTURES and RUN must be folders that all of them see). Options that are left out
are then the run's; other classes, pictures or options are refused, but for --rate-f and --rate-g, which change from
there on (after a loss that was not finite: the run is as it was before, try a tenth).
When a worker dies, torchrun ends the others and names it; to have it start again by itself:
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --max-restarts=3 (the rest as above) --resume
Without that variable new workers may look for the dead ones at their old address (pytorch/pytorch issue 135712).
A last batch with fewer pictures than there are workers is refused: --drop-last leaves it out.
Exit code 0: done. 1: --check found something. 2: what was asked for cannot be; the last line says why. 130: Ctrl-C.
Out of memory: --micro-batch N computes at most N pictures at once in a worker, and the updates stay those of --batch.
One process finds N by itself; of several, one that runs out ends the run and says which N to try.

On the CPU set OMP_NUM_THREADS to cores / workers: two threads fighting for each core are many times slower. On Windows
and macOS the workers run on the CPU through Gloo (neither system was at hand to test this script on). PyTorch for
Windows is built without libuv, which --standalone asks for: give in its place --rdzv-backend=c10d
--rdzv-conf=store_type=file, and set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from sftlib.backbones import BACKBONES, load_backbone
from sftlib.batches import count
from sftlib.datasets import Splits, augment, image_folder, loader, solar_cells
from sftlib.datasets.folder_walk import FolderError
from sftlib.datasets.loading import Loader
from sftlib.datasets.on_device import to_device
from sftlib.losses import class_weights, weighted_cross_entropy
from sftlib.model import Model
from sftlib.runtime import FLOAT32, Group, Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.strategies import assembled, groups, start_from_probe
from sftlib.training import (
    Checkpoint,
    Epoch,
    Parallel,
    Shards,
    fit,
    save_checkpoint,
    set_rates,
    workers,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a script

from tools import run_loop, train_check, train_options  # noqa: E402
from tools.run_loop import ended, followed, printed, seconds_left, write  # noqa: E402
from tools.run_options import require_new_addresses  # noqa: E402
from tools.train_end import COLUMNS, best, is_over, test  # noqa: E402

REMEDIES = "Of what is named above this script has --skip-broken, and --keep-folders for groups=…"
TIMED, FILLED = 5, 0.85  # steps that are timed, and the part of the time that may be planned for
BEGAN = time.perf_counter()


class Loss(NamedTuple):
    """What `fit` minimises, a mean over terms"""

    task_loss: Callable
    terms: Callable


def build(options: argparse.Namespace, classes: int) -> tuple[Model, torch.optim.Optimizer]:
    """The model f, g and the optimizer of what the strategy trains; BatchNorm keeps its statistics"""
    spec = BACKBONES.get(options.backbone)
    if spec is not None and spec.inputs != "pictures":
        raise ValueError(f"got --backbone {spec.name}, which takes {spec.inputs}; expected one for pictures")
    f = load_backbone(options.backbone, pretrained=not options.random, size=options.size)
    model = assembled(options.strategy, f, classes)
    return model, torch.optim.SGD(groups(model, rate_f=options.rate_f, rate_g=options.rate_g), momentum=0.9)


def loss_of(options: argparse.Namespace, data: Splits) -> Loss:
    """Cross-entropy, weighted and smoothed as asked for"""
    if not options.class_weights and not options.label_smoothing:
        return Loss(F.cross_entropy, count)
    K = len(data.classes)
    weights = class_weights(data.train.labels, K) if options.class_weights else torch.ones(K)
    return Loss(*weighted_cross_entropy(weights, label_smoothing=options.label_smoothing))


def loaders(options: argparse.Namespace, data: Splits, preprocess, group: Group) -> tuple[Loader, Loader, Loader]:
    """-> batches of the training and of the validation pictures, whole ones: `Shards` takes a worker's rows; and the
    training pictures as they are, not augmented"""
    y = data.train.labels
    drawn = 1 / y.bincount()[y].double() if options.class_sampling else None
    train_split, val_split = (to_device(split, group.device) for split in (data.train, data.val))
    crop_and_flip = augment.Chain((augment.Crop(options.size, scale=(0.5, 1)), augment.flip))
    batches = loader(
        train_split, preprocess, batch_size=options.batch, shuffle=True, augment=crop_and_flip,
        drop_last=options.drop_last, weights=drawn,
    )  # fmt: skip
    plain, val = (loader(split, preprocess, batch_size=options.batch) for split in (train_split, val_split))
    return batches, val, plain


def described(options: argparse.Namespace, data: Splits, preprocess) -> dict:
    """What RUN keeps beside the weights: the options, the classes in their order, how pictures are prepared"""
    kept = train_options.kept(options)
    return {"options": kept, "classes": list(data.classes), "preprocess": str(preprocess), "log": []}


def resumed(options: argparse.Namespace, model: Model, optimizer, settings: dict) -> Checkpoint | None:
    """What OUT/last.pt holds, put into the objects given; None where there is none. ValueError for another run"""
    rates = {"f": options.rate_f, "g": options.rate_g}
    return run_loop.resumed(options, model, optimizer, settings, rates, train_options.require_same_run)


def pictures(options: argparse.Namespace, say: Callable) -> Splits:
    """The pictures of the folder, or the solar cells; files that are left out are named"""
    if not options.pictures:
        return solar_cells.load()
    groups = (lambda path: path.parent.name) if options.keep_folders else None
    how = {"labels": options.labels, "skip_broken": options.skip_broken, "groups": groups}
    try:
        data = image_folder.load(options.pictures, size=options.size, **how)
    except FolderError as error:
        raise ValueError(f"{error}\n{REMEDIES}") from None
    for line in data.broken:
        say(f"left out: {line}")
    return data


def train(options: argparse.Namespace, group: Group) -> None:
    """Train in this worker, from the start or from OUT/last.pt; at the end look once at the test pictures"""
    seed_everything(options.seed)  # the same order and augmentation in every worker
    say = printed if group.leads else (lambda _: None)
    data = pictures(options, say)
    precision = Precision(torch.bfloat16, channels_last=True) if options.bf16 else FLOAT32
    model, optimizer = build(options, len(data.classes))
    model.to(group.device)
    batches, val, plain = loaders(options, data, model.backbone.preprocess, group)
    if options.time_budget and not (options.out / "last.pt").exists():
        options.epochs = min(group.gathered(planned(options, model, plain, val, precision)))
        say(f"{options.epochs} epoch(s) fit into {options.time_budget:g} s")
    loss, settings = loss_of(options, data), described(options, data, model.backbone.preprocess)
    found = resumed(options, model, optimizer, settings)
    log = settings["log"]
    if found is not None:
        say(f"goes on after epoch {found.epoch} and {found.progress['batch']} of {len(batches)} batches")
        write(options.out / "log.csv", log, group, COLUMNS)
    elif options.strategy == "lp-ft":
        say(f"g is the probe on the frozen features, l2 {start_from_probe(model, plain, val):g}")
    model, began = Parallel(model, group, precision=precision), time.perf_counter()
    if not is_over(log, options):
        for record in epochs(options, group, model, optimizer, batches, val, precision, found, settings, loss):
            log.append([record.epoch, *record.train.values(), *record.val.values()])
            if log[-1] == best(log, options.best_by):
                save_checkpoint(options.out / "best.pt", model, optimizer, epoch=record, settings=settings)
            save_checkpoint(options.out / "last.pt", model, optimizer, epoch=record, settings=settings)
            write(options.out / "log.csv", log, group, COLUMNS)
            left = seconds_left(began, record.epoch - (found.epoch if found else 0), options.epochs - record.epoch)
            say(
                "epoch {}/{epochs}  train loss {:.4f} accuracy {:.4f} (n {})  val loss {:.4f} accuracy {:.4f} (n {})  "
                "{left} left".format(*log[-1], epochs=options.epochs, left=left)
            )  # fmt: skip
            if is_over(log, options):
                break
    test(options, group, model, data, val, loss.task_loss, precision, say)


def epochs(options, group, model, optimizer, batches, val, precision, found, settings, loss) -> Iterator[Epoch]:
    """The records of the epochs that remain; checkpoints within them on the way, and a bar with the time left"""
    records = fit(
        model, Shards(batches, group), optimizer, epochs=options.epochs, val_loader=Shards(val, group),
        schedule=schedule(options, len(batches)), precision=precision, resume=found, micro_batch=options.micro_batch,
        task_loss=loss.task_loss, terms=loss.terms,
    )  # fmt: skip
    return followed(
        records, found, epochs=options.epochs, batches=len(batches), leads=group.leads, every=options.checkpoint_every,
        keep=lambda step: save_checkpoint(options.out / "last.pt", model, optimizer, step=step, settings=settings),
    )  # fmt: skip


def schedule(options: argparse.Namespace, batches: int) -> Callable[[int], float]:
    """What multiplies the rates: a rise, then half a cosine"""
    steps = options.epochs * batches
    return warmup_cosine(steps, warmup=min(options.warmup, steps // 2))


def planned(options: argparse.Namespace, model: Model, plain: Loader, val: Loader, precision: Precision) -> int:
    """How many epochs fit into what is left of the time, 1 … --epochs: some steps are timed, on a copy of the model"""
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(groups(twin, rate_f=options.rate_f, rate_g=options.rate_g), momentum=0.9)
    seconds = []
    with torch.random.fork_rng():
        mark = time.perf_counter()
        for _ in fit(twin, plain, optimizer, epochs=1, precision=precision, micro_batch=options.micro_batch):
            seconds.append(time.perf_counter() - mark)  # the losses of a step are not awaited; what it computes is
            mark = time.perf_counter()
            if len(seconds) == TIMED:
                break
    step_s = statistics.median(seconds[1:] or seconds)
    epoch_s = step_s * (len(plain) + len(val) / 2)  # a step without gradients takes less than half
    left_s = FILLED * options.time_budget - (time.perf_counter() - BEGAN)
    return max(1, min(options.epochs, math.floor(left_s / epoch_s)))


def check(options: argparse.Namespace) -> int:
    """Say what is odd about the pictures and the set-up -> the exit code, 1 where something is"""
    seed_everything(options.seed)
    data = pictures(options, printed)
    model, optimizer = build(options, len(data.classes))
    batches, val, plain = loaders(options, data, model.backbone.preprocess, Group())
    set_rates(optimizer, schedule(options, len(batches))(0))  # those of the first step
    return train_check.report(options.pictures, data, model, optimizer, batches, val, plain)


def main(words: list[str] | None = None) -> int:
    """Run the script with these words, by default those of the command line; returns the exit code"""
    options = train_options.arguments(words, __doc__)
    require_new_addresses()
    train_options.require_out_apart(options)
    if options.check:
        return check(options)
    run_loop.require_free(options.out, resume=options.resume, at_the_end="test.csv")
    options.out.mkdir(parents=True, exist_ok=True)
    with workers(timeout_s=options.timeout) as group:
        if group.leads:
            print(f"{group.world} worker(s), {group.device.type}", flush=True)
        try:
            train(options, group)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{str(error).rstrip('.')}. {options.out / 'last.pt'} is of before that: go on from it with the same "
                "command and --resume"
                f" --rate-f {options.rate_f / 10:g} --rate-g {options.rate_g / 10:g}, or, where there is none yet, "
                "start again with these rates"
            ) from None
    return 0


if __name__ == "__main__":
    ended("train.py", main)
