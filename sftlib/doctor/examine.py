"""diagnose: builds a case, runs the checks, and puts everything back."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from sftlib.batches import to
from sftlib.doctor import data, language, losses, modes, parameters, pictures, steps
from sftlib.doctor.case import Case
from sftlib.doctor.keep import kept
from sftlib.doctor.look import Look, look_at, trimmed
from sftlib.doctor.record import Run, arguments, record
from sftlib.doctor.report import Finding, Findings
from sftlib.doctor.trial import forward, loss_of, scores
from sftlib.runtime import device_of

READING_S = 0.6  # of each loader
EXAMPLES = 8  # of a step of the doctor's own

# What each check needs beyond model and optimizer, and the checks; a check's name is the code of what it finds
CHECKS: dict[str, tuple[Callable, ...]] = {
    "": (
        parameters.nothing_trains, parameters.trainable_not_in_optimizer, parameters.parameter_in_two_groups,
        parameters.frozen_parameter_in_optimizer, parameters.parameters_of_a_replaced_part,
        parameters.loss_parameters_not_in_optimizer, parameters.shared_parameter_half_frozen,
        parameters.requires_grad_set_on_a_module, parameters.rate_is_no_rate,
        parameters.same_rate_for_backbone_and_head, parameters.non_finite_parameters, parameters.non_finite_gradients,
        parameters.lora_changes_nothing, modes.frozen_batchnorm_in_train_mode, modes.freeze_undone_by_train,
        modes.requires_grad_is_no_freeze, modes.dropout_in_a_frozen_part, modes.frozen_batchnorm_without_statistics,
        modes.eval_does_not_reach,
    ),
    "train_loader": (
        data.non_finite_inputs, data.labels_start_at_1, data.labels_out_of_range, data.classes_missing_in_training,
        data.heavy_imbalance, data.training_not_shuffled, data.unseeded_workers, modes.tiny_batches_with_batchnorm,
        modes.last_batch_of_one, modes.random_in_eval_mode, pictures.pixel_scale, pictures.pixel_mean_and_deviation,
        pictures.channel_order, pictures.picture_size, language.batch_without_target, language.prompt_in_the_loss,
        language.end_of_turn_never_a_target, language.double_begin_token, language.labels_shifted_twice,
    ),
    "val_loader": (data.validation_augmented,),
    "train_loader and val_loader": (
        data.label_maps_differ, data.splits_overlap, data.near_duplicates, data.groups_across_splits,
    ),
    "a loss": (
        losses.probabilities_into_cross_entropy, losses.log_probabilities_into_cross_entropy,
        losses.sigmoid_before_loss, losses.scores_into_nll, losses.loss_without_gradient, losses.constant_loss,
        losses.gradient_does_not_reach, losses.part_never_used, losses.auxiliary_head_left, losses.non_finite_loss,
        losses.learning_rate_too_high, losses.learning_rate_changes_nothing, losses.updates_vanish_in_half_precision,
    ),
    "step": (
        modes.eval_mode_in_training, steps.grad_scaler_with_bfloat16, steps.float16_without_scaler,
        steps.clip_before_unscale, steps.clip_before_backward, steps.gradients_accumulate, steps.optimizer_never_steps,
        steps.step_fails,
    ),
    "evaluate": (modes.train_mode_in_evaluation, modes.gradients_in_evaluation),
}  # fmt: skip
CODES = tuple(check.__name__ for checks in CHECKS.values() for check in checks)


def diagnose(
    model: nn.Module, optimizer: Optimizer, *, train_loader: Iterable | None = None, val_loader: Iterable | None = None,
    task_loss: Callable | None = None, feature_loss: Callable | None = None, step: Callable | None = None,
    evaluate: Callable[[], object] | None = None, backbone: nn.Module | None = None, head: nn.Module | None = None,
    preprocess=None, tokenizer=None, groups: tuple | None = None,
) -> Findings:  # fmt: skip
    """What is wrong with a training set-up, the surest first; nothing is changed, and little is computed.

    ``step``: your own training step, as step(batch), step(x, y), step(model, optimizer, batch) or step(); it is run
    twice on one batch. ``evaluate()``: your own evaluation, run once. Without a step, an ordinary one is tried with
    ``task_loss``, or with cross-entropy where outputs (N, K) and labels (N,) suggest it. Parts of a
    `sftlib.model.Model` are known; of other models name ``backbone``, ``head`` and the ``preprocess`` of the weights.
    ``groups``: a patient, speaker or scene for each training and each validation example.
    Raises ValueError for what is no model or optimizer, and for a step that cannot be called.
    """
    _require(model, optimizer, step, evaluate, task_loss, feature_loss)
    backbone = _part(model, "backbone") if backbone is None else backbone
    head = _part(model, "head") if head is None else head
    told = {"task_loss": task_loss, "feature_loss": feature_loss}
    told = {name: loss for name, loss in told.items() if loss is not None}
    missing: list[str] = []
    with kept(model, optimizer, *told.values(), data=(train_loader, val_loader), functions=(step, evaluate)):
        case = Case(model, optimizer, told, backbone, head, preprocess, groups, tokenizer, task_loss is not None)
        case.train = _looked("train_loader", train_loader, missing)
        case.val = _looked("val_loader", val_loader, missing)
        _restore_modes(case)
        _compute(case, step, missing)
        if evaluate is not None:
            _restore_modes(case)
            case.evaluation = record(evaluate, model, optimizer, times=1)
    with (
        kept(data=(train_loader, val_loader)),
        torch.no_grad(),
    ):  # model and optimizer are as they were again; some checks draw examples
        return _checked(case, missing)


def _checked(case: Case, missing: list[str]) -> Findings:
    here = {
        "": True, "train_loader": case.train is not None, "val_loader": case.val is not None,
        "train_loader and val_loader": None not in (case.train, case.val), "a loss": case.run is not None,
        "step": case.run is not None and not case.run.own, "evaluate": case.evaluation is not None,
    }  # fmt: skip
    found, looked_at = [], 0
    for need, checks in CHECKS.items():
        if not here[need]:
            missing.append(f"{', '.join(check.__name__ for check in checks)} (needs {need})")
            continue
        for check in checks:
            looked_at += 1
            found += [Finding(check.__name__, *what) for what in check(case)]
    if case.train is not None and (words := pictures.not_compared(case)):
        missing.append(words)
    return Findings(found, looked_at=looked_at, not_looked_at=missing)


def _looked(name: str, loader, missing: list[str]) -> Look | None:
    if loader is None:
        return None
    try:
        look = look_at(loader, READING_S)
    except Exception as error:  # whatever a user's data set raises
        missing.append(f"{name}: {type(error).__name__}, {str(error).strip() or 'no words'}")
        return None
    if not look.whole:
        missing.append(f"{name}: {look.examples} examples were read, the others were not compared")
    return look


def _compute(case: Case, step: Callable | None, missing: list[str]) -> None:
    """Outputs in eval mode, then the step, the user's or the doctor's own"""
    batch = None if case.train is None else case.train.first
    if batch is not None:
        _outputs(case, trimmed(batch, EXAMPLES), missing)
    _restore_modes(case)
    if step is not None:
        given = arguments(step, case.model, case.optimizer, batch)
        case.run = record(lambda: step(*given), case.model, case.optimizer)
    elif batch is not None:
        case.run = _ordinary(case, trimmed(batch, EXAMPLES), missing)


def _outputs(case: Case, batch, missing: list[str]) -> None:
    """Of one batch: scores in eval mode, twice; a model that cannot take the batch is named in ``missing``"""
    case.model.eval()
    try:
        with torch.no_grad():
            found = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                found.append(scores(forward(case.model, batch)))
    except Exception as error:  # whatever a user's model raises
        missing.append(f"the model's output: {type(error).__name__}, {str(error).strip().splitlines()[:1]}")
        return
    case.output = found[0]
    if None not in found:
        case.eval_outputs = tuple(found)


def _ordinary(case: Case, batch, missing: list[str]) -> Run | None:
    """One step of zero_grad, backward and step, run twice; None where no loss is known"""
    case.model.train()
    batch = to(batch, device_of(case.model))

    def step() -> None:
        case.optimizer.zero_grad()
        loss = loss_of(case.model, batch, case.losses.get("task_loss"), case.losses.get("feature_loss"))
        loss.backward()
        case.optimizer.step()

    run = record(step, case.model, case.optimizer, own=True)
    if run.error and not run.losses and not run.constant:
        missing.append(f"a step: {run.error}")
        return None
    return run


def _restore_modes(case: Case) -> None:
    for m in case.model.modules():
        m.training = id(m) in case.now


def _part(model: nn.Module, name: str) -> nn.Module | None:
    part = getattr(model, name, None)
    return part if isinstance(part, nn.Module) else None


def _require(model, optimizer, step, evaluate, *functions) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"got a {type(model).__name__} as model; expected a torch.nn.Module")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ValueError("got a model with lazy parameters; expected known shapes: give it one batch before")
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"got a {type(optimizer).__name__} as optimizer; expected a torch.optim.Optimizer")
    for f in (step, evaluate, *functions):
        if f is not None and not callable(f):
            raise ValueError(f"got {f!r:.80}; expected a function, or None")
