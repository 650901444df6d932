"""Checkers of notebook 11, going deeper: rounding at random, the last real token, what a token weighs."""

import torch

from sftlib.checks import checker, expect, numeric, require

STEPS = 64  # values of u for each w


def _neighbours(w):
    """w (P,) float32 -> the largest bfloat16 number <= w, the smallest >= w"""
    near = w.bfloat16()
    inf = torch.full_like(near, torch.inf)
    below = torch.where(near.float() > w, torch.nextafter(near, -inf), near)
    above = torch.where(near.float() < w, torch.nextafter(near, inf), near)
    return below.double(), above.double()


@checker("11.round_at_random")
def _round_at_random(answer):
    """w (P,), u (P,) uniform in [0, 1) -> below or above, so that the mean over u is w"""
    values = torch.tensor([1.003, -1.003, 0.02134, -0.02134, 3.011, -0.7077, 1.0, -0.75, 0.9979, 250.3, 0.9999])
    w, u = values.repeat_interleave(STEPS), ((torch.arange(STEPS) + 0.5) / STEPS).repeat(len(values))
    below, above = _neighbours(w)
    got = numeric("the rounded w", answer(w.clone(), u.clone()))
    require(got.shape == w.shape, f"got shape {tuple(got.shape)}, expected that of w, {tuple(w.shape)}")
    require(not got.isnan().any(), "some of them are no numbers")
    _is_a_neighbour(got, w.double(), below, above)
    for i, value in enumerate(values.tolist()):
        rows = slice(i * STEPS, (i + 1) * STEPS)
        low, high = below[i * STEPS].item(), above[i * STEPS].item()
        gap, mean = high - low or 1.0, got[rows].mean().item()
        nearest = low if value - low < high - value else high
        known = [] if low == high else [
            (nearest, "this is the nearest one for every u: the mean over u has to be w"),
            (low, "this is the one below for every u"),
            (high, "this is the one above for every u"),
            ((low + high) / 2, "each is taken half of the time; the nearer one has to come more often"),
            (low + high - value, "the farther one comes more often: the other way round"),
        ]  # fmt: skip
        what = f"w = {value:.6g}, the mean over u, in spacings above the lower neighbour"
        known = [((v - low) / gap, why) for v, why in known]
        expect(what, (mean - low) / gap, (value - low) / gap, tolerance=1.01 / STEPS, known=known)


def _is_a_neighbour(got, w, below, above):
    """Wrong where some value is neither of the two bfloat16 numbers around w"""
    off = (got != below) & (got != above)
    if not off.any():
        return
    i = int(off.nonzero()[0])
    if torch.equal(got, w):
        why = "this is w, unrounded"
    elif (got[off].bfloat16().double() != got[off]).any():
        i = int((off & (got.bfloat16().double() != got)).nonzero()[0])
        why = "it is no bfloat16 number"
    elif (w[off] < 0).all():
        why = "for a negative w, below is away from 0: `floor` goes there, casting to int does not"
    else:
        why = "it is none of its two neighbours"
    require(False, f"w = {w[i]:.6g} became {got[i]:.6g}: {why} (they are {below[i]:.6g} and {above[i]:.6g})")


@checker("11.last_real")
def _last_real(answer):
    """mask (N, T) bool -> the place of the last true of each row"""
    T = 7
    at = torch.arange(T)
    cases = {
        "padding on the right": torch.stack([at < n for n in (3, 7, 1, 5, 2)]),
        "padding on the left": torch.stack([at >= T - n for n in (2, 7, 4)]),
        "padding on both sides": torch.stack([(at >= a) & (at < b) for a, b in ((1, 4), (2, 6), (3, 4), (1, 7))]),
        "padding in between, too": torch.stack([(at < a) | (at >= b) & (at < c)
                                               for a, b, c in ((2, 4, 7), (1, 5, 6), (3, 5, 7))]),
    }  # fmt: skip
    for what, mask in cases.items():
        want = torch.tensor([max(t for t in range(T) if row[t]) for row in mask.tolist()])
        n = mask.sum(1)
        known = [
            (n - 1, "this counts the real tokens; with padding before them, the last stands further on"),
            (n, "this is how many are real; places are counted from 0"),
            (want + 1, "this is one further: places are counted from 0"),
            (want - 1, "this is the one before the last"),
            (torch.full_like(want, T - 1), "this is the last column, where padding may stand"),
            (mask.int().argmax(1), "this is the first real one"),
            ((~mask).int().argmax(1), "this is the first padding"),
            (mask.flip(1).int().argmax(1), "this is counted from the end"),
            (mask.int().argmax(1) + n - 1, "with padding in between, the last one stands further on than their number"),
        ]
        expect(what, _places(answer, mask), want, known=[(v, why) for v, why in known if not torch.equal(v, want)])


def _places(answer, mask):
    """What the answer gives; torch's own NotImplementedError for truth values is no stub"""
    try:
        return answer(mask.clone())
    except NotImplementedError as error:
        require("Bool" not in str(error), f"your code raised {error}")
        raise


@checker("11.token_weights")
def _token_weights(answer):
    """counts (N,), parts (N,) -> the weight of one token of each answer in the mean of the parts' means"""
    cases = (
        ((2, 13, 5), (0, 1, 0)),
        ((3, 7, 11, 2, 5), (2, 0, 1, 0, 2)),
        ((17, 3, 2, 5), (0, 0, 1, 1)),
        ((5, 7), (1, 0)),
    )
    for counts, parts in cases:
        n, part = torch.tensor(counts), torch.tensor(parts)
        N, B = len(counts), len(set(parts))
        of = [sum(c for c, q in zip(counts, parts, strict=True) if q == p) for p in parts]
        rows = torch.tensor([parts.count(p) for p in parts], dtype=torch.float64)
        of = torch.tensor(of, dtype=torch.float64)
        want = 1 / (B * of)
        known = [
            (torch.full_like(of, 1 / sum(counts)), "this is the mean over all tokens, whatever the parts"),
            (1 / (N * n.double()), "this is the mean of the answers' means; here the parts have means"),
            (1 / of, "these add up to the number of parts: the parts share one weight"),
            (1 / (N * of), "this divides by the answers; there are fewer parts"),
            (n / (B * of), "this is what a whole answer weighs; one of its tokens weighs less"),
            (n / of, "this is the answer's share of its part; one token weighs less"),
            (1 / (B * rows), "this divides by the answers of a part; divide by its tokens"),
            (1 / (B * rows * n), "in a part, every token weighs alike, whatever its answer"),
            (of / sum(counts), "this is what a whole part has of all tokens"),
            (B * of, "this is upside down"),
            (1 / ((B - 1) * of) if B > 1 else of, "there are B parts, 0 … B − 1"),
        ]  # fmt: skip
        known = [(v, why) for v, why in known if not torch.allclose(v.double(), want)]
        expect(f"answers of {list(counts)} tokens in the parts {list(parts)}", answer(n, part), want, known=known)
