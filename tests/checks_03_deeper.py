"""Right and wrong answers to the exercises of 03, going deeper. WRONG: (answer, words that the checker must say)."""

import math

import torch
import torch.nn.functional as F

from sftlib import losses


def _bound(K, s):
    return math.log(1 + (K - 1) * math.exp(-s * K / (K - 1)))


def _bound_by_softmax(K, s):
    logits = torch.full((K,), -s / (K - 1))
    logits[0] = s
    return F.cross_entropy(logits[None], torch.tensor([0]))


def _naive(z, y, temperature):
    z = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(y)):
        others = [a for a in range(len(y)) if a != i]
        below = sum(torch.exp(z[i] @ z[a] / temperature) for a in others)
        positives = [a for a in others if y[a] == y[i]]
        if positives:
            logs = [torch.log(torch.exp(z[i] @ z[p] / temperature) / below) for p in positives]
            terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


def _naive_with_itself(z, y, temperature):
    z = F.normalize(z, dim=1)
    log_p = (z @ z.T / temperature).log_softmax(1)
    positive = (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)
    n = positive.sum(1)
    return (-(log_p * positive).sum(1)[n > 0] / n[n > 0]).mean()


def _rivals(z, y, temperature, own=False):
    z, terms = F.normalize(z, dim=1), []
    e = (z @ z.T / temperature).exp()
    for i in range(len(y)):
        below, positives = e[i][y != y[i]].sum(), [j for j in range(len(y)) if j != i and y[j] == y[i]]
        if positives:
            terms.append(sum(-(e[i, j] / (below + own * e[i, j])).log() for j in positives) / len(positives))
    return sum(terms) / len(terms)


def _naive_all_anchors(z, y, temperature):
    n = (y[:, None] == y).sum(1) - 1
    return _naive(z, y, temperature) * (n > 0).sum() / len(y)


RIGHT = {
    "03.normface_bound": [_bound, _bound_by_softmax],
    "03.contrastive": [
        _naive,
        lambda z, y, temperature: losses.supervised_contrastive(z, y, temperature=temperature),
    ],
}


WRONG = {
    "03.normface_bound": [
        (lambda K, s: math.log(1 + (K - 1) * math.exp(-s)), "cosine is 0"),
        (lambda K, s: math.log(1 + (K - 1) * math.exp(-2 * s)), "cannot all be opposite"),
        (lambda K, s: math.exp(-_bound(K, s)), "largest probability"),
        (lambda K, s: math.log(K), "all scores are equal"),
        (lambda K, s: math.log(1 + math.exp(-s * K / (K - 1))), "not one"),
        (lambda K, s: _bound(K, s) / math.log(2), "bits"),
    ],
    "03.contrastive": [
        (_naive_with_itself, "anchor itself"),
        (_naive_all_anchors, "without a positive"),
        (lambda z, y, temperature: _rivals(z, y, temperature), "positives included"),
        (lambda z, y, temperature: _rivals(z, y, temperature, own=True), "not this one alone"),
        (lambda z, y, temperature: -_naive(z, y, temperature), "sign"),
        (lambda z, y, temperature: _naive(z, y, 1.0), "divided by the temperature"),
        (lambda z, y, temperature: _naive(z, y, 1 / temperature), "multiplies"),
        (lambda z, y, temperature: _naive(z, y, temperature) * temperature, "partner"),
    ],
}  # fmt: skip
