"""What a run watches while it goes on: losses and parameters that are not finite, and a state to go back to."""

import copy
import math
import weakref
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.adaptation import trainable
from sftlib.batches import leaves
from sftlib.runtime import device_of

_LATEST: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> what tells the run that it is in
KEEP_EVERY = 20  # steps between two copies of a good state; also between two looks at a GPU's losses


class Watch:
    """Looks for losses and parameters that are not finite, and keeps a state whose loss was finite.

    A CPU's loss is looked at before every update; another device's every KEEP_EVERY steps, so that no step waits for
    it. Parameters are looked at every KEEP_EVERY steps and at the end of an epoch, for the gradient of a finite loss
    may be NaN; on a CPU after the first and the last update, before anybody can save them. There is one copy: it is
    renewed between the backward pass and the update, when the loss of the state to be kept is known. ``losses``: those
    that are modules have a state too.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, losses: Iterable):
        self.model, self.optimizer = model, optimizer
        self.losses = [loss for loss in losses if isinstance(loss, nn.Module)]
        self.kept = None  # (parameters, what a forward pass moves, optimizer state)
        self.moving = None  # (step, buffers, states of the losses) before the forward pass of this step
        self.step, self.kept_step, self.due = 0, 0, False
        self.recent: list[tuple[int, float, Tensor]] = []
        self.x, self.lr = None, 0.0  # the last batch, and its rate
        self.on_cpu = device_of(model).type == "cpu"
        self.mine = _LATEST[model] = object()

    def before_forward(self, step: int) -> None:
        """Call before the forward pass that follows ``step`` updates. ValueError where another run has the model."""
        if _LATEST[self.model] is not self.mine:
            raise ValueError(
                f"another fit has begun with this model since step {step} of this one; expected one at a time, for "
                "each would undo what the other learns: end the first, or train a copy (copy.deepcopy)"
            )
        self.step, self.due = step, self.kept is None or step % KEEP_EVERY == 0
        if self.due:
            buffers = [b.detach().clone() for b in self.model.buffers()]
            self.moving = buffers, [_copied(loss.state_dict()) for loss in self.losses]

    def before_update(self, lr: float, loss: Tensor, x) -> None:
        """Call when the gradients of ``loss``, of the batch x, are there: it is looked at, the copy renewed if due."""
        self.recent.append((self.step + 1, lr, loss.detach()))
        self.x, self.lr = x, lr
        if self.on_cpu or (self.due and self.kept is not None):
            self._look_at_losses()
        if self.due and self.kept is not None:
            self._look_at_parameters(self.step)
        if self.due:
            self.kept = None  # before the new copy is made: there is one at a time
            parameters = [p.detach().clone() for p in self._parameters()]
            self.kept = parameters, self.moving, copy.deepcopy(self.optimizer.state_dict())
            self.kept_step, self.moving = self.step, None

    def after_update(self, *, last: bool) -> None:
        """Call after the update, the ``last`` one of its epoch or not."""
        if self.on_cpu and (last or self.step == 0):
            self._look_at_parameters(self.step + 1)

    def end_epoch(self) -> None:
        """Call after the last record of a step: FloatingPointError if the state is not worth going on with."""
        self._look_at_losses()
        if self.x is not None and not self.on_cpu:
            self._look_at_parameters(self.step + 1)

    def _look_at_losses(self) -> None:
        losses = torch.stack([loss.reshape(()) for _, _, loss in self.recent]).tolist() if self.recent else []
        for (step, lr, _), value in zip(self.recent, losses, strict=True):
            if not math.isfinite(value):
                self._end(f"the loss is {value} at step {step}, learning rate {lr:g}", self._cause(step))
        self.recent.clear()

    def _look_at_parameters(self, updates: int) -> None:
        if not torch.stack([p.detach().square().sum() for p in self._parameters()]).isfinite().all():
            self._end(
                f"parameters (or their squares) are not finite after the update at step {updates}, learning rate "
                f"{self.lr:g}, though its loss was",
                "a gradient was NaN or infinite (a square root or logarithm at 0 in the loss), or "
                "the learning rate is likely too large: try a tenth of it, a warm-up, or clip=1.0",
            )

    def _end(self, what: str, cause: str) -> None:
        self._restore()
        raise FloatingPointError(
            f"{what}; {cause}. Model and optimizer are back in the state they had after step {self.kept_step}."
        )

    @torch.no_grad()
    def _restore(self) -> None:
        parameters, moving, optimizer = self.kept or (None, self.moving, None)
        buffers, states = moving
        for buffer, kept in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(kept)
        for loss, state in zip(self.losses, states, strict=True):
            loss.load_state_dict(state)
        if parameters is None:  # the very first loss: no update was made
            self.kept_step = self.step
            return
        for parameter, kept in zip(self._parameters(), parameters, strict=True):
            parameter.copy_(kept)
        self.optimizer.load_state_dict(optimizer)

    def _parameters(self) -> list[Tensor]:
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        return list({id(p): p for p in [*trainable(self.model), *held]}.values())

    def _cause(self, step: int) -> str:
        if not all(t.isfinite().all() for t in leaves(self.x)):
            return "the batch holds values that are not finite: look at the data and their preprocessing"
        if step == 1:
            return "it is so before anything was learned: look at the loss function, the labels and the loaded weights"
        return "the learning rate is likely too large: try a tenth of it, or a warm-up"


def _copied(state: dict) -> dict:
    return {k: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in state.items()}
