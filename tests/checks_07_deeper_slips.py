"""More answers to notebook 07, going deeper, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch.nn import functional as F

from sftlib import selection


def _leep(theta, y, *, hard=False, conditional=lambda joint: joint / joint.sum(0), end=lambda p: p.log().mean(),
          theta_of=lambda t: t):  # fmt: skip
    theta = theta_of(theta)
    t = F.one_hot(theta.argmax(1), theta.shape[1]).to(theta.dtype) if hard else theta
    joint = F.one_hot(y).to(theta.dtype).T @ t / len(y)
    return end((conditional(joint)[y] * t).sum(1))


def _le(**slip):
    return lambda theta, y: _leep(theta, y, **slip)


def _leep_loops(theta, y):
    N, S, K = len(y), theta.shape[1], int(y.max()) + 1
    joint = np.zeros((K, S))
    for i in range(N):
        joint[y[i]] += theta[i].double().numpy() / N
    total = 0.0
    for i in range(N):
        total += math.log(sum(joint[y[i], s] / joint[:, s].sum() * float(theta[i, s]) for s in range(S)))
    return total / N


def _leep_pairs(theta, y):
    """The picture's own probability, as a mean over pairs"""
    same = (y[:, None] == y).to(theta.dtype)
    return torch.einsum("is,js,ij->i", theta / theta.sum(0), theta, same).log().mean()


def _others(theta, y):
    """Without the picture itself in the table"""
    same = (y[:, None] == y).to(theta.dtype).fill_diagonal_(0)
    return torch.einsum("is,js,ij->i", theta / theta.sum(0), theta, same).clamp(min=1e-12).log().mean()


LOG_2_PI = math.log(2 * math.pi)


def _gauss(z, t, a, b, *, A=lambda z, a, b: a * torch.eye(z.shape[1]).to(z) + b * z.T @ z,
           m=lambda A, z, t, b: torch.linalg.solve(A, b * z.T @ t), D=lambda z: z.shape[1], N=len,
           two_pi=LOG_2_PI, det=torch.logdet, fit=lambda t, zm: (t - zm).square().sum(),
           norm=lambda m: m @ m, log=math.log):  # fmt: skip
    matrix = A(z, a, b)
    mean = m(matrix, z, t, b)
    n, d = N(t), D(z)
    logs = d * log(a) + n * log(b) - n * two_pi - det(matrix)
    return (logs - b * fit(t, z @ mean) - a * norm(mean)) / 2


def _ga(**slip):
    return lambda z, t, a, b: _gauss(z, t, a, b, **slip)


def _woodbury(z, t, a, b):
    """log det and the quadratic form by Woodbury's identity and Sylvester's"""
    N, D = z.shape
    inner = torch.eye(D).to(z) + b / a * z.T @ z
    quadratic = b * t @ t - b * b / a * (t @ z) @ torch.linalg.inv(inner) @ (z.T @ t)
    return -0.5 * (N * math.log(2 * math.pi) - N * math.log(b) + torch.linalg.slogdet(inner)[1] + quadratic)


def _numpy(z, t, a, b):
    z, t = np.asarray(z), np.asarray(t)
    A = a * np.eye(z.shape[1]) + b * z.T @ z
    m = b * np.linalg.inv(A) @ z.T @ t
    logs = z.shape[1] * np.log(a) + len(t) * np.log(b / 2 / np.pi) - np.linalg.slogdet(A)[1]
    return 0.5 * (logs - b * np.sum((t - z @ m) ** 2) - a * np.sum(m**2))


def _torch_normal(z, t, a, b):
    covariance = torch.eye(len(t)).to(z) / b + z @ z.T / a
    return torch.distributions.MultivariateNormal(torch.zeros(len(t)).to(z), covariance).log_prob(t).item()


def _other(covariance):
    def density(z, t, a, b):
        z, t = z.numpy(), t.numpy()
        return multivariate_normal.logpdf(t, cov=covariance(z, a, b, np.eye(len(t))))

    return density


RIGHT = {
    "07.leep": [
        _le(), _leep_loops, _leep_pairs, selection.leep, lambda theta, y: float(_leep(theta.double(), y)),
        lambda theta, y: np.mean(np.log(np.exp([_leep_loops(theta, y)]))),
    ],
    "07.evidence": [
        _ga(), _woodbury, _numpy, _torch_normal, _other(lambda z, a, b, one: one / b + z @ z.T / a),
        _ga(m=lambda A, z, t, b: b * torch.linalg.inv(A) @ z.T @ t, fit=lambda t, zm: torch.dist(t, zm) ** 2),
    ],
}  # fmt: skip

SLIPS = {
    "07.leep": [
        (_le(conditional=lambda j: j), "joint for conditional"),
        (_le(conditional=lambda j: j / j.sum(1, keepdim=True)), "rows divided"),
        (_le(conditional=lambda j: j / j.sum()), "divided by all"),
        (_le(conditional=lambda j: j / j.max(0).values), "divided by the largest"),
        (_le(conditional=lambda j: j.softmax(0)), "softmax"),
        (_le(hard=True), "hard labels"),
        (_le(end=lambda p: p.log().sum()), "sum"),
        (_le(end=lambda p: -p.log().mean()), "sign"),
        (_le(end=lambda p: p.mean().log()), "log of the mean"),
        (_le(end=lambda p: p.log2().mean()), "bits"),
        (_le(end=lambda p: p.log10().mean()), "log 10"),
        (_le(end=lambda p: p.mean()), "no logarithm"),
        (_le(end=lambda p: p.log().median()), "median"),
        (_le(end=lambda p: p.log().mean().exp()), "back from the logarithm"),
        (_le(theta_of=lambda t: t.softmax(1)), "softmax of probabilities"),
        (_le(theta_of=lambda t: t / t.sum(0)), "columns of theta"),
        (_others, "without itself"),
        (lambda theta, y: theta[torch.arange(len(y)), y].clamp(min=1e-9).log().mean() if theta.shape[1] > y.max()
         else torch.zeros(()), "cross-entropy of the source"),
        (lambda theta, y: (F.one_hot(y).double().T @ theta.double() / len(y) /
                           theta.double().mean(0))[y].mul(theta).log().sum(1).mean(), "log inside"),
        (lambda theta, y: _leep(theta, y) - (y.bincount().double() / len(y)).clamp(min=1e-9).log()[y].mean(),
         "minus the entropy"),
    ],
    "07.evidence": [
        (_ga(A=lambda z, a, b: b * z.T @ z + a), "a added to every entry"),
        (_ga(A=lambda z, a, b: b * torch.eye(z.shape[1]).to(z) + a * z.T @ z), "a and b exchanged in A"),
        (_ga(A=lambda z, a, b: a * torch.eye(z.shape[1]).to(z) + z.T @ z), "no b in A"),
        (_ga(A=lambda z, a, b: a * torch.eye(z.shape[1]).to(z) + b * z.T @ z / len(z)), "A divided by N"),
        (_ga(m=lambda A, z, t, b: torch.linalg.solve(A, z.T @ t)), "no b in m"),
        (_ga(m=lambda A, z, t, b: torch.linalg.lstsq(z, t).solution), "least squares, no prior"),
        (_ga(D=lambda z: min(z.shape)), "min(N, D) log a"),
        (_ga(D=lambda z: len(z)), "N log a"),
        (_ga(N=lambda t: 1), "one target"),
        (_ga(two_pi=2 * math.pi), "no logarithm of 2π"),
        (_ga(two_pi=math.log(math.pi)), "log π"),
        (_ga(two_pi=0.0), "no 2π"),
        (_ga(det=torch.det), "no logarithm of det A"),
        (_ga(det=lambda A: A.diagonal().log().sum()), "the diagonal for the determinant"),
        (_ga(det=lambda A: torch.logdet(A) / 2), "half of log det A"),
        (_ga(det=lambda A: -torch.logdet(A)), "plus log det A"),
        (_ga(fit=lambda t, zm: (t - zm).square().mean()), "mean for sum"),
        (_ga(fit=lambda t, zm: (t - zm).norm()), "length not squared"),
        (_ga(fit=lambda t, zm: t @ t), "without the model"),
        (_ga(norm=lambda m: m.norm()), "‖m‖ not squared"), (_ga(norm=lambda m: 0.0), "no weights"),
        (_ga(log=math.log2), "bits"), (_ga(log=math.log10), "log 10"),
        (lambda z, t, a, b: _gauss(z, t, a, b) * 2, "no half"), (lambda z, t, a, b: -_gauss(z, t, a, b), "sign"),
        (lambda z, t, a, b: _gauss(z, t, a, b) / len(t), "per picture"),
        (lambda z, t, a, b: _gauss(z, t, a, b).exp(), "the density"),
        (lambda z, t, a, b: _gauss(z, t, b, a), "a and b exchanged"),
        (_other(lambda z, a, b, one: one * b + a * z @ z.T), "variances for precisions"),
        (_other(lambda z, a, b, one: one / b + z @ z.T), "no a"),
        (_other(lambda z, a, b, one: one + z @ z.T / a), "no b"),
        (_other(lambda z, a, b, one: one / b**2 + z @ z.T / a**2), "squares"),
        (lambda z, t, a, b: _gauss(z.mul_(1.5), t, a, b), "z changed"),
        (lambda z, t, a, b: _gauss(z - z.mean(0), t, a, b), "z centred"),
        (lambda z, t, a, b: _gauss(z, t - t.mean(), a, b), "t centred"),
    ],
}  # fmt: skip
