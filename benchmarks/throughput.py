"""Fine-tuning from picture files at 224 px: the loop of PyTorch's transfer-learning tutorial against `fit`.

    python benchmarks/throughput.py [--models squeezenet1_1 resnet18 ...] [--pictures 160] [--epochs 1] [--accuracy]

The tutorial's loop: batches of 4, no worker processes, each picture decoded, randomly cropped and mirrored at every
visit, float32, SGD 1e-3 with momentum 0.9, the loss read at every step. Ours: the same model, pictures, augmentation,
batch, optimizer and number of epochs through `loader` and `fit`; pictures decoded once into memory, augmentation in
batches, arithmetic measured and chosen. Each of the two runs in a process of its own, because `fit` changes how its
process handles memory. The ratio is of the loops; the one-time decoding and measuring is shown too.
With --accuracy also the accuracies over --seeds seeds with the interval of their paired difference. Prints a table and,
last, the ratios. Run it on a quiet machine.
"""

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torchvision.transforms import v2

from sftlib.backbones import load_backbone
from sftlib.datasets import augment, image_folder, loader, solar_cells
from sftlib.metrics import paired_interval
from sftlib.model import LinearHead, Model
from sftlib.runtime import seed_everything
from sftlib.training import evaluate, fit, measure_precision

SIDE, BATCH, RATE = 224, 4, 1e-3
MODELS = ("squeezenet1_1", "resnet18", "resnet50", "efficientnet_lite0")


def build(name: str, classes: int) -> Model:
    pretrained = name.startswith(("squeezenet", "efficientnet_lite"))  # the others' work is the same with any weights
    f = load_backbone(name, pretrained=pretrained, size=SIDE)
    return Model(f, LinearHead(f.feature_dim, classes))


def tutorial(model: Model, folder: Path, epochs: int) -> dict:
    """The tutorial's loop -> {"loop": pictures a second, decoding and augmentation included}"""
    normalise = v2.Lambda(lambda picture: model.backbone.preprocess(picture)[0])  # this network's own numbers
    to_tensor = v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), v2.PILToTensor(), normalise])
    data = torchvision.datasets.ImageFolder(folder / "train", to_tensor)
    batches = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    start = time.perf_counter()
    for _ in range(epochs):
        model.train()
        running_loss, running_hits = 0.0, 0
        for x, y in batches:
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(y)
            running_hits += torch.sum(logits.argmax(1) == y).item()
    return {"loop": epochs * len(data) / (time.perf_counter() - start)}


def ours(model: Model, folder: Path, epochs: int) -> dict:
    """`fit` -> {"loop": pictures a second in training, "again": with decoding, "total": with decoding and measuring,
    "precision": its name}"""
    start = time.perf_counter()
    split = image_folder.load(folder, size=300).train
    crop_and_flip = augment.Chain((augment.Crop(SIDE), augment.flip))
    batches = loader(split, model.backbone.preprocess, batch_size=BATCH, shuffle=True, augment=crop_and_flip)
    x, y = next(iter(batches))
    decoded = time.perf_counter()
    precision = measure_precision(model, x, y).precision
    measuring = time.perf_counter() - decoded
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    began = time.perf_counter()
    for _ in fit(model, batches, optimizer, epochs=epochs, precision=precision):
        pass
    end = time.perf_counter()
    seen = epochs * len(split)
    return {
        "loop": seen / (end - began),
        "total": seen / (end - start),
        "again": seen / (end - start - measuring),
        "precision": str(precision),
    }


def measure(loop, name: str, folder: Path, epochs: int, seed: int) -> dict:
    """What ``loop`` (`tutorial` or `ours`) says of this network, and "accuracy" on the validation pictures after it"""
    seed_everything(seed)
    cells = solar_cells.load(seed=0)
    model = build(name, len(cells.classes))
    rates = loop(model, folder, epochs)
    return rates | {"accuracy": evaluate(model, loader(cells.val, model.backbone.preprocess))["accuracy"]}


def alone(*arguments) -> dict:
    """`measure` in a fresh process"""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def write(split, classes, folder: Path) -> None:
    """Each picture of ``split`` as folder/CLASS/NUMBER.png"""
    for i, (picture, label) in enumerate(split):
        path = folder / f"{label}_{classes[label]}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        torchvision.io.write_png(picture[:1], str(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    ratios = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cells = Path(name), solar_cells.load(seed=0)
        order = torch.randperm(len(cells.train), generator=torch.Generator().manual_seed(0))
        write(cells.train.subset(order[: options.pictures]), cells.classes, folder / "train")
        write(cells.val.subset(torch.arange(60)), cells.classes, folder / "val")
        for model_name in options.models:
            pairs = [
                [alone(loop, model_name, folder, options.epochs, seed) for loop in (ours, tutorial)]
                for seed in range(options.seeds if options.accuracy else 1)
            ]
            fast, plain = pairs[-1]
            ratios[model_name] = fast["loop"] / plain["loop"]
            print(f"{model_name}: tutorial {plain['loop']:.1f}, fit {fast['loop']:.1f} images/s ({fast['precision']}); "
                  f"with decoding {fast['again']:.1f}, and measuring {fast['total']:.1f}", flush=True)  # fmt: skip
            if options.accuracy:
                scores = zip(*([side["accuracy"] for side in pair] for pair in pairs), strict=True)
                print(f"  accuracy, fit minus tutorial: {paired_interval(*scores)}")
    print("ratio " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
