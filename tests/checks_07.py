"""Right and wrong answers to the exercises of notebook 07. WRONG: (answer, words that the checker must say)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import weightedtau

from sftlib import features, selection


def _regret(scores, truth):
    return truth.max() - truth[scores == scores.max()].mean()


def _loo(z, y):
    u = F.normalize(z, dim=1)
    return (y[(u @ u.T).fill_diagonal_(-torch.inf).argmax(1)] == y).double().mean()


def _loo_by_loops(z, y):
    hits = 0
    for i in range(len(y)):
        cosines = {j: F.cosine_similarity(z[i], z[j], dim=0).item() for j in range(len(y)) if j != i}
        hits += int(y[max(cosines, key=cosines.get)] == y[i])
    return hits / len(y)


def _with_itself(z, y):
    u = F.normalize(z, dim=1)
    return (y[(u @ u.T).argmax(1)] == y).double().mean()


def _products(z, y):
    return (y[(z @ z.T).fill_diagonal_(-torch.inf).argmax(1)] == y).double().mean()


def _distances(z, y):
    return (y[torch.cdist(z, z).fill_diagonal_(torch.inf).argmin(1)] == y).double().mean()


def _farthest(z, y):
    u = F.normalize(z, dim=1)
    return (y[(u @ u.T).argmin(1)] == y).double().mean()


def _no_duplicates(z, y):
    u = F.normalize(z, dim=1)
    s = u @ u.T
    return (y[s.masked_fill(s > 1 - 1e-6, -torch.inf).argmax(1)] == y).double().mean()


def _nearest_of_two(z, y):
    """The nearest is the picture itself, or a duplicate of it: take the one of two that is another"""
    u = F.normalize(z, dim=1)
    two = (u @ u.T).topk(2, 1).indices
    own = two[:, 0] == torch.arange(len(y))
    return (y[torch.where(own, two[:, 1], two[:, 0])] == y).double().mean()


def _fair(scores, truth):
    largest = np.abs(scores).max()
    scores = np.round(scores / largest, 6) if largest else scores
    return 0.0 if np.ptp(scores) == 0 or np.ptp(truth) == 0 else weightedtau(truth, scores).statistic


def _fair_by_groups(scores, truth):
    order, level, place = np.argsort(scores), 0, np.zeros(len(scores))
    for a, b in zip(order, order[1:], strict=False):
        level += scores[b] - scores[a] > 1e-6 * np.abs(scores).max()
        place[b] = level
    tau = weightedtau(truth, place).statistic
    return 0.0 if math.isnan(tau) else tau


def _raw(scores, truth):
    return weightedtau(truth, scores).statistic


def _raw_or_zero(scores, truth):
    return 0.0 if np.ptp(scores) == 0 else weightedtau(truth, scores).statistic


def _divided_by(size):
    return lambda scores, truth: _raw_or_zero(np.round(scores / (size(scores) or 1), 6), truth)


def _fair_by_pairs(scores, truth):
    """Each score becomes the lowest of those that count as equal to it"""
    near = np.isclose(scores[:, None], scores, rtol=0, atol=1e-6 * np.abs(scores).max())
    level = np.where(near, scores, np.inf).min(1)
    return 0.0 if np.ptp(level) == 0 or np.ptp(truth) == 0 else weightedtau(truth, level).statistic


def _near_to_each_other(scores, truth):
    level = np.where(np.isclose(scores[:, None], scores, rtol=1e-6, atol=0), scores, np.inf).min(1)
    return 0.0 if np.ptp(level) == 0 or np.ptp(truth) == 0 else weightedtau(truth, level).statistic


def _six_digits(scores, truth):
    return _raw_or_zero(np.array([float(f"{v:.6g}") for v in scores]), truth)


def _absolute(scores, truth):
    return _raw_or_zero(np.round(scores, 6), truth)


RIGHT = {
    "07.regret": [_regret, selection.regret, lambda s, t: float(np.mean([t.max() - x for x in t[s == s.max()]]))],
    "07.leave_one_out": [_loo, _loo_by_loops, _nearest_of_two, lambda z, y: features.knn_accuracy(z, y, k=1)],
    "07.ties": [_fair, _fair_by_groups, _fair_by_pairs],
}
WRONG = {
    "07.regret": [
        (lambda s, t: t[s.argmax()], "favourite's accuracy"),
        (lambda s, t: -_regret(s, t), "sign"),
        (lambda s, t: t.max() - t[s.argmin()], "lowest score"),
        (lambda s, t: s.max() - s[t.argmax()], "compares scores"),
        (lambda s, t: t.max() - t[s.argmax()], "takes the first"),
        (lambda s, t: t.max() - t[s == s.max()].max(), "takes the best"),
    ],
    "07.leave_one_out": [
        (_with_itself, "votes for itself"),
        (_products, "divide each row"),
        (_distances, "distances"),
        (_farthest, "farthest"),
        (_no_duplicates, "a duplicate is another picture"),
        (lambda z, y: 1 - _loo(z, y), "errors"),
        (lambda z, y: len(y) * _loo(z, y), "count"),
    ],
    "07.ties": [
        (_raw, "constant score gets 0"),
        (_raw_or_zero, "rounding only"),
        (_absolute, "of the largest"),
        (_six_digits, "of the two that are compared"),
        (_near_to_each_other, "of the two that are compared"),
        (_divided_by(lambda s: np.abs(s).sum()), "not by the sum"),
        (_divided_by(np.linalg.norm), "not by the length"),
        (lambda s, t: -_fair(s, t), "sign"),
        (lambda s, t: _fair(np.abs(s), t), "negative scores"),
    ],
}  # fmt: skip
