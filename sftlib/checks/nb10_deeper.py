"""Checkers of notebook 10, going deeper: attention with a mask, LoRA's gradients, accuracy within subjects."""

from itertools import product

import torch

from sftlib.checks import Wrong, checker, expect, numeric, pair, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("10.attend")
def _attend(answer):
    """scores (N, T, T), mask (N, T) -> weights (N, T, T): each real token's row a softmax over the real tokens"""
    for N, T, seed in ((3, 5, 0), (2, 7, 1), (1, 3, 2), (5, 2, 3)):
        scores, mask = 2 * _draw(N, T, T, seed=seed), _mask(N, T, seed)
        want = scores.masked_fill(~mask[:, None], -torch.inf).softmax(2)
        got = numeric("weights", answer(scores.clone(), mask.clone()))
        require(got.shape == want.shape, f"got shape {tuple(got.shape)}, expected {tuple(want.shape)}")
        known = [(value[mask], why) for value, why in _attend_slips(scores, mask)]
        if got[mask].isnan().any():
            named = [why for value, why in known if torch.allclose(value, got[mask], equal_nan=True)]
            raise Wrong("; or: ".join(named) or "a real token's row holds NaN: it must keep a token to look at, itself")
        expect(f"the rows of real tokens, {N} texts of up to {T}", got[mask], want[mask], known=known)
    _survives_large_scores(answer)


def _mask(N, T, seed):
    """Texts of 1 to T tokens, the first two of T and of fewer; in odd cases padding stands on the left"""
    lengths = torch.arange(N) * 3 % T + 1
    lengths[0] = T if N > 1 else T - 1
    mask = torch.arange(T) < lengths[:, None]
    return mask.flip(1) if seed % 2 else mask


def _attend_slips(scores, mask):
    seen, real = mask[:, None], mask[:, None].double()
    known = [
        (scores.softmax(2), "padding gets weight: the mask is not used"),
        (scores.softmax(2) * real, "after the softmax it is too late: what is left of a row no longer adds up to 1"),
        ((scores * real).softmax(2), "a score of 0 is not a weight of 0, for exp(0) = 1"),
        (scores.masked_fill(~seen, -torch.inf).softmax(1), "the softmax goes along the wrong axis: a row adds up to 1"),
        (scores.masked_fill(~mask[..., None], -torch.inf).softmax(2),
         "this masks who looks (the rows), not who is looked at (the columns)"),
        ((scores + real).softmax(2), "adding 1 to the real tokens leaves padding its weight; take −∞ there"),
        ((scores + real - 1).softmax(2), "−1 is far too little to be no weight: take −∞"),
        (scores.masked_fill(~seen, -torch.inf).sigmoid(), "a sigmoid looks at each score alone; a row adds up to 1"),
        (scores.exp() * real, "divide by the sum of the row"),
        (scores.masked_fill(~seen, -torch.inf).log_softmax(2), "these are logarithms of the weights"),
        (scores * real / (scores * real).sum(2, keepdim=True), "the exponential of the scores is missing"),
        (real / real.sum(2, keepdim=True) + 0 * scores, "this looks at all real tokens alike: the scores are not used"),
    ]  # fmt: skip
    turned = scores.masked_fill(seen, -torch.inf).softmax(2)
    return [*known, (turned, "the mask is turned round: it is True where a token is real")]


def _survives_large_scores(answer):
    scores = torch.tensor([[[900.0, 0.0, -900.0], [0.0, 899.0, 3.0], [1.0, 1.0, 1.0]]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    want = scores.masked_fill(~mask[:, None], -torch.inf).softmax(2)
    got = numeric("weights", answer(scores.clone(), mask.clone()))
    why = "exp of a large score is not finite: take the largest of the row off first, or torch.softmax, which does"
    require(not got[mask].isnan().any() and not got[mask].isinf().any(), why)
    expect("scores of up to 900", got[mask], want[mask])


@checker("10.lora_gradients")
def _lora_gradients(answer):
    """G = dL/dW' (P, Q), A (r, Q), B (P, r), alpha -> (dL/dA (r, Q), dL/dB (P, r)) of W' = W + alpha / r · B A"""
    for P, Q, r, alpha, zero in ((5, 7, 3, 16, False), (3, 11, 2, 3.0, False), (7, 3, 1, 5, False), (5, 3, 2, 7, True)):
        G, A, B = _draw(P, Q, seed=P), _draw(r, Q, seed=Q), _draw(P, r, seed=r + 20)
        B = 0 * B if zero else B
        names = f"G {(P, Q)}, A {(r, Q)}, B {(P, r)}"
        try:
            given = answer(G.clone(), A.clone(), B.clone(), alpha)
        except RuntimeError as error:
            if "shapes" not in str(error) and "size" not in str(error):
                raise
            raise Wrong(f"shapes do not fit for {names}: a gradient has the shape of what it belongs to ({error})") \
                from None  # fmt: skip
        of_A, of_B = pair(given, "two things: (dL/dA, dL/dB)")
        s, where = alpha / r, f"{names}, α = {alpha}" + (", B = 0" if zero else "")
        _expect_gradient(f"{where}: dL/dA", of_A, B.T @ G, s, alpha, r, other=(G @ A.T))
        _expect_gradient(f"{where}: dL/dB", of_B, G @ A.T, s, alpha, r, other=(B.T @ G))


def _expect_gradient(what, got, product_, s, alpha, r, *, other):
    got = numeric(what, got)
    require(got.shape != other.shape, f"{what}: this has the shape of the other one: first dL/dA, then dL/dB")
    require(got.shape != product_.T.shape or got.shape == product_.shape, f"{what}: this is its transpose")
    known = [
        (product_, "the scale α / r is missing"),
        (alpha * product_, "divide by the rank r: the scale is α / r"),
        (product_ / r, "α is missing: the scale is α / r"),
        (s**2 * product_, "the scale α / r stands once in W', so once in the gradient"),
        (-s * product_, "the sign is turned: this is the direction of the step"),
        (r / alpha * product_, "the scale stands on its head: α / r"),
        (s * product_ / len(product_), "a sum, not a mean over the rows"),
    ]
    expect(what, got, s * product_, known=known)


@checker("10.within")
def _within(answer):
    """right (n,) bool, y (n,) 0 or 1, subjects (n names) -> accuracy in [0, 1] that the subject alone cannot raise"""
    for counts, seed in (
        ({"cars": (5, 2), "phones": (1, 3)}, 0),
        ({"a": (7, 1), "b": (2, 11), "c": (3, 3)}, 1),
        ({"one": (2, 5)}, 2),
    ):
        rows = [(s, k) for s, pair_ in counts.items() for k in (0, 1) for _ in range(pair_[k])]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        subjects, y = [rows[i][0] for i in order], torch.tensor([rows[i][1] for i in order])
        right = _draw(len(rows), seed=seed + 5) > -0.3
        want, known = _within_by_hand(right, y, subjects)
        got = answer(right.clone(), y.clone(), list(subjects))
        expect(f"{len(counts)} subjects, {len(rows)} texts", got, want, known=known)
        said = torch.tensor([counts[s][1] > counts[s][0] for s in subjects])
        blind = answer(said == y, y.clone(), list(subjects))
        expect("answers that follow the subject alone", blind, 0.5, known=[
            ((said == y).double().mean(), "this is the plain accuracy: the subject alone raises it")])  # fmt: skip


def _within_by_hand(right, y, subjects):
    """-> what is wanted, and what typical mistakes give"""
    right, names = right.double(), list(dict.fromkeys(subjects))
    of = {(s, k): right[[a == s and int(b) == k for a, b in zip(subjects, y, strict=True)]]
          for s, k in product(names, (0, 1))}  # fmt: skip
    each = {s: (of[s, 0].mean() + of[s, 1].mean()) / 2 for s in names}
    size = {s: len(of[s, 0]) + len(of[s, 1]) for s in names}
    want = sum(each[s] * size[s] for s in names) / len(right)
    best = sum(torch.maximum(of[s, 0].mean(), of[s, 1].mean()) * size[s] for s in names) / len(right)
    known = [
        (right.mean(), "this is the plain accuracy: the subject alone raises it"),
        (sum(each.values()) / len(each), "each subject counts by its number of texts, not all alike"),
        ((right[y == 0].mean() + right[y == 1].mean()) / 2,
         "this balances the classes over all texts; balance them within each subject"),
        (sum(torch.cat([of[s, 0], of[s, 1]]).mean() for s in names) / len(names),
         "within a subject, its two classes must count alike"),
        (100 * want, "this is in percent; a share lies between 0 and 1"),
        (1 - want, "this is the share of errors"),
        (best, "take the mean of the two classes, not the better one"),
        *((sum(of[s, k].mean() * size[s] for s in names) / len(right), f"this is {kind} texts alone; take both")
          for k, kind in enumerate(("negative", "positive"))),
        (sum(each[s] * size[s] for s in names), "divide by the number of texts"),
        (sum(each.values()), "divide by what was added up: weigh each subject by its texts, divide by all texts"),
    ]  # fmt: skip
    return want, known
