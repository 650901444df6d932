"""Scores from the probabilities of the source head, or of a mixture in its place."""

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from sftlib.features import pca
from sftlib.inputs import whole
from sftlib.selection._common import checked, checked_probabilities


def leep(source_probabilities: Tensor, labels: Tensor) -> float:
    """source_probabilities theta (N, S), labels (N,) -> mean_i log sum_s P(y_i|s) theta_is, in nats, <= 0

    with P(y, s) = 1/N sum_{i: y_i = y} theta_is. Nguyen et al. 2020, LEEP, arXiv 2002.12462.
    """
    theta, y, C = checked_probabilities(source_probabilities, labels)
    joint = torch.nn.functional.one_hot(y, C).double().T @ theta  # (C, S), times N
    conditional = joint / joint.sum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return float((conditional[y] * theta).sum(1).log().mean())


def nce(source_probabilities: Tensor, labels: Tensor) -> float:
    """source_probabilities (N, S), labels (N,) -> -H(Y|Z) in nats, <= 0, with Z the most probable source class

    Tran et al. 2019, Transferability and hardness of supervised classification tasks, arXiv 1908.08142.
    """
    theta, _, _ = checked_probabilities(source_probabilities, labels)
    return leep(torch.nn.functional.one_hot(theta.argmax(1), theta.shape[1]).double(), labels)


def n_leep(features: Tensor, labels: Tensor, *, components: int | None = None, seed: int = 0) -> float:
    """features (N, D), labels (N,) -> leep with a Gaussian mixture's posterior in place of the source head

    On the min(64, N, D) principal directions, 5 C components with diagonal covariance unless told otherwise
    (never more than there are different samples; near N components every score tends to 0).
    Li et al. 2021, Ranking neural checkpoints, arXiv 2011.11200.
    """
    z, y, C = checked(features, labels)
    z = pca(z, min(64, *z.shape)).double().numpy()
    asked = 5 * C if components is None else whole("components", components)
    components, seed = min(asked, len(np.unique(z, axis=0))), whole("seed", seed, least=0)
    mixture = GaussianMixture(components, covariance_type="diag", max_iter=500, random_state=seed).fit(z)
    return leep(torch.from_numpy(mixture.predict_proba(z)), y)
