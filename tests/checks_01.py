"""Right and wrong answers to the exercises of notebook 01. WRONG: (answer, words that the checker must say)."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from sftlib.metrics import balanced_accuracy, confusion_matrix


def _cosines(new, x):
    return F.normalize(new, dim=1) @ F.normalize(x, dim=1).T


def _by_ballots(new, x, y, k, num_classes):
    return F.one_hot(y[_cosines(new, x).topk(k, dim=1).indices], num_classes).sum(1).argmax(1)


def _by_loops(new, x, y, k, num_classes):
    out = []
    for a in new:
        cosines = [float(a @ b / (a.norm() * b.norm())) for b in x]
        nearest = sorted(range(len(x)), key=lambda i: -cosines[i])[:k]
        votes = [sum(int(y[i]) == c for i in nearest) for c in range(num_classes)]
        out.append(votes.index(max(votes)))
    return torch.tensor(out)


def _vote(score, y, k, num_classes):
    return F.one_hot(y[score.topk(k, dim=1).indices], num_classes).sum(1).argmax(1)


def _per_class(predicted, y):
    shares = [(predicted[y == k] == k).double().mean() for k in y.unique()]
    return (sum(shares) / len(shares)).item()


def _by_confusion(predicted, y):
    return balanced_accuracy(confusion_matrix(predicted, y, int(max(predicted.max(), y.max())) + 1))


def _by_weights(predicted, y):
    weight = 1 / y.bincount()[y].double()
    return (weight * (predicted == y)).sum() / weight.sum()


def _precision(predicted, y):
    shares = [(y[predicted == k] == k).double().mean() for k in predicted.unique()]
    return sum(shares) / len(shares)


def _over_all_classes(predicted, y):
    K = int(y.max()) + 1
    return sum((predicted[y == k] == k).double().sum() / max(1, int((y == k).sum())) for k in range(K)) / K


def _walk(labels, scores, target):
    if scores[0] >= target:
        return float(labels[0])
    for a, b, low, high in zip(labels, labels[1:], scores, scores[1:], strict=False):
        if high >= target:
            return a * (b / a) ** ((target - low) / (high - low))
    return math.inf


def _walk_in_logs(labels, scores, target):
    scores = np.asarray(scores)
    above = np.flatnonzero(scores >= target)
    if len(above) == 0:
        return math.inf
    i = above[0]
    if i == 0:
        return labels[0]
    return 10 ** np.interp(target, scores[i - 1 : i + 1], np.log10(labels[i - 1 : i + 1]))


def _linear(labels, scores, target):
    if scores[0] >= target:
        return float(labels[0])
    for a, b, low, high in zip(labels, labels[1:], scores, scores[1:], strict=False):
        if high >= target:
            return a + (b - a) * (target - low) / (high - low)
    return math.inf


def _by_interp(labels, scores, target):
    return 10 ** np.interp(target, sorted(scores), np.log10(labels))


def _measured_only(labels, scores, target):
    return next((n for n, a in zip(labels, scores, strict=True) if a >= target), math.inf)


RIGHT = {
    "01.neighbours": [_by_ballots, _by_loops],
    "01.balanced": [_per_class, _by_confusion, _by_weights],
    "01.labels_needed": [_walk, _walk_in_logs],
}
WRONG = {
    "01.neighbours": [
        (lambda new, x, y, k, K: _vote(new @ x.T, y, k, K), "divide by the lengths"),
        (lambda new, x, y, k, K: _vote(-torch.cdist(new, x), y, k, K), "uses distances"),
        (lambda new, x, y, k, K: _vote(-_cosines(new, x), y, k, K), "farthest"),
        (lambda new, x, y, k, K: y[_cosines(new, x).argmax(1)], "only the first neighbour"),
        (lambda new, x, y, k, K: _cosines(new, x).argmax(1), "numbers of rows"),
        (lambda new, x, y, k, K: _by_ballots(new, x, y, k, K)[:, None], "shape"),
    ],
    "01.balanced": [
        (lambda predicted, y: (predicted == y).double().mean(), "plain accuracy"),
        (lambda predicted, y: _per_class(predicted, y) * len(y.unique()), "sum over the classes"),
        (_over_all_classes, "without an example"),
        (_precision, "among those *predicted*"),
        (lambda predicted, y: 1 - _per_class(predicted, y), "share of errors"),
    ],
    "01.labels_needed": [
        (_linear, "logarithmic axis"),
        (_by_interp, "target 0.6"),
        (_measured_only, "between the measured points"),
        (lambda n, s, t: 10 ** np.interp(t, s, np.log10(n)) if t <= max(s) else np.inf, "never dips"),
        (lambda labels, scores, target: math.log10(_walk(labels, scores, target)), "logarithm of the answer"),
        (lambda labels, scores, target: min(1000.0, _walk(labels, scores, target)), "never reached"),
    ],
}
