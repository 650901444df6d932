"""Cross-entropy in which rare classes count as much as frequent ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sftlib.inputs import classes, finite, numbers, tensor, whole, within


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """labels (N,) of the training pictures, K -> w (K,) = N / (K n_k): their mean over the N pictures is 1

    ValueError for a class without a picture: no weight makes up for none.
    """
    y = classes(labels, len(tensor(labels, "labels")))
    K = whole("num_classes", num_classes)
    within(y, K)
    counts = y.bincount(minlength=K)
    if not counts.all():
        missing = int((counts == 0).nonzero()[0])
        raise ValueError(f"got no label of class {missing}; expected at least one of each of the {K} classes")
    return (len(y) / (K * counts.double())).float()


def weighted_cross_entropy(weights: Tensor, *, label_smoothing: float = 0.0) -> tuple[Callable, Callable]:
    """w (K,) -> (task_loss, terms) for `fit` and `evaluate`: a mean over Σ w_y, whatever the batches

    ``fit(…, task_loss=loss, terms=terms)``: PyTorch divides a weighted mean by the weights of its batch.
    """
    w = torch.from_numpy(numbers(weights, "weights", least=2)).float()
    smoothing = finite("label_smoothing", label_smoothing, least=0, below=1)
    if (w <= 0).any():
        raise ValueError(f"got weights from {w.min():g}; expected all above 0: leave out a class in the data instead")

    def task_loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, weight=w.to(logits), label_smoothing=smoothing)

    def terms(y: Tensor) -> float:
        return float(w[y.cpu()].sum())

    return task_loss, terms
