"""More answers to the exercises of notebook 03, written from their texts alone. SLIPS: (answer, the slip in words)."""

import cmath
import math

import numpy as np
import torch
from torch.nn import functional as F

from sftlib import losses


def _cosine_gradient(*, unit=lambda z: z / z.norm(), cos=lambda u, mu: u @ mu, sign=-1, power=1,
                     part=lambda mu, c, u: mu - c * u):  # fmt: skip
    def cosine_gradient(z, mu):
        u = unit(z)
        return sign * part(mu, cos(u, mu), u) / z.norm() ** power

    return cosine_gradient


def _autograd(z, mu, loss=lambda z, mu: 1 - F.cosine_similarity(z, mu, dim=0)):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(z, mu), z)[0]


def _numpy_gradient(z, mu):
    z, mu = z.numpy(), mu.numpy()
    n = np.linalg.norm(z)
    return (z @ mu) * z / n**3 - mu / n


def _by_autograd(loss):
    return lambda z, mu: _autograd(z, mu, loss)


def _differences(z, mu, eps=1e-6):
    z, mu = z.double(), mu.double()
    steps = eps * torch.eye(len(z), dtype=torch.float64)
    return torch.stack([(F.cosine_similarity(z - e, mu, dim=0) - F.cosine_similarity(z + e, mu, dim=0)) / 2 / eps
                        for e in steps])  # fmt: skip


def _her(z, y, p):
    return (1 - F.cosine_similarity(z, p[y], dim=1)).mean()


def _cosines(z, p):
    return F.normalize(z, dim=1) @ F.normalize(p, dim=1).T


def _between(p):
    """cosines of the prototypes with one another (K, K), 0 with themselves"""
    return _cosines(p, p) - torch.eye(len(p))


def _others(z, y, p):
    """cosines (N, K - 1) with the prototypes of other classes"""
    cos = _cosines(z, p)
    return cos[F.one_hot(y, len(p)) == 0].view(len(z), -1)


def _cosface(z, y, p):
    return F.cross_entropy(10 * (_cosines(z, p) - 0.2 * F.one_hot(y, len(p))), y)


def _gram(K):
    """Rows whose inner products are those asked for, from the Gram matrix"""
    g = torch.full((K, K), -1 / (K - 1), dtype=torch.float64).fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(g)
    return vectors * values.clamp(min=0).sqrt()


def _one_by_one(K):
    """Row k has k + 1 entries: the last makes its length 1"""
    rows = np.zeros((K, K - 1))
    for i in range(K):
        for j in range(min(i, K - 1)):
            rows[i, j] = (-1 / (K - 1) - rows[i, :j] @ rows[j, :j]) / rows[j, j]
        if i < K - 1:
            rows[i, i] = math.sqrt(1 - rows[i, :i] @ rows[i, :i])
    return rows


def _turned(K):
    rows = F.normalize(torch.eye(K) - 1 / K, dim=1)
    return rows @ torch.linalg.qr(torch.randn(K, K + 2).T).Q.T


def _polygon(K):
    corners = [cmath.exp(2j * math.pi * k / K) for k in range(K)]
    return torch.tensor([[c.real, c.imag] for c in corners])


def _crossed(K):
    half = torch.eye((K + 1) // 2)
    return torch.cat([half, -half])[:K]


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
    "03.cosine_gradient": [
        _cosine_gradient(), _autograd, _numpy_gradient, _differences,
        lambda z, mu: (torch.outer(z, z) / (z @ z) - torch.eye(len(z), dtype=z.dtype)) @ mu / z.norm(),
        lambda z, mu: _cosine_gradient(unit=lambda z: F.normalize(z, dim=0))(z.double(), mu.double()).tolist(),
    ],
    "03.no_collapse": [
        lambda z, y, p: _her(z, y, p) + losses.prototype_repulsion(p),
        lambda z, y, p: F.cross_entropy(10 * _cosines(z, p), y),
        lambda z, y, p: _her(z, y, p) + _between(p).square().sum() / 2,
        lambda z, y, p: _her(z, y, p) + F.relu(_others(z, y, p) - _cosines(z, p)[torch.arange(len(y)), y][:, None] + 0.5
                                               ).mean(),
        lambda z, y, p: _her(z, y, p) + _others(z, y, p).mean(),
        _cosface,
        lambda z, y, p: _her(z, y, p) + F.relu(_between(p) + 0.3).mean() * 3,
        lambda z, y, p: losses.cosine_prototype(z, y, p) + _between(p).mean(),
        lambda z, y, p: F.cross_entropy(-4 * torch.cdist(F.normalize(z), F.normalize(p)) ** 2, y),
        lambda z, y, p: F.relu(_others(z, y, p).amax(1) - _cosines(z, p)[torch.arange(len(y)), y] + 1).mean(),
        lambda z, y, p: _her(z, y, p.detach()) + losses.prototype_repulsion(p),
        lambda z, y, p: 2 * _her(z, y, p) + torch.pdist(F.normalize(p)).pow(2).mul(-2).exp().mean().log(),
    ],
    "03.simplex": [
        lambda K: F.normalize(torch.eye(K) - 1 / K, dim=1), _gram, _one_by_one, _turned,
        lambda K: (torch.eye(K) - torch.ones(K, K) / K) * (K / (K - 1)) ** 0.5,
        lambda K: np.sqrt(K / (K - 1)) * (np.eye(K) - np.full((K, K), 1 / K)),
        lambda K: torch.cat([F.normalize(1 / K - torch.eye(K), dim=1), torch.zeros(K, 3)], dim=1).tolist(),
    ],
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
    "03.cosine_gradient": [
        (_cosine_gradient(sign=1), "downhill"),
        (_cosine_gradient(power=0), "not divided by the length"),
        (_cosine_gradient(power=2), "divided twice"),
        (_cosine_gradient(part=lambda mu, c, u: mu - u), "the cosine left out"),
        (_cosine_gradient(part=lambda mu, c, u: mu), "the part along z kept"),
        (_cosine_gradient(part=lambda mu, c, u: c * u), "the part along z only"),
        (_cosine_gradient(part=lambda mu, c, u: u - c * mu), "z and mu exchanged"),
        (_cosine_gradient(unit=lambda z: z), "z not normalised"),
        (_cosine_gradient(cos=lambda u, mu: (u @ mu).abs()), "negative cosines"),
        (_cosine_gradient(cos=lambda u, mu: (u @ mu).clamp(min=0)), "negative cosines as 0"),
        (_cosine_gradient(part=lambda mu, c, u: (mu - c * u) * c), "of the square of the cosine"),
        (_cosine_gradient(part=lambda mu, c, u: F.normalize(mu - c * u, dim=0)), "length 1"),
        (_cosine_gradient(part=lambda mu, c, u: (mu - c * u) / len(mu)), "mean over D"),
        (_cosine_gradient(part=lambda mu, c, u: mu + c * u), "a sign inside"),
        (_by_autograd(lambda z, mu: 1 - z @ mu), "inner product"),
        (_by_autograd(lambda z, mu: F.cosine_similarity(z, mu, dim=0).clamp(-1, 1).acos()), "of the angle"),
        (_by_autograd(lambda z, mu: (F.normalize(z, dim=0) - mu).square().sum()), "twice as long"),
        (lambda z, mu: (1 - F.cosine_similarity(z, mu, dim=0)), "the loss"),
        (lambda z, mu: _cosine_gradient()(z.div_(z.norm()), mu), "z changed"),
    ],
    "03.no_collapse": [
        (_her, "her loss"),
        (lambda z, y, p: _her(z, y, p) + 1, "a constant"),
        (lambda z, y, p: 10 * _her(z, y, p), "ten times her loss"),
        (lambda z, y, p: _her(z.detach(), y, p) + losses.prototype_repulsion(p), "features learn nothing"),
        (lambda z, y, p: F.cross_entropy(10 * _cosines(z.detach(), p), y), "features learn nothing (cross-entropy)"),
        (lambda z, y, p: F.cross_entropy(10 * _cosines(z, p.detach()), y), "prototypes learn nothing"),
        (lambda z, y, p: _her(z, y, p.detach()), "prototypes still"),
        (lambda z, y, p: _her(z, y, p.detach()) + losses.prototype_repulsion(p.detach()), "prototypes still, twice"),
        (lambda z, y, p: _her(z, y, p) + losses.prototype_repulsion(p.detach()), "repulsion moves nothing"),
        (lambda z, y, p: _her(z, y, p) + torch.tensor(losses.prototype_repulsion(p).item()), "repulsion is a number"),
        (lambda z, y, p: _her(z, y, p) - losses.prototype_repulsion(p), "attraction"),
        (lambda z, y, p: losses.prototype_repulsion(p), "repulsion alone"),
        (lambda z, y, p: _her(z, y, p) + 1e-6 * losses.prototype_repulsion(p), "repulsion too weak"),
        (lambda z, y, p: _her(z, y, p) - torch.pdist(p).mean(), "unbounded below: distances"),
        (lambda z, y, p: _her(z, y, p) - torch.pdist(p).square().sum(), "unbounded below: squared distances"),
        (lambda z, y, p: _her(z, y, p) + (p @ p.T - torch.diag((p * p).sum(1))).sum(), "unbounded below: products"),
        (lambda z, y, p: _her(z, y, p) - z.norm(dim=1).mean(), "unbounded below: lengths"),
        (lambda z, y, p: -_her(z, y, p), "away from the own"),
        (lambda z, y, p: F.cross_entropy(-10 * _cosines(z, p), y), "cross-entropy turned round"),
        (lambda z, y, p: F.cross_entropy(10 * _cosines(z, p), (y + 1) % len(p)), "labels shifted"),
        (lambda z, y, p: _her(z, torch.zeros_like(y), p) + losses.prototype_repulsion(p), "all to class 0"),
        (lambda z, y, p: _her(z, y, p) + p.square().mean(), "decay"),
        (lambda z, y, p: _her(z, y, F.normalize(p)) + z.square().mean(), "lengths only"),
        (lambda z, y, p: (z - p[y]).square().sum(1).mean(), "centre loss"),
        (lambda z, y, p: _her(z, y, p) * losses.prototype_repulsion(p).detach(), "a factor"),
        (lambda z, y, p: torch.zeros(()), "nothing"),
        (lambda z, y, p: (1 - F.cosine_similarity(z, p[y])) + losses.prototype_repulsion(p), "one value a row"),
    ],
    "03.simplex": [
        (torch.eye, "right angles"),
        (lambda K: torch.eye(K) - 1 / K, "not of length 1"),
        (lambda K: F.normalize(torch.eye(K) - 1 / (K - 1), dim=1), "1/(K-1) subtracted"),
        (lambda K: F.normalize(torch.eye(K) + 1 / K, dim=1), "mean added"),
        (_polygon, "polygon"),
        (_crossed, "axes both ways"),
        (lambda K: F.normalize(torch.randn(K, K), dim=1), "random"),
        (lambda K: torch.ones(K, 1) * (-1.0) ** torch.arange(K)[:, None], "one dimension"),
        (lambda K: F.normalize(torch.eye(K) - 1 / K, dim=1)[: K - 1], "a row too few"),
        (lambda K: F.normalize(torch.eye(K + 1) - 1 / (K + 1), dim=1)[:K], "K + 1 directions"),
        (lambda K: F.normalize(torch.eye(K + 1) - 1 / (K + 1), dim=1), "a row too many"),
        (lambda K: torch.from_numpy(_one_by_one(K)).T, "columns"),
        (lambda K: (torch.eye(K) - 1 / K) * K / (K - 1), "length by the wrong factor"),
        (lambda K: F.normalize(torch.eye(K) - torch.eye(K).mean(1), dim=1) * (K - 1), "longer"),
        (lambda K: F.normalize(torch.full((K, K), 1.0) - torch.eye(K), dim=1), "the complement"),
        (lambda K: F.normalize(torch.eye(3) - 1 / 3, dim=1), "three always"),
        (lambda K: torch.full((K, K), -1 / (K - 1)).fill_diagonal_(1.0), "their inner products"),
    ],
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
