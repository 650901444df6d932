"""Where a run is: what a checkpoint in the middle of an epoch must hold for the run to go on as if never stopped."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.adaptation import trainable
from sftlib.batches import as_batch, leaves
from sftlib.generators import generator_states, generators_of, set_generator_states, set_state_of, state_of
from sftlib.metrics import Metric, Tally
from sftlib.objective import Piece
from sftlib.parallel import contact, require_same_plan
from sftlib.training.parts import Parts
from sftlib.training.records import Controls
from sftlib.training.states import require_entries, require_generators
from sftlib.training.step import Outcome

# What is saved of a place, and of what was counted within an epoch
PLACE = {"batch": int, "batches": int, "loader": dict | None, "began": dict | None, "micro_batch": int | None}
SUMS = {"total": int | float | Tensor, "count": int | float | Tensor}
COUNTED = {"examples": int, "measures": {"loss": SUMS, "total": SUMS}}


class Run:
    """The place of a run, which ``fit`` moves along: ``step`` updates are done, ``batch`` of them in this epoch.

    Each record carries it as ``run``, and ``save_checkpoint`` writes it. A loader with
    ``state_dict`` and ``load_state_dict``, such as the course's own, says itself where it is. Any other is iterated
    anew from the generator states that its epoch began with, and the batches that were used are passed over.
    """

    def __init__(
        self, loader: Iterable, parts: Parts, metric: Callable[[], Metric] | None, controls: Controls, epoch: int = 1
    ):
        self.loader, self.parts, self.controls = loader, parts, controls
        self.model, self.objective, self.precision = parts.model, parts.objective, parts.precision
        self.group = self.model.group
        self.epoch, self.step, self.batch = epoch, len(loader) * (epoch - 1), 0
        self.tally = Tally(metric)  # of the epoch so far, and of this worker
        self.labels: Tensor | None = None  # of the last batch: one of its leaves
        self.over = False  # the epoch is: the next record belongs to the next one
        self.asked = 0  # batches that the loader was asked for in this epoch; more than `batch` on the way to a record
        self.began: dict | None = None  # generator states before this epoch's order was drawn, if the loader says none
        self.mark: Tensor | None = None  # what tells this pass over the course's loader from any other

    def begin(self, epoch: int) -> Iterator[tuple]:
        """The batches of this epoch, from its first one"""
        self.epoch, self.batch, self.over = epoch, 0, False
        self.tally, self.began = Tally(self.tally.metric), _states_for_order(self.loader)
        return self._counted(iter(self.loader))

    def resume(self, saved: dict) -> Iterator[tuple]:
        """The batches of this epoch that were not used when ``saved`` was; draws go on as they would have then"""
        self._load(saved)
        saved = self._own(saved)
        if saved["batch"] == 0:  # between epochs
            set_generator_states(saved["generators"])
            return self.begin(self.epoch)
        self.batch, self.labels, self.began = saved["batch"], saved["labels"], saved["began"]
        self.step += self.batch
        self.tally.load(saved)
        rest = iter(self.loader)
        if self.began is not None:
            self._pass_over(rest)
        set_generator_states(saved["generators"])
        return self._counted(rest)

    def _counted(self, batches: Iterator[tuple]) -> Iterator[tuple]:
        self.asked, self.mark = self.batch, None
        while True:
            self.asked += 1  # before the loader moves: whatever stops the run from here to the record is then seen
            batch = next(batches, None)
            self._require_as_many(over=batch is None)
            if batch is None:
                return
            if self.mark is None:
                self.mark = _pass_of(self.loader)
            yield batch

    def _require_as_many(self, over: bool) -> None:
        """ValueError where the loader gives more batches in an epoch than its len(), or fewer"""
        given, promised = self.asked - 1 if over else self.asked, len(self.loader)
        if given > promised or (over and given != promised):
            how_many = f"{given} batches" if over else f"more than {promised} batches"
            raise ValueError(
                f"got {how_many} in epoch {self.epoch} from a {type(self.loader).__name__} whose len() is {promised}; "
                "expected as many as it says, for the steps of a run, its schedule and its checkpoints count on it"
            )

    def contact(self):
        """Within, what is exchanged with other workers says what to do when one of them is gone"""
        return contact(self.group, lambda: self.step)

    def require_same_plan(self) -> None:
        """ValueError unless all workers are at the same place of the same data."""
        with self.contact():
            require_same_plan(self.loader, self.epoch, self.batch, self.group)

    def add(self, outcome: Outcome, pieces: Sequence[Piece], y) -> None:
        """Count an update; nothing is read from the device."""
        t, n = sum(piece.terms for piece in pieces), sum(piece.examples for piece in pieces)
        self.step, self.batch, self.labels = self.step + 1, self.batch + 1, leaf(y)
        self.tally.add(n, outcome.output, y)
        self.tally.add_loss(outcome.task_loss, t, outcome.loss - outcome.task_loss, n)

    def values(self) -> dict[str, float]:
        """{"loss": L_g, "n", and what the measure gives} of the epoch so far, "total": L where that is another

        Of all workers: every one of them must ask.
        """
        functions = dict(self.objective.functions)
        task_loss = functions.pop("task_loss")
        whole = self.tally.merged(self.group.gathered(self.tally.state()))
        return whole.values(loss=task_loss is not None, total=any(f is not None for f in functions.values()))

    def state_dict(self) -> dict:
        """Plain values and tensors on the CPU: the place after the last record; ValueError if the run has left it

        Where several workers share the run every one of them must ask: "workers" then holds what differs between them.
        """
        self._require_at_record()
        state = {
            "batch": 0,
            "batches": len(self.loader),
            "loader": self.loader.state_dict() if _says_its_place(self.loader) else None,
            "began": _states_for_order(self.loader) if self.over else self.began,
            "micro_batch": self.parts.size,
            "generators": generator_states(),
        }
        own = {"generators": state["generators"]} | ({} if self.over else self.tally.state())
        parts = self.group.gathered(own)
        if not self.over:
            state |= {"batch": self.batch, "labels": self.labels.cpu()} | self.tally.merged(parts).state()
        return state if len(parts) == 1 else state | {"workers": parts}

    def require_own(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        """ValueError for a model or an optimizer that the run does not train: it would be one that never learned"""
        if {id(p) for p in model.parameters()} != {id(p) for p in self.model.parameters()}:
            raise ValueError("got another model than the record's run trains; expected the one that was given to fit")
        groups = [] if optimizer is None else optimizer.param_groups
        held = {id(p) for group in groups for p in group["params"]}
        if optimizer is not None and not {id(p) for p in trainable(self.model)} <= held:
            raise ValueError("got another optimizer than the record's run steps with; expected the one given to fit")

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
        own = {} if _says_its_place(self.loader) else generators_of(self.loader)
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
            set_state_of(generator, there[name])

    def _own(self, saved: dict) -> dict:
        """The place of a run -> that of this worker; where there were more or fewer, the first takes all"""
        parts = saved.get("workers") or [saved]
        if len(parts) == self.group.world:
            return saved | parts[self.group.rank]
        return saved if self.group.leads or not saved["batch"] else saved | Tally(self.tally.metric).state()

    def _pass_over(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for _ in range(self.batch):
            _, labels = as_batch(next(batches), nn.Identity())
        if not torch.equal(leaf(labels).cpu(), self.labels):
            raise ValueError(
                f"the loader, a {type(self.loader).__name__}, did not repeat the order of the run that was saved: "
                "give it the same data, and let it draw from its .generator or from torch's, or use "
                "sftlib.datasets.loader, whose place in the epoch is saved"
            )


def require_place(saved: dict, where: str) -> None:
    """ValueError unless ``saved`` is what `Run.state_dict` gives, such that a run can take it up."""
    require_entries(saved, PLACE, where)
    if not 0 <= saved["batch"] <= saved["batches"] or (saved["loader"] is None) == (saved["began"] is None):
        raise ValueError(f"{where} has no place in an epoch; expected all that save_checkpoint writes")
    require_entries(saved, {"labels": Tensor} if saved["batch"] else {}, where)
    for part in (saved, *saved.get("workers", ())):
        require_entries(part, {"generators": dict} | (COUNTED if saved["batch"] else {}), where)
        require_generators(part["generators"], where)
    if saved["began"] is not None:
        require_entries(saved["began"], {"all": dict, "loader": dict}, where)
        require_generators(saved["began"]["all"], where)


def leaf(nest) -> Tensor:
    """The first tensor of a nest, by which a batch is known again"""
    return next(iter(leaves(nest)), torch.zeros(0))


def _says_its_place(loader: Iterable) -> bool:
    return hasattr(loader, "load_state_dict")


def _pass_of(loader: Iterable) -> Tensor | None:
    """The very tensor that the course's loader keeps of this pass over it; None between two, and for others"""
    return loader.state_dict().get("began") if _says_its_place(loader) else None


def _states_for_order(loader: Iterable) -> dict | None:
    """What a loader without ``load_state_dict`` may draw its order from, before it does"""
    if _says_its_place(loader):
        return None
    own = {name: state_of(generator) for name, generator in generators_of(loader).items()}
    return {"all": generator_states(), "loader": own}
