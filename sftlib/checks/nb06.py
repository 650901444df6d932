"""Checkers of notebook 06: a batch in parts, and lines that wait."""

from collections.abc import Set

import torch
import torch.nn.functional as F

from sftlib.checks import checker, expect, require


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
        x, y = (1 + 8 * seed) * torch.randn(n, 5, generator=draw, dtype=torch.float64), torch.arange(n) % 3
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
            (sum(own) * size / n, "this gives the last, smaller part the weight of a full one; n / N is right"),
            (sum(own[: n // size]) / (n // size), "the last part, a smaller one, is lost"),
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
    require(isinstance(answer, str | Set | list | tuple), 'expected a set of letters such as {"A", "B"}')
    letters = {str(letter).strip().upper() for letter in answer} - {"", ","}
    require(letters <= set(LINES), f"got {', '.join(sorted(letters - set(LINES)))}; the lines are A to H")
    extra, missing = sorted(letters - WAIT), sorted(WAIT - letters)
    require(not extra, f"{len(extra)} of your lines do not wait, the first is {extra[:1]}: {LINES.get(*extra[:1], '')}"
            if extra else "")  # fmt: skip
    require(not missing, f"{len(missing)} of the lines that wait are missing: what must Python know to go on?")
