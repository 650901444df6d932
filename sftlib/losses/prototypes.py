"""The cosine loss against a direction for each class, and four ways to choose the directions."""

import math

import torch
from torch import Tensor, nn

from sftlib.inputs import finite, tensor, whole
from sftlib.losses._common import (
    any_on_cpu,
    at_least_float32,
    check_classes,
    class_sums,
    no_autocast,
    unit,
)


def cosine_prototype(z: Tensor, y: Tensor, prototypes: Tensor) -> Tensor:
    """z (N, D), y (N,), prototypes (K, D) -> scalar: mean over the batch of 1 - cos(z_i, mu_{y_i}), in [0, 2].

    The prototypes are normalised here and need not have unit length; one of length zero is an error (on the
    CPU; on an accelerator, where looking would cost a wait, its loss is 1). With t the angle between z and mu,

        dL/dz = -(mu - cos(t) z/||z||) / ||z|| / N,   of length sin(t) / (||z|| N) and orthogonal to z:

    it vanishes at t = 0 and also at t = pi, where everything is wrong. A zero z has no direction: its cosine
    counts as 0, its loss is 1 and its gradient 0. Computed in float32 at least.
    Barz & Denzler 2020, Deep learning on small datasets without pre-training using cosine loss, arXiv 1901.09054.
    """
    z, y, prototypes = check_classes(z, y, prototypes, "prototypes")
    mu = prototypes[y]  # (N, D), a copy: a running prototype may change before backward
    if any_on_cpu((mu == 0).all(1)):
        raise ValueError(
            "got a prototype of length zero for a class in the batch, expected a direction: initialise every "
            "row, for instance with simplex_prototypes(num_classes, feature_dim)"
        )
    return _mean_cosine_loss(z, mu)


def _mean_cosine_loss(z: Tensor, mu: Tensor) -> Tensor:
    """z (N, D), mu (N, D) -> scalar"""
    z, mu = at_least_float32(z, mu)
    return (1 - (unit(z) * unit(mu)).sum(1)).mean()


def simplex_prototypes(num_classes: int, feature_dim: int, *, generator: torch.Generator | None = None) -> Tensor:
    """-> prototypes (K, D): unit rows with inner products -1/(K-1), as far apart as K directions can be.

    Possible when D >= K - 1. The corners of the simplex are laid along the cosine basis of R^D (without its
    constant vector as long as K <= D), so each direction uses all coordinates and no entry of z is left out;
    with a generator, along a random basis instead. Without one the answer is always the same.
    """
    K, D = whole("num_classes", num_classes), whole("feature_dim", feature_dim)
    if K < 2:
        raise ValueError(f"got num_classes={K}, expected at least 2: one class has nothing to be apart from")
    if D < K - 1:
        raise ValueError(
            f"got {K} classes in feature_dim={D}, expected feature_dim >= {K - 1}: a simplex of K corners needs "
            "K - 1 dimensions. Use ProjectedOneHot (a projection of z to K dimensions), RunningPrototypes "
            "(class means) or LearnedPrototypes instead"
        )
    basis = _cosine_basis(D) if generator is None else _random_basis(D, generator)
    return (_helmert(K) @ basis[: K - 1]).float()  # (K, K-1) @ (K-1, D)


def _helmert(K: int) -> Tensor:
    """-> corners (K, K-1) of the regular simplex with unit radius; column k sets class k against those before it."""
    k = torch.arange(1, K, dtype=torch.float64)
    upper = torch.ones(K, K - 1, dtype=torch.float64).triu()  # class i < k: 1
    contrast = upper - torch.diag_embed(k, offset=-1)[:, : K - 1]  # class k: -k
    return contrast / (k * (k + 1)).sqrt() * math.sqrt(K / (K - 1))


def _cosine_basis(D: int) -> Tensor:
    """-> orthonormal rows (D, D) of the discrete cosine transform, the constant one last"""
    position, frequency = torch.arange(D, dtype=torch.float64), torch.arange(1, D + 1).double() % D
    rows = torch.cos(math.pi / D * frequency[:, None] * (position + 0.5)) * math.sqrt(2 / D)
    rows[-1] /= math.sqrt(2)
    return rows


def _random_basis(D: int, generator: torch.Generator) -> Tensor:
    """-> orthonormal rows (D, D), uniform over rotations and reflections"""
    gauss = torch.randn(D, D, generator=generator, dtype=torch.float64, device=generator.device)
    q, r = torch.linalg.qr(gauss)
    return q * r.diagonal().sign()  # makes the factorisation unique, hence the draw uniform


def prototype_repulsion(prototypes: Tensor) -> Tensor:
    """prototypes (K, D) -> scalar: mean over pairs i != j of (cos(mu_i, mu_j) + 1/(K-1))^2.

    Zero exactly for a simplex; (K/(K-1))^2 when all prototypes have fallen onto one another. At exactly that
    point it has no gradient (all are equal, none knows where to go), so start the prototypes apart.
    """
    prototypes = tensor(prototypes, "prototypes")
    if prototypes.ndim != 2 or len(prototypes) < 2 or not prototypes.is_floating_point():
        raise ValueError(
            f"got prototypes {tuple(prototypes.shape)} of {prototypes.dtype}, expected floating (K, D), K >= 2"
        )
    (mu,) = at_least_float32(prototypes)
    K = len(mu)
    with no_autocast(mu):
        cosines = unit(mu) @ unit(mu).T
    apart = (cosines + 1 / (K - 1)).square()
    return (apart.sum() - apart.diagonal().sum()) / (K * (K - 1))


class ProjectedOneHot(nn.Module):
    """z (N, D), y (N,) -> scalar: the cosine loss of P z against one-hot labels, P (K, D) learned, no bias.

    Needs no condition on D; since P z may have any sign, features after a ReLU can reach every direction.
    """

    def __init__(self, num_classes: int, feature_dim: int, *, generator: torch.Generator | None = None):
        super().__init__()
        whole("num_classes", num_classes, least=2)
        self.projection = nn.Linear(whole("feature_dim", feature_dim), num_classes, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(_directions(num_classes, feature_dim, generator))
        self.register_buffer("one_hot", torch.eye(num_classes), persistent=False)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (N, D), y (N,) -> scalar"""
        z, y, _ = check_classes(z, y, self.projection.weight, "projection")
        return cosine_prototype(self.projection(z.to(self.projection.weight.dtype)), y, self.one_hot)


class LearnedPrototypes(nn.Module):
    """z (N, D), y (N,) -> scalar: the cosine loss against prototypes (K, D) that are parameters.

    Put them into the optimizer. With repulsion=0 nothing keeps them apart: features and prototypes can all
    fall onto one direction, where the loss is 0 and nothing is told apart. So: repulsion > 0, or a task loss.
    """

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        repulsion: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.repulsion = finite("repulsion", repulsion, least=0)
        self.prototypes = nn.Parameter(_directions(num_classes, feature_dim, generator))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (N, D), y (N,) -> scalar"""
        loss = cosine_prototype(z, y, self.prototypes)
        return loss + self.repulsion * prototype_repulsion(self.prototypes) if self.repulsion else loss


class RunningPrototypes(nn.Module):
    """z (N, D), y (N,) -> scalar: the cosine loss against a running mean of each class's features.

    In training mode the means of the classes in the batch move first, mu <- momentum mu + (1 - momentum) mean
    (a class seen for the first time takes its mean), without gradient; classes not in the batch stay.
    """

    def __init__(self, num_classes: int, feature_dim: int, *, momentum: float = 0.9):
        super().__init__()
        self.momentum = finite("momentum", momentum, least=0, below=1)  # at 1 nothing would move
        K, D = whole("num_classes", num_classes), whole("feature_dim", feature_dim)
        self.register_buffer("prototypes", torch.zeros(K, D))
        self.register_buffer("seen", torch.zeros(K, 1, dtype=torch.bool))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (N, D), y (N,) -> scalar"""
        z, y, _ = check_classes(z, y, self.prototypes, "prototypes")
        if self.training:
            self.update(z, y)
        if any_on_cpu(~self.seen[y]):
            raise ValueError(
                "got a class that has no running mean yet, expected one seen in training mode: "
                "call update(z, y) on features of every class first"
            )
        return _mean_cosine_loss(z, self.prototypes[y])

    @torch.no_grad()
    def update(self, z: Tensor, y: Tensor) -> None:
        """z (N, D), y (N,): moves the means of the classes in y"""
        z, y, _ = check_classes(z, y, self.prototypes, "prototypes")
        sums, counts = class_sums(z.to(self.prototypes.dtype), y, len(self.prototypes))
        mean = sums / counts.clamp(min=1)
        moved = torch.where(self.seen, self.momentum * self.prototypes + (1 - self.momentum) * mean, mean)
        self.prototypes.copy_(torch.where(counts > 0, moved, self.prototypes))
        self.seen.logical_or_(counts > 0)


def _directions(num_classes: int, feature_dim: int, generator: torch.Generator | None) -> Tensor:
    """-> random unit rows (K, D)"""
    shape = whole("num_classes", num_classes), whole("feature_dim", feature_dim)
    return unit(torch.randn(shape, generator=generator))
