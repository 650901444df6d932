"""Checks of the loss, its gradients and one update."""

import math

from torch import nn

from sftlib.doctor.case import Case, Found
from sftlib.doctor.report import some

NOTHING = 1e-6  # length of an update, of the length of what it moves


def probabilities_into_cross_entropy(case: Case) -> Found:
    """Softmax before cross-entropy"""
    if "softmax" in case.run.before_loss:
        yield (
            "the loss",
            "cross-entropy takes logits and computes softmax itself; it gets probabilities, so its "
            "gradient is small, and it cannot fall below log(1 + (K − 1)/e)",
            "give it what comes before the softmax; softmax when predicting only",
            "certain",
        )


def log_probabilities_into_cross_entropy(case: Case) -> Found:
    """Log-softmax twice"""
    if "log_softmax" in case.run.before_loss:
        yield (
            "the loss",
            "cross-entropy takes logits and gets log-probabilities: the second log-softmax changes "
            "nothing but the time",
            "F.nll_loss, or leave the model's log_softmax out",
            "note",
        )


def sigmoid_before_loss(case: Case) -> Found:
    """A sigmoid before a loss that has one, or a softmax, of its own"""
    if {"sigmoid", "sigmoid_bce"} & case.run.before_loss:
        yield (
            "the loss",
            "computes a sigmoid or softmax itself and gets values that went through one: outputs lie in "
            "0 … 1, so it cannot fall far",
            "give it the logits; sigmoid when predicting only",
            "certain",
        )


def scores_into_nll(case: Case) -> Found:
    """Negative log-likelihood of scores that are no log-probabilities"""
    if "raw_nll" in case.run.before_loss:
        yield (
            "the loss",
            "nll_loss takes log-probabilities and gets scores: it falls without end and below 0",
            "F.cross_entropy, or log_softmax before it",
            "certain",
        )


def loss_without_gradient(case: Case) -> Found:
    """The loss is cut off from all that trains"""
    if case.run.constant and any(p.requires_grad for _, p in case.named):
        yield (
            "the loss",
            "does not depend on anything that trains (.detach(), .item(), argmax, no_grad, NumPy on its "
            "way): backward fails, or nothing learns",
            "compute it from the model's output as it is",
            "certain",
        )


def constant_loss(case: Case) -> Found:
    """There is a gradient, and it is zero everywhere"""
    run, trained = case.run, [id(p) for _, p in case.named if p.requires_grad and id(p) in case.groups_of]
    given = [key for key in trained if key not in run.none]
    if given and run.losses and all(key in run.zero for key in given):
        yield (
            "the loss",
            "has a gradient of exactly 0 for all that trains: nothing learns",
            "look for a weight of 0, outputs that are clamped, rounded or dead, and labels that do not enter",
            "certain",
        )


def gradient_does_not_reach(case: Case) -> Found:
    """Parts that ran before all that gets a gradient get none themselves"""
    run = case.run
    if run.constant or not run.losses:
        return
    own = {id(m): (name, m) for name, m in case.model.named_modules() if _trainable(m, case)}
    order = [own[key] for key in sorted(run.called, key=run.called.get) if key in own]
    reached = [i for i, (_, m) in enumerate(order) if any(id(p) not in run.none for p in _trainable(m, case))]
    cut = [name for name, _ in order[: reached[0]]] if reached else []
    missed = [name for i, (name, _) in enumerate(order) if i not in reached and name not in cut]
    if cut:
        yield (
            some(cut),
            "can train and takes part in the output, but no gradient reaches it: the graph is cut after it "
            "(.detach(), no_grad, a frozen copy)",
            "leave the cut out, or freeze the part",
            "certain",
        )
    if missed:
        yield (
            some(missed),
            "ran, but nothing of it enters the loss: it keeps the values it has",
            "leave the part out, or freeze it",
            "note",
        )


def part_never_used(case: Case) -> Found:
    """A whole part that can train and is never called"""
    run = case.run
    unused = [
        name for name, part in case.parts().items()
        if not any(id(m) in run.called for m in part.modules()) and _trainable_inside(part, case)
        and all(id(p) in run.none for p in _trainable_inside(part, case))
    ]  # fmt: skip
    if unused and run.losses and not any("aux" in name.lower() for name in unused):
        yield (
            some(unused),
            "can train, but the step never uses it",
            "a head that was replaced under another name? Set the one that forward() uses, or delete it",
            "likely",
        )


def auxiliary_head_left(case: Case) -> Found:
    """A second head that is not trained, or still has its old classes"""
    run, K = case.run, case.classes
    for name, part in case.model.named_children():
        layers = [m for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        if not name.lower().startswith("aux") or not layers:
            continue
        out = getattr(layers[-1], "out_features", getattr(layers[-1], "out_channels", None))
        params = _trainable_inside(part, case)
        idle = bool(params) and not run.own and all(id(p) in run.none for p in params)
        if idle or (K is not None and out != K):
            what = f"has {out} outputs, the head has {K}" if K is not None and out != K else "gets no gradient"
            yield (
                name,
                f"this auxiliary head {what}: it was left over when the head was replaced",
                "replace it too and add its loss, or set it to None",
                "likely",
            )


def non_finite_loss(case: Case) -> Found:
    """The loss of a first batch is NaN or infinite"""
    if case.run.losses and not math.isfinite(case.run.losses[0]) and case.train.finite:
        yield (
            "the loss of the first batch",
            f"is {case.run.losses[0]}: so are all gradients",
            "look for 0/0, log(0) and targets that do not exist; a smaller range of numbers in float16",
            "certain",
        )


def learning_rate_too_high(case: Case) -> Found:
    """A step throws the loss of its own batch far up, or some steps do not bring it down again"""
    run = case.run
    if run.constant or not run.rising and not run.thrown:
        return
    before, after = run.losses[0], run.losses[1:]
    lasting = "it does not come down again" if run.rising else "and it comes down again by chance only"
    yield (
        f"lr={_rates(case)}",
        f"one step raises the loss of its own batch from {before:.4g} to {after[0]:.4g}; in {len(after)} {lasting}",
        "a tenth of the rate, or a warm-up; fine-tuning takes less than training from scratch",
        "certain" if run.rising and run.thrown else "likely",
    )


def learning_rate_changes_nothing(case: Case) -> Found:
    """A step moves nothing that could be seen"""
    run = case.run
    moved = {
        key: size for key, size in run.moved.items()
        if key in case.groups_of and key not in run.none | run.zero | run.bad
    }  # fmt: skip
    if moved and run.rate > 0 and max(moved.values()) < NOTHING and not _in_half(case):
        yield (
            f"lr={_rates(case)}",
            f"one step moves no weight by more than {max(moved.values()):.1g} of its length: "
            "in any usual number of steps nothing changes",
            "a larger rate; divide the loss by less",
            "likely",
        )


def updates_vanish_in_half_precision(case: Case) -> Found:
    """Weights of 16 bits, and updates below half of their spacing"""
    stuck = [name for name, p in case.named if p.element_size() < 4 and case.run.stuck.get(id(p), 0) > 0.5]
    if stuck:
        yield (
            some(stuck),
            "has weights of 16 bits: most of them do not change by the update, which is less than half "
            "of the distance to the next number",
            "weights in float32 and autocast for the products",
            "certain",
        )


def _in_half(case: Case) -> bool:
    return any(p.element_size() < 4 and id(p) in case.run.stuck for _, p in case.named)


def _rates(case: Case) -> str:
    return ", ".join(sorted({f"{float(group['lr']):g}" for group in case.optimizer.param_groups}))


def _trainable(module: nn.Module, case: Case) -> list[nn.Parameter]:
    """A module's own parameters that train and that the optimizer holds"""
    return [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) in case.groups_of]


def _trainable_inside(module: nn.Module, case: Case) -> list[nn.Parameter]:
    return [p for m in module.modules() for p in _trainable(m, case)]
