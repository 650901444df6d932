"""Checkers of notebook 06: shards of different size, a batch in parts, lines that wait, and when compiling pays."""

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


class _Counting(torch.nn.Module):
    """A linear model that knows how many rows it was given at once"""

    def __init__(self, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(3, 5, generator=draw, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.randn(3, generator=draw, dtype=torch.float64))
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x @ self.weight.T + self.bias


@checker("06.accumulate", in_place=True, changes=(0,))
def _accumulate(answer):
    """model, x (N, 5), y (N,), size -> nothing; .grad of every parameter is that of the batch's mean cross-entropy"""
    for n, size, seed in ((11, 4, 0), (6, 3, 1), (7, 7, 2), (5, 2, 3)):
        model, what = _Counting(seed), f"{n} rows, {size} at once"
        draw = torch.Generator().manual_seed(seed + 10)
        x, y = torch.randn(n, 5, generator=draw, dtype=torch.float64), torch.arange(n) % 3
        own = [_gradient(model, *pair) for pair in zip(x.split(size), y.split(size), strict=True)]
        want, shares = _gradient(model, x, y), [len(part) / n for part in x.split(size)]
        old, weight, bias = torch.ones_like(want), model.weight.detach().clone(), model.bias.detach().clone()
        model.weight.grad, model.bias.grad = old[:, :5].clone(), old[:, 5].clone()  # of a former step
        model.seen.clear()
        answer(model, x, y, size)
        require(model.weight.grad is not None, f"{what}: the parameters have no gradient; call backward on each part")
        got = torch.cat([model.weight.grad, model.bias.grad[:, None]], dim=1)
        known = [
            (old, "nothing was added to .grad: call backward on the loss of each part"),
            (want + old, "the gradients of the step before are still in it; clear them once, at the start"),
            (sum(own), "each part counts fully; a part with n of the N rows counts with n / N"),
            (sum(own) / len(own), "this gives every part the same weight; the last one may be smaller"),
            (own[-1], "only the last part is left: clear the gradients once, before the first part"),
            (own[-1] * shares[-1], "only the last part is left: clear the gradients once, before the first part"),
            (want * n, "this is the gradient of the sum over the rows; divide by their number"),
        ]
        expect(f"gradient of {what}", got, want, known=known)
        require(max(model.seen) <= size, f"{what}: the model was given {max(model.seen)} rows at once")
        require(model.weight.requires_grad, f"{what}: the parameters require no gradient any more")
        moved = not (torch.equal(model.weight, weight) and torch.equal(model.bias, bias))
        require(not moved, f"{what}: the parameters moved; the step is taken later, by the optimizer")
        require(model.training, f"{what}: the model was left in eval mode")


def _gradient(model, x, y):
    """-> the gradients of weight (3, 5) and bias (3,), side by side (3, 6)"""
    weight, bias = torch.autograd.grad(F.cross_entropy(model(x), y), (model.weight, model.bias))
    return torch.cat([weight, bias[:, None]], dim=1)


LINES = {
    "A": "a copy from pinned memory is only queued",
    "B": "the forward pass is only queued",
    "C": "adding two tensors on the device needs no value",
    "D": "a list holds the tensor, not its value",
    "E": "Python must know the value to decide",
    "F": "a text needs the value",
    "G": "the norm and the factor stay on the device",
    "H": "how many rows does the result have? somebody must count first",
}
WAIT = {"E", "F", "H"}


@checker("06.waits")
def _waits(answer):
    """a set of letters: the lines that make the host wait for the device"""
    answer = answer() if callable(answer) else answer
    require(isinstance(answer, str | set | frozenset | list | tuple), 'expected a set of letters such as {"A", "B"}')
    letters = {str(letter).strip().upper() for letter in answer} - {"", ","}
    require(letters <= set(LINES), f"got {', '.join(sorted(letters - set(LINES)))}; the lines are A to H")
    extra, missing = sorted(letters - WAIT), sorted(WAIT - letters)
    require(not extra, f"{len(extra)} of your lines do not wait, the first is {extra[:1]}: {LINES.get(*extra[:1], '')}"
            if extra else "")  # fmt: skip
    require(not missing, f"{len(missing)} of the lines that wait are missing: what must Python know to go on?")


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
