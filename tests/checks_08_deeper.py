"""Right and wrong answers to notebook 08, going deeper. WRONG: (answer, words that the checker must say)."""

import math

import torch


def _l2_sp(w, w0, a):
    return a / 2 * (w - w0).square().sum(), a * (w - w0)


def _l2_sp_by_autograd(w, w0, a):
    w = w.clone().requires_grad_()
    penalty = 0.5 * a * torch.dist(w, w0) ** 2
    return penalty, torch.autograd.grad(penalty, w)[0]


RIGHT = {
    "08.l2_sp": [_l2_sp, _l2_sp_by_autograd, lambda w, w0, a: [0.5 * a * sum((w - w0) ** 2), -a * (w0 - w)]],
    "08.log_uniform": [
        lambda low, high, u: low * (high / low) ** u,
        lambda low, high, u: torch.exp(math.log(low) + u * (math.log(high) - math.log(low))),
        lambda low, high, u: [10 ** (math.log10(low) + v * math.log10(high / low)) for v in u.tolist()],
    ],
}
WRONG = {
    "08.l2_sp": [
        (lambda w, w0, a: (a * (w - w0) @ (w - w0), 2 * a * (w - w0)), "half is missing"),
        (lambda w, w0, a: (a / 2 * w @ w, a * w), "weight decay"),
        (lambda w, w0, a: (a / 2 * (w - w0).abs().sum(), a * (w - w0).sign()), "absolute"),
        (lambda w, w0, a: (a / 2 * ((w - w0) ** 2).mean(), a * (w - w0)), "not their mean"),
        (lambda w, w0, a: (a / 2 * (w - w0).norm(), a * (w - w0)), "squared in the penalty"),
        (lambda w, w0, a: (_l2_sp(w, w0, a)[0], -a * (w - w0)), "minus the gradient"),
        (lambda w, w0, a: (_l2_sp(w, w0, a)[0], 2 * a * (w - w0)), "cancels"),
        (lambda w, w0, a: (_l2_sp(w, w0, a)[0], a * w), "towards 0"),
        (lambda w, w0, a: (_l2_sp(w, w0, a)[0], w - w0), "strength a is missing"),
        (lambda w, w0, a: _l2_sp(w, w0, a)[0], "two things"),
    ],
    "08.log_uniform": [
        (lambda low, high, u: low + (high - low) * u, "spread evenly"),
        (lambda low, high, u: math.log(low) + u * math.log(high / low), "logarithms"),
        (lambda low, high, u: math.log10(low) + u * math.log10(high / low), "exponents"),
        (lambda low, high, u: high * (low / high) ** u, "u = 0"),
        (lambda low, high, u: (high / low) ** u, "to be multiplied"),
        (lambda low, high, u: low * 10**u, "one factor of ten"),
        (lambda low, high, u: (math.log10(low) + u * math.log10(high / low)).exp(), "different bases"),
        (lambda low, high, u: 10 ** (math.log(low) + u * math.log(high / low)), "different bases"),
    ],
}
