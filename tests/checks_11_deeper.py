"""Right and wrong answers to notebook 11, going deeper. WRONG: (answer, words that the checker must say)."""

import numpy as np
import torch


def _gap(w):
    return 2.0 ** (torch.frexp(w).exponent - 8)


def _neighbours(w):
    near = w.bfloat16()
    inf = torch.full_like(near, torch.inf)
    low = torch.where(near > w, torch.nextafter(near, -inf), near).float()
    return low, torch.where(near < w, torch.nextafter(near, inf), near).float()


def _by_chance(w, u):
    low, high = _neighbours(w)
    return torch.where(u * (high - low) < w - low, high, low)


def _by_bits(w, u):
    """float32 without its last 16 bits is the bfloat16 number nearer to 0: add a random 16 bits first"""
    noise = (u * 2**16).int()
    return ((w.view(torch.int32) + noise) & ~0xFFFF).view(torch.float32)


def _in_numpy(w, u):
    w = w.numpy().astype(float)
    gap = 2.0 ** (np.floor(np.log2(np.abs(w))) - 7)
    return np.floor(w / gap + u.numpy()) * gap


def _loop(w, u):
    found = []
    for low, high, v, chance in zip(*_neighbours(w), w, u, strict=True):
        found.append(low if high == low or chance >= (v - low) / (high - low) else high)
    return torch.stack(found)


def _scattered(counts, parts):
    totals = torch.zeros(int(parts.max()) + 1, dtype=torch.float64).index_add(0, parts, counts.double())
    return 1 / totals[parts] / len(totals)


def _same(parts):
    return (parts[:, None] == parts).double()


RIGHT = {
    "11.round_at_random": [
        lambda w, u: (w / _gap(w) + u).floor() * _gap(w),
        _by_chance,
        _by_bits,
        _in_numpy,
        _loop,
    ],
    "11.last_real": [
        lambda mask: torch.where(mask, torch.arange(mask.shape[1]), -1).amax(1),
        lambda mask: mask.shape[1] - 1 - mask.flip(1).int().argmax(1),
        lambda mask: mask.int().cumsum(1).argmax(1),
        lambda mask: [int(row.nonzero().max()) for row in mask],
        lambda mask: (mask * torch.arange(mask.shape[1])).max(1).values,
    ],
    "11.token_weights": [
        _scattered,
        lambda counts, parts: 1 / (len(parts.unique()) * (_same(parts) @ counts.double())),
        lambda counts, parts: [1 / float(counts[parts == p].sum()) / len(set(parts.tolist())) for p in parts],
        lambda counts, parts: 1 / torch.bincount(parts, weights=counts)[parts] / (parts.max() + 1),
        lambda counts, parts: 1 / np.bincount(parts.numpy(), counts.numpy())[parts.numpy()] / (parts.max().item() + 1),
    ],
}
WRONG = {
    "11.round_at_random": [
        (lambda w, u: w.bfloat16().float(), "nearest one for every u"),
        (lambda w, u: (w / _gap(w)).floor() * _gap(w), "below for every u"),
        (lambda w, u: (w / _gap(w)).ceil() * _gap(w), "above for every u"),
        (lambda w, u: torch.where(u < 0.5, *_neighbours(w)), "half of the time"),
        (lambda w, u: torch.where(u * (_neighbours(w)[1] - _neighbours(w)[0]) < w - _neighbours(w)[0], *_neighbours(w)),
         "the other way round"),
        (lambda w, u: (w / _gap(w) + u).int() * _gap(w), "casting to int"),
        (lambda w, u: w, "unrounded"),
        (lambda w, u: w + (u - 0.5) * _gap(w), "no bfloat16 number"),
        (lambda w, u: (2 * w / _gap(w) + u).floor() * _gap(w) / 2, "no bfloat16 number"),
        (lambda w, u: (w / _gap(w) / 2 + u).floor() * _gap(w) * 2, "none of its two neighbours"),
        (lambda w, u: (w + u * _gap(w)).half().float(), "no bfloat16 number"),
        (lambda w, u: (w / _gap(w) + u).floor()[:5], "shape"),
    ],
    "11.last_real": [
        (lambda mask: mask.sum(1) - 1, "counts the real tokens"),
        (lambda mask: mask.sum(1), "counted from 0"),
        (lambda mask: torch.full((len(mask),), mask.shape[1] - 1), "last column"),
        (lambda mask: mask.int().argmax(1), "first real one"),
        (lambda mask: (~mask).int().argmax(1), "first padding"),
        (lambda mask: mask.flip(1).int().argmax(1), "from the end"),
        (lambda mask: mask.int().cumsum(1).argmax(1) + 1, "one further"),
        (lambda mask: mask.int().cumsum(1).argmax(1) - 1, "the one before"),
        (lambda mask: mask.int().cumsum(0).argmax(1), "expected"),
        (lambda mask: mask.int().cumsum(1).argmax(), "shape"),
        (lambda mask: mask.int().argmax(1) + mask.sum(1) - 1, "padding in between"),
    ],
    "11.token_weights": [
        (lambda n, p: torch.ones(len(n)) / n.sum(), "mean over all tokens"),
        (lambda n, p: 1 / (len(n) * n), "answers' means"),
        (lambda n, p: 1 / (_same(p) @ n.double()), "add up to the number of parts"),
        (lambda n, p: 1 / (len(n) * (_same(p) @ n.double())), "divides by the answers"),
        (lambda n, p: n * _scattered(n, p), "a whole answer"),
        (lambda n, p: n / (_same(p) @ n.double()), "share of its part"),
        (lambda n, p: 1 / (len(p.unique()) * _same(p).sum(1)), "divide by its tokens"),
        (lambda n, p: 1 / (len(p.unique()) * _same(p).sum(1) * n), "every token weighs alike"),
        (lambda n, p: (_same(p) @ n.double()) / n.sum(), "a whole part"),
        (lambda n, p: 1 / _scattered(n, p), "upside down"),
        (lambda n, p: 1 / ((_same(p) @ n.double()) * p.max()), "0 … B"),
    ],
}  # fmt: skip
