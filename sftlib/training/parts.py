"""Batches that memory does not hold at once: the same update, from parts of them."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from sftlib.adaptation import following
from sftlib.batches import count
from sftlib.guards import require_means
from sftlib.inputs import listed, whole
from sftlib.model import Model
from sftlib.objective import Objective, Piece, pieces
from sftlib.runtime import Precision, device_of, out_of_memory
from sftlib.training.step import Outcome, backward


class Parts:
    """Gradients of a batch from parts of at most ``size`` examples; None: at once, as long as memory suffices.

    A loss that is a mean over terms is the mean of its parts, weighted by their share of the terms; so is its gradient,
    and the update is that of the whole batch, up to rounding. Not so for
    - BatchNorm in train mode, which normalises each part by itself;
    - a loss that compares the examples of a batch (supervised contrastive), moves its state, is no mean over
      ``terms`` (a detector's), or a ``combine`` of two losses: these are refused. The losses are tried on the first
      batch that is cut, as a whole and in parts;
    - dropout, whose masks are drawn part by part.

    When memory runs out, ``size`` is halved for the rest of the run, and the batch is computed again from the state
    that it started from: generators and buffers; parameters have not moved yet. A warning says so once. Where other
    workers wait for this one, it is a MemoryError that says which size to try.
    """

    def __init__(self, model: Model, size: int | None, objective: Objective, precision: Precision):
        self.size = None if size is None else whole("micro_batch", size, remedy="examples at once, or None")
        self.model, self.objective, self.precision = model, objective, precision
        self.losses = [loss for loss in objective.functions.values() if isinstance(loss, nn.Module)]
        self.tried, self.reason, self.norms = False, "", self._norms()
        if size is not None:
            self._require_cuttable()

    def begin_epoch(self) -> None:
        """Train mode, in which frozen parts stay as they are; which BatchNorm then follows the batch is looked up."""
        self.model.train()
        self.norms = self._norms()

    def require_enough(self, *sizes: int) -> None:
        """ValueError for batches, or parts of them, of a single example where BatchNorm takes its statistics"""
        if self.model.group.world > 1:  # the last batch may leave a worker without an example
            return
        if 0 in sizes:
            raise ValueError("got a batch without an example; expected at least one in each: leave empty batches out")
        alone = [n for n in sizes if 1 in self._sizes(n)]
        if self.norms and alone:
            n = min(alone)
            what = "a batch of 1 example" if n == 1 else f"parts of 1 example (micro_batch={self.size} of {n})"
            raise ValueError(
                f"got {what} and {listed(self.norms)}, a BatchNorm in train mode, which takes mean and variance from "
                "it; expected 2 or more: take another batch_size or drop_last=True, or freeze(model.backbone), or "
                "eval_stats_train_affine(model)"
            )

    def of(self, y) -> list[Piece]:
        """y (N, …), where its terms can be counted without waiting -> the parts of this batch"""
        n = count(y)
        self.require_enough(n)
        return pieces(y, self.objective.terms, self._sizes(n))

    def backward(self, x, y, parts: list[Piece], objective: Objective, optimizer: Optimizer) -> Outcome:
        """x, y of N examples, ``of(y)`` -> what the batch gave; its gradients are then in the parameters"""
        kept, before = Kept([self.model, *self.losses], device_of(self.model)), self.size
        while True:
            optimizer.zero_grad()
            try:
                if len(parts) > 1 and not self.tried:
                    require_means(self.model, x, y, parts, objective, self.precision, because=self.reason)
                    self.tried = True
                    kept.restore()
                outcome = backward(self.model, x, y, parts, objective, self.precision)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.model.group.world > 1:
                    raise MemoryError(_what_to_pass(self.size, count(y), error)) from error
                self.reason = str(error).splitlines()[0]
            # here, and not above: the error holds on to the tensors of the attempt
            optimizer.zero_grad()
            self._halve(count(y))
            kept.restore()
            parts = self.of(y)
        if self.size != before:
            warnings.warn(_what_changed(self.size, count(y), self.reason, self.norms), stacklevel=2)
        return outcome

    def _norms(self) -> list[str]:
        """Names of every BatchNorm that takes its statistics from the batch, those of the losses included"""
        of_losses = [name for loss in self.losses for name, m in loss.named_modules() if _follows(m)]
        return following(self.model) + of_losses

    def _sizes(self, n: int) -> list[int]:
        """Sizes of the parts of n examples. Where BatchNorm follows the batch, no part is a single one: from 3 on, the
        last but one then gives it another."""
        if self.size is None or n == 0:
            return [n]
        sizes = [self.size] * (n // self.size) + ([n % self.size] if n % self.size else [])
        if sizes[-1] == 1 and self.size > 2 and self.norms:
            sizes[-2:] = [self.size - 1, 2]
        return sizes

    def _halve(self, n: int) -> None:
        size = n if self.size is None else min(self.size, n)
        if size == 1 or (size < 4 and self.norms):
            least = "one example" if size == 1 else "parts of two examples, the least for BatchNorm in train mode"
            raise MemoryError(
                f"memory does not suffice for {least} ({self.reason}); expected it to: take smaller pictures or "
                "shorter texts, freeze more of the backbone, take bfloat16, or end what else uses the device"
            )
        self._require_cuttable()
        self.size = (size + 1) // 2

    def _require_cuttable(self) -> None:
        if self.objective.combine is not None:
            raise ValueError(
                "got combine and a batch to be cut into parts; expected the whole batch, for a balancer looks at its "
                "two losses: take a smaller batch_size, or fixed weights (feature_weight)"
            )
        if self.objective.terms is None:
            raise ValueError(
                "got terms=None, a loss that is no mean over terms, and a batch to be cut into parts; expected the "
                "whole batch: take a smaller batch_size"
            )


def _follows(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.training


class Kept:
    """The state that a batch starts from: buffers that a forward pass may move, and the generators"""

    def __init__(self, modules: list[nn.Module], device: torch.device):
        moving = [m for part in modules for m in part.modules() if m.training]
        self.buffers = [b for m in moving for b in m.buffers(recurse=False)]
        self.values, self.device, self.torch, self.own = _copies(self.buffers), device, torch.get_rng_state(), None
        if device.type == "cuda":
            self.own = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            self.own = torch.mps.get_rng_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back; memory that the device only keeps ready is given back."""
        for buffer, value in zip(self.buffers, self.values, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(self.torch)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(self.own, self.device)
        if self.device.type == "mps":
            torch.mps.empty_cache()
            torch.mps.set_rng_state(self.own)


@torch.no_grad()
def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """The same values, by one kernel for each type on a GPU: a network has 150 such buffers, and this is every step"""
    copies = [torch.empty_like(t) for t in tensors]
    for dtype in {t.dtype for t in tensors}:
        torch._foreach_copy_(*([t for t in some if t.dtype is dtype] for some in (copies, tensors)))
    return copies


def _what_to_pass(size: int | None, n: int, error: Exception) -> str:
    at_once = n if size is None else min(size, n)
    return (
        f"memory did not suffice for {at_once} examples at once ({str(error).splitlines()[0]}); expected it to, for "
        "the other workers wait for this one in the middle of a batch: go on from the last checkpoint with "
        f"micro_batch={max(1, at_once // 2)} or less in every worker (the update stays that of the whole batch)"
    )


def _what_changed(size: int, n: int, reason: str, norms: list[str]) -> str:
    exception = ", except that BatchNorm in train mode normalises each part by itself" if norms else ""
    return (
        f"memory did not suffice for {n} examples at once ({reason}). From here on batches are computed in parts of "
        f"{size}, and each update is still that of the whole batch{exception}."
    )
