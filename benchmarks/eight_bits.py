"""A frozen extractor in 8-bit integers: how much faster than bfloat16, and what its features lose.

    python benchmarks/eight_bits.py [--models squeezenet1_1 efficientnet_lite0] [--pictures 400] [--seeds 5]

For each network at 224 px, on solar cells: images/s of `extract` in float32, in the measured arithmetic with BatchNorm
folded, and in 8 bits (PyTorch's post-training quantisation: weights per channel, activations per tensor, their ranges
observed on the first batch); the relative error of the centred features; the accuracy of a linear probe on the
validation pictures, and the interval of its difference from float32's over --seeds draws of training pictures.
The library does not offer it: PyTorch announces the end of this interface (torch.ao.quantization), and its successor
compiles, which takes longer than a course's extraction. Prints a table and, last, the ratios 8 bits / measured.
"""

import argparse
import time
import warnings

import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from sftlib.backbones import fold_batchnorm, load_backbone
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract, linear_probe
from sftlib.metrics import paired_interval
from sftlib.model import Model
from sftlib.runtime import FLOAT32, Precision, seed_everything
from sftlib.training import measure_precision

SIDE = 224
LAID_OUT = Precision(torch.float32, channels_last=True)  # how an 8-bit network takes its pictures


def in_eight_bits(f: nn.Module, x: Tensor) -> nn.Module:
    """f and pictures x (N, 3, H, W) that show its ranges -> a copy of f, BatchNorm folded, that computes in 8 bits

    Convolutions that look at the size of their input (timm's "same" padding) cannot be traced and stay float32.
    """
    torch.backends.quantized.engine = "onednn"  # all 8 bits of an activation; right on processors with VNNI
    folded = fold_batchnorm(f)
    untraced = {type(m) for m in folded.modules() if type(m).__name__ == "Conv2dSame"}
    settings = PrepareCustomConfig().set_non_traceable_module_classes(list(untraced))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        observed = prepare_fx(folded, get_default_qconfig_mapping("onednn"), (x[:1],), prepare_custom_config=settings)
        observed(x)
        return convert_fx(observed)


def compare(name: str, cells, pictures: int, seeds: int) -> float:
    """Print the rows of one network -> images/s in 8 bits / in the measured arithmetic"""
    f = load_backbone(name, size=SIDE).eval()
    x, _ = next(iter(loader(cells.train, f.preprocess, batch_size=32)))
    folded = fold_batchnorm(f)
    measured = measure_precision(Model(folded, nn.Identity()), x).precision
    ways = {
        "float32": (f, FLOAT32),
        str(measured): (measured.place(folded), measured),
        "8 bits": (in_eight_bits(f, x), LAID_OUT),
    }
    train, val = (loader(split, f.preprocess, batch_size=32) for split in (cells.train, cells.val))
    rates, features, scores = {}, {}, {}
    for way, (network, precision) in ways.items():
        extract(network, [next(iter(train))], precision=precision)  # warms up
        start = time.perf_counter()
        z, y = extract(network, train, precision=precision)
        rates[way] = len(y) / (time.perf_counter() - start)
        val_z, val_y = extract(network, val, precision=precision)
        features[way] = z - z.mean(0)
        scores[way] = [_accuracy(z, y, val_z, val_y, pictures, seed) for seed in range(seeds)]
    for way in ways:
        error = (features[way] - features["float32"]).norm() / features["float32"].norm()
        print(f"{name:<20}{way:<26}{rates[way]:7.1f} images/s   error of the features {error:6.1%}   "
              f"accuracy {sum(scores[way]) / seeds:.3f}, minus float32's "
              f"{paired_interval(scores[way], scores['float32'])}", flush=True)  # fmt: skip
    return rates["8 bits"] / rates[str(measured)]


def _accuracy(z: Tensor, y: Tensor, val_z: Tensor, val_y: Tensor, pictures: int, seed: int) -> float:
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:pictures]
    return (linear_probe(z[rows], y[rows])(val_z).argmax(1) == val_y).double().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=("squeezenet1_1", "efficientnet_lite0"))
    parser.add_argument("--pictures", type=int, default=400, help="that the probe learns from")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    seed_everything(0)
    cells = solar_cells.load(size=SIDE, seed=0)
    ratios = {name: compare(name, cells, options.pictures, options.seeds) for name in options.models}
    print("ratio " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
