"""Scores from features and labels alone."""

import math

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from sftlib.features import pca
from sftlib.inputs import positive
from sftlib.selection._common import checked

NOISE_FLOOR = 1e-10  # smallest noise variance of log_me, in units of squared labels (0 or 1)


def h_score(features: Tensor, labels: Tensor) -> float:
    """features (N, D), labels (N,) -> tr(cov(z)^+ cov(E[z|y])) in [0, C - 1]

    Does not change under invertible affine maps of z. With N <= D every label can be explained and the score
    says little: use regularized_h_score. Bao et al. 2019, An information-theoretic approach to transferability.
    """
    z, y, C = checked(features, labels)
    return _shrunk_h_score(z, y, C, shrinkage=0.0)


def regularized_h_score(features: Tensor, labels: Tensor) -> float:
    """features (N, D), labels (N,) -> tr(cov_a(z)^-1 (1 - a) cov(E[z|y])) in [0, C - 1]

    cov_a = (1 - a) cov + a tr(cov)/D I with a by Ledoit and Wolf's rule; all covariances are sums over N.
    Ibrahim et al. 2021, Newer is not always better, arXiv 2110.06893.
    """
    z, y, C = checked(features, labels)
    a = float(ledoit_wolf_shrinkage((z - z.mean(0)).numpy(), assume_centered=True))
    return _shrunk_h_score(z, y, C, shrinkage=a)


def _shrunk_h_score(z: Tensor, y: Tensor, C: int, shrinkage: float) -> float:
    """In the basis of the singular vectors cov is diagonal: no (D, D) matrix is made or inverted."""
    z, U, S = _principal(z)
    variance = (1 - shrinkage) * S.square() / len(z)
    share = variance / (variance + shrinkage * z.square().mean())  # tr(cov)/D is the mean square of an entry
    member = torch.nn.functional.one_hot(y, C).double()
    between = ((member.T @ U).square() / member.sum(0)[:, None]).sum(0)  # of each whitened direction, in [0, 1]
    return float((share * between).sum())


def log_me(features: Tensor, labels: Tensor) -> float:
    """features (N, D), labels (N,) -> mean over classes of max_{a,b} 1/N log N([y = c]; 0, I/b + z z^T/a), in nats

    The evidence of a Bayesian linear regression without intercept on each one-against-rest target: so a shift
    of all features changes it, a rotation or a common scale does not. With r = b/a and the singular values
    s_i of z, the best b for an r is known, and one number is left to search: right for N < D too. Where labels
    are a linear function of z the evidence grows without bound as 1/b -> 0; 1/b >= 1e-10 keeps it finite.
    You et al. 2021, LogME, arXiv 2102.11005; their released code is wrong for N < D (issue 23 there).
    """
    z, y, C = checked(features, labels)
    U, S = _svd(z)
    squares = S.square() / S.square().max() if len(S) else S  # a common scale does not matter
    target = torch.nn.functional.one_hot(y, C).double()  # (N, C)
    inside = (U.T @ target).square()  # (k, C): what each direction explains
    outside = (target.sum(0) - inside.sum(0)).clamp(min=0)  # (C,): what none can explain
    best = [_best_evidence(squares, inside[:, c], float(outside[c]), len(y)) for c in range(C)]
    return sum(best) / C / len(y)


def _best_evidence(squares: Tensor, inside: Tensor, outside: float, N: int) -> float:
    """squares (k,), inside (k,) -> the largest log evidence over r and b, in nats"""

    def evidence(log_r: Tensor) -> Tensor:  # (G,) -> (G,)
        spread = 1 + log_r.exp()[:, None] * squares  # (G, k)
        misfit = (inside / spread).sum(1) + outside
        b = (N / misfit).clamp(max=1 / NOISE_FLOOR)
        return -0.5 * (N * (math.log(2 * math.pi) - b.log()) + spread.log().sum(1) + b * misfit)

    grid = torch.linspace(-35, 70, 211, dtype=torch.float64)  # beyond these every term has reached its limit
    values = evidence(grid)
    i = int(values.argmax())
    bounds = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, len(grid) - 1)])
    found = scipy.optimize.minimize_scalar(
        lambda u: -float(evidence(torch.tensor([u], dtype=torch.float64))[0]),
        bounds=bounds, method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    return max(-float(found.fun), float(values[i]))


def trans_rate(features: Tensor, labels: Tensor, *, eps: float = 1e-4) -> float:
    """features (N, D), labels (N,) -> R(Z) - 1/C sum_c R(Z_c), R(Z) = 1/2 log det(I + Z^T Z/(n eps)), in nats

    Z is centred once, over all samples; every class counts the same. Depends on the scale of z, on D and eps:
    compare only like with like. Huang et al. 2022, Frustratingly easy transferability estimation, arXiv 2106.09362.
    """
    z, y, C = checked(features, labels)
    z, eps = z - z.mean(0), positive("eps", eps)
    return _coding_rate(z, eps) - sum(_coding_rate(z[y == c], eps) for c in range(C)) / C


def _coding_rate(z: Tensor, eps: float) -> float:
    n, d = z.shape
    gram = z.T @ z if d <= n else z @ z.T  # the same determinant
    return 0.5 * float(torch.logdet(torch.eye(len(gram), dtype=z.dtype) + gram / (n * eps)))


def gbc(features: Tensor, labels: Tensor) -> float:
    """features (N, D), labels (N,) -> -sum over ordered pairs of classes of exp(-Bhattacharyya), in [-C(C-1), 0]

    Each class is a Gaussian with diagonal covariance (population variance, at least 1e-4), after a projection
    on the min(64, N, D) principal directions when D > 64. The log term is summed over all dimensions.
    Pandy et al. 2022, Transferability estimation using Bhattacharyya class separability, arXiv 2111.12780.
    """
    z, y, C = checked(features, labels)
    z = pca(z, min(64, *z.shape)).double() if z.shape[1] > 64 else z
    mean = torch.stack([z[y == c].mean(0) for c in range(C)])
    variance = torch.stack([z[y == c].var(0, correction=0) for c in range(C)]).clamp(min=1e-4)
    middle = (variance[:, None] + variance) / 2  # (C, C, D)
    logs = middle.log() - (variance.log()[:, None] + variance.log()) / 2
    distance = ((mean[:, None] - mean).square() / middle / 8 + logs / 2).sum(2)
    return -float((-distance).exp().fill_diagonal_(0).sum())


def parc(features: Tensor, labels: Tensor) -> float:
    """features (N, D), labels (N,) -> Spearman correlation in [-1, 1] over the pairs i < j of samples

    between 1 - corr(z_i, z_j), each feature standardised first, and 1 - corr of the one-hot labels. 0 where it
    is not defined: constant features, or no two samples of one class. N(N-1)/2 pairs: take N up to some 3,000.
    Bolya et al. 2021, Scalable diverse model selection, arXiv 2111.06977 (there times 100).
    """
    z, y, _ = checked(features, labels)
    z, spread = z - z.mean(0), z.std(0, correction=0)
    z = torch.where(spread > 1e-12 * z.abs().amax(0).clamp(min=1e-300), z / spread, 0.0)
    z = z - z.mean(1, keepdim=True)
    z = torch.nn.functional.normalize(z, dim=1)
    i, j = torch.triu_indices(len(z), len(z), offset=1)
    distance = (1 - z @ z.T)[i, j].numpy().round(12)  # equal distances have to tie
    apart = (y[i] != y[j]).numpy()  # corr of one-hot labels takes two values: only the order counts
    if np.ptp(distance) == 0 or apart.all() or not apart.any():
        return 0.0
    return float(scipy.stats.spearmanr(distance, apart).statistic)


def _svd(z: Tensor) -> tuple[Tensor, Tensor]:
    """z (N, D) -> U (N, k), S (k,) of the k directions that are more than rounding"""
    U, S, _ = torch.linalg.svd(z, full_matrices=False)
    kept = S > max(z.shape) * torch.finfo(z.dtype).eps * S.max()
    return U[:, kept], S[kept]


def _principal(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z (N, D) -> centred z, its U and S; what centring leaves of constant features counts as rounding"""
    centred = z - z.mean(0)
    U, S, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = S > max(z.shape) * torch.finfo(z.dtype).eps * torch.linalg.vector_norm(z)
    return centred, U[:, kept], S[kept]
