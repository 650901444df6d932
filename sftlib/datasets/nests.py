"""Examples of any kind, in memory."""

from collections.abc import Sequence
from functools import cached_property, reduce

import torch
from torch import Tensor

from sftlib.batches import check_pair, leaves
from sftlib.batches import rows as rows_of
from sftlib.datasets.splits import Split, checksum, row_numbers


class NestSplit(Split):
    """x and y, nests of N examples in memory (`sftlib.batches`): texts as tokens, sounds as frames, boxes"""

    def __init__(self, x, y, names: Sequence[str] = ()):
        self.x, self.y, self.examples, self.names = x, y, check_pair(x, y), tuple(names)

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, i: int) -> tuple:
        """i -> x, y of one example, nests of 1"""
        return self.batch(torch.tensor([range(len(self))[i]]))

    def batch(self, rows: Tensor) -> tuple:
        """rows (n,) -> x, y of n examples"""
        return rows_of(self.x, rows), rows_of(self.y, rows)

    def subset(self, rows: Tensor | Sequence[int]) -> "NestSplit":
        """rows (M,) -> a split with these M examples, in this order"""
        rows = row_numbers(rows, len(self))
        names = tuple(self.names[i] for i in rows.tolist()) if self.names else ()
        return NestSplit(*self.batch(rows), names)

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of all tensors"""
        return reduce(lambda so_far, t: checksum(t, so_far), leaves((self.x, self.y)), 0)


def trimmed(examples: tuple, generator: torch.Generator) -> tuple:
    """((frames (N, T, F), lengths (N,)), y) -> the same without the frames that are padding in all N, for `nest_loader`

    With ``lengths`` there, examples of like length share a batch, and little of it is padding.
    """
    (frames, lengths), y = examples
    return (frames[:, : int(lengths.max())], lengths), y
