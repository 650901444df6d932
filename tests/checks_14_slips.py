"""More answers to the exercises of notebook 14, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def _iou(n, *, union=lambda a, b, t: a + b - t, hit=lambda t: t, keep=lambda u: u > 0, mean=lambda v: v.mean()):
    t, a, b = n.diagonal().double(), n.sum(1).double(), n.sum(0).double()
    u = union(a, b, t)
    return mean((hit(t) / u)[keep(u)])


def _mi(**slip):
    return lambda n: _iou(n, **slip)


def _set(p, y, k, *, both=lambda p, t: p & t, either=lambda p, t: p | t, then=lambda a, b: a.sum() / b.sum()):
    p, t = p == k, y == k
    return then(both(p, t), either(p, t))


def _se(**slip):
    return lambda p, y, k: _set(p, y, k, **slip)


def _walk(layers, *, start=1, gap=lambda k: k - 1, far=lambda d: d, step=lambda j, s: j * s, first=False):
    side, jump = start, 1
    for k, s, d in layers:
        jump = step(jump, s) if first else jump
        side += gap(k) * far(d) * jump
        jump = jump if first else step(jump, s)
    return side


def _wa(**slip):
    return lambda layers: _walk(layers, **slip)


def _loss(logits, y, *, at=lambda logits, y: F.cross_entropy(logits, y, ignore_index=255, reduction="none"),
          then=lambda v, c: v[c].mean()):  # fmt: skip
    return then(at(logits, y), y != 255)


def _lo(**slip):
    return lambda logits, y: _loss(logits, y, **slip)


def _take(y, h, w, *, place=lambda n, side: ((torch.arange(n) + 0.5) * side / n).floor().long(), of=lambda y: y):
    rows, columns = place(h, y.shape[0]), place(w, y.shape[1])
    return of(y)[rows.clamp(0, y.shape[0] - 1)][:, columns.clamp(0, y.shape[1] - 1)]


def _ta(**slip):
    return lambda y, h, w: _take(y, h, w, **slip)


def _smooth(mode, **how):
    return lambda y, h, w: F.interpolate(y.float()[None, None], size=(h, w), mode=mode, **how)[0, 0].round().long()


def _majority(y, h, w):
    scores = F.one_hot(y.clamp(max=11), 12).movedim(-1, 0)[None].double()
    return F.interpolate(scores, (h, w), mode="bilinear", align_corners=False)[0].argmax(0)


RIGHT = {
    "14.mean_iou": [
        _mi(),
        lambda n: float(np.nanmean(np.diag(n) / (n.numpy().sum(0) + n.numpy().sum(1) - np.diag(n)))),
        lambda n: (
            sum(
                (n[k, k] / (n[k, :].sum() + n[:, k].sum() - n[k, k])).item()
                for k in range(len(n))
                if n[k, :].sum() + n[:, k].sum()
            )
            / sum(1 for k in range(len(n)) if n[k, :].sum() + n[:, k].sum())
        ),
        _mi(mean=lambda v: v.sum().item() / len(v)),
        lambda n: torch.nanmean(n.diag() / (n + n.T).sum(0).sub(n.diag())),
    ],
    "14.dataset_iou": [
        _se(),
        _se(then=lambda a, b: int(a.sum()) / int(b.sum())),
        _se(then=lambda a, b: a.double().mean() / b.double().mean()),
        _se(either=lambda p, t: p.int() + t.int() - (p & t).int()),
        _se(both=torch.logical_and, either=torch.logical_or),
    ],
    "14.receptive_field": [
        _wa(),
        _wa(gap=lambda k: -(1 - k)),
        lambda layers: int(_walk(layers)),
        lambda layers: torch.tensor(_walk(layers)),
        lambda layers: (
            1
            + sum(
                (k - 1) * d * int(np.prod([s for _, s, _ in layers[:i]] or [1])) for i, (k, s, d) in enumerate(layers)
            )
        ),
    ],
    "14.pixel_loss": [
        _lo(),
        _lo(then=lambda v, c: v.sum() / c.sum()),
        lambda logits, y: F.cross_entropy(logits.double(), y, ignore_index=255).item(),
        lambda logits, y: torch.nn.CrossEntropyLoss(ignore_index=255)(logits, y),
        lambda logits, y: (logits.logsumexp(1) - logits.gather(1, y.clamp(max=logits.shape[1] - 1)[:, None])[:, 0])[
            y != 255
        ].mean(),
    ],
    "14.nearest": [
        _ta(),
        _ta(place=lambda n, side: torch.tensor([(2 * i + 1) * side // (2 * n) for i in range(n)])),
        lambda y, h, w: F.interpolate(y[None, None].float(), size=(h, w), mode="nearest-exact")[0, 0].long(),
        lambda y, h, w: y.numpy()[((np.arange(h) + 0.5) * y.shape[0] / h).astype(int)][
            :, ((np.arange(w) + 0.5) * y.shape[1] / w).astype(int)
        ],
        _ta(place=lambda n, side: ((torch.arange(n) + 0.5) / n * side - 0.5).round().long()),
    ],
}

SLIPS = {
    "14.mean_iou": [
        (_mi(union=lambda a, b, t: a + b), "hits twice in the union"),
        (_mi(union=lambda a, b, t: a), "recall"),
        (_mi(union=lambda a, b, t: b), "precision"),
        (_mi(union=lambda a, b, t: a + b - 2 * t), "hits not in the union"),
        (_mi(hit=lambda t: 2 * t, union=lambda a, b, t: a + b), "Dice"),
        (_mi(mean=lambda v: v.sum()), "a sum"),
        (_mi(mean=lambda v: v), "not averaged"),
        (_mi(mean=lambda v: v.median()), "the median"),
        (_mi(mean=lambda v: v[1:].mean()), "without class 0"),
        (_mi(mean=lambda v: v[v > 0].mean()), "without those of 0"),
        (_mi(keep=lambda u: u >= 0), "0 / 0"),
        (lambda n: n.diag().sum() / n.sum(), "pixel accuracy"),
        (lambda n: _iou(n).round(decimals=1), "rounded"),
        (_mi(union=lambda a, b, t: a + b - t + 1), "one added to the union"),
        (_mi(mean=lambda v: v.prod() ** (1 / len(v))), "geometric mean"),
    ],
    "14.dataset_iou": [
        (
            lambda p, y, k: np.mean([_set(a, b, k).nan_to_num().item() for a, b in zip(p, y, strict=True)]),
            "mean of the pictures",
        ),
        (
            lambda p, y, k: torch.stack([_set(a, b, k) for a, b in zip(p, y, strict=True)]).nanmean(),
            "mean of those with the class",
        ),
        (
            lambda p, y, k: np.mean(
                [1.0 if not ((a == k) | (b == k)).any() else _set(a, b, k).item() for a, b in zip(p, y, strict=True)]
            ),
            "absent counts as 1",
        ),
        (_se(either=lambda p, t: t), "recall"),
        (_se(either=lambda p, t: p), "precision"),
        (_se(both=lambda p, t: p == t), "background too"),
        (_se(either=lambda p, t: p.int() + t.int()), "hits twice"),
        (_se(either=lambda p, t: p ^ t), "hits left out of the union"),
        (_se(then=lambda a, b: 2 * a.sum() / (a.sum() + b.sum())), "Dice"),
        (_se(then=lambda a, b: a.sum()), "a count"),
        (_se(then=lambda a, b: a.double().mean()), "of all pixels"),
        (lambda p, y, k: _set(p, y, 1), "always class 1"),
        (lambda p, y, k: _set(p[:1], y[:1], k), "the first picture"),
        (_se(then=lambda a, b: 1 - a.sum() / b.sum()), "the Jaccard distance"),
        (lambda p, y, k: _set(p, y, k + 1), "classes counted from 1"),
    ],
    "14.receptive_field": [
        (_wa(start=0), "begins with 0"),
        (_wa(gap=lambda k: k), "k in place of k - 1"),
        (_wa(far=lambda d: 1), "no dilation"),
        (_wa(step=lambda j, s: 1), "no stride"),
        (_wa(step=lambda j, s: s), "only the last stride"),
        (_wa(first=True), "own stride first"),
        (_wa(step=lambda j, s: j + s), "strides added"),
        (_wa(far=lambda d: d - 1), "dilation from 0"),
        (_wa(far=lambda d: d + 1), "dilation + 1"),
        (lambda layers: _walk(layers[::-1]), "from the top"),
        (lambda layers: _walk(layers[:-1]), "without the last"),
        (lambda layers: _walk(layers) ** 2, "an area"),
        (lambda layers: _walk(layers) // 2, "a radius"),
        (lambda layers: math.prod(k for k, _, _ in layers), "kernels multiplied"),
        (_wa(gap=lambda k: k // 2), "one side only"),
    ],
    "14.pixel_loss": [
        (_lo(then=lambda v, c: v.mean()), "all pixels in the mean"),
        (_lo(then=lambda v, c: v.sum()), "a sum"),
        (_lo(then=lambda v, c: v[~c].mean()), "the ignored ones"),
        (_lo(then=lambda v, c: v[c].median()), "the median"),
        (_lo(then=lambda v, c: (v.flatten(1).sum(1) / c.flatten(1).sum(1)).mean()), "mean of the pictures"),
        (_lo(then=lambda v, c: v.flatten(1).sum(1).mean()), "sums of pictures"),
        (_lo(then=lambda v, c: v), "not averaged"),
        (lambda logits, y: F.cross_entropy(logits.softmax(1), y, ignore_index=255), "softmax first"),
        (lambda logits, y: F.cross_entropy(logits.log_softmax(1).exp(), y, ignore_index=255), "probabilities"),
        (lambda logits, y: F.cross_entropy(logits, y.where(y != 255, 0)), "ignored as class 0"),
        (lambda logits, y: F.cross_entropy(logits, y, ignore_index=0), "another index ignored"),
        (lambda logits, y: F.cross_entropy(logits, y, ignore_index=255, label_smoothing=0.1), "smoothed"),
        (lambda logits, y: F.nll_loss(logits.softmax(1), y, ignore_index=255), "no logarithm"),
        (lambda logits, y: 1 - (logits.argmax(1) == y)[y != 255].double().mean(), "errors"),
        (lambda logits, y: F.cross_entropy(logits.argmax(1).double(), y.double()), "classes for scores"),
    ],
    "14.nearest": [
        (_smooth("bilinear"), "smooth, rounded"),
        (_smooth("bicubic"), "smoother"),
        (_smooth("area"), "means"),
        (_smooth("nearest"), "corners"),
        (_ta(place=lambda n, side: (torch.arange(n) * side / n).floor().long()), "corners by hand"),
        (_ta(place=lambda n, side: ((torch.arange(n) + 1) * side / n).floor().long()), "right corners"),
        (_ta(place=lambda n, side: torch.linspace(0, side - 1, n).round().long()), "ends on ends"),
        (_ta(place=lambda n, side: torch.arange(n)), "cropped"),
        (_majority, "255 becomes 11, and neighbours vote"),
        (_ta(of=lambda y: y.where(y != 255, 0)), "255 lost"),
        (_ta(of=lambda y: y.clamp(max=10)), "255 cut to 10"),
        (lambda y, h, w: _take(y.T, h, w), "transposed"),
        (lambda y, h, w: _take(y, w, h), "exchanged"),
        (lambda y, h, w: _take(y, h, w)[None, None], "an axis too many"),
        (_ta(of=lambda y: y.flip(1)), "mirrored"),
    ],
}
