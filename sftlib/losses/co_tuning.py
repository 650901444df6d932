"""Co-Tuning: the source head stays and is trained along, on what the source classes say of each target class.

    L = CE(g(f(x)), y) + lambda CE(h(f(x)), p(y_s | y))        h the source head, lambda 2.3 in the paper

You et al. 2020, Co-Tuning for transfer learning (NeurIPS), eqs. (1) to (4). Where the relationship comes from:

    p(y_s | y_t)    category_relationship: the mean of the source head's probabilities over each target class
                    bayes_relationship: p(y_t | y_s) is learned and turned round by Bayes' rule, as in the paper

In `fit`, Co-Tuning is a feature loss. Cut the network where its own head reads it; for SqueezeNet that is a map:

    h, reads = load_source_head(name)                          # "stage4" for squeezenet1_1, "pool" for Lite
    n = f.stages.index(reads) + 1
    model = Model(nn.Sequential(*f.children())[:n], nn.Sequential(*[*f.children()][n:], LinearHead(f.feature_dim, K)))
    loss = CoTuning(h, relationship)
    optimizer = SGD(param_groups(f=(model.backbone, lr), g=(model.head, lr), h=(loss, lr)))
    fit(model, train, optimizer, feature_loss=loss, feature_weight=2.3, …)
"""

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from sftlib.inputs import ROUNDING, positive, tensor, whole
from sftlib.losses._common import any_on_cpu, at_least_float32, check_batch, class_sums

STRENGTHS = (1e4, 3e3, 1e3, 3e2, 1e2, 3e1, 1e1, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # the authors'


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


def bayes_relationship(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], *, num_classes: int, strengths=STRENGTHS
) -> Tensor:
    """(source_probabilities (N, S), labels (N,)) of train and val -> p(y_s | y_t) (K, S), proportional to
    p(y_t | y_s) p(y_s)

    p(y_t | y_s) is row s of softmax(t W): W (K, S) a logistic regression without intercept from source probabilities
    to target classes on train, its l2 the one of best accuracy on val (the first of equals), and the scale t that
    which gives val the smallest cross-entropy. p(y_s) is the mean over both. As the authors' code does
    (thuml/CoTuning, module/relationship_learning.py), but for the temperature 0.884 of their own ResNet-50.
    """
    (p, y), (p_val, y_val) = (_checked(*part, num_classes) for part in (train, val))
    strengths = [positive("strengths", C) for C in strengths]
    if not strengths or p.shape[1] != p_val.shape[1]:
        raise ValueError(
            f"got {len(strengths)} strengths, {p.shape[1]} and {p_val.shape[1]} source classes in train and val; "
            "expected one strength at least, and the same source classes"
        )
    fits = [_logistic_regression(p, y, num_classes, C) for C in strengths]
    right = [int(((p_val @ W.T).argmax(1) == y_val).sum()) for W in fits]
    W = fits[right.index(max(right))]
    target_given_source = (W * _best_scale(p_val @ W.T, y_val)).softmax(0)  # (K, S)
    joint = target_given_source * torch.cat([p, p_val]).mean(0)
    return (joint / joint.sum(1, keepdim=True)).to(tensor(train[0]).dtype)


def _logistic_regression(p: Tensor, y: Tensor, K: int, C: float) -> Tensor:
    """p (N, S), y (N,) -> W (K, S), the minimum of sum_i CE(W p_i, y_i) + ||W||^2 / (2 C), as scikit-learn's"""
    target = F.one_hot(y, K).double()

    def objective(theta):  # divided by N: the optimizer's tolerances are meant for numbers near 1
        W = torch.from_numpy(theta).reshape(K, -1)
        log_q = (p @ W.T).log_softmax(1)
        value = -(target * log_q).sum() + W.square().sum() / (2 * C)
        gradient = (log_q.exp() - target).T @ p + W / C
        return float(value) / len(y), (gradient / len(y)).flatten().numpy()

    start = torch.zeros(K * p.shape[1], dtype=torch.float64).numpy()
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return torch.from_numpy(found.x).reshape(K, -1)


def _best_scale(logits: Tensor, y: Tensor) -> float:
    """logits (N, K), y (N,) -> t in [0.001, 1000] with the smallest CE(t · logits, y), which is convex in t"""

    def objective(t):
        q = (t[0] * logits).softmax(1)
        slope = (q * logits).sum(1) - logits[torch.arange(len(y)), y]
        return float(F.cross_entropy(t[0] * logits, y)), [float(slope.mean())]

    return float(minimize(objective, [1.0], jac=True, method="L-BFGS-B", bounds=[(1e-3, 1e3)]).x[0])


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
