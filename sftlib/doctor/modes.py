"""Checks of train and eval mode, and of BatchNorm in both."""

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from sftlib.doctor.case import Case, Found
from sftlib.doctor.report import some

FREEZE = "sftlib.adaptation.freeze(module), which holds the mode too; or module.eval() after each model.train()"
FEW = 4  # examples: the mean over so few is noise


def frozen_batchnorm_in_train_mode(case: Case) -> Found:
    """Its weights are frozen, its statistics are not"""
    now = _training_in_step(case)
    moving = [name for name, m in case.frozen_norms if m.track_running_stats and id(m) in now]
    if moving:
        yield (
            some(moving),
            "stands among frozen weights in train mode: it normalises by each batch, and its running "
            "statistics move, so f is another function after every step and at evaluation",
            FREEZE,
            "certain",
        )


def freeze_undone_by_train(case: Case) -> Found:
    """In eval mode now; ``train()`` ends that"""
    now = case.now
    held = [(n, m) for n, m in case.frozen_norms if m.track_running_stats and id(m) not in now]
    undone = [name for name, m in held if id(m) in case.after_train]
    seen = [name for name, m in held if _steps(case) and case.run.modes.get(id(m))]
    if seen and id(case.model) in now:
        yield (
            some(seen),
            "is frozen and was in eval mode, and the step calls train(), which ends that: its statistics move",
            FREEZE,
            "certain",
        )
    elif undone and id(case.model) in now and not _steps(case):
        yield (some(undone), "is frozen and in eval mode, and the next model.train() ends that", FREEZE, "note")


def requires_grad_is_no_freeze(case: Case) -> Found:
    """Frozen by requires_grad alone: BatchNorm and dropout take their mode from ``train()``"""
    if id(case.model) in case.now or _steps(case):
        return
    switched = [name for name, m in case.frozen_norms if m.track_running_stats and id(m) in case.after_train]
    if switched:
        yield (
            some(switched),
            "its weights require no gradient, but model.train() will let its statistics move: "
            "requires_grad_(False) is not all of a freeze",
            FREEZE,
            "likely",
        )


def dropout_in_a_frozen_part(case: Case) -> Found:
    """Features of a frozen part that are drawn anew each time"""
    frozen = [
        (name, part) for name, part in case.parts().items() if not any(p.requires_grad for p in part.parameters())
    ]
    noisy = [
        f"{name}.{inner}".rstrip(".") for name, part in frozen for inner, m in part.named_modules()
        if isinstance(m, _DropoutNd) and m.p > 0 and id(m) in case.after_train
    ]  # fmt: skip
    if noisy:
        yield (
            some(noisy),
            "is dropout in a part whose weights are frozen: its features are noisy in training, and cannot be stored",
            FREEZE,
            "note",
        )


def frozen_batchnorm_without_statistics(case: Case) -> Found:
    """track_running_stats=False follows the batch in eval mode too"""
    named = [name for name, m in case.frozen_norms if m.running_mean is None]
    if named:
        yield (
            some(named),
            "is frozen but keeps no running statistics: it normalises by the batch in eval mode too, so "
            "an example's features depend on its neighbours",
            "track_running_stats=True, with the statistics of the weights",
            "likely",
        )


def eval_does_not_reach(case: Case) -> Found:
    """``model.eval()`` leaves a part in train mode"""
    kinds = (_DropoutNd, nn.modules.batchnorm._NormBase)
    left = [name for name, m in case.model.named_modules() if id(m) in case.after_eval and isinstance(m, kinds)]
    if left:
        yield (
            some(left),
            "stays in train mode after model.eval(): it is evaluated as it trains",
            "let train(mode) return super().train(mode) before it changes the mode of parts",
            "certain",
        )


def random_in_eval_mode(case: Case) -> Found:
    """Two outputs of one batch in eval mode differ"""
    if case.eval_outputs is None:
        return
    a, b = case.eval_outputs
    if a.shape == b.shape and not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
        yield (
            "the model in eval mode",
            "gives one batch two outputs: something is drawn that eval() does not switch "
            "off, such as F.dropout(x) without training=self.training",
            "nn.Dropout as a module, or F.dropout(x, p, training=self.training)",
            "certain",
        )


def eval_mode_in_training(case: Case) -> Found:
    """The step trains while dropout and BatchNorm are in eval mode"""
    if not _steps(case):
        return
    frozen = [part for part in case.parts().values() if not any(p.requires_grad for p in part.parameters())]
    resting = {id(m) for part in frozen for m in part.modules()}
    parts = [m for _, m in _switched(case) if id(m) in case.run.modes and id(m) not in resting]
    if parts and not any(case.run.modes[id(m)] for m in parts):
        yield (
            "the step",
            "trains in eval mode: dropout is off and BatchNorm's statistics do not follow",
            "model.train() before each epoch, for an evaluation before may have called eval()",
            "likely",
        )


def train_mode_in_evaluation(case: Case) -> Found:
    """What evaluates ran with dropout or BatchNorm in train mode"""
    run = case.evaluation
    if run is None:
        return
    parts = [name for name, m in _switched(case) if run.modes.get(id(m))]
    if parts:
        yield (
            some(parts),
            "is in train mode at evaluation: dropout draws, BatchNorm normalises by the batch, and its "
            "statistics learn from the validation data",
            "model.eval() before, model.train() after",
            "certain",
        )


def gradients_in_evaluation(case: Case) -> Found:
    """A graph is built that nobody uses"""
    if case.evaluation is not None and case.evaluation.with_gradient:
        yield (
            "evaluate",
            "runs with gradients on: time and memory for a graph that nobody uses",
            "with torch.no_grad(): around it",
            "note",
        )


def tiny_batches_with_batchnorm(case: Case) -> Found:
    """Statistics of very few examples"""
    sizes = case.train.sizes
    if _following(case) and 1 < max(sizes) <= FEW:
        yield (
            f"batches of {max(sizes)}, {some(_following(case))}",
            "BatchNorm takes mean and variance from very few "
            "examples: training is noisy, and evaluation by running statistics is another function",
            "eval_stats_train_affine(model), larger batches, or GroupNorm",
            "likely",
        )


def last_batch_of_one(case: Case) -> Found:
    """The last batch of an epoch is one example, and BatchNorm takes its statistics from it"""
    n, size = _count(case.train.loader), max(case.train.sizes)
    leaves_one = n is not None and n > size and n % size == 1 and not getattr(case.train.loader, "drop_last", False)
    seen = case.train.whole and case.train.sizes[-1] == 1
    if _following(case) and (leaves_one or seen):
        yield (
            f"the last batch of each epoch, {some(_following(case))}",
            "is one example: BatchNorm raises an error, or divides by a variance of one",
            "drop_last=True, or another batch_size",
            "certain",
        )


def _count(loader) -> int | None:
    for name in ("split", "dataset"):
        held = getattr(loader, name, None)
        if hasattr(held, "__len__") and getattr(loader, "batch_size", None):
            return len(held)
    return None


def _following(case: Case) -> list[str]:
    """Every BatchNorm that follows the batch in training: as the step had it, else as ``train()`` leaves it"""
    training = _training_in_step(case) if _steps(case) else case.after_train
    return [name for name, m in case.norms if id(m) in training]


def _training_in_step(case: Case) -> set[int]:
    """The modules in train mode: as the user's step had them, else as they are now"""
    if not _steps(case):
        return case.now
    return {key for key, training in case.run.modes.items() if training and (key in case.now or not _reached(case))}


def _reached(case: Case) -> bool:
    """Whether the model had been set to train as a whole before the step"""
    return id(case.model) in case.now


def _steps(case: Case) -> bool:
    return case.run is not None and not case.run.own


def _switched(case: Case) -> list[tuple[str, nn.Module]]:
    """Dropout that draws and BatchNorm with statistics, where ``train()`` switches them"""
    kinds = (_DropoutNd, nn.modules.batchnorm._NormBase)
    return [
        (name, m) for name, m in case.model.named_modules()
        if isinstance(m, kinds) and id(m) in case.after_train and getattr(m, "p", 1) > 0
    ]  # fmt: skip
