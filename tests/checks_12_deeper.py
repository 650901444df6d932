"""Right and wrong answers to notebook 12, going deeper. WRONG: (answer, words that the checker must say)."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F


def _greedy_loop(log_p):
    units, before = [], None
    for k in log_p.argmax(1).tolist():
        if k != before and k != 0:
            units.append(k)
        before = k
    return units


def _greedy_unique(log_p):
    path = torch.unique_consecutive(log_p.argmax(-1))
    return path[path != 0]


def _drops_first(log_p):
    path = [k for k in log_p.argmax(1).tolist() if k != 0]
    return [k for k, _ in itertools.groupby(path)]


def _above_half(log_p):
    path = [int((row > 0.5).nonzero()[0]) if (row > 0.5).any() else 0 for row in log_p.exp()]
    return [k for k, _ in itertools.groupby(path) if k]


def _round_the_end(log_p):
    path = log_p.argmax(1).tolist()
    return [k for t, k in enumerate(path) if k != path[t - 1] and k]


def _unlike_the_last_written(log_p):
    units = []
    for k in log_p.argmax(1).tolist():
        if k and units[-1:] != [k]:
            units.append(k)
    return units


def _unlike_the_next(log_p):
    path = [*log_p.argmax(1).tolist(), None]
    return [k for k, after in itertools.pairwise(path) if k != after and k]


def _twice(y):
    return sum(a == b for a, b in itertools.pairwise(y))


def _shortest(y):
    """By trial: the least T for which PyTorch's loss is finite"""
    for frames in range(len(y), 2 * len(y) + 1):
        log_p = torch.zeros(frames, 1, 9).log_softmax(2)
        loss = F.ctc_loss(log_p, torch.tensor([y]), torch.tensor([frames]), torch.tensor([len(y)]), reduction="none")
        if frames and loss.isfinite().all():
            return frames
    return 0


RIGHT = {
    "12.greedy": [
        _greedy_loop,
        _greedy_unique,
        lambda log_p: [k for k, _ in itertools.groupby(log_p.argmax(1).tolist()) if k],
        lambda log_p: [int(k) for k in F.pad(_greedy_unique(log_p), (1, 0))[1:]],
        lambda log_p: _greedy_unique(log_p).tolist(),
        lambda log_p: tuple(_greedy_loop(log_p.exp())),
        _unlike_the_next,
    ],
    "12.paths": [
        ["a-a-", "a-aa", "a--a", "aa-a", "-a-a"],
        ("-a-a", "aa-a", "a--a", "a-aa", "a-a-"),
        {"a-a-", "a-aa", "a--a", "aa-a", "-a-a"},
        ["A-A-", "A-AA", "A--A", "AA-A", "-A-A"],
        ["a_a_", "a_aa", "a__a", "aa_a", "_a_a"],
        ["a–a–", "a–aa", " a––a", "aa–a", "–a–a "],
        ["a−a−", "a−aa", "a−−a", "aa−a", "−a−a"],
        ["aεaε", "aεaa", "aεεa", "aaεa", "εaεa"],
        np.array(["a-a-", "a-aa", "a--a", "aa-a", "-a-a"]),
    ],
    "12.frames_needed": [
        lambda y: len(y) + _twice(y),
        lambda y: len(y) + sum(y[i] == y[i - 1] for i in range(1, len(y))),
        lambda y: sum(1 + (i > 0 and y[i - 1] == k) for i, k in enumerate(y)),
        lambda y: sum(2 * len(list(group)) - 1 for _, group in itertools.groupby(y)),
        lambda y: torch.tensor(len(y)) + (torch.tensor(y[1:]) == torch.tensor(y[:-1])).sum(),
        _shortest,
    ],
}
WRONG = {
    "12.greedy": [
        (_drops_first, "before repeats were merged"),
        (lambda log_p: [k for k in log_p.argmax(1).tolist() if k], "not merged"),
        (lambda log_p: torch.unique_consecutive(log_p.argmax(1)), "class 0 writes nothing"),
        (lambda log_p: log_p.argmax(1), "the path itself"),
        (lambda log_p: list(dict.fromkeys(k for k in log_p.argmax(1).tolist() if k)), "once at most"),
        (lambda log_p: [k - 1 for k in _greedy_loop(log_p)], "nothing to subtract"),
        (lambda log_p: _greedy_loop(log_p)[::-1], "backwards"),
        (lambda log_p: _greedy_loop(log_p[1:]), "first frame"),
        (
            lambda log_p: [b for a, b in itertools.pairwise(log_p.argmax(1).tolist()) if b not in (0, a)],
            "the first frame is missing",
        ),
        (lambda log_p: _greedy_loop(-log_p), "expected"),
        (lambda log_p: log_p.max(1).values, "whole numbers"),
        (lambda log_p: log_p.argmax(0), "expected"),
        (lambda log_p: 3, "expected a list"),
        (_above_half, "expected"),
        (_round_the_end, "`path[-1]` is the last one"),
        (_unlike_the_last_written, "before repeats were merged"),
    ],
    "12.paths": [
        (["a-a-", "a-aa", "a--a", "aa-a"], "1 more do"),
        (["a-a-", "a-aa", "a--a", "aa-a", "-a-a", "aaaa"], "reads 'a'"),
        (["a-a-", "a-aa", "a--a", "aa-a", "-a-a", "aa--"], "reads 'a'"),
        (["a-a-", "a-aa", "a--a", "aa-a", "-a-a", "a-a-"], "twice"),
        (["a-a"], "3 characters"),
        (["a-a-", "a-ab"], "something else"),
        ("a-a-", "a list of texts"),
        ([["a", "-", "a", "-"]], "texts of four characters"),
        (5, "a list of texts"),
        (["aa"], "2 characters"),
        ([], "5 more do"),
        (["a-a-", "a-aa", "a--a", "aa-a", "----"], "reads ''"),
    ],
    "12.frames_needed": [
        (len, "need a blank between them"),
        (lambda y: 2 * len(y) + 1, "*may* stand"),
        (lambda y: 2 * len(y) - 1, "may be left out"),
        (lambda y: len(y) + len(y) - len(set(y)), "*neighbours* merge"),
        (lambda y: len(set(y)), "each time it is said"),
        (lambda y: len(y) - _twice(y), "more frames, not fewer"),
        (_twice, "blanks alone"),
        (lambda y: len(y) + 2 * _twice(y), "one blank is enough"),
        (lambda y: len(y) + (_twice(y) > 0), "its own blank"),
        (lambda y: len(y) + _twice(y) + 2, "at the ends"),
        (lambda y: len(y) + _twice(y) + 1, "at the end or at the beginning"),
        (lambda y: [len(y) + _twice(y)], "shape"),
    ],
}
