"""Right and wrong answers to the exercises of notebook 12. WRONG: (answer, words that the checker must say)."""

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


def _norm_of(gradients):
    return torch.cat([g.flatten() for g in gradients]).norm()


def _clipped(gradients, longest):
    norm = _norm_of(gradients)
    return [g * longest / norm for g in gradients] if norm > longest else list(gradients)


def _by_torch(gradients, longest):
    held = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(held, gradients, strict=True):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(held, longest)
    return [p.grad for p in held]


def _by_square(gradients, longest):
    square = sum((g**2).sum() for g in gradients)
    share = 1.0 if square <= longest**2 else longest / square**0.5
    return tuple(share * g for g in gradients)


def _in_place(gradients, longest):
    norm = _norm_of(gradients)
    for g in gradients:
        g.mul_(min(1.0, (longest / norm.clamp(min=1e-12)).item()))
    return gradients


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
    "12.clipped": [
        _clipped,
        _by_torch,
        _by_square,
        lambda gradients, longest: [g / max(1.0, (_norm_of(gradients) / longest).item()) for g in gradients],
        lambda gradients, longest: [g.numpy() * min(1, longest / (_norm_of(gradients).item() + 1e-8))
                                    for g in gradients],
        lambda gradients, longest: [
            g * (longest / sum(x.norm() ** 2 for x in gradients).sqrt().clamp(min=longest)) for g in gradients
        ],
    ],
    "12.range": [
        lambda a: (a.mean(1).min(), a.mean(1).max()),
        lambda a: tuple(torch.aminmax(a.mean(dim=1))),
        lambda a: [min(row.mean().item() for row in a), max(row.mean().item() for row in a)],
        lambda a: np.sort(a.numpy().mean(1))[[0, -1]],
        lambda a: a.mean(1).sort().values[[0, len(a) - 1]],
        lambda a: a.sum(1).quantile(torch.tensor([0.0, 1.0], dtype=a.dtype)) / a.shape[1],
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
        (
            lambda hertz, low, peak, high: (
                _triangle(hertz, low, peak, high) / _triangle(hertz, low, peak, high).max() * 2 / (high - low)
            ),
            "no frequency need lie at",
        ),
        (lambda hertz, low, peak, high: _triangle(hertz, low, peak, high).log(), "expected"),
        (
            lambda hertz, low, peak, high: _triangle(hertz, low, peak, high) * (hertz != peak) * 2 / (high - low),
            "got 0",
        ),
        (lambda hertz, low, peak, high: _triangle(hertz, 0, peak, high) * 2 / high, "expected 0"),
    ],
    "12.clipped": [
        (lambda gradients, longest: [g * min(1, (longest / g.norm()).item()) for g in gradients], "on its own"),
        (lambda gradients, longest: [g.clamp(-longest, longest) for g in gradients], "each number was clipped"),
        (lambda gradients, longest: [g * longest / (_norm_of(gradients) + 1e-12) for g in gradients], "stays as it is"),
        (lambda gradients, longest: [g / (_norm_of(gradients) + 1e-12) for g in gradients], "norm 1"),
        (lambda gradients, longest: list(gradients), "nothing is scaled"),
        (
            lambda gradients, longest: [
                g * min(1, (longest / sum(x.norm() for x in gradients)).item()) for g in gradients
            ],
            "adds up the norms",
        ),
        (
            lambda gradients, longest: [
                g * min(1, (longest / max(x.norm() for x in gradients)).item()) for g in gradients
            ],
            "longest tensor",
        ),
        (
            lambda gradients, longest: [g * min(1, (longest / _norm_of(gradients) ** 2).item()) for g in gradients],
            "root is missing",
        ),
        (
            lambda gradients, longest: [
                g * min(1, (longest / sum(x.abs().sum() for x in gradients)).item()) for g in gradients
            ],
            "adds up sizes",
        ),
        (
            lambda gradients, longest: [
                g * min(1, (longest / max(x.abs().max() for x in gradients)).item()) for g in gradients
            ],
            "largest entry",
        ),
        (
            lambda gradients, longest: [g * max(1, (longest / _norm_of(gradients)).item()) for g in gradients],
            "lengthens",
        ),
        (
            lambda gradients, longest: [g * max(1, (_norm_of(gradients) / longest).item()) for g in gradients],
            "upside down",
        ),
        (
            lambda gradients, longest: torch.cat([g.flatten() for g in _clipped(gradients, longest)]),
            "a list of as many",
        ),
        (lambda gradients, longest: [g.flatten() for g in _clipped(gradients, longest)], "got shapes"),
        (lambda gradients, longest: _clipped(gradients, longest)[:1], "one for each gradient"),
        (
            lambda gradients, longest: [
                g * longest / _norm_of(gradients) if _norm_of(gradients) else g / 0 for g in gradients
            ],
            "stays as it is",
        ),
        (_in_place, "changes its argument"),
    ],
    "12.range": [
        (lambda a: (a.min(), a.max()), "all rows"),
        (lambda a: (a.mean(0).min(), a.mean(0).max()), "turn it round"),
        (lambda a: (a.mean(1).max(), a.mean(1).min()), "lowest comes first"),
        (lambda a: (a.mean(1).mean(), a.mean(1).std()), "mean and deviation"),
        (lambda a: (a.mean(1).mean() - a.mean(1).std(), a.mean(1).mean() + a.mean(1).std()), "mean and deviation"),
        (lambda a: (a.mean(1).argmin(), a.mean(1).argmax()), "places"),
        (lambda a: (a.mean(1)[0], a.mean(1)[-1]), "first and the last person"),
        (lambda a: (a.median(1).values.min(), a.median(1).values.max()), "medians"),
        (lambda a: (a.max(1).values.min(), a.max(1).values.max()), "best draw"),
        (lambda a: (a.sum(1).min(), a.sum(1).max()), "sums"),
        (lambda a: (a.mean(1).min(), a.mean(1).max() - a.mean(1).min()), "how far"),
        (lambda a: a.mean(1).max() - a.mean(1).min(), "two numbers"),
        (lambda a: a.mean(1), "expected two numbers"),
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
