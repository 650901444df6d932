"""Checkers of notebook 15."""

import torch
import torch.nn.functional as F

from sftlib.checks import Wrong, checker, expect, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("15.thresholds")
def _thresholds(answer):
    """p (N, K), y (N,) -> t (K,), the mean of p_j over the rows labelled j"""
    for number, (N, K) in enumerate(((23, 3), (11, 2), (29, 5), (7, 7))):
        p = (1.5 * _draw(N, K, seed=number)).softmax(1)
        y = torch.arange(N).flip(0) % K
        y[: N // 3] = y[0]  # classes of unequal size
        y[-K:] = torch.arange(K)
        want = torch.stack([sum(p[i, j] for i in range(N) if y[i] == j) / (y == j).sum() for j in range(K)])
        own, said = p[torch.arange(N), y], p.argmax(1)
        known = [
            (p.mean(0), "this is the mean over all pictures; take those that are labelled j"),
            (own.mean(), "this is one mean over all classes; each class has a threshold of its own"),
            (own.mean().expand(K), "this is one mean over all classes; each class has a threshold of its own"),
            (torch.stack([p[y == j].mean() for j in range(K)]), "this averages over the columns too: take column j"),
            (torch.stack([p[y == j, j].sum() for j in range(K)]), "these are sums; divide by how many are labelled j"),
            (torch.stack([p[y == j, j].sum() / N for j in range(K)]), "divide by how many are labelled j, not by N"),
            (torch.stack([p[y == j, j].median() for j in range(K)]), "this is the median; take the mean"),
            (torch.stack([p[y == j, j].max() for j in range(K)]), "this is the largest; take the mean"),
            (torch.stack([p[y == j, j].min() for j in range(K)]), "this is the smallest; take the mean"),
            (torch.stack([p[y == j].amax(1).mean() for j in range(K)]),
             "this is the mean of the largest probability; take that of class j"),
            (torch.stack([p[y != j, j].mean() for j in range(K)]), "these are the rows of the other labels"),
        ]  # fmt: skip
        if all((said == j).any() for j in range(K)):
            by_guess = torch.stack([p[said == j, j].mean() for j in range(K)])
            known.append((by_guess, "this takes the rows that are predicted j; take those that are labelled j"))
        expect(f"{N} pictures, {K} classes", answer(p.clone(), y.clone()), want, known=known)


@checker("15.leave_out")
def _leave_out(answer):
    """pairs, part -> rows: no pair stays whole, test rows go for test rows alone, nothing goes without a reason"""
    cases = (
        ("a copy of a test picture in train", [(1, 4)], ["val", "train", "train", "val", "test"]),
        ("the same with the test picture first", [(0, 3)], ["test", "train", "val", "train"]),
        ("val and test", [(0, 2)], ["test", "train", "val"]),
        ("two in train", [(0, 1)], ["train", "train", "val", "test"]),
        ("two in test", [(1, 2)], ["train", "test", "test"]),
        ("three copies", [(0, 1), (0, 2), (1, 2)], ["train", "test", "train", "val"]),
        ("three copies, two in test", [(0, 1), (0, 2), (1, 2)], ["test", "train", "test"]),
        ("three copies, their pairs turned", [(1, 0), (0, 2), (2, 1)], ["train", "train", "train", "test"]),
        ("three copies in three parts", [(0, 1), (0, 2), (1, 2), (3, 4)],
         ["train", "val", "test", "train", "test", "train"]),
        ("four copies, the pair of test and val first", [(2, 1), (1, 3), (0, 1), (0, 2), (3, 0), (2, 3)],
         ["train", "val", "test", "val", "test"]),
        ("no copies", [], ["train", "val", "test"]),
    )  # fmt: skip
    for named, pairs, part in cases:
        got = answer(list(pairs), list(part))
        try:
            gone = {int(i) for i in got}
        except TypeError:
            raise Wrong(f"{named}: got a {type(got).__name__}, expected a set of row numbers") from None
        _judge(named, pairs, part, gone)


def _judge(named, pairs, part, gone):
    story = f"{named}, pairs {pairs}, parts {part}: leaving out {sorted(gone)}"
    require(gone <= set(range(len(part))), f"{story} names a row that is not there; rows count from 0")
    for i, j in pairs:
        require(bool({i, j} & gone), f"{story} leaves the pair ({i}, {j}) whole")
    inside = {i for pair in pairs for i in pair}
    require(gone <= inside, f"{story} takes rows that are in no pair")
    for row in (r for r in gone if part[r] == "test"):
        tested = any(part[i] == part[j] == "test" for i, j in pairs if row in (i, j))
        require(tested, f"{story} takes test row {row}, whose copies lie in other parts: those go")
    components = _together(pairs)
    for group in components:
        require(not group <= gone, f"{story} takes every copy of one picture; one can stay")


def _together(pairs):
    groups = []
    for pair in pairs:
        new = set(pair).union(*(g for g in groups if g & set(pair)))
        groups = [g for g in groups if not g & new] + [new]
    return groups


@checker("15.class_weights")
def _class_weights(answer):
    """y (N,), K -> w (K,) ∝ 1/n_k with a mean of w_y of 1"""
    for counts in ((11, 3, 5), (2, 13), (1, 1, 7, 3, 5), (4, 4, 4)):
        K, N = len(counts), sum(counts)
        y = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
        y = y[torch.randperm(N, generator=torch.Generator().manual_seed(N))]
        n = torch.tensor(counts, dtype=torch.float64)
        want = torch.tensor([N / (K * c) for c in counts], dtype=torch.float64)
        known = [
            (1 / n, "the ratios are right; scale them so that the mean over the pictures is 1"),
            (n / N, "this is the share of each class; frequent ones would count even more"),
            (n, "these are the counts; weights fall where counts rise"),
            (N / n, "the mean over the pictures is then K; it has to be 1"),
            (1 / n / (1 / n).sum(), "these sum to 1 over the classes; the mean over the pictures has to be 1"),
            (K / n / (1 / n).sum(), "their mean over the classes is 1; that over the pictures has to be"),
            (n.max() / n, "the most frequent class has weight 1; the mean over the pictures has to be 1"),
            (n.min() / n, "the rarest class has weight 1; the mean over the pictures has to be 1"),
            (n.mean() / n.sqrt(), "the root of the counts is too gentle: classes would not count alike"),
            (want[y], "this is one weight a picture; expected one a class, (K,)"),
        ]
        expect(f"classes of {list(counts)} pictures", answer(y.clone(), K), want, known=known)


@checker("15.cross_entropy_at")
def _cross_entropy_at(answer):
    """logits (N, K), y, T -> the mean of −log softmax(logits / T) at the true class"""
    cases = ((13, 3, 1.0, 2.0), (11, 5, 2.5, 3.0), (7, 2, 0.4, 1.0), (17, 4, 3.0, 30_000.0))
    for seed, (N, K, T, scale) in enumerate(cases):
        z, y = scale * _draw(N, K, seed=seed), torch.arange(N) % K
        want = -sum((z[i, y[i]] / T - torch.logsumexp(z[i] / T, 0)) for i in range(N)) / N
        p = z.softmax(1)
        known = [
            (F.cross_entropy(z * T, y), "this multiplies by T; the logits are divided"),
            (F.cross_entropy(z, y) / T, "this divides the loss; T divides the logits, before softmax"),
            (F.cross_entropy(z, y), "T does nothing here; it divides the logits"),
            (F.cross_entropy(p / T, y), "softmax comes once, after the division"),
            (F.cross_entropy((z / T).softmax(1), y), "cross_entropy takes logits: softmax is in it already"),
            (-want, "the sign is turned: minus the log of the probability"),
            (want * N, "this is the sum; take the mean over the pictures"),
            (want / torch.tensor(2.0).double().log(), "this is in bits; nats take the natural logarithm"),
            (-(z / T).softmax(1)[torch.arange(N), y].mean(), "the logarithm is missing"),
            (-(z / T).softmax(1)[torch.arange(N), y].mean().log(), "the mean comes after the logarithm, not before"),
            (F.cross_entropy(z / T, y) / K, "the mean is over the pictures, not over the classes too"),
        ]
        named = f"{N} pictures, {K} classes, T = {T}" + (", logits of ten thousands" if scale > 100 else "")
        expect(named, answer(z.clone(), y.clone(), T), want, known=[k for k in known if torch.isfinite(k[0]).all()])


@checker("15.activation_map")
def _activation_map(answer):
    """h (C, H, W), W (K, C), k -> ReLU(Σ_c W_kc h_c), the largest value 1"""
    for seed, (C, K, H, width, k) in enumerate(((5, 3, 7, 11, 2), (2, 2, 3, 5, 0), (7, 11, 4, 4, 10))):
        h, W = _draw(C, H, width, seed=seed), _draw(K, C, seed=seed + 10)
        raw = sum(W[k, c] * h[c] for c in range(C))
        want = raw.clamp(min=0) / raw.max()
        before = torch.einsum("c,chw->hw", W[k].relu(), h.relu())
        known = [
            (raw.clamp(min=0), "the largest value has to be 1"),
            (raw / raw.max(), "negative values speak against the class: set them to 0"),
            (raw.abs() / raw.abs().max(), "negative values become 0, not positive"),
            (raw.sigmoid(), "no sigmoid: ReLU, then divide by the largest value"),
            (
                (raw - raw.min()) / (raw.max() - raw.min()),
                "0 is where nothing speaks for the class: ReLU, no stretching",
            ),
            (before / before.max(), "ReLU comes after the sum over the channels"),
            (h.mean(0).relu() / h.mean(0).relu().max(), "each channel counts by its weight for class k"),
            (raw.relu() / raw.relu().sum(), "divide by the largest value, not by the sum"),
        ]
        other = torch.einsum("c,chw->hw", W[(k + 1) % K], h).relu()
        known += [(other / other.max(), "this is the row of another class")] if other.max() > 0 else []
        expect(f"{C} channels, class {k} of {K}", answer(h.clone(), W.clone(), k), want, known=known)
        known.append((raw.relu() / 10, "the largest value has to be 1 where all are small, too"))
        expect("the same maps, a tenth as large", answer(h / 10, W.clone(), k), want, known=known)
    h, W = _draw(3, 2, 5, seed=20).abs() + 0.5, _draw(2, 3, seed=21).abs() + 0.5
    raw = torch.einsum("c,chw->hw", W[1], h)
    stretched = (raw - raw.min()) / (raw.max() - raw.min())
    known = [(stretched, "0 is where nothing speaks for the class: ReLU, no stretching of what is positive everywhere")]
    expect("a picture in which everything speaks for the class", answer(h, W, 1), raw / raw.max(), known=known)
    zero = answer(-torch.ones(3, 2, 5), torch.ones(2, 3), 1)
    expect("a picture in which nothing speaks for the class", zero, torch.zeros(2, 5))
