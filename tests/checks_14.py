"""Right and wrong answers to the exercises of notebook 14. WRONG: (answer, words that the checker must say)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


def _iou_loop(n):
    found = []
    for k in range(len(n)):
        union = int(n[k].sum() + n[:, k].sum() - n[k, k])
        if union:
            found.append(int(n[k, k]) / union)
    return sum(found) / len(found)


def _iou_numpy(n):
    n = n.numpy().astype(float)
    union = n.sum(0) + n.sum(1) - np.diag(n)
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(np.diag(n) / union))


def _iou_of(divide, keep=lambda n: n.sum(0) + n.sum(1) > 0, mean=lambda v: v.mean()):
    def answer(n):
        n = n.double()
        return mean(divide(n.diagonal(), n.sum(1), n.sum(0))[keep(n)])

    return answer


def _each(n):
    return n.diagonal() / (n.sum(0) + n.sum(1) - n.diagonal())


def _set_iou(predicted, y, k):
    p, t = predicted == k, y == k
    return ((p & t).sum() / (p | t).sum()).item()


def _set_iou_counts(predicted, y, k):
    both = either = 0
    for p, t in zip(predicted, y, strict=True):
        both += int(((p == k) & (t == k)).sum())
        either += int(((p == k) | (t == k)).sum())
    return both / either


def _set_iou_sums(predicted, y, k):
    p, t = (predicted == k).double(), (y == k).double()
    return (p * t).sum() / (p.sum() + t.sum() - (p * t).sum())


def _set_iou_confusion(predicted, y, k):
    K = int(torch.stack([predicted, y]).max()) + 1
    n = torch.bincount((y * K + predicted).flatten(), minlength=K * K).reshape(K, K)
    return n[k, k] / (n[k].sum() + n[:, k].sum() - n[k, k])


def _set_iou_numpy(predicted, y, k):
    p, t = predicted.numpy() == k, y.numpy() == k
    return np.logical_and(p, t).sum() / np.logical_or(p, t).sum()


def _per_picture(predicted, y, k):
    return sum(_set_iou(p, t, k) for p, t in zip(predicted, y, strict=True)) / len(y)


def _set(divide):
    return lambda predicted, y, k: divide((predicted == k), (y == k))


def _field(layers):
    side, jump = 1, 1
    for kernel, stride, dilation in layers:
        side += (kernel - 1) * dilation * jump
        jump *= stride
    return side


def _field_backwards(layers):
    side = 1
    for kernel, stride, dilation in layers[::-1]:
        side = (side - 1) * stride + (kernel - 1) * dilation + 1
    return side


def _field_recursive(layers):
    if not layers:
        return 1
    (kernel, stride, dilation), *rest = layers
    return (_field_recursive(rest) - 1) * stride + 1 + (kernel - 1) * dilation


def _field_products(layers):
    return 1 + sum((k - 1) * d * math.prod(s for _, s, _ in layers[:i]) for i, (k, _, d) in enumerate(layers))


def _field_gradient(layers):
    x = torch.zeros(1, 1, 1200, dtype=torch.float64, requires_grad=True)
    h = x
    for kernel, stride, dilation in layers:
        h = F.conv1d(h, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride, dilation=dilation)
    if not layers:
        return 1
    seen = torch.autograd.grad(h[0, 0, h.shape[-1] // 2], x)[0].flatten().nonzero()
    return (seen.max() - seen.min() + 1).item()


def _pixel_gather(logits, y):
    counted = y != 255
    p = logits.log_softmax(dim=1)
    at = p.gather(1, y.where(counted, torch.zeros_like(y)).unsqueeze(1)).squeeze(1)
    return -(at * counted).sum() / counted.sum()


def _pixel_chosen(logits, y):
    counted = y != 255
    return F.cross_entropy(logits.movedim(1, -1)[counted], y[counted])


def _pixel_loop(logits, y):
    total, count = 0.0, 0
    for scores, labels in zip(logits.flatten(2), y.flatten(1), strict=True):
        for pixel, label in enumerate(labels.tolist()):
            if label != 255:
                total += (scores[:, pixel].logsumexp(0) - scores[label, pixel]).item()
                count += 1
    return total / count


def _nearest_loop(y, h, w):
    H, W = y.shape
    out = torch.empty(h, w, dtype=y.dtype)
    for i in range(h):
        for j in range(w):
            out[i, j] = y[int((i + 0.5) * H / h), int((j + 0.5) * W / w)]
    return out


def _nearest_index(y, h, w):
    rows = ((torch.arange(h) + 0.5) * y.shape[0] / h).long()
    columns = ((torch.arange(w) + 0.5) * y.shape[1] / w).long()
    return y[rows][:, columns]


def _ends_on_ends(y, h, w):
    rows, columns = (torch.linspace(0, side - 1, n).round().long() for side, n in zip(y.shape, (h, w), strict=True))
    return y[rows][:, columns]


def _interpolated(mode, **how):
    return lambda y, h, w: F.interpolate(y[None, None].double(), (h, w), mode=mode, **how)[0, 0]


def _pil(mode):
    return lambda y, h, w: np.array(Image.fromarray(y.numpy().astype(np.uint8)).resize((w, h), mode))


def _sampled(y, h, w):
    places = F.affine_grid(torch.eye(2, 3)[None].double(), (1, 1, h, w), align_corners=False)
    return F.grid_sample(y[None, None].double(), places, mode="nearest", align_corners=False)[0, 0]


RIGHT = {
    "14.mean_iou": [
        _iou_loop, _iou_numpy, _iou_of(lambda hit, true, said: hit / (true + said - hit)), lambda n: _each(n).nanmean(),
        lambda n: torch.nanmean(torch.diag(n) / (n.sum(dim=1) + n.sum(dim=0) - torch.diag(n))).item(),
        _iou_of(lambda hit, true, said: hit / (hit + (true - hit) + (said - hit))),
    ],
    "14.dataset_iou": [_set_iou, _set_iou_counts, _set_iou_sums, _set_iou_confusion, _set_iou_numpy,
                       lambda predicted, y, k: _set_iou(predicted.flatten(), y.flatten(), k)],
    "14.receptive_field": [_field, _field_backwards, _field_recursive, _field_products, _field_gradient],
    "14.pixel_loss": [
        lambda logits, y: F.cross_entropy(logits, y, ignore_index=255), _pixel_gather, _pixel_chosen, _pixel_loop,
        lambda logits, y: F.nll_loss(logits.log_softmax(1), y, ignore_index=255).item(),
        lambda logits, y: F.cross_entropy(logits, y, ignore_index=255, reduction="sum") / (y != 255).sum(),
    ],
    "14.nearest": [_nearest_loop, _nearest_index, _interpolated("nearest-exact"), _pil(Image.Resampling.NEAREST),
                   lambda y, h, w: _interpolated("nearest-exact")(y, h, w).to(y.dtype), _sampled],
}  # fmt: skip
WRONG = {
    "14.mean_iou": [
        (lambda n: (n.diagonal().sum() / n.sum()).item(), "share of right pixels"),
        (lambda n: (n.diagonal() / n.sum(1)).nanmean(), "(recall)"),
        (_iou_of(lambda hit, true, said: hit / true), "(recall)"),
        (lambda n: (n.diagonal() / n.sum(0)).nanmean(), "(precision)"),
        (_iou_of(lambda hit, true, said: hit / (true + said)), "take them off once"),
        (_iou_of(lambda hit, true, said: 2 * hit / (true + said)), "Dice"),
        (_iou_of(lambda hit, true, said: hit / (true + said - 2 * hit)), "twice"),
        (lambda n: _each(n).nan_to_num().mean(), "counts as 0"),
        (lambda n: _each(n).nan_to_num(nan=1.0).mean(), "counts as 1"),
        (lambda n: _each(n).mean(), "neither there nor predicted: got nan"),
        (lambda n: n.diagonal().sum() / (2 * n.sum() - n.diagonal().sum()), "before it divides"),
        (lambda n: 100 * _iou_loop(n), "percent"),
        (_iou_of(lambda hit, true, said: hit / (true + said - hit), keep=lambda n: n.sum(1) > 0), "never there"),
        (lambda n: (_each(n) * n.sum(1)).nan_to_num().sum() / n.sum(), "weighs classes"),
        (_each, "shape"),
    ],
    "14.dataset_iou": [
        (_per_picture, "mean of the pictures' IoUs"),
        (lambda predicted, y, k: (predicted == y).double().mean(), "right pixels of all classes"),
        (_set(lambda p, t: (p == t).double().mean()), "rightly not of the class"),
        (_set(lambda p, t: (p & t).sum() / t.sum()), "true pixels alone"),
        (_set(lambda p, t: (p & t).sum() / p.sum()), "predicted pixels"),
        (_set(lambda p, t: (p & t).sum() / (p.sum() + t.sum())), "in it twice"),
        (_set(lambda p, t: 2 * (p & t).sum() / (p.sum() + t.sum())), "Dice"),
        (_set(lambda p, t: (p & t).double().mean()), "all pixels"),
        (_set(lambda p, t: (p & t).sum()), "divide by the union"),
        (lambda predicted, y, k: (predicted == y).sum() / ((predicted == k) | (y == k)).sum(), "not of all"),
        (lambda predicted, y, k: 100 * _set_iou(predicted, y, k), "percent"),
    ],
    "14.receptive_field": [
        (lambda layers: _field([(k, s, 1) for k, s, _ in layers]), "dilation is left out"),
        (lambda layers: _field([(k, 1, d) for k, _, d in layers]), "strides are left out"),
        (lambda layers: _field([(k + 1, s, d) for k, s, d in layers]), "k − 1 gaps"),
        (lambda layers: _field(layers) - 1, "begin with 1"),
        (lambda layers: math.prod(s for _, s, _ in layers), "distance of two neighbours"),
        (lambda layers: _field_backwards(layers[::-1]), "last map back"),
        (lambda layers: sum(k for k, _, _ in layers), "expected"),
        (lambda layers: _field(layers) if layers else 0, "no layer"),
        (lambda layers: sum(1 + (k - 1) * d for k, _, d in layers), "times the strides before"),
    ],
    "14.pixel_loss": [
        (lambda logits, y: F.cross_entropy(logits, y, ignore_index=255, reduction="none").mean(), "by all pixels"),
        (lambda logits, y: F.cross_entropy(logits, y, ignore_index=255, reduction="sum"), "this is the sum"),
        (lambda logits, y: torch.stack([F.cross_entropy(a[None], b[None], ignore_index=255)
                                        for a, b in zip(logits, y, strict=True)]).mean(), "pictures' means"),
        (lambda logits, y: F.cross_entropy(logits, y.masked_fill(y == 255, 0)), "as class 0"),
        (lambda logits, y: F.cross_entropy(logits, y.clamp(max=logits.shape[1] - 1)), "as the last class"),
        (lambda logits, y: -F.cross_entropy(logits, y, ignore_index=255), "the sign"),
        (lambda logits, y: F.cross_entropy(logits.softmax(1), y, ignore_index=255), "softmax twice"),
        (lambda logits, y: F.cross_entropy(logits, y), "raised"),
        (lambda logits, y: -(logits.exp() / logits.exp().sum(1, keepdim=True)).log().movedim(1, -1)[y != 255].gather(
            1, y[y != 255][:, None]).mean(), "log_softmax"),
        (lambda logits, y: F.cross_entropy(logits, y, ignore_index=255) / math.log(2), "bits"),
        (lambda logits, y: F.cross_entropy(logits, y.masked_fill(y == 0, 255), ignore_index=255), "class 0 counts"),
        (lambda logits, y: F.cross_entropy(logits, y, ignore_index=255, reduction="sum") / len(y), "of pictures"),
    ],
    "14.nearest": [
        (_interpolated("nearest"), "corner"),
        (_interpolated("bilinear", align_corners=False), "mixed"),
        (lambda y, h, w: _interpolated("bilinear", align_corners=False)(y, h, w).round(), "mixed"),
        (_interpolated("area"), "mixed"),
        (lambda y, h, w: _interpolated("nearest-exact")(y, w, h), "shape"),
        (_ends_on_ends, "middles onto each other"),
        (lambda y, h, w: _nearest_index(y.masked_fill(y == 255, 0), h, w), "255 has become"),
        (lambda y, h, w: y[:h, :w], "expected"),
        (_pil(Image.Resampling.BILINEAR), "expected"),
        (lambda y, h, w: _nearest_index(y, h, w).flip(0), "expected"),
    ],
}  # fmt: skip
