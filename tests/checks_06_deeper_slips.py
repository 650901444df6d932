"""More answers to notebook 06, going deeper, written from their texts alone. SLIPS: (answer, the slip in words)."""

import itertools
import math
from fractions import Fraction

import numpy as np
import torch


def _combine(gradients, sizes, *, weight=lambda n, sizes: n / sum(sizes), keep=lambda g, n: n > 0, clean=lambda g: g):
    return sum(clean(g) * weight(n, sizes) for g, n in zip(gradients, sizes, strict=False) if keep(g, n))


def _cb(**slip):
    return lambda gradients, sizes: _combine(gradients, sizes, **slip)


def _stacked(gradients, sizes):
    n = torch.tensor(sizes, dtype=gradients[0].dtype)
    there = n > 0
    return torch.tensordot(n[there] / n.sum(), torch.stack(gradients)[there], dims=1)


def _into_first(gradients, sizes):
    total = torch.zeros_like(gradients[0])
    for g, n in zip(gradients, sizes, strict=False):
        if n:
            total += n * g
    return total / sum(sizes)


def _summed_in_place(gradients, sizes):
    total = None
    for g, n in zip(gradients, sizes, strict=False):
        if n:
            total = g.mul_(n / sum(sizes)) if total is None else total.add_(g, alpha=n / sum(sizes))
    return total


def _steps_until(compile_s, step_s, compiled_step_s):
    """Counts, in exact fractions"""
    if compiled_step_s >= step_s:
        return float("inf")
    gain, n = Fraction(step_s) - Fraction(compiled_step_s), 0
    n = max(int(Fraction(compile_s) / gain) - 3, 1)
    while not n * gain > Fraction(compile_s):
        n += 1
    return n


def _pays(*, whole=lambda q: math.floor(q) + 1, never=math.inf, test=lambda a, b: b >= a,
          gain=lambda a, b: a - b):  # fmt: skip
    return lambda compile_s, step_s, compiled_step_s: (
        never if test(step_s, compiled_step_s) else whole(compile_s / gain(step_s, compiled_step_s))
    )


RIGHT = {
    "06.shards": [
        _cb(), _stacked, _into_first, _cb(keep=lambda g, n: n != 0),
        _cb(keep=lambda g, n: True, clean=torch.nan_to_num),
        lambda gradients, sizes: np.average([g.numpy() for g, n in zip(gradients, sizes, strict=False) if n], axis=0,
                                            weights=[n for n in sizes if n]),
    ],
    "06.pays_after": [
        _pays(), _steps_until, _pays(whole=lambda q: int(q) + 1), _pays(whole=lambda q: q // 1 + 1),
        _pays(whole=lambda q: math.ceil(q) + (math.ceil(q) == q)), _pays(never=float("inf")),
        lambda c, a, b: next((n for n in itertools.count(1) if c + n * b < n * a), None) if b < a else np.inf,
    ],
}  # fmt: skip
SLIPS = {
    "06.shards": [
        (_cb(weight=lambda n, sizes: 1 / len(sizes)), "plain mean"),
        (_cb(weight=lambda n, sizes: 1 / sum(k > 0 for k in sizes)), "plain mean of those there"),
        (_cb(weight=lambda n, sizes: 1), "sum"),
        (_cb(weight=lambda n, sizes: n), "not divided"),
        (_cb(weight=lambda n, sizes: n / max(sizes)), "divided by the largest"),
        (_cb(weight=lambda n, sizes: n / len(sizes)), "divided by the workers"),
        (_cb(weight=lambda n, sizes: (n / sum(sizes)) ** 2), "squares"),
        (_cb(weight=lambda n, sizes: n**0.5 / sum(k**0.5 for k in sizes)), "roots"),
        (_cb(weight=lambda n, sizes: 1 / n / sum(1 / k for k in sizes if k)), "small ones weigh more"),
        (_cb(keep=lambda g, n: True), "nan of the empty one"),
        (_cb(keep=lambda g, n: n > 1), "shards of one left out"),
        (_cb(weight=lambda n, sizes: n / (sum(sizes) + 1)), "one too many"),
        (_cb(weight=lambda n, sizes: n // sum(sizes)), "whole numbers"),
        (lambda gradients, sizes: _combine(gradients[1:], sizes[1:]), "without the first"),
        (lambda gradients, sizes: _combine(gradients, sorted(sizes)), "sizes in order"),
        (lambda gradients, sizes: gradients[int(np.argmax(sizes))], "the largest only"),
        (lambda gradients, sizes: torch.stack(gradients).nanmean(0), "nanmean"),
        (_summed_in_place, "gradients changed"),
        (lambda gradients, sizes: torch.stack([g for g in gradients if not g.isnan().any()]).median(0).values,
         "median"),
    ],
    "06.pays_after": [
        (_pays(whole=math.ceil), "level counts"), (_pays(whole=math.floor), "rounded down"),
        (_pays(whole=round), "rounded"), (_pays(whole=lambda q: q), "not whole"),
        (_pays(whole=lambda q: math.ceil(q) + 1), "one too many"),
        (_pays(whole=lambda q: round(q) + 1), "rounded, + 1"),
        (_pays(test=lambda a, b: b > a), "equal not caught"), (_pays(test=lambda a, b: False), "slower not caught"),
        (_pays(test=lambda a, b: a == b), "slower: a negative number"), (_pays(never=0), "0 for never"),
        (_pays(never=-1), "-1 for never"), (_pays(never=math.nan), "nan for never"),
        (_pays(never=10**9), "10^9 for never"),
        (_pays(gain=lambda a, b: a), "saving is the whole step"),
        (_pays(gain=lambda a, b: a - b, test=lambda a, b: b >= a
         or (a - b) / a < 0.01), "small savings ignored"),
        (_pays(gain=lambda a, b: abs(a - b), test=lambda a, b: a == b), "absolute difference"),
        (lambda c, a, b: _pays()(c + b, a, b), "a step too many in the compiling"),
        (lambda c, a, b: 1 if c == 0 else _pays()(c, a, b), "nothing to compile pays always"),
        (_pays(test=lambda a, b: b <= a), "turned round"),
        (lambda c, a, b: math.inf if b >= a else max(2, _pays()(c, a, b)), "at least two"),
    ],
}  # fmt: skip
