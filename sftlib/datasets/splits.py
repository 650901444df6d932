"""What every dataset gives: three splits, each a map-style Dataset of (picture uint8 (3, H, W), label)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset


def take(pictures: Tensor, rows: Tensor) -> Tensor:
    """pictures (N, 3, H, W), rows (M,) -> (M, 3, H, W)

    Grey pictures stand in memory once and are shown as three equal channels (stride 0); they stay so.
    """
    if pictures.stride(1) == 0:
        return pictures[:, :1][rows].expand(-1, pictures.shape[1], -1, -1)
    return pictures[rows]


@dataclass(frozen=True, eq=False)
class PictureSplit(Dataset):
    """pictures uint8 (N, 3, H, W) and labels (N,), in memory; names (N) say where each picture came from."""

    pictures: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """i -> picture uint8 (3, H, W), label; the picture is a copy"""
        return self.pictures[i].clone(memory_format=torch.contiguous_format), int(self.labels[i])

    def subset(self, rows: Tensor) -> "PictureSplit":
        """rows (M,) -> the same kind of split with these M examples, in this order"""
        rows = torch.as_tensor(rows, dtype=torch.long)
        return replace(self, **{f.name: _rows_of(getattr(self, f.name), rows) for f in fields(self)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pictures {tuple(self.pictures.shape)})"


def _rows_of(column: Tensor | tuple, rows: Tensor) -> Tensor | tuple:
    if isinstance(column, tuple):
        return tuple(column[i] for i in rows.tolist())
    return take(column, rows) if column.ndim == 4 else column[rows]


@dataclass(frozen=True, eq=False)
class Splits:
    """train, val and test, and the class names that their labels index. A split may be empty (length 0)."""

    train: Dataset
    val: Dataset
    test: Dataset
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()  # files that were passed over (image_folder)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(getattr(self, name)):,}" for name in ("train", "val", "test"))
        return f"Splits({sizes}; classes {', '.join(self.classes)})"


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
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise ValueError(
            f"got fractions={tuple(fractions)}; expected the shares of train, val and test, none negative, "
            "train above 0, together 1: for example (0.7, 0.15, 0.15)"
        )
