"""One look over a folder's pictures: odd ones, copies, and how many there are of each class."""

import io
import os
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sftlib.datasets.decode import FORMATS, in_threads, read_bytes
from sftlib.datasets.splits import PictureSplit, Splits
from sftlib.inspection.copies import copies
from sftlib.inspection.remarks import Remark, Remarks

SMALL, RARE = 20, 10  # pictures of a class; of the most to the rarest class
PARTS = ("train", "val", "test")
SIDE = 96  # pixels that pictures are looked at with, at most
BLUR = 0.1  # of the folder's median sharpness
# cleanvision's names -> ours, with its own thresholds
LOOKS = {"dark": "dark", "light": "bright", "low_information": "little in it"}
SIZES = {"odd_size": "odd size", "odd_aspect_ratio": "odd shape"}


def look_over(data: Splits, root: str | os.PathLike | None = None) -> Remarks:
    """Splits with pictures in memory -> what is odd about them; with the folder ``root``, sizes of the files too

    Dark, bright, empty, oddly large or long: by the measures and thresholds of cleanvision, on what the network will
    see. Blurred: next to the others of the folder, which may all be soft. ValueError where pictures stay in their
    files: load with size=…, and enough memory_bytes.
    """
    parts = {name: part for name in PARTS if len(part := getattr(data, name))}
    if not all(isinstance(part, PictureSplit) for part in parts.values()):
        raise ValueError("got pictures that stay in their files; expected them in memory: image_folder.load(…, size=…)")
    names = [name for part in parts.values() for name in part.names]
    labels = torch.cat([part.labels for part in parts.values()]).tolist()
    where = [split for split, part in parts.items() for _ in part.names]
    pictures = torch.cat([part.pictures for part in parts.values()])
    found = [*_looks(names, pictures), *_blurred(names, pictures), *_of_classes(labels, data.classes)]
    if root is not None:
        found += _sizes(names, Path(root))
    found += _copies(names, labels, where, pictures, data.classes)
    return Remarks(found, pictures=len(names))


def _looks(names: list[str], pictures: Tensor) -> list[Remark]:
    step = max(1, pictures.shape[-1] // SIDE)
    images = (Image.fromarray(p[:, ::step, ::step].permute(1, 2, 0).contiguous().numpy()) for p in pictures)
    return _judged(names, images, LOOKS)


def _blurred(names: list[str], pictures: Tensor) -> list[Remark]:
    """Sharpness: mean square of the Laplacian over the variance, of grey values"""
    grey = torch.cat([F.interpolate(p.float().mean(1, keepdim=True), (SIDE, SIDE), mode="area")
                      for p in pictures.split(256)])  # fmt: skip
    edges = F.conv2d(grey, torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]]))
    variance = grey.var((1, 2, 3))
    sharpness = edges.square().mean((1, 2, 3)) / variance.clamp_min(1.0)
    usual = sharpness[variance > 1].median() if (variance > 1).any() else 0.0
    rows = ((sharpness < BLUR * usual) & (variance > 1)).nonzero().flatten().tolist()
    return [Remark("blurred", names[i], f"sharpness {sharpness[i] / usual:.2f} of the usual") for i in rows]


def _sizes(names: list[str], root: Path) -> list[Remark]:
    """Sizes as the files' heads say them; files whose names cannot be found again are passed over"""
    here = [name for name in names if (root / name).is_file()]
    sizes = list(in_threads(lambda name: _size(root / name), here))
    return _judged(here, map(_Outline, sizes), SIZES) if here else []


class _Outline:
    """What cleanvision asks of a picture whose size alone is looked at"""

    def __init__(self, size: tuple[int, int]):
        self.size = size


def _size(path: Path) -> tuple[int, int]:
    Image.init()
    with Image.open(io.BytesIO(read_bytes(path)), formats=[f for f in FORMATS if f in Image.OPEN]) as image:
        return image.size


def _judged(names: list[str], images, kinds: dict[str, str]) -> list[Remark]:
    """Measures and thresholds of cleanvision, whose own loop draws a bar and starts processes"""
    import pandas as pd  # these two late: they take a second
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    manager = ImagePropertyIssueManager()
    measures = {issue: manager.image_properties[issue] for issue in kinds}
    each = {type(measure): measure for measure in measures.values()}.values()  # dark and bright are measured together
    raw = pd.DataFrame([{k: v for measure in each for k, v in measure.calculate(image).items()} for image in images])
    found = []
    for issue, kind in kinds.items():
        settings = dict(manager.params[issue])
        threshold = settings.pop("threshold", None)
        scores = measures[issue].get_scores(raw_scores=raw, issue_type=issue, **settings)
        marked = measures[issue].mark_issue(scores, issue, threshold)
        for i in marked.index[marked[f"is_{issue}_issue"]]:
            score = scores[f"{issue}_score"][i]
            words = _size_in_words(raw, i) if kind in SIZES.values() else f"score {score:.2f}"
            found.append(Remark(kind, names[i], words))
    return found


def _size_in_words(raw, i: int) -> str:
    """What is odd of the size of row i, in words"""
    return f"{raw['size'][i]:.0f} pixels a side on average, the shorter side {raw['aspect_ratio'][i]:.2f} of the longer"


def _of_classes(labels: list[int], classes: tuple[str, ...]) -> list[Remark]:
    counts = Counter(labels)
    most = max(counts.values())
    found = [Remark("small class", classes[k], f"{n} pictures") for k, n in sorted(counts.items()) if n < SMALL]
    return found + [
        Remark("rare class", classes[k], f"{n} pictures; the most frequent class has {most}")
        for k, n in sorted(counts.items())
        if n * RARE <= most
    ]


def _copies(names, labels, where, pictures: Tensor, classes: tuple[str, ...]) -> list[Remark]:
    found = []
    for i, j, distance in copies(pictures):
        keep, out = sorted((i, j), key=lambda row: (-PARTS.index(where[row]), row))  # what is tested stays as it is
        if labels[i] != labels[j]:
            kind, what = "copy in another class", f"{classes[labels[out]]}, the other is {classes[labels[keep]]}"
        elif where[i] != where[j]:
            kind, what = "copy in another part", f"in {where[out]}, the other in {where[keep]}"
        else:
            kind, what = "copy", f"in {where[out]}"
        found.append(Remark(kind, names[out], f"{what}: {names[keep]} (distance {distance:.2f})", names[keep]))
    return found
