"""Checkers of notebook 05, going deeper: weights in between, and merging LoRA."""

import copy

import torch
from torch import nn

from sftlib.checks import checker, expect, require


@checker("05.interpolate")
def _interpolate(answer):
    """w0, w1 (state dicts), a -> (1 − a) w0 + a w1, a new state dict that the model can load"""
    w0, w1 = _a_state(0, batches=7), _a_state(1, batches=100)
    kept = [copy.deepcopy(w0), copy.deepcopy(w1)]
    for a in (0.25, 0.0, 1.0):
        got = answer(w0, w1, a)
        require(isinstance(got, dict), f"a = {a}: got a {type(got).__name__}, expected a state dict")
        require(set(got) == set(w0), f"a = {a}: the names differ from those of the state dicts")
        for name, start in w0.items():
            for w, old in zip((w0, w1), kept, strict=True):
                require(torch.equal(w[name], old[name]), f"a = {a}: this changed {name!r} of an argument")
            if start.is_floating_point():
                _expect_between(name, got[name], start, w1[name], a)
            else:
                _expect_a_count(name, got[name], start, w1[name], a)
        shared = [name for name in w0 if got[name].data_ptr() in (w0[name].data_ptr(), w1[name].data_ptr())]
        require(
            not shared, f"a = {a}: {shared and shared[0]!r} is the argument's own memory: training would change both"
        )


def _expect_between(name, got, start, end, a):
    known = [
        (a * start.double() + (1 - a) * end.double(), "a and 1 − a are exchanged: a = 0 is the start w0"),
        (start.double() + a * end.double(), "w0 counts whole: multiply it by 1 − a"),
        (start, "this is w0, whatever a"),
        ((start.double() + end.double()) / 2, "this is half way, whatever a"),
    ]
    expect(f"{name} at a = {a}", got, (1 - a) * start.double() + a * end.double(), known=known)
    require(isinstance(got, torch.Tensor), f"{name} is a {type(got).__name__}; a model loads tensors")


def _expect_a_count(name, got, start, end, a):
    require(isinstance(got, torch.Tensor) and got.dtype == start.dtype,
            f"{name} counts batches and must stay {start.dtype}, got {getattr(got, 'dtype', type(got).__name__)}: "
            "take whole numbers over as they are")  # fmt: skip
    start, end, got = int(start), int(end), int(got)
    rounded = abs(got - ((1 - a) * start + a * end)) < 1  # up or down
    require(got in (start, end) or rounded,
            f"{name} is {got} at a = {a}, expected one of the two counts, {start} or {end}, "
            "or the mixture, rounded")  # fmt: skip


def _a_state(seed, batches):
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5))
    state = {name: torch.rand(v.shape, generator=draw).to(v.dtype) for name, v in model.state_dict().items()}
    scale = torch.rand((), generator=draw)  # a weight of one number, as CLIP's logit scale
    return state | {"1.num_batches_tracked": torch.tensor(batches), "scale": scale}


@checker("05.merge")
def _merge(answer):
    """W (C_out, C_in, kh, kw), A (r, C_in, kh, kw), B (C_out, r, 1, 1), alpha -> W + α/r B A, a new kernel"""
    cases = (((5, 3, 2, 3, 2), 6.0, 1), ((2, 7, 3, 3, 3), 1.0, 1), ((3, 2, 1, 1, 1), 2.0, 1), ((2, 3, 5, 1, 7), 3.0, 2))
    for (out, into, high, wide, rank), alpha, alike in cases:
        draw = torch.Generator().manual_seed(out)
        W = torch.randn(out, into, high, wide, generator=draw)
        A = torch.randn(rank, into, high, wide, generator=draw)
        A[:alike] = A[0].clone()  # rows that add nothing to A's rank
        B = torch.randn(out, rank, 1, 1, generator=draw)
        kept = W.clone()
        got = answer(W, A.clone(), B.clone(), alpha)
        BA = torch.einsum("or,rihw->oihw", B[:, :, 0, 0].double(), A.double())
        known = [
            (kept + BA, "the scale α/r is missing"),
            (kept + alpha * BA, "the scale is α / r, not α"),
            (kept + rank / alpha * BA, "the scale is α / r, not r / α"),
            (alpha / rank * BA, "this is ΔW alone: add W"),
            (kept - alpha / rank * BA, "ΔW is added, not taken away"),
            (kept + alpha * rank * BA, "the scale is α / r, not α · r"),
            (kept + alpha / into * BA, "r is the number of rows of A, not its C_in"),
            (kept + alpha / out * BA, "r is the number of rows of A, not C_out"),
            (kept + alpha / rank**0.5 * BA, "the scale is α / r, not α / √r"),
            (kept + alpha / torch.linalg.matrix_rank(A.flatten(1)) * BA, "r counts the rows of A, also those alike"),
        ]
        what = f"a kernel {tuple(W.shape)}, rank {rank}, alpha {alpha:g}"
        expect(what, got, kept.double() + alpha / rank * BA, tolerance=1e-4, known=known)
        require(torch.equal(W, kept), "W itself was changed: subtracting later would not give its bits back")
