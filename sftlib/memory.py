"""Batches that memory does not hold at once: the same update, from parts of them."""

import contextlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from sftlib.model import Model, eval_mode
from sftlib.records import Outcome

Losses = Callable[[Tensor, Tensor], Outcome]
SIGNS = (
    "out of memory", "not enough memory", "can't allocate memory", "alloc_failed",
    "unable to find an engine",  # cuDNN, when there was no memory for any way of computing a convolution
)  # fmt: skip


class Parts:
    """Gradients of a batch from parts of at most ``size`` examples; None: at once, as long as memory suffices.

    A loss that is a mean over N examples is the mean of its parts, weighted by their share n / N; so is its gradient,
    and the update is that of the whole batch, up to rounding. Not so for
    - BatchNorm in train mode, which normalises each part by itself;
    - a loss that compares the examples of a batch (supervised contrastive), weighs them by what else is there
      (class weights), moves its state, or a ``combine`` of two losses: these are refused. The losses are tried on the
      first batch that is cut, as a whole and in parts;
    - dropout, whose masks are drawn part by part.

    When memory runs out, ``size`` is halved for the rest of the run, and the batch is computed again from the state
    that it started from: generators and buffers; parameters have not moved yet. A warning says so once. Where other
    workers wait for this one (`parallel.Parallel`), it is a MemoryError that says which size to try.
    """

    def __init__(self, model: Model, size: int | None = None, *, task_loss, feature_loss, combine, precision):
        if not (size is None or (isinstance(size, int) and not isinstance(size, bool) and size >= 1)):
            raise ValueError(f"got micro_batch={size!r}; expected a whole number of examples, 1 or more, or None")
        self.model, self.size, self.combine, self.precision = model, size, combine, precision
        self.losses = {"task_loss": task_loss, "feature_loss": feature_loss}
        self.modules = [part for part in (model, feature_loss, combine) if isinstance(part, nn.Module)]
        self.tried, self.reason = False, ""
        if size is not None:
            self._require_cuttable()

    def backward(self, losses: Losses, x: Tensor, y: Tensor, optimizer: Optimizer) -> Outcome:
        """x (N, …), y (N,) -> the losses and logits of the batch; its gradients are then in the parameters"""
        kept, before = self._kept(x.device), self.size
        while True:
            try:
                outcome = self._attempt(losses, x, y, optimizer, kept)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if getattr(self.model, "exchanges", False):
                    raise MemoryError(_what_to_pass(self.size, len(y), error)) from error
                self.reason = str(error).splitlines()[0]
            # here, and not above: the error holds on to the tensors of the attempt
            optimizer.zero_grad()
            self._halve(len(y))
            self._restore(kept, x.device)
        if self.size != before:
            warnings.warn(_what_changed(self.size, len(y), self.reason, self.modules), stacklevel=2)
        return outcome

    def _attempt(self, losses: Losses, x: Tensor, y: Tensor, optimizer: Optimizer, kept) -> Outcome:
        if self.size is None or self.size >= len(y):
            outcome = losses(x, y)
            optimizer.zero_grad()
            outcome.loss.backward()  # ∂L/∂f and ∂L/∂g
            return outcome
        if not self.tried:
            self._require_means(x, y, kept)
        optimizer.zero_grad()
        pieces, parts = list(zip(x.split(self.size), y.split(self.size), strict=True)), []
        for k, (x_part, y_part) in enumerate(pieces):
            with self._pass(k, len(pieces), len(y)):
                part, share = losses(x_part, y_part), len(y_part) / len(y)
                (part.loss * share).backward()  # adds to the gradients of the parts before
            parts.append(Outcome(*(t.detach() * share for t in part[:3]), part.logits.detach()))
        loss, task_loss, feature_loss, logits = zip(*parts, strict=True)
        return Outcome(sum(loss), sum(task_loss), sum(feature_loss), torch.cat(logits))

    def _pass(self, k: int, count: int, n: int):
        """A context for part k of ``count``; a model of several workers exchanges gradients in the last one only"""
        return self.model.part(k, count, n) if hasattr(self.model, "part") else contextlib.nullcontext()

    def _halve(self, n: int) -> None:
        size = n if self.size is None else min(self.size, n)
        if size == 1:
            raise MemoryError(
                f"memory does not suffice for one example ({self.reason}); expected it to: take smaller pictures, "
                "freeze more of the backbone, take bfloat16, or end what else uses the device"
            )
        self._require_cuttable()
        self.size = (size + 1) // 2

    def _require_cuttable(self) -> None:
        if self.combine is not None:
            raise ValueError(
                "got combine and a batch to be cut into parts; expected the whole batch, for a balancer looks at its "
                "two losses: take a smaller batch_size, or fixed weights (feature_weight)"
            )

    @torch.no_grad()
    def _require_means(self, x: Tensor, y: Tensor, kept) -> None:
        """ValueError unless each loss of the batch is the weighted mean of the losses of its parts."""
        with eval_mode(self.model), self.precision.autocast(x.device.type):
            features = [self.model.backbone(part) for part in x.split(self.size)]
            logits = [self.model.head(z) for z in features]
        inputs = {"task_loss": torch.cat(logits), "feature_loss": torch.cat(features)}
        inputs = {name: t.to(torch.promote_types(t.dtype, torch.float32)) for name, t in inputs.items()}
        for name, loss in self.losses.items():
            if loss is not None:
                whole = loss(inputs[name], y)
                self._restore(kept, x.device)
                pairs = zip(inputs[name].split(self.size), y.split(self.size), strict=True)
                mean = sum(loss(t, y_part) * len(y_part) for t, y_part in pairs) / len(y)
                self._restore(kept, x.device)
                if not torch.isclose(whole, mean, rtol=1e-3, atol=1e-6, equal_nan=True):
                    raise ValueError(
                        self.reason + ": " * bool(self.reason) + _no_mean(name, whole, mean, self.size, len(y))
                    )
        self.tried = True

    def _kept(self, device: torch.device):
        """The state that a batch starts from: buffers that a forward pass may move, and the generators"""
        moving = [m for part in self.modules for m in part.modules() if m.training]
        buffers = [b for m in moving for b in m.buffers(recurse=False)]
        own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        if device.type == "mps":
            own = torch.mps.get_rng_state()
        return list(zip(buffers, _copies(buffers), strict=True)), torch.get_rng_state(), own

    @torch.no_grad()
    def _restore(self, kept, device: torch.device) -> None:
        buffers, torch_state, own = kept
        for buffer, value in buffers:
            buffer.copy_(value)
        torch.set_rng_state(torch_state)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(own, device)
        if device.type == "mps":
            torch.mps.empty_cache()
            torch.mps.set_rng_state(own)


@torch.no_grad()
def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """The same values, by one kernel for each type on a GPU: a network has 150 such buffers, and this is every step"""
    copies = [torch.empty_like(t) for t in tensors]
    for dtype in {t.dtype for t in tensors}:
        torch._foreach_copy_(*([t for t in some if t.dtype is dtype] for some in (copies, tensors)))
    return copies


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU's allocator, says that memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in SIGNS)


def _what_to_pass(size: int | None, n: int, error: Exception) -> str:
    at_once = n if size is None else min(size, n)
    return (
        f"memory did not suffice for {at_once} examples at once ({str(error).splitlines()[0]}); expected it to, for "
        "the other workers wait for this one in the middle of a batch: go on from the last checkpoint with "
        f"micro_batch={max(1, at_once // 2)} or less in every worker (the update stays that of the whole batch)"
    )


def _what_changed(size: int, n: int, reason: str, modules: list[nn.Module]) -> str:
    follows = any(isinstance(m, _BatchNorm) and m.training for part in modules for m in part.modules())
    return (
        f"memory did not suffice for {n} examples at once ({reason}). From here on batches are "
        f"computed in parts of {size}, and each update is still that of the whole batch"
        + (", except that BatchNorm in train mode normalises each part by itself." if follows else ".")
    )


def _no_mean(name: str, whole: Tensor, mean: Tensor, size: int, n: int) -> str:
    return (
        f"{name} of {n} examples is {whole.item():.6g}, the mean over parts of {size} is {mean.item():.6g}; expected "
        "the same, a mean over examples: this loss compares or weighs the examples of a batch with each other, or "
        "moves its state, so the batch cannot be cut. Take a smaller batch_size, or a loss of single examples"
    )
