"""Right and wrong answers to notebook 06, going deeper. WRONG: (answer, words that the checker must say)."""

import math

import torch


def _weighted(gradients, sizes):
    return sum(g * (n / sum(sizes)) for g, n in zip(gradients, sizes, strict=True) if n)


def _stacked(gradients, sizes):
    n = torch.tensor(sizes, dtype=torch.float64)
    stack = torch.stack(gradients).nan_to_num()
    return (stack * n[:, None, None]).sum(0) / n.sum()


def _pays(T, a, b):
    return math.floor(T / (a - b)) + 1 if a > b else math.inf


def _counted(T, a, b):
    if b >= a:
        return float("inf")
    n = 1
    while T + n * b >= n * a:
        n += 1
    return n


RIGHT = {
    "06.shards": [_weighted, _stacked],
    "06.pays_after": [_pays, _counted],
}
WRONG = {
    "06.shards": [
        (lambda g, n: sum(g) / len(g), "averages over the workers"),
        (lambda g, n: sum(g), "adds up means"),
        (lambda g, n: sum(a * b for a, b in zip(g, n, strict=True)), "gradient of the sum"),
        (lambda g, n: len(n) * _weighted(g, n), "add up to the number of workers"),
        (lambda g, n: sum(a * b for a, b in zip(g, n, strict=True)) / sum(n), "0 · nan is nan"),
        (lambda g, n: g[0], "expected"),
    ],
    "06.pays_after": [
        (lambda T, a, b: T / (a - b) if a > b else math.inf, "must be whole"),
        (lambda T, a, b: math.ceil(T / (a - b)) if a > b else math.inf, "they are level"),
        (lambda T, a, b: math.ceil(T / a), "takes time as well"),
        (lambda T, a, b: math.floor(T / (a - b)) + 1 if a > b else 0, "never pays"),
        (lambda T, a, b: math.floor(T / abs(a - b)) + 1 if a != b else math.inf, "never pays"),
    ],
}
