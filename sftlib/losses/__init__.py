"""L_f on features z (N, D), terms on parameters, and balancers of two losses. Pure functions of tensors;
a loss with state (centers, learned or running prototypes) is an nn.Module called as loss(z, y).

L_g, the task loss on logits, is PyTorch's: torch.nn.functional.cross_entropy. Margin losses replace it.
"""

from sftlib.losses.balancers import (
    GradNorm,
    RandomWeights,
    UncertaintyWeights,
    fixed_weight,
    gradient_norm_ratio,
    pcgrad,
)
from sftlib.losses.co_tuning import CoTuning, category_relationship, co_tuning
from sftlib.losses.features import CenterLoss, center, supervised_contrastive, update_centers
from sftlib.losses.margins import arcface, cosface
from sftlib.losses.penalties import batch_spectral_shrinkage, l2_sp, snapshot
from sftlib.losses.prototypes import (
    LearnedPrototypes,
    ProjectedOneHot,
    RunningPrototypes,
    cosine_prototype,
    prototype_repulsion,
    simplex_prototypes,
)
from sftlib.losses.sequences import ctc
from sftlib.losses.weighted import class_weights, weighted_cross_entropy

__all__ = [
    "CenterLoss",
    "CoTuning",
    "GradNorm",
    "LearnedPrototypes",
    "ProjectedOneHot",
    "RandomWeights",
    "RunningPrototypes",
    "UncertaintyWeights",
    "arcface",
    "batch_spectral_shrinkage",
    "category_relationship",
    "center",
    "class_weights",
    "co_tuning",
    "cosface",
    "cosine_prototype",
    "ctc",
    "fixed_weight",
    "gradient_norm_ratio",
    "l2_sp",
    "pcgrad",
    "prototype_repulsion",
    "simplex_prototypes",
    "snapshot",
    "supervised_contrastive",
    "update_centers",
    "weighted_cross_entropy",
]
