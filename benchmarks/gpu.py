"""Training images/s at 224 px from real pictures in memory: `fit` against three other loops.

    python benchmarks/gpu.py [--quick] [--models resnet50 ...] [--batch 64] [--record]

Each loop trains the same network (batch, loss, SGD with momentum) on the same solar cells, random crop and flip:
- tutorial: PyTorch's transfer-learning tutorial: transforms picture by picture in a DataLoader (4 workers beside a
  GPU), float32, two numbers read at every step;
- timm: the step of timm's train.py from timm's own parts: its loader, transforms and prefetcher (4 workers beside a
  GPU), its optimizer factory, autocast and channels-last as for ours, loss.item() at every step, not compiled;
- bound: no data at all: one random batch that is already on the device, nothing read, compiled where a step is then
  faster;
- ours: `loader` and `fit`, pictures on the device, the arithmetic measured and chosen, compiled as the bound.

They take turns, each turn is timed to the device's last kernel, and the best turn counts; the first steps, with
allocation and compiling, do not, but what compiling takes, and after how many steps it pays, is printed. cuDNN tries
its convolutions and keeps the fastest (cudnn.benchmark), in all loops, as in timm's train.py. A loop of others that
fails is named and left out. Prints a table and, last, the ratios; aims: 0.9 of the bound, ahead of the other two.
Where pretrained weights would have to be downloaded they are random: the work is the same. It runs on a CPU too, with
smaller batches and SqueezeNet; --quick takes under 2 minutes on two quiet cores.

--record trains ResNet-50 on all solar cells, on a GPU, and writes the run with its curves, machine and time to
data/results/gpu_run.csv.
"""

import argparse
import copy
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm.data
import timm.optim
import timm.utils
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from sftlib.backbones import load_backbone
from sftlib.datasets import PictureSplit, augment, loader, solar_cells
from sftlib.datasets.augment import Augment
from sftlib.datasets.on_device import prefetch, to_device
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, device, seed_everything, versions
from sftlib.schedules import warmup_cosine
from sftlib.training import Epoch, Step, compile_pays, evaluate, fit, measure_precision

SIDE, CLASSES, RATE, MOMENTUM = 224, 2, 1e-4, 0.9
CROP_AND_FLIP = augment.Chain((augment.Crop(SIDE), augment.flip))
FROM_ALL_SIDES = augment.Chain(
    (augment.Crop(SIDE, scale=(0.5, 1)), augment.flip, augment.flip_vertical, augment.rotate)
)
MODELS = {"cuda": ("resnet50", "efficientnet_lite0"), "cpu": ("squeezenet1_1", "efficientnet_lite0", "resnet50")}
WORKERS = 4  # of the others' loaders, beside a GPU; the tutorial's own number
FOR_EVER = 10**6  # epochs: the turns decide when a loop ends
RESULT = Path(__file__).resolve().parents[1] / "data" / "results" / "gpu_run.csv"


class Pictures(torch.utils.data.Dataset):
    """The pictures of a split as the others' loaders want them: PIL, transformed one by one"""

    def __init__(self, split: PictureSplit, transform=None):
        self.arrays = split.pictures.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3), grey stored once
        self.labels, self.transform = split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(np.ascontiguousarray(self.arrays[i]))), self.labels[i]


# --- the loops: each yields after a step -----------------------------------------------------------------------


def tutorial(model: Model, split: PictureSplit, batch: int, where: torch.device) -> Iterator[None]:
    """The tutorial's loop"""
    transform = v2.Compose([
        v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD),
    ])  # fmt: skip
    batches = torch.utils.data.DataLoader(
        Pictures(split, transform), batch_size=batch, shuffle=True, drop_last=True, num_workers=_workers(where)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    running_loss, running_hits = 0.0, 0
    while True:
        model.train()
        for x, y in batches:
            x, y = x.to(where), y.to(where)
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(y)
            running_hits += torch.sum(logits.argmax(1) == y).item()
            yield


def as_timm(model: Model, split: PictureSplit, batch: int, where: torch.device, precision: Precision) -> Iterator[None]:
    """A step as in timm's train.py, with its --amp --amp-dtype bfloat16 --channels-last where they are faster"""
    batches = timm.data.create_loader(
        Pictures(split), (3, SIDE, SIDE), batch, is_training=True, color_jitter=0.0, num_workers=_workers(where),
        persistent_workers=_workers(where) > 0, pin_memory=where.type == "cuda", device=where,
        use_prefetcher=where.type == "cuda",
    )  # fmt: skip
    optimizer = timm.optim.create_optimizer_v2(model, opt="sgd", lr=RATE, momentum=MOMENTUM)
    loss_function, losses = nn.CrossEntropyLoss(), timm.utils.AverageMeter()
    while True:
        model.train()
        for x, y in batches:
            x, y = precision.place(x.to(where)), y.to(where)
            with precision.autocast(where.type):
                loss = loss_function(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(y))
            yield


def bound(model: Model, batch: int, where: torch.device, precision: Precision) -> Iterator[None]:
    """Nothing but the step: one random batch, on the device from the start"""
    x = precision.place(torch.randn(batch, 3, SIDE, SIDE, device=where))
    y = torch.randint(CLASSES, (batch,), device=where)
    optimizer = sgd(model, where)
    model.train()
    while True:
        optimizer.zero_grad()
        with precision.autocast(where.type):
            logits = model(x)
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        yield


def ours(model: Model, split: PictureSplit, batch: int, where: torch.device, precision: Precision) -> Iterator[Step]:
    """`fit` as the course uses it"""
    for record in fit(model, batches_of(model, split, batch, where), sgd(model, where), epochs=FOR_EVER,
                      precision=precision):  # fmt: skip
        if isinstance(record, Step):
            yield record


def batches_of(model: Model, split: PictureSplit, batch: int, where: torch.device, change: Augment = CROP_AND_FLIP):
    """The course's loader: pictures on the device, the next batch made while a step computes"""
    batches = loader(
        to_device(split, where), model.backbone.preprocess, batch_size=batch, shuffle=True, augment=change,
        drop_last=True,
    )  # fmt: skip
    return prefetch(batches, where)


def sgd(model: Model, where: torch.device, rate: float = RATE) -> torch.optim.Optimizer:
    """On a GPU one kernel moves all parameters"""
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM, fused=where.type == "cuda")


def _workers(where: torch.device) -> int:
    return min(WORKERS, os.cpu_count()) if where.type == "cuda" else 0  # on a CPU they would take the step's cores


def synchronise(where: torch.device) -> None:
    """Wait for the device"""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


# --- measuring -------------------------------------------------------------------------------------------------


def best_rates(loops: dict[str, Iterator], batch: int, steps: int, rounds: int, where: torch.device):
    """Loops that yield after a step -> images/s of each in its best of ``rounds`` turns of ``steps`` steps"""
    best = dict.fromkeys(loops, float("inf"))
    working = [name for name, loop in loops.items() if works(name, loop, where)]
    for _ in range(rounds):
        for name, loop in ((name, loops[name]) for name in working):
            start = time.perf_counter()
            for _ in range(steps):
                next(loop)
            synchronise(where)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: steps * batch / seconds if name in working else float("nan") for name, seconds in best.items()}


def works(name: str, loop: Iterator, where: torch.device) -> bool:
    """The first steps, which are not counted; whether they went well. Only ours has to."""
    try:
        for _ in range(1 if where.type == "cpu" else 5):
            next(loop)
        synchronise(where)
    except Exception as error:  # of many kinds: its loader, its compiler, its memory
        if name == "ours":
            raise
        print(f"  {name} does not run here: {type(error).__name__}: {str(error).strip().splitlines()[:1]}", flush=True)
        return False
    return True


def measure(name: str, split: PictureSplit, options: argparse.Namespace, where: torch.device) -> dict[str, float]:
    """images/s of the four loops with one network; says what was chosen"""
    batch = options.batch
    first = build(name, where)
    x, y = next(iter(batches_of(first, split, batch, where)))
    choice = measure_precision(first, x, y)
    precision = choice.precision
    compiled, why = _compiles(first, x, y, precision, options)
    print(f"\n{name}: batches of {batch}, {precision}; {why}", flush=True)
    models = {key: copy.deepcopy(first) for key in ("tutorial", "timm", "bound", "ours")}
    for key in ("timm", "bound", "ours"):
        precision.place(models[key])
    if compiled:
        models["bound"].compile()
        models["ours"].backbone.compile()
    loops = {
        "tutorial": tutorial(models["tutorial"], split, batch, where),
        "timm": as_timm(models["timm"], split, batch, where, precision),
        "bound": bound(models["bound"], batch, where, precision),
        "ours": ours(models["ours"], split, batch, where, precision),
    }
    return best_rates(loops, batch, options.steps, options.rounds, where)


def build(name: str, where: torch.device) -> Model:
    """The network with its pretrained weights where they are at hand, else with random ones"""
    pretrained = name.startswith(("squeezenet1_1", "efficientnet_lite"))
    f = load_backbone(name, pretrained=pretrained, size=SIDE)
    return Model(f, LinearHead(f.feature_dim, CLASSES)).to(where)


def _compiles(model: Model, x: Tensor, y: Tensor, precision: Precision, options) -> tuple[bool, str]:
    """-> whether to compile, and why"""
    if x.device.type == "cpu" and not options.compile:
        return False, "eager: on CPUs compiled training was measured to be no faster (--compile tries it)"
    times = compile_pays(model, x, y, options.run, precision=precision)
    faster = times.compiled_s < times.eager_s
    return faster, f"{'compiled' if faster else 'eager'}: {times}"


def describe(where: torch.device) -> str:
    """The machine, as the results name it"""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return f"{name}; {versions()['threads']} threads; torch {versions()['torch']}"


# --- a full run ------------------------------------------------------------------------------------------------


def record_run(name: str, where: torch.device, epochs: int, path: Path, *, batch: int = 64) -> None:
    """Train on all solar cells, print and write each epoch; the last row holds the test split's measures"""
    seed_everything(0)
    cells = solar_cells.load(seed=0, certain_only=False)
    try:
        f, weights = load_backbone(name, size=SIDE), "ImageNet"
    except ConnectionError:
        f, weights = load_backbone(name, pretrained=False, size=SIDE), "random"
    model = Model(f, LinearHead(f.feature_dim, len(cells.classes))).to(where)
    batches = batches_of(model, cells.train, batch, where, FROM_ALL_SIDES)
    precision = measure_precision(model, *next(iter(batches))).precision
    val, test = (loader(to_device(s, where), f.preprocess, batch_size=batch) for s in (cells.val, cells.test))
    optimizer = sgd(model, where, rate=0.01)
    schedule = warmup_cosine(epochs * len(batches), warmup=len(batches))
    about = {"model": name, "weights": weights, "batch": batch, "precision": str(precision), "machine": describe(where)}
    rows, start = [], time.perf_counter()
    for record in fit(model, batches, optimizer, epochs=epochs, val_loader=val, schedule=schedule, precision=precision):
        if isinstance(record, Epoch):
            row = {"epoch": record.epoch}
            row |= {f"train_{key}": record.train[key] for key in ("loss", "accuracy")}
            row |= {f"val_{key}": record.val[key] for key in ("loss", "accuracy")}
            row["seconds"] = time.perf_counter() - start
            row = {key: round(value, 4) for key, value in row.items()}
            rows.append(row | about)
            print(rows[-1] if record.epoch == 1 else row, flush=True)
    tested = evaluate(model, test, precision=precision)
    rows[-1] |= {f"test_{key}": round(tested[key], 4) for key in ("loss", "accuracy")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[-1]), restval="")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{weights} weights; test accuracy {tested['accuracy']:.4f} of {tested['n']}; {path.name} written")


def arguments() -> argparse.Namespace:
    """The command line's options, completed for this device"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: for a CPU, or a first look")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--batch", type=int, help="pictures a batch: 64 on a GPU, 16 on a CPU")
    parser.add_argument("--steps", type=int, help="steps of a turn")
    parser.add_argument("--rounds", type=int, help="turns of each loop")
    parser.add_argument("--run", type=int, default=5000, help="steps of the run that compiling would have to pay in")
    parser.add_argument("--compile", action="store_true", help="try compiling on a CPU too")
    parser.add_argument("--record", action="store_true", help="train ResNet-50 on all solar cells, write the run")
    parser.add_argument("--epochs", type=int, default=30, help="of the recorded run")
    options = parser.parse_args()
    kind = device().type if device().type == "cuda" else "cpu"
    options.models = options.models or MODELS[kind]
    options.batch = options.batch or {"cuda": 64, "cpu": 16}[kind]
    options.steps = options.steps or {"cuda": 20 if options.quick else 50, "cpu": 2 if options.quick else 8}[kind]
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


def main():
    options = arguments()
    where = device() if device().type == "cuda" else torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # the batches keep their shape
    if options.record:
        if where.type != "cuda":
            raise SystemExit("no GPU here: a recorded run needs one")
        record_run("resnet50", where, options.epochs, RESULT)
        return
    seed_everything(0)
    split = solar_cells.load(seed=0).train
    print(f"{describe(where)}; {len(split)} pictures of 300 px in memory, {SIDE} px; images/s of each loop's best turn")
    found = {name: measure(name, split, options, where) for name in options.models}
    print(f"\n{'':<20}" + "".join(f"{key:>10}" for key in next(iter(found.values()))))
    for name, rates in found.items():
        print(f"{name:<20}" + "".join(f"{rate:>10.1f}" for rate in rates.values()))
    for key, title in (("tutorial", "the tutorial's loop"), ("timm", "timm's step"), ("bound", "the bound")):
        ratios = ", ".join(f"{name} {rates['ours'] / rates[key]:.2f}" for name, rates in found.items())
        print(f"ratio ours / {title}: {ratios}")


if __name__ == "__main__":
    main()
