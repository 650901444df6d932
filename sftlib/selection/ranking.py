"""The baseline that every score has to beat, and the judgement of scores against the truth."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats
from torch import Tensor

from sftlib.features import out_of_fold
from sftlib.inputs import tensor
from sftlib.selection._common import checked


def probe_accuracy(features: Tensor, labels: Tensor, *, folds: int = 5, l2: float = 1e-3, seed: int = 0) -> float:
    """features (N, D), labels (N,) -> accuracy in [0, 1] of linear probes, each on the fold that it did not see

    Folds are drawn by class. A class with one member is always guessed wrong, as it should be.
    """
    z, y, C = checked(features, labels)
    p = out_of_fold(z.float(), y, num_classes=C, folds=folds, l2=l2, seed=seed)
    return (p.argmax(1) == y).double().mean().item()


class Ranking(NamedTuple):
    """How well a score ranks models, task by task."""

    tau: np.ndarray  # (tasks,) weighted_tau, in [-1, 1]
    regret: np.ndarray  # (tasks,) accuracy lost, 0 or more


def ranking_table(scores: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, Ranking]:
    """scores name -> (tasks, models), truth (tasks, models) -> name -> Ranking

    truth is the accuracy in [0, 1] after fine-tuning. There is no interval, for a bootstrap over a handful of tasks
    finds little but the smallest and the largest: show the range, and compare rows of tau by `sftlib.metrics.compare`.
    """
    truth, table = _tasks(truth, "truth"), {}
    for name, score in scores.items():
        score = _tasks(score, f"scores {name!r}")
        if score.shape != truth.shape:
            raise ValueError(f"got scores {name!r} {score.shape}, expected the shape of truth, {truth.shape}")
        pairs = list(zip(score, truth, strict=True))
        table[name] = Ranking(*(np.array([measure(s, t) for s, t in pairs]) for measure in (weighted_tau, regret)))
    return table


def weighted_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """scores (M,), truth (M,) of M models -> Kendall's tau in [-1, 1], hyperbolic weights: the best models count most

    A score that is constant, up to rounding, says nothing: 0. Vigna 2015, A weighted correlation index for rankings
    with ties.
    """
    scores, truth = _checked_models(scores, truth)
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(scipy.stats.weightedtau(truth, scores).statistic)


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """scores (M,), truth (M,) -> accuracy lost by taking the model with the highest score; among ties, the mean"""
    scores, truth = _checked_models(scores, truth)
    return float(truth.max() - truth[scores == scores.max()].mean())


def _tasks(values, name: str) -> np.ndarray:
    """values (tasks, models) or (models,) -> float64 (tasks, models)"""
    table = np.atleast_2d(tensor(values, name).detach().cpu().double().numpy())
    if table.ndim != 2 or not len(table):
        raise ValueError(f"got {name} {table.shape}, expected (tasks, models) with one task at least")
    return table


def _checked_models(scores, truth) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = (tensor(v, n).detach().cpu().double().numpy() for v, n in ((scores, "scores"), (truth, "truth")))
    if scores.shape != truth.shape or scores.ndim != 1 or len(truth) < 2 or not np.isfinite([scores, truth]).all():
        raise ValueError(
            f"got scores {scores.tolist()} and truth {truth.tolist()}, expected two finite lists of one number a "
            "model, at least two models: leave out what could not be computed"
        )
    largest = np.abs(scores).max()
    scores = np.round(scores / largest, 9) if largest > 0 else scores  # only the order counts; rounding errors tie
    return scores, truth
