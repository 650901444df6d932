"""Checkers of notebook 08: the relationship of Co-Tuning, choosing by a rule, reporting."""

import torch

from sftlib.checks import Wrong, checker, expect, pair, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("08.one_standard_error")
def _one_standard_error(answer):
    """accuracy (strategies, seeds), cost (strategies,) -> index of the cheapest within a standard error of the best"""
    noise = torch.tensor([-0.03, -0.01, 0.0, 0.01, 0.03], dtype=torch.float64)  # standard error 0.01
    far = torch.tensor([-0.15, -0.05, 0.0, 0.05, 0.15], dtype=torch.float64)
    cases = [
        ("the dear best, and a cheap one 0.005 below", [0.5, 0.9, 0.895, 0.6], [1, 9, 3, 2], noise, 2),
        ("the best is the cheapest", [0.9, 0.899, 0.898], [1, 3, 9], noise, 0),
        ("the others are 0.015 and more below", [0.7, 0.885, 0.9], [1, 2, 9], noise, 2),
        ("all within one standard error", [0.895, 0.9, 0.893], [5, 9, 2], noise, 2),
        ("noisy seeds, standard error 0.05", [0.8, 0.77, 0.7], [9, 4, 1], far, 1),
    ]
    for name, means, costs, spread, want in cases:
        # the others' seeds differ little: the standard error that counts is that of the best
        rows = [m + spread * (1 if m == max(means) else 0.1) for m in means]
        accuracy, cost = torch.stack(rows), torch.tensor(costs, dtype=torch.float64)
        got = _index(answer(accuracy.clone(), cost.clone()), len(costs))
        best = int(torch.tensor(means).argmax())
        within = [i for i in range(len(means)) if means[i] >= max(means) - spread.std().item()]
        reasons = {best: "this is the best mean; a cheaper one is within one standard error of it"}
        if want == best:
            reasons = {}
        deviation = min(within, key=lambda i: costs[i])
        if deviation != want:
            reasons[deviation] = "this is too far below the best: the standard error is the deviation over √seeds"
        cheapest = int(cost.argmin())
        if cheapest not in (want, deviation):
            reasons.setdefault(cheapest, "this is the cheapest of all; it must be near the best as well")
        reasons.setdefault(want + 1, "strategies are counted from 0, as argmin does")
        why = reasons.get(got, "not the cheapest of those that are near enough to the best")
        require(got == want, f"{why} ({name}: got strategy {got}, expected another)")
    of_two = torch.stack([0.80 + noise, 0.7915 + 0.1 * noise, 0.789 + 0.1 * noise])
    two = "of two that are 0.0085 and 0.011 below, standard error 0.010, the first is near"
    slips = {0: "this standard error is too small: it is the deviation over √seeds, of accuracies as they are",
             2: "this standard error is too large: divide the deviation by √seeds, not by √(seeds − 1)"}  # fmt: skip
    for shape, rows, costs, want, known in ((two, of_two, [9, 3, 1], 1, slips), *_telling_shapes()):
        got = _index(answer(rows.clone(), torch.tensor(costs, dtype=torch.float64)), len(costs))
        why = known.get(got, "not the cheapest of those that are near enough to the best")
        require(got == want, f"{why} ({shape}: got strategy {got}, expected another)")


def _telling_shapes():
    """name, accuracy (strategies, seeds), cost, the right index, {}: other numbers of seeds, deviations that differ"""
    many = torch.linspace(-0.06, 0.06, 17, dtype=torch.float64)  # deviation 0.038, standard error 0.009
    wide, narrow = many[[0, 8, 16]], many[[7, 8, 9]]  # standard errors 0.035 and 0.004
    rows = torch.stack([0.80 + many, 0.785 + 0.1 * many, 0.5 + many])
    yield "17 seeds, the best 0.015 ahead of a cheap one, standard error 0.009", rows, [9, 3, 1], 0, {}
    rows = torch.stack([0.80 + narrow, 0.78 + wide, 0.5 + narrow])
    yield "the best 0.02 ahead of a cheap, noisy one; its own standard error 0.004", rows, [9, 3, 1], 0, {}
    rows = torch.stack([0.78 + narrow, 0.80 + wide, *[0.4 + 0.01 * i + wide for i in range(5)]])
    yield (
        "7 strategies; a quiet, cheap one 0.02 below a noisy best, standard error 0.035",
        rows,
        [1, 9, *[3] * 5],
        0,
        {},
    )
    rows = torch.stack([0.5 + many, 0.785 + 0.1 * many, 0.788 + many, 0.793 + many, 0.80 + many])
    yield "17 seeds; of the two that are 0.007 and 0.012 below, the first is near", rows, [1, 2, 3, 5, 9], 3, {}
    skewed = torch.tensor([-0.16, 0.03, 0.04, 0.04, 0.05], dtype=torch.float64)  # mean 0, median 0.04
    even = torch.tensor([-0.01, -0.005, 0.0, 0.005, 0.01], dtype=torch.float64)  # standard error 0.004
    rows = torch.stack([0.78 + skewed, 0.80 + even, 0.5 + even])
    yield "one seed of a cheap strategy fell far down: its *mean* is 0.02 below", rows, [1, 9, 3], 1, {}


@checker("08.honest")
def _honest(answer):
    """val (R,), test (R,) accuracies of R settings -> (index of the choice, the accuracy to report)"""
    for n, seed in ((13, 0), (29, 1), (11, 2)):
        val, test = 0.8 + 0.01 * _draw(n, seed=seed).clamp(-3, 3), 0.8 + 0.01 * _draw(n, seed=seed + 20).clamp(-3, 3)
        first = torch.tensor([n // 2, 1, n - 2, 3])  # best on val, test, both; worst
        val[first] = torch.tensor([0.95, 0.70, 0.92, 0.60], dtype=val.dtype)
        test[first] = torch.tensor([0.955 if seed == 2 else 0.81, 0.96, 0.94, 0.82], dtype=val.dtype)
        chosen = int(val.argmax())
        i, report = pair(answer(val.clone(), test.clone()), "two things: (index, accuracy)")
        i = _index(i, n)
        reasons = {
            int((val + test).argmax()): "the choice looks at the test accuracies too",
            int(test.argmax()): "the test accuracies were used to choose: then they no longer say what new pictures do",
            int(val.argmin()): "this is the worst on validation; choose the best",
            chosen + 1: "settings are counted from 0, as argmax does",
        }
        why = reasons.get(i, "choose by the best validation accuracy")
        require(i == chosen, f"{why} (of {n} settings: got {i}, expected another)")
        known = [
            (val[chosen], "this is the validation accuracy of the winner: it won partly by luck, so it flatters"),
            (test.max(), "this is the best test accuracy of all, not that of the setting which was chosen"),
            ((val[chosen] + test[chosen]) / 2, "this is the mean of both; the validation accuracy flatters"),
            (test.mean(), "report the chosen setting's test accuracy, not the mean of all"),
        ]
        expect(f"what to report for one of {n} settings", report, test[chosen], known=known)


@checker("08.relationship")
def _relationship(answer):
    """p (N, S) source probabilities, y (N,), K -> (K, S): what the source head says of each target class"""
    for N, S, K, seed in ((11, 5, 3, 0), (17, 7, 2, 1), (7, 2, 7, 2)):
        p = _draw(S, N, seed=seed).softmax(0).T  # not contiguous
        y = torch.cat([torch.full((2,), K - 1), torch.arange(N - 2) % K]) if K < N else torch.arange(N).flip(0)
        member = (y == torch.arange(K)[:, None]).double()  # (K, N)
        want = member @ p / member.sum(1, keepdim=True)
        winners = (member @ torch.eye(S, dtype=p.dtype)[p.argmax(1)]) / member.sum(1, keepdim=True)
        known = [
            (member @ p, "these are sums; divide by the number of pictures of each class, and each row sums to 1"),
            (want.T, "a row is a target class, a column a source class"),
            (member @ p / N, "divide by the number of pictures *of the class*, not by all"),
            (winners, "these count the most probable class; the mean of the probabilities keeps the rest as well"),
            (want / want.sum(0), "the rows are to sum to 1, not the columns"),
        ]
        expect(f"{N} pictures, {S} source and {K} target classes", answer(p.clone(), y.clone(), K), want, known=known)


def _index(value, n):
    try:
        i = int(value)
        require(i == float(value), f"got {value}, expected a whole number, the index of one of {n}")
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"got {type(value).__name__}, expected the index of one of {n}") from None
    require(0 <= i < n, f"got {i}, expected an index from 0 to {n - 1}")
    return i
