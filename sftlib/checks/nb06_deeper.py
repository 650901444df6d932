"""Checkers of notebook 06, going deeper: shards of different size, and when compiling pays."""

import math

import torch
import torch.nn.functional as F

from sftlib.checks import Wrong, checker, expect, numeric, require


@checker("06.shards")
def _shards(answer):
    """gradients of the shards' mean losses, their sizes -> the gradient of the mean loss of the whole batch"""
    for sizes, seed in (((4, 3), 0), ((5, 1, 2), 1), ((3, 3), 2), ((4, 0, 3), 3), ((0, 0, 5, 0), 4), ((7,), 5)):
        gradients, want = _gradients(sizes, seed)
        full = [g for g, n in zip(gradients, sizes, strict=True) if n]
        known = [
            (sum(full) / len(sizes), "this averages over the workers, as if all shards had the same size"),
            (sum(full) / len(full), "this averages over the workers, as if all shards had the same size"),
            (sum(full), "this adds up means; the gradient of a mean loss does not grow with the number of workers"),
            (want * sum(sizes), "this is the gradient of the sum over the batch; divide by its size"),
            (want * len(sizes), "the weights add up to the number of workers; DDP divides by it later, you must too"),
            (torch.full_like(want, math.nan), "0 · nan is nan: leave the empty shard out"),
        ]
        got = torch.as_tensor(answer([g.clone() for g in gradients], list(sizes)))
        if got.shape == want.shape and got.isnan().all():
            raise Wrong(f"{known[-1][1]} (shards of {', '.join(map(str, sizes))})")
        expect(f"shards of {', '.join(map(str, sizes))} rows", got, want, known=known[:-1])


def _gradients(sizes, seed):
    """sizes of shards -> (list of gradients (3, 5) of their mean losses, the gradient (3, 5) of the whole)"""
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(3, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    x, y = torch.randn(sum(sizes), 5, generator=draw, dtype=torch.float64), torch.arange(sum(sizes)) % 3

    def gradient(x, y):
        return torch.autograd.grad(F.cross_entropy(x @ W.T, y), W)[0]

    pairs = zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)
    return [gradient(*pair) if len(pair[1]) else torch.full((3, 5), math.nan).double() for pair in pairs], gradient(
        x, y
    )


@checker("06.pays_after")
def _pays_after(answer):
    """seconds to compile, seconds a step without and with -> the first step at which compiling took less in all"""
    cases = ((7.0, 0.75, 0.125), (19.0, 0.5, 0.25), (30.0, 0.25, 0.125), (5.0, 1.0, 0.375), (8.0, 1.0, 0.375))
    for T, a, b in (*cases, (3.0, 100.0, 99.5), (0.25, 1.0, 0.5), (0.0, 1.0, 0.5)):
        first = next(n for n in range(1, 10_000) if T + n * b < n * a)
        known = [
            (first - 1, "after so many steps they are level, or compiling is still behind; less is asked for"),
            *([(T / (a - b), "the number of steps must be whole")] if T % (a - b) else []),
            (first + 1, "this is one step too many"),
            (math.ceil(T / a), "this is when the waiting is worked off; a compiled step takes time as well"),
            (T / a, "this is when the waiting is worked off; a compiled step takes time as well"),
        ]
        what = f"{T:g} s to compile, {a:g} s a step without, {b:g} s with"
        expect(what, answer(T, a, b), first, tolerance=1e-6, known=known)
    for T, a, b in ((3.0, 0.5, 0.5), (3.0, 0.25, 0.5), (0.0, 0.5, 0.75), (0.0, 0.5, 0.5)):
        got = answer(T, a, b)
        got = numeric("steps", got)
        require(got.ndim == 0 and got == math.inf, f"{a:g} s a step without, {b:g} s with: it never pays; "
                f"got {got:g}, expected math.inf")  # fmt: skip
