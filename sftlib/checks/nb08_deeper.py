"""Checkers of notebook 08, going deeper: L2-SP and log-uniform draws."""

import math

import torch

from sftlib.checks import checker, expect, pair


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("08.l2_sp")
def _l2_sp(answer):
    """w (P,), w0 (P,), strength a -> (penalty (), gradient (P,)) of a/2 ||w - w0||^2"""
    for P, a, seed in ((5, 0.1, 0), (7, 3.0, 1), (3, 1.0, 2)):
        w, w0 = _draw(P, seed=seed), _draw(P, seed=seed + 10)
        penalty, gradient = pair(answer(w.clone(), w0.clone(), a), "two things: (penalty, gradient)")
        away = w - w0
        known = [
            (a * away @ away, "the half is missing: then the gradient would be 2a(w − w₀)"),
            (a / 2 * w @ w, "this is weight decay: it holds w near 0, L2-SP holds it near its start w₀"),
            (a / 2 * away.abs().sum(), "these are absolute values; L2 means squares"),
            (a / 2 * away.square().mean(), "a sum over the parameters, not their mean"),
            (a / 2 * (away @ away).sqrt(), "the length of w − w₀ is squared in the penalty"),
            (a / 2 * away.sum() ** 2, "this is the square of the sum; add up the squares"),
            (away @ away / 2, "the strength a is missing"),
        ]
        expect(f"a = {a}: the penalty", penalty, a / 2 * away @ away, known=known)
        known = [
            (-a * away, "this is minus the gradient, the direction of the step; the gradient points away from w₀"),
            (2 * a * away, "the half of the penalty cancels the 2 of the derivative"),
            (a * w, "this pulls towards 0; L2-SP pulls towards w₀"),
            (away, "the strength a is missing"),
            (a / 2 * away, "the half is used up: it cancels the 2 of the derivative"),
        ]
        expect(f"a = {a}: the gradient", gradient, a * away, known=known)


@checker("08.log_uniform")
def _log_uniform(answer):
    """low, high, u (n,) uniform in [0, 1] -> rates (n,), log-uniform between low and high"""
    u = torch.tensor([0.25, 0.0, 0.9, 1.0, 0.5], dtype=torch.float64)
    for low, high in ((1e-4, 1e-1), (3e-3, 5.0), (1.0, 32.0)):
        ratio = high / low
        want = low * ratio**u
        known = [
            (low + (high - low) * u, "these are spread evenly; nine tenths lie in the upper nine tenths of the range"),
            (math.log(low) + math.log(ratio) * u, "these are the logarithms of the rates; take the exponential"),
            (math.log10(low) + math.log10(ratio) * u, "these are powers of ten's exponents; 10 to the power of them"),
            (high * (low / high) ** u, "u = 0 must give low, not high"),
            (ratio**u, "this is the factor by which low is to be multiplied"),
            (low * 10**u, "this covers one factor of ten; the range covers high / low"),
            (low ** (1 / math.log(10)) * ratio ** (u / math.log(10)), "logarithm and exponential have different bases"),
            (low ** math.log(10) * ratio ** (u * math.log(10)), "logarithm and exponential have different bases"),
        ]
        got = torch.as_tensor(answer(low, high, u.clone()), dtype=torch.float64)
        known = [(v / low, why) for v, why in known]
        expect(f"from {low:g} to {high:g}, in units of low", got / low, want / low, known=known)
