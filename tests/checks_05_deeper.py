"""Right and wrong answers to notebook 05, going deeper. WRONG: (answer, words that the checker must say)."""

import torch

from sftlib.adaptation import interpolate


def _by_hand(w0, w1, a):
    return {
        name: (1 - a) * start + a * w1[name] if start.is_floating_point() else start.clone()
        for name, start in w0.items()
    }


def _in_float64(w0, w1, a):
    return {
        name: (1 - a) * start.double() + a * w1[name].double() if start.is_floating_point() else start.clone()
        for name, start in w0.items()
    }


def _lerp(w0, w1, a):
    out = {name: value.clone() for name, value in w1.items()}
    for name, start in w0.items():
        if start.dtype == torch.float32:
            out[name] = torch.lerp(start, w1[name], a)
    return out


def _count_rounded(w0, w1, a):
    name = "1.num_batches_tracked"
    return _by_hand(w0, w1, a) | {name: ((1 - a) * w0[name] + a * w1[name]).round().long()}


def _numbers_alone_kept(w0, w1, a):
    return {k: v.clone() if v.dim() == 0 else (1 - a) * v + a * w1[k] for k, v in w0.items()}


def _made_up(w0, w1, a):
    return _by_hand(w0, w1, a) | {"1.num_batches_tracked": torch.tensor(53)}


def _all_alike(w0, w1, a):
    return {name: (1 - a) * start + a * w1[name] for name, start in w0.items()}


def _in_place(w0, w1, a):
    for name, start in w0.items():
        if start.is_floating_point():
            start.mul_(1 - a).add_(w1[name], alpha=a)
    return w0


def _shares(w0, w1, a):
    return _by_hand(w0, w1, a) | {"1.num_batches_tracked": w0["1.num_batches_tracked"]}


def _merged(W, A, B, alpha):
    delta = B.flatten(1) @ A.flatten(1)
    return W + alpha / len(A) * delta.view(W.shape)


def _by_einsum(W, A, B, alpha):
    return W + alpha / A.shape[0] * torch.einsum("orxy,rihw->oihw", B, A)


def _by_convolution(W, A, B, alpha):
    delta = torch.nn.functional.conv2d(A.transpose(0, 1), B)  # (C_in, C_out, kh, kw)
    return W + alpha / B.shape[1] * delta.transpose(0, 1)


def _by_rank(W, A, B, alpha):
    r = torch.linalg.matrix_rank(A.flatten(1)).item()
    return W + alpha / r * (B.flatten(1) @ A.flatten(1)).view(W.shape)


def _merged_in_place(W, A, B, alpha):
    return W.add_(_merged(torch.zeros_like(W), A, B, alpha))


RIGHT = {
    "05.interpolate": [_by_hand, _lerp, interpolate, _in_float64, _count_rounded],
    "05.merge": [_merged, _by_einsum, _by_convolution],
}
WRONG = {
    "05.interpolate": [
        (lambda t0, t1, a: _by_hand(t0, t1, 1 - a), "exchanged"),
        (lambda t0, t1, a: _by_hand(t0, t1, 0), "this is w0"),
        (_all_alike, "counts batches"),
        (_numbers_alone_kept, "this is w0, whatever a (scale"),
        (_made_up, "is 53 at a = 0.25, expected one of the two counts, 7 or 100, or the mixture"),
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
        (_by_rank, "also those alike"),
        (lambda W, A, B, alpha: _merged(W, A, B, alpha).flatten(1), "shape"),
    ],
}
