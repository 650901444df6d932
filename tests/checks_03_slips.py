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
        (lambda z, y, p: _her(z.detach() - z.detach().mean(0), y, p) + losses.prototype_repulsion(p),
         "features, centred, learn nothing"),
        (lambda z, y, p: losses.prototype_repulsion(p) + (z - z.mean(0)).square().mean(), "features shrink"),
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
}  # fmt: skip
