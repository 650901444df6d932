"""More answers to the exercises of notebook 12, written from their text alone. SLIPS: (answer, the slip in words)."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F


def _rows(h, lengths):
    return [h[i][: int(n)] for i, n in enumerate(lengths)]


def _sides(hertz, low, peak, high):
    return (hertz - low) / (peak - low), (high - hertz) / (high - peak)


def _tent(hertz, low, peak, high):
    up, down = _sides(hertz, low, peak, high)
    return torch.stack([up, down]).amin(0).clamp_min(0)


def _path(log_p):
    return [int(k) for k in log_p.argmax(dim=-1)]


def _read(path):
    out = []
    for t, k in enumerate(path):
        if k == 0 or (t and path[t - 1] == k):
            continue
        out.append(k)
    return out


def _norm(z):
    return F.normalize(z, dim=1)


def _off(c):
    return c[~torch.eye(len(c), dtype=torch.bool)]


RIGHT = {
    "12.last_state": [
        lambda h, lengths: torch.stack([row[-1] for row in _rows(h, lengths)]),
        lambda h, lengths: h[range(len(h)), lengths - 1],
        lambda h, lengths: h.flatten(0, 1)[torch.arange(len(h)) * h.shape[1] + lengths - 1],
        lambda h, lengths: torch.cat([h[i, n - 1][None] for i, n in enumerate(lengths)]),
        lambda h, lengths: torch.einsum("ntd,nt->nd", h, F.one_hot(lengths - 1, h.shape[1]).float()),
        lambda h, lengths: [h[i, int(n) - 1] for i, n in enumerate(lengths)],
    ],
    "12.mel_filter": [
        lambda hertz, low, peak, high: _tent(hertz, low, peak, high) * (2.0 / (high - low)),
        lambda hertz, low, peak, high: 2 * torch.clamp(torch.min(*_sides(hertz, low, peak, high)), 0) / (high - low),
        lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / (0.5 * (peak - low) + 0.5 * (high - peak)),
        lambda hertz, low, peak, high: np.maximum(
            0, np.minimum(*(s.numpy() for s in _sides(hertz, low, peak, high)))
        ) / ((high - low) / 2),
        lambda hertz, low, peak, high: (_tent(hertz, low, peak, high) / ((high - low) / 2)).float(),
    ],
    "12.greedy": [
        lambda log_p: _read(_path(log_p)),
        lambda log_p: torch.tensor(_read(_path(log_p))),
        lambda log_p: [k for k in torch.unique_consecutive(log_p.argmax(1)).tolist() if k != 0],
        lambda log_p: list(filter(None, (k for k, _ in itertools.groupby(_path(log_p))))),
        lambda log_p: _read(log_p.softmax(1).topk(1, dim=1).indices[:, 0].tolist()),
        lambda log_p: np.array(_read(log_p.numpy().argmax(1).tolist()), dtype=int),
    ],
    "12.paths": [
        ["aa-a", "a-aa", "a--a", "-a-a", "a-a-"],
        ["-a-a", "a-a-", "a--a", "a-aa", "aa-a"],
        ("aa-a", "a-aa", "a--a", "-a-a", "a-a-"),
        frozenset({"aa-a", "a-aa", "a--a", "-a-a", "a-a-"}),
        ["".join(p) for p in itertools.product("-a", repeat=4) if "".join(k for k, _ in itertools.groupby(p)).replace(
            "-", "") == "aa"],
    ],
    "12.likeness": [
        lambda z: _off(_norm(z) @ _norm(z).T).mean(),
        lambda z: np.mean([F.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(z, 2)]),
        lambda z: np.mean([F.cosine_similarity(a, b, dim=0) for a, b in itertools.permutations(z, 2)]),
        lambda z: (_norm(z) @ _norm(z).T).fill_diagonal_(0).sum() / (len(z) * (len(z) - 1)),
        lambda z: ((_norm(z) @ _norm(z).T).mean() * len(z) - 1) / (len(z) - 1),
        lambda z: _off((z @ z.T) / torch.outer(z.norm(dim=1), z.norm(dim=1))).mean().item(),
    ],
}  # fmt: skip
SLIPS = {
    "12.last_state": [
        (lambda h, lengths: h[:, -1, :], "the last frame of the batch"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths], "one too far"),
        (lambda h, lengths: h[torch.arange(len(h)), -lengths], "counted from the end"),
        (lambda h, lengths: h[torch.arange(len(h)), h.shape[1] - lengths], "how much is padding"),
        (lambda h, lengths: h[lengths - 1].mean(1), "rows in place of frames"),
        (lambda h, lengths: torch.stack([row.mean(0) for row in _rows(h, lengths)]), "the mean"),
        (lambda h, lengths: torch.stack([row.sum(0) for row in _rows(h, lengths)]), "the sum"),
        (lambda h, lengths: torch.stack([row[0] for row in _rows(h, lengths)]), "the first"),
        (lambda h, lengths: torch.stack([row[max(len(row) - 2, 0)] for row in _rows(h, lengths)]), "the last but one"),
        (lambda h, lengths: torch.stack([row[len(row) // 2] for row in _rows(h, lengths)]), "the middle"),
        (lambda h, lengths: torch.stack([row.amax(0) for row in _rows(h, lengths)]), "the largest"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths - 1][:, None], "another axis"),
        (lambda h, lengths: h[0, lengths[0] - 1], "one sound"),
        (lambda h, lengths: h[:, lengths.min() - 1], "the shortest one's end"),
    ],
    "12.mel_filter": [
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high), "no area"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / (high - low), "the area of a box"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / (2 * (high - low)), "twice, the wrong way"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / _tent(hertz, low, peak, high).max(), "peak 1"),
        (lambda hertz, low, peak, high: F.normalize(_tent(hertz, low, peak, high), dim=0), "of length 1"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high).softmax(0), "softmax"),
        (lambda hertz, low, peak, high: sum(_sides(hertz, low, peak, high)) * 2 / (high - low), "the sum of the sides"),
        (lambda hertz, low, peak, high: torch.min(*_sides(hertz, low, peak, high)).abs() * 2 / (high - low), "size"),
        (lambda hertz, low, peak, high: torch.max(*_sides(hertz, low, peak, high)) * 2 / (high - low), "the larger"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) * 2 / (peak - low), "the rising side's width"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) * 2 / (high - peak), "the falling side's width"),
        (
            lambda hertz, low, peak, high: torch.exp(-0.5 * ((hertz - peak) / (high - low)) ** 2) * 2 / (high - low),
            "a bell",
        ),
        (lambda hertz, low, peak, high: 1 - _tent(hertz, low, peak, high) * 2 / (high - low), "upside down"),
        (lambda hertz, low, peak, high: 2 / (high - low), "the height alone"),
    ],
    "12.greedy": [
        (lambda log_p: _path(log_p), "the path"),
        (lambda log_p: [k for k in _path(log_p) if k > 0], "only blanks dropped"),
        (lambda log_p: [k for k, _ in itertools.groupby(_path(log_p))], "only repeats merged"),
        (lambda log_p: [k for k, _ in itertools.groupby(k for k in _path(log_p) if k)], "blanks dropped first"),
        (lambda log_p: sorted(set(_path(log_p)) - {0}), "a set"),
        (lambda log_p: _read(log_p.argmin(1).tolist()), "the least likely"),
        (lambda log_p: _read(log_p[:, 1:].argmax(1).tolist()), "blank left out, classes shifted"),
        (lambda log_p: [k + 1 for k in _read(_path(log_p))], "one too many"),
        (lambda log_p: _read(_path(log_p))[1:], "the first unit lost"),
        (lambda log_p: _read(_path(log_p))[:-1], "the last unit lost"),
        (lambda log_p: len(_read(_path(log_p))), "how many"),
        (lambda log_p: _read(_path(log_p.T)), "the other axis"),
        (lambda log_p: [log_p.sum(0).argmax().item()], "one class for the whole sound"),
    ],
    "12.paths": [
        (["a-a-"], "one"),
        (["a--a"], "one"),
        (["a-a-", "-a-a"], "without longer units"),
        (["aa-a", "a-aa", "a--a"], "without blanks at the ends"),
        (["aa-a", "a-aa", "a-a-", "-a-a"], "without the long blank"),
        (["aa-a", "a-aa", "a--a", "-a-a", "a-a-", "--aa"], "repeats without a blank"),
        (["aa-a", "a-aa", "a--a", "-a-a", "a-a-", "-aa-"], "repeats without a blank"),
        (["aaaa", "aa--", "--aa"], "repeats without a blank"),
        (["a-a", "aa", "a--a"], "of any length"),
        (["aa-a", "a-aa", "a--a", "-a-a", "a-a-", "a-a-a"], "five frames"),
        (["1-1-", "11-1", "1-11", "1--1", "-1-1"], "another letter"),
        ("aa-a, a-aa, a--a, -a-a, a-a-", "one text"),
        ({"aa-a": 1, "a-aa": 1, "a--a": 1, "-a-a": 1, "a-a-": 1}, "a dict"),
        ([1, 2, 3, 4, 5], "numbers"),
    ],
    "12.likeness": [
        (lambda z: (_norm(z) @ _norm(z).T).mean(), "with the diagonal"),
        (lambda z: (_norm(z) @ _norm(z).T).fill_diagonal_(0).mean(), "the diagonal counted as 0"),
        (lambda z: (z @ z.T).mean(), "products"),
        (lambda z: _off(z @ z.T).mean(), "products without the diagonal"),
        (lambda z: _off(_norm(z) @ _norm(z).T).sum(), "a sum"),
        (lambda z: torch.pdist(z).mean(), "distances"),
        (lambda z: _off(_norm(z) @ _norm(z).T).median() + 1e-2, "the median"),
        (lambda z: _off(_norm(z) @ _norm(z).T).max(), "the largest"),
        (lambda z: F.cosine_similarity(z, z.mean(0)[None]).mean(), "with the mean"),
        (lambda z: F.cosine_similarity(z[:-1], z[1:]).mean() + 1e-3, "neighbours"),
        (lambda z: _off(F.normalize(z, dim=0) @ F.normalize(z, dim=0).T).mean(), "columns scaled"),
        (lambda z: _off(_norm(z).T @ _norm(z)).mean() if len(z.T) > 1 else z.sum(), "columns compared"),
        (lambda z: -_off(_norm(z) @ _norm(z).T).mean(), "the sign"),
        (lambda z: _off(z @ z.T / z.norm(dim=1)).mean(), "one of the two lengths"),
    ],
}
