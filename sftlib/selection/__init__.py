"""Transferability scores: which pretrained extractor suits this task, guessed without fine-tuning.

All take features z (N, D) or the source head's probabilities (N, S), and labels (N,) of any integer values;
all compute in float64 on the CPU; higher is better. C is the number of classes that occur in the labels.
`SCORES` has them all under their names, with the baselines knn_accuracy (of sftlib.features) and probe_accuracy.
Judge them by `ranking_table`, against these and ImageNet top-1 from the model's card: a score that does not beat
them is not helping.
"""

from sftlib.selection.every import SCORES
from sftlib.selection.ranking import Ranking, probe_accuracy, ranking_table, regret, weighted_tau
from sftlib.selection.scores import gbc, h_score, log_me, parc, regularized_h_score, trans_rate
from sftlib.selection.source import leep, n_leep, nce

__all__ = [
    "SCORES",
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
