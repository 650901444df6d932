"""Frozen ResNet-50: a loop as one finds it in tutorials against `extract` + `linear_probe`, on the same pictures.

    python benchmarks/linear_probe.py [--pictures 256] [--seed 0] [--epochs 10] [--compile | --int8]

The loop: float32, batches of 4, SGD 1e-3, the frozen extractor run again in each of 10 epochs, pictures decoded from
files each time. Ours: decode once, f once (BatchNorm folded into the convolutions, the arithmetic measured and chosen),
then logistic regression; with --int8 f computes in 8-bit integers (`eight_bits.py` says what that loses on networks
whose weights are at hand). The weights are ImageNet's where they are on disk or a network is, else random (the work is
the same). Prints accuracies on held-out pictures, seconds and, last, the ratio. Run it on a quiet machine.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torchvision.transforms import v2

from sftlib.backbones import fold_batchnorm, load_backbone
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract, linear_probe
from sftlib.model import LinearHead, Model
from sftlib.runtime import seed_everything
from sftlib.training import measure_precision

SIDE, EPOCHS = 224, 10


def resnet50():
    try:
        return load_backbone("resnet50", size=SIDE)
    except ConnectionError:
        print("no network: random weights, the same work")
        return load_backbone("resnet50", pretrained=False, size=SIDE)


def plain_loop(f, folder: Path, normalise, epochs: int) -> tuple[torch.nn.Module, float]:
    """The loop as it is copied: f frozen by requires_grad, run in every epoch -> (head, seconds of EPOCHS epochs)"""
    transform = v2.Compose([v2.Resize((SIDE, SIDE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise])
    data = torchvision.datasets.ImageFolder(folder, transform)
    batches = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    f = copy.deepcopy(f).train()  # a network stays in train mode unless somebody calls eval(): nobody does
    head = LinearHead(f.feature_dim, len(data.classes))
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3)
    f.requires_grad_(False)
    start = time.perf_counter()
    for epoch in range(epochs):
        running = 0.0
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(head(f(x)), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
        print(
            f"  epoch {epoch + 1:2d}: loss {running / len(batches):.3f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return head, (time.perf_counter() - start) * EPOCHS / epochs


def ours(f, split, compiled: bool, int8: bool):
    """f once, folded and in the fastest arithmetic, then logistic regression

    -> (head, the f that was used, its precision, seconds, all included)
    """
    start = time.perf_counter()
    batches = loader(split, f.preprocess, batch_size=32)
    x, _ = next(iter(batches))
    if int8:
        from eight_bits import LAID_OUT, in_eight_bits  # here: its part of PyTorch is to go

        fast, precision = in_eight_bits(f, x), LAID_OUT
    else:
        fast = fold_batchnorm(f)
        precision = measure_precision(Model(fast, torch.nn.Identity()), x).precision
        precision.place(fast)  # extract leaves an extractor's layout alone; this one is our own copy
    if compiled:
        fast.compile()
    z, y = extract(fast, batches, precision=precision)
    head = linear_probe(z, y)
    seconds = time.perf_counter() - start
    print(f"  f in {'8 bits' if int8 else precision}")
    exact, _ = extract(f, [next(iter(batches))])
    error = (z[:32] - exact).norm() / exact.norm()
    print(f"  relative difference of the features from plain float32, not folded: {error:.1e}")
    return head, fast, precision, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the loop that are run; the time is scaled to 10")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--compile", action="store_true", help="torch.compile the folded extractor")
    how.add_argument("--int8", action="store_true", help="the extractor in 8-bit integers")
    options = parser.parse_args()
    seed_everything(options.seed)
    cells = solar_cells.load(size=SIDE, seed=options.seed)
    some = cells.train.subset(torch.randperm(len(cells.train))[: options.pictures])
    f = resnet50()
    with tempfile.TemporaryDirectory() as folder:
        for i, (picture, label) in enumerate(some):
            path = Path(folder, cells.classes[label], f"{i:05d}.png")
            path.parent.mkdir(exist_ok=True)
            torchvision.io.write_png(picture, str(path))
        normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        print(f"the plain loop, {len(some)} pictures, {options.epochs} epochs")
        their_head, theirs_s = plain_loop(f, Path(folder), normalise, options.epochs)
    print("extract + linear_probe")
    head, fast, precision, ours_s = ours(f, some, options.compile, options.int8)
    val = loader(cells.val, f.preprocess, batch_size=32)
    z, y = extract(f, val)
    names = sorted(cells.classes)  # ImageFolder numbers the classes by name
    their_y = torch.tensor([names.index(cells.classes[k]) for k in y])
    their_accuracy = (their_head(z).argmax(1) == their_y).double().mean()
    z, _ = extract(fast, val, precision=precision)
    our_accuracy = (head(z).argmax(1) == y).double().mean()
    print(f"plain   {theirs_s:7.1f} s, accuracy on {len(y)} validation pictures {their_accuracy:.3f}")
    print(f"ours    {ours_s:7.1f} s, accuracy on {len(y)} validation pictures {our_accuracy:.3f}")
    print(f"ratio {theirs_s / ours_s:.1f}")


if __name__ == "__main__":
    main()
