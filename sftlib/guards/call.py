"""What ``fit`` and ``evaluate`` are given: what cannot be trained, minimised or measured is refused at the call."""

import numbers
import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from sftlib.adaptation import in_train_mode, shared_parameters, stays_in_eval, trainable
from sftlib.inputs import finite, listed
from sftlib.metrics import Metric
from sftlib.model import Model
from sftlib.objective import Objective
from sftlib.runtime import Precision, check_precision


def check_call(
    model: Model, optimizer: Optimizer, objective: Objective, metric, precision: Precision, clip, *, schedule, validate
) -> None:
    """ValueError unless what `fit` is given can be trained, minimised and measured.

    Gradients must be safe in that precision, and ``clip`` is a norm that they can have, or None.
    """
    check_objective(objective)
    check_functions(schedule=schedule, validate=validate)
    check_metric(metric)
    check_optimizer(model, optimizer, objective)
    check_precision(precision, trains=True)
    if clip is not None and finite("clip", clip, least=0) == 0:
        raise ValueError(
            "got clip=0, with which nothing would move; expected the largest norm of the gradient, or None"
        )


def check_objective(objective: Objective) -> None:
    """Raises ValueError unless there is something to minimise, with a usable weight."""
    check_functions(**objective.functions, terms=objective.terms)
    for name, f in objective.functions.items():
        if isinstance(f, type):
            raise ValueError(f"got {name}={f.__name__}, a class; expected a function, or one of it: {f.__name__}()")
    if objective.task_loss is None and objective.feature_loss is None:
        raise ValueError("got neither task_loss nor feature_loss; expected at least one, such as F.cross_entropy")
    if objective.combine is not None and (objective.task_loss is None or objective.feature_loss is None):
        raise ValueError("got combine with one loss; expected task_loss and feature_loss, the two to balance")
    finite("feature_weight", objective.feature_weight, least=0)


def check_metric(metric) -> None:
    """ValueError unless ``metric()`` makes a measure, or it is None."""
    if isinstance(metric, Metric) and not isinstance(metric, type):
        name = type(metric).__name__
        raise ValueError(f"got a {name}; expected what makes one: metric={name} without brackets, or lambda: {name}(…)")
    check_functions(metric=metric)
    if metric is not None and not isinstance(measure := metric(), Metric):
        raise ValueError(
            f"got a metric that makes a {type(measure).__name__}; expected a function that makes a measure, such as "
            "sftlib.metrics.Accuracy (without brackets)"
        )
    if metric is not None and metric() is measure:
        raise ValueError(
            f"got a metric that gives the same {type(measure).__name__} each time, in which training, validation and "
            "epochs would be added up; expected a new one at each call, such as lambda: Accuracy(ignore_index=-100)"
        )


def validated(validate, model: Model) -> dict | None:
    """What ``validate(model)`` measured, None without one; ValueError unless it is numbers by name."""
    if validate is None:
        return None
    found = validate(model)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(
            f"got a {type(found).__name__} from validate; expected a dict, numbers by name, such as evaluate(…) returns"
        )
    values = {name: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for name, v in found.items()}
    wrong = [name for name, v in values.items() if not isinstance(v, (numbers.Real, list))]
    if wrong:
        raise ValueError(f"got a {type(values[wrong[0]]).__name__} as {wrong[0]!r} from validate; expected a number")
    return values


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
    if not (type(epochs) is type(first_epoch) is int and 1 <= first_epoch <= epochs):
        raise ValueError(f"got epochs={epochs!r}, first_epoch={first_epoch!r}; expected 1 <= first_epoch <= epochs")


def check_optimizer(model: Model, optimizer: Optimizer, objective: Objective) -> None:
    """ValueError unless the optimizer holds every trainable parameter of ``model``, and of the losses that are modules,
    no frozen one, and has rates that can be meant.
    """
    if not isinstance(model, Model):
        raise ValueError(f"got a {type(model).__name__} as model; expected Model(backbone, head)")
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"got a {type(optimizer).__name__} as optimizer; expected a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "got LBFGS, which computes a batch several times; expected one step a batch, such as SGD, Adam"
        )
    largest_rate(optimizer)
    named = list(model.named_parameters())
    for name, loss in objective.functions.items():
        if isinstance(loss, nn.Module):
            named += [(f"{name}.{inner}", p) for inner, p in loss.named_parameters()]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missed = [name for name, p in named if p.requires_grad and id(p) not in held]
    frozen = [name for name, p in named if not p.requires_grad and id(p) in held]
    if missed:
        raise ValueError(
            f"{listed(missed)} can train, but no group of the optimizer holds it, so it would never move: "
            "build the optimizer after unfreezing and after replacing parts, with the parameters of losses that have "
            "some, or freeze() what shall stay"
        )
    if frozen:
        raise ValueError(
            f"{listed(frozen)} is frozen, but the optimizer holds it: build the optimizer from param_groups(…) "
            "after freezing, so that no momentum or weight decay can reach it"
        )
    half_frozen = _half_frozen(model)
    half = [name for name, p in named if p.requires_grad and id(p) in half_frozen]
    if half:
        raise ValueError(
            f"{listed(half)} is one tensor in the frozen f and in g, which trains, so f would move: separate them by "
            "sftlib.adaptation.untie(model), or freeze both"
        )
    if not trainable(model):
        raise ValueError("nothing can train: every parameter is frozen, or there is none; unfreeze() the head at least")


def _half_frozen(model: Model) -> set[int]:
    """Of the tensors that f and g share, those that only one of the two freezes"""
    shared = shared_parameters(model.backbone, model.head)
    frozen = [(_is_frozen_in(model.backbone, in_f), _is_frozen_in(model.head, in_g)) for in_f, in_g in shared]
    ends = dict(model.head.named_parameters(remove_duplicate=False))
    return {id(ends[in_g]) for (_, in_g), (f, g) in zip(shared, frozen, strict=True) if f is not g}


def _is_frozen_in(part: nn.Module, name: str) -> bool:
    return stays_in_eval(part.get_submodule(name.rpartition(".")[0]))


def largest_rate(optimizer: Optimizer) -> float:
    """The largest rate of the optimizer's groups; ValueError unless each is a finite number of at least 0."""
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ValueError("got an optimizer with maximize=True, which would raise the loss; expected maximize=False")
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return max(finite("lr", rate, least=0) for rate in rates)


def warn_of_freezing(model: Model) -> None:
    """Warn where freezing did less, or more, than its words say.

    Less: a module was given an attribute requires_grad, which freezes nothing; or parameters were frozen by hand, and
    the statistics of a BatchNorm among them go on moving. More: one of f and g was frozen, and with it a tensor of the
    other, which they share.
    """
    if named := [name or "the model" for name, m in model.named_modules() if "requires_grad" in vars(m)]:
        warnings.warn(
            f"{listed(named)} has an attribute requires_grad, which freezes nothing: a module has none, only its "
            "parameters have. Take sftlib.adaptation.freeze, and build the optimizer afterwards",
            stacklevel=3,
        )
    half_frozen = _half_frozen(model)
    if half := [name for name, p in model.named_parameters() if id(p) in half_frozen]:
        warnings.warn(
            f"{listed(half)} is one tensor in f and in g, of which one is frozen and the other not, so it stays in "
            "both: separate them by sftlib.adaptation.untie(model) before freezing, or freeze what holds it in both",
            stacklevel=3,
        )
    by_hand = [(name, m) for name, m in in_train_mode(model) if _stopped(m)]
    norms = [name for name, m in by_hand if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms and len(norms) < len(by_hand):  # else the mode was set for BatchNorm alone, which has its uses
        warnings.warn(
            f"the parameters of {listed(norms)} require no gradient, but this BatchNorm is in train mode: its running "
            "statistics move, so what was to stay does not. Take sftlib.adaptation.freeze, not requires_grad_(False)",
            stacklevel=3,
        )


def warn_of_redrawing(loader) -> None:
    """Warn where what is to be measured is not the examples of a split, one each."""
    if getattr(loader, "redraws", False) is True:
        warnings.warn(
            "evaluate: the loader gives augmented examples, or some of them repeatedly, so this measures what it drew "
            "and not its split: take a loader without augment and weights",
            stacklevel=4,  # evaluate, and the decorator around it
        )


def warn_of_rate_0(schedule, step: int, steps: int) -> None:
    """Warn, at the first step of rate 0, of a schedule that has ended before the run has."""
    begins = step == 0 or schedule(step - 1) > 0
    if begins and step + 1 < steps and schedule(step + 1) == 0:
        warnings.warn(
            f"schedule({step}) and what follows is 0, so nothing moves from step {step + 1} of {steps} on: a schedule "
            "counts steps, not epochs: warmup_cosine(epochs * len(train_loader))",
            stacklevel=4,
        )


def _stopped(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def batch_sizes(loader) -> set[int]:
    """The sizes of the batches to come, as far as a loader tells: a list, those of the course, a torch DataLoader"""
    if isinstance(loader, (list, tuple)):
        labels = [batch[1] for batch in loader if isinstance(batch, (list, tuple)) and len(batch) == 2]
        return {len(y) for y in labels if isinstance(y, Tensor) and y.dim()}
    inner = getattr(loader, "loader", loader)  # `prefetch`
    size = getattr(inner, "batch_size", None)
    sources = (getattr(inner, name, None) for name in ("split", "labels", "sampler"))
    n = next((len(source) for source in sources if source is not None), None)
    if size is None or n is None:
        return set()
    rest = set() if getattr(inner, "drop_last", False) else {n % size}
    return ({size} if n >= size else set()) | rest
