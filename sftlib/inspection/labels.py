"""Labels that are likely wrong, by what models say that did not see them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sftlib.inputs import classes, probability_rows, within


@dataclass(frozen=True, eq=False)
class Suspects:
    """M rows whose label is likely wrong, the most suspicious first: the label that fits better, and how much"""

    rows: Tensor  # (M,)
    instead: Tensor  # (M,) the class that fits better
    margin: Tensor  # (M,) probability of that class minus that of the label, > 0 or a little below

    def __len__(self) -> int:
        return len(self.rows)


def likely_label_errors(probabilities: Tensor, y: Tensor) -> Suspects:
    """probabilities (N, K) of models that did not see the row, labels y (N,) -> the rows that are likely wrong

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068, eq. 1 and 2): a row counts for class j where p_j is at
    least t_j, the mean of p_j over the rows labelled j. Among these classes the most probable one is its likely label;
    where that is another than y, the row is a suspect. So a class of which the models are never sure asks for less.
    """
    p = probability_rows(probabilities)
    y = classes(y, len(p))
    within(y, p.shape[1])
    members = torch.zeros(p.shape[1], dtype=p.dtype).index_add_(0, y, torch.ones(len(y), dtype=p.dtype))
    own = p[torch.arange(len(y)), y]
    threshold = torch.zeros_like(members).index_add_(0, y, own) / members  # NaN for a class without a row
    likely = torch.where(p >= threshold, p, -1.0)  # no p is at least NaN
    best, j = likely.max(1)
    rows = ((best >= 0) & (j != y)).nonzero().flatten()
    margin = best[rows] - own[rows]
    order = margin.argsort(descending=True, stable=True)
    return Suspects(rows[order], j[rows][order], margin[order])
