"""More answers to the exercises of notebook 08, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def _relationship(p, y, K, *, of=lambda rows: rows.mean(0), then=lambda r: r):
    return then(torch.stack([of(p[y == k]) for k in range(K)]))


def _rel(**slip):
    return lambda p, y, K: _relationship(p, y, K, **slip)


def _one_hot(p, y, K):
    t = F.one_hot(y, K).to(p.dtype)
    return (t.T @ p) / t.sum(0)[:, None]


def _index_add(p, y, K):
    sums = torch.zeros(K, p.shape[1], dtype=p.dtype).index_add(0, y, p)
    return sums / y.bincount(minlength=K)[:, None]


def _in_order_met(p, y, K):
    return torch.stack([p[y == k].mean(0) for k in dict.fromkeys(y.tolist())])


def _choose(accuracy, cost, *, error=lambda a, b: a[b].std() / math.sqrt(a.shape[1]), near=lambda m, limit: m >= limit,
            best=lambda m: m.argmax(),
            take=lambda ok, cost, m: torch.where(ok, cost.double(), math.inf).argmin()):  # fmt: skip
    means = accuracy.mean(1)
    b = best(means)
    return int(take(near(means, means[b] - error(accuracy, b)), cost, means))


def _ch(**slip):
    return lambda accuracy, cost: _choose(accuracy, cost, **slip)


def _choose_numpy(accuracy, cost):
    a, c = np.asarray(accuracy), np.asarray(cost)
    means = a.mean(axis=1)
    b = int(np.argmax(means))
    limit = means[b] - a[b].std(ddof=1) / np.sqrt(a.shape[1])
    return min((i for i in range(len(c)) if means[i] >= limit), key=lambda i: c[i])


def _choose_sorted(accuracy, cost):
    means = accuracy.mean(1)
    best = accuracy[means.argmax()]
    error = ((best - best.mean()).square().sum() / (len(best) - 1) / len(best)).sqrt()
    for i in cost.argsort():
        if means[i] >= means.max() - error:
            return i


def _own_errors(accuracy, cost):
    means, errors = accuracy.mean(1), accuracy.std(1) / accuracy.shape[1] ** 0.5
    ok = means + errors >= means.max()
    return int(torch.where(ok, cost.double(), math.inf).argmin())


def _overlap(accuracy, cost):
    means, errors = accuracy.mean(1), accuracy.std(1) / accuracy.shape[1] ** 0.5
    ok = means + errors >= means.max() - errors[means.argmax()]
    return int(torch.where(ok, cost.double(), math.inf).argmin())


RIGHT = {
    "08.relationship": [
        _rel(), _one_hot, _index_add, lambda p, y, K: [p[y == k].mean(0) for k in range(K)],
        lambda p, y, K: np.stack([p.numpy()[y.numpy() == k].mean(axis=0) for k in range(K)]),
        _rel(of=lambda rows: rows.sum(0) / len(rows)),
    ],
    "08.one_standard_error": [
        _ch(), _choose_numpy, _choose_sorted,
        lambda accuracy, cost: torch.tensor(_choose(accuracy, cost)),
        lambda accuracy, cost: np.int64(_choose(accuracy, cost)),
        _ch(error=lambda a, b: a[b].var().div(a.shape[1]).sqrt()),
        _ch(error=lambda a, b: a[b].std(correction=0) / math.sqrt(a.shape[1] - 1)),
    ],
    "08.honest": [
        lambda val, test: (int(val.argmax()), test[val.argmax()]),
        lambda val, test: [val.argmax(), test[val.argmax()].item()],
        lambda val, test: max(enumerate(val), key=lambda pair: pair[1])[0:1] + (float(test[int(np.argmax(val))]),),
        lambda val, test: (np.argmax(np.asarray(val)), np.asarray(test)[np.argmax(np.asarray(val))]),
        lambda val, test: (sorted(range(len(val)), key=lambda i: -val[i])[0], test[val == val.max()][0]),
    ],
}  # fmt: skip
SLIPS = {
    "08.relationship": [
        (_rel(of=lambda rows: rows.sum(0)), "sums"),
        (_rel(then=lambda r: r.T), "transposed"),
        (_rel(then=lambda r: r / r.sum(0)), "columns divided"),
        (_rel(then=lambda r: r.softmax(1)), "softmax of the means"),
        (_rel(then=lambda r: r.log()), "logarithm"),
        (_rel(of=lambda rows: rows.median(0).values), "median"),
        (_rel(of=lambda rows: rows.log().mean(0).exp()), "geometric mean"),
        (_rel(of=lambda rows: rows.log().mean(0).softmax(0)), "geometric mean, divided"),
        (_rel(of=lambda rows: F.one_hot(rows.argmax(1), rows.shape[1]).double().mean(0)), "hard answers"),
        (_rel(of=lambda rows: rows.mean(1)[:1].expand(rows.shape[1])), "mean over the source classes"),
        (_rel(of=lambda rows: rows[0]), "the first picture"),
        (_rel(of=lambda rows: rows.max(0).values), "the largest"),
        (_rel(of=lambda rows: rows.sum(0) / (len(rows) + 1)), "one too many"),
        (_in_order_met, "order in which they are met"),
        (lambda p, y, K: p.mean(0).expand(K, -1), "same for all"),
        (lambda p, y, K: _relationship(p, y, K) * y.bincount(minlength=K)[:, None] / len(y), "joint table"),
        (lambda p, y, K: _relationship(p, y, K) / p.mean(0), "lift"),
        (lambda p, y, K: torch.stack([p[y == k].sum(0) for k in range(K)]) / len(y) * K, "equal classes"),
        (lambda p, y, K: torch.stack([p[y != k].mean(0) for k in range(K)]), "the others"),
        (lambda p, y, K: _relationship(p, y, K - 1), "a row too few"),
        (lambda p, y, K: _relationship(p[: len(y) // 2 * 2 - 1], y[: len(y) // 2 * 2 - 1], K), "without the last"),
    ],
    "08.one_standard_error": [
        (_ch(error=lambda a, b: a[b].std()), "deviation"),
        (_ch(error=lambda a, b: a[b].std() / a.shape[1]), "divided by n"),
        (_ch(error=lambda a, b: a[b].std() / math.sqrt(len(a))), "root of the strategies"),
        (_ch(error=lambda a, b: a[b].std() / math.sqrt(5)), "five seeds"),
        (_ch(error=lambda a, b: a[b].var() / math.sqrt(a.shape[1])), "variance"),
        (_ch(error=lambda a, b: a[b].std() / math.sqrt(a.shape[1] - 1)), "root of n − 1, twice"),
        (_ch(error=lambda a, b: (a[b] - a[b].mean()).abs().mean() / math.sqrt(a.shape[1])), "mean absolute deviation"),
        (_ch(error=lambda a, b: a[b].mean() * a[b].std() / math.sqrt(a.shape[1])), "a share of the best mean"),
        (_ch(error=lambda a, b: 2 * a[b].std() / math.sqrt(a.shape[1])), "two errors"),
        (_ch(error=lambda a, b: a.std() / math.sqrt(a.shape[1])), "deviation of all"),
        (_ch(error=lambda a, b: a.std(1).mean() / math.sqrt(a.shape[1])), "mean deviation"),
        (_ch(error=lambda a, b: a.std(1).max() / math.sqrt(a.shape[1])), "largest deviation"),
        (_ch(error=lambda a, b: a.mean(1).std() / math.sqrt(a.shape[1])), "deviation of the means"),
        (_ch(error=lambda a, b: a[0].std() / math.sqrt(a.shape[1])), "of the first row"),
        (_ch(error=lambda a, b: 0.0), "no error"),
        (_ch(error=lambda a, b: 0.01), "one point"),
        (_ch(error=lambda a, b: -a[b].std() / math.sqrt(a.shape[1]), best=lambda m: m.argmin()), "of the worst"),
        (_own_errors, "own errors"), (_overlap, "overlapping intervals"),
        (_ch(take=lambda ok, c, m: torch.where(ok, c.double(), -1.0).argmax()), "dearest"),
        (_ch(take=lambda ok, c, m: ok.double().argmax()), "the first that is near"),
        (_ch(take=lambda ok, c, m: torch.where(ok, m, math.inf).argmin()), "the worst that is near"),
        (_ch(take=lambda ok, c, m: c[ok].argmin()), "index among the near"),
        (lambda accuracy, cost: int(cost.argmin()), "the cheapest"),
        (lambda accuracy, cost: int(accuracy.mean(1).argmax()), "the best"),
        (lambda accuracy, cost: int((accuracy.mean(1) / cost).argmax()), "accuracy over cost"),
        (lambda accuracy, cost: float(cost[_choose(accuracy, cost)]), "its cost"),
        (lambda accuracy, cost: _choose(accuracy, cost) + 1, "from one"),
        (lambda accuracy, cost: _choose(accuracy.median(1, keepdim=True).values.expand_as(accuracy), cost), "medians"),
        (lambda accuracy, cost: int(accuracy.max(1).values.argmax()), "the best run"),
    ],
    "08.honest": [
        (lambda val, test: (int(test.argmax()), test.max()), "chosen on test"),
        (lambda val, test: (int(val.argmax()), val.max()), "validation accuracy"),
        (lambda val, test: (int(val.argmax()), test.max()), "best test accuracy"),
        (lambda val, test: (int(test.argmax()), val.max()), "exchanged"),
        (lambda val, test: (int(test.argmax()), val[test.argmax()]), "chosen on test, validation reported"),
        (lambda val, test: (int((val + test).argmax()), test[(val + test).argmax()]), "chosen on both"),
        (lambda val, test: (int(val.argmax()), (test[val.argmax()] + val.max()) / 2), "mean of both"),
        (lambda val, test: (int(val.argmax()), test.mean()), "mean test accuracy"),
        (lambda val, test: (int(val.argmin()), test[val.argmin()]), "the worst"),
        (lambda val, test: (int(val.argmax()) + 1, test[val.argmax()]), "from one"),
        (lambda val, test: (test[val.argmax()], int(val.argmax())), "accuracy first"),
        (lambda val, test: (len(val) - 1, test[-1]), "the last"),
        (lambda val, test: (0, test[0]), "the first"),
        (lambda val, test: (val.max(), test[val.argmax()]), "accuracy for index"),
        (lambda val, test: int(val.argmax()), "index only"),
        (lambda val, test: (int((val - test).abs().argmin()), test[(val - test).abs().argmin()]), "nearest of the two"),
        (lambda val, test: (int(val.argmax()), min(val.max(), test[val.argmax()])), "the lower of the two"),
        (lambda val, test: (int(val.argmax()), test.median()), "median"),
        (lambda val, test: (int(val.argmax()), round(float(test[val.argmax()]), 1)), "rounded"),
        (lambda val, test: (int(val.argmax()), test.min()), "lowest test accuracy"),
    ],
}  # fmt: skip
