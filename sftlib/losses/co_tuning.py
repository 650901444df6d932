"""Co-Tuning: the source head stays and is trained along, on what the source classes say of each target class.

    L = CE(g(f(x)), y) + lambda CE(h(f(x)), p(y_s | y))        h the source head, lambda 2.3 in the paper

You et al. 2020, Co-Tuning for transfer learning (NeurIPS), eqs. (1) to (4). p(y_s | y_t) is `category_relationship`,
the mean of the source head's probabilities over each target class.

In `fit`, Co-Tuning is a feature loss. Cut the network where its own head reads it; for SqueezeNet that is a map:

    h, reads = load_source_head(name)                          # "stage4" for squeezenet1_1, "pool" for Lite
    n = f.stages.index(reads) + 1
    model = Model(nn.Sequential(*f.children())[:n], nn.Sequential(*[*f.children()][n:], LinearHead(f.feature_dim, K)))
    loss = CoTuning(h, relationship)
    optimizer = SGD(param_groups(f=(model.backbone, lr), g=(model.head, lr), h=(loss, lr)))
    fit(model, train, optimizer, feature_loss=loss, feature_weight=2.3, …)
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sftlib.inputs import ROUNDING, tensor, whole
from sftlib.losses._common import any_on_cpu, at_least_float32, check_batch, class_sums


def co_tuning(source_logits: Tensor, y: Tensor, relationship: Tensor) -> Tensor:
    """source_logits (N, S), y (N,), relationship (K, S) -> scalar: mean_i -sum_s p(s | y_i) log softmax_s, in nats"""
    source_logits, y = check_batch(source_logits, y)
    relationship = tensor(relationship, "a relationship")
    if relationship.ndim != 2 or relationship.shape[1] != source_logits.shape[1]:
        raise ValueError(
            f"got a relationship {tuple(relationship.shape)} for source logits {tuple(source_logits.shape)}, expected "
            f"(K, {source_logits.shape[1]}): a row a target class, a column a source class"
        )
    if any_on_cpu((y < 0) | (y >= len(relationship))):
        raise ValueError(
            f"got labels from {int(y.min())} to {int(y.max())}, expected 0 … {len(relationship) - 1}, one for each "
            "row of the relationship: compute it with num_classes"
        )
    _check_rows(relationship, "a relationship")
    logits, relationship = at_least_float32(source_logits, relationship)
    return F.cross_entropy(logits, relationship[y])


class CoTuning(nn.Module):
    """z (N, …) as the source head reads it, y (N,) -> scalar. The head's parameters belong into the optimizer."""

    def __init__(self, source_head: nn.Module, relationship: Tensor):
        super().__init__()
        relationship = tensor(relationship, "a relationship")
        _check_rows(relationship, "a relationship")
        self.source_head = source_head
        self.register_buffer("relationship", relationship.detach().clone())

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (N, …), y (N,) -> scalar"""
        return co_tuning(self.source_head(z), y, self.relationship)


def category_relationship(source_probabilities: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """source_probabilities (N, S), labels (N,) -> p(y_s | y_t) (K, S): the mean over the pictures of each class

    Take the probabilities from the network as published, in eval mode and without augmentation:
    `backbone.source_logits(x).softmax(1)` on the training split.
    """
    p, labels = _checked(source_probabilities, labels, num_classes)
    sums, counts = class_sums(p, labels, num_classes)
    return (sums / counts).to(tensor(source_probabilities).dtype)


def _checked(p: Tensor, y: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """-> probabilities as float64 and labels, with every class 0 … K - 1 present"""
    p, y = check_batch(p, y)
    K = whole("num_classes", K, most=2**31)
    if int(y.min()) < 0 or int(y.max()) >= K or len(y.unique()) != K:
        raise ValueError(
            f"got labels {y.unique().tolist()[:9]} for num_classes={K}, expected all of 0 … {K - 1}: every target "
            "class needs at least one picture"
        )
    _check_rows(p, "source probabilities")
    return p.detach().cpu().double(), y.detach().cpu()


def _check_rows(p: Tensor, what: str) -> None:
    total = p.sum(-1)
    if p.ndim != 2 or any_on_cpu(p < 0) or any_on_cpu(~((total - 1).abs() <= ROUNDING)):
        raise ValueError(
            f"got {what} {tuple(p.shape)} with rows that sum to {total.min():.3g} … {total.max():.3g}, expected rows "
            "of probabilities: backbone.source_logits(x).softmax(1)"
        )
