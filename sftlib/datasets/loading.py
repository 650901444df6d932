"""loader: batches (x, y) from a split, x as the backbone wants it."""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from sftlib.batches import check_pair, rows
from sftlib.datasets.augment import Augment
from sftlib.datasets.order import ByLength, Order, checked_order, draw_weights
from sftlib.datasets.splits import Examples, Pictures, Split

Preprocess = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Place:
    """Where in an epoch a loader is; `dataclasses.replace(loader, …)` shares it, so both are in the same place."""

    given: int = 0  # batches
    began: Tensor | None = None  # the generator's state before it drew the order of this epoch; None between epochs
    resumed: bool = False


@dataclass(frozen=True, eq=False)
class Make:
    """What becomes of the examples of a batch: ``function(examples, generator)`` -> x, y, nests of N examples"""

    function: Callable
    share: Callable[[int], slice] | None = None  # of n rows of a batch those that are given; None: all

    def __call__(self, examples, generator: Generator) -> tuple:
        """examples as ``split.batch(rows)`` gives them -> (x, y) of the rows that are given"""
        x, y = self.function(examples, generator)
        n = check_pair(x, y)
        return (x, y) if self.share is None else (rows(x, self.share(n)), rows(y, self.share(n)))

    @property
    def draws(self) -> bool:
        """Whether x is another one each time"""
        return False


@dataclass(frozen=True, eq=False)
class MakePictures(Make):
    """(pictures (n, 3, H, W), or n of (3, h, w); labels (n,)) -> x (n, …), y (n,): augmented, then preprocessed"""

    function: Preprocess  # the preprocessing of the backbone's weights
    augment: Augment | None = None

    def __call__(self, examples: tuple[Pictures, Tensor], generator: Generator) -> tuple[Tensor, Tensor]:
        """Augmentation draws for all n, so that the generators of workers, each with its share, stay together."""
        pictures, y = examples
        own = range(len(y)) if self.share is None else range(len(y))[self.share(len(y))]
        some = own or range(1)  # without a row, one tells the shape
        if isinstance(pictures, Tensor):
            pictures = self._augmented(pictures, generator)[some.start : some.stop]
            x = _checked(self.function(pictures), len(pictures))
        else:
            augmented = (self._augmented(_picture(given)[None], generator) for given in pictures)
            x = _joined([_checked(self.function(p), 1) for i, p in enumerate(augmented) if i in some])
        return x[: len(own)], y[own.start : own.stop]

    @property
    def draws(self) -> bool:
        """Whether x is another one each time"""
        return self.augment is not None

    def _augmented(self, pictures: Tensor, generator: Generator) -> Tensor:
        if self.augment is None:
            return pictures
        return _checked(self.augment(pictures, generator), len(pictures), "augment")


@dataclass(eq=False, repr=False)
class Loader:
    """Batches (x, y): ``make(split.batch(rows), generator)`` for the rows of each batch that ``order(generator)`` gives

    Iterating gives one epoch; the next iteration goes on with the generator, so it has another order. `state_dict` says
    at any moment, within an epoch too, what the next batch depends on.
    """

    split: Split
    make: Make
    order: Order
    generator: Generator = field(default_factory=lambda: Generator().manual_seed(torch.initial_seed()))
    place: Place = field(default_factory=Place)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def batch_size(self) -> int:
        """Examples of a batch, the last one may have fewer"""
        return self.order.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a smaller last batch is left out"""
        return self.order.drop_last

    @property
    def redraws(self) -> bool:
        """Whether an epoch gives others than the examples of the split: augmented, or drawn with repetition"""
        return self.order.repeats or self.make.draws

    def __iter__(self) -> Iterator[tuple]:
        """-> (x, y) of batch_size examples, or fewer in the last batch"""
        place = self.place
        if not place.resumed:
            place.given, place.began = 0, self.generator.get_state()
        place.resumed = False
        return self._counted(self._rows()[place.given :])

    def state_dict(self) -> dict:
        """What the next batch depends on: the place in the epoch and the generator, as after the last batch given"""
        return self.order.state() | {
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
        for name in (*self.order.state(), "data"):
            if own[name] != state[name]:
                raise ValueError(
                    f"got the place of a loader with {name}={state[name]}, here it is {own[name]}; expected the same: "
                    "build the loader as the run did, of the same examples"
                )
        self.generator.set_state(state["generator"])
        self.place.given, self.place.began = state["given"], state["began"]
        self.place.resumed = state["began"] is not None

    def _rows(self) -> list[Tensor]:
        """Rows (n,) of each batch of this epoch; on the split's device, so that no batch waits for its rows"""
        # At the start of an epoch the twin is where the generator is; later the generator is ahead of it.
        twin = Generator(self.generator.device)
        twin.set_state(self.place.began)
        order = self.order(twin)
        if self.place.given == 0:
            self.generator.set_state(twin.get_state())
        if self.split.device.type == "cpu":
            return order
        moved = torch.cat(order).to(self.split.device)
        return list(moved.split([len(some) for some in order]))

    def _counted(self, order: list[Tensor]) -> Iterator[tuple]:
        with closing(self.split.batches(order)) as batches:
            for examples in batches:
                made = self.make(examples, self.generator)
                self.place.given += 1
                yield made
        self.place.given, self.place.began = 0, None


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
    _check(split, preprocess, augment, generator)
    weights = None if weights is None else draw_weights(weights, len(split))
    order = checked_order(Order(len(split), batch_size, shuffle, drop_last, weights))
    split = split if isinstance(split, Split) else Examples(split)
    return Loader(split, MakePictures(preprocess, augment=augment), order, **_given(generator))


def nest_loader(
    split: Split, make: Callable | None = None, *, batch_size: int = 32, shuffle: bool = False,
    lengths: Tensor | None = None, generator: Generator | None = None, drop_last: bool = False,
) -> Loader:  # fmt: skip
    """A split of any kind -> batches (x, y), nests: ``make(split.batch(rows), generator)``, or as they are

    ``lengths`` (N,): examples of like length share a batch, so that little of it is padding. Draws are those of
    `loader`.
    """
    if lengths is None:
        order = Order(len(split), batch_size, shuffle, drop_last)
    else:
        order = ByLength(len(split), batch_size, shuffle, drop_last, lengths=torch.as_tensor(lengths))
    return Loader(split, Make(make or _as_they_are), checked_order(order), **_given(generator))


def _as_they_are(examples: tuple, generator: Generator) -> tuple:
    return examples


def _given(generator: Generator | None) -> dict[str, Generator]:
    return {} if generator is None else {"generator": generator}


def _check(split, preprocess, augment, generator) -> None:
    for name, value, wanted in (("preprocess", preprocess, Callable), ("augment", augment, Callable | None),
                                ("generator", generator, Generator | None), ("split", split, Sized)):  # fmt: skip
        a_network = name == "preprocess" and isinstance(value, nn.Module) and hasattr(value, "preprocess")
        if not isinstance(value, wanted) or a_network or (name == "split" and isinstance(value, Tensor)):
            shown = f"a {type(value).__name__}" if isinstance(value, nn.Module | Tensor) else repr(value)[:80]
            raise ValueError(f"got {name}={shown}; expected {_WANTED[name]}")


def _checked(x: Tensor, n: int, giver: str = "preprocess") -> Tensor:
    if not isinstance(x, Tensor) or x.shape[:1] != (n,):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"got {got} from {giver} for {n} picture(s), a batch ({n}, 3, H, W); expected a tensor ({n}, …)"
        )
    return x


def _picture(given) -> Tensor:
    if not isinstance(given, Tensor):
        raise ValueError(
            f"got a split of {type(given).__name__}; expected pictures, tensors (3, h, w): for texts, sounds and other "
            "nests nest_loader(split, lambda batch, _: (preprocess(batch[0]), batch[1]))"
        )
    return given


def _joined(xs: list[Tensor]) -> Tensor:
    """n of (1, …) -> (n, …)"""
    shapes = {tuple(x.shape[1:]) for x in xs}
    if len(shapes) > 1:
        raise ValueError(
            f"got pictures of different shapes in one batch, {sorted(shapes)[:3]}; expected one shape after "
            "preprocess: use a backbone's preprocess, or load the pictures with size=…"
        )
    return torch.cat(xs)
