"""Right and wrong answers to the exercises of notebook 05. WRONG: (answer, words that the checker must say)."""

import torch

from sftlib.adaptation import geometric_rates, interpolate, param_groups, trainable

MOVES = {"A": "both", "B": "statistics", "C": "statistics", "D": "nothing", "E": "parameters"}


def _loop(parts, lr, factor):
    groups = []
    for part in reversed(parts):
        params = [p for p in part.parameters() if p.requires_grad]
        if params:
            groups.append({"params": params, "lr": lr})
        lr = lr / factor
    return groups


def _sftlib(parts, lr, factor):
    return param_groups(**geometric_rates({f"part{i}": part for i, part in enumerate(parts)}, lr=lr, factor=factor))


def _one_each(parts, lr, factor):
    return [
        {"params": p, "lr": lr * factor ** (l + 1 - len(parts))}
        for l, part in enumerate(parts)  # noqa: E741
        for p in trainable(part)
    ]


def _groups(parts, rates, wanted=trainable):
    return [{"params": list(wanted(part)), "lr": lr} for part, lr in zip(parts, rates, strict=True)]


def _powers(parts, lr, factor):
    return [lr / factor**i for i in range(len(parts))]


def _by_hand(theta0, theta1, a):
    return {
        name: (1 - a) * start + a * theta1[name] if start.is_floating_point() else start.clone()
        for name, start in theta0.items()
    }


def _in_float64(theta0, theta1, a):
    return {
        name: (1 - a) * start.double() + a * theta1[name].double() if start.is_floating_point() else start.clone()
        for name, start in theta0.items()
    }


def _lerp(theta0, theta1, a):
    out = {name: value.clone() for name, value in theta1.items()}
    for name, start in theta0.items():
        if start.dtype == torch.float32:
            out[name] = torch.lerp(start, theta1[name], a)
    return out


def _all_alike(theta0, theta1, a):
    return {name: (1 - a) * start + a * theta1[name] for name, start in theta0.items()}


def _in_place(theta0, theta1, a):
    for name, start in theta0.items():
        if start.is_floating_point():
            start.mul_(1 - a).add_(theta1[name], alpha=a)
    return theta0


def _shares(theta0, theta1, a):
    return _by_hand(theta0, theta1, a) | {"1.num_batches_tracked": theta0["1.num_batches_tracked"]}


def _merged(W, A, B, alpha):
    delta = B.flatten(1) @ A.flatten(1)
    return W + alpha / len(A) * delta.view(W.shape)


def _by_einsum(W, A, B, alpha):
    return W + alpha / A.shape[0] * torch.einsum("orxy,rihw->oihw", B, A)


def _by_convolution(W, A, B, alpha):
    delta = torch.nn.functional.conv2d(A.transpose(0, 1), B)  # (C_in, C_out, kh, kw)
    return W + alpha / B.shape[1] * delta.transpose(0, 1)


def _merged_in_place(W, A, B, alpha):
    return W.add_(_merged(torch.zeros_like(W), A, B, alpha))


RIGHT = {
    "05.which_freezes": [
        MOVES,
        dict(reversed(MOVES.items())),
        {name: f" {moves.upper()} " for name, moves in MOVES.items()},
    ],
    "05.geometric_groups": [_loop, _sftlib, _one_each],
    "05.interpolate": [_by_hand, _lerp, interpolate, _in_float64],
    "05.merge": [_merged, _by_einsum, _by_convolution],
}
WRONG = {
    "05.which_freezes": [
        (MOVES | {"A": "nothing"}, "only a note on it"),
        (MOVES | {"B": "nothing", "C": "nothing"}, "2 of 5 are wrong, the first is 'B'"),
        (MOVES | {"C": "nothing"}, "after the last line"),
        (MOVES | {"D": "statistics"}, "when the picture passes"),
        (MOVES | {"E": "nothing"}, "None, or zero"),
        (MOVES | {"E": "weights"}, "expected one of 'nothing', 'statistics'"),
        ({"A": "both"}, "missing: B, C, D, E"),
        (list(MOVES.values()), "expected the dict"),
    ],
    "05.geometric_groups": [
        (lambda parts, lr, factor: _groups(parts, _powers(parts, lr, factor)), "turned round"),
        (lambda parts, lr, factor: _groups(parts, _powers(parts, lr, 1 / factor)[::-1]), "grow towards the input"),
        (lambda parts, lr, factor: _groups(parts, _powers(parts, lr / factor, factor)[::-1]), "at lr itself"),
        (lambda parts, lr, factor: _groups(parts, [lr] * len(parts)), "one rate"),
        (
            lambda parts, lr, factor: _groups(parts, _powers(parts, lr, factor)[::-1], lambda p: p.parameters()),
            "holds a frozen parameter",
        ),
        (lambda parts, lr, factor: 2 * _loop(parts, lr, factor), "in two groups"),
        (lambda parts, lr, factor: _loop(parts[1:], lr, factor), "in no group"),
        (lambda parts, lr, factor: [{"params": parts[0].parameters()}], "expected 'params' and 'lr'"),
        (lambda parts, lr, factor: dict(enumerate(parts)), "expected a list of dicts"),
    ],
    "05.interpolate": [
        (lambda t0, t1, a: _by_hand(t0, t1, 1 - a), "exchanged"),
        (lambda t0, t1, a: _by_hand(t0, t1, 0), "this is θ0"),
        (_all_alike, "counts batches"),
        (_in_place, "changed '0.weight' of an argument"),
        (_shares, "own memory"),
        (lambda t0, t1, a: {k: v for k, v in _by_hand(t0, t1, a).items() if "batches" not in k}, "names differ"),
        (lambda t0, t1, a: {k: v.double() for k, v in _by_hand(t0, t1, a).items()}, "must stay torch.int64"),
    ],
    "05.merge": [
        (lambda W, A, B, alpha: _merged(W, A, B, len(A)), "scale α/r is missing"),
        (lambda W, A, B, alpha: _merged(W, A, B, alpha * len(A)), "not α"),
        (lambda W, A, B, alpha: _merged(W, A, B, alpha) - W, "ΔW alone"),
        (lambda W, A, B, alpha: _merged(W, A, B, -alpha), "not taken away"),
        (_merged_in_place, "W itself was changed"),
        (lambda W, A, B, alpha: _merged(W, A, B, alpha).flatten(1), "shape"),
    ],
}
