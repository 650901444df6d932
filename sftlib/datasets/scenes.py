"""Pictures with boxes, masks and class maps: what detectors and segmenters learn from, drawn or read from files."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from sftlib.datasets.splits import Split, Splits, row_numbers

IGNORED = 255  # in a class map: pixels that count for nothing
KEEP_BYTES = 2**30  # of pictures in memory; others are made again when they are asked for

# "boxes" (n, 4), "labels" (n,); where known "masks" (n, H, W) bool, "class_map" (H, W) uint8
Target = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Scene:
    """picture uint8 (3, H, W); boxes (n, 4) x1 y1 x2 y2 in pixels, x2 and y2 beyond the last one; labels (n,) from 1

    objects (H, W): 0, or i + 1 where box i's object is seen; class_map uint8 (H, W). Either may be None.
    """

    picture: Tensor
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    objects: Tensor | None = None
    class_map: Tensor | None = None

    @property
    def target(self) -> Target:
        """{"boxes" (n, 4), "labels" (n,)} and, where known, "masks" (n, H, W) bool and "class_map" (H, W) uint8"""
        target = {"boxes": self.boxes.clone(), "labels": self.labels.clone()}
        if self.objects is not None:
            numbers = torch.arange(1, len(self.boxes) + 1, dtype=self.objects.dtype)
            target["masks"] = self.objects[None] == numbers[:, None, None]
        if self.class_map is not None:
            target["class_map"] = self.class_map.clone()
        return target

    @property
    def bytes(self) -> int:
        """That it takes in memory"""
        parts = (self.picture, self.boxes, self.labels, self.objects, self.class_map)
        return sum(t.numel() * t.element_size() for t in parts if t is not None)


class SceneSplit(Split):
    """Scenes that ``make(row)`` gives, for each of rows; names say where they come from

    What was made is kept while it takes less than KEEP_BYTES. ``identity`` tells one make from another.
    """

    def __init__(
        self, make: Callable[[int], Scene], rows: Sequence[int], names: Sequence[str], identity: str,
        kept: dict[int, Scene] | None = None,
    ):  # fmt: skip
        self.make, self.rows, self.names, self.identity = make, tuple(rows), tuple(names), identity
        self._kept = {} if kept is None else kept

    def __len__(self) -> int:
        return len(self.rows)

    def scene(self, i: int) -> Scene:
        """i -> the scene"""
        row = self.rows[i]
        if row in self._kept:
            return self._kept[row]
        scene = self.make(row)
        if sum(other.bytes for other in self._kept.values()) + scene.bytes <= KEEP_BYTES:
            self._kept[row] = scene
        return scene

    def __getitem__(self, i: int) -> tuple[Tensor, Target]:
        """i -> picture uint8 (3, H, W), target; copies"""
        scene = self.scene(range(len(self))[i])
        return scene.picture.clone(), scene.target

    def batch(self, rows: Tensor) -> tuple[list[Tensor], list[Target]]:
        """rows (n,) -> n pictures uint8 (3, H, W), n targets"""
        pairs = [self[i] for i in rows.tolist()]
        return [picture for picture, _ in pairs], [target for _, target in pairs]

    def subset(self, rows: Tensor | Sequence[int]) -> "SceneSplit":
        """rows (M,) -> a split with these M scenes, in this order"""
        rows = row_numbers(rows, len(self)).tolist()
        chosen, names = [self.rows[i] for i in rows], [self.names[i] for i in rows]
        return SceneSplit(self.make, chosen, names, self.identity, self._kept)

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of what makes the scenes, their rows and names"""
        return zlib.crc32(repr((self.identity, self.rows, self.names)).encode("utf-8", "surrogateescape"))

    def __repr__(self) -> str:
        return f"SceneSplit({len(self):,} scenes)"


@dataclass(frozen=True, repr=False, eq=False)
class SceneSplits(Splits):
    """Splits of scenes. classes name what class maps hold, where there are any; objects what labels of boxes mean"""

    objects: tuple[str, ...] = ("background",)


Augment = Callable[[Tensor, Target, Generator], tuple[Tensor, Target]]


@dataclass(frozen=True)
class ForDetection:
    """(pictures, targets), generator -> x = ([N of (3, H, W) float], targets), y = targets {"boxes", "labels"}

    What a loader makes of a batch for `sftlib.model.detection`; normalise is ``backbone.preprocess.normalise``.
    """

    normalise: Callable[[Tensor], Tensor]
    augment: Augment | None = None

    def __call__(self, examples: tuple[list[Tensor], list[Target]], generator: Generator) -> tuple:
        pictures, targets = _augmented(examples, self.augment, generator)
        targets = [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets]
        return ([self.normalise(p[None])[0] for p in pictures], targets), targets


@dataclass(frozen=True)
class ForSegmentation:
    """(pictures, targets), generator -> x (N, 3, H, W) float, y int64 (N, H, W), 255 where nothing counts

    ValueError for scenes without class maps, and for pictures of different sizes.
    """

    normalise: Callable[[Tensor], Tensor]
    augment: Augment | None = None

    def __call__(self, examples: tuple[list[Tensor], list[Target]], generator: Generator) -> tuple[Tensor, Tensor]:
        pictures, targets = _augmented(examples, self.augment, generator)
        if any("class_map" not in t for t in targets):
            raise ValueError("got scenes without class maps; expected street_scenes or camvid")
        sizes = {tuple(p.shape[1:]) for p in pictures}
        if len(sizes) > 1:
            raise ValueError(
                f"got pictures of {sorted(sizes)[:3]} pixels in one batch; expected one size: load them with "
                "size=(width, height)"
            )
        return self.normalise(torch.stack(pictures)), torch.stack([t["class_map"] for t in targets]).long()


def _augmented(examples, augment: Augment | None, generator: Generator) -> tuple[list[Tensor], list[Target]]:
    pairs = list(zip(*examples, strict=True))
    if augment is not None:
        pairs = [augment(picture, target, generator) for picture, target in pairs]
    return [p for p, _ in pairs], [t for _, t in pairs]


def boxes_of(objects: np.ndarray, n: int) -> Tensor:
    """objects (H, W) with the numbers 1 … n -> boxes (n, 4), tight: x2 and y2 one beyond the last pixel"""
    boxes = np.zeros((n, 4), np.float32)
    for i in range(n):
        rows, columns = np.nonzero(objects == i + 1)
        boxes[i] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return torch.from_numpy(boxes)


def boxes_around(masks: Tensor) -> Tensor:
    """masks bool (n, H, W), none of them empty -> boxes (n, 4), tight: x2 and y2 one beyond the last pixel"""
    columns, rows = masks.any(dim=1).byte(), masks.any(dim=2).byte()  # (n, W), (n, H)
    if not columns.any(dim=1).all():
        raise ValueError("got a mask without a pixel; expected at least one in each: leave empty ones out")
    edges = [columns.argmax(1), rows.argmax(1), columns.shape[1] - columns.flip(1).argmax(1),
             rows.shape[1] - rows.flip(1).argmax(1)]  # fmt: skip
    return torch.stack(edges, dim=1).float()


def resized(scene: Scene, size: tuple[int, int] | None) -> Scene:
    """A scene at (width, height): the picture antialiased, maps by their nearest pixel, boxes scaled"""
    H, W = scene.picture.shape[1:]
    if size is None or (W, H) == tuple(size):
        return scene
    width, height = size
    image = Image.fromarray(scene.picture.numpy().transpose(1, 2, 0)).resize((width, height), Image.Resampling.BILINEAR)
    picture = torch.from_numpy(np.ascontiguousarray(np.array(image).transpose(2, 0, 1)))
    factors = torch.tensor([width / W, height / H] * 2)
    objects, class_map = (
        None if m is None else torch.from_numpy(nearest(m.numpy(), height, width))
        for m in (scene.objects, scene.class_map)
    )
    return Scene(picture, scene.boxes * factors, scene.labels, objects, class_map)


def nearest(values: Tensor | np.ndarray, height: int, width: int) -> Tensor | np.ndarray:
    """values (…, H, W) of any type -> (…, height, width): each pixel that of its middle; labels are never mixed"""
    H, W = values.shape[-2:]
    rows = ((np.arange(height) + 0.5) * H / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * W / width).astype(np.int64)
    return values[..., rows[:, None], columns]


def check_picture_size(size: tuple[int, int] | None, optional: bool = True) -> None:
    """ValueError unless size is (width, height) in pixels, or None where that means as they are"""
    if size is None and optional:
        return
    pair = isinstance(size, tuple | list) and len(size) == 2
    whole = pair and all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in size)
    if not whole or not all(32 <= n <= 4096 for n in size):
        raise ValueError(f"got size={size!r}; expected (width, height) in pixels, each 32 to 4096, as (320, 240)")
