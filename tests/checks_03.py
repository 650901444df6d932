"""Right and wrong answers to the exercises of notebook 03. WRONG: (answer, words that the checker must say)."""

import torch
import torch.nn.functional as F

from sftlib import losses


def _gradient(z, mu):
    unit = z / z.norm()
    return -(mu - (unit @ mu) * unit) / z.norm()


def _gradient_by_matrix(z, mu):
    length = (z @ z).sqrt()
    return -(torch.eye(len(z), dtype=z.dtype) - torch.outer(z, z) / length**2) @ mu / length


def _gradient_by_autograd(z, mu):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(1 - F.cosine_similarity(z, mu, dim=0), z)[0]


def _gradient_no_length(z, mu):
    unit = z / z.norm()
    return (unit @ mu) * unit - mu


def _gradient_z_for_unit(z, mu):
    return ((z / z.norm() @ mu) * z - mu) / z.norm()


def _repelled(z, y, prototypes):
    return losses.cosine_prototype(z, y, prototypes) + losses.prototype_repulsion(prototypes)


def _repelled_by_hand(z, y, prototypes):
    mu = F.normalize(prototypes, dim=1)
    pull = (1 - (F.normalize(z, dim=1) * mu[y]).sum(1)).mean()
    K = len(mu)
    return pull + ((mu @ mu.T).sum() - K) / (K * (K - 1))


def _softmax_of_cosines(z, y, prototypes):
    return F.cross_entropy(8 * F.normalize(z, dim=1) @ F.normalize(prototypes, dim=1).T, y)


def _pull_only(z, y, prototypes):
    return losses.cosine_prototype(z, y, prototypes)


def _push_only(z, y, prototypes):
    return losses.prototype_repulsion(prototypes) + 0 * z.sum()


def _attracted(z, y, prototypes):
    return losses.cosine_prototype(z, y, prototypes) - losses.prototype_repulsion(prototypes)


def _lengths_held(z, y, prototypes):  # apart after the checker's steps, though nothing pushes
    return losses.cosine_prototype(z, y, prototypes) + (prototypes.norm(dim=1) - 1).pow(2).mean()


def _centred_and_repelled(z, y, prototypes):  # nearest to their own as the loss sees them, around their mean
    return losses.cosine_prototype(z - z.mean(0), y, prototypes) + losses.prototype_repulsion(prototypes)


def _seen_from_their_mean(z, y, prototypes):  # in one place they have no direction, and cosine_prototype refuses them
    return losses.cosine_prototype(z, y, prototypes - prototypes.mean(0))


def _outdone(z, y, prototypes):
    cosines = F.normalize(z, dim=1) @ F.normalize(prototypes, dim=1).T
    lead = cosines.gather(1, y[:, None]) - cosines
    return losses.cosine_prototype(z, y, prototypes) + F.relu(0.5 - lead)[F.one_hot(y, len(prototypes)) == 0].mean()


def _simplex_by_cholesky(K):
    gram = torch.full((K, K), -1 / (K - 1), dtype=torch.float64).fill_diagonal_(1)
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


RIGHT = {
    "03.cosine_gradient": [_gradient, _gradient_by_matrix, _gradient_by_autograd],
    "03.no_collapse": [
        _repelled,
        _repelled_by_hand,
        _softmax_of_cosines,
        _outdone,
        _centred_and_repelled,
        _seen_from_their_mean,
    ],
    "03.simplex": [
        lambda K: F.normalize(torch.eye(K) - 1 / K, dim=1),
        lambda K: losses.simplex_prototypes(K, K + 3),
        _simplex_by_cholesky,
    ],
}


WRONG = {
    "03.cosine_gradient": [
        (lambda z, mu: _gradient(z.requires_grad_(), mu).detach(), "z has requires_grad=True"),
        (lambda z, mu: -_gradient(z, mu), "points uphill"),
        (_gradient_no_length, "division by the length"),
        (lambda z, mu: -mu, "also divides"),
        (lambda z, mu: -mu / z.norm(), "length of z changes too"),
        (_gradient_z_for_unit, "unit vector"),
        (lambda z, mu: _gradient(z, mu) / z.norm(), "twice"),
        (lambda z, mu: _gradient(z, mu)[None], "shape"),
    ],
    "03.no_collapse": [
        (_pull_only, "have collapsed"),
        (_push_only, "do not follow"),
        (lambda z, y, p: _centred_and_repelled(z.detach(), y, p) + 0 * z.sum(), "do not follow"),
        (_lengths_held, "all features and prototypes in one place"),
        (_attracted, "have collapsed"),
        (lambda z, y, prototypes: _repelled(z, y, prototypes).detach(), "no gradient"),
        (lambda z, y, prototypes: _repelled(z, y, prototypes)[None], "one number"),
        (lambda z, y, prototypes: F.cross_entropy(z @ prototypes.T, y * 0), "renamed"),
    ],
    "03.simplex": [
        (lambda K: torch.eye(K), "right angles"),
        (lambda K: torch.eye(K) - 1 / K, "squared lengths"),
        (lambda K: F.normalize(torch.randn(K, K), dim=1), "inner products"),
        (lambda K: (torch.eye(K) - 1 / K)[:-1], "rows"),
        (lambda K: [[1.0]], "expected 3 rows"),
    ],
}  # fmt: skip
