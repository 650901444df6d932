"""Transferability scores: which pretrained extractor suits this task, guessed without fine-tuning.

All take features z (N, D) or the source head's probabilities (N, S), and labels (N,) of any integer values;
all compute in float64 on the CPU; higher is better. C is the number of classes that occur in the labels.
Judge them by `ranking_table` against the baselines knn_accuracy (sftlib.features), probe_accuracy and ImageNet
top-1 from the model's card: a score that does not beat these is not helping.
"""

from sftlib.selection.ranking import Ranking, probe_accuracy, ranking_table, regret, weighted_tau
from sftlib.selection.scores import gbc, h_score, log_me, parc, regularized_h_score, trans_rate
from sftlib.selection.source import leep, n_leep, nce

__all__ = [
    "Ranking",
    "gbc",
    "h_score",
    "leep",
    "log_me",
    "n_leep",
    "nce",
    "parc",
    "probe_accuracy",
    "ranking_table",
    "regret",
    "regularized_h_score",
    "trans_rate",
    "weighted_tau",
]
