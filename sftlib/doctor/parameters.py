"""Checks of parameters and the optimizer: nothing is computed."""

import math

from torch import nn

from sftlib.adaptation import shared_parameters
from sftlib.doctor.case import Case, Found
from sftlib.doctor.report import some


def nothing_trains(case: Case) -> Found:
    """Every parameter is frozen"""
    if not any(p.requires_grad for _, p in case.named):
        yield (
            "the model",
            "every parameter is frozen, or there is none: training changes nothing",
            "unfreeze the head at least, and build the optimizer afterwards",
            "certain",
        )


def trainable_not_in_optimizer(case: Case) -> Found:
    """It can train, and no group holds it"""
    missed = [name for name, p in case.named if p.requires_grad and id(p) not in case.groups_of]
    if missed:
        yield (
            some(missed),
            "can train, but no group of the optimizer holds it, so it keeps the value it has now",
            "build the optimizer after unfreezing and after replacing parts, or freeze what shall stay",
            "certain",
        )


def parameter_in_two_groups(case: Case) -> Found:
    """One step moves it twice"""
    twice = [name for name, p in case.named + case.of_losses if len(case.groups_of.get(id(p), ())) > 1]
    if twice:
        yield (
            some(twice),
            "stands in two groups of the optimizer: each step moves it twice, at both rates",
            "give each parameter to one group",
            "certain",
        )


def frozen_parameter_in_optimizer(case: Case) -> Found:
    """Frozen, and held by a group that decays or has momentum"""
    held = [(name, p) for name, p in case.named if not p.requires_grad and id(p) in case.groups_of]
    stale = [name for name, p in held if p.grad is not None]
    moved = [name for name, p in held if case.run is not None and case.run.moved.get(id(p), 0) > 0]
    if stale or moved:
        yield (
            some(stale or moved),
            "is frozen, but the optimizer holds it with a gradient of before: it goes on "
            "moving by that gradient, momentum and weight decay",
            "freeze first, then build the optimizer from the parameters that train",
            "certain",
        )
    elif held:
        pulled = any(
            group.get("weight_decay") or group.get("momentum") or group.get("betas")
            for i, group in enumerate(case.optimizer.param_groups)
            if any(i in case.groups_of[id(p)] for _, p in held)
        )
        by = ", by momentum and weight decay too" if pulled else ""
        yield (
            some([name for name, _ in held]),
            "is frozen, but the optimizer holds it: it rests as long as its "
            f"gradient is None, and moves once it has one{by}",
            "build the optimizer from [p for p in model.parameters() if p.requires_grad]",
            "note",
        )


def parameters_of_a_replaced_part(case: Case) -> Found:
    """The optimizer holds what is no part of the model"""
    own = {id(p) for _, p in case.named + case.of_losses}
    own |= {id(p) for m in (case.run.strangers.values() if case.run else ()) for p in m.parameters()}
    foreign = [p for group in case.optimizer.param_groups for p in group["params"] if id(p) not in own]
    if foreign:
        missed = any(p.requires_grad and id(p) not in case.groups_of for _, p in case.named)
        shapes = some([str(tuple(p.shape)) for p in foreign])
        yield (
            f"{len(foreign)} parameters of the optimizer, of shape {shapes}",
            "belong to no part of the model (nor "
            "of a loss that was given): a head that was replaced since trains no more",
            "build the optimizer after the last change of the model; pass losses with parameters to diagnose",
            "certain" if missed else "note",
        )


def loss_parameters_not_in_optimizer(case: Case) -> Found:
    """A loss with parameters of its own that no group holds"""
    missed = [name for name, p in case.of_losses if id(p) not in case.groups_of]
    strangers = case.run.strangers.values() if case.run else ()
    missed += [
        f"{type(m).__name__}.{name}" for m in strangers for name, p in m.named_parameters(recurse=False)
        if id(p) in case.run.taught and p.requires_grad and id(p) not in case.groups_of and not _known(case, p)
    ]  # fmt: skip
    if missed:
        yield (
            some(missed),
            "belongs to a loss (prototypes, centres, weights, a head of its own) and can train, but "
            "no group of the optimizer holds it: it stays as it was drawn",
            "add it: optimizer.add_param_group({'params': loss.parameters(), 'lr': …})",
            "certain",
        )


def _known(case: Case, p: nn.Parameter) -> bool:
    return any(p is own for _, own in case.of_losses)


def shared_parameter_half_frozen(case: Case) -> Found:
    """A tensor that two parts share, of which one is frozen and the other not"""
    names: dict[int, list[str]] = {}
    for name, p in case.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    shared = {n for found in names.values() if len(found) > 1 for n in found}
    if case.backbone is not None and case.head is not None:
        shared &= {
            name for f, g in shared_parameters(case.backbone, case.head) for name in shared if name.endswith((f, g))
        }
    params = dict(case.model.named_parameters(remove_duplicate=False))
    half = [name for name in sorted(shared) if _differs(name, params, shared)]
    if half:
        yield (
            some(half),
            "is one tensor in two parts of the model (an embedding that is the output matrix too), and what stands "
            "beside it is frozen where it is not, or the other way round: what should rest moves, or the reverse",
            "sftlib.adaptation.untie(model), or freeze both parts, or neither",
            "likely" if any(params[name].requires_grad for name in half) else "note",
        )


def _differs(name: str, params: dict, shared: set[str]) -> bool:
    """Whether what stands beside a shared parameter, in the nearest part that has more, is all of the other kind"""
    part = name
    while part:
        part = part.rpartition(".")[0]
        beside = [p for n, p in params.items() if n.startswith(part and part + ".") and n not in shared]
        if beside:
            return all(p.requires_grad != params[name].requires_grad for p in beside)
    return False


def requires_grad_set_on_a_module(case: Case) -> Found:
    """``module.requires_grad = False`` is an attribute like any other"""
    named = [name or "the model" for name, m in case.model.named_modules() if "requires_grad" in vars(m)]
    if named:
        yield (
            some(named),
            "got an attribute requires_grad, which a module does not have: nothing is frozen by it",
            "sftlib.adaptation.freeze(module), or module.requires_grad_(False) and its mode",
            "certain",
        )


def rate_is_no_rate(case: Case) -> Found:
    """Negative, not finite, or zero"""
    for i, group in enumerate(case.optimizer.param_groups):
        rate = float(group["lr"])
        where = f"group {group.get('name', i)!r}, lr={rate:g}"
        if not math.isfinite(rate) or rate < 0:
            yield where, "the loss is climbed, or all becomes NaN", "a finite rate above 0", "certain"
        elif rate == 0:
            waits = float(group.get("initial_lr", 0)) > 0
            yield (
                where,
                "nothing in this group moves",
                "a rate above 0; of a schedule that begins at 0 the first step is lost",
                "note" if waits else "certain",
            )


def same_rate_for_backbone_and_head(case: Case) -> Found:
    """A new head and a pretrained backbone at one rate"""
    if case.backbone is None or case.head is None:
        return
    rates = [
        {float(case.optimizer.param_groups[i]["lr"]) for p in part.parameters() for i in case.groups_of.get(id(p), ())}
        for part in (case.backbone, case.head)
    ]
    if len(rates[0]) == 1 and rates[0] == rates[1]:
        yield (
            f"backbone and head, lr={rates[0].pop():g}",
            "a new head and a pretrained backbone learn at one rate: "
            "what suits the head can spoil the backbone in its first steps",
            "param_groups(backbone=(f, rate / 10), head=(g, rate)), or train the head alone first",
            "note",
        )


def non_finite_parameters(case: Case) -> Found:
    """NaN or infinity in weights or buffers"""
    tensors = case.named + list(case.model.named_buffers())
    bad = [name for name, t in tensors if t.is_floating_point() and not t.isfinite().all()]
    if bad and not all("mask" in name for name in bad):
        yield (
            some(bad),
            "holds NaN or infinity: so does every output",
            "load the weights again, from before the loss became NaN",
            "certain",
        )


def non_finite_gradients(case: Case) -> Found:
    """NaN or infinity in gradients, those held now or those of a step"""
    held = [name for name, p in case.named if p.grad is not None and not p.grad.isfinite().all()]
    bad = held or [name for name, p in case.named if case.run is not None and id(p) in case.run.bad]
    if bad and not (case.train is not None and not case.train.finite):
        yield (
            some(bad),
            "has a gradient with NaN or infinity: the next step spoils all that it moves",
            "look for 0/0, log(0), sqrt(0) in the loss; zero_grad before the next step",
            "certain",
        )


def lora_changes_nothing(case: Case) -> Found:
    """Adapters that are frozen, merged, scaled by 0, or zero in both factors"""
    for name, m in case.model.named_modules():
        pairs = [(m.A, m.B)] if hasattr(m, "A") and hasattr(m, "B") and hasattr(m, "base") else _of_peft(m)
        for A, B in pairs:
            if not (A.requires_grad or B.requires_grad):
                what = "its factors A and B are frozen (or merged)"
            elif getattr(m, "merged", False) is True:
                what = "it is merged into the weights"
            elif not A.any() and not B.any():
                what = "A and B are both zero, so neither gets a gradient"
            elif _scale(m) == 0:
                what = "its scale α/r is 0"
            else:
                continue
            yield (
                name,
                f"this LoRA changes nothing: {what}",
                "B = 0 and A random at the start, α above 0, both trainable; unmerge before training",
                "certain",
            )
            return


def _of_peft(module: nn.Module) -> list[tuple]:
    A, B = getattr(module, "lora_A", None), getattr(module, "lora_B", None)
    if isinstance(A, nn.ModuleDict) and isinstance(B, nn.ModuleDict):
        return [(A[key].weight, B[key].weight) for key in A if key in B]
    weights = [getattr(part, "weight", part) for part in (A, B)]
    return [tuple(weights)] if all(isinstance(w, nn.Parameter) for w in weights) else []


def _scale(module: nn.Module) -> float:
    scale = next((getattr(module, name) for name in ("scale", "scaling") if hasattr(module, name)), 1.0)
    if isinstance(scale, dict):
        scale = max(scale.values(), default=1.0)
    return float(scale) if isinstance(scale, int | float) else 1.0
