"""Right and wrong answers to the exercises of notebook 12. WRONG: (answer, words that the checker must say)."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F


def _gathered(h, lengths):
    return h.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, h.shape[2]))[:, 0]


def _packed(h, lengths):
    packed = torch.nn.utils.rnn.pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False)
    rows, own = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    return torch.stack([row[n - 1] for row, n in zip(rows, own, strict=True)])


def _inside(h, lengths):
    return (torch.arange(h.shape[1]) < lengths[:, None])[..., None]


def _triangle(hertz, low, peak, high):
    return torch.minimum((hertz - low) / (peak - low), (high - hertz) / (high - peak)).clamp(min=0)


def _with_loop(hertz, low, peak, high):
    out = []
    for x in hertz.tolist():
        if low < x <= peak:
            out.append((x - low) / (peak - low) * 2 / (high - low))
        elif peak < x < high:
            out.append((high - x) / (high - peak) * 2 / (high - low))
        else:
            out.append(0.0)
    return torch.tensor(out)


def _greedy_loop(log_p):
    units, before = [], None
    for k in log_p.argmax(1).tolist():
        if k != before and k != 0:
            units.append(k)
        before = k
    return units


def _greedy_unique(log_p):
    path = torch.unique_consecutive(log_p.argmax(-1))
    return path[path != 0]


def _drops_first(log_p):
    path = [k for k in log_p.argmax(1).tolist() if k != 0]
    return [k for k, _ in itertools.groupby(path)]


def _above_half(log_p):
    path = [int((row > 0.5).nonzero()[0]) if (row > 0.5).any() else 0 for row in log_p.exp()]
    return [k for k, _ in itertools.groupby(path) if k]


def _round_the_end(log_p):
    path = log_p.argmax(1).tolist()
    return [k for t, k in enumerate(path) if k != path[t - 1] and k]


def _unlike_the_last_written(log_p):
    units = []
    for k in log_p.argmax(1).tolist():
        if k and units[-1:] != [k]:
            units.append(k)
    return units


def _unlike_the_next(log_p):
    path = [*log_p.argmax(1).tolist(), None]
    return [k for k, after in itertools.pairwise(path) if k != after and k]


def _pairs(z):
    n = len(z)
    return np.mean([F.cosine_similarity(z[i], z[j], dim=0).item() for i in range(n) for j in range(i)])


def _unit(z):
    return z / z.norm(dim=1, keepdim=True)


RIGHT = {
    "12.last_state": [
        lambda h, lengths: h[torch.arange(len(h)), lengths - 1],
        lambda h, lengths: torch.stack([row[n - 1] for row, n in zip(h, lengths, strict=True)]),
        _gathered,
        _packed,
        lambda h, lengths: (h * F.one_hot(lengths - 1, h.shape[1])[..., None]).sum(1),
        lambda h, lengths: np.stack([h.numpy()[i, n - 1] for i, n in enumerate(lengths.tolist())]),
        lambda h, lengths: h.take_along_dim((lengths - 1).view(-1, 1, 1), 1).squeeze(1),
        lambda h, lengths: h[F.one_hot(lengths - 1, h.shape[1]).bool()],
        lambda h, lengths: torch.diagonal(h[:, lengths - 1]).T,
    ],
    "12.mel_filter": [
        lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) * 2 / (high - low),
        lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) / ((high - low) / 2),
        _with_loop,
        lambda hertz, low, peak, high: torch.where(
            hertz < peak, (hertz - low) / (peak - low), (high - hertz) / (high - peak)
        ).relu() / (0.5 * (high - low)),
        lambda hertz, low, peak, high: torch.from_numpy(
            np.interp(hertz.numpy(), [low, peak, high], [0, 2 / (high - low), 0], left=0, right=0)
        ),
        lambda hertz, low, peak, high: _with_loop(hertz, low, peak, high).tolist(),
        lambda hertz, low, peak, high: (
            _triangle(hertz, low, peak, high) / torch.trapezoid(_triangle(hertz, low, peak, high), hertz)
        ),
    ],
    "12.greedy": [
        _greedy_loop,
        _greedy_unique,
        lambda log_p: [k for k, _ in itertools.groupby(log_p.argmax(1).tolist()) if k],
        lambda log_p: [int(k) for k in F.pad(_greedy_unique(log_p), (1, 0))[1:]],
        lambda log_p: _greedy_unique(log_p).tolist(),
        lambda log_p: tuple(_greedy_loop(log_p.exp())),
        _unlike_the_next,
    ],
    "12.paths": [
        ["a-a-", "a-aa", "a--a", "aa-a", "-a-a"],
        ("-a-a", "aa-a", "a--a", "a-aa", "a-a-"),
        {"a-a-", "a-aa", "a--a", "aa-a", "-a-a"},
        ["A-A-", "A-AA", "A--A", "AA-A", "-A-A"],
        ["a_a_", "a_aa", "a__a", "aa_a", "_a_a"],
        ["a–a–", "a–aa", " a––a", "aa–a", "–a–a "],
        ["a−a−", "a−aa", "a−−a", "aa−a", "−a−a"],
        ["aεaε", "aεaa", "aεεa", "aaεa", "εaεa"],
        np.array(["a-a-", "a-aa", "a--a", "aa-a", "-a-a"]),
    ],
    "12.likeness": [
        lambda z: ((_unit(z) @ _unit(z).T).sum() - len(z)) / (len(z) * (len(z) - 1)),
        _pairs,
        lambda z: F.cosine_similarity(z[:, None], z[None], dim=-1)[~torch.eye(len(z), dtype=torch.bool)].mean(),
        lambda z: (F.normalize(z, dim=1).sum(0).square().sum() - len(z)) / (len(z) ** 2 - len(z)),
        lambda z: torch.triu(F.normalize(z) @ F.normalize(z).T, 1).sum() / (len(z) * (len(z) - 1) / 2),
        lambda z: float(np.corrcoef(np.hstack([z.numpy(), -z.numpy()]))[~np.eye(len(z), dtype=bool)].mean()),
    ],
}  # fmt: skip
WRONG = {
    "12.last_state": [
        (lambda h, lengths: h[:, -1], "behind the padding"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths], "count from 0"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths.clamp(max=h.shape[1] - 1)], "expected"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths - 2], "last state but one"),
        (lambda h, lengths: h[:, 0], "first state"),
        (lambda h, lengths: h.mean(1), "padding among them"),
        (lambda h, lengths: (h * _inside(h, lengths)).sum(1) / lengths[:, None], "mean over the sound's frames"),
        (lambda h, lengths: (h * _inside(h, lengths)).sum(1), "sum over the sound's frames"),
        (lambda h, lengths: h[:, lengths.max() - 1], "longest one's end"),
        (lambda h, lengths: h[:, lengths[0] - 1], "first sound's end"),
        (lambda h, lengths: h[:, lengths - 1], "shape"),
        (lambda h, lengths: h.amax(1), "largest"),
        (lambda h, lengths: h[torch.arange(len(h)), (h.abs().sum(2) > 0).sum(1) - 1], "behind the padding"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths.sort().values - 1], "expected"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths.sub_(1)], "changes its argument"),
    ],
    "12.mel_filter": [
        (_triangle, "its height is 1"),
        (lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) / (high - low), "half of high"),
        (lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) * (high - low) / 2, "do not multiply"),
        (
            lambda hertz, low, peak, high: (
                torch.minimum((hertz - low) / (peak - low), (high - hertz) / (high - peak)) * 2 / (high - low)
            ),
            "nothing lies below 0",
        ),
        (
            lambda hertz, low, peak, high: (
                torch.maximum((hertz - low) / (peak - low), (high - hertz) / (high - peak)).relu() * 2 / (high - low)
            ),
            "the smaller one counts",
        ),
        (lambda hertz, low, peak, high: ((hertz - low) / (peak - low)).clamp(0, 1) * 2 / (high - low), "rises and"),
        (lambda hertz, low, peak, high: ((hertz > low) & (hertz < high)) / (high - low), "triangle 300, 500, 900"),
        (
            lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) / _triangle(hertz, low, peak, high).sum(),
            "the weights add up to 1",
        ),
        (lambda hertz, low, peak, high: _triangle(hertz, low, (low + high) / 2, high) * 2 / (high - low), "middle"),
        (lambda hertz, low, peak, high: _triangle(hertz, low, peak, high).log(), "expected"),
        (
            lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) * (hertz != peak) * 2 / (high - low),
            "got 0",
        ),
        (lambda hertz, low, peak, high: _triangle(hertz, 0, peak, high) * 2 / high, "expected 0"),
    ],
    "12.greedy": [
        (_drops_first, "before repeats were merged"),
        (lambda log_p: [k for k in log_p.argmax(1).tolist() if k], "not merged"),
        (lambda log_p: torch.unique_consecutive(log_p.argmax(1)), "class 0 writes nothing"),
        (lambda log_p: log_p.argmax(1), "the path itself"),
        (lambda log_p: list(dict.fromkeys(k for k in log_p.argmax(1).tolist() if k)), "once at most"),
        (lambda log_p: [k - 1 for k in _greedy_loop(log_p)], "nothing to subtract"),
        (lambda log_p: _greedy_loop(log_p)[::-1], "backwards"),
        (lambda log_p: _greedy_loop(log_p[1:]), "first frame"),
        (lambda log_p: _greedy_loop(-log_p), "expected"),
        (lambda log_p: log_p.max(1).values, "whole numbers"),
        (lambda log_p: log_p.argmax(0), "expected"),
        (lambda log_p: 3, "expected a list"),
        (_above_half, "expected"),
        (_round_the_end, "`path[-1]` is the last one"),
        (_unlike_the_last_written, "before repeats were merged"),
    ],
    "12.paths": [
        (["a-a-", "a-aa", "a--a", "aa-a"], "1 more do"),
        (["a-a-", "a-aa", "a--a", "aa-a", "-a-a", "aaaa"], "reads 'a'"),
        (["a-a-", "a-aa", "a--a", "aa-a", "-a-a", "aa--"], "reads 'a'"),
        (["a-a-", "a-aa", "a--a", "aa-a", "-a-a", "a-a-"], "twice"),
        (["a-a"], "3 characters"),
        (["a-a-", "a-ab"], "something else"),
        ("a-a-", "a list of texts"),
        ([["a", "-", "a", "-"]], "texts of four characters"),
        (5, "a list of texts"),
        (["aa"], "2 characters"),
        ([], "5 more do"),
        (["a-a-", "a-aa", "a--a", "aa-a", "----"], "reads ''"),
    ],
    "12.likeness": [
        (lambda z: (_unit(z) @ _unit(z).T).mean(), "itself too"),
        (lambda z: ((z @ z.T).sum() - (z @ z.T).trace()) / (len(z) * (len(z) - 1)), "products"),
        (lambda z: ((_unit(z) @ _unit(z).T).sum() - len(z)) / len(z) ** 2, "not N²"),
        (lambda z: (_unit(z) @ _unit(z).T).sum() - len(z), "not a mean"),
        (lambda z: ((_unit(z) @ _unit(z).T).sum() - len(z)) / (len(z) * (len(z) - 1) / 2), "stands twice"),
        (lambda z: 1 - _pairs(z), "a distance"),
        (lambda z: (_unit(z) @ _unit(z).T).abs().sum().sub(len(z)) / (len(z) * (len(z) - 1)), "its size"),
        (lambda z: _pairs(z - z.mean(0)), "correlation"),
        (lambda z: F.cosine_similarity(z[0], z[1], dim=0), "one pair"),
        (lambda z: _unit(z) @ _unit(z).T, "shape"),
        (lambda z: 0.5, "expected"),
        (lambda z: (_unit(z) @ _unit(z).T).triu(1).mean(), "expected"),
        (lambda z: (_unit(z) @ _unit(z).T).clamp(min=0).sum().sub(len(z)) / (len(z) * (len(z) - 1)), "expected"),
        (lambda z: F.cosine_similarity(z, z.roll(1, 0)).mean(), "expected"),
    ],
}
