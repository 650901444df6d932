"""loader: batches (x, y) from a split, x as the backbone wants it."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from sftlib.datasets.augment import Augment
from sftlib.datasets.splits import take

Preprocess = Callable[[Tensor], Tensor]


@dataclass(eq=False, kw_only=True, repr=False)
class Loader:
    """What `loader` returns. Iterating gives one epoch; the next iteration goes on with the generator, so it has
    another order. A checkpoint that stores `generator.get_state()` between epochs can continue the sequence."""

    split: Dataset
    preprocess: Preprocess
    batch_size: int
    shuffle: bool
    augment: Augment | None
    generator: Generator
    drop_last: bool

    def __len__(self) -> int:
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """-> (x (n, 3, H, W), y (n,)) with n = batch_size, or less in the last batch"""
        n = len(self.split)
        order = torch.arange(n)
        if self.shuffle:
            order = torch.randperm(n, generator=self.generator, device=self.generator.device).cpu()
        batches = order.split(self.batch_size)[: len(self)]
        return self._from_memory(batches) if hasattr(self.split, "pictures") else self._one_by_one(batches)

    def _from_memory(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in batches:
            pictures = take(self.split.pictures, rows)
            yield self.preprocess(self._augmented(pictures)), self.split.labels[rows]

    def _one_by_one(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        for examples in _decoded_ahead(self.split, batches):
            xs = [self.preprocess(self._augmented(picture[None])[0]) for picture, _ in examples]
            yield _stack(xs), torch.tensor([label for _, label in examples])

    def _augmented(self, pictures: Tensor) -> Tensor:
        return pictures if self.augment is None else self.augment(pictures, self.generator)


def loader(
    split: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    augment: Augment | None = None,
    generator: Generator | None = None,
    drop_last: bool = False,
) -> Loader:
    """split of (picture uint8 (3, H, W), label) -> iterable of (x (N, 3, H, W), y (N,)), x = preprocess(pictures)

    A split with `.pictures` lives in memory and is cut into batches; any other is read one by one, its files
    decoded ahead in threads that touch no tensor, and preprocess then sees one picture (3, H, W) at a time.
    shuffle and augment draw from generator and nothing else; without one, a new generator takes the seed of
    torch's global one (`torch.initial_seed()`), whose own state is left alone.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"got batch_size={batch_size!r}; expected a whole number of pictures, 1 or more")
    if len(split) == 0:
        raise ValueError("got an empty split; expected at least one example: look at the dataset's fractions")
    if drop_last and len(split) < batch_size:
        raise ValueError(
            f"got drop_last with {len(split)} examples and batch_size={batch_size}; no batch would be left: "
            "take a smaller batch_size"
        )
    return Loader(
        split=split,
        preprocess=preprocess,
        batch_size=batch_size,
        shuffle=shuffle,
        augment=augment,
        generator=generator or Generator().manual_seed(torch.initial_seed()),
        drop_last=drop_last,
    )


def _decoded_ahead(split: Dataset, batches: tuple[Tensor, ...]) -> Iterator[list[tuple[Tensor, int]]]:
    """batches of rows (n,) -> n examples each; the files of the next batch are decoded during this one"""
    if not hasattr(split, "read"):  # any other map-style dataset
        for rows in batches:
            yield [split[i] for i in rows.tolist()]
        return
    with ThreadPoolExecutor(2) as pool:
        ahead: deque = deque()
        try:
            for rows in batches:
                ahead.append((rows, [pool.submit(split.read, i) for i in rows.tolist()]))
                if len(ahead) > 1:
                    yield _examples(split, *ahead.popleft())
            while ahead:
                yield _examples(split, *ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _examples(split: Dataset, rows: Tensor, reads: list) -> list[tuple[Tensor, int]]:
    pictures = [torch.from_numpy(read.result()).permute(2, 0, 1) for read in reads]  # (H, W, 3) -> (3, H, W)
    return list(zip(pictures, split.labels[rows].tolist(), strict=True))


def _stack(xs: list[Tensor]) -> Tensor:
    shapes = {tuple(x.shape) for x in xs}
    if len(shapes) > 1:
        raise ValueError(
            f"got pictures of different shapes in one batch, {sorted(shapes)[:3]}; expected one shape after "
            "preprocess: use a backbone's preprocess, or load the pictures with size=…"
        )
    return torch.stack(xs)
