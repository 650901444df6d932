"""Pictures that stay in their files: each is read again when its turn comes, ahead of time and in threads."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sftlib.datasets.ahead import ahead
from sftlib.datasets.decode import decode, read_bytes
from sftlib.datasets.printable import shown
from sftlib.datasets.splits import Pictures, Split

THREADS = 2
AHEAD = 3  # batches
AHEAD_BYTES = 2**28  # of decoded pictures


@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """files (N) and labels (N,); a picture uint8 (3, H, W) is read when it is asked for

    With size, shorter side resized and middle square kept, as of pictures in memory; without, each of its own size.
    pixels (N,): of each picture as it is decoded, so that reading ahead keeps to AHEAD_BYTES.
    """

    files: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    size: int | None
    pixels: Tensor | None = None
    bits: int = 16  # that 16-bit files use

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """i -> picture uint8 (3, H, W), label"""
        return torch.from_numpy(self._read(i)), int(self.labels[i])

    def batch(self, rows: Tensor) -> tuple[Pictures, Tensor]:
        """rows (n,) -> pictures uint8 (n, 3, size, size), or without size a list of n (3, h, w); labels (n,)"""
        with closing(self.batches([rows])) as made:
            pictures, labels = next(made)
            return pictures if self.size else list(pictures), labels

    def batches(self, rows: Iterable[Tensor]) -> Iterator[tuple[Pictures, Tensor]]:
        """rows (n,) of one batch after the other -> what `batch` gives for each; of the next ones files are decoded

        Without size the n pictures come one by one, to be used up before the next batch, so that few are in memory.
        """
        rows = list(rows)
        order = [i for some in rows for i in some.tolist()]
        depth = AHEAD * max(map(len, rows), default=1)
        pictures = ahead(self._read, order, threads=THREADS, depth=depth, cost=self._bytes, budget=AHEAD_BYTES)
        try:
            for some in rows:
                mine = (torch.from_numpy(picture) for picture in islice(pictures, len(some)))
                yield torch.stack(list(mine)) if self.size else mine, self.labels[some]
        finally:
            pictures.close()

    def _read(self, i: int) -> np.ndarray:
        """i -> uint8 (3, H, W); no tensor, for PyTorch would give each of these threads threads of its own"""
        try:
            picture = decode(read_bytes(self.files[i]), self.size, bits=self.bits)
        except ValueError as error:
            raise ValueError(f"{shown(self.files[i])} has changed since it was loaded: {error}") from None
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def _bytes(self, i: int) -> int:
        if self.size:
            return 3 * self.size**2
        return 0 if self.pixels is None else 3 * int(self.pixels[i])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} files, size {self.size})"
