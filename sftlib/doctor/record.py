"""A training step, run twice with its calls recorded: what happened, in which order, to which gradients."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from sftlib.doctor.look import pair

MOST_RUNS, RISE, FAR = 10, 0.5, 10.0  # runs while the loss is above that of the start by so much of it
LEAST = 0.01  # root mean square of a parameter that begins at 0
CLIPS = ("_foreach_mul_", "mul_", "_foreach_clamp_", "clamp_", "_foreach_clamp_max_", "clamp_max_", "_foreach_div_")


@dataclass
class Run:
    """What was seen while a step ran; ``own``: the doctor's own step with an ordinary loss, not the user's"""

    own: bool = False
    losses: list[float] = field(default_factory=list)  # of the first backward of each run
    before_loss: set[str] = field(default_factory=set)  # what the loss is wrongly computed of, see `patterns`
    constant: bool = False  # a loss without gradient
    events: list[str] = field(default_factory=list)  # in order
    casts: set[torch.dtype] = field(default_factory=set)  # of autocast, where it was entered
    called: dict[int, int] = field(default_factory=dict)  # module -> when first
    modes: dict[int, bool] = field(default_factory=dict)  # module -> training, when called last
    strangers: dict[int, nn.Module] = field(default_factory=dict)  # modules called that are no part of the model
    taught: set[int] = field(default_factory=set)  # parameters of these that got a gradient
    rate: float = 0.0  # the largest, at the first step
    with_gradient: bool = False  # some module ran with gradients on
    none: set[int] = field(default_factory=set)  # parameters without a gradient when the optimizer stepped
    zero: set[int] = field(default_factory=set)
    bad: set[int] = field(default_factory=set)  # not finite
    left_over: bool = False  # the second run began its gradients with those of the first
    moved: dict[int, float] = field(default_factory=dict)  # parameter -> length of its update / its length, see LEAST
    stuck: dict[int, float] = field(default_factory=dict)  # share of its numbers with a gradient that did not change
    error: str = ""

    @property
    def rising(self) -> bool:
        """Whether no loss after the first step came down to the one before it"""
        before, *after = self.losses or [math.nan]
        return bool(after) and math.isfinite(before) and not min(after) <= before + RISE * (abs(before) + 0.1)

    @property
    def thrown(self) -> bool:
        """Whether the first step raised the loss of its own batch to many times what it was"""
        before, *after = self.losses or [math.nan]
        return bool(after) and math.isfinite(before) and not after[0] <= before + FAR * (abs(before) + 0.1)


class _Calls(TorchFunctionMode):
    """Sees every call of torch's functions; writes into a Run"""

    def __init__(self, run: Run, parameters: list[Tensor], held: list[Tensor]):
        super().__init__()
        self.run, self.parameters, self.held, self.stepping, self.first = run, parameters, held, False, True

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "backward" and isinstance(args[0], Tensor):
            self._backward(args[0])
        elif name in CLIPS and not self.stepping and self._changes_gradients(args[0]):
            self.run.events.append("clip")
        return func(*args, **(kwargs or {}))

    def _backward(self, loss: Tensor) -> None:
        self.run.events.append("backward")
        if not loss.requires_grad:
            self.run.constant = True
            return
        if self.first:
            self.first = False
            self.run.losses.append(float(loss.detach().float().mean()))
            self.run.before_loss |= patterns(loss)
            left = any(p.grad is not None and bool(p.grad.any()) for p in self.held)
            self.run.left_over |= left and len(self.run.losses) > 1

    def _changes_gradients(self, thing) -> bool:
        changed = {t.data_ptr() for t in (thing if isinstance(thing, (list, tuple)) else [thing]) if _is_dense(t)}
        return any(p.grad is not None and p.grad.data_ptr() in changed for p in self.parameters)


def _is_dense(t) -> bool:
    return isinstance(t, Tensor) and t.layout is torch.strided and t.numel() > 0


def record(step: Callable[[], object], model: nn.Module, optimizer, *, times: int = 2, own: bool = False) -> Run:
    """Run ``step()`` so often, with the same random numbers, and say what happened; the caller restores all.

    Where the second loss is far above the first it goes on for some steps: does it come down again?
    """
    run, held = Run(own=own), [p for group in optimizer.param_groups for p in group["params"]]
    parameters = held + [p for p in model.parameters() if not any(p is other for other in held)]
    before = [p.detach().clone() for p in parameters]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_watched_modules(run, model))
        stack.enter_context(_watched_scaling(run))
        calls = stack.enter_context(_Calls(run, parameters, held))
        stack.enter_context(_watched_optimizer(run, optimizer, calls, before))
        for i in range(MOST_RUNS):
            if i >= times and not (times > 1 and run.rising):
                break
            torch.manual_seed(0)
            calls.first = True
            run.events.append("run")
            try:
                step()
            except Exception as error:  # the user's step, whatever it does
                run.error = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                run.constant |= "does not require grad" in run.error
                break
            if i == 0 and "step" not in run.events:
                _see_gradients(run, parameters)
    run.taught = {id(p) for m in run.strangers.values() for p in m.parameters() if p.grad is not None}
    return run


def arguments(step: Callable, model: nn.Module, optimizer, batch) -> list:
    """What a step is called with, by the names of its parameters: model, optimizer, and the batch or what is in it"""
    known = dict.fromkeys(("model", "net", "network", "module"), model)
    known |= dict.fromkeys(("optimizer", "optim", "opt"), optimizer)
    known |= dict.fromkeys(("batch", "data", "sample", "examples"), batch)
    names = [
        p.name for p in inspect.signature(step).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    left = [name for name in names if name not in known]
    if left and batch is None:
        raise ValueError(f"got step({', '.join(names)}) without a train_loader; expected one that gives its batch")
    parts = list(batch) if isinstance(batch, (tuple, list)) else list(pair(batch))
    if len(left) == 1:
        parts = [batch]
    if len(left) not in (0, len(parts)):
        raise ValueError(
            f"got step({', '.join(names)}) and batches of {len(parts)}; expected step(batch), step(x, y), "
            "step(model, optimizer, x, y), or a function without arguments that calls yours"
        )
    unnamed = iter(parts)
    return [known[name] if name in known else next(unnamed) for name in names]


# ------------------------------------------------------------------------------------------------------ what is watched


@contextlib.contextmanager
def _watched_modules(run: Run, model: nn.Module) -> Iterator[None]:
    own = {id(m) for m in model.modules()}

    def see(module: nn.Module, args) -> None:
        if id(module) in own:
            run.called.setdefault(id(module), len(run.called))
            run.modes[id(module)] = module.training
            run.with_gradient |= torch.is_grad_enabled()
        else:
            run.strangers[id(module)] = module

    handle = register_module_forward_pre_hook(see)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _watched_scaling(run: Run) -> Iterator[None]:
    """GradScaler's calls and autocast's number formats, as asked for: switched off on a machine without a GPU too"""

    def told(owner: type, name: str, note: Callable) -> Callable[[], None]:
        inner = getattr(owner, name)

        def call(self, *args, **kwargs):
            note(self)
            return inner(self, *args, **kwargs)

        setattr(owner, name, call)
        return lambda: setattr(owner, name, inner)

    scaler, autocast = torch.amp.GradScaler, torch.amp.autocast_mode.autocast
    undo = [
        told(scaler, name, lambda _, name=name: run.events.append(f"scaler.{name}"))
        for name in ("scale", "unscale_", "step", "update")
    ]
    undo.append(told(autocast, "__enter__", lambda self: run.casts.add(self.fast_dtype)))
    try:
        yield
    finally:
        for work in undo:
            work()


@contextlib.contextmanager
def _watched_optimizer(run: Run, optimizer, calls: _Calls, before: list[Tensor]) -> Iterator[None]:
    def begin(*_) -> None:
        calls.stepping = True
        if "step" not in run.events:
            _see_gradients(run, calls.parameters)
            run.rate = max(float(group["lr"]) for group in optimizer.param_groups)
        run.events.append("step")

    def end(*_) -> None:
        calls.stepping = False
        if not run.moved:
            _see_updates(run, calls.parameters, before)

    handles = [optimizer.register_step_pre_hook(begin), optimizer.register_step_post_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _see_gradients(run: Run, parameters: list[Tensor]) -> None:
    run.none = {id(p) for p in parameters if p.grad is None}
    given = [p for p in parameters if p.grad is not None]
    run.bad = {id(p) for p in given if not _values(p.grad).isfinite().all()}
    run.zero = {id(p) for p in given if not _values(p.grad).any()}


def _values(t: Tensor) -> Tensor:
    return t.coalesce().values() if t.is_sparse else t


@torch.no_grad()
def _see_updates(run: Run, parameters: list[Tensor], before: list[Tensor]) -> None:
    for p, old in zip(parameters, before, strict=True):
        length = max(float(old.float().norm()), LEAST * old.numel() ** 0.5)
        run.moved[id(p)] = float((p - old).float().norm()) / length
        if p.grad is not None and not p.grad.is_sparse and (pushed := p.grad != 0).any():
            run.stuck[id(p)] = float((p == old)[pushed].float().mean())


# ---------------------------------------------------------------------------------------------- the graph of the loss

# Nodes that hand numbers on as they are
PASSED = ("View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze", "ToCopy", "T", "Transpose", "Permute", "Clone",
          "Slice", "Select", "Index", "Alias", "Contiguous")  # fmt: skip
RAW = ("Addmm", "Mm", "Convolution", "MkldnnConvolution", "Mean", "Bmm", "Linear", "Relu")
KINDS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}


def patterns(loss: Tensor) -> set[str]:
    """What stands directly before the log-softmax or the sigmoid that a loss computes itself, as autograd has it

    "softmax", "log_softmax", "sigmoid": cross_entropy of these; "sigmoid_bce": BCE with logits of a sigmoid or
    softmax; "raw_nll": nll_loss of scores. "of_classes": somewhere in it is a softmax.
    """
    found, todo, seen = set(), [loss.grad_fn], set()
    while todo and len(seen) < 100_000:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name, before = _name(node), _before(node)
        if name in ("LogSoftmax", "Softmax") or name.startswith("NllLoss"):
            found.add("of_classes")
        if name == "LogSoftmax" and before in KINDS:
            found.add(KINDS[before])
        elif name == "BinaryCrossEntropyWithLogits" and before in ("Sigmoid", "Softmax"):
            found.add("sigmoid_bce")
        elif name.startswith("NllLoss") and before in RAW:
            found.add("raw_nll")
        todo += [inner for inner, _ in node.next_functions]
    return found


def _name(node) -> str:
    return type(node).__name__.rstrip("0123456789").removesuffix("Backward")


def _before(node) -> str:
    """The name of the node that gives this one its numbers, those that hand them on passed over"""
    node = node.next_functions[0][0] if node.next_functions else None
    while node is not None and _name(node) in PASSED:
        node = node.next_functions[0][0] if node.next_functions else None
    return "" if node is None else _name(node)
