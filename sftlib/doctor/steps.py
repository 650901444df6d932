"""Checks of the order of calls in the user's own step."""

import torch

from sftlib.doctor.case import Case, Found


def grad_scaler_with_bfloat16(case: Case) -> Found:
    """bfloat16 has the range of float32: nothing to scale"""
    if torch.bfloat16 in case.run.casts and "scaler.scale" in case.run.events:
        yield (
            "the step",
            "scales the loss under bfloat16, which has the range of float32: the scaler only skips steps",
            "leave GradScaler out",
            "likely",
        )


def float16_without_scaler(case: Case) -> Found:
    """Small gradients are 0 in float16"""
    halves = any(p.dtype is torch.float16 and p.requires_grad for _, p in case.named)
    if (torch.float16 in case.run.casts or halves) and "scaler.scale" not in case.run.events:
        yield (
            "the step",
            "computes in float16 and does not scale the loss: gradients below 6e-8 are 0",
            "torch.amp.GradScaler, or bfloat16",
            "certain",
        )


def clip_before_unscale(case: Case) -> Found:
    """The norm that is cut is that of the scaled gradients"""
    events = case.run.events
    if "scaler.scale" not in events or "clip" not in events:
        return
    if "scaler.unscale_" not in events or events.index("clip") < events.index("scaler.unscale_"):
        yield (
            "the step",
            "clips gradients that are still scaled (by 65,536 at first): all are cut to almost nothing",
            "scaler.unscale_(optimizer) before clipping",
            "certain",
        )


def clip_before_backward(case: Case) -> Found:
    """What is clipped are the gradients of the step before, or none"""
    events = case.run.events
    later = events[len(events) - events[::-1].index("run") :] if "run" in events else events
    if "clip" in later and "backward" in later and later.index("clip") < later.index("backward"):
        yield (
            "the step",
            "clips before backward: the gradients that it moves by are never clipped",
            "backward, then clip, then step",
            "certain",
        )


def gradients_accumulate(case: Case) -> Found:
    """Gradients of one step are still there in the next"""
    if case.run.left_over and case.run.events.count("step") >= 2:
        yield (
            "the step",
            "never sets the gradients back: each step moves by the sum of all gradients so far",
            "optimizer.zero_grad() in each step",
            "certain",
        )


def optimizer_never_steps(case: Case) -> Found:
    """The step ends without an update"""
    run = case.run
    if "step" not in run.events and "scaler.step" not in run.events and not run.error:
        yield (
            "the step",
            "did not call step() of this optimizer in the two calls that were watched: nothing moves, unless it "
            "gathers gradients over more",
            "optimizer.step() after backward",
            "note" if run.left_over else "likely",
        )


def step_fails(case: Case) -> Found:
    """The step raises an error"""
    if case.run.error and not case.run.constant:
        yield "the step", f"raises {case.run.error}", "mend that first: what follows was not seen", "certain"
