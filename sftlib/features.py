"""Features z = f(x) computed once and kept: what can be learned and measured on them without running f again."""

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from sftlib.batches import as_batch, count, each, explained, joined, to
from sftlib.inputs import classes, positive, tensor, vectors, whole, within
from sftlib.model import LinearHead, Model, eval_mode
from sftlib.runtime import FLOAT32, check_precision, device_of, keep_freed_memory

CONSTANT = 1e-6  # a feature that varies by less than this share of its size is rounding noise
DEAD = 1e-7  # or by less than float32 rounds off what the others do: its weight, in millions, breaks once f moves
MOST_ENTRIES = 2**31  # of the matrix rows × classes: 16 GiB
BIAS_L2 = 1e-6  # keeps the bias of a class without examples finite; too small to be seen in any other


def extract(
    backbone: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    stage: str | None = None,
    precision=None,
) -> tuple[Tensor, Tensor]:
    """batches of (x, y) of N examples -> (features, labels), for pictures (N, D) and (N,), on the CPU, z in float32

    Rows come in the order of the loader's epoch: a shuffling one gives them in another order than `split.names`. From
    one that augments or draws with repetition they are features of what it drew, with a warning.

    stage: features are the maps that leave this stage of a `Backbone` ((N, C, H, W), large) instead of z.
    precision: a `sftlib.runtime.Precision`; None is float32. f runs in eval mode, and each of its modules
    returns to the mode it was in.
    """
    keep_freed_memory()
    if isinstance(backbone, Model):
        raise ValueError("got a Model, whose outputs are no features; expected its feature extractor, model.backbone")
    if getattr(loader, "redraws", False):
        warnings.warn(
            "extract: the loader gives augmented pictures, or some of them repeatedly, so the rows are no features of "
            "its split's pictures, one each: take a loader without augment and weights for those",
            stacklevel=2,
        )
    f = backbone if stage is None else partial(backbone.lower, stage=stage)
    device = device_of(backbone)
    if precision is not None:
        check_precision(precision)
    with eval_mode(backbone), torch.no_grad():
        given = (as_batch(batch, backbone) for batch in loader)
        batches = [(_features(f, to(x, device), device, precision), to(y, "cpu")) for x, y in given]
    if not batches:
        raise ValueError("got a loader without a single batch; expected (x, y) pairs: is the split empty?")
    _require_one_length([y for _, y in batches])
    features, labels = (joined(parts) for parts in zip(*batches, strict=True))
    if count(features) != count(labels):
        raise ValueError(f"got {count(features)} features for {count(labels)} labels; expected one an example from f")
    return features, labels


def _require_one_length(labels: list) -> None:
    """Targets of one width in all batches: what would be padded in are zeros, and 0 is a token, or a class"""
    widths = {tuple(y.shape[1:]) for y in labels if isinstance(y, Tensor)}
    if len(widths) > 1:
        raise ValueError(
            f"got targets of different shapes, {sorted(widths)[:3]} behind the first axis; expected one: make x and y "
            "of all examples at once (for conversations chat.collate) and take batches of that, NestSplit(x, y)"
        )


@dataclass(eq=False, kw_only=True)
class Cached:
    """Batches (h (n, …), y (n,)) of cached features, in the order in which `loader` gives the pictures"""

    features: Tensor
    labels: Tensor
    batch_size: int = 32
    shuffle: bool = False
    generator: torch.Generator | None = None  # None: torch's global one

    def __post_init__(self) -> None:
        self.features, self.labels = tensor(self.features, "features"), tensor(self.labels, "labels")
        self.batch_size = whole("batch_size", self.batch_size)
        if len(self.features) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"got {len(self.features)} features, {len(self.labels)} labels; expected as many of one as of the "
                "other, and at least 1"
            )

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for rows in order.split(self.batch_size):
            yield self.features[rows], self.labels[rows]


def upper_part(model: Model, stage: str) -> Model:
    """g ∘ f -> g ∘ f_upper, f_upper the stages of the backbone above `stage`: h -> logits (N, K)

    Its modules are those of `model`: what `fit` trains in the one, it trains in the other. On the maps h that
    `extract(backbone, loader, stage=stage)` gives, it learns as `model` does on pictures while the stages up to
    `stage` are frozen, and pays only for itself. The price: no fresh augmentation.
    """
    f = model.backbone
    if stage not in f.stages:
        raise ValueError(f"got stage {stage!r}; expected one of {', '.join(f.stages)}")
    above = f.stages[f.stages.index(stage) + 1 :]
    return Model(nn.Sequential(OrderedDict((name, getattr(f, name)) for name in above)), model.head)


def linear_probe(features: Tensor, labels: Tensor, *, num_classes: int | None = None, l2: float = 1e-3) -> LinearHead:
    """features (N, D), labels (N,) -> head with weight (K, D), bias (K,): multinomial logistic regression

    The only minimum of  mean_i [ −log softmax(W x_i + b)_{y_i} ] + l2/2 · ||W||² + 1e-6/2 · ||b||²  where
    x = (z − mean) / deviation are the features standardised over the N rows, by L-BFGS in float64.
    The standardisation is folded into the head that is returned, which takes raw features z. Up to the last term this
    is scikit-learn's LogisticRegression(C=1 / (l2 · N)) for K > 2 (two classes share one vector there: C doubled).
    """
    z, y, K = _checked(features, labels, num_classes)
    l2 = positive("l2", l2)  # without it separable classes have no minimum
    mean, scale = _standardisation(z)
    W, b = _logistic_regression(((z - mean) / scale).numpy(), y.numpy(), K, l2)
    return _folded(torch.from_numpy(W), torch.from_numpy(b), mean, scale)


def out_of_fold(
    features: Tensor, labels: Tensor, *, num_classes: int | None = None, folds: int = 5, l2: float = 1e-3, seed: int = 0
) -> Tensor:
    """features (N, D), labels (N,) -> probabilities (N, K) of linear probes, each on the fold that it did not see

    Folds are drawn by class. Where the other folds hold one class only, that class is certain.
    """
    z, y, K = _checked(features, labels, num_classes)
    folds, seed = whole("folds", folds, least=2, most=len(y)), whole("seed", seed, least=0)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    fold = torch.empty_like(y)
    fold[order[y[order].argsort(stable=True)]] = torch.arange(len(y)) % folds  # dealt out class by class
    p = torch.zeros(len(y), K, dtype=torch.float64)
    for k in range(folds):
        seen, held = fold != k, fold == k
        if len(y[seen].unique()) == 1:
            p[held, y[seen][0]] = 1.0
            continue
        head = linear_probe(z[seen], y[seen], num_classes=K, l2=l2)
        p[held] = head(z[held].float()).detach().double().softmax(1)
    return p


def sgd_probe(
    features: Tensor, labels: Tensor, *, num_classes: int | None = None, l2: float = 1e-3, lr: float = 0.1,
    epochs: int = 100, batch_size: int = 32, generator: torch.Generator | None = None,
) -> LinearHead:  # fmt: skip
    """features (N, D), labels (N,) -> head: `linear_probe`'s minimum, approached by stochastic gradient descent

    The same objective on the same standardised features, momentum 0.9, and a rate that falls from lr to 0 along
    half a cosine. How near it comes depends on epochs: directions of small variance are slow. FloatingPointError where
    it ends above the loss of the start, log K: the rate is too large.
    """
    z, y, K = _checked(features, labels, num_classes)
    l2, lr, epochs = positive("l2", l2), positive("lr", lr), whole("epochs", epochs)
    mean, scale = _standardisation(z)
    head = LinearHead(z.shape[1], K).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    batches = Cached(features=(z - mean) / scale, labels=y, batch_size=batch_size, shuffle=True, generator=generator)
    groups = [{"params": [head.weight], "weight_decay": l2}, {"params": [head.bias], "weight_decay": BIAS_L2}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for _ in range(epochs):
        for x, target in batches:
            optimizer.zero_grad()
            F.cross_entropy(head(x), target).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        loss = F.cross_entropy(head(batches.features), y) + l2 / 2 * head.weight.square().sum()
    if not loss <= math.log(K):
        raise FloatingPointError(f"the probe ended at a loss of {loss:.3g}, above log {K} of the start, at lr={lr:g}: "
                                 "lower the rate, or take linear_probe")  # fmt: skip
    return _folded(head.weight.detach(), head.bias.detach(), mean, scale)


def knn_accuracy(features: Tensor, labels: Tensor, *, k: int) -> float:
    """features (N, D), labels (N,) -> accuracy in [0, 1] of the k nearest others by cosine similarity

    Leave-one-out: no row votes for itself. A tied vote goes to the class of the nearest neighbour if it is among the
    tied, else to the lowest class.
    """
    z = vectors(features)
    y = classes(labels, len(z)).unique(return_inverse=True)[1]
    k, K = whole("k", k, most=len(z) - 1), int(y.max()) + 1
    z = F.normalize(z, dim=1)
    if (z == z[0]).all():
        raise ValueError(f"all {len(z)} features point one way, or are 0; expected rows that differ: look at f")
    correct = 0
    for rows in torch.arange(len(y)).split(1024):  # a block of similarities at a time
        similarity = z[rows] @ z.T  # (n, N)
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        votes = F.one_hot(y[similarity.topk(k, dim=1).indices], K).double()  # (n, k, K), nearest first
        winner = (votes.sum(1) + 0.5 * votes[:, 0]).argmax(1)
        correct += int((winner == y[rows]).sum())
    return correct / len(y)


def pca(features: Tensor, d: int) -> Tensor:
    """features (N, D) -> (N, d): coordinates along the d directions of largest variance, centred

    The sign of a direction is free; here the coordinate of largest size is positive.
    """
    z = vectors(features)
    d = whole("d", d, most=min(z.shape))
    z = z - z.mean(0)
    if z.shape[1] > z.shape[0]:  # z = U S Vᵀ, and z zᵀ = U S² Uᵀ (N, N) is the smaller problem
        squares, U = torch.linalg.eigh(z @ z.T)
        scores = (U * squares.clamp_min(0).sqrt()).flip(1)[:, :d]
    else:  # zᵀ z = V S² Vᵀ (D, D), and z V = U S
        scores = z @ torch.linalg.eigh(z.T @ z).eigenvectors.flip(1)[:, :d]
    largest = scores.gather(0, scores.abs().argmax(0, keepdim=True))
    return (scores * torch.where(largest < 0, -1.0, 1.0)).float()


def _features(f: Callable, x, device: torch.device, precision):
    with explained(x), (precision or FLOAT32).autocast(device.type):
        h = f(x if precision is None else each(precision.place, x))
    return each(lambda t: (t.float() if t.is_floating_point() else t).cpu().contiguous(), h)


def _checked(features: Tensor, labels: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor, int]:
    """(z float64 (N, D), y int64 (N,), K) on the CPU, two classes in y at least"""
    z = vectors(features)
    y = classes(labels, len(z))
    K = whole("num_classes", num_classes) if num_classes is not None else max(int(y.max()) + 1, 1)
    within(y, K)
    if num_classes is None and K > max(1000, len(y)):
        raise ValueError(f"got label {K - 1} among {len(y)} rows; expected classes numbered from 0: renumber them, "
                         "y.unique(return_inverse=True)[1], or pass num_classes if there are so many")  # fmt: skip
    if K * (len(z) + z.shape[1]) > MOST_ENTRIES:
        raise ValueError(f"got {K} classes for {len(z)} rows of {z.shape[1]} features, too many for memory; expected "
                         f"classes × (rows + features) up to {MOST_ENTRIES:,}: renumber the classes")  # fmt: skip
    if len(y.unique()) < 2:
        raise ValueError(f"all {len(y)} labels are class {int(y[0])}; expected at least two classes to tell apart")
    return z, y, K


def _standardisation(z: Tensor) -> tuple[Tensor, Tensor]:
    """z (N, D) -> mean (D,), deviation (D,); infinite for a constant or dead feature, which so becomes 0"""
    mean, deviation = z.mean(0), z.std(0, correction=0)
    varies = (deviation > CONSTANT * mean.abs()) & (deviation > DEAD * deviation.max())
    return mean, torch.where(varies, deviation, torch.inf)


def _folded(W: Tensor, b: Tensor, mean: Tensor, scale: Tensor) -> LinearHead:
    """W (K, D), b (K,) for x = (z − mean) / scale -> the same head for z"""
    head = LinearHead(W.shape[1], len(W))
    with torch.no_grad():
        head.weight.copy_(W / scale)
        # With the weight as rounded to float32, so that its rounding cannot be multiplied by a large mean.
        head.bias.copy_(b - head.weight.double() @ mean)
    return head


def _logistic_regression(x: np.ndarray, y: np.ndarray, K: int, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """x (N, D), y (N,) -> W (K, D), b (K,) at the minimum of `linear_probe`'s objective"""
    N, D = x.shape
    target = np.eye(K)[y]  # (N, K)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        W, b = theta[: K * D].reshape(K, D), theta[K * D :]
        log_p = log_softmax(x @ W.T + b, axis=1)
        loss = -(target * log_p).sum() / N + l2 / 2 * (W**2).sum() + BIAS_L2 / 2 * (b**2).sum()
        error = (np.exp(log_p) - target) / N  # (N, K): the gradient with respect to the logits
        return loss, np.concatenate([(error.T @ x + l2 * W).ravel(), error.sum(0) + BIAS_L2 * b])

    options = {"maxiter": 5000, "maxfun": 10000, "maxcor": 20, "gtol": 1e-8, "ftol": 0.0}
    with threadpool_limits(1):  # products this small wait longer for a second thread than it saves
        theta = minimize(objective, np.zeros(K * D + K), jac=True, method="L-BFGS-B", options=options).x
    return theta[: K * D].reshape(K, D), theta[K * D :]
