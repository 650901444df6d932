"""More answers to the exercises of notebook 15, written from their text alone. SLIPS: (answer, the slip in words)."""

import numpy as np
import torch
import torch.nn.functional as F

RANK = {"train": 0, "val": 1, "test": 2}


def _greedy(pairs, part):
    gone = set()
    for pair in pairs:
        if not gone & set(pair):
            gone.add(min(pair, key=lambda row: RANK[part[row]]))
    return gone


def _test_first(pairs, part):
    order = sorted(pairs, key=lambda pair: -max(RANK[part[i]] for i in pair))
    return _greedy(order, part)


def _frozen(pairs, part):
    return frozenset(_greedy(pairs, part))


def _tensor(pairs, part):
    return torch.tensor(sorted(_greedy(pairs, part)), dtype=torch.long)


def _by_counting(pairs, part):
    gone = [False] * len(part)
    for i, j in pairs:
        if not gone[i] and not gone[j]:
            gone[i if RANK[part[i]] <= RANK[part[j]] else j] = True
    return {i for i, out in enumerate(gone) if out}


def _masked(p, y):
    mask = y[:, None] == torch.arange(p.shape[1])
    return p.masked_fill(~mask, 0).sum(0) / mask.sum(0)


def _sorted_thresholds(p, y):
    return torch.tensor([p[y == j][:, j].mean().item() for j in sorted(set(y.tolist()))], dtype=p.dtype)


def _map(h, W, k):
    found = torch.zeros(h.shape[1:], dtype=h.dtype)
    for weight, channel in zip(W[k], h, strict=True):
        found += weight * channel
    found[found < 0] = 0
    return found / found.max() if found.max() > 0 else found


def _normalised(m):
    return m / m.max() if m.max() > 0 else m


def _raw(h, W, k):
    return torch.einsum("c,chw->hw", W[k], h)


RIGHT = {
    "15.thresholds": [
        _masked,
        _sorted_thresholds,
        lambda p, y: torch.stack([p[:, j][y == j].mean() for j in range(p.shape[1])]),
        lambda p, y: [float(p[y == j, j].mean()) for j in range(p.shape[1])],
        lambda p, y: (F.one_hot(y, p.shape[1]).to(p.dtype).T @ p).diagonal() / torch.bincount(y, minlength=p.shape[1]),
    ],
    "15.leave_out": [_greedy, _test_first, _frozen, _tensor, _by_counting],
    "15.class_weights": [
        lambda y, K: len(y) / torch.bincount(y, minlength=K) / K,
        lambda y, K: torch.bincount(y).double().mean() / torch.bincount(y),
        lambda y, K: [len(y) / (K * y.tolist().count(k)) for k in range(K)],
        lambda y, K: torch.stack([len(y) / K / (y == k).sum() for k in range(K)]),
        lambda y, K: (w := 1 / y.unique(return_counts=True)[1].double()) * len(y) / w[y].sum(),
    ],
    "15.cross_entropy_at": [
        lambda z, y, T: F.cross_entropy(z.div(T), y, reduction="sum") / len(y),
        lambda z, y, T: torch.nn.CrossEntropyLoss()(z / T, y),
        lambda z, y, T: -torch.log_softmax(z / T, dim=1).gather(1, y.unsqueeze(1)).mean(),
        lambda z, y, T: -np.mean([torch.log_softmax(r / T, 0)[k].item() for r, k in zip(z, y, strict=True)]),
        lambda z, y, T: F.cross_entropy(z * (1 / T), y, reduction="none").mean(),
    ],
    "15.activation_map": [
        _map,
        lambda h, W, k: _normalised(_raw(h, W, k).clamp_min(0)),
        lambda h, W, k: _normalised((W[k].view(-1, 1, 1) * h).sum(dim=0).relu()),
        lambda h, W, k: _normalised(torch.maximum(_raw(h, W, k), torch.zeros(()).to(h))),
        lambda h, W, k: _normalised(F.relu(F.conv2d(h[None], W[k][None, :, None, None])[0, 0])),
    ],
}
SLIPS = {
    "15.thresholds": [
        (lambda p, y: p.amax(0), "the largest of a column"),
        (lambda p, y: torch.full((p.shape[1],), 0.5), "one half for all"),
        (lambda p, y: torch.full((p.shape[1],), 1 / p.shape[1]), "chance"),
        (lambda p, y: torch.stack([1 - p[y == j, j].mean() for j in range(p.shape[1])]), "the complement"),
        (lambda p, y: torch.stack([p[y == j, j].std() for j in range(p.shape[1])]).nan_to_num(), "the deviation"),
        (lambda p, y: torch.stack([p[y == j, j].mean() for j in range(p.shape[1])]).flip(0), "turned round"),
        (lambda p, y: torch.stack([p[y == j, j].log().mean().exp() for j in range(p.shape[1])]), "geometric"),
        (lambda p, y: torch.stack([p[y == j, 0].mean() for j in range(p.shape[1])]), "the first column"),
        (lambda p, y: torch.stack([p[y == j].mean(0) for j in range(p.shape[1])]), "a matrix"),
        (lambda p, y: torch.bincount(y, minlength=p.shape[1]) / len(y), "shares of the labels"),
        (lambda p, y: torch.stack([p[j] for j in range(p.shape[1])]).diagonal(), "the first rows"),
        (lambda p, y: torch.stack([p[y <= j, j].mean() for j in range(p.shape[1])]).nan_to_num(), "up to j"),
        (lambda p, y: torch.stack([p[y == j, j].mean() for j in range(p.shape[1])])[:-1], "one class fewer"),
    ],
    "15.leave_out": [
        (lambda pairs, part: {max(pair) for pair in pairs}, "the later one"),
        (lambda pairs, part: {min(pair) for pair in pairs}, "the earlier one"),
        (lambda pairs, part: {i for p in pairs for i in p if part[i] != "train"}, "what is not in train"),
        (lambda pairs, part: {i for i, name in enumerate(part) if name == "train"}, "all of train"),
        (lambda pairs, part: {max(p, key=lambda r: RANK[part[r]]) for p in pairs}, "the test picture"),
        (lambda pairs, part: set(pairs), "the pairs themselves"),
        (lambda pairs, part: {i for i, j in pairs if part[i] != part[j]}, "across parts only"),
        (lambda pairs, part: _greedy(pairs[:1], part), "the first pair only"),
        (lambda pairs, part: _greedy(pairs[1:], part), "not the first pair"),
        (lambda pairs, part: set(range(len(part))) - _greedy(pairs, part), "what stays"),
        (lambda pairs, part: _greedy(pairs, part) | {0}, "the first row too"),
        (lambda pairs, part: {p[0] if part[p[0]] == "train" else p[1] for p in pairs}, "the second, test or not"),
        (lambda pairs, part: {row for row in _greedy(pairs, part) if part[row] == "train"}, "of train alone"),
    ],
    "15.class_weights": [
        (lambda y, K: torch.bincount(y).double() * K / len(y), "upside down"),
        (lambda y, K: 1 - torch.bincount(y).double() / len(y), "one minus the share"),
        (lambda y, K: (len(y) / (K * torch.bincount(y).double())).sqrt(), "the root"),
        (lambda y, K: (len(y) / (K * torch.bincount(y).double())).log(), "the logarithm"),
        (lambda y, K: len(y) / (K * torch.bincount(y).double() + 1), "plus one"),
        (lambda y, K: (len(y) / (K * torch.bincount(y).double())).flip(0) + y[:1] * 0 + 0.01, "turned round"),
        (lambda y, K: (len(y) // (K * torch.bincount(y))).double(), "whole numbers"),
        (lambda y, K: len(y) * K / torch.bincount(y).double(), "times K"),
        (lambda y, K: (1 / torch.bincount(y).double()).softmax(0), "softmax"),
        (lambda y, K: (len(y) - 1) / (K * torch.bincount(y).double()), "N minus one"),
        (lambda y, K: len(y) / (K * torch.bincount(y).double() ** 2), "counts squared"),
        (lambda y, K: len(y) / ((K - 1) * torch.bincount(y).double()), "K minus one"),
    ],
    "15.cross_entropy_at": [
        (lambda z, y, T: F.cross_entropy(z / T**2, y), "T squared"),
        (lambda z, y, T: F.cross_entropy(z - T, y), "T taken off"),
        (lambda z, y, T: F.cross_entropy(z / T, y) * T, "times T"),
        (lambda z, y, T: F.cross_entropy((z / T).log_softmax(0), y), "softmax over the pictures"),
        (lambda z, y, T: F.cross_entropy(z.softmax(1).log() / T, y) + 0.01, "a hundredth more"),
        (lambda z, y, T: F.cross_entropy(z / T, y).exp(), "perplexity"),
        (lambda z, y, T: F.cross_entropy(z / T, z.argmax(1)), "the prediction as truth"),
        (lambda z, y, T: F.cross_entropy(z / T, y, label_smoothing=0.1), "smoothed"),
        (lambda z, y, T: F.cross_entropy(z / T, y.flip(0)), "labels turned round"),
        (lambda z, y, T: (z / T)[torch.arange(len(y)), y].mean(), "the mean logit"),
        (lambda z, y, T: F.cross_entropy(z / T, y, reduction="none").max(), "the largest"),
        (lambda z, y, T: F.multi_margin_loss(z / T, y), "another loss"),
    ],
    "15.activation_map": [
        (lambda h, W, k: _normalised(h.abs().sum(0)), "no weights"),
        (lambda h, W, k: _normalised(_raw(h, W, k) ** 2), "squared"),
        (lambda h, W, k: _normalised(_raw(h, W, k).relu()).T, "turned"),
        (lambda h, W, k: (_raw(h, W, k).relu() > 0).double(), "a mask"),
        (lambda h, W, k: 1 - _normalised(_raw(h, W, k).relu()), "the complement"),
        (lambda h, W, k: _normalised((W[k][:, None, None] * h).amax(0).relu()), "the largest channel"),
        (lambda h, W, k: _normalised(_raw(h, -W, k).relu()), "the sign"),
        (lambda h, W, k: _normalised(_raw(h, W.softmax(0), k).relu()), "weights through softmax"),
        (lambda h, W, k: _raw(h, W, k).flatten().softmax(0).view(h.shape[1:]), "softmax over positions"),
        (lambda h, W, k: _normalised(_raw(h.relu(), W, k).relu()), "ReLU of the maps first"),
        (lambda h, W, k: _normalised(_raw(h, W, 0).relu()) * (k >= 0) * 0.99, "the first class"),
        (lambda h, W, k: _raw(h, W, k).relu() / _raw(h, W, k).norm(), "the Euclidean norm"),
    ],
}
