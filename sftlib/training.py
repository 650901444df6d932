"""The training loop, in sight: one step of f and g, epochs as an iterator of records, evaluation."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from sftlib.checkpoints import Checkpoint
from sftlib.guards import (
    Watch,
    check_controls,
    check_functions,
    check_loop,
    check_losses,
    check_optimizer,
    check_resume,
)
from sftlib.memory import Parts, out_of_memory
from sftlib.metrics import Mean, correct
from sftlib.model import Model, eval_mode
from sftlib.progress import Progress
from sftlib.records import Controls, Epoch, Outcome, Step
from sftlib.runtime import CANDIDATES, FLOAT32, Precision, PrecisionChoice, choose_precision, keep_freed_memory

Loss = Callable[[Tensor, Tensor], Tensor]


def forward(
    model: Model, x: Tensor, y: Tensor, *, task_loss: Loss | None, feature_loss: Loss | None = None,
    feature_weight: float = 1.0, penalty=None, combine=None, precision: Precision = FLOAT32,
) -> Outcome:  # fmt: skip
    """x (N, …), y (N,) -> the combined loss L = L_g(g(f(x)), y) + feature_weight · L_f(f(x), y) + penalty(model)"""
    with precision.autocast(x.device.type):
        if hasattr(model, "cut"):  # `parallel.Parallel`: its gradients are averaged when f and g run as one module
            z, logits = model.cut(x)
        else:
            z = model.backbone(x)  # (N, D)
            logits = model.head(z)  # (N, K)
    z, logits = _at_least_float32(z), _at_least_float32(logits)
    zero = logits.new_zeros(())
    L_g = zero if task_loss is None else task_loss(logits, y)
    L_f = zero if feature_loss is None else feature_loss(z, y)
    L = L_g + feature_weight * L_f if combine is None else combine((L_g, L_f), model)
    if penalty is not None:
        L = L + penalty(model)
    return Outcome(L, L_g, L_f, logits)


def train_step(
    model: Model, x: Tensor, y: Tensor, optimizer: Optimizer, *, task_loss: Loss | None,
    feature_loss: Loss | None = None, feature_weight: float = 1.0, penalty=None, combine=None,
    precision: Precision = FLOAT32, parts: Parts | None = None,
) -> Outcome:  # fmt: skip
    """x (N, …), y (N,) -> losses and logits before the update f ← f − α ∂L/∂f, g ← g − α ∂L/∂g

    α is the rate of each of the optimizer's groups. ``task_loss=None`` trains on the feature loss alone. ``parts``
    computes the gradients in several goes, for batches that memory does not hold at once.
    """

    def losses(x: Tensor, y: Tensor) -> Outcome:
        return forward(
            model, x, y, task_loss=task_loss, feature_loss=feature_loss, feature_weight=feature_weight,
            penalty=penalty, combine=combine, precision=precision,
        )  # fmt: skip

    if parts is None:
        outcome = losses(x, y)
        optimizer.zero_grad()
        outcome.loss.backward()  # ∂L/∂f and ∂L/∂g
    else:
        outcome = parts.backward(losses, x, y, optimizer)
    optimizer.step()
    return Outcome(*(t.detach() for t in outcome))


@torch.inference_mode()
def evaluate(
    model: Model, loader: Iterable, *, task_loss: Loss = F.cross_entropy, precision: Precision = FLOAT32
) -> dict[str, float]:
    """loader of (x, y) -> {"loss": mean in nats per example, "accuracy": in [0, 1], "n": examples}

    In eval mode; the model's modes are as before when it returns. Averages are over examples, not over batches.
    """
    where = next(model.parameters()).device
    loss, hits = Mean(), Mean()
    with eval_mode(model):
        for x, y in loader:
            x, y = precision.place(x.to(where)), y.to(where)
            with precision.autocast(where.type):
                logits = model(x)  # (N, K)
            logits = _at_least_float32(logits)
            loss.add(task_loss(logits, y) * len(y), len(y))
            hits.add(correct(logits, y), len(y))
    return {"loss": loss.value, "accuracy": hits.value, "n": hits.count}


def fit(
    model: Model, train_loader: Iterable, optimizer: Optimizer, *, epochs: int, val_loader: Iterable | None = None,
    task_loss: Loss | None = F.cross_entropy, feature_loss: Loss | None = None, feature_weight: float = 1.0,
    penalty: Callable[[Model], Tensor] | None = None, combine=None, schedule: Callable[[int], float] | None = None,
    precision: Precision = FLOAT32, first_epoch: int = 1, resume: Checkpoint | None = None,
    controls: Controls | None = None, micro_batch: int | None = None,
) -> Iterator[Step | Epoch]:  # fmt: skip
    """Train f and g; yields a ``Step`` after every update and an ``Epoch`` after every pass.

    Arguments are checked at this call; training happens while the result is iterated over, and stops where the
    iteration stops. ``schedule(step)``, step from 0, multiplies the rate that each group was built with.
    ``penalty(model)`` adds a term on parameters; ``combine((L_g, L_f), model)`` returns the scalar to differentiate
    in place of L_g + feature_weight · L_f. ``resume=load_checkpoint(…)`` goes on where the checkpoint was made,
    within an epoch too; ``first_epoch`` > 1 goes on after a whole epoch. ``controls`` may be changed while the run goes
    on, from another thread too. ``micro_batch``: examples at once, see `sftlib.memory.Parts`.

    Raises FloatingPointError at the first loss that is not finite; model and optimizer are then back at the last
    copy (every 20 steps) of a state whose loss was finite.
    """
    settings = {
        "task_loss": task_loss, "feature_loss": feature_loss, "feature_weight": feature_weight,
        "penalty": penalty, "combine": combine, "precision": precision,
    }  # fmt: skip
    check_functions(task_loss=task_loss, feature_loss=feature_loss, penalty=penalty, combine=combine, schedule=schedule)
    check_losses(task_loss, feature_loss, feature_weight, combine)
    if resume is not None:
        check_resume(resume, first_epoch, precision)
        first_epoch, controls = resume.epoch + 1, _gone_on(check_controls(controls), resume.controls)
    check_loop(train_loader, val_loader, epochs, first_epoch)
    check_optimizer(model, optimizer)
    keep_freed_memory()
    precision.place(model)
    parts = Parts(
        model, micro_batch, task_loss=task_loss, feature_loss=feature_loss, combine=combine, precision=precision
    )
    run = Progress(train_loader, settings, check_controls(controls), parts, first_epoch)
    return _run(model, optimizer, run, epochs, val_loader, schedule, resume and resume.progress)


def _gone_on(controls: Controls, saved: Controls | None) -> Controls:
    """Controls that nobody has changed take what the run had; changed ones stay"""
    if saved is not None and controls == Controls():
        controls.rate, controls.feature_weight = saved.rate, saved.feature_weight
    return controls


def _run(model, optimizer, run: Progress, epochs, val_loader, schedule, saved) -> Iterator[Step | Epoch]:
    settings, controls, where = run.settings, run.controls, next(model.parameters()).device
    precision, steps = settings["precision"], len(run.loader) * epochs
    run.step = len(run.loader) * (run.epoch - 1)
    watch = Watch(model, optimizer, settings["feature_loss"])
    ahead = where.type == "cuda"  # on MPS such a copy may read memory that was freed since (pytorch issue 189690)
    for epoch in range(run.epoch, epochs + 1):
        model.train()  # what is frozen stays in eval mode
        batches, saved = run.begin(epoch) if saved is None else run.resume(saved, where), None
        mark = time.perf_counter()
        for x, y in batches:
            _steer(optimizer, None if schedule is None else schedule(run.step), controls.rate)
            weight = settings["feature_weight"] if controls.feature_weight is None else controls.feature_weight
            x, y = precision.place(x.to(where, non_blocking=ahead)), y.to(where, non_blocking=ahead)
            watch.before(run.step)
            outcome = train_step(model, x, y, optimizer, **settings | {"feature_weight": weight}, parts=run.parts)
            run.add(outcome, y)
            lr = max(group["lr"] for group in optimizer.param_groups)
            watch.after(run.step, lr, outcome.loss, x)
            rate = len(y) / (time.perf_counter() - mark)
            yield Step(run.step, steps, epoch, outcome, lr, rate, weight, run.parts.size, run)
            mark = time.perf_counter()
        watch.look()
        run.over = True
        val = None
        if val_loader is not None:
            task_loss = settings["task_loss"] or F.cross_entropy
            val = evaluate(model, val_loader, task_loss=task_loss, precision=precision)
        yield Epoch(epoch, epochs, run.measures(), val, run)


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times the rate that it was built with (kept as "initial_lr")."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _steer(optimizer: Optimizer, scheduled: float | None, rate: float) -> None:
    """Rates of the next step. Without a schedule, and while the control rests, what was set by hand stays."""
    if scheduled is not None:
        set_rates(optimizer, scheduled * rate)
    elif rate != optimizer.param_groups[0].get("control", 1.0):
        set_rates(optimizer, rate)
        for group in optimizer.param_groups:
            group["control"] = rate  # in the optimizer, so that a checkpoint holds it


def measure_precision(
    model: Model, x: Tensor, y: Tensor | None = None, *, task_loss: Loss = F.cross_entropy
) -> PrecisionChoice:
    """x (N, …), y (N,) -> the fastest precision for training on such batches; without y, for inference

    Works on copies of the model, in about 2 s: of the N examples it uses as many as that allows on a CPU. Other
    devices take all of them, or what memory holds: with a few, the time would be that of launching the work.
    """
    keep_freed_memory()
    where = next(model.parameters()).device
    x, y = x.to(where), None if y is None else y.to(where)
    copies = {p: p.place(copy.deepcopy(model).train(y is not None)) for p in CANDIDATES}

    def step(precision: Precision, n: int) -> None:
        batch = precision.place(x[:n])
        if y is None:
            with torch.inference_mode(), precision.autocast(where.type):
                copies[precision](batch)
        else:
            forward(copies[precision], batch, y[:n], task_loss=task_loss, precision=precision).loss.backward()

    if where.type != "cpu":
        return _choose_precision(step, len(x))
    step(FLOAT32, 2)  # allocations and kernel selection, once
    start = time.perf_counter()
    step(FLOAT32, 2)
    n = max(2, min(len(x), int(2 * 0.15 / (time.perf_counter() - start))))  # about 0.15 s a step
    return _choose_precision(step, n)


def _choose_precision(step: Callable[[Precision, int], None], n: int) -> PrecisionChoice:
    """With n examples, or as many as memory holds"""
    try:
        return choose_precision(lambda precision: step(precision, n), n, budget_s=1.5)
    except RuntimeError as error:
        if n < 2 or not out_of_memory(error):
            raise
    return _choose_precision(step, n // 2)  # here, and not above: the error holds on to the tensors of the attempt


def _at_least_float32(t: Tensor) -> Tensor:
    """Losses are computed in float32 when autocast gave less; float64 stays."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
