"""Checkers of notebook 07: neighbours, regret, ties."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import weightedtau

from sftlib.checks import checker, expect, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("07.regret")
def _regret(answer):
    """scores (M,), truth (M,) -> accuracy lost by the favourite; of several, the mean"""
    cases = (
        ("one favourite", [0.3, -0.1, 2.0, 1.0], [0.91, 0.62, 0.83, 0.77]),
        ("four favourites", [2.0, 2.0, -5.0, 1.0, 2.0, 2.0], [0.6, 0.9, 0.5, 0.95, 0.3, 0.7]),
        ("the favourite is the best", [5.0, 1.0, 3.0], [0.7, 0.5, 0.6]),
        ("negative scores", [-3.0, -1.0, -2.0], [0.9, 0.55, 0.7]),
        ("two favourites", [4.0, 1.0, 4.0, 0.0], [0.5, 0.9, 0.8, 0.3]),
        ("all scores equal", [1.0, 1.0, 1.0], [0.6, 0.9, 0.3]),
        ("two scores that are near, not equal", [0.914, 0.912, 0.3], [0.5, 0.8, 0.9]),
    )
    for named, scores, truth in cases:
        scores, truth = np.array(scores), np.array(truth)
        chosen = scores == scores.max()
        want = truth.max() - truth[chosen].mean()
        known = [
            (truth[chosen].mean(), "this is the favourite's accuracy; regret is what the best has more"),
            (-want, "the sign is turned: the best minus the favourite"),
            (truth.max() - truth[scores.argmin()], "this takes the lowest score; higher is better"),
            (scores.max() - scores[truth.argmax()], "this compares scores; regret is in accuracy"),
            (truth.max() - truth[scores.argmax()], "of several favourites this takes the first; take their mean"),
            (truth.max() - truth[chosen].max(), "of several favourites this takes the best; take their mean"),
            (truth.max() - truth[chosen].min(), "of several favourites this takes the worst; take their mean"),
            (truth.max() - np.median(truth[chosen]), "of several favourites this takes the median; take their mean"),
            (
                truth.max() - truth[len(truth) - 1 - scores[::-1].argmax()],
                "of several favourites this takes the last; take their mean",
            ),
            (truth.max() - truth[np.abs(scores).argmax()], "a negative score stays below all positive ones"),
        ]
        known = [(value, mistake) for value, mistake in known if abs(value - want) > 1e-4]
        expect(named, answer(scores.copy(), truth.copy()), want, known=known)


@checker("07.leave_one_out")
def _leave_one_out(answer):
    """z (N, D), y (N,) -> accuracy of the nearest other by cosine similarity"""
    for number, (N, D, K) in enumerate(((37, 3, 3), (31, 5, 2), (17, 2, 5))):
        y = torch.arange(N) % K
        z = F.one_hot(y, max(K, D))[:, :D].double() + 0.6 * _draw(N, D, seed=number)
        z = z * _draw(N, 1, seed=number + 10).exp()  # lengths differ, directions stay
        u = F.normalize(z, dim=1)
        off = torch.eye(N, dtype=torch.bool)
        want = _share(y, (u @ u.T).masked_fill(off, -torch.inf))
        known = [
            (1.0, "every picture votes for itself here; its nearest neighbour must be another one"),
            (_share(y, (z @ z.T).masked_fill(off, -torch.inf)), "divide each row by its length first: cosine"),
            (_share(y, -torch.cdist(z, z).masked_fill(off, torch.inf)), "these are distances; use cosine similarity"),
            (
                _share(y, -(u @ u.T).masked_fill(off, torch.inf)),
                "this takes the farthest; the nearest has the largest",
            ),
            (1 - want, "this is the share of errors"),
            (_share(y, (u @ u.T).abs().masked_fill(off, -torch.inf)), "a cosine near -1 is far, not near"),
            (_second(y, (u @ u.T).masked_fill(off, -torch.inf)), "this takes the second nearest of the others"),
            (N * want, "this is a count; divide by the number of pictures"),
        ]
        known = [(value, mistake) for value, mistake in known if abs(value - want) > 1e-9]
        expect(f"{N} pictures", answer(z.clone(), y.clone()), want, known=known)
    why = "all others have a negative cosine here: 0 on the diagonal makes every picture its own neighbour"
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.1]])
    expect("two pictures that point away", answer(opposite.clone(), torch.tensor([0, 1])), 0.0, known=[(1.0, why)])
    angles = torch.tensor([0.0, 110.0, 230.0]).deg2rad()
    z = torch.stack([angles.cos(), angles.sin()]).T  # not contiguous
    known = [(1.0, why), (0.0, "a negative cosine is not 0: some are nearer than others")]
    expect("three pictures that point away", answer(z.clone(), torch.tensor([0, 1, 1])), 1 / 3, known=known)
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.1, 1.0]])  # the first two have one direction
    known = [(0.0, "a duplicate is another picture: exclude the diagonal, not every similarity of 1")]
    expect("three pictures, two of one direction", answer(z.clone(), torch.tensor([0, 0, 1])), 2 / 3, known=known)


def _share(y, similarity):
    return (y[similarity.argmax(1)] == y).double().mean().item()


def _second(y, similarity):
    return (y[similarity.topk(2, 1).indices[:, 1]] == y).double().mean().item()


@checker("07.ties")
def _ties(answer):
    """scores (M,), truth (M,) -> weighted tau, where what differs by rounding is equal and what is constant gives 0"""
    truth = np.array([0.81, 0.74, 0.69, 0.52, 0.33])
    apart = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    rounding = 1e-13 * np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    turned = weightedtau(truth, -apart).statistic
    want = weightedtau(truth, apart).statistic
    expect("scores apart", answer(apart.copy(), truth.copy()), want, known=[
        (turned, "the sign is turned: higher scores are better"),
        (-want, "the sign is turned: higher scores are better"),
        (weightedtau(truth, apart, rank=None).statistic, "leave SciPy's `rank` as it is"),
    ])  # fmt: skip
    expect("small scores apart", answer(1e-9 * apart, truth.copy()), want, known=[
        (0.0, "a millionth *of the largest*: divide by it before rounding"),
    ])  # fmt: skip
    ranked = weightedtau(truth, rounding).statistic
    for named, scores in (("all scores 1", np.ones(5)), ("all scores 0", np.zeros(5)), ("all −7", np.full(5, -7.0))):
        got = answer(scores, truth.copy())
        require(not np.isnan(np.float64(got)), f"{named}: got nan; a constant score gets 0")
        expect(named, got, 0.0)
    expect("scores 3, but for rounding", answer(3 + rounding, truth.copy()), 0.0, known=[
        (ranked, "these scores differ by rounding only: make them equal first"),
    ])  # fmt: skip
    two = np.array([5.0, 5.0, 1.0, 1.0, 1.0])
    expect("two ties, but for rounding", answer(two - rounding, truth.copy()), weightedtau(truth, two).statistic)
    for largest in (4.0, 7e6):
        near = largest * np.array([0.25, 1.0 - 3e-7, 1.0, 0.5 + 3e-7, 0.5])
        far = largest * np.array([0.25, 1.0 - 4e-6, 1.0, 0.5 + 4e-6, 0.5])
        tied = weightedtau(truth, np.array([1, 3, 3, 2, 2])).statistic
        expect(f"0.3 millionths apart, the largest is {largest:g}", answer(near, truth.copy()), tied, known=[
            (weightedtau(truth, near).statistic, "scores less than a millionth of the largest apart are equal"),
        ])  # fmt: skip
        expect(f"4 millionths apart, the largest is {largest:g}", answer(far, truth.copy()),
               weightedtau(truth, far).statistic, known=[
            (tied, "scores that differ by more than a millionth of the largest are not equal"),
        ])  # fmt: skip
    _of_the_largest(answer, truth)
    expect("negative scores", answer(-apart, truth.copy()), turned)
    expect("truth constant", answer(apart.copy(), np.full(5, 0.5)), 0.0)


def _of_the_largest(answer, truth):
    """Scores whose ties depend on what a millionth is taken of"""
    small = np.array([1.0, 1e-7, 3e-7, 2e-7, 0.5])
    expect("three that are near to 0", answer(small.copy(), truth.copy()),
           weightedtau(truth, np.array([2, 0, 0, 0, 1])).statistic, known=[
        (weightedtau(truth, small).statistic, "a millionth *of the largest*, not of the two that are compared"),
    ])  # fmt: skip
    many = np.linspace(0.9, 0.3, 11)
    steps = 1 - 2e-6 * np.array([3, 0, 5, 1, 8, 10, 2, 6, 4, 9, 7])
    expect("eleven, 2 millionths apart", answer(steps.copy(), many.copy()), weightedtau(many, steps).statistic, known=[
        (weightedtau(many, np.round(steps / size, 6)).statistic, f"divide by the largest, not by the {what}")
        for what, size in (("sum", steps.sum()), ("length (the root of the sum of squares)", np.linalg.norm(steps)))
    ])  # fmt: skip
