"""What ``fit`` refuses before it starts, and what it watches while it runs."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.adaptation import trainable
from sftlib.records import Controls
from sftlib.runtime import Precision

KEEP_EVERY = 20  # steps between two copies of a good state; also between two looks at a GPU's losses


def check_losses(task_loss, feature_loss, feature_weight, combine) -> None:
    """Raises ValueError unless there is something to minimise, with a usable weight."""
    if task_loss is None and feature_loss is None:
        raise ValueError("got neither task_loss nor feature_loss; expected at least one, such as F.cross_entropy")
    if combine is not None and (task_loss is None or feature_loss is None):
        raise ValueError("got combine with one loss; expected task_loss and feature_loss, the two to balance")
    if not (isinstance(feature_weight, (int, float)) and math.isfinite(feature_weight) and feature_weight >= 0):
        raise ValueError(f"got feature_weight={feature_weight!r}; expected a finite number of at least 0")


def check_functions(**functions) -> None:
    """Raises ValueError unless each is a function or None."""
    for name, f in functions.items():
        if f is not None and not callable(f):
            raise ValueError(f"got {name}={f!r}; expected a function, or None")


def check_loop(train_loader, val_loader, epochs: int, first_epoch: int) -> None:
    """Raises ValueError unless the loaders hold batches and the epochs can be counted."""
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is None and name == "val_loader":
            continue
        if not (hasattr(loader, "__iter__") and hasattr(loader, "__len__")) or isinstance(loader, Tensor):
            raise ValueError(
                f"got a {type(loader).__name__} as {name}; expected an iterable of (x, y) batches with len()"
            )
        if len(loader) == 0:
            raise ValueError(f"{name} has no batch: the split is empty, or smaller than batch_size with drop_last")
    if not (isinstance(epochs, int) and isinstance(first_epoch, int) and 1 <= first_epoch <= epochs):
        raise ValueError(f"got epochs={epochs!r}, first_epoch={first_epoch!r}; expected 1 <= first_epoch <= epochs")


def check_controls(controls: Controls | None) -> Controls:
    """The controls given, or untouched ones; ValueError for anything else."""
    if controls is not None and not isinstance(controls, Controls):
        raise ValueError(f"got a {type(controls).__name__} as controls; expected Controls(), or None")
    return controls or Controls()


def check_resume(resume, first_epoch: int, precision: Precision) -> None:
    """Raises ValueError unless the run goes on where the checkpoint was made, in the same arithmetic."""
    if not (hasattr(resume, "epoch") and hasattr(resume, "progress")):
        raise ValueError(f"got a {type(resume).__name__} as resume; expected what load_checkpoint returned")
    if first_epoch not in (1, resume.epoch + 1):
        raise ValueError(
            f"got first_epoch={first_epoch} and a checkpoint of epoch {resume.epoch + 1}; expected resume alone"
        )
    if resume.progress is not None and resume.precision != precision:
        raise ValueError(
            f"got precision={precision} and a checkpoint of a run in {resume.precision}; expected the same: pass "
            "precision=found.precision, with found = load_checkpoint(…)"
        )


def check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Raises ValueError unless the optimizer holds every trainable parameter of ``model``, and no frozen one."""
    for part in ("backbone", "head"):
        if not isinstance(getattr(model, part, None), nn.Module):
            raise ValueError(f"got a {type(model).__name__} without .{part}; expected Model(backbone, head)")
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"got a {type(optimizer).__name__} as optimizer; expected a torch.optim.Optimizer")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missed = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and id(p) in held]
    if missed:
        raise ValueError(
            f"{_names(missed)} can train, but no group of the optimizer holds it, so it would never move: "
            "build the optimizer after unfreezing and after replacing parts, or freeze() what shall stay"
        )
    if frozen:
        raise ValueError(
            f"{_names(frozen)} is frozen, but the optimizer holds it: build the optimizer from param_groups(…) "
            "after freezing, so that no momentum or weight decay can reach it"
        )
    if not trainable(model):
        raise ValueError("nothing can train: every parameter is frozen; unfreeze() the head at least")


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


class Watch:
    """Looks for losses that are not finite, and keeps a state whose loss was finite.

    A CPU's loss is looked at in every step; another device's every KEEP_EVERY steps, so that no step waits for it.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, feature_loss):
        self.parts = [model] + [feature_loss] * isinstance(feature_loss, nn.Module)
        self.optimizer = optimizer
        self.good = self.pending = None  # (step, tensors, optimizer state)
        self.recent: list[tuple[int, float, Tensor]] = []
        self.x = None  # the last batch

    def before(self, step: int) -> None:
        """Call before the update that follows ``step`` updates."""
        if step % KEEP_EVERY == 0 or self.good is self.pending is None:
            tensors = [t.detach().clone() for t in self._tensors()]
            self.pending = step, tensors, copy.deepcopy(self.optimizer.state_dict())

    def after(self, step: int, lr: float, loss: Tensor, x: Tensor) -> None:
        """Call after update number ``step`` with the loss that it started from, and its batch."""
        self.recent.append((step, lr, loss))
        self.x = x
        if loss.device.type == "cpu" or step % KEEP_EVERY == 0:
            self.look()

    def look(self) -> None:
        """Read the losses since the last look: FloatingPointError if one is not finite, else the copy is good."""
        losses = torch.stack([loss for _, _, loss in self.recent]).tolist() if self.recent else []
        for (step, lr, _), value in zip(self.recent, losses, strict=True):
            if not math.isfinite(value):
                self.good = self.good or self.pending
                self._restore()
                raise FloatingPointError(_what_happened(step, lr, value, self.x, self.good[0]))
        self.recent.clear()
        if self.pending is not None:
            self.good, self.pending = self.pending, None

    @torch.no_grad()
    def _restore(self) -> None:
        _, tensors, optimizer = self.good
        for tensor, kept in zip(self._tensors(), tensors, strict=True):
            tensor.copy_(kept)
        self.optimizer.load_state_dict(optimizer)

    def _tensors(self) -> list[Tensor]:
        return [t for part in self.parts for t in [*trainable(part), *part.buffers()]]


def _what_happened(step: int, lr: float, loss: float, x: Tensor, kept: int) -> str:
    if not torch.isfinite(x).all():
        cause = "the batch holds values that are not finite: look at the pictures and their preprocessing"
    elif step == 1:
        cause = "it is so before anything was learned: look at the loss function, the labels and the loaded weights"
    else:
        cause = "the learning rate is likely too large: try a tenth of it, or a warm-up"
    return (
        f"the loss is {loss} at step {step}, learning rate {lr:g}; {cause}. "
        f"Model and optimizer are back in the state they had after step {kept}."
    )
