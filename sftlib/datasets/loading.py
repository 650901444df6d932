"""loader: batches (x, y) from a split, x as the backbone wants it."""

import zlib
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from sftlib.datasets.augment import Augment
from sftlib.datasets.splits import Examples, Pictures, Split
from sftlib.inputs import tensor

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

    split: Split
    preprocess: Preprocess
    batch_size: int
    shuffle: bool
    augment: Augment | None
    generator: Generator
    drop_last: bool
    weights: Tensor | None = None  # (N,)
    share: Callable[[int], slice] | None = None  # of n rows of a batch those that are given; None: all
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

    @property
    def redraws(self) -> bool:
        """Whether an epoch gives others than the examples of the split: augmented, or drawn with repetition"""
        return self.augment is not None or self.weights is not None

    def state_dict(self) -> dict:
        """What the next batch depends on: the place in the epoch and the generator, as after the last batch given"""
        return {
            "examples": len(self.split),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "weights": 0 if self.weights is None else zlib.crc32(self.weights.numpy().tobytes()),
            "data": self.split.fingerprint,
            "given": self.place.given,
            "began": self.place.began,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """The next iteration gives the batches that followed; ValueError for the state of another loader."""
        own = self.state_dict()
        if not isinstance(state, dict):
            raise ValueError(f"got a {type(state).__name__}; expected what state_dict of a loader gives")
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"got the place of a loader without {missing}; expected what state_dict of a loader gives")
        for name in ("examples", "data", "batch_size", "shuffle", "drop_last", "weights"):
            if own[name] != state[name]:
                raise ValueError(
                    f"got the place of a loader with {name}={state[name]}, here it is {own[name]}; expected the same: "
                    "build the loader as the run did, of the same pictures"
                )
        self.generator.set_state(state["generator"])
        self.place.given, self.place.began = state["given"], state["began"]
        self.place.resumed = state["began"] is not None

    def _order(self) -> Tensor:
        """-> rows (N,) in the order of this epoch; on the pictures' device, so that no batch waits for its rows"""
        order = torch.arange(len(self.split))
        if self.shuffle or self.weights is not None:
            # At the start of an epoch the twin is where the generator is; later the generator is ahead of it.
            twin = Generator(self.generator.device)
            twin.set_state(self.place.began)
            order = self._drawn(twin).cpu()
            if self.place.given == 0:
                self.generator.set_state(twin.get_state())
        return order.to(self.split.device)

    def _drawn(self, generator: Generator) -> Tensor:
        """-> rows (N,): a permutation, or with weights N draws with repetition, each by its share of their sum"""
        n = len(self.split)
        if self.weights is None:
            return torch.randperm(n, generator=generator, device=generator.device)
        sums = self.weights.cumsum(0)
        draws = torch.rand(n, generator=generator, device=generator.device, dtype=sums.dtype).cpu() * sums[-1]
        last = int(self.weights.nonzero()[-1])  # rounding may reach the end
        return torch.searchsorted(sums, draws, right=True).clamp(max=last)

    def _counted(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        with closing(self.split.batches(batches)) as examples:
            for pictures, y in examples:
                made = self._made(pictures, y)
                self.place.given += 1
                yield made
        self.place.given, self.place.began = 0, None

    def _made(self, pictures: Pictures, y: Tensor) -> tuple[Tensor, Tensor]:
        """pictures (n, 3, H, W), or n of (3, h, w); y (n,) -> x, y of the rows that are given

        Augmentation draws for all n, so that the generators of several workers, each with its share, stay together.
        """
        own = range(len(y)) if self.share is None else range(len(y))[self.share(len(y))]
        some = own or range(1)  # without a row, one tells the shape
        if isinstance(pictures, Tensor):
            pictures = self._augmented(pictures)[some.start : some.stop]
            x = _checked(self.preprocess(pictures), len(pictures))
        else:
            augmented = (self._augmented(picture[None]) for picture in pictures)
            x = _joined([_checked(self.preprocess(p), 1) for i, p in enumerate(augmented) if i in some])
        return x[: len(own)], y[own.start : own.stop]

    def _augmented(self, pictures: Tensor) -> Tensor:
        if self.augment is None:
            return pictures
        return _checked(self.augment(pictures, self.generator), len(pictures), "augment")


_WANTED = {
    "split": "a split of a dataset (data.train), or any map-style dataset of (picture uint8 (3, H, W), label)",
    "preprocess": "a function of pictures uint8 (n, 3, H, W): a backbone's .preprocess",
    "augment": "a function of pictures and a generator, from sftlib.datasets.augment, or None",
    "generator": "a torch.Generator, or None for one with torch's own seed",
}


def loader(
    split: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    augment: Augment | None = None,
    generator: Generator | None = None,
    drop_last: bool = False,
    weights: Tensor | Sequence[float] | None = None,
) -> Loader:
    """split of (picture uint8 (3, H, W), label) -> iterable of (x (N, 3, H, W), y (N,)), x = preprocess(pictures)

    augment and preprocess see a batch (n, 3, H, W). Where pictures have sizes of their own (files without size, any
    other map-style dataset) they see one at a time, (1, 3, h, w), and preprocess must bring them to one shape.
    shuffle and augment draw from generator and nothing else; without one, a new generator takes the seed of
    torch's global one (`torch.initial_seed()`), whose own state is left alone.

    weights (N,): an epoch is N draws with repetition, row i with probability weights_i / Σ weights. Classes come
    equally often with `1 / labels.bincount()[labels]`, labels those of the split.
    """
    _check(split, preprocess, batch_size, augment, generator, drop_last)
    return Loader(
        split=split if isinstance(split, Split) else Examples(split),
        preprocess=preprocess,
        batch_size=batch_size,
        shuffle=shuffle,
        augment=augment,
        generator=generator or Generator().manual_seed(torch.initial_seed()),
        drop_last=drop_last,
        weights=None if weights is None else _weights(weights, len(split)),
    )


def _check(split, preprocess, batch_size, augment, generator, drop_last) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"got batch_size={batch_size!r}; expected a whole number of pictures, 1 or more")
    for name, value, wanted in (("preprocess", preprocess, Callable), ("augment", augment, Callable | None),
                                ("generator", generator, Generator | None), ("split", split, Sized)):  # fmt: skip
        if not isinstance(value, wanted):
            raise ValueError(f"got {name}={value!r:.80}; expected {_WANTED[name]}")
    if len(split) == 0:
        raise ValueError("got an empty split; expected at least one example: look at the dataset's fractions")
    if drop_last and len(split) < batch_size:
        raise ValueError(
            f"got drop_last with {len(split)} examples and batch_size={batch_size}; no batch would be left: "
            "take a smaller batch_size"
        )


def _weights(weights: Tensor | Sequence[float], n: int) -> Tensor:
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


def _checked(x: Tensor, n: int, giver: str = "preprocess") -> Tensor:
    if not isinstance(x, Tensor) or x.shape[:1] != (n,):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"got {got} from {giver} for {n} picture(s), a batch ({n}, 3, H, W); expected a tensor ({n}, …)"
        )
    return x


def _joined(xs: list[Tensor]) -> Tensor:
    """n of (1, …) -> (n, …)"""
    shapes = {tuple(x.shape[1:]) for x in xs}
    if len(shapes) > 1:
        raise ValueError(
            f"got pictures of different shapes in one batch, {sorted(shapes)[:3]}; expected one shape after "
            "preprocess: use a backbone's preprocess, or load the pictures with size=…"
        )
    return torch.cat(xs)
