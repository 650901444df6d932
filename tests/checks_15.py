"""Right and wrong answers to the exercises of notebook 15. WRONG: (answer, words that the checker must say)."""

import numpy as np
import torch
import torch.nn.functional as F

ORDER = ("train", "val", "test")


def _loop_thresholds(p, y):
    found = []
    for j in range(p.shape[1]):
        values = [row[j] for row, label in zip(p.tolist(), y.tolist(), strict=True) if label == j]
        found.append(sum(values) / len(values))
    return torch.tensor(found, dtype=torch.float64)


def _scattered(p, y):
    own = p.gather(1, y[:, None])[:, 0]
    n = torch.bincount(y, minlength=p.shape[1])
    return torch.zeros(p.shape[1], dtype=p.dtype).index_add(0, y, own) / n


def _by_rank(pairs, part):
    gone = set()
    for i, j in pairs:
        if i not in gone and j not in gone:
            gone.add(i if ORDER.index(part[i]) < ORDER.index(part[j]) else j)
    return gone


def _keep_the_best(pairs, part):
    """Of each family of copies the one of the highest part stays"""
    families = []
    for pair in pairs:
        new = set(pair).union(*(f for f in families if f & set(pair)))
        families = [f for f in families if not f & new] + [new]
    return {i for f in families for i in f - {max(f, key=lambda row: (ORDER.index(part[row]), -row))}}


def _most_pairs_first(pairs, part):
    left, gone = list(pairs), set()
    while left:
        rows = [i for pair in left for i in pair]
        gone.add(max(rows, key=lambda row: (rows.count(row), -ORDER.index(part[row]))))
        left = [pair for pair in left if not set(pair) & gone]
    return gone


def _as_list(pairs, part):
    return sorted(_by_rank(pairs, part), reverse=True)


def _later(pairs, part):
    gone = set()
    for i, j in pairs:
        if part[j] == "test" and part[i] != "test":
            gone.add(i)
        elif part[i] == "test" and part[j] != "test":
            gone.add(j)
    for i, j in pairs:
        if not {i, j} & gone:
            gone.add(i if part[i] == "train" and part[j] == "val" else j)
    return gone


def _cam(h, W, k):
    found = (W[k][:, None, None] * h).sum(0).clamp(min=0)
    return found / max(found.max().item(), 1e-30)


def _cam_loop(h, W, k):
    found = np.zeros(h.shape[1:])
    for c in range(len(h)):
        found = found + W[k, c].item() * h[c].numpy()
    found = np.maximum(found, 0)
    return found / found.max() if found.max() > 0 else found


def _cam_tensordot(h, W, k):
    found = F.relu(torch.tensordot(W[k], h, dims=1))
    return torch.nan_to_num(found / found.max())


def _cam_matrix(h, W, k):
    found = (W[k] @ h.flatten(1)).view(h.shape[1:])
    found = torch.where(found > 0, found, 0)
    return found / (found.max() if found.any() else 1)


def _stretched_after_relu(h, W, k):
    found = torch.einsum("c,chw->hw", W[k], h).relu()
    return (found - found.min()) / (found.max() - found.min()).clamp(min=1e-12)


RIGHT = {
    "15.thresholds": [
        lambda p, y: torch.stack([p[y == j, j].mean() for j in range(p.shape[1])]),
        lambda p, y: torch.stack([p[y == j].mean(0)[j] for j in range(p.shape[1])]),
        lambda p, y: (p * F.one_hot(y, p.shape[1])).sum(0) / F.one_hot(y, p.shape[1]).sum(0),
        lambda p, y: np.array([p.numpy()[y.numpy() == j, j].mean() for j in range(p.shape[1])]),
        _loop_thresholds,
        _scattered,
    ],
    "15.leave_out": [_by_rank, _keep_the_best, _as_list, _later, lambda a, b: np.array([*_by_rank(a, b)], dtype=int),
                     _most_pairs_first, lambda pairs, part: _by_rank(pairs[::-1], part)],
    "15.class_weights": [
        lambda y, K: len(y) / (K * torch.bincount(y, minlength=K)),
        lambda y, K: y.numel() / K / torch.bincount(y).double(),
        lambda y, K: torch.tensor([len(y) / (K * int((y == k).sum())) for k in range(K)]),
        lambda y, K: len(y) / K / F.one_hot(y, K).sum(0),
        lambda y, K: (w := 1 / torch.bincount(y).double()) / w[y].mean(),
        lambda y, K: np.bincount(y.numpy()).mean() / np.bincount(y.numpy()),
    ],
    "15.cross_entropy_at": [
        lambda z, y, T: F.cross_entropy(z / T, y),
        lambda z, y, T: F.cross_entropy(z / T, y).item(),
        lambda z, y, T: -(z / T).log_softmax(1)[torch.arange(len(y)), y].mean(),
        lambda z, y, T: F.nll_loss((z / T).log_softmax(1), y),
        lambda z, y, T: (torch.logsumexp(z / T, 1) - z.gather(1, y[:, None])[:, 0] / T).mean(),
        lambda z, y, T: -(F.one_hot(y, z.shape[1]) * (z / T).log_softmax(1)).sum() / len(y),
    ],
    "15.activation_map": [_cam, _cam_loop, _cam_tensordot, _cam_matrix,
                          lambda h, W, k: (m := torch.einsum("c,chw->hw", W[k], h).relu()) / m.max().clamp(min=1e-12)],
}  # fmt: skip
WRONG = {
    "15.thresholds": [
        (lambda p, y: p.mean(0), "mean over all pictures"),
        (lambda p, y: p[torch.arange(len(y)), y].mean().expand(p.shape[1]), "one mean over all classes"),
        (lambda p, y: torch.stack([p[y == j].mean() for j in range(p.shape[1])]), "over the columns too"),
        (lambda p, y: torch.stack([p[y == j, j].sum() for j in range(p.shape[1])]), "these are sums"),
        (lambda p, y: torch.stack([p[y == j, j].sum() / len(y) for j in range(p.shape[1])]), "not by N"),
        (lambda p, y: torch.stack([p[y == j, j].median() for j in range(p.shape[1])]), "median"),
        (lambda p, y: torch.stack([p[y == j, j].max() for j in range(p.shape[1])]), "the largest; take the mean"),
        (lambda p, y: torch.stack([p[y == j].amax(1).mean() for j in range(p.shape[1])]), "the largest probability"),
        (lambda p, y: torch.stack([p[y != j, j].mean() for j in range(p.shape[1])]), "the other labels"),
        (
            lambda p, y: torch.stack([p[p.argmax(1) == j, j].mean() for j in range(p.shape[1])]).nan_to_num(),
            "predicted j",
        ),
    ],
    "15.leave_out": [
        (lambda pairs, part: set(), "leaves the pair (1, 4) whole"),
        (lambda pairs, part: {j for _, j in pairs}, "takes test row 4"),
        (lambda pairs, part: {i for i, _ in pairs}, "takes test row 0"),
        (lambda pairs, part: {i for pair in pairs for i in pair}, "takes test row"),
        (lambda pairs, part: {i for p in pairs for i in p if part[i] != "test"}, "every copy of one picture"),
        (lambda pairs, part: {i for p in pairs for i in p if part[i] == "train"}, "whole"),
        (lambda pairs, part: set(range(len(part))), "in no pair"),
        (lambda pairs, part: {i + 1 for i in _by_rank(pairs, part)}, "whole"),
        (lambda pairs, part: [part[i] for i in _by_rank(pairs, part)], "invalid literal"),
        (lambda pairs, part: len(pairs), "expected a set of row numbers"),
        (lambda pairs, part: _by_rank([p for p in pairs if abs(p[0] - p[1]) == 1], part), "whole"),
        (
            lambda pairs, part: {min(p, key=lambda r: ("train", "val", "test").index(part[r])) for p in pairs},
            "every copy of one picture",
        ),
    ],
    "15.class_weights": [
        (lambda y, K: 1 / torch.bincount(y).double(), "scale them"),
        (lambda y, K: torch.bincount(y).double() / len(y), "share of each class"),
        (lambda y, K: torch.bincount(y).double(), "these are the counts"),
        (lambda y, K: len(y) / torch.bincount(y).double(), "is then K"),
        (lambda y, K: (w := 1 / torch.bincount(y).double()) / w.sum(), "sum to 1"),
        (lambda y, K: (w := 1 / torch.bincount(y).double()) / w.mean(), "mean over the classes is 1"),
        (lambda y, K: torch.bincount(y).max() / torch.bincount(y).double(), "most frequent class has weight 1"),
        (lambda y, K: torch.bincount(y).min() / torch.bincount(y).double(), "rarest class has weight 1"),
        (lambda y, K: torch.ones(K), "expected"),
    ],
    "15.cross_entropy_at": [
        (lambda z, y, T: F.cross_entropy(z * T, y), "multiplies"),
        (lambda z, y, T: F.cross_entropy(z, y) / T, "divides the loss"),
        (lambda z, y, T: F.cross_entropy(z, y) + 0 * T + (T - 1), "expected"),
        (lambda z, y, T: F.cross_entropy((z / T).softmax(1), y), "softmax is in it already"),
        (lambda z, y, T: -F.cross_entropy(z / T, y), "sign is turned"),
        (lambda z, y, T: F.cross_entropy(z / T, y, reduction="sum"), "this is the sum"),
        (lambda z, y, T: F.cross_entropy(z / T, y) / np.log(2), "in bits"),
        (lambda z, y, T: -(z / T).softmax(1)[torch.arange(len(y)), y].mean(), "logarithm is missing"),
        (lambda z, y, T: -(z / T).softmax(1)[torch.arange(len(y)), y].log().mean(), "expected"),
        (lambda z, y, T: F.cross_entropy(z / T, y, reduction="none"), "shape"),
    ],
    "15.activation_map": [
        (lambda h, W, k: torch.einsum("c,chw->hw", W[k], h).relu(), "has to be 1"),
        (lambda h, W, k: (m := torch.einsum("c,chw->hw", W[k], h)) / m.max(), "speak against"),
        (lambda h, W, k: (m := torch.einsum("c,chw->hw", W[k], h).abs()) / m.max(), "become 0, not positive"),
        (lambda h, W, k: torch.einsum("c,chw->hw", W[k], h).sigmoid(), "no sigmoid"),
        (lambda h, W, k: ((m := torch.einsum("c,chw->hw", W[k], h)) - m.min()) / (m.max() - m.min()), "no stretching"),
        (_stretched_after_relu, "positive everywhere"),
        (lambda h, W, k: (m := h.mean(0).relu()) / m.max(), "by its weight"),
        (lambda h, W, k: (m := torch.einsum("c,chw->hw", W[k], h).relu()) / m.sum(), "not by the sum"),
        (lambda h, W, k: _cam(h, W, (k + 1) % len(W)), "another class"),
        (lambda h, W, k: (m := torch.einsum("c,chw->hw", W[k], h).relu()) / m.max().clamp(min=1), "all are small, too"),
        (lambda h, W, k: (m := torch.einsum("c,chw->hw", W[k], h).relu()) / m.max(), "nothing speaks for the class"),
    ],
}
