"""Fine-tuning SqueezeNet at 224 px on a folder of photographs larger than its memory limit: from files against memory.

    python benchmarks/files.py [--pictures 512] [--rounds 5] [--side 256] [--whole]

JPEG files of 300 to 500 pixels, cut out of scikit-learn's two sample photographs and encoded anew. Both sides: the same
pictures, crops and flips, batches of 32, optimizer and arithmetic (measured and chosen), through `loader` and `fit`.
From files each picture is read and decoded whenever its turn comes, in threads, while the network computes. Epochs of
the two take turns after one of each that is not counted. With --whole the files are read without size, each picture
whole. Prints the rates and, last, the median over the rounds of the ratio files / memory. Run it on a quiet machine.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from sftlib.backbones import load_backbone
from sftlib.datasets import Split, augment, image_folder, loader
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, seed_everything
from sftlib.training import fit, measure_precision

SIDE, BATCH, RATE = 224, 32, 1e-3


def photographs(folder: Path, number: int) -> None:
    """``number`` JPEG files in folder/CLASS, one class for each of the two photographs"""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]  # 640 x 427
    rng = np.random.default_rng(0)
    for i in range(number):
        photo = photos[i % 2]
        width, height = int(rng.integers(375, 501)), int(rng.integers(300, 401))
        left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
        path = folder / f"{i % 2}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((left, top, left + width, top + height)).save(path, quality=90)


class Run:
    """One network and its training pictures; `epoch` trains once over them"""

    def __init__(self, split: Split, precision: Precision | None):
        seed_everything(0)
        f = load_backbone("squeezenet1_1", size=SIDE)
        self.model = Model(f, LinearHead(f.feature_dim, 2))
        change = augment.Chain((augment.Crop(SIDE, scale=(0.5, 1)), augment.flip))
        self.batches = loader(split, f.preprocess, batch_size=BATCH, shuffle=True, augment=change, drop_last=True)
        self.precision = precision or measure_precision(self.model, *next(iter(self.batches))).precision
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=0.9)

    def epoch(self) -> float:
        """-> pictures a second"""
        start = time.perf_counter()
        for _ in fit(self.model, self.batches, self.optimizer, epochs=1, precision=self.precision):
            pass
        return len(self.batches) * BATCH / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=256, help="pixels that pictures are loaded at")
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photographs(Path(name), options.pictures)
        limit = options.pictures * 3 * options.side**2 // 2  # the folder is twice as large
        stored = image_folder.load(name, size=options.side, fractions=(1, 0, 0)).train
        read = image_folder.load(
            name, size=None if options.whole else options.side, fractions=(1, 0, 0), memory_bytes=limit
        ).train
        memory = Run(stored, None)
        files = Run(read, memory.precision)
        print(f"{options.pictures} photographs, {memory.precision}, {torch.get_num_threads()} threads")
        memory.epoch(), files.epoch()
        ratios = []
        for _ in range(options.rounds):
            rates = memory.epoch(), files.epoch()
            ratios.append(rates[1] / rates[0])
            print(f"memory {rates[0]:.1f}, files {rates[1]:.1f} pictures/s", flush=True)
    print(f"ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
