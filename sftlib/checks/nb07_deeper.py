"""Checkers of notebook 07, going deeper: LEEP, and the evidence from D x D matrices."""

import math

import torch

from sftlib.checks import checker, expect


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("07.leep")
def _leep(answer):
    """theta (N, S), y (N,) -> mean_i log sum_s P(y_i|s) theta_is"""
    cases = (("7 source classes", 23, 7, 3, 1.0), ("2 source classes", 11, 2, 2, 2.0), ("sure heads", 17, 5, 3, 4.0))
    for number, (named, N, S, K, sharp) in enumerate(cases):
        theta, y = (sharp * _draw(N, S, seed=number)).softmax(1), torch.arange(N) % K
        joint = torch.stack([sum(theta[i] for i in range(N) if y[i] == k) for k in range(K)]) / N  # (K, S)
        conditional = joint / joint.sum(0)
        p = (conditional[y] * theta).sum(1)
        want = p.log().mean()
        source = theta.argmax(1)
        by_row = joint / joint.sum(1, keepdim=True)
        known = [
            (-want, "the sign is turned: logs of probabilities are at most 0"),
            (p.log().sum(), "this sums over the pictures; take the mean"),
            (p.mean().log(), "this is the log of the mean; take the mean of the logs"),
            (want / math.log(2), "this is in bits; use the natural logarithm"),
            (conditional[y, source].log().mean(), "this takes only the most probable source class; sum over all s"),
            ((joint[y] * theta).sum(1).log().mean(), "divide P(y, s) by its sum over the classes first: P(y|s)"),
            ((by_row[y] * theta).sum(1).log().mean(), "this divides each row; P(y|s) divides each column"),
            ((theta * conditional[y].log()).sum(1).mean(), "the logarithm is of the sum over s, not inside it"),
        ]
        expect(named, answer(theta.clone(), y.clone()), want, known=known)


@checker("07.evidence")
def _evidence(answer):
    """z (N, D), t (N,), precisions a, b -> log N(t; 0, I/b + z z^T/a) in nats"""
    for number, (N, D, a, b) in enumerate(((11, 3, 2.0, 0.7), (5, 7, 0.6, 3.0), (13, 5, 40.0, 0.1), (3, 17, 5.0, 2.0))):
        z, t = _draw(N, D, seed=number), _draw(N, seed=number + 10)
        want = _density(z, t, a, b)
        A = a * torch.eye(D, dtype=z.dtype) + b * z.T @ z
        m = torch.linalg.solve(A, b * z.T @ t)
        misfit, weights, k = b * (t - z @ m).square().sum(), a * m.square().sum(), min(N, D)
        known = [
            (want / N, "this is divided by N; the log density of all of t is asked for"),
            (-want, "the sign is turned: a log density"),
            (2 * want, "the half is missing, before all of the brackets"),
            (want / math.log(2), "this is in bits; use the natural logarithm"),
            (want.exp(), "this is the density; its logarithm is asked for"),
            (want + N / 2 * math.log(2 * math.pi), "N log 2π is missing"),
            (want + (N - 1) / 2 * math.log(2 * math.pi), "log 2π counts once for each of the N targets"),
            (want + torch.logdet(A) / 2, "log det A is missing"),
            (want + torch.logdet(A), "log det A comes with a minus"),
            (want + misfit / 2, "b‖t − zm‖² is missing"),
            (want + weights / 2, "a‖m‖² is missing"),
            (want + weights, "a‖m‖² comes with a minus"),
            (want - D / 2 * math.log(a), "D log a is missing"),
            (want - N / 2 * math.log(b), "N log b is missing"),
            (_density(z, t, b, a), "a and b are exchanged: a belongs to the weights, b to the noise"),
            (want + (k - D) / 2 * math.log(a), "log a counts D times here, for log det A is over all D directions"),
            (_density(z, t, 1 / a, 1 / b), "a and b are precisions, one over a variance"),
        ]
        known = [(value, mistake) for value, mistake in known if abs(value - want) > 1e-3]
        expect(f"{N} × {D}, a = {a:g}, b = {b:g}", answer(z.clone(), t.clone(), a, b), want, known=known)


def _density(z, t, a, b):
    """By the Gaussian in N dimensions, as it is defined"""
    covariance = torch.eye(len(t), dtype=z.dtype) / b + z @ z.T / a
    return torch.distributions.MultivariateNormal(torch.zeros_like(t), covariance).log_prob(t)
