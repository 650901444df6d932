"""More answers to notebook 05, going deeper, written from their texts alone. SLIPS: (answer, the slip in words)."""

from collections import OrderedDict

import torch
from torch.nn import functional as F


def _between(w0, w1, a, *, mix=lambda s, e, a: (1 - a) * s + a * e, count=lambda s, e, a: s.clone(),
             keep=lambda name: True):  # fmt: skip
    return {
        name: mix(s, w1[name], a) if s.is_floating_point() else count(s, w1[name], a)
        for name, s in w0.items()
        if keep(name)
    }


def _bt(**slip):
    return lambda w0, w1, a: _between(w0, w1, a, **slip)


def _lerp(w0, w1, a):
    new = OrderedDict((k, v.clone()) for k, v in w1.items())
    for k, v in new.items():
        if torch.is_floating_point(v):
            v.copy_(torch.lerp(w0[k], w1[k], a))
    return new


def _in_place(w0, w1, a):
    for k, v in w0.items():
        if v.is_floating_point():
            v.mul_(1 - a).add_(w1[k], alpha=a)
    return w0


def _ends(w0, w1, a):
    return w0 if a == 0 else w1 if a == 1 else _between(w0, w1, a)


def _merge(W, A, B, alpha, *, scale=lambda alpha, A, B: alpha / A.shape[0], product=lambda B, A: B.flatten(1) @
           A.flatten(1), base=lambda W: W, view=lambda d, W: d.reshape(W.shape), sign=1):  # fmt: skip
    return base(W) + sign * scale(alpha, A, B) * view(product(B, A), W)


def _mg(**slip):
    return lambda W, A, B, alpha: _merge(W, A, B, alpha, **slip)


def _unit_pictures(W, A, B, alpha):
    """The kernel of two convolutions, one after the other, read off"""
    delta = F.conv2d(A.transpose(0, 1), B).transpose(0, 1)
    return W + alpha / len(A) * delta


def _loops(W, A, B, alpha):
    new = W.clone()
    for o in range(W.shape[0]):
        for r in range(A.shape[0]):
            new[o] += alpha / A.shape[0] * B[o, r, 0, 0] * A[r]
    return new


def _into_w(W, A, B, alpha):
    W += _merge(W, A, B, alpha) - W
    return W


def _into_b(W, A, B, alpha):
    B *= alpha / len(A)
    return W + (B.flatten(1) @ A.flatten(1)).view(W.shape)


RIGHT = {
    "05.interpolate": [
        _bt(), _lerp, _bt(count=lambda s, e, a: e.clone()), _bt(mix=lambda s, e, a: s + a * (e - s)),
        lambda w0, w1, a: OrderedDict(_between(w0, w1, a)),
        _bt(mix=lambda s, e, a: torch.lerp(s, e, a), count=lambda s, e, a: (s if a < 0.5 else e).clone()),
    ],
    "05.merge": [
        _mg(), _unit_pictures, _loops, _mg(scale=lambda alpha, A, B: alpha / B.shape[1]),
        lambda W, A, B, alpha: W + alpha / len(A) * torch.einsum("or,rchw->ochw", B[:, :, 0, 0], A),
        lambda W, A, B, alpha: W + alpha / len(A) * torch.tensordot(B.squeeze(3).squeeze(2), A, dims=1),
        lambda W, A, B, alpha: W + alpha / len(A) * (B[:, :, None] * A[None]).sum(1),
    ],
}  # fmt: skip
SLIPS = {
    "05.interpolate": [
        (lambda t0, t1, a: _between(t1, t0, a), "the wrong way round"),
        (_bt(mix=lambda s, e, a: (s + e) / 2), "half way always"),
        (_bt(mix=lambda s, e, a: s + a * e), "not an average"),
        (_bt(mix=lambda s, e, a: s ** (1 - a) * e**a), "geometric mean"),
        (_bt(mix=lambda s, e, a: (1 - a) * s + a), "w1 left out"),
        (_bt(count=lambda s, e, a: (1 - a) * s + a * e), "counts in fractions"),
        (_bt(count=lambda s, e, a: s), "counts not copied"),
        (_bt(count=lambda s, e, a: e), "counts of w1 not copied"),
        (lambda t0, t1, a: {k: (1 - a) * v + a * t1[k] for k, v in t0.items() if v.is_floating_point()},
         "counts left out"),
        (_bt(count=lambda s, e, a: torch.zeros_like(s)), "counts 0"),
        (_bt(count=lambda s, e, a: s + e), "counts added"),
        (_bt(count=lambda s, e, a: (s + e) // 2), "counts half way always"),
        (lambda t0, t1, a: {k: ((1 - a) * v + a * t1[k]) if v.numel() > 1 else v.clone() for k, v in t0.items()},
         "a weight of one number taken for a count"),
        (_bt(count=lambda s, e, a: s.clone().float()), "counts as floats"),
        (_bt(keep=lambda name: "running" not in name), "statistics left out"),
        (lambda t0, t1, a: {k: v.clone() if "running" in k or not v.is_floating_point() else (1 - a) * v + a * t1[k]
                            for k, v in t0.items()}, "statistics not mixed"),
        (_bt(mix=lambda s, e, a: ((1 - a) * s + a * e).half()), "16 bits"),
        (_in_place, "w0 changed"),
        (_ends, "an end returned itself"),
        (lambda t0, t1, a: dict(t0) | {"weight": t0[next(iter(t0))]}, "no mixture"),
        (_bt(mix=lambda s, e, a: s if a < 0.5 else e), "the nearer one"),
        (lambda t0, t1, a: list(_between(t0, t1, a).values()), "a list"),
    ],
    "05.merge": [
        (_mg(scale=lambda alpha, A, B: alpha), "not divided by r"),
        (_mg(scale=lambda alpha, A, B: 1 / len(A)), "no alpha"),
        (_mg(scale=lambda alpha, A, B: 1), "no scale"),
        (_mg(scale=lambda alpha, A, B: len(A) / alpha), "turned round"),
        (_mg(scale=lambda alpha, A, B: alpha * len(A)), "times r"),
        (_mg(scale=lambda alpha, A, B: alpha / len(A) ** 0.5), "root of r"),
        (_mg(scale=lambda alpha, A, B: alpha / A.shape[1]), "r is C_in"),
        (_mg(scale=lambda alpha, A, B: alpha / B.shape[0]), "r is C_out"),
        (_mg(scale=lambda alpha, A, B: alpha / torch.linalg.matrix_rank(A.flatten(1)).item()), "the rank of A"),
        (_mg(scale=lambda alpha, A, B: alpha // len(A)), "whole numbers"),
        (_mg(base=lambda W: 0), "delta only"),
        (_mg(sign=-1), "subtracted"),
        (_mg(base=lambda W: W * 0.5), "half W"),
        (_mg(product=lambda B, A: B.abs().flatten(1) @ A.flatten(1)), "absolute values"),
        (_mg(product=lambda B, A: (A.flatten(1).T @ B.flatten(1).T)), "transposed"),
        (_mg(product=lambda B, A: B.flatten(1)[:, :1] @ A.flatten(1)[:1]), "rank 1"),
        (_mg(view=lambda d, W: d.view(W.shape).flip(-1)), "mirrored"),
        (_mg(view=lambda d, W: d.view(W.shape[0], W.shape[1], W.shape[3], W.shape[2]).transpose(2, 3)), "kh and kw"),
        (_mg(product=lambda B, A: (B.flatten(1) @ A.flatten(1)).mean(0).expand(len(B), -1)), "mean over C_out"),
        (_into_w, "W changed"), (_into_b, "B changed"),
        (_mg(view=lambda d, W: d), "a matrix"),
        (lambda W, A, B, alpha: W, "W"),
    ],
}  # fmt: skip
