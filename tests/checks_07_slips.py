"""More answers to the exercises of notebook 07, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr, weightedtau
from sklearn.metrics import pairwise_distances
from torch.nn import functional as F


def _regret(scores, truth, *, best=lambda t, s: t.max(), got=lambda s, t: t[s == s.max()].mean()):
    return best(truth, scores) - got(scores, truth)


def _re(**slip):
    return lambda scores, truth: _regret(scores, truth, **slip)


def _loo(z, y, *, similarity=lambda u: u @ u.T, unit=lambda z: F.normalize(z, dim=1), diagonal=-math.inf,
         pick=lambda s: s.argmax(1), end=lambda right, y: right.double().mean()):  # fmt: skip
    s = similarity(unit(z))
    if diagonal is not None:
        s = s.clone().fill_diagonal_(diagonal)
    return end(y[pick(s)] == y, y)


def _lo(**slip):
    return lambda z, y: _loo(z, y, **slip)


def _loo_loops(z, y):
    right = 0
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        near = max(others, key=lambda j: float(F.cosine_similarity(z[i], z[j], dim=0)))
        right += int(y[near] == y[i])
    return right / len(y)


def _loo_numpy(z, y):
    d = pairwise_distances(z.numpy(), metric="cosine")
    np.fill_diagonal(d, np.inf)
    return float((y.numpy()[d.argmin(1)] == y.numpy()).mean())


def _majority_of(k):
    def accuracy(z, y):
        s = (F.normalize(z) @ F.normalize(z).T).fill_diagonal_(-math.inf)
        near = y[s.topk(min(k, len(y) - 1), 1).indices]
        return (near.mode(1).values == y).double().mean()

    return accuracy


def _tau(scores, truth, *, equal=None, constant=0.0, tau=lambda t, s: weightedtau(t, s).statistic, test_truth=True,
         test_scores=True):  # fmt: skip
    scores = (equal or _six)(scores)
    if (test_scores and np.ptp(scores) == 0) or (test_truth and np.ptp(truth) == 0):
        return constant
    return tau(truth, scores)


def _six(scores, digits=6, largest=lambda s: np.abs(s).max()):
    return np.round(scores / largest(scores), digits) if np.any(scores) else scores


def _to_lowest(scores, relative=0.0, absolute=0.0):
    near = np.isclose(scores[:, None], scores, rtol=relative, atol=absolute * np.abs(scores).max())
    return np.where(near, scores, np.inf).min(1)


def _merged(scores):
    """Near ones take the value of the lowest of them"""
    scores, near = np.array(scores, dtype=float), 1e-6 * np.abs(scores).max()
    order = np.argsort(scores)
    for a, b in zip(order[:-1], order[1:], strict=False):
        if scores[b] - scores[a] < near:
            scores[b] = scores[a]
    return scores


def _levels(scores):
    gaps = np.diff(np.sort(scores)) >= 1e-6 * np.abs(scores).max() if np.any(scores) else np.zeros(len(scores) - 1)
    level = np.concatenate([[0], np.cumsum(gaps)])
    out = np.empty(len(scores))
    out[np.argsort(scores)] = level
    return out


def _ta(**slip):
    return lambda scores, truth: _tau(scores, truth, **slip)


RIGHT = {
    "07.regret": [
        _re(),
        lambda scores, truth: max(truth) - np.mean([t for s, t in zip(scores, truth, strict=True) if s == max(scores)]),
        lambda scores, truth: float(truth.max() - np.average(truth, weights=scores == scores.max())),
        lambda scores, truth: np.max(truth) - truth[np.flatnonzero(scores == np.max(scores))].mean(),
        lambda scores, truth: np.mean(truth.max() - truth[scores >= scores.max()]),
    ],
    "07.leave_one_out": [
        _lo(), _loo_loops, _loo_numpy, _lo(diagonal=-2), _majority_of(1),
        _lo(similarity=lambda u: -torch.cdist(u.double(), u.double(), compute_mode="donot_use_mm_for_euclid_dist")),
    ],
    "07.ties": [
        _ta(), _ta(equal=_merged), _ta(equal=_levels), _ta(equal=lambda s: _to_lowest(s, absolute=1e-6)),
        lambda s, t: float(np.nan_to_num(_tau(s, t, test_scores=False))),
        _ta(tau=lambda t, s: weightedtau(list(s), list(t))[0]),
    ],
}  # fmt: skip

SLIPS = {
    "07.regret": [
        (_re(got=lambda s, t: t[s.argmax()]), "first of equals"),
        (_re(got=lambda s, t: t[len(s) - 1 - s[::-1].argmax()]), "last of equals"),
        (_re(got=lambda s, t: t[s == s.max()].max()), "best of equals"),
        (_re(got=lambda s, t: t[s == s.max()].min()), "worst of equals"),
        (_re(got=lambda s, t: np.median(t[s == s.max()])), "median of equals"),
        (_re(got=lambda s, t: t[s == s.min()].mean()), "lowest score"),
        (_re(got=lambda s, t: t[np.abs(s) == np.abs(s).max()].mean()), "scores below zero"),
        (_re(got=lambda s, t: t.mean()), "mean of all"),
        (_re(got=lambda s, t: t.min()), "range"),
        (_re(best=lambda t, s: s.max()), "best score"),
        (_re(best=lambda t, s: t.mean()), "mean for best"),
        (_re(best=lambda t, s: t[-1]), "the last for best"),
        (_re(best=lambda t, s: 1.0), "from one"),
        (_re(best=lambda t, s: 0.0), "the accuracy, negative"),
        (lambda s, t: t[s == s.max()].mean(), "the accuracy"),
        (lambda s, t: -_regret(s, t), "sign"),
        (lambda s, t: _regret(s, t) / t.max(), "a share"),
        (lambda s, t: 100 * _regret(s, t), "percent"),
        (lambda s, t: s.max() - s[t.argmax()], "regret of the scores"),
        (lambda s, t: _regret(t, s), "exchanged"),
        (lambda s, t: _regret(np.round(s, 1), t), "scores rounded"),
        (lambda s, t: float(np.sum(t > t[s == s.max()].mean())), "the rank"),
    ],
    "07.leave_one_out": [
        (_lo(diagonal=None), "itself"),
        (_lo(diagonal=0.0), "0 on the diagonal"),
        (_lo(diagonal=math.inf), "itself for sure"),
        (_lo(diagonal=-0.5), "-0.5 on the diagonal"),
        (_lo(unit=lambda z: z), "inner products"),
        (_lo(unit=lambda z: z, similarity=lambda z: -torch.cdist(z, z)), "distances"),
        (_lo(unit=lambda z: z / z.norm(dim=0)), "columns"),
        (_lo(unit=lambda z: F.normalize(z - z.mean(0), dim=1)), "centred"),
        (_lo(unit=lambda z: z / z.norm()), "one length for all"),
        (_lo(similarity=lambda u: (u @ u.T).abs()), "opposite near"),
        (_lo(similarity=lambda u: -(u @ u.T)), "the farthest"),
        (_lo(similarity=lambda u: (u @ u.T).relu()), "negative ones 0"),
        (_lo(pick=lambda s: s.topk(2, 1).indices[:, 1]), "the second"),
        (_lo(pick=lambda s: s.argmin(1), diagonal=math.inf), "the least similar"),
        (_majority_of(3), "three neighbours"),
        (_lo(similarity=lambda u: (u @ u.T).masked_fill(u @ u.T > 1 - 1e-6, -math.inf)), "no duplicates"),
        (_lo(similarity=lambda u: (u @ u.T).masked_fill(torch.cdist(u, u) < 1e-3, -1)), "duplicates far away"),
        (_lo(end=lambda r, y: r.sum()), "a count"),
        (_lo(end=lambda r, y: 1 - r.double().mean()), "errors"),
        (_lo(end=lambda r, y: torch.stack([r[y == k].double().mean() for k in y.unique()]).mean()), "balanced"),
        (_lo(end=lambda r, y: r.sum() / (len(r) - 1)), "N − 1"),
        (lambda z, y: _loo(z[: len(y) // 2], y[: len(y) // 2]), "half"),
        (lambda z, y: _loo(z.div_(z.norm(dim=1, keepdim=True)), y), "z changed"),
        (lambda z, y: _loo(z.abs(), y), "absolute features"),
        (_lo(similarity=lambda u: (u @ u.T).tril(-1) + torch.full((len(u), len(u)), -9.0).triu()), "earlier ones only"),
    ],
    "07.ties": [
        (_ta(equal=lambda s: s), "nothing equal"),
        (_ta(equal=lambda s: np.round(s, 6)), "six decimals of any scale"),
        (_ta(equal=lambda s: _six(s, 3)), "a thousandth"),
        (_ta(equal=lambda s: _six(s, 4)), "a ten-thousandth"),
        (_ta(equal=lambda s: _six(s, 8)), "too fine"),
        (_ta(equal=lambda s: _six(s, 12)), "rounding errors only"),
        (_ta(equal=lambda s: _six(s, largest=lambda s: s.max())), "signed largest"),
        (_ta(equal=lambda s: np.round(s / np.abs(s).max(), 6)), "0 divided by 0"),
        (_ta(equal=lambda s: _six(s, largest=np.ptp)), "of the range"),
        (_ta(equal=lambda s: _six(s, largest=lambda s: np.abs(s).sum())), "of the sum"),
        (_ta(equal=lambda s: _six(s, largest=np.linalg.norm)), "of the length"),
        (_ta(equal=lambda s: np.array([float(f"{v:.6g}") for v in s])), "six significant digits"),
        (_ta(equal=lambda s: _to_lowest(s, relative=1e-6)), "of the two compared"),
        (_ta(equal=lambda s: _six(s, largest=lambda s: np.abs(s).min() or 1)), "of the smallest"),
        (_ta(constant=np.nan), "nan"), (_ta(constant=1.0), "1 for constant"), (_ta(constant=-1.0), "-1"),
        (_ta(test_scores=False), "constant scores"), (_ta(test_truth=False), "constant truth"),
        (_ta(tau=lambda t, s: kendalltau(t, s).statistic), "not weighted"),
        (_ta(tau=lambda t, s: spearmanr(t, s).statistic), "Spearman"),
        (_ta(tau=lambda t, s: -weightedtau(t, s).statistic), "sign"),
        (_ta(tau=lambda t, s: abs(weightedtau(t, s).statistic)), "absolute"),
        (_ta(tau=lambda t, s: weightedtau(t, s, rank=None).statistic), "another weighting"),
        (_ta(tau=lambda t, s: weightedtau(t, s, additive=False).statistic), "products of weights"),
        (_ta(tau=lambda t, s: max(0.0, weightedtau(t, s).statistic)), "no negative"),
        (lambda s, t: _tau(np.abs(s), t), "absolute scores"),
        (lambda s, t: _tau(s, np.round(t, 1)), "truth rounded"),
        (lambda s, t: np.corrcoef(s, t)[0, 1] if np.ptp(s) and np.ptp(t) else 0.0, "correlation"),
    ],
}  # fmt: skip
