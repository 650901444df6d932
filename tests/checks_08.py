"""Right and wrong answers to the exercises of notebook 08. WRONG: (answer, words that the checker must say)."""

import math

import torch

from sftlib.losses import category_relationship


def _one_se(accuracy, cost):
    mean, n = accuracy.mean(1), accuracy.shape[1]
    best = mean.argmax()
    near = mean >= mean[best] - accuracy[best].std() / math.sqrt(n)
    return torch.where(near, cost, math.inf).argmin()


def _one_se_by_loop(accuracy, cost):
    rows = [row.tolist() for row in accuracy]
    means = [sum(row) / len(row) for row in rows]
    best = max(range(len(rows)), key=lambda i: means[i])
    n = len(rows[best])
    variance = sum((v - means[best]) ** 2 for v in rows[best]) / n  # population variance is near enough
    near = [i for i in range(len(rows)) if means[i] >= means[best] - (variance / n) ** 0.5]
    return min(near, key=lambda i: cost[i])


def _one_deviation(accuracy, cost):
    mean = accuracy.mean(1)
    near = mean >= mean.max() - accuracy[mean.argmax()].std()
    return torch.where(near, cost, math.inf).argmin()


def _own_error(accuracy, cost):
    mean = accuracy.mean(1)
    near = mean + accuracy.std(1) / accuracy.shape[1] ** 0.5 >= mean.max()
    return torch.where(near, cost, math.inf).argmin()


def _error_of(error):
    def choose(accuracy, cost):
        mean = accuracy.mean(1)
        near = mean >= mean.max() - error(accuracy[mean.argmax()])
        return torch.where(near, cost, math.inf).argmin()

    return choose


def _of_medians(accuracy, cost):
    median, best = accuracy.median(1).values, accuracy.median(1).values.argmax()
    near = median >= median[best] - accuracy[best].std() / accuracy.shape[1] ** 0.5
    return torch.where(near, cost, math.inf).argmin()


def _worst_within(accuracy, cost):
    mean = accuracy.mean(1)
    near = mean >= mean.max() - accuracy[mean.argmax()].std() / accuracy.shape[1] ** 0.5
    return torch.where(near, -cost, math.inf).argmin()


def _relation_by_loop(p, y, K):
    return torch.stack([p[y == k].mean(0) for k in range(K)])


RIGHT = {
    "08.one_standard_error": [_one_se, _one_se_by_loop],
    "08.honest": [
        lambda val, test: (val.argmax(), test[val.argmax()]),
        lambda val, test: [int(val.argmax()), float(test[int(val.argmax())])],
    ],
    "08.relationship": [
        _relation_by_loop,
        lambda p, y, K: category_relationship(p, y, num_classes=K),
        lambda p, y, K: torch.zeros(K, p.shape[1], dtype=p.dtype).index_add_(0, y, p) / y.bincount()[:, None],
    ],
}
WRONG = {
    "08.one_standard_error": [
        (lambda accuracy, cost: accuracy.mean(1).argmax(), "the best mean"),
        (_one_deviation, "standard error is the deviation over"),
        (lambda accuracy, cost: cost.argmin(), "got strategy"),
        (_own_error, "the best mean"),
        (_worst_within, "got strategy"),
        (_of_medians, "its *mean* is"),
        (_error_of(lambda best: best.std() / math.sqrt(len(best) - 1)), "not by √(seeds − 1)"),
        (_error_of(lambda best: (best - best.mean()).abs().mean() / math.sqrt(len(best))), "too small"),
        (_error_of(lambda best: best.mean() * best.std() / math.sqrt(len(best))), "accuracies as they are"),
        (lambda accuracy, cost: accuracy.mean(1), "expected the index"),
        (lambda accuracy, cost: 7, "from 0 to"),
    ],
    "08.honest": [
        (lambda val, test: (test.argmax(), test.max()), "used to choose"),
        (lambda val, test: ((val + test).argmax(), test[(val + test).argmax()]), "looks at the test"),
        (lambda val, test: (val.argmin(), test[val.argmin()]), "the worst on validation"),
        (lambda val, test: (val.argmax(), val.max()), "flatters"),
        (lambda val, test: (val.argmax(), test.max()), "not that of the setting"),
        (lambda val, test: (val.argmax(), test.mean()), "not the mean"),
        (lambda val, test: val.argmax(), "two things"),
    ],
    "08.relationship": [
        (lambda p, y, K: _relation_by_loop(p, y, K) * y.bincount()[:, None], "these are sums"),
        (lambda p, y, K: _relation_by_loop(p, y, K).T, "a row is a target class"),
        (lambda p, y, K: torch.zeros(K, p.shape[1], dtype=p.dtype).index_add_(0, y, p) / len(y), "of the class"),
        (lambda p, y, K: _relation_by_loop(torch.eye(p.shape[1]).double()[p.argmax(1)], y, K), "most probable"),
        (lambda p, y, K: _relation_by_loop(p, y, K) / _relation_by_loop(p, y, K).sum(0), "not the columns"),
    ],
}
