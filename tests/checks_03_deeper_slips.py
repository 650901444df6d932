"""More answers to the exercises of 03, going deeper, from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from sftlib import losses


def _bound(power=lambda K, s: -s * K / (K - 1), others=lambda K: K - 1, then=lambda v: math.log(1 + v)):
    return lambda K, s: then(others(K) * math.exp(power(K, s)))


def _real_scores(K, s):
    rows = F.normalize(torch.eye(K, dtype=torch.float64) - 1 / K, dim=1)
    return F.cross_entropy(s * rows @ rows.T, torch.arange(K)).item()


def _contrastive(z, y, temperature, *, unit=F.normalize, below=lambda others, negatives: others, own=False,
                 mean=lambda logs: sum(logs) / len(logs), all_anchors=False, sign=-1, pairs=False,
                 scale=lambda s, t: s / t):  # fmt: skip
    s = scale(unit(z.double()) @ unit(z.double()).T, temperature)
    terms, count = [], 0
    for i in range(len(y)):
        others = [a for a in range(len(y)) if a != i]
        positives = [p for p in range(len(y)) if y[p] == y[i] and (own or p != i)]
        negatives = [a for a in others if y[a] != y[i]]
        if not positives:
            continue
        rest = below(others, negatives)
        logs = [s[i, p] - torch.logsumexp(s[i, rest], 0) for p in positives]
        terms.append(sign * mean(logs) * (len(positives) if pairs else 1))
        count += len(positives) if pairs else 1
    return sum(terms) / (len(y) if all_anchors else count)


def _con(**slip):
    return lambda z, y, temperature: _contrastive(z, y, temperature, **slip)


def _matrix(z, y, temperature):
    s = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / temperature
    s = s.masked_fill(torch.eye(len(y), dtype=torch.bool), -torch.inf)
    same = (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)
    logs = s.log_softmax(1).masked_fill(~same, 0).sum(1)
    there = same.any(1)
    return -(logs[there] / same.sum(1)[there]).mean()


def _naive(z, y, temperature):
    total, anchors = 0.0, 0
    for i, j in enumerate(y.tolist()):
        e = {a: math.exp(float(F.cosine_similarity(z[i], z[a], dim=0)) / temperature) for a in range(len(y)) if a != i}
        mine = [a for a in e if y[a] == j]
        if mine:
            total -= sum(math.log(e[p] / sum(e.values())) for p in mine) / len(mine)
            anchors += 1
    return total / anchors


def _classwise(z, y, temperature):
    """Mean over classes of the mean over their anchors"""
    values = []
    for k in y.unique():
        if (y == k).sum() > 1:
            s = _matrix_rows(z, y, temperature)
            values.append(s[y == k].mean())
    return sum(values) / len(values)


def _matrix_rows(z, y, temperature):
    s = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / temperature
    eye = torch.eye(len(y), dtype=torch.bool)
    same = (y[:, None] == y) & ~eye
    logs = s.masked_fill(eye, -torch.inf).log_softmax(1).masked_fill(~same, 0).sum(1)
    return -logs / same.sum(1)


def _log_of_mean(z, y, temperature):
    s = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / temperature
    eye = torch.eye(len(y), dtype=torch.bool)
    same = (y[:, None] == y) & ~eye
    p = s.masked_fill(eye, -torch.inf).softmax(1)
    there = same.any(1)
    return -((p * same).sum(1)[there] / same.sum(1)[there]).log().mean()


def _first_positive(z, y, temperature):
    return _con(mean=lambda logs: logs[0])(z, y, temperature)


def _centres(z, y, temperature):
    p = torch.stack([F.normalize(z)[y == k].mean(0) if (y == k).any() else -z[0] for k in range(int(y.max()) + 1)])
    return F.cross_entropy(F.normalize(z) @ F.normalize(p).T / temperature, y)


RIGHT = {
    "03.normface_bound": [
        _bound(), _real_scores, _bound(then=math.log1p),
        lambda K, s: -math.log(math.exp(s) / (math.exp(s) + (K - 1) * math.exp(-s / (K - 1)))),
        lambda K, s: -s + np.logaddexp.reduce([s] + [-s / (K - 1)] * (K - 1)),
        lambda K, s: torch.nn.functional.softplus(torch.tensor(math.log(K - 1) - s * K / (K - 1))),
        lambda K, s: -torch.tensor([s] + [-s / (K - 1)] * (K - 1)).log_softmax(0)[0],
    ],
    "03.contrastive": [
        _con(), _matrix, _naive,
        lambda z, y, temperature: losses.supervised_contrastive(z, y, temperature=temperature),
        lambda z, y, temperature: float(_matrix(z.double(), y, temperature)),
        lambda z, y, temperature: np.float64(_naive(z, y, temperature)),
    ],
}  # fmt: skip


SLIPS = {
    "03.normface_bound": [
        (_bound(others=lambda K: 1), "one other"),
        (_bound(others=lambda K: K), "K others"),
        (_bound(power=lambda K, s: -s), "others at right angles"),
        (_bound(power=lambda K, s: -2 * s), "others opposite"),
        (_bound(power=lambda K, s: -s / (K - 1)), "without the own score"),
        (_bound(power=lambda K, s: -s * (K - 1) / K), "fraction turned round"),
        (_bound(power=lambda K, s: s * K / (K - 1)), "sign"),
        (_bound(power=lambda K, s: -s * (K - 2) / (K - 1)), "sum of the two scores"),
        (_bound(then=lambda v: math.log2(1 + v)), "bits"),
        (_bound(then=lambda v: math.log10(1 + v)), "log 10"),
        (_bound(then=lambda v: v), "no logarithm"),
        (_bound(then=lambda v: 1 / (1 + v)), "the probability"),
        (_bound(then=lambda v: -math.log(1 + v)), "negative"),
        (_bound(power=lambda K, s: -K / (K - 1)), "without the scale"),
        (_bound(power=lambda K, s: -K / (K - 1) / s), "temperature"),
        (lambda K, s: math.log(K), "log K"),
        (lambda K, s: math.log(math.exp(s) + (K - 1) * math.exp(-s / (K - 1))), "the denominator only"),
        (lambda K, s: 0.0, "0"),
        (_bound(then=lambda v: round(math.log(1 + v), 3)), "rounded"),
    ],
    "03.contrastive": [
        (_con(unit=lambda z: z), "not normalised"),
        (_con(own=True), "the anchor among its positives"),
        (_con(below=lambda others, negatives: negatives or others), "negatives only below"),
        (_con(below=lambda others, negatives: list(range(len(others) + 1))), "the anchor below"),
        (_con(all_anchors=True), "divided by all"),
        (_con(mean=sum), "sum over positives"),
        (_con(pairs=True), "mean over pairs"),
        (_con(sign=1), "sign"),
        (_con(scale=lambda s, t: s), "no temperature"),
        (_con(scale=lambda s, t: s * t), "times the temperature"),
        (_con(scale=lambda s, t: s / t**2), "temperature squared"),
        (_con(scale=lambda s, t: s.abs() / t), "opposite taken for near"),
        (_con(scale=lambda s, t: s.relu() / t), "negative cosines as 0"),
        (_log_of_mean, "log of the mean"),
        (_first_positive, "the first positive only"),
        (_con(mean=max), "the best positive only"),
        (_classwise, "mean over classes"),
        (_centres, "centres"),
        (lambda z, y, t: _matrix_rows(z, y, t).mean(), "nan of lonely anchors"),
        (lambda z, y, t: _matrix_rows(z, y, t).nan_to_num(0).mean(), "lonely anchors as 0"),
        (lambda z, y, t: _con()(z, y, t) * t, "times t"),
        (lambda z, y, t: _con()(z.div_(z.norm(dim=1, keepdim=True)), y, t), "z changed"),
        (lambda z, y, t: _con()(z.detach(), y, t), "moves nothing"),
        (lambda z, y, t: _con(below=lambda others, negatives: others)(z, y, t) * 1.0 + (z - z.detach()).sum(),
         "another gradient"),
    ],
}  # fmt: skip
