"""What every dataset gives: three splits, each a map-style Dataset of (picture uint8 (3, H, W), label)."""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sftlib.inputs import tensor

Pictures = Tensor | Iterable[Tensor]  # uint8 (n, 3, H, W), or n of (3, h, w), each of a size of its own


def take(pictures: Tensor, rows: Tensor) -> Tensor:
    """pictures (N, 3, H, W), rows (M,) -> (M, 3, H, W)

    Grey pictures stand in memory once and are shown as three equal channels (stride 0); they stay so.
    """
    if pictures.stride(1) == 0:
        return pictures[:, :1][rows].expand(-1, pictures.shape[1], -1, -1)
    return pictures[rows]


class Split(Dataset):
    """Labelled examples: what `loader` takes. A kind of split says how a batch of its rows is had (`batch`)."""

    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where its batches are made"""
        return torch.device("cpu")

    def batch(self, rows: Tensor) -> tuple[Pictures, Tensor]:
        """rows (n,) -> pictures uint8 (n, 3, H, W), or a list of n (3, h, w) of different sizes; labels (n,)"""
        raise NotImplementedError

    def batches(self, rows: Iterable[Tensor]) -> Iterator[tuple[Pictures, Tensor]]:
        """rows (n,) of one batch after the other -> what `batch` gives for each, when it is asked for"""
        for some in rows:
            yield self.batch(some)

    def subset(self, rows: Tensor | Sequence[int]) -> "Split":
        """rows (M,) -> the same kind of split with these M examples, in this order"""
        rows = row_numbers(rows, len(self))
        return replace(self, **{f.name: _rows_of(getattr(self, f.name), rows) for f in fields(self)})

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of names and labels, by which a run that goes on knows its examples"""
        return checksum(self.labels, zlib.crc32(repr(self.names).encode("utf-8", "surrogateescape")))


@dataclass(frozen=True, eq=False)
class PictureSplit(Split):
    """pictures uint8 (N, 3, H, W) and labels (N,), in memory; names (N) say where each picture came from.

    Arrays of NumPy become tensors. ValueError unless all of them are N.
    """

    pictures: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _column(getattr(self, f.name), f.name))
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"got {', '.join(f'{n} {name}' for name, n in lengths.items())}; expected as many of one as of the "
                "other: each picture has a label and a name"
            )
        pictures = self.pictures
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(
                f"got pictures {pictures.dtype} of shape {tuple(pictures.shape)}; expected torch.uint8 (N, 3, H, W), "
                "values 0 to 255, channels first (grey: pictures.expand(-1, 3, -1, -1))"
            )

    @property
    def device(self) -> torch.device:
        """Where pictures and labels are"""
        return self.pictures.device

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """i -> picture uint8 (3, H, W), label; the picture is a copy"""
        return self.pictures[i].clone(memory_format=torch.contiguous_format), _plain(self.labels[i])

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows (n,) -> pictures uint8 (n, 3, H, W), labels (n,)"""
        return take(self.pictures, rows), self.labels[rows]

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of names, labels and the middle row of every picture"""
        return checksum(self.pictures[:, 0, self.pictures.shape[2] // 2], super().fingerprint)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pictures {tuple(self.pictures.shape)})"


class Examples(Split):
    """Any map-style dataset of (picture uint8 (3, h, w), label) as a split; each picture may have its own size"""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """i -> picture uint8 (3, h, w), label"""
        return self.dataset[i]

    def batch(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """rows (n,) -> n pictures (3, h, w), labels (n,)"""
        pictures, labels = zip(*(_example(self.dataset[i], i) for i in rows.tolist()), strict=True)
        return list(pictures), torch.stack(labels)

    def subset(self, rows: Tensor | Sequence[int]) -> "Examples":
        """rows (M,) -> a split with these M examples, in this order"""
        return Examples(torch.utils.data.Subset(self.dataset, row_numbers(rows, len(self)).tolist()))

    @cached_property
    def fingerprint(self) -> int:
        """0: nothing is known of the examples but by reading them all"""
        return 0


def checksum(t: Tensor, before: int) -> int:
    """A checksum of the tensor, and of what went before"""
    if t.is_meta:
        return before
    t = t.cpu().contiguous()
    t = t.view(torch.int16) if t.dtype is torch.bfloat16 else t  # NumPy has no bfloat16
    return zlib.crc32(t.numpy().tobytes(), before)


def _example(example: object, i: int) -> tuple[Tensor, Tensor]:
    """What a dataset gave for i -> picture (3, h, w), label () or (…)"""
    try:
        picture, label = example
        picture, label = tensor(picture, "picture"), tensor(label, "label")
        if picture.ndim == 3:
            return picture, label
        raise ValueError
    except (TypeError, ValueError, RuntimeError):
        got = " ".join(repr(example).split())
        raise ValueError(
            f"got a {type(example).__name__} from the dataset's row {i}, {got:.60}; expected (picture uint8 (3, h, w), "
            "label), tensors or arrays and a number: a transform in the dataset can bring it there"
        ) from None


def row_numbers(rows: Tensor | Sequence[int], n: int) -> Tensor:
    """rows of a split of n examples -> the same, integers (M,); ValueError for others, a mask of booleans among them"""
    rows = tensor(rows, "rows")
    if rows.dtype == torch.bool or rows.is_floating_point() and rows.numel() > 0 or rows.ndim != 1:
        raise ValueError(
            f"got rows {rows.dtype} of shape {tuple(rows.shape)}; expected row numbers, integers (M,): of a mask take "
            "mask.nonzero().flatten()"
        )
    rows = rows.long()
    if len(rows) and not (0 <= int(rows.min()) and int(rows.max()) < n):
        raise ValueError(f"got rows from {int(rows.min())} to {int(rows.max())}; expected 0 to {n - 1}")
    return rows


def _rows_of(column: Tensor | tuple | int | None, rows: Tensor) -> Tensor | tuple | int | None:
    if isinstance(column, tuple):
        return tuple(column[i] for i in rows.tolist())
    if not isinstance(column, Tensor):  # a setting, the same for all rows
        return column
    rows = rows.to(column.device)
    return take(column, rows) if column.ndim == 4 else column[rows]


def _column(values: object, name: str) -> Tensor | tuple[str, ...]:
    """One value a row: names as a tuple, anything else as a tensor (N, …)"""
    if name == "names":
        if isinstance(values, str) or not isinstance(values, Iterable) or not all(isinstance(v, str) for v in values):
            raise ValueError(f"got names={values!r:.80}; expected one text for each picture, in a tuple")
        return tuple(values)
    column = tensor(values, name)
    if column.ndim == 0:
        raise ValueError(f"got {name}={values!r:.80}; expected one for each picture")
    return column


def _plain(label: Tensor) -> int | Tensor:
    """A label as a whole number; one of several numbers, or with a fraction, stays a tensor"""
    return label if label.ndim or label.is_floating_point() else int(label)


@dataclass(frozen=True, eq=False)
class Splits:
    """train, val and test, and the class names that their labels index. A split may be empty (length 0)."""

    train: Dataset
    val: Dataset
    test: Dataset
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()  # files that were passed over (image_folder)
    broken: tuple[str, ...] = ()  # files that cannot be read, with the reason (image_folder, skip_broken=True)
    notes: tuple[str, ...] = ()  # what was left out, and why (news, sentiment)

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            if not isinstance(part, Dataset):
                raise ValueError(f"got {name}={part!r:.80}; expected three splits, train, val and test, then classes")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(getattr(self, name)):,}" for name in ("train", "val", "test"))
        left_out = f"; {len(self.broken):,} broken files left out" if self.broken else ""
        return f"Splits({sizes}; classes {', '.join(self.classes)}{left_out})"


def stratified_split(
    strata: Tensor, fractions: Sequence[float], generator: torch.Generator, groups: Tensor | None = None
) -> list[Tensor]:
    """strata (N,) -> for each fraction its rows, ascending: a partition of 0 … N-1

    Each stratum is cut by itself, so that every part has the same mixture; what rounding takes from a part in
    one stratum it gets back in the next. Rows with one number in groups (N,) stay together; the fractions then
    count groups (one that spans strata goes where the last of them puts it). A stratum gives each part whose
    fraction is not 0 at least one group as far as it has enough.
    """
    check_fractions(fractions)
    groups = torch.arange(len(strata)) if groups is None else groups
    part_of_group = torch.empty(int(groups.max()) + 1, dtype=torch.long)
    owed = [0.0] * len(fractions)
    for stratum in strata.unique():  # ascending
        members = groups[strata == stratum].unique()
        order = members[torch.randperm(len(members), generator=generator)]
        due = [f * len(order) + o for f, o in zip(fractions, owed, strict=True)]
        sizes = _whole_numbers(due, len(order))
        owed = [d - size for d, size in zip(due, sizes, strict=True)]
        for part, chunk in enumerate(order.split(_one_each(sizes, fractions))):
            part_of_group[chunk] = part
    return [(part_of_group[groups] == part).nonzero().flatten() for part in range(len(fractions))]


def _whole_numbers(due: Sequence[float], total: int) -> list[int]:
    """due, which sums to total -> whole numbers that do: one after the other goes where most is still due"""
    sizes = [0] * len(due)
    for _ in range(total):
        sizes[max(range(len(due)), key=lambda i: due[i] - sizes[i])] += 1
    return sizes


def _one_each(sizes: Sequence[int], fractions: Sequence[float]) -> list[int]:
    """the same sum, where every part with a fraction has at least 1 if the largest can spare it"""
    sizes = list(sizes)
    for i, f in enumerate(fractions):
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        if f > 0 and sizes[i] == 0 and sizes[largest] > 1:
            sizes[i], sizes[largest] = 1, sizes[largest] - 1
    return sizes


def check_fractions(fractions: Sequence[float]) -> None:
    """ValueError unless fractions are shares of one whole, the first of them above 0"""
    fractions = tuple(fractions) if isinstance(fractions, Iterable) else (fractions,)
    shares = [f if isinstance(f, int | float | np.number) else math.nan for f in fractions]
    if not shares or not all(0 <= f <= 1 for f in shares) or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise ValueError(
            f"got fractions={fractions}; expected the shares of train, val and test, none negative, "
            "train above 0, together 1: for example (0.7, 0.15, 0.15)"
        )


def check_three_fractions(fractions: Sequence[float]) -> None:
    """ValueError unless fractions are the shares of train, val and test"""
    check_fractions(fractions)
    if len(fractions) != 3:
        raise ValueError(
            f"got fractions={tuple(fractions)}; expected three shares, of train, val and test: (0.8, 0.2, 0) has no "
            "test split"
        )


def check_seed(seed: int) -> None:
    """ValueError unless a generator can be seeded with it"""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ValueError(f"got seed={seed!r}; expected a whole number, 0 or more")
