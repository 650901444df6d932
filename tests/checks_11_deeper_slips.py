"""More answers to notebook 11, going deeper, written from the tasks alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch


def _unit(w, digits=7):
    """Distance of bfloat16 numbers at w, as text-book arithmetic"""
    return torch.tensor([2.0 ** (math.floor(math.log2(abs(v))) - digits) for v in w.tolist()])


def _rounded(*, digits=7, to=torch.floor, chance=lambda u: u, then=lambda k: k):
    def answer(w, u):
        unit = _unit(w, digits)
        return then(to(w / unit + chance(u))) * unit

    return answer


def _fraction(w, u):
    k = w / _unit(w)
    low = k.floor()
    return (low + (u > 1 - (k - low)).float()) * _unit(w)


def _both_sides(w, u):
    unit = _unit(w)
    size = (w.abs() / unit + u).floor()
    return w.sign() * size * unit


def _list(w, u):
    units = _unit(w).tolist()
    return [math.floor(a / b + c) * b for a, b, c in zip(w.tolist(), units, u.tolist(), strict=True)]


def _as_bfloat(w, u):
    return ((w / _unit(w) + u).floor() * _unit(w)).bfloat16()


def _weights(*, of=lambda n, p: n, over=lambda B, N: B, top=lambda n: 1.0):
    def answer(counts, parts):
        B, N = int(parts.max()) + 1, len(parts)
        found = torch.zeros(N, dtype=torch.float64)
        for b in range(B):
            mine = parts == b
            found[mine] = 1 / (over(B, N) * of(counts[mine].double(), mine).sum())
        return found * top(counts)

    return answer


def _last(*, shift=0, rows=lambda mask: mask, pick=max):
    return lambda mask: [pick(t for t, real in enumerate(row) if real) + shift for row in rows(mask).tolist()]


RIGHT = {
    "11.round_at_random": [_rounded(), _fraction, _both_sides, _list, _as_bfloat],
    "11.last_real": [
        _last(),
        lambda mask: np.array([np.flatnonzero(row)[-1] for row in mask.numpy()]),
        lambda mask: (mask.float() * (1 + torch.arange(mask.shape[1]))).argmax(1),
        lambda mask: [len(row) - 1 - row.tolist()[::-1].index(True) for row in mask],
        lambda mask: torch.stack([torch.nonzero(row)[-1, 0] for row in mask]),
    ],
    "11.token_weights": [
        _weights(),
        lambda counts, parts: [1 / (int(counts[parts == p].sum()) * (1 + max(parts.tolist()))) for p in parts],
        lambda counts, parts: (
            1 / torch.zeros(int(parts.max()) + 1).scatter_add(0, parts, counts.float()) / (1 + parts.max())
        )[parts],
        lambda counts, parts: torch.einsum(
            "ij,j->i", (parts[:, None] == parts[None]).float(), counts.float()
        ).mul(parts.unique().numel()).reciprocal(),
        lambda counts, parts: np.array([1 / counts.numpy()[parts.numpy() == p].sum() for p in parts.tolist()])
        / len(np.unique(parts.numpy())),
    ],
}  # fmt: skip
SLIPS = {
    "11.round_at_random": [
        (_rounded(to=torch.round), "nearest of the noisy one"),
        (_rounded(chance=lambda u: 0 * u), "below"),
        (_rounded(chance=lambda u: 0.5), "nearest"),
        (_rounded(chance=lambda u: u / 2), "half the noise"),
        (_rounded(chance=lambda u: 2 * u), "twice the noise"),
        (_rounded(to=torch.ceil), "ceil and noise"),
        (_rounded(to=torch.trunc), "towards 0"),
        (_rounded(digits=8), "eight digits behind the first"),
        (_rounded(digits=6), "six digits"),
        (_rounded(digits=10), "float16's digits"),
        (_rounded(chance=lambda u: -u), "noise subtracted"),
        (_rounded(chance=lambda u: u**2), "u squared"),
        (lambda w, u: torch.where(u < 0.5, w.bfloat16().float(), w), "half unrounded"),
        (lambda w, u: _rounded()(w, u).abs(), "the sign lost"),
        (lambda w, u: w.half(), "float16"),
        (lambda w, u: _unit(w), "the spacing"),
        (lambda w, u: w.bfloat16() + u.bfloat16() * _unit(w).bfloat16(), "rounded before"),
    ],
    "11.last_real": [
        (_last(pick=min), "the first"),
        (_last(shift=1), "one further"),
        (_last(shift=-1), "one before"),
        (_last(rows=lambda mask: ~mask | (mask.long().cumsum(1) == 1)), "the last padding"),
        (_last(rows=lambda mask: mask.flip(1)), "in the mirror"),
        (lambda mask: mask.sum(1) - 1, "how many, less one"),
        (lambda mask: mask.sum(1), "how many"),
        (lambda mask: mask.sum(0) - 1, "of the columns"),
        (lambda mask: mask.int().argmax(1) + mask.sum(1) - 1, "as if none stood in between"),
        (lambda mask: mask.long().cumsum(1)[:, -1] - 1, "how many, otherwise"),
        (lambda mask: torch.zeros(len(mask)), "nothing"),
        (lambda mask: (mask.long().cumsum(1) - 1).amax(), "one number"),
        (lambda mask: -torch.ones(len(mask)), "Python's last"),
        (lambda mask: mask.long().argmin(1) - 1, "before the first padding"),
        (lambda mask: mask.long().cumsum(1) - 1, "all places"),
    ],
    "11.token_weights": [
        (_weights(over=lambda B, N: 1), "sum of means"),
        (_weights(over=lambda B, N: N), "by the answers"),
        (_weights(of=lambda n, p: torch.ones_like(n)), "rows instead of tokens"),
        (_weights(of=lambda n, p: n**2), "squares"),
        (_weights(top=lambda n: n), "of an answer"),
        (_weights(top=lambda n: 1 / n), "once more by its tokens"),
        (_weights(top=lambda n: n / n.sum()), "the answer's share"),
        (_weights(over=lambda B, N: B + 1), "one part too many"),
        (_weights(of=lambda n, p: n.max()[None]), "the longest of the part"),
        (_weights(of=lambda n, p: n.mean()[None]), "the mean of the part"),
        (_weights(of=lambda n, p: n + 1), "a token too many"),
        (lambda counts, parts: _weights()(counts, parts).sum(), "one number"),
        (lambda counts, parts: 1 / counts, "its own tokens"),
        (lambda counts, parts: torch.full((len(counts),), 1 / int(counts.sum())), "over all tokens"),
        (lambda counts, parts: _weights()(counts, parts).flip(0), "the wrong order"),
    ],
}
