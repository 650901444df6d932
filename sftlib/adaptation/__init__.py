"""What is tuned and what is not: freezing, BatchNorm's modes, rates of groups, LoRA, averages, shared tensors."""

from sftlib.adaptation.averaging import average, interpolate, recompute_batchnorm
from sftlib.adaptation.batchnorm import (
    eval_stats_frozen_affine,
    eval_stats_train_affine,
    following,
    train_stats_frozen_affine,
    train_stats_train_affine,
)
from sftlib.adaptation.freezing import (
    _train_frozen,  # noqa: F401  pickles of frozen models name it here
    freeze,
    in_train_mode,
    is_frozen,
    stays_in_eval,
    train_biases_only,
    train_only,
    trainable,
    unfreeze,
)
from sftlib.adaptation.groups import add_group, blocks, decay_matrices_only, geometric_rates, gradual, param_groups
from sftlib.adaptation.lora import LoRA, merge_lora, unmerge_lora, wrap_lora
from sftlib.adaptation.tying import shared_parameters, untie

__all__ = [
    "LoRA",
    "add_group",
    "average",
    "blocks",
    "decay_matrices_only",
    "eval_stats_frozen_affine",
    "eval_stats_train_affine",
    "following",
    "freeze",
    "geometric_rates",
    "gradual",
    "in_train_mode",
    "interpolate",
    "is_frozen",
    "merge_lora",
    "param_groups",
    "recompute_batchnorm",
    "shared_parameters",
    "stays_in_eval",
    "train_biases_only",
    "train_only",
    "train_stats_frozen_affine",
    "train_stats_train_affine",
    "trainable",
    "unfreeze",
    "unmerge_lora",
    "untie",
    "wrap_lora",
]
