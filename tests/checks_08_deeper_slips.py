"""More answers to notebook 08, going deeper, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def _sp(*, penalty=lambda d, a: a / 2 * (d * d).sum(), gradient=lambda d, a: a * d, away=lambda w, w0: w - w0):
    return lambda w, w0, a: (penalty(away(w, w0), a), gradient(away(w, w0), a))


def _sp_autograd(w, w0, a):
    v = w.detach().clone().requires_grad_()
    penalty = 0.5 * a * (v - w0).pow(2).sum()
    penalty.backward()
    return penalty, v.grad


def _sp_numpy(w, w0, a):
    d = np.asarray(w) - np.asarray(w0)
    return [0.5 * a * np.dot(d, d), a * d]


def _log(low, high, u, base=math.e):
    a, b = math.log(low, base), math.log(high, base)
    return base ** (a + u * (b - a))


RIGHT = {
    "08.l2_sp": [
        _sp(), _sp_autograd, _sp_numpy, _sp(penalty=lambda d, a: 0.5 * a * d.norm() ** 2),
        _sp(penalty=lambda d, a: a / 2 * (d @ d)),
        _sp(penalty=lambda d, a: a * F.mse_loss(d, 0 * d, reduction="sum") / 2, gradient=lambda d, a: d.mul(a)),
    ],
    "08.log_uniform": [
        lambda low, high, u: low * (high / low) ** u, _log, lambda low, high, u: _log(low, high, u, 10.0),
        lambda low, high, u: low ** (1 - u) * high**u,
        lambda low, high, u: np.exp(np.log(low) + np.asarray(u) * np.log(high / low)),
        lambda low, high, u: [low * (high / low) ** float(v) for v in u],
        lambda low, high, u: torch.lerp(torch.tensor(low).double().log(), torch.tensor(high).double().log(),
                                        torch.as_tensor(u).double()).exp(),
    ],
}  # fmt: skip
SLIPS = {
    "08.l2_sp": [
        (_sp(penalty=lambda d, a: a * (d * d).sum()), "without the half"),
        (_sp(penalty=lambda d, a: (d * d).sum() / 2), "penalty without a"),
        (_sp(penalty=lambda d, a: a / 2 * d.norm()), "length for its square"),
        (_sp(penalty=lambda d, a: a / 2 * d.abs().sum()), "absolute values"),
        (_sp(penalty=lambda d, a: a / 2 * d.sum() ** 2), "square of the sum"),
        (_sp(penalty=lambda d, a: a / 2 * (d * d).mean()), "mean"),
        (_sp(penalty=lambda d, a: a / 2 * d * d), "one each"),
        (_sp(penalty=lambda d, a: a**2 / 2 * (d * d).sum()), "a squared"),
        (_sp(gradient=lambda d, a: d), "gradient without a"),
        (_sp(gradient=lambda d, a: 2 * a * d), "gradient twice"),
        (_sp(gradient=lambda d, a: a / 2 * d), "gradient halved"),
        (_sp(gradient=lambda d, a: -a * d), "sign"),
        (_sp(gradient=lambda d, a: a * d.sign()), "signs"),
        (_sp(gradient=lambda d, a: a * d / d.norm()), "length a"),
        (_sp(gradient=lambda d, a: (a * d).sum()), "sum of the gradient"),
        (_sp(gradient=lambda d, a: a * d / len(d)), "gradient of the mean"),
        (_sp(away=lambda w, w0: w), "from zero"),
        (_sp(away=lambda w, w0: w0 - w), "turned round"),
        (_sp(away=lambda w, w0: w + w0), "added"),
        (lambda w, w0, a: _sp()(w, w0, a)[::-1], "gradient first"),
        (lambda w, w0, a: _sp()(w, w0, a)[0], "penalty only"),
        (lambda w, w0, a: _sp()(w.sub_(w0), 0 * w0, a), "w changed"),
        (lambda w, w0, a: (_sp()(w, w0, a)[0], a * w), "gradient from zero"),
    ],
    "08.log_uniform": [
        (lambda low, high, u: low + (high - low) * u, "uniform"),
        (lambda low, high, u: high * (low / high) ** u, "turned round"),
        (lambda low, high, u: 10**u, "powers of ten"),
        (lambda low, high, u: low * 10**u, "one decade"),
        (lambda low, high, u: low * (high - low) ** u, "difference for ratio"),
        (lambda low, high, u: low + (high / low) ** u, "added"),
        (lambda low, high, u: (high / low) ** u, "without low"),
        (lambda low, high, u: low**u * high ** (1 - u), "exchanged"),
        (lambda low, high, u: math.log(low) + u * math.log(high / low), "the logarithm"),
        (lambda low, high, u: torch.exp(math.log10(low) + torch.as_tensor(u) * math.log10(high / low)), "mixed bases"),
        (lambda low, high, u: 1 / (1 / low + u * (1 / high - 1 / low)), "uniform in the reciprocal"),
        (lambda low, high, u: (low**0.5 + u * (high**0.5 - low**0.5)) ** 2, "uniform in the root"),
        (lambda low, high, u: low * (high / low) ** (u * u), "u squared"),
        (lambda low, high, u: low * (high / low) ** torch.rand(len(u)), "draws of its own"),
        (lambda low, high, u: (low * (high / low) ** u).sort().values, "sorted"),
        (lambda low, high, u: low * (high / low) ** u[0], "one rate"),
        (lambda low, high, u: low * (high / low) ** torch.as_tensor(u).round(decimals=1), "rounded"),
        (lambda low, high, u: 1e-4 * 100**u, "fixed ends"),
        (lambda low, high, u: low * (high / low) ** u.mul_(1.0).add_(1e-3), "u changed"),
        (lambda low, high, u: math.sqrt(low * high) * (high / low) ** (u - 0.5) * 1.01, "a percent off"),
    ],
}  # fmt: skip
