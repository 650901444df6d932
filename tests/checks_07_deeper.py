"""Right and wrong answers to notebook 07, going deeper. WRONG: (answer, words that the checker must say)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import multivariate_normal

from sftlib import selection


def _conditional(theta, y):
    joint = F.one_hot(y).to(theta.dtype).T @ theta
    return joint / joint.sum(0)


def _leep(theta, y):
    return (_conditional(theta, y)[y] * theta).sum(1).log().mean()


def _leep_by_loops(theta, y):
    total = 0.0
    for i in range(len(y)):
        p = 0.0
        for s in range(theta.shape[1]):
            own = sum(theta[j, s].item() for j in range(len(y)) if y[j] == y[i])
            p += own / theta[:, s].sum().item() * theta[i, s].item()
        total += math.log(p)
    return total / len(y)


def _leep_of_rows(theta, y):
    joint = F.one_hot(y).to(theta.dtype).T @ theta
    return ((joint / joint.sum(1, keepdim=True))[y] * theta).sum(1).log().mean()


def _leep_of_joint(theta, y):
    joint = F.one_hot(y).to(theta.dtype).T @ theta / len(y)
    return (joint[y] * theta).sum(1).log().mean()


def _parts(z, t, a, b):
    """-> the six terms in the brackets"""
    N, D = z.shape
    A = a * torch.eye(D, dtype=z.dtype) + b * z.T @ z
    m = torch.linalg.solve(A, b * z.T @ t)
    misfit = b * (t - z @ m).square().sum()
    return (D * math.log(a), N * math.log(b), -N * math.log(2 * math.pi), -torch.logdet(A), -misfit, -a * m @ m)


def _evidence(z, t, a, b):
    return sum(_parts(z, t, a, b)) / 2


def _without(*left_out, sign=0):
    """-> the evidence with these of its terms times sign"""
    return lambda *args: sum(v * (sign if i in left_out else 1) for i, v in enumerate(_parts(*args))) / 2


def _by_svd(z, t, a, b):
    U, s, _ = torch.linalg.svd(z, full_matrices=False)
    q, N = U.T @ t, len(t)
    spread = 1 / b + s**2 / a
    inside = (q**2 / spread).sum() + b * (t @ t - q @ q)
    return -0.5 * (N * math.log(2 * math.pi) + spread.log().sum() - (N - len(s)) * math.log(b) + inside)


def _by_scipy(z, t, a, b):
    z, t = z.numpy(), t.numpy()
    return multivariate_normal.logpdf(t, cov=np.eye(len(t)) / b + z @ z.T / a)


def _published(z, t, a, b):
    """log det over min(N, D) directions, but D log a"""
    N, D = z.shape
    return _by_svd(z, t, a, b) + (D - min(N, D)) / 2 * math.log(a)


def _fewer(z, t, a, b):
    N, D = z.shape
    return _evidence(z, t, a, b) - (D - min(N, D)) / 2 * math.log(a)


RIGHT = {
    "07.leep": [_leep, _leep_by_loops, selection.leep],
    "07.evidence": [_evidence, _by_svd, _by_scipy, lambda z, t, a, b: float(_evidence(z, t, a, b))],
}
WRONG = {
    "07.leep": [
        (lambda theta, y: -_leep(theta, y), "sign"),
        (lambda theta, y: _leep(theta, y) * len(y), "take the mean"),
        (lambda theta, y: (_conditional(theta, y)[y] * theta).sum(1).mean().log(), "mean of the logs"),
        (lambda theta, y: _leep(theta, y) / math.log(2), "bits"),
        (lambda theta, y: _conditional(theta, y)[y, theta.argmax(1)].log().mean(), "most probable"),
        (_leep_of_joint, "divide P(y, s)"),
        (_leep_of_rows, "each column"),
        (lambda theta, y: (theta * _conditional(theta, y)[y].log()).sum(1).mean(), "not inside"),
        (lambda theta, y: selection.nce(theta, y), "expected"),
    ],
    "07.evidence": [
        (lambda *args: _evidence(*args) / len(args[1]), "divided by N"),
        (lambda *args: -_evidence(*args), "sign is turned"),
        (lambda *args: 2 * _evidence(*args), "half is missing"),
        (lambda *args: _evidence(*args).exp(), "its logarithm"),
        (lambda z, t, a, b: _evidence(z, t, b, a), "exchanged"),
        (lambda z, t, a, b: _evidence(z, t, 1 / a, 1 / b), "precisions"),
        (_without(0), "D log a is missing"),
        (_without(1), "N log b is missing"),
        (_without(2), "log 2π is missing"),
        (_without(3), "log det A is missing"),
        (_without(3, sign=-1), "log det A comes with a minus"),
        (_without(4), "zm‖² is missing"),
        (_without(5), "a‖m‖² is missing"),
        (_without(5, sign=-1), "a‖m‖² comes with a minus"),
        (_fewer, "counts D times"),
        (_published, "expected"),
    ],
}  # fmt: skip
