"""Folders as strangers bring them, made on the spot from a seed: real and drawn pictures, laid out in other ways.

| name | pictures | classes | layout |
|---|---|---|---|
| solar cells | photographs of solar cells | type and state, 4, of unequal size | CLASS/NAME.JPG, of 100 to 600 pixels |
| seven things | details of two photographs | 7 things in 4 styles | STYLE/THING/…, JPEG, PNG, WebP, CMYK, 16 bits |
| cut out | what stands in drawn streets | pedestrian, car, bicyclist | train/CLASS/…, val/CLASS/…, from 16 pixels |
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Generator

from sftlib import runtime
from sftlib.datasets import photo_details, solar_cells, street_scenes

VERSION = 1  # of what is drawn: another one gets another folder
STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "photo": lambda image: image,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "poster": lambda image: ImageOps.posterize(image, 2),
    "relief": lambda image: image.filter(ImageFilter.EMBOSS),
}
THINGS = photo_details.DETAILS[:7]
OBJECTS = ("pedestrian", "car", "bicyclist")


def folder(name: str, *, seed: int = 0, count: int = 400) -> Path:
    """One of ``FOLDERS``, made at the first call, in the cache"""
    root = runtime.cache_folder() / f"own_{name.replace(' ', '_')}_v{VERSION}_{seed}_{count}"
    if not root.exists():
        partial = root.with_name(f"{root.name}.{os.getpid()}.partial")
        os.replace(write(partial, name, seed=seed, count=count), root)  # whole or not at all
    return root


def write(root: Path, name: str, *, seed: int = 0, count: int = 400) -> Path:
    """Write the ``count`` pictures of one of ``FOLDERS`` below root -> root"""
    for path, image, how in FOLDERS[name](np.random.default_rng([seed, len(name)]), count):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / path, **how)
    return root


Files = Iterator[tuple[str, Image.Image, dict]]  # path, picture, how it is saved


def cells(rng: np.random.Generator, count: int) -> Files:
    """Solar cells, not one twice"""
    data = solar_cells.load()
    rows = [(part, i) for part in (data.train, data.val, data.test) for i in range(len(part))]
    for n, k in enumerate(rng.choice(len(rows), count, replace=False)):
        part, i = rows[k]
        image = Image.fromarray(part.pictures[i, 0].contiguous().numpy())
        side = int(rng.integers(100, 600))
        name = f"{solar_cells.TYPES[part.types[i]]} {data.classes[part.labels[i]]}"
        yield f"{name}/DSC_{n:04}.JPG", image.resize((side, side), Image.Resampling.BICUBIC), {"quality": 88}


def things(rng: np.random.Generator, count: int) -> Files:
    """Details of photographs in four styles, in every kind of file"""
    photos = {name: photo_details.photograph(name) for name in ("china", "flower")}
    photos = {name: torch.from_numpy(photo).permute(2, 0, 1) for name, photo in photos.items()}
    generator, styles = Generator().manual_seed(int(rng.integers(2**31))), list(STYLES.items())
    for n in range(count):
        thing, (style, change) = THINGS[n % len(THINGS)], styles[n // len(THINGS) % len(styles)]
        side = int(rng.integers(60, 500))
        pixels = photo_details.cut_out(photos[thing.photo], thing, side, torch.rand(4, generator=generator))
        image = change(Image.fromarray((pixels * 255).byte().permute(1, 2, 0).contiguous().numpy()))
        yield _as_kind(f"{style}/{thing.name}/{n:04}", image, n)


def _as_kind(name: str, image: Image.Image, n: int) -> tuple[str, Image.Image, dict]:
    """A picture as one of six kinds of files"""
    kind = n % 6
    if kind == 1:
        return f"{name}.PNG", image, {}
    if kind == 2:
        return f"{name}.webp", image, {"quality": 85}
    if kind == 3:
        return f"{name}.jpeg", image.convert("CMYK"), {"quality": 90}
    if kind == 4 and image.mode == "RGB" and name.startswith("grey"):
        return f"{name}.png", Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), {}
    return f"{name}.jpg", image, {"quality": 85}


def streets(rng: np.random.Generator, count: int) -> Files:
    """Objects cut out of drawn streets with a margin, as many of each"""
    left = {name: -(-count // len(OBJECTS)) for name in OBJECTS}
    scene, seed, n = 0, int(rng.integers(2**20)), 0
    while n < count:
        found = street_scenes.draw(seed, scene, size=(480, 360), objects=OBJECTS)
        picture = Image.fromarray(found.picture.permute(1, 2, 0).contiguous().numpy())
        for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
            name, height = OBJECTS[label - 1], box[3] - box[1]
            if left[name] and n < count and height >= 16:
                left[name] -= 1
                part = "val" if left[name] % 4 == 0 else "train"
                margin = 0.15 * height
                cut = picture.crop(tuple(round(v) for v in (box[0] - margin, box[1] - margin, box[2] + margin,
                                                            box[3] + margin)))  # fmt: skip
                yield f"{part}/{name}/{n:04}.png", cut, {}
                n += 1
        scene += 1


FOLDERS: dict[str, Callable[[np.random.Generator, int], Files]] = {
    "solar cells": cells,
    "seven things": things,
    "cut out": streets,
}
