"""Cross-entropy on cosines with a margin: these take the place of L_g, and a cosine head predicts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sftlib.inputs import finite, positive
from sftlib.losses._common import (
    any_on_cpu,
    at_least_float32,
    check_classes,
    no_autocast,
    unit,
)


def cosface(z: Tensor, y: Tensor, weight: Tensor, *, scale: float, margin: float) -> Tensor:
    """z (N, D), y (N,), weight (K, D) -> scalar: cross-entropy, nats per example, of s (cos t_j - m [j = y]).

    t_j is the angle between z and row j of weight; both are normalised here. With margin=0 this is NormFace,
    never below log(1 + (K-1) exp(-s K/(K-1))) when the classes are balanced: scale=1 cannot train.
    Wang et al. 2018, CosFace, arXiv 1801.09414, eq. (4); NormFace: Wang et al. 2017, arXiv 1704.06369.
    """
    margin = finite("margin", margin, least=0)  # subtracted from a cosine, 0.35 is usual
    z, w, y = _directions(z, y, weight, scale)
    with no_autocast(z):
        cosine = z @ w.T  # (N, K)
    is_target = y[:, None] == torch.arange(len(w), device=y.device)  # F.one_hot would wait for the device
    return F.cross_entropy(scale * torch.where(is_target, cosine - margin, cosine), y)


def arcface(z: Tensor, y: Tensor, weight: Tensor, *, scale: float, margin: float) -> Tensor:
    """z (N, D), y (N,), weight (K, D) -> scalar: cross-entropy, nats per example, of s cos(t_j + m [j = y]).

    margin in radians, 0 to pi/2. Past t = pi - m, where cos(t + m) would rise again, the target's logit goes
    on falling as s (cos t - m sin m). The gradient is exact, with its factor sin(t + m)/sin(t) per unit of
    cosine; at t = 0 and t = pi, where the direction of the push is undefined, the margin's part is 0.
    Deng et al. 2019, ArcFace, arXiv 1801.07698, eq. (3).
    """
    remedy = "radians in [0, pi/2]; 28.6 degrees are 0.5 radians"
    margin = finite("margin", margin, least=0, most=math.pi / 2, remedy=remedy)
    z, w, y = _directions(z, y, weight, scale)
    with no_autocast(z):
        cosine = z @ w.T  # (N, K)
    t = _angle(z, w[y])
    moved = torch.where(t <= math.pi - margin, torch.cos(t + margin), torch.cos(t) - margin * math.sin(margin))
    is_target = y[:, None] == torch.arange(len(w), device=y.device)  # F.one_hot would wait for the device
    return F.cross_entropy(scale * torch.where(is_target, moved[:, None], cosine), y)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """unit rows a (N, D), b (N, D) -> angles (N,) in [0, pi].

    acos has an infinite slope at both ends and loses half the digits there; this keeps them (Kahan).
    """
    return 2 * torch.atan2(torch.linalg.vector_norm(a - b, dim=1), torch.linalg.vector_norm(a + b, dim=1))


def _directions(z: Tensor, y: Tensor, weight: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """-> unit z (N, D), unit weight (K, D), y (N,) int64"""
    z, y, weight = check_classes(z, y, weight, "weight")
    positive("scale", scale)
    if any_on_cpu((weight == 0).all(1)):
        raise ValueError("got a row of weight of length zero, expected a direction a class: initialise it")
    z, weight = at_least_float32(z, weight)
    return unit(z), unit(weight), y
