"""More answers to the exercises of notebook 05, written from their texts alone. SLIPS: (answer, the slip in words)."""

from collections import OrderedDict

import torch
from torch.nn import functional as F

MOVES = {"A": "both", "B": "statistics", "C": "statistics", "D": "nothing", "E": "parameters"}


def _open(part):
    return [p for p in part.parameters() if p.requires_grad]


def _groups(parts, lr, factor, *, rate=lambda lr, factor, depth, n: lr / factor**depth, params=_open, skip=True,
            level_of_frozen=True):  # fmt: skip
    groups, depth = [], 0
    for part in reversed(parts):
        found = params(part)
        if found or not skip:
            groups.append({"params": found, "lr": rate(lr, factor, depth, len(parts))})
        if found or level_of_frozen:
            depth += 1
    return groups


def _gr(**slip):
    return lambda parts, lr, factor: _groups(parts, lr, factor, **slip)


def _by_product(parts, lr, factor):
    groups = []
    for part in parts[::-1]:
        groups += [{"params": _open(part), "lr": lr}] if _open(part) else []
        lr /= factor
    return groups[::-1]


def _reversed_in_place(parts, lr, factor):
    parts.reverse()
    return [{"params": _open(p), "lr": lr / factor**d} for d, p in enumerate(parts) if _open(p)]


def _unfrozen(parts, lr, factor):
    for part in parts:
        part.requires_grad_(True)
    return _groups(parts, lr, factor)


def _last_frozen(parts, lr, factor):
    """A part with one frozen parameter counts as frozen"""
    return _gr(params=lambda part: list(part.parameters()) if all(p.requires_grad for p in part.parameters()) else [])(
        parts, lr, factor
    )


def _between(theta0, theta1, a, *, mix=lambda s, e, a: (1 - a) * s + a * e, count=lambda s, e, a: s.clone(),
             keep=lambda name: True):  # fmt: skip
    return {
        name: mix(s, theta1[name], a) if s.is_floating_point() else count(s, theta1[name], a)
        for name, s in theta0.items()
        if keep(name)
    }


def _bt(**slip):
    return lambda theta0, theta1, a: _between(theta0, theta1, a, **slip)


def _lerp(theta0, theta1, a):
    new = OrderedDict((k, v.clone()) for k, v in theta1.items())
    for k, v in new.items():
        if torch.is_floating_point(v):
            v.copy_(torch.lerp(theta0[k], theta1[k], a))
    return new


def _in_place(theta0, theta1, a):
    for k, v in theta0.items():
        if v.is_floating_point():
            v.mul_(1 - a).add_(theta1[k], alpha=a)
    return theta0


def _ends(theta0, theta1, a):
    return theta0 if a == 0 else theta1 if a == 1 else _between(theta0, theta1, a)


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
    "05.which_freezes": [
        MOVES, {k: v.upper() for k, v in MOVES.items()}, {k: f" {v.title()}  " for k, v in MOVES.items()},
        dict(sorted(MOVES.items(), reverse=True)), OrderedDict(MOVES),
    ],
    "05.geometric_groups": [
        _gr(), _by_product, lambda parts, lr, factor: _groups(parts, lr, factor)[::-1],
        lambda parts, lr, factor: [
            {"params": list(filter(lambda p: p.requires_grad, part.parameters())),
             "lr": lr * (1 / factor) ** (len(parts) - 1 - i)}
            for i, part in enumerate(parts) if any(p.requires_grad for p in part.parameters())
        ],
        lambda parts, lr, factor: [{"name": str(i), **g} for i, g in enumerate(_groups(parts, lr, factor))],
        _gr(params=lambda part: tuple(_open(part))),
    ],
    "05.interpolate": [
        _bt(), _lerp, _bt(count=lambda s, e, a: e.clone()), _bt(mix=lambda s, e, a: s + a * (e - s)),
        lambda theta0, theta1, a: OrderedDict(_between(theta0, theta1, a)),
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
    "05.which_freezes": [
        (MOVES | {"A": "nothing"}, "A freezes"), (MOVES | {"A": "statistics"}, "A: parameters still"),
        (MOVES | {"A": "parameters"}, "A: statistics still"), (MOVES | {"B": "nothing"}, "B freezes all"),
        (MOVES | {"B": "both"}, "B moves all"), (MOVES | {"C": "nothing"}, "C: eval lasts"),
        (MOVES | {"C": "parameters"}, "C: parameters"), (MOVES | {"D": "statistics"}, "D: statistics"),
        (MOVES | {"D": "parameters"}, "D: parameters"), (MOVES | {"E": "nothing"}, "E: zero is none"),
        (MOVES | {"E": "both"}, "E: statistics too"), (MOVES | {"E": "statistics"}, "E: statistics"),
        ({k: v for k, v in MOVES.items() if k != "E"}, "E missing"), (list(MOVES.values()), "a list"),
        (dict.fromkeys("ABCDE", "nothing"), "all freeze"), (MOVES | {"D": "none"}, "no such word"),
    ],
    "05.geometric_groups": [
        (_gr(rate=lambda lr, f, d, n: lr * f**d), "faster below"),
        (_gr(rate=lambda lr, f, d, n: lr / f ** (n - 1 - d)), "the wrong way round"),
        (_gr(rate=lambda lr, f, d, n: lr / f ** (d + 1)), "the top slower too"),
        (_gr(rate=lambda lr, f, d, n: lr / (f * d) if d else lr), "divided by multiples"),
        (_gr(rate=lambda lr, f, d, n: lr / f if d else lr), "divided once"),
        (_gr(rate=lambda lr, f, d, n: lr), "one rate"),
        (_gr(rate=lambda lr, f, d, n: lr / (1 + d)), "factor unused"),
        (_gr(rate=lambda lr, f, d, n: lr - d * lr / f), "subtracted"),
        (_gr(level_of_frozen=False), "frozen levels not counted"),
        (_gr(params=lambda part: list(part.parameters())), "frozen ones too"),
        (_gr(skip=False), "empty groups"),
        (_gr(params=lambda part: _open(part)[:1]), "weights only"),
        (_gr(params=lambda part: [n for n, p in part.named_parameters() if p.requires_grad]), "names"),
        (_gr(params=lambda part: [p.detach().clone() for p in _open(part)]), "copies"),
        (_gr(params=lambda part: [p for p in part.parameters(recurse=False) if p.requires_grad]), "outermost only"),
        (_last_frozen, "partly frozen left out"),
        (_reversed_in_place, "list turned round"),
        (_unfrozen, "all opened"),
        (lambda parts, lr, factor: [g["params"] for g in _groups(parts, lr, factor)], "no rates"),
        (lambda parts, lr, factor: [{"params": sum((_open(p) for p in parts), []), "lr": lr}], "one group"),
        (lambda parts, lr, factor: _groups(parts, lr, factor)[:-1], "without the lowest"),
        (lambda parts, lr, factor: [{"params": g["params"], "rate": g["lr"]} for g in _groups(parts, lr, factor)],
         "no lr"),
    ],
    "05.interpolate": [
        (lambda t0, t1, a: _between(t1, t0, a), "the wrong way round"),
        (_bt(mix=lambda s, e, a: (s + e) / 2), "half way always"),
        (_bt(mix=lambda s, e, a: s + a * e), "not an average"),
        (_bt(mix=lambda s, e, a: s ** (1 - a) * e**a), "geometric mean"),
        (_bt(mix=lambda s, e, a: (1 - a) * s + a), "θ1 left out"),
        (_bt(count=lambda s, e, a: (1 - a) * s + a * e), "counts in fractions"),
        (_bt(count=lambda s, e, a: s), "counts not copied"),
        (_bt(count=lambda s, e, a: e), "counts of θ1 not copied"),
        (lambda t0, t1, a: {k: (1 - a) * v + a * t1[k] for k, v in t0.items() if v.is_floating_point()},
         "counts left out"),
        (_bt(count=lambda s, e, a: torch.zeros_like(s)), "counts 0"),
        (_bt(count=lambda s, e, a: s + e), "counts added"),
        (_bt(count=lambda s, e, a: s.clone().float()), "counts as floats"),
        (_bt(keep=lambda name: "running" not in name), "statistics left out"),
        (lambda t0, t1, a: {k: v.clone() if "running" in k or not v.is_floating_point() else (1 - a) * v + a * t1[k]
                            for k, v in t0.items()}, "statistics not mixed"),
        (_bt(mix=lambda s, e, a: ((1 - a) * s + a * e).half()), "16 bits"),
        (_in_place, "θ0 changed"),
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
