"""All scores that need data, under their names and called in one way."""

from collections.abc import Callable

from torch import Tensor

from sftlib.features import knn_accuracy
from sftlib.selection.ranking import probe_accuracy
from sftlib.selection.scores import gbc, h_score, log_me, parc, regularized_h_score, trans_rate
from sftlib.selection.source import leep, n_leep, nce

# name -> score of features z (N, D), labels y (N,), source head's probabilities theta (N, S); no head: ones (N, 1)
SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "knn": lambda z, y, theta: knn_accuracy(z, y, k=5),
    "probe": lambda z, y, theta: probe_accuracy(z, y),
    "leep": lambda z, y, theta: leep(theta, y),
    "nce": lambda z, y, theta: nce(theta, y),
    "h_score": lambda z, y, theta: h_score(z, y),
    "regularized_h_score": lambda z, y, theta: regularized_h_score(z, y),
    "n_leep": lambda z, y, theta: n_leep(z, y),
    "log_me": lambda z, y, theta: log_me(z, y),
    "trans_rate": lambda z, y, theta: trans_rate(z, y),
    "gbc": lambda z, y, theta: gbc(z, y),
    "parc": lambda z, y, theta: parc(z, y),
}
