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

    def begin(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of this epoch, from its first one"""
        self.epoch, self.batch, self.loss, self.hits, self.over = epoch, 0, Mean(), Mean(), False
        self.began = _states_for_order(self.loader)
        return iter(self.loader)

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
        return rest

    def add(self, outcome: Outcome, y: Tensor) -> None:
        """Count an update; nothing is read from the device."""
        self.step, self.batch, self.labels = self.step + 1, self.batch + 1, y
        self.loss.add(outcome.loss * len(y), len(y))
        self.hits.add(correct(outcome.logits, y), len(y))

    def measures(self) -> dict[str, float]:
        """{"loss", "accuracy", "n"} of the epoch so far"""
        return {"loss": self.loss.value, "accuracy": self.hits.value, "n": self.hits.count}

    def state_dict(self) -> dict:
        """Plain values and tensors on the CPU: the place after the last record"""
        state = {
            "batch": 0,
            "batches": len(self.loader),
            "loader": self.loader.state_dict() if hasattr(self.loader, "load_state_dict") else None,
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

    def _load(self, saved: dict) -> None:
        if saved["batches"] != len(self.loader):
            raise ValueError(
                f"got a checkpoint of {saved['batches']} batches an epoch and a loader of {len(self.loader)}; "
                "expected the same: build the loader as the run did"
            )
        self.parts.size = self.parts.size or saved["micro_batch"]
        if saved["began"] is None:
            self.loader.load_state_dict(saved["loader"])
            return
        torch.set_rng_state(saved["began"]["torch"])
        if saved["began"]["loader"] is not None:
            self.loader.generator.set_state(saved["began"]["loader"])

    def _pass_over(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for _ in range(self.batch):
            _, labels = next(batches)
        if not torch.equal(labels.cpu(), self.labels):
            raise ValueError(
                f"the loader, a {type(self.loader).__name__}, did not repeat the order of the run that was saved: "
                "give it the same data, and let it draw from its .generator or from torch's, or use "
                "sftlib.datasets.loader, whose place in the epoch is saved"
            )


def _states_for_order(loader: Iterable) -> dict | None:
    """What a loader without ``load_state_dict`` draws its order from, before it does"""
    if hasattr(loader, "load_state_dict"):
        return None
    own = getattr(loader, "generator", None)
    return {"torch": torch.get_rng_state(), "loader": own.get_state() if isinstance(own, torch.Generator) else None}


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
