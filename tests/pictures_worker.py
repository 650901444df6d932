"""One of two workers that train on photographs which stay in their files, each of its own size: PICTURES OUT."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sftlib.backbones import load_backbone
from sftlib.datasets import augment, image_folder, loader
from sftlib.model import LinearHead, Model
from sftlib.runtime import Group
from sftlib.training import Parallel, Shards, fit, workers

SIDE, BATCH = 37, 3  # batches of 3 and 2
AUGMENT = augment.Chain((augment.Crop(SIDE, scale=(0.5, 1)), augment.flip))


def photographs(folder: Path) -> Path:
    """Five pictures of different sizes in two classes"""
    rng = np.random.default_rng(7)
    for i, (height, width) in enumerate([(43, 59), (61, 47), (53, 53), (71, 41), (47, 83)]):
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        path = folder / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return folder


def load_pictures(folder: Path, size: int | None, memory_bytes: int):
    return image_folder.load(folder, size=size, memory_bytes=memory_bytes, fractions=(1, 0, 0)).train


def train(folder: Path, group: Group) -> dict:
    """Two epochs of SqueezeNet -> the model's state"""
    torch.manual_seed(3)
    f = load_backbone("squeezenet1_1", size=SIDE)
    f.eval()
    model = Model(f, LinearHead(f.feature_dim, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    batches = loader(
        load_pictures(folder, None, 0), f.preprocess, batch_size=BATCH, shuffle=True, augment=AUGMENT,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    model = Parallel(model, group)
    list(fit(model, Shards(batches, group), optimizer, epochs=2))
    return model.state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with workers(timeout_s=120) as group:
        torch.save(train(Path(sys.argv[1]), group), Path(sys.argv[2]) / f"{group.rank}.pt")
