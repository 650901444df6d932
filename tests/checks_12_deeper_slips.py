"""More answers to notebook 12, going deeper, written from their texts alone. SLIPS: (answer, the slip in words)."""

import itertools

import numpy as np
import torch


def _path(log_p):
    return [int(k) for k in log_p.argmax(dim=-1)]


def _read(path):
    out = []
    for t, k in enumerate(path):
        if k == 0 or (t and path[t - 1] == k):
            continue
        out.append(k)
    return out


def _again(y):
    return [b for a, b in zip(y, y[1:], strict=False) if a == b]


RIGHT = {
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
        [
            "".join(p)
            for p in itertools.product("-a", repeat=4)
            if "".join(k for k, _ in itertools.groupby(p)).replace("-", "") == "aa"
        ],
    ],
    "12.frames_needed": [
        lambda y: len([*y, *_again(y)]),
        lambda y: len(y) + len(_again(y)),
        lambda y: len(y) * 2 - len(list(itertools.groupby(y))),
        lambda y: np.int64(len(y) + (np.diff(y) == 0).sum()),
        lambda y: float(len(y) + len(_again(y))),
        lambda y: len("".join(f"{'-' if i and y[i - 1] == k else ''}{'x'}" for i, k in enumerate(y))),
    ],
}
SLIPS = {
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
    "12.frames_needed": [
        (lambda y: len(y), "units alone"),
        (lambda y: len(y) + 1, "one blank"),
        (lambda y: len(y) * 2, "a blank for each"),
        (lambda y: len(y) * 2 + 1, "all places"),
        (lambda y: len(list(itertools.groupby(y))), "merged"),
        (lambda y: len(_again(y)), "repeats alone"),
        (lambda y: len(y) - len(_again(y)), "the wrong way"),
        (lambda y: len(y) + len(set(_again(y))), "each unit once"),
        (lambda y: len(y) + sum(y.count(k) > 1 for k in y), "repeats anywhere"),
        (lambda y: len(y) + len(y) - len(set(y)), "repeats anywhere"),
        (lambda y: sum(y), "the sum of the units"),
        (lambda y: max(y, default=0), "the largest unit"),
        (lambda y: len(y) + sum(y[i] == y[i - 1] for i in range(len(y))), "round the end"),
    ],
}
