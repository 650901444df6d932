"""Where a run is: what a checkpoint in the middle of an epoch must hold for the run to go on as if never stopped."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sftlib.memory import Parts
from sftlib.metrics import Mean, correct
from sftlib.records import Controls, Outcome
from sftlib.states import require_entries

# Parts of torch's DataLoader, which may keep generators of their own, as the loader itself may
PARTS = ("dataset", "sampler", "batch_sampler")
Generator = torch.Generator | np.random.Generator | random.Random


@dataclass(eq=False, repr=False)
class Progress:
    """The place of a run, which ``fit`` moves along: ``step`` updates are done, ``batch`` of them in this epoch.

    Each record carries it as ``run``, and ``save_checkpoint`` writes it. A loader with
    ``state_dict`` and ``load_state_dict``, such as the course's own, says itself where it is. Any other is iterated
    anew from the generator states that its epoch began with, and the batches that were used are passed over.
    """

    loader: Iterable
    settings: dict
    controls: Controls
    parts: Parts
    epoch: int = 1
    step: int = 0
    batch: int = 0
    loss: Mean = field(default_factory=Mean)
    hits: Mean = field(default_factory=Mean)
    labels: Tensor | None = None  # of the last batch
    over: bool = False  # the epoch is: the next record belongs to the next one
    asked: int = 0  # batches that the loader was asked for in this epoch; more than ``batch`` on the way to a record
    began: dict | None = None  # generator states before this epoch's order was drawn, for a loader that says nothing
    mark: Tensor | None = None  # what tells this pass over the course's loader from any other

    def begin(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of this epoch, from its first one"""
        self.epoch, self.batch, self.loss, self.hits, self.over = epoch, 0, Mean(), Mean(), False
        self.began = _states_for_order(self.loader)
        return self._counted(iter(self.loader))

    def resume(self, saved: dict, where: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of this epoch that were not used when ``saved`` was; draws go on as they would have then"""
        self._load(saved)
        if saved["batch"] == 0:  # between epochs
            set_generator_states(saved["generators"])
            return self.begin(self.epoch)
        self.batch, self.labels, self.began = saved["batch"], saved["labels"], saved["began"]
        self.step += self.batch
        for mean, (total, count) in ((self.loss, saved["loss"]), (self.hits, saved["hits"])):
            mean.total, mean.count = total.to(where), count
        rest = iter(self.loader)
        if self.began is not None:
            self._pass_over(rest)
        set_generator_states(saved["generators"])
        return self._counted(rest)

    def _counted(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked, self.mark = self.batch, None
        while True:
            self.asked += 1  # before the loader moves: whatever stops the run from here to the record is then seen
            batch = next(batches, None)
            if batch is None:
                return
            if self.mark is None:
                self.mark = _pass_of(self.loader)
            yield batch

    def add(self, outcome: Outcome, y: Tensor) -> None:
        """Count an update; nothing is read from the device."""
        self.step, self.batch, self.labels = self.step + 1, self.batch + 1, y
        self.loss.add(outcome.loss * len(y), len(y))
        self.hits.add(correct(outcome.logits, y), len(y))

    def measures(self) -> dict[str, float]:
        """{"loss", "accuracy", "n"} of the epoch so far"""
        return {"loss": self.loss.value, "accuracy": self.hits.value, "n": self.hits.count}

    def state_dict(self) -> dict:
        """Plain values and tensors on the CPU: the place after the last record; ValueError if the run has left it"""
        self._require_at_record()
        state = {
            "batch": 0,
            "batches": len(self.loader),
            "loader": self.loader.state_dict() if _says_its_place(self.loader) else None,
            "began": _states_for_order(self.loader) if self.over else self.began,
            "micro_batch": self.parts.size,
            "generators": generator_states(),
        }
        if self.over:
            return state
        return state | {
            "batch": self.batch,
            "loss": (self.loss.total.cpu(), self.loss.count),
            "hits": (self.hits.total.cpu(), self.hits.count),
            "labels": self.labels.cpu(),
        }

    def _require_at_record(self) -> None:
        if not self.over and self.asked != self.batch:
            raise ValueError(
                f"the run was stopped on its way from step {self.step} to the next: a batch and its draws are lost, "
                "and the model may have moved; expected a call between two records: save inside the loop over fit(…), "
                "every few steps, and go on from the last checkpoint"
            )
        if _pass_of(self.loader) is not (None if self.over else self.mark):
            raise ValueError(
                "another loop has taken batches from the run's loader, which has left its place in the epoch; expected "
                "a loader that fit alone iterates over: build a second one, with a generator of its own, for "
                "evaluate(…) or for a look at a batch"
            )

    def _load(self, saved: dict) -> None:
        if saved["batches"] != len(self.loader):
            raise ValueError(
                f"got a checkpoint of {saved['batches']} batches an epoch and a loader of {len(self.loader)}; "
                "expected the same: build the loader as the run did"
            )
        own = {} if _says_its_place(self.loader) else _generators(self.loader)
        there = {} if saved["began"] is None else saved["began"]["loader"]
        if (saved["began"] is None) != _says_its_place(self.loader) or there.keys() != own.keys():
            raise ValueError(
                f"got a checkpoint of a run with another kind of loader than this {type(self.loader).__name__} (its "
                f"generators: {sorted(there)} there, {sorted(own)} here); expected the same: build it as the run did"
            )
        self.parts.size = self.parts.size or saved["micro_batch"]
        if saved["began"] is None:
            self.loader.load_state_dict(saved["loader"])
            return
        set_generator_states(saved["began"]["all"])
        for name, generator in own.items():
            _set_state_of(generator, there[name])

    def _pass_over(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for _ in range(self.batch):
            _, labels = next(batches)
        if not torch.equal(labels.cpu(), self.labels):
            raise ValueError(
                f"the loader, a {type(self.loader).__name__}, did not repeat the order of the run that was saved: "
                "give it the same data, and let it draw from its .generator or from torch's, or use "
                "sftlib.datasets.loader, whose place in the epoch is saved"
            )


def require_place(saved: dict, where: str) -> None:
    """ValueError unless ``saved`` is what `Progress.state_dict` gives, such that a run can take it up."""
    kinds = {"batch": int, "batches": int, "loader": dict | None, "began": dict | None, "micro_batch": int | None}
    require_entries(saved, kinds, where)
    if not 0 <= saved["batch"] <= saved["batches"] or (saved["loader"] is None) == (saved["began"] is None):
        raise ValueError(f"{where} has no place in an epoch; expected all that save_checkpoint writes")
    for part in (saved, *saved.get("workers", ())):
        require_entries(part, {"generators": dict}, where)
        _require_generators(part["generators"], where)
        if saved["batch"]:
            require_entries(part, {"loss": tuple, "hits": tuple}, where)
            if not all(_is_sum(part[name]) for name in ("loss", "hits")):
                raise ValueError(
                    f"{where} has no sums and counts of its epoch; expected all that save_checkpoint writes"
                )
    if saved["batch"]:
        require_entries(saved, {"labels": Tensor}, where)
    if saved["began"] is not None:
        require_entries(saved["began"], {"all": dict, "loader": dict}, where)
        _require_generators(saved["began"]["all"], where)


def _is_sum(pair: tuple) -> bool:
    return len(pair) == 2 and isinstance(pair[0], Tensor) and pair[0].dim() == 0 and isinstance(pair[1], int)


def _says_its_place(loader: Iterable) -> bool:
    return hasattr(loader, "load_state_dict")


def _pass_of(loader: Iterable) -> Tensor | None:
    """The very tensor that the course's loader keeps of this pass over it; None between two, and for others"""
    return loader.state_dict().get("began") if _says_its_place(loader) else None


def _states_for_order(loader: Iterable) -> dict | None:
    """What a loader without ``load_state_dict`` may draw its order from, before it does"""
    if _says_its_place(loader):
        return None
    own = {name: _state_of(generator) for name, generator in _generators(loader).items()}
    return {"all": generator_states(), "loader": own}


def _generators(loader: Iterable) -> dict[str, Generator]:
    """The generators that a loader and its parts keep as attributes, by name"""
    parts = {"": loader} | {f"{name}.": getattr(loader, name, None) for name in PARTS}
    attributes = {where + name: value for where, part in parts.items() for name, value in _attributes(part).items()}
    return {name: value for name, value in attributes.items() if isinstance(value, Generator)}


def _attributes(thing) -> dict:
    return getattr(thing, "__dict__", {})


def _state_of(generator: Generator) -> Tensor | dict | tuple:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def _set_state_of(generator: Generator, state) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def generator_states() -> dict:
    """The global generators of torch (CPU and every accelerator in use), Python and NumPy, as plain values"""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), *rest],
    }


def set_generator_states(states: dict) -> None:
    """Put the global generators into ``states``; those of devices that are not here are passed over."""
    torch.set_rng_state(states["torch"])
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def _require_generators(states: dict, where: str) -> None:
    """ValueError unless `set_generator_states` can take them; tried on generators of their own"""
    kinds = {"torch": Tensor, "cuda": list, "mps": Tensor | None, "python": list, "numpy": list}
    require_entries(states, kinds, where)
    try:
        torch.Generator().set_state(states["torch"])
        version, words, gauss = states["python"]
        random.Random().setstate((version, tuple(words), gauss))
        kind, keys, *rest = states["numpy"]
        np.random.RandomState().set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        if torch.cuda.is_available():
            for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
                torch.Generator(f"cuda:{device}").set_state(state)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{where} has states that a generator does not take ({error}): save it again") from None
