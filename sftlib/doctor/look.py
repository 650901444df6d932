"""What a loader gives: some batches, its labels, and marks by which examples are known again."""

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from sftlib.batches import leaves, rows

SIDE = 16  # of the small pictures that are compared
LEAST_VALUES, LEAST_FRACTIONS = 8, 4  # different numbers in an example: with fewer, two may be equal by chance


@dataclass
class Look:
    """What was seen of a loader. ``labels`` (M,) are one number an example, ``complete``: of all examples."""

    loader: Iterable
    dataset: object
    first: object = None  # a batch, as the loader gives it
    batches: list = field(default_factory=list)  # (x, y) of those read, numbers of large ones left out
    labels: Tensor | None = None
    complete: bool = False  # the labels are those of all examples
    whole: bool = False  # all batches were read
    examples: int = 0  # that were read
    marks: dict[int, int] = field(default_factory=dict)  # checksum of x -> how many
    small: Tensor | None = None  # (M, SIDE²) small grey pictures, centred, of length 1
    finite: bool = True
    sizes: list[int] = field(default_factory=list)


def look_at(loader, seconds: float) -> Look:
    """loader -> what about so many seconds of reading show; ValueError if it gives its batches only once"""
    if not isinstance(loader, Iterable):
        raise ValueError(f"got a {type(loader).__name__} as a loader; expected an iterable of batches")
    dataset = getattr(loader, "split", getattr(loader, "dataset", None))
    look, small, start = Look(loader, dataset), [], time.perf_counter()
    stream = batches_of(loader)
    for batch in stream:
        x, y = pair(batch)
        look.first = batch if look.first is None else look.first
        look.batches.append((x, y) if len(look.batches) < 8 else (None, y))
        _mark(look, x, small)
        if time.perf_counter() - start > seconds:
            break
    else:
        look.whole = True
    stream.close()
    if look.first is None:
        raise ValueError("the loader gives no batch")
    if small and len({s.shape[1:] for s in small}) == 1:
        look.small = torch.cat(small)
    look.labels, look.complete = labels_of(look)
    return look


def batches_of(loader) -> Iterator:
    """The loader's batches, made in this process whatever its workers are"""
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        for picked in loader.batch_sampler if loader.batch_sampler is not None else loader.sampler:
            many = isinstance(picked, Sequence | Tensor)
            fetched = [loader.dataset[i] for i in picked] if many else loader.dataset[picked]
            yield loader.collate_fn(fetched)
        return
    if isinstance(loader, DataLoader) and (loader.num_workers or iter(loader.dataset) is loader.dataset):
        raise ValueError("its data set is a stream that cannot be begun again here")
    iterator = iter(loader)
    if iterator is loader:
        raise ValueError("it gives its batches only once, so looking would use them up; pass the loader itself")
    yield from islice(iterator, 10_000)


def pair(batch) -> tuple:
    """A batch -> x, y; of a Mapping with "labels" x is the rest; y is None where there is none"""
    if isinstance(batch, Mapping):
        y = batch.get("labels")
        return {name: value for name, value in batch.items() if name != "labels"}, y
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        x, y = batch[0], batch[1]
        examples = isinstance(x, tuple) and isinstance(y, (tuple, list)) and len(x) == len(y)
        if examples and all(isinstance(target, Mapping) for target in y):  # pictures and their boxes, by tuple(zip(…))
            return list(x), list(y)
        return x, y
    return (batch[0] if isinstance(batch, (tuple, list)) and batch else batch), None


def _mark(look: Look, x, small: list) -> None:
    tensors = leaves(x)
    n = len(x) if isinstance(x, (Tensor, list)) else next((len(t) for t in tensors if t.ndim), 0)
    look.examples += n
    look.sizes.append(n)
    look.finite &= all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())
    for i in range(n):
        example = leaves(x[i]) if isinstance(x, list) else [t[i] for t in tensors if t.ndim and len(t) == n]
        if mark := mark_of(example):
            look.marks[mark] = look.marks.get(mark, 0) + 1
    if isinstance(x, Tensor) and x.ndim == 4 and x.shape[-1] >= SIDE and x.shape[-2] >= SIDE:
        small.append(smaller(x))


def mark_of(example: list[Tensor]) -> int:
    """A checksum of the tensors of one example; 0 where they say too little to know it again"""
    arrays = [t.detach().cpu().contiguous() for t in example]
    values = torch.cat([t.flatten()[:4096].double() for t in arrays]) if arrays else torch.zeros(0)
    fractions = bool((values != values.round()).any())
    if len(values.unique()) < (LEAST_FRACTIONS if fractions else LEAST_VALUES):
        return 0
    mark = 0
    for t in arrays:
        mark = zlib.crc32(t.view(torch.uint8).numpy().tobytes() if t.ndim else b"", mark)
    return mark


def smaller(x: Tensor) -> Tensor:
    """pictures (N, C, H, W) -> (N, SIDE²), grey, centred, of length 1"""
    grey = F.adaptive_avg_pool2d(x.float().mean(1, keepdim=True), SIDE).flatten(1)
    return F.normalize(grey - grey.mean(1, keepdim=True), dim=1)


# -------------------------------------------------------------------------------------------------- labels and rows


def base_of(dataset) -> tuple[object, Tensor | None]:
    """A data set -> the one that its Subsets are of, and the rows of it (None: all)"""
    picked = None
    while isinstance(dataset, Subset):
        inner = torch.as_tensor(list(dataset.indices), dtype=torch.long)
        picked, dataset = inner if picked is None else inner[picked], dataset.dataset
    return dataset, picked


def per_example(dataset, *names: str):
    """The first of these attributes that has one value an example, those of a Subset's rows alone; None without"""
    base, picked = base_of(dataset)
    for name in names:
        values = getattr(base, name, None)
        if isinstance(values, (Sequence, Tensor, np.ndarray)) and not isinstance(values, str) and _fits(values, base):
            if picked is None:
                return values
            return values[picked] if isinstance(values, Tensor) else [values[i] for i in picked.tolist()]
    return None


def _fits(values, base) -> bool:
    try:
        return len(values) == len(base)
    except TypeError:
        return False


def labels_of(look: Look) -> tuple[Tensor | None, bool]:
    """Labels (M,) of all examples, from the data set, or of those read; and whether they are all"""
    tensors = getattr(base_of(look.dataset)[0], "tensors", ())
    values = per_example(look.dataset, "targets", "labels", "y")
    if values is None and len(tensors) == 2:
        picked = base_of(look.dataset)[1]
        values = tensors[1] if picked is None else tensors[1][picked]
    try:
        given = [y for _, y in look.batches]
        read = torch.cat([y.flatten() for y in given]) if all(_is_labels(y) for y in given) else None
        if read is None:
            return None, False
        known = None if values is None else torch.as_tensor(values).flatten()
    except (TypeError, ValueError, RuntimeError):
        return (read, look.whole) if read is not None else (None, False)
    # A transform of labels would make those of the data set others than those read.
    if known is None or known.is_floating_point() or not set(read.unique().tolist()) <= set(known.unique().tolist()):
        return read, look.whole
    return known.long(), True


def _is_labels(y) -> bool:
    return isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point() and y.dtype is not torch.bool


def trimmed(batch, most: int):
    """A batch -> its first examples; as it is where its parts do not all count as many"""
    given = tuple(batch) if isinstance(batch, list) else batch
    counts = {len(t) for t in leaves(given) if t.ndim}
    if isinstance(given, tuple):
        counts |= {len(part) for part in given if isinstance(part, list)}
    return rows(given, slice(0, most)) if len(counts) == 1 else given
