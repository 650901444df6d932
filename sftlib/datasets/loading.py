"""loader: batches (x, y) from a split, x as the backbone wants it."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from sftlib.datasets.augment import Augment
from sftlib.datasets.splits import take

Preprocess = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Place:
    """Where in an epoch a loader is; `dataclasses.replace(loader, …)` shares it, so both are in the same place."""

    given: int = 0  # batches
    began: Tensor | None = None  # the generator's state before it drew the order of this epoch; None between epochs
    resumed: bool = False


@dataclass(eq=False, kw_only=True, repr=False)
class Loader:
    """What `loader` returns. Iterating gives one epoch; the next iteration goes on with the generator, so it has
    another order. `state_dict` says at any moment, within an epoch too, what the next batch depends on."""

    split: Dataset
    preprocess: Preprocess
    batch_size: int
    shuffle: bool
    augment: Augment | None
    generator: Generator
    drop_last: bool
    place: Place = field(default_factory=Place)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """-> (x (n, 3, H, W), y (n,)) with n = batch_size, or less in the last batch"""
        place = self.place
        if not place.resumed:
            place.given, place.began = 0, self.generator.get_state()
        place.resumed = False
        batches = self._order().split(self.batch_size)[place.given : len(self)]
        return self._counted(batches)

    def state_dict(self) -> dict:
        """What the next batch depends on: the place in the epoch and the generator, as after the last batch given"""
        return {
            "examples": len(self.split),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "given": self.place.given,
            "began": self.place.began,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """The next iteration gives the batches that followed; ValueError for the state of another loader."""
        own = self.state_dict()
        for name in ("examples", "batch_size", "shuffle", "drop_last"):
            if own[name] != state[name]:
                raise ValueError(
                    f"got the place of a loader with {name}={state[name]}, here it is {own[name]}; expected the same: "
                    "build the loader as the run did"
                )
        self.generator.set_state(state["generator"])
        self.place.given, self.place.began = state["given"], state["began"]
        self.place.resumed = state["began"] is not None

    def _order(self) -> Tensor:
        """-> rows (N,) in the order of this epoch; on the pictures' device, so that no batch waits for its rows"""
        n, order = len(self.split), torch.arange(len(self.split))
        if self.shuffle:
            # At the start of an epoch the twin is where the generator is; later the generator is ahead of it.
            twin = Generator(self.generator.device)
            twin.set_state(self.place.began)
            order = torch.randperm(n, generator=twin, device=twin.device).cpu()
            if self.place.given == 0:
                self.generator.set_state(twin.get_state())
        return order.to(self.split.pictures.device) if hasattr(self.split, "pictures") else order

    def _counted(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self._from_memory(batches) if hasattr(self.split, "pictures") else self._one_by_one(batches):
            self.place.given += 1
            yield x, y
        self.place.given, self.place.began = 0, None

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
