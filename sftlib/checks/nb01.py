"""Checkers of notebook 01."""

import math

import torch
import torch.nn.functional as F

from sftlib.checks import checker, expect, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _vote(nearest, y, num_classes):
    """nearest (M, k), y (N,) -> class with most votes, the lowest of equals (M,)"""
    return F.one_hot(y[nearest], num_classes).sum(1).argmax(1)


@checker("01.neighbours")
def _neighbours(answer):
    """new (M, D), x (N, D), y (N,), k, num_classes -> predicted classes (M,)"""
    for M, N, D, k, K, seed in ((5, 11, 3, 1, 2, 0), (7, 23, 2, 5, 3, 1), (13, 17, 4, 4, 2, 2), (3, 7, 2, 7, 5, 3)):
        new, x, y = _draw(M, D, seed=seed), _draw(N, D, seed=seed + 10), torch.arange(N) % K
        x = x * torch.linspace(0.1, 9, N, dtype=x.dtype)[:, None]  # lengths that only a cosine ignores
        similarity = F.normalize(new, dim=1) @ F.normalize(x, dim=1).T
        order = similarity.argsort(dim=1, descending=True)
        products = new @ x.T
        known = [
            (_vote(products.argsort(1, descending=True)[:, :k], y, K), "divide by the lengths: this is the product"),
            (_vote(torch.cdist(new, x).argsort(1)[:, :k], y, K), "this uses distances; the cosine ignores the length"),
            (_vote(order.flip(1)[:, :k], y, K), "this asks the pictures that are farthest away"),
            (y[order[:, 0]], "only the first neighbour has voted"),
            (order[:, 0], "these are numbers of rows; return the classes of these rows"),
        ]
        want = _vote(order[:, :k], y, K)
        known = [(value, why) for value, why in known if not torch.equal(value, want)]
        got = answer(new.clone(), x.clone(), y.clone(), k, K)
        expect(f"{M} new rows, {N} labelled, k = {k}, {K} classes", got, want, known=known)


@checker("01.balanced")
def _balanced(answer):
    """predicted (N,), y (N,) -> mean over the classes that occur of the share found"""
    cases = (
        ("three classes", [0, 0, 0, 1, 1, 2, 2, 0, 1, 2, 0], [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 1]),
        ("a constant answer", [0] * 11, [0] * 8 + [1] * 3),
        ("all right", [2, 0, 1, 1, 0], [2, 0, 1, 1, 0]),
        ("class 1 has no example", [0, 1, 2, 2, 0, 3, 0], [0, 0, 2, 2, 3, 3, 0]),
    )
    for named, predicted, y in cases:
        predicted, y = torch.tensor(predicted), torch.tensor(y)
        found = [(predicted[y == k] == k).double().mean() for k in y.unique()]
        want = (sum(found) / len(found)).item()
        precise = [(y[predicted == k] == k).double().mean() for k in predicted.unique()]
        known = [
            ((predicted == y).double().mean().item(), "this is plain accuracy: average over classes, not over rows"),
            (sum(found).item(), "this is the sum over the classes; divide by their number"),
            (sum(found).item() / (int(y.max()) + 1), "a class without an example does not count below the line either"),
            ((sum(precise) / len(precise)).item(), "this is the share of right ones among those *predicted* as k"),
            (1 - want, "this is the share of errors"),
        ]
        got = answer(predicted.clone(), y.clone())
        expect(named, got, want, known=[(value, why) for value, why in known if abs(value - want) > 1e-4])


@checker("01.labels_needed")
def _labels_needed(answer):
    """labels (n,), scores (n,), target -> labels at the first crossing, on a logarithmic axis"""
    labels, scores = [10, 30, 100, 300, 1000], [0.5, 0.7, 0.65, 0.8, 0.9]
    for target in (0.6, 0.69, 0.74, 0.85):
        want = _first_crossing(labels, scores, target)
        known = [
            (_first_crossing(labels, scores, target, straight=True), "the line is straight on a logarithmic axis"),
            (_first_crossing(labels[::-1], scores[::-1], target), "this is the last crossing, not the first"),
            (math.log10(want), "this is the logarithm of the answer"),
            (next(n for n, a in zip(labels, scores, strict=True) if a >= target), "read between the measured points"),
        ]
        known = [(value, why) for value, why in known if value is not None and abs(value - want) > 1e-3]
        expect(f"target {target}", answer(list(labels), list(scores), target), want, tolerance=1e-4, known=known)
    for target in (0.3, 0.5):
        expect(f"target {target}, at or below the start", answer(list(labels), list(scores), target), 10.0)
    expect("a measured point is met exactly", answer(list(labels), list(scores), 0.7), 30.0, tolerance=1e-4)
    never = answer(list(labels), list(scores), 0.95)
    require(never == math.inf, f"a target that is never reached: got {never}, expected np.inf")


def _first_crossing(labels, scores, target, *, straight=False):
    """The keyword draws the line on a linear axis; labels may run downwards. None: never crossed."""
    for (a, low), (b, high) in zip(
        zip(labels, scores, strict=True), zip(labels[1:], scores[1:], strict=True), strict=False
    ):
        if low != high and min(low, high) <= target <= max(low, high):
            share = (target - low) / (high - low)
            return a + share * (b - a) if straight else a * (b / a) ** share
    return None
