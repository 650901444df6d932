"""Which rows make the batches of an epoch."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from sftlib.inputs import tensor


@dataclass(frozen=True, eq=False)
class Order:
    """Which rows make each batch of an epoch: all in their order, shuffled, or drawn with repetition by ``weights``."""

    examples: int
    batch_size: int
    shuffle: bool = False
    drop_last: bool = False
    weights: Tensor | None = None  # (N,)

    def __len__(self) -> int:
        """Batches of an epoch"""
        whole, rest = divmod(self.examples, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def repeats(self) -> bool:
        """Whether an epoch may give a row twice"""
        return self.weights is not None

    def __call__(self, generator: Generator) -> list[Tensor]:
        """-> rows (n,) of each batch, drawn from ``generator``"""
        return list(self._rows(generator).cpu().split(self.batch_size)[: len(self)])

    def state(self) -> dict:
        """What tells this order from another, as plain values"""
        weights = 0 if self.weights is None else zlib.crc32(self.weights.numpy().tobytes())
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weights"}
        return kept | {"weights": weights}

    def _rows(self, generator: Generator) -> Tensor:
        if self.weights is not None:
            sums = self.weights.cumsum(0)
            draws = torch.rand(self.examples, generator=generator, device=generator.device, dtype=sums.dtype)
            last = int(self.weights.nonzero()[-1])  # rounding may reach the end
            return torch.searchsorted(sums, draws.cpu() * sums[-1], right=True).clamp(max=last)
        if self.shuffle:
            return torch.randperm(self.examples, generator=generator, device=generator.device)
        return torch.arange(self.examples)


@dataclass(frozen=True, eq=False)
class ByLength(Order):
    """Batches of examples of like ``lengths`` (N,), in another order each epoch: little of a batch is padding

    Shuffled examples are sorted within windows of 50 batches; the batches of all windows are then shuffled.
    """

    lengths: Tensor | None = None

    def __call__(self, generator: Generator) -> list[Tensor]:
        """-> rows (n,) of each batch, drawn from ``generator``"""
        order, window = self._rows(generator).cpu(), 50 * self.batch_size
        windows = [some[self.lengths[some].argsort(stable=True)] for some in order.split(window)]
        batches = [rows for some in windows for rows in some.split(self.batch_size)]
        if self.drop_last:
            batches = [rows for rows in batches if len(rows) == self.batch_size]
        if not self.shuffle:
            return batches
        places = torch.randperm(len(batches), generator=generator, device=generator.device).tolist()
        return [batches[i] for i in places]

    def state(self) -> dict:
        """What tells this order from another, as plain values"""
        kept = {name: value for name, value in super().state().items() if name != "lengths"}
        return kept | {"lengths": zlib.crc32(self.lengths.numpy().tobytes())}


def checked_order(order: Order) -> Order:
    """The same; ValueError unless it has a batch."""
    n, batch_size = order.examples, order.batch_size
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"got batch_size={batch_size!r}; expected a whole number of examples, 1 or more")
    if n == 0:
        raise ValueError("got an empty split; expected at least one example: look at the dataset's fractions")
    if order.drop_last and n < batch_size:
        raise ValueError(
            f"got drop_last with {n} examples and batch_size={batch_size}; no batch would be left: take a smaller "
            "batch_size"
        )
    return order


def draw_weights(weights: Tensor | Sequence[float], n: int) -> Tensor:
    """-> float64 (n,) on the CPU; ValueError unless they can be drawn by"""
    weights = tensor(weights, "weights").detach().cpu().double()
    if weights.shape != (n,) or not weights.isfinite().all() or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(
            f"got weights of shape {tuple(weights.shape)} from {weights.min():g} to {weights.max():g}; expected one "
            f"for each of the {n} examples, ({n},), finite, none negative, not all 0"
            if weights.numel()
            else f"got no weights; expected one for each of the {n} examples"
        )
    return weights / weights.max()  # their sum is finite
