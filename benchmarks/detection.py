"""Training a detector: `fit` against the loop of torchvision's detection references. Prints pictures a second, ratios.

    python benchmarks/detection.py                       pictures a second, on drawn streets
    python benchmarks/detection.py --score 0.2           and seconds until AP50 of 0.2 on validation pictures
    python benchmarks/detection.py --ways theirs ours    some of the ways
    python benchmarks/detection.py --rounds 5 --pictures 60

theirs   references/detection: a DataLoader with one picture after the other, torchvision's FasterRCNN with its own
         resizing, in float32, SGD with momentum, linear warm-up. The same network: our body, pyramid, anchors, heads.
default  the same at torchvision's own size: the shorter side enlarged to 800 pixels
ours     `fit` on pictures in memory, in the arithmetic that is measured to be the fastest
cached   ours with a frozen body, whose maps (of each picture and its mirror image) are computed once; the seconds for
         that are counted in the time to a score
their proposals and samples are those of ours (`FEW`), so the work of a step is the same; --own takes torchvision's.

Ways take turns, round after round; ratios are of medians of one run. Run it on a quiet machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchvision.models.detection import FasterRCNN

from sftlib.adaptation import freeze, param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader, street_scenes
from sftlib.datasets.scene_augment import flip
from sftlib.datasets.scenes import ForDetection
from sftlib.metrics import AveragePrecision
from sftlib.model import Model
from sftlib.model.cached_maps import above_the_body, cached
from sftlib.model.detection import FEW, anchors_for, body_maps, detector, sum_of_losses
from sftlib.runtime import seed_everything
from sftlib.training import Step, evaluate, fit, measure_precision

SIZE, BATCH = (320, 240), 4
LR, LR_BODY, SGD = 1e-3, 3e-4, 0.005  # AdamW of ours; theirs as in references/detection, for 2 to 4 pictures a step


class Maps(nn.Module):
    """Pictures (N, 3, H, W) -> the pyramid's maps: our f in the form that FasterRCNN wants"""

    def __init__(self, f: nn.Module):
        super().__init__()
        self.f, self.out_channels = f, f.channels

    def forward(self, batch):
        """(N, 3, H, W) -> {stage: (N, C, h, w)}"""
        return self.f.pyramid(body_maps(self.f.body, self.f.levels, batch))


def theirs(streets, model: Model, *, enlarged: bool, own: bool) -> Iterator[int]:
    """Trains a copy of the network by the reference loop; yields how many pictures each step had"""
    network = in_their_form(model, enlarged=enlarged, own=own).train()
    pictures = torch.utils.data.DataLoader(AsPictures(streets.train, model), batch_size=BATCH, shuffle=True,
                                           collate_fn=lambda batch: tuple(zip(*batch, strict=True)))  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=SGD, momentum=0.9, weight_decay=5e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=len(pictures) - 1)
    for images, targets in forever(pictures):
        loss = sum(network(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        yield len(images)


class AsPictures(torch.utils.data.Dataset):
    """A split -> (picture float (3, H, W), target), mirrored with probability 1/2: their dataset and transforms"""

    def __init__(self, split, model: Model):
        self.split, self.normalise = split, model.backbone.preprocess.normalise
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int):
        picture, target = flip(*self.split[i], self.generator)
        return self.normalise(picture[None])[0], {k: target[k] for k in ("boxes", "labels")}


def in_their_form(model: Model, *, enlarged: bool, own: bool) -> FasterRCNN:
    """Our network as torchvision's FasterRCNN: its sharing all parameters, with its own resizing"""
    heads, size = model.head.roi_heads, (800, 1333) if enlarged else (min(SIZE), max(SIZE))
    return FasterRCNN(
        Maps(model.backbone), num_classes=None, min_size=size[0], max_size=size[1], image_mean=[0.0] * 3,
        image_std=[1.0] * 3, rpn_anchor_generator=model.head.rpn.anchor_generator, rpn_head=model.head.rpn.head,
        box_roi_pool=heads.box_roi_pool, box_head=heads.box_head, box_predictor=heads.box_predictor,
        **({} if own else FEW),
    )  # fmt: skip


def ours(streets, model: Model, *, frozen: bool) -> Iterator[int]:
    """Trains by `fit`, with maps computed before where the body is frozen; yields how many pictures each step had"""
    make = ForDetection(model.backbone.preprocess.normalise, flip)
    batches = nest_loader(streets.train, make, batch_size=BATCH, shuffle=True, generator=torch.Generator())
    f, task = model.backbone, {"task_loss": sum_of_losses, "terms": None}
    if frozen:
        freeze(f.body)
    precision = measure_precision(model, *next(iter(batches)), **task).precision
    if frozen:
        always = (ForDetection(make.normalise, mirrored) for mirrored in (None, mirror))
        both = [cached(model, nest_loader(streets.train, m, batch_size=10), precision=precision) for m in always]
        model, split = above_the_body(model), NestSplit(*joined(both))
        batches = nest_loader(split, batch_size=BATCH, shuffle=True, generator=torch.Generator())
    body = {} if frozen else {"body": (f.body, LR_BODY)}
    groups = param_groups(**body, new=(nn.ModuleList([f.pyramid, model.head]), LR))
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    for record in fit(model, batches, optimizer, epochs=10**4, metric=None, clip=10.0, precision=precision, **task):
        if isinstance(record, Step):
            yield record.n


def mirror(picture, target, generator):
    """Left and right exchanged, always"""
    for seed in range(99):
        moved = flip(picture, target, torch.Generator().manual_seed(seed))
        if moved[0] is not picture:
            return moved
    raise AssertionError("flip never mirrored")


def joined(parts):
    """[(x, y)] of `cached` -> one (x, y)"""
    maps, sizes, targets = zip(*(x for x, _ in parts), strict=True)
    targets = [target for some in targets for target in some]
    return ({name: torch.cat([m[name] for m in maps]) for name in maps[0]}, torch.cat(sizes), targets), targets


def forever(loader):
    """Pass after pass"""
    while True:
        yield from loader


WAYS: dict[str, Callable] = {
    "theirs": partial(theirs, enlarged=False), "ours": partial(ours, frozen=False),
    "cached": partial(ours, frozen=True), "default": partial(theirs, enlarged=True),
}  # fmt: skip


def rate(way: str, streets, pictures: int, own: bool) -> float:
    """-> pictures a second, after one step that is not counted"""
    steps = start(way, streets, own)
    next(steps)
    begin, n = time.perf_counter(), 0
    while n < pictures:
        n += next(steps)
    return n / (time.perf_counter() - begin)


def start(way: str, streets, own: bool, model: Model | None = None) -> Iterator[int]:
    """A fresh network in training"""
    seed_everything(0)
    model = network(streets) if model is None else model
    return WAYS[way](streets, model, own=own) if way in ("theirs", "default") else WAYS[way](streets, model)


def network(streets) -> Model:
    """The detector of notebook 13"""
    boxes = torch.cat([streets.train.scene(i).boxes for i in range(len(streets.train))])
    anchors, ratios = anchors_for(boxes)
    return detector(load_backbone("squeezenet1_1"), len(streets.objects), anchors=anchors, ratios=ratios)


def seconds_to(way: str, streets, score: float, limit_s: float, own: bool) -> float:
    """-> seconds of training until AP50 on the validation pictures reaches the score; looked at after each pass"""
    model = network(streets)
    begin, n = time.perf_counter(), 0
    for pictures in start(way, streets, own, model):
        n += pictures
        if n >= len(streets.train):
            spent, n = time.perf_counter() - begin, 0
            if ap50(model, streets.val) >= score:
                return spent
            if spent > limit_s:
                return float("inf")
            begin = time.perf_counter() - spent  # looking is not counted
            model.train()
    raise AssertionError("training ended")


def ap50(model: Model, split) -> float:
    """AP50 at our size, whichever way trained it"""
    loader = nest_loader(split, ForDetection(model.backbone.preprocess.normalise), batch_size=10)
    return evaluate(model, loader, task_loss=None, metric=AveragePrecision)["ap50"]


def main() -> None:
    """Measure in turns, print"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=40, help="that each way trains on in a round")
    parser.add_argument("--score", type=float, help="AP50 to which the seconds are measured")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a way is given up")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--own", action="store_true", help="theirs with torchvision's own numbers of proposals")
    options = parser.parse_args()
    streets = street_scenes.load(size=SIZE, numbers=(120, 40, 0))
    network(streets)  # draws them
    rates = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way, found in rates.items():
            found.append(rate(way, streets, options.pictures, options.own))
        print(", ".join(f"{way} {found[-1]:.1f}" for way, found in rates.items()), "pictures/s", flush=True)
    print_ratios("pictures/s", {way: statistics.median(found) for way, found in rates.items()})
    if options.score is not None:
        seconds = {}
        for way in options.ways:
            seconds[way] = seconds_to(way, streets, options.score, options.limit, options.own)
            print(f"{way}: {seconds[way]:.0f} s to AP50 {options.score}", flush=True)
        print_ratios(f"speed to AP50 {options.score}", {way: 1 / spent for way, spent in seconds.items()})


def print_ratios(of: str, speed: dict[str, float]) -> None:
    """Each of ours against each of theirs"""
    for way in ("ours", "cached"):
        for other in ("theirs", "default"):
            if {way, other} <= speed.keys() and speed[other]:
                print(f"{of}, {way} / {other}: {speed[way] / speed[other]:.2f}")


if __name__ == "__main__":
    main()
