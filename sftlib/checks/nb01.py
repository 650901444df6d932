"""Checkers of notebook 01."""

import math

import numpy as np
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
    # the first has so many rows that no two mistakes give the same classes
    sizes = ((61, 23, 3, 5, 3, 1), (5, 11, 3, 1, 2, 0), (13, 17, 4, 4, 2, 2), (3, 7, 2, 7, 5, 3), (1, 5, 3, 3, 11, 4))
    for M, N, D, k, K, seed in sizes:
        new, x = _draw(M, D, seed=seed), _draw(N, D, seed=seed + 10)
        lengths = torch.linspace(0.1, 9, N, dtype=x.dtype)[torch.arange(N).mul(3) % N, None]  # only a cosine ignores
        _one_vote(answer, new, x * lengths, torch.arange(N) % K, k, K)
    x = _draw(19, 3, seed=5).abs()
    _one_vote(answer, -_draw(41, 3, seed=6).abs(), x.T.contiguous().T, torch.arange(19) % 3, 2, 3)  # none is near
    _one_vote(answer, _draw(43, 3, seed=7), _draw(29, 3, seed=8), torch.arange(29) % 7, 1, 7)


def _one_vote(answer, new, x, y, k, K):
    similarity = F.normalize(new, dim=1) @ F.normalize(x, dim=1).T
    order = similarity.argsort(dim=1, descending=True)
    want = _vote(order[:, :k], y, K)
    known = _other_votes(new, x, y, k, K, similarity, order) if len(new) > 40 else [
        (order[:, 0], "these are numbers of rows; return the classes of these rows"),
    ]  # fmt: skip
    known = [(value, why) for value, why in known if not torch.equal(value, want)]
    got = answer(new.clone(), x.clone(), y.clone(), k, K)
    expect(f"{len(new)} new rows, {len(x)} labelled, k = {k}, {K} classes", got, want, known=known)


def _other_votes(new, x, y, k, K, similarity, order):
    """The classes that typical mistakes give, and the mistakes"""

    def by(scores):
        return _vote(scores.argsort(1, descending=True)[:, :k], y, K)

    votes, centre = F.one_hot(y[order[:, :k]], K).sum(1), x.mean(0)
    return [
        (by(new @ x.T), "divide by the lengths: this is the product"),
        (by(new @ F.normalize(x, dim=0).T), "divide each row by its length, not each column"),
        (by(F.normalize(new - centre, dim=1) @ F.normalize(x - centre, dim=1).T), "nothing is centred here"),
        (by(-torch.cdist(new, x)), "this uses distances; the cosine ignores the length"),
        (by(-similarity), "this asks the pictures that are farthest away"),
        (by(similarity.abs()), "a cosine near -1 is far, not near"),
        (_vote(similarity.relu().topk(k).indices, y, K), "a negative cosine is not 0: some are nearer than others"),
        (y[order[:, 0]], "only the first neighbour has voted"),
        (order[:, 0], "these are numbers of rows; return the classes of these rows"),
        (_vote(order[:, : k + 1], y, K), "one neighbour too many has voted"),
        (_vote(order[:, : k - 1], y, K), "one neighbour too few has voted"),
        (_vote(order[:, 1 : k + 1], y, K), "the nearest must vote too: new rows are not among the labelled ones"),
        (K - 1 - votes.flip(1).argmax(1), "of classes with equally many votes the lowest number wins"),
        (votes.argmin(1), "this is the class with the fewest votes"),
    ]


@checker("01.balanced")
def _balanced(answer):
    """predicted (N,), y (N,) -> mean over the classes that occur of the share found"""
    cases = (
        ("no example of class 1, none called 3 or 4", [0, 1, 2, 2, 0, 0, 0], [0, 0, 2, 2, 3, 4, 0]),
        ("three classes", [0, 0, 0, 1, 1, 2, 2, 0, 1, 2, 0], [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 1]),
        ("a constant answer", [0] * 11, [0] * 8 + [1] * 3),
        ("all right", [2, 0, 1, 1, 0], [2, 0, 1, 1, 0]),
        ("class 1 has no example", [0, 1, 2, 2, 0, 3, 0], [0, 0, 2, 2, 3, 3, 0]),
        ("class 0 has no example", [0, 1, 2, 2, 1], [1, 1, 2, 1, 1]),
        ("all wrong", [1, 0, 2], [0, 1, 1]),
        ("one picture", [4], [4]),
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
            (100 * want, "this is in percent; a share lies between 0 and 1"),
            (
                _mean_found(predicted, y, predicted.unique()),
                "the classes are those that occur in y, not those predicted",
            ),
        ]
        got = answer(predicted.clone(), y.clone())
        expect(named, got, want, known=[(value, why) for value, why in known if abs(value - want) > 1e-4])


def _mean_found(predicted, y, classes):
    return torch.stack([(predicted[y == k] == k).double().mean() for k in classes]).nan_to_num().mean().item()


@checker("01.labels_needed")
def _labels_needed(answer):
    """labels (n,), scores (n,), target -> labels at the first crossing, on a logarithmic axis"""
    answer, labels, scores = _lists_or_arrays(answer), [10, 30, 100, 300, 1000], [0.5, 0.6875, 0.625, 0.8125, 0.875]
    for target in (0.6, 0.66, 0.75, 0.85):
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
    dips = 10 ** np.interp(0.6875, scores, np.log10(labels)), "np.interp wants a curve that never dips; this one does"
    got = answer(list(labels), list(scores), 0.6875)
    expect("a measured point is met exactly", got, 30.0, tolerance=1e-4, known=[dips])
    expect("the last point is met exactly", answer(list(labels), list(scores), 0.875), 1000.0, tolerance=1e-4)
    expect("target 0.75; the curve ends below", answer([2, 8, 32], [0.5, 1.0, 0.5], 0.75), 4.0, tolerance=1e-4)
    why = "the curve starts at or above the target; what it does later does not count"
    for start in (0.875, 0.75):
        known = [(_first_crossing([10, 30, 100], v, 0.75), why) for v in ((start + 1e-9, 0.5, 0.9), (0, 0.5, 0.9))]
        got = answer([10, 30, 100], [start, 0.5, 0.9], 0.75)
        expect(f"target 0.75; the curve starts at {start} and dips", got, 10.0, known=known)
    expect("target 0.6; the curve falls, and rises late", answer([2, 8, 32], [0.5, 0.4, 0.8], 0.6), 16.0)
    never = answer(list(labels), list(scores), 0.95)
    require(never == math.inf, f"a target that is never reached: got {never}, expected np.inf")


def _lists_or_arrays(answer):
    """The function, which gets arrays where it cannot do with lists"""

    def call(labels, scores, target):
        try:
            return answer(list(labels), list(scores), target)
        except (TypeError, AttributeError):
            return answer(np.array(labels), np.array(scores), target)

    return call


def _first_crossing(labels, scores, target, *, straight=False):
    """The keyword draws the line on a linear axis; labels may run downwards. None: never crossed."""
    for (a, low), (b, high) in zip(
        zip(labels, scores, strict=True), zip(labels[1:], scores[1:], strict=True), strict=False
    ):
        if low != high and min(low, high) <= target <= max(low, high):
            share = (target - low) / (high - low)
            return a + share * (b - a) if straight else a * (b / a) ** share
    return None
