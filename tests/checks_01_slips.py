"""More answers to the exercises of notebook 01, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def _nearest(new, x, k, *, unit=F.normalize, unit_x=F.normalize, score=lambda s: s, largest=True):
    return score(unit(new) @ unit_x(x).T).topk(k, dim=1, largest=largest).indices


def _vote(labels, num_classes):
    return F.one_hot(labels, num_classes).sum(1).argmax(1)


def _same(t):
    return t


def _with(**slip):
    return lambda new, x, y, k, num_classes: _vote(y[_nearest(new, x, k, **slip)], num_classes)


def _distances(new, x, y, k, num_classes):
    """On the unit sphere the nearest are those of the largest cosine"""
    near = torch.cdist(F.normalize(new.double()), F.normalize(x.double())).argsort(dim=1)[:, :k]
    return torch.tensor([int(np.bincount(y[row].numpy(), minlength=num_classes).argmax()) for row in near])


def _loops(new, x, y, k, num_classes):
    said = []
    for row in new:
        cosines = [float(F.cosine_similarity(row, other, dim=0)) for other in x]
        near = sorted(range(len(x)), key=lambda i: -cosines[i])[:k]
        votes = [sum(1 for i in near if y[i] == c) for c in range(num_classes)]
        said.append(votes.index(max(votes)))
    return said


def _highest_of_equals(new, x, y, k, num_classes):
    votes = F.one_hot(y[_nearest(new, x, k)], num_classes).sum(1)
    return num_classes - 1 - votes.flip(1).argmax(1)


def _nearest_of_equals(new, x, y, k, num_classes):
    said = []
    for row in y[_nearest(new, x, k)].tolist():
        votes = [row.count(c) for c in row]
        said.append(row[votes.index(max(votes))])
    return torch.tensor(said)


def _weighted(new, x, y, k, num_classes, weight=lambda s: s):
    s, i = (F.normalize(new) @ F.normalize(x).T).topk(k, dim=1)
    return (F.one_hot(y[i], num_classes) * weight(s)[..., None]).sum(1).argmax(1)


def _class_means(new, x, y, k, num_classes):
    means = torch.stack(
        [F.normalize(x)[y == c].mean(0) if (y == c).any() else x[0] * 0 - 9 for c in range(num_classes)]
    )
    return (F.normalize(new) @ F.normalize(means).T).argmax(1)


def _shares(predicted, y, classes):
    return [(predicted[y == k] == k).double().mean().item() for k in classes]


def _balanced_matrix(predicted, y):
    n = int(max(predicted.max(), y.max())) + 1
    table = torch.zeros(n, n)
    for p, t in zip(predicted, y, strict=False):
        table[t, p] += 1
    there = table.sum(1) > 0
    return (table.diagonal()[there] / table.sum(1)[there]).mean()


def _f1(predicted, y):
    found = []
    for k in y.unique():
        both = ((predicted == k) & (y == k)).sum()
        found.append(2 * both / ((predicted == k).sum() + (y == k).sum()))
    return sum(found) / len(found)


def _crossing(labels, scores, target, *, share=lambda low, high, t: (t - low) / (high - low), at=lambda a, b, s:
              a * (b / a) ** s, never=np.inf, start=lambda labels: labels[0], reached=lambda s, t: s >= t):  # fmt: skip
    if reached(scores[0], target):
        return start(labels)
    for i in range(1, len(labels)):
        if reached(scores[i], target):
            return at(labels[i - 1], labels[i], share(scores[i - 1], scores[i], target))
    return never


def _slip(**slip):
    return lambda labels, scores, target: _crossing(labels, scores, target, **slip)


def _last_crossing(labels, scores, target):
    found = np.inf if scores[0] < target else labels[0]
    for i in range(1, len(labels)):
        if scores[i - 1] < target <= scores[i]:
            found = labels[i - 1] * (labels[i] / labels[i - 1]) ** (
                (target - scores[i - 1]) / (scores[i] - scores[i - 1])
            )
    return found


def _crossing_needed(labels, scores, target):
    """Looks for a rise even where the curve starts above"""
    for i in range(1, len(labels)):
        if scores[i - 1] < target <= scores[i]:
            return labels[i - 1] * (labels[i] / labels[i - 1]) ** (
                (target - scores[i - 1]) / (scores[i] - scores[i - 1])
            )
    return labels[0] if min(scores) >= target else np.inf


def _any_crossing(labels, scores, target):
    """Takes a fall through the target for a rise"""
    if scores[0] == target:
        return labels[0]
    for i in range(1, len(labels)):
        if (scores[i - 1] - target) * (scores[i] - target) <= 0:
            return labels[i - 1] * (labels[i] / labels[i - 1]) ** (
                (target - scores[i - 1]) / (scores[i] - scores[i - 1])
            )
    return labels[0] if scores[0] >= target else np.inf


def _numpy_crossing(labels, scores, target):
    labels, scores = np.asarray(labels, dtype=float), np.asarray(scores, dtype=float)
    above = np.flatnonzero(scores >= target)
    if len(above) == 0:
        return float("inf")
    i = above[0]
    if i == 0:
        return float(labels[0])
    a, b = np.log10(labels[i - 1]), np.log10(labels[i])
    return 10 ** (a + (target - scores[i - 1]) / (scores[i] - scores[i - 1]) * (b - a))


def _interp_on_a_piece(labels, scores, target):
    for i, score in enumerate(scores):
        if score >= target:
            low = max(i - 1, 0)
            piece = [scores[low], score] if i else [score, score]
            return float(np.exp(np.interp(target, piece, np.log([labels[low], labels[i]])))) if i else labels[0]
    return math.inf


def _running_best(labels, scores, target):
    return _crossing(labels, np.maximum.accumulate(np.asarray(scores)), target)


def _sorted(labels, scores, target):
    return _crossing(labels, np.sort(np.asarray(scores)), target)


def _interp(labels, scores, target):
    if max(scores) < target:
        return np.inf
    return float(np.exp(np.interp(target, scores, np.log(labels))))


RIGHT = {
    "01.neighbours": [
        _with(), _distances, _loops, _with(unit=_same),
        lambda new, x, y, k, num_classes: y[
            F.cosine_similarity(new[:, None], x[None], dim=2).argsort(dim=1, descending=True)[:, :k]
        ].mode(dim=1).values,
        lambda new, x, y, k, num_classes: np.array(_loops(new, x, y, k, num_classes)),
    ],
    "01.balanced": [
        lambda predicted, y: float(np.mean(_shares(predicted, y, y.unique()))),
        _balanced_matrix,
        lambda predicted, y: np.mean([(predicted.numpy()[y.numpy() == k] == k).mean() for k in np.unique(y)]),
        lambda predicted, y: torch.stack([(predicted == y)[y == k].float().mean() for k in set(y.tolist())]).mean(),
        lambda predicted, y: ((predicted == y).double() / (y[:, None] == y).sum(1)).sum() / len(y.unique()),
    ],
    "01.labels_needed": [
        _slip(), _numpy_crossing, _interp_on_a_piece,
        _slip(at=lambda a, b, s: math.exp((1 - s) * math.log(a) + s * math.log(b)), never=math.inf),
        _slip(at=lambda a, b, s: a ** (1 - s) * b**s, start=lambda labels: int(labels[0])),
        _slip(at=lambda a, b, s: torch.tensor(2.0, dtype=torch.float64) ** (np.log2(a) + s * np.log2(b / a))),
    ],
}  # fmt: skip

SLIPS = {
    "01.neighbours": [
        (_with(unit=_same, unit_x=_same), "inner products"),
        (_with(unit_x=_same), "x not of length 1"),
        (_with(unit=lambda a: F.normalize(a, dim=0), unit_x=lambda a: F.normalize(a, dim=0)), "columns of length 1"),
        (_with(unit_x=lambda a: F.normalize(a, p=1)), "lengths by absolute values"),
        (_with(largest=False), "the farthest"),
        (_with(score=torch.abs), "opposite directions near"),
        (_with(score=torch.relu), "negative cosines all equal"),
        (_with(score=lambda s: s**2), "squares"),
        (lambda new, x, y, k, n: _vote(y[torch.cdist(new, x).topk(k, largest=False).indices], n), "distances"),
        (lambda new, x, y, k, n: y[_nearest(new, x, 1)[:, 0]], "the nearest only"),
        (lambda new, x, y, k, n: _vote(y[_nearest(new, x, min(k + 1, len(x)))], n), "one too many"),
        (lambda new, x, y, k, n: _vote(y[_nearest(new, x, max(k - 1, 1))], n), "one too few"),
        (lambda new, x, y, k, n: _vote(y[_nearest(new, x, min(k + 1, len(x)))[:, 1:]], n), "without the nearest"),
        (_highest_of_equals, "highest of equals"),
        (_nearest_of_equals, "nearest of equals"),
        (_weighted, "votes weighted by the cosine"),
        (lambda *a: _weighted(*a, weight=lambda s: (10 * s).exp()), "votes weighted by an exponential"),
        (_class_means, "means of classes"),
        (lambda new, x, y, k, n: _nearest(new, x, 1)[:, 0], "rows instead of labels"),
        (lambda new, x, y, k, n: y[_nearest(new, x, k)].double().mean(1).round().long(), "mean of the labels"),
        (lambda new, x, y, k, n: y[_nearest(new, x, k)].median(1).values, "median of the labels"),
        (lambda new, x, y, k, n: _vote(y[_nearest(new - x.mean(0), x - x.mean(0), k)], n), "centred"),
        (lambda new, x, y, k, n: F.one_hot(y[_nearest(new, x, k)], n).sum(1), "votes, no class"),
        (lambda new, x, y, k, n: _vote(y[_nearest(new, x, 3)], n), "k = 3 always"),
        (lambda new, x, y, k, n: _vote(y[_nearest(new.div_(new.norm(dim=1, keepdim=True)), x, k)], n), "in place"),
    ],
    "01.balanced": [
        (lambda p, y: (p == y).double().mean().item(), "plain accuracy"),
        (lambda p, y: np.nan_to_num(_shares(p, y, range(int(y.max()) + 1))).mean(), "absent classes count 0"),
        (lambda p, y: np.mean(_shares(p, y, range(int(y.max()) + 1))), "nan of absent classes"),
        (lambda p, y: np.nan_to_num(_shares(p, y, torch.cat([p, y]).unique())).mean(), "classes said or true"),
        (lambda p, y: np.nan_to_num(_shares(p, y, p.unique())).mean(), "classes said"),
        (lambda p, y: np.mean(_shares(y, p, p.unique())), "precision"),
        (_f1, "F1"),
        (lambda p, y: sum(_shares(p, y, y.unique())), "sum"),
        (lambda p, y: 1 - np.mean(_shares(p, y, y.unique())), "errors"),
        (lambda p, y: np.min(_shares(p, y, y.unique())), "worst class"),
        (lambda p, y: np.median(_shares(p, y, y.unique())), "median class"),
        (lambda p, y: np.mean(_shares(p, y, (0, 1))) if len(y) > 1 else 1.0, "two classes"),
        (lambda p, y: np.mean([s for s in _shares(p, y, y.unique()) if s > 0] or [0.0]), "classes found only"),
        (lambda p, y: np.mean(_shares(p, y, y.unique()[1:])) if len(y.unique()) > 1 else 1.0, "without class 0"),
        (lambda p, y: math.prod(_shares(p, y, y.unique())) ** (1 / len(y.unique())), "geometric mean"),
        (lambda p, y: 100 * np.mean(_shares(p, y, y.unique())), "percent"),
        (lambda p, y: max(_shares(p, y, y.unique())), "best class"),
        (lambda p, y: sum(_shares(p, y, y.unique())) / (len(y.unique()) + 1), "one class too many"),
    ],
    "01.labels_needed": [
        (_slip(at=lambda a, b, s: a + s * (b - a)), "linear axis"),
        (_slip(share=lambda low, high, t: math.log(t / low) / math.log(high / low)), "logarithm of the scores too"),
        (_slip(at=lambda a, b, s: b), "the next measured point"),
        (_slip(at=lambda a, b, s: a), "the point before"),
        (_slip(at=lambda a, b, s: math.sqrt(a * b)), "half way"),
        (_slip(share=lambda low, high, t: (high - t) / (high - low)), "share from above"),
        (_slip(never=np.nan), "nan for never"),
        (lambda labels, scores, target: _crossing(labels, scores, target, never=labels[-1]), "the last for never"),
        (_slip(never=-1), "-1 for never"),
        (_slip(reached=lambda s, t: s > t), "strictly above"),
        (_slip(start=lambda labels: 0.0), "0 at the start"),
        (_slip(start=lambda labels: 1.0), "1 at the start"),
        (_last_crossing, "the last crossing"),
        (_crossing_needed, "a rise where it starts above"),
        (_any_crossing, "a fall taken for a rise"),
        (_running_best, "running best"),
        (lambda n, s, t: np.inf if max(s) <= t else _crossing(n, s, t), "never where only the best point meets it"),
        (lambda n, s, t: np.inf if s[-1] < t else _crossing(n, s, t), "never where the end lies below"),
        (_sorted, "sorted scores"),
        (_interp, "np.interp"),
        (_slip(at=lambda a, b, s: math.exp(math.log10(a) + s * math.log10(b / a))), "two kinds of logarithm"),
        (_slip(at=lambda a, b, s: math.ceil(a * (b / a) ** s)), "rounded up"),
        (_slip(at=lambda a, b, s: round(a * (b / a) ** s)), "rounded"),
        (lambda labels, scores, target: _crossing(labels, scores, target) - 1, "one less"),
        (lambda labels, scores, target: float(labels[int(np.argmax(np.asarray(scores) >= target))]), "argmax"),
    ],
}  # fmt: skip
