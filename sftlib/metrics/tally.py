"""What an epoch or an evaluation counts, in one worker and in all."""

from collections.abc import Callable, Sequence

from torch import Tensor

from sftlib.metrics.counts import Mean
from sftlib.metrics.measures import Metric


class Tally:
    """Sums over batches: examples, L_g over its terms, what L is beyond L_g over examples, what metric() measures.

    Its ``state()`` is in checkpoints, and what workers exchange.
    """

    def __init__(self, metric: Callable[[], Metric] | None):
        self.metric, self.examples = metric, 0
        self.measures: dict[str, Mean | Metric] = {"loss": Mean(), "total": Mean()}
        self.measure = None if metric is None else metric()
        if self.measure is not None:
            self.measures[self.measure.key] = self.measure

    def add(self, n: int, output, y) -> None:
        """Count the n examples of a batch, by the measure too; nothing is read from the device."""
        self.examples += n
        if self.measure is not None:
            self.measure.add(output, y)

    def add_loss(self, loss: Tensor, terms, beyond: Tensor | float = 0.0, n: int = 0) -> None:
        """Add L_g, a mean over so many terms, and what L is beyond it, a mean over n examples."""
        self.measures["loss"].add(loss * terms, terms)
        self.measures["total"].add(beyond * n, n)

    def state(self) -> dict:
        """Plain values and tensors on the CPU, from which ``load`` goes on"""
        return {"examples": self.examples, "measures": {name: m.state() for name, m in self.measures.items()}}

    def load(self, state: dict) -> "Tally":
        """Go on from a ``state``, in place of what was counted here; ValueError for one of another metric."""
        if state["measures"].keys() != self.measures.keys():
            raise ValueError(
                f"got a checkpoint of a run measured by {sorted(state['measures'])}, here by {sorted(self.measures)}; "
                "expected the same metric"
            )
        self.examples = state["examples"]
        for name, measure in self.measures.items():
            measure.load(state["measures"][name])
        return self

    def merged(self, states: Sequence[dict]) -> "Tally":
        """The states of all workers -> one tally of what they counted"""
        whole = Tally(self.metric)
        for state in states:
            other = Tally(self.metric).load(state)
            whole.examples += other.examples
            for name, measure in whole.measures.items():
                measure.merge(other.measures[name])
        return whole

    def values(self, *, loss: bool = True, total: bool = False) -> dict:
        """{"loss": L_g if asked for, what the measure gives, "total": L if asked for, "n": examples}"""
        values = {"loss": self.measures["loss"].value} if loss else {}
        if self.measure is not None:
            values |= self.measure.values()
        if total:
            values["total"] = values.get("loss", 0.0) + self.measures["total"].value
        return values | {"n": self.examples}
