"""More answers to the exercises of notebook 12, written from their text alone. SLIPS: (answer, the slip in words)."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F


def _rows(h, lengths):
    return [h[i][: int(n)] for i, n in enumerate(lengths)]


def _sides(hertz, low, peak, high):
    return (hertz - low) / (peak - low), (high - hertz) / (high - peak)


def _tent(hertz, low, peak, high):
    up, down = _sides(hertz, low, peak, high)
    return torch.stack([up, down]).amin(0).clamp_min(0)


def _length(gradients):
    return sum(float((g * g).sum()) for g in gradients) ** 0.5


def _scaled(share):
    """share(norm, longest), or of the gradients -> the answer that multiplies by it"""
    return lambda gradients, longest: [g * share(_length(gradients) or 1e-9, longest) for g in gradients]


def _ends(a):
    return a.min(), a.max()


def _norm(z):
    return F.normalize(z, dim=1)


def _off(c):
    return c[~torch.eye(len(c), dtype=torch.bool)]


RIGHT = {
    "12.last_state": [
        lambda h, lengths: torch.stack([row[-1] for row in _rows(h, lengths)]),
        lambda h, lengths: h[range(len(h)), lengths - 1],
        lambda h, lengths: h.flatten(0, 1)[torch.arange(len(h)) * h.shape[1] + lengths - 1],
        lambda h, lengths: torch.cat([h[i, n - 1][None] for i, n in enumerate(lengths)]),
        lambda h, lengths: torch.einsum("ntd,nt->nd", h, F.one_hot(lengths - 1, h.shape[1]).float()),
        lambda h, lengths: [h[i, int(n) - 1] for i, n in enumerate(lengths)],
    ],
    "12.mel_filter": [
        lambda hertz, low, peak, high: _tent(hertz, low, peak, high) * (2.0 / (high - low)),
        lambda hertz, low, peak, high: 2 * torch.clamp(torch.min(*_sides(hertz, low, peak, high)), 0) / (high - low),
        lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / (0.5 * (peak - low) + 0.5 * (high - peak)),
        lambda hertz, low, peak, high: np.maximum(
            0, np.minimum(*(s.numpy() for s in _sides(hertz, low, peak, high)))
        ) / ((high - low) / 2),
        lambda hertz, low, peak, high: (_tent(hertz, low, peak, high) / ((high - low) / 2)).float(),
    ],
    "12.clipped": [
        _scaled(lambda norm, longest: min(1.0, longest / norm)),
        _scaled(lambda norm, longest: longest / max(norm, longest)),
        _scaled(lambda norm, longest: longest / norm if norm > longest else 1),
        lambda gradients, longest: [g if _length(gradients) < longest else longest * g / _length(gradients)
                                    for g in gradients],
        lambda gradients, longest: tuple(
            g * torch.tensor(longest / max(_length(gradients), 1e-30)).clamp(max=1) for g in gradients
        ),
        lambda gradients, longest: [(g / max(1, _length(gradients) / longest)).tolist() for g in gradients],
    ],
    "12.range": [
        lambda a: _ends(a.mean(1)),
        lambda a: _ends(torch.stack([row.mean() for row in a])),
        lambda a: (float(a.mean(-1).min()), float(a.mean(-1).max())),
        lambda a: sorted(a.mean(1).tolist())[:: len(a) - 1],
        lambda a: torch.stack(_ends(a.mean(1))),
        lambda a: np.array([a.numpy().mean(axis=1).min(), a.numpy().mean(axis=1).max()]),
    ],
    "12.likeness": [
        lambda z: _off(_norm(z) @ _norm(z).T).mean(),
        lambda z: np.mean([F.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(z, 2)]),
        lambda z: np.mean([F.cosine_similarity(a, b, dim=0) for a, b in itertools.permutations(z, 2)]),
        lambda z: (_norm(z) @ _norm(z).T).fill_diagonal_(0).sum() / (len(z) * (len(z) - 1)),
        lambda z: ((_norm(z) @ _norm(z).T).mean() * len(z) - 1) / (len(z) - 1),
        lambda z: _off((z @ z.T) / torch.outer(z.norm(dim=1), z.norm(dim=1))).mean().item(),
    ],
}  # fmt: skip
SLIPS = {
    "12.last_state": [
        (lambda h, lengths: h[:, -1, :], "the last frame of the batch"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths], "one too far"),
        (lambda h, lengths: h[torch.arange(len(h)), -lengths], "counted from the end"),
        (lambda h, lengths: h[torch.arange(len(h)), h.shape[1] - lengths], "how much is padding"),
        (lambda h, lengths: h[lengths - 1].mean(1), "rows in place of frames"),
        (lambda h, lengths: torch.stack([row.mean(0) for row in _rows(h, lengths)]), "the mean"),
        (lambda h, lengths: torch.stack([row.sum(0) for row in _rows(h, lengths)]), "the sum"),
        (lambda h, lengths: torch.stack([row[0] for row in _rows(h, lengths)]), "the first"),
        (lambda h, lengths: torch.stack([row[max(len(row) - 2, 0)] for row in _rows(h, lengths)]), "the last but one"),
        (lambda h, lengths: torch.stack([row[len(row) // 2] for row in _rows(h, lengths)]), "the middle"),
        (lambda h, lengths: torch.stack([row.amax(0) for row in _rows(h, lengths)]), "the largest"),
        (lambda h, lengths: h[torch.arange(len(h)), lengths - 1][:, None], "another axis"),
        (lambda h, lengths: h[0, lengths[0] - 1], "one sound"),
        (lambda h, lengths: h[:, lengths.min() - 1], "the shortest one's end"),
    ],
    "12.mel_filter": [
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high), "no area"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / (high - low), "the area of a box"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / (2 * (high - low)), "twice, the wrong way"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) / _tent(hertz, low, peak, high).max(), "peak 1"),
        (lambda hertz, low, peak, high: F.normalize(_tent(hertz, low, peak, high), dim=0), "of length 1"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high).softmax(0), "softmax"),
        (lambda hertz, low, peak, high: sum(_sides(hertz, low, peak, high)) * 2 / (high - low), "the sum of the sides"),
        (lambda hertz, low, peak, high: torch.min(*_sides(hertz, low, peak, high)).abs() * 2 / (high - low), "size"),
        (lambda hertz, low, peak, high: torch.max(*_sides(hertz, low, peak, high)) * 2 / (high - low), "the larger"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) * 2 / (peak - low), "the rising side's width"),
        (lambda hertz, low, peak, high: _tent(hertz, low, peak, high) * 2 / (high - peak), "the falling side's width"),
        (
            lambda hertz, low, peak, high: torch.exp(-0.5 * ((hertz - peak) / (high - low)) ** 2) * 2 / (high - low),
            "a bell",
        ),
        (lambda hertz, low, peak, high: 1 - _tent(hertz, low, peak, high) * 2 / (high - low), "upside down"),
        (lambda hertz, low, peak, high: 2 / (high - low), "the height alone"),
    ],
    "12.clipped": [
        (_scaled(lambda norm, longest: longest / norm), "short ones are lengthened"),
        (_scaled(lambda norm, longest: 1 / norm), "of length 1"),
        (_scaled(lambda norm, longest: 1 / max(1, norm)), "at most 1"),
        (_scaled(lambda norm, longest: longest), "times the limit"),
        (_scaled(lambda norm, longest: min(1.0, norm / longest)), "upside down"),
        (_scaled(lambda norm, longest: max(1.0, longest / norm)), "the wrong way"),
        (_scaled(lambda norm, longest: min(1.0, longest / norm**2)), "the square"),
        (_scaled(lambda norm, longest: min(1.0, longest / norm**0.5)), "a root too many"),
        (_scaled(lambda norm, longest: 1.0 if norm <= longest else 0.0), "long ones are thrown away"),
        (_scaled(lambda norm, longest: 0.5 if norm > longest else 1.0), "halved"),
        (_scaled(lambda norm, longest: min(1.0, longest / (norm + 1))), "1 added to the norm"),
        (lambda gradients, longest: [g.clamp(max=longest) for g in gradients], "clamped from above"),
        (lambda gradients, longest: [g.clamp(-longest, longest) for g in gradients], "clamped"),
        (lambda gradients, longest: [F.normalize(g, dim=0) * longest for g in gradients], "columns"),
        (lambda gradients, longest: [g / max(1, float(g.norm()) / longest) for g in gradients], "one by one"),
        (lambda gradients, longest: [g - g.mean() for g in gradients], "centred"),
        (lambda gradients, longest: _length(gradients), "the norm"),
    ],
    "12.range": [
        (lambda a: _ends(a), "of all rows"),
        (lambda a: _ends(a.mean(0)), "of the draws"),
        (lambda a: _ends(a.mean(1))[::-1], "turned round"),
        (lambda a: _ends(a.sum(1)), "sums"),
        (lambda a: _ends(a.median(1).values), "medians"),
        (lambda a: _ends(a[:, 0]), "the first draw alone"),
        (lambda a: _ends(a[0]), "the first person alone"),
        (lambda a: (a.mean() - a.std(), a.mean() + a.std()), "mean and deviation of all"),
        (lambda a: (a.mean(1).min(), a.max()), "the highest of all rows"),
        (lambda a: (a.min(), a.mean(1).max()), "the lowest of all rows"),
        (lambda a: (a.mean(1).min(), a.mean()), "lowest and mean"),
        (lambda a: a.mean(), "one number"),
        (lambda a: (a.mean(1).quantile(0.25), a.mean(1).quantile(0.75)), "quartiles"),
        (lambda a: (100 * a.mean(1).min(), 100 * a.mean(1).max()), "per cent"),
    ],
    "12.likeness": [
        (lambda z: (_norm(z) @ _norm(z).T).mean(), "with the diagonal"),
        (lambda z: (_norm(z) @ _norm(z).T).fill_diagonal_(0).mean(), "the diagonal counted as 0"),
        (lambda z: (z @ z.T).mean(), "products"),
        (lambda z: _off(z @ z.T).mean(), "products without the diagonal"),
        (lambda z: _off(_norm(z) @ _norm(z).T).sum(), "a sum"),
        (lambda z: torch.pdist(z).mean(), "distances"),
        (lambda z: _off(_norm(z) @ _norm(z).T).median() + 1e-2, "the median"),
        (lambda z: _off(_norm(z) @ _norm(z).T).max(), "the largest"),
        (lambda z: F.cosine_similarity(z, z.mean(0)[None]).mean(), "with the mean"),
        (lambda z: F.cosine_similarity(z[:-1], z[1:]).mean() + 1e-3, "neighbours"),
        (lambda z: _off(F.normalize(z, dim=0) @ F.normalize(z, dim=0).T).mean(), "columns scaled"),
        (lambda z: _off(_norm(z).T @ _norm(z)).mean() if len(z.T) > 1 else z.sum(), "columns compared"),
        (lambda z: -_off(_norm(z) @ _norm(z).T).mean(), "the sign"),
        (lambda z: _off(z @ z.T / z.norm(dim=1)).mean(), "one of the two lengths"),
    ],
}
