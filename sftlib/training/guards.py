"""What ``fit`` refuses before it starts, and what it watches while it runs."""

import numbers
import warnings

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from sftlib.adaptation import shared_parameters, stays_in_eval, trainable
from sftlib.metrics import Metric
from sftlib.model import Model
from sftlib.runtime import ALONE, Group, Precision, check_precision
from sftlib.training.records import Controls, at_least_zero
from sftlib.training.step import Objective


def check_call(model: Model, optimizer: Optimizer, objective: Objective, metric, **functions) -> None:
    """ValueError unless what `fit` is given can be trained, minimised and measured."""
    check_objective(objective)
    check_functions(**functions)
    check_metric(metric)
    check_optimizer(model, optimizer, objective)


def check_objective(objective: Objective) -> None:
    """Raises ValueError unless there is something to minimise, with a usable weight."""
    check_functions(**objective.functions, terms=objective.terms)
    if objective.task_loss is None and objective.feature_loss is None:
        raise ValueError("got neither task_loss nor feature_loss; expected at least one, such as F.cross_entropy")
    if objective.combine is not None and (objective.task_loss is None or objective.feature_loss is None):
        raise ValueError("got combine with one loss; expected task_loss and feature_loss, the two to balance")
    at_least_zero("feature_weight", objective.feature_weight)


def check_metric(metric) -> None:
    """ValueError unless ``metric()`` makes a measure, or it is None."""
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
            f"{_names(missed)} can train, but no group of the optimizer holds it, so it would never move: "
            "build the optimizer after unfreezing and after replacing parts, with the parameters of losses that have "
            "some, or freeze() what shall stay"
        )
    if frozen:
        raise ValueError(
            f"{_names(frozen)} is frozen, but the optimizer holds it: build the optimizer from param_groups(…) "
            "after freezing, so that no momentum or weight decay can reach it"
        )
    half_frozen = _half_frozen(model)
    half = [name for name, p in named if p.requires_grad and id(p) in half_frozen]
    if half:
        raise ValueError(
            f"{_names(half)} is one tensor in the frozen f and in g, which trains, so f would move: separate them by "
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
    for rate in rates:
        at_least_zero("lr", rate)
    return max(rates)


def check_arithmetic(precision: Precision, clip) -> None:
    """ValueError unless gradients are safe in that precision, and ``clip`` is a norm that they can have, or None."""
    check_precision(precision, trains=True)
    if clip is not None and at_least_zero("clip", clip) == 0:
        raise ValueError(
            "got clip=0, with which nothing would move; expected the largest norm of the gradient, or None"
        )


def check_batch_sizes(model: Model, loader, micro_batch: int | None) -> None:
    """ValueError if a batch or a part of one would be a single example where BatchNorm takes its statistics from it."""
    names = following(model)
    if names and model.group.world == 1:
        for n in sorted(_batch_sizes(loader) - {0}):
            check_batch_size(n, micro_batch, names)


def check_batch_size(n: int, micro_batch: int | None, names: list[str], group: Group = ALONE) -> None:
    """The same for a batch of n examples; ``names`` as `following` gives them"""
    if group.world > 1:  # the last batch may leave a worker without an example
        return
    if n == 0:
        raise ValueError("got a batch without an example; expected at least one in each: leave empty batches out")
    cut = micro_batch is not None and micro_batch < n
    alone = micro_batch == 1 or (micro_batch == 2 and n % 2 == 1) if cut else n == 1  # larger parts: see `Parts`
    if names and alone:
        what = "a batch of 1 example" if n == 1 else f"parts of 1 example (micro_batch={micro_batch} of {n})"
        raise ValueError(
            f"got {what} and {_names(names)}, a BatchNorm in train mode, which takes mean and variance from it; "
            "expected 2 or more: take another batch_size or drop_last=True, or freeze(model.backbone), or "
            "eval_stats_train_affine(model)"
        )


def following(model: nn.Module) -> list[str]:
    """Names of every BatchNorm that would follow the batch in training, whatever the mode of ``model`` is now"""
    return [name for name, m in _while_training(model) if isinstance(m, _BatchNorm)]


def warn_of_moving_statistics(model: nn.Module) -> None:
    """Warn where parameters were frozen by hand, and the statistics of a BatchNorm among them go on moving."""
    by_hand = [(name, m) for name, m in _while_training(model) if _stopped(m)]
    norms = [name for name, m in by_hand if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms and len(norms) < len(by_hand):  # else the mode was set for BatchNorm alone, which has its uses
        warnings.warn(
            f"the parameters of {_names(norms)} require no gradient, but this BatchNorm is in train mode: its running "
            "statistics move, so what was to stay does not. Take sftlib.adaptation.freeze, not requires_grad_(False)",
            stacklevel=3,
        )


def _stopped(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def _while_training(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts that ``model.train()`` puts into train mode; every mode is as before afterwards"""
    modes = [(m, m.training) for m in model.modules()]
    model.train()
    found = [(name, m) for name, m in model.named_modules() if m.training]
    for m, mode in modes:
        m.training = mode
    return found


def _batch_sizes(loader) -> set[int]:
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


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
