"""A worker's slice of every batch."""

from collections.abc import Iterator
from dataclasses import replace

from sftlib.datasets.loading import Loader
from sftlib.runtime import Group


class Shards:
    """loader -> this worker's rows (n, …) of every batch (N, …), n = N / world rounded up or down, 0 included

    The batch size of the loader stays that of the whole. Order and augmentation are drawn for the whole batch, so
    every worker must be given a loader with the same seed. The price: each worker reads and makes whole batches; of
    pictures it preprocesses its own rows only.
    """

    def __init__(self, loader: Loader, group: Group):
        if loader.batch_size < group.world:
            raise ValueError(
                f"got batches of {loader.batch_size} for {group.world} workers; expected an example for each: "
                "take a larger batch_size (it counts the whole batch), or fewer workers"
            )
        if len(loader.split) < group.world:
            raise ValueError(f"got {len(loader.split)} examples for {group.world} workers; expected one for each")
        self.loader, self.group = loader, group

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple]:
        """-> (x, y) of n examples"""
        return iter(replace(self.loader, make=replace(self.loader.make, share=self._rows)))

    @property
    def redraws(self) -> bool:
        """Whether an epoch gives others than the examples of the split: augmented, or drawn with repetition"""
        return self.loader.redraws

    def require_trainable(self) -> None:
        """ValueError where a batch, the last one, has fewer examples than there are workers."""
        rest = len(self.loader.split) % self.loader.batch_size
        if 0 < rest < self.group.world and not self.loader.drop_last:
            raise ValueError(
                f"got a last batch of {rest} for {self.group.world} workers; expected an example for each in training: "
                "take another batch_size, or drop_last=True"
            )

    def state_dict(self) -> dict:
        """The loader's: it counts whole batches, so it is the same in every worker, and in one process"""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.loader.load_state_dict(state)

    def _rows(self, n: int) -> slice:
        return slice(self.group.rank * n // self.group.world, (self.group.rank + 1) * n // self.group.world)
