"""Training a segmenter: `fit` against the loop of torchvision's reference script, with the same network.

    python benchmarks/segmentation.py [--pictures 160] [--epochs 6] [--rounds 3] [--size 160 120]

The same drawn streets, the same DeepLab on SqueezeNet with its auxiliary head, batches of 8, on as many threads as
PyTorch takes. Theirs is references/segmentation/train.py of torchvision 0.29 as published, written out here: PIL
pictures, random resize by 0.5 to 2, flip and crop one picture at a time, float32, SGD at 0.01 with polynomial decay,
the auxiliary head at ten times that; its data loader has no workers here, for there are few cores. It is taken at this
size, and at its own (520, crops of 480). Ours: `fit` with the notebook's settings, in the arithmetic that is measured
to be the fastest. "frozen" is both with f frozen: theirs runs f in every step, ours trains g on its maps, kept.

Prints pictures a second, and seconds of training (without measuring) until the validation mIoU is that of the worse of
the two at its best; last, the medians over the rounds of the ratios ours / theirs. Run it on a quiet machine.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode

from sftlib.adaptation import freeze, param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader, street_scenes
from sftlib.datasets.scene_augment import SceneChain, SceneCrop, flip
from sftlib.datasets.scenes import ForSegmentation
from sftlib.features import extract
from sftlib.metrics import MeanIoU
from sftlib.model import Model
from sftlib.model.segmentation import AuxiliaryLoss, fitting_rates, segmenter
from sftlib.runtime import seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import Epoch, evaluate, fit, measure_precision

K, BATCH, IGNORED = 11, 8, 255
Way = Iterator[tuple[float, Model]]  # after each epoch: seconds it took, the model


def main() -> None:
    """Measure every pair, round by round"""
    options = _options()
    streets = street_scenes.load(size=tuple(options.size), numbers=(options.pictures, 40, 0))
    for split in (streets.train, streets.val):
        for i in range(len(split)):
            split.scene(i)  # drawn before any clock runs
    same = {"base": min(options.size), "crop": tuple(options.size)}
    pairs = {
        "same size": (partial(theirs, **same), ours),
        "its default size": (partial(theirs, base=520, crop=(480, 480)), ours),
        "frozen, maps kept": (partial(theirs, **same, frozen=True), ours_frozen),
    }
    print(f"{options.pictures} pictures of {options.size}, {options.epochs} epochs, {torch.get_num_threads()} threads")
    for name, ways in pairs.items():
        rates, times = [], []
        for seed in range(options.rounds):
            runs = [measured(way(streets, options.epochs, seed), streets) for way in ways]
            speeds = [options.epochs * options.pictures / run[-1][0] for run in runs]
            target = min(max(score for _, score in run) for run in runs)
            reached = [next(seconds for seconds, score in run if score >= target) for run in runs]
            rates.append(speeds[1] / speeds[0])
            times.append(reached[0] / reached[1])
            print(f"{name}: theirs {speeds[0]:.1f}, ours {speeds[1]:.1f} pictures/s; mIoU {target:.3f} after "
                  f"{reached[0]:.1f} and {reached[1]:.1f} s", flush=True)  # fmt: skip
        print(f"ratio {name}: pictures/s {statistics.median(rates):.2f}, "
              f"seconds to the same score {statistics.median(times):.2f}")  # fmt: skip


def measured(way: Way, streets) -> list[tuple[float, float]]:
    """-> after each epoch: seconds of training so far, mIoU on the validation pictures at their own size"""
    total, found = 0.0, []
    for seconds, model in way:
        total += seconds
        batches = nest_loader(streets.val, ForSegmentation(model.backbone.preprocess.normalise), batch_size=BATCH)
        found.append((total, evaluate(model, batches, task_loss=None, metric=partial(MeanIoU, K))["mean_iou"]))
    return found


def build(streets, seed: int, frozen: bool) -> tuple[Model, AuxiliaryLoss]:
    """-> model, auxiliary loss; the rates of dilation fit this size"""
    seed_everything(seed)
    f = load_backbone("squeezenet1_1")
    h = f.lower(torch.zeros(1, *streets.train.scene(0).picture.shape), "stage4")
    model = segmenter(f, K, rates=fitting_rates(*h.shape[-2:]))
    if frozen:
        freeze(model.backbone)
    return model, AuxiliaryLoss(model.backbone.auxiliary_dim, K)


# --------------------------------------------------------------------------------------------------------------- ours


def ours(streets, epochs: int, seed: int) -> Way:
    """`fit` as in notebook 14"""
    model, auxiliary = build(streets, seed, frozen=False)
    f, order = model.backbone, torch.Generator().manual_seed(seed)
    make = ForSegmentation(f.preprocess.normalise, SceneChain((SceneCrop(), flip)))
    batches = nest_loader(streets.train, make, batch_size=BATCH, shuffle=True, drop_last=True, generator=order)
    groups = param_groups(f=(f, 3e-4), g=(model.head, 1e-3), auxiliary=(auxiliary, 1e-3))
    yield from _fitted(model, model, batches, groups, epochs, {"feature_loss": auxiliary, "feature_weight": 0.5})


def ours_frozen(streets, epochs: int, seed: int) -> Way:
    """f's maps once, then g on them"""
    model, _ = build(streets, seed, frozen=True)
    plain = nest_loader(streets.train, ForSegmentation(model.backbone.preprocess.normalise), batch_size=BATCH)
    x, y = next(iter(plain))
    precision = measure_precision(Model(model.backbone, torch.nn.Identity()), x, remember=True).precision
    start = time.perf_counter()  # the arithmetic is chosen before the clock runs, in both of ours
    maps, y = extract(model.backbone, plain, precision=precision)
    batches = nest_loader(
        NestSplit(maps, y),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )
    upper = Model(torch.nn.Identity(), model.head)
    first = time.perf_counter() - start  # the first epoch pays for the maps
    for seconds, _ in _fitted(upper, model, batches, param_groups(g=(model.head, 1e-3)), epochs, {}):
        yield seconds + first, model
        first = 0.0


def _fitted(learner: Model, whole: Model, batches, groups, epochs: int, losses: dict) -> Way:
    x, y = next(iter(batches))
    how = {"task_loss": pixel_loss, "terms": pixels_counted}
    precision = measure_precision(learner, x, y, remember=True, **how).precision
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = warmup_cosine(epochs * len(batches), warmup=epochs * len(batches) // 10)
    mark = time.perf_counter()
    for record in fit(learner, batches, optimizer, epochs=epochs, metric=None, schedule=schedule, precision=precision,
                      **how, **losses):  # fmt: skip
        if isinstance(record, Epoch):
            yield time.perf_counter() - mark, whole
            mark = time.perf_counter()


def pixel_loss(logits, y):
    """Mean over the pixels that count"""
    return F.cross_entropy(logits, y, ignore_index=IGNORED)


def pixels_counted(y):
    """What it is divided by"""
    return (y != IGNORED).sum()


# ------------------------------------------------------------------------------------------------------------- theirs


def theirs(streets, epochs: int, seed: int, *, base: int, crop: tuple[int, int], frozen: bool = False) -> Way:
    """references/segmentation: SegmentationPresetTrain, criterion, train_one_epoch, PolynomialLR of power 0.9"""
    model, auxiliary = build(streets, seed, frozen)
    random.seed(seed)
    files = [(Image.fromarray(s.picture.numpy().transpose(1, 2, 0)), Image.fromarray(s.class_map.numpy()))
             for s in map(streets.train.scene, range(len(streets.train)))]  # fmt: skip
    transform = partial(preset, base=base, crop=crop, normalise=model.backbone.preprocess.normalise)
    loader = DataLoader(files, batch_size=BATCH, shuffle=True, drop_last=True, collate_fn=partial(collated, transform))
    groups = [{"params": [p for part in (model.backbone, model.head) for p in part.parameters() if p.requires_grad]},
              {"params": list(auxiliary.parameters()), "lr": 0.1}]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=epochs * len(loader), power=0.9)
    for _ in range(epochs):
        mark = time.perf_counter()
        model.train()
        for image, target in loader:
            z, output = model.cut(image)
            loss = F.cross_entropy(output, target, ignore_index=IGNORED) + 0.5 * auxiliary(z, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()  # their metric logger
        yield time.perf_counter() - mark, model


def preset(image, target, *, base: int, crop: tuple[int, int], normalise: Callable):
    """One picture through RandomResize, RandomHorizontalFlip, RandomCrop to (width, height), PILToTensor, Normalize"""
    size = random.randint(int(0.5 * base), int(2.0 * base))
    image = TF.resize(image, [size], antialias=True)
    target = TF.resize(target, [size], interpolation=InterpolationMode.NEAREST)
    if random.random() < 0.5:
        image, target = TF.horizontal_flip(image), TF.horizontal_flip(target)
    lacks = [max(0, wanted - side) for wanted, side in zip(crop, image.size, strict=True)]
    if any(lacks):
        image = TF.pad(image, [0, 0, *lacks], fill=0)
        target = TF.pad(target, [0, 0, *lacks], fill=IGNORED)
    width, height = image.size
    left, top = random.randint(0, width - crop[0]), random.randint(0, height - crop[1])
    image, target = (TF.crop(picture, top, left, crop[1], crop[0]) for picture in (image, target))
    return normalise(TF.pil_to_tensor(image)[None])[0], TF.pil_to_tensor(target)[0].long()


def collated(transform, pairs):
    """n (picture, mask) -> x (n, 3, h, w), y (n, h, w)"""
    images, targets = zip(*(transform(*pair) for pair in pairs), strict=True)
    return torch.stack(images), torch.stack(targets)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("WIDTH", "HEIGHT"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
