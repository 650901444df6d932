"""More answers to the exercises of notebook 13, written from their text alone. SLIPS: (answer, the slip in words)."""

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve
from torchvision import ops


def _wh(b):
    return b[..., 2] - b[..., 0], b[..., 3] - b[..., 1]


def _iou_parts(a, b, extra=0.0, floor=0.0):
    a, b = a[:, None], b[None]
    w = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0]) + extra
    h = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1]) + extra
    (wa, ha), (wb, hb) = _wh(a), _wh(b)
    both = w.clamp(min=floor) * h.clamp(min=floor)
    return both, (wa + extra) * (ha + extra), (wb + extra) * (hb + extra)


def _iou_where(a, b):
    both, first, second = _iou_parts(a, b)
    union = first + second - both
    return torch.where(union > 0, both / union, 0.0)


def _iou_numpy(a, b):
    a, b = a.numpy()[:, None, :], b.numpy()[None, :, :]
    w = np.clip(np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]), 0, None)
    h = np.clip(np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]), 0, None)
    union = (
        (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1]) + (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) - w * h
    )
    return np.divide(w * h, union, out=np.zeros_like(union), where=union > 0)


def _iou_relu(a, b):
    side = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).relu()
    both = side[..., 0] * side[..., 1]
    area = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return both / (torch.add(*torch.meshgrid(*area, indexing="ij")) - both + 1e-12)


def _iou_rows(a, b):
    rows = [_iou_where(row[None], b)[0] for row in a]
    return torch.stack(rows) if rows else torch.zeros(0, len(b))


def _iou_double(a, b):
    return ops.box_iou(a.double(), b.double()).nan_to_num()


def _iou(extra=0.0, floor=0.0, union=lambda both, a, b: a + b - both):
    def iou(a, b):
        both, first, second = _iou_parts(a, b, extra, floor)
        return both / union(both, first, second).clamp(min=1e-9)

    return iou


def _as_sides(a, b):
    a, b = (torch.cat([x[:, :2], x[:, :2] + x[:, 2:]], dim=1) for x in (a, b))
    return _iou_where(a, b)


def _boxes(centres, w, h):
    x, y = centres[:, :1], centres[:, 1:]
    return torch.cat([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)


def _per_shape(shape):
    def anchors(centres, sides, ratios):
        return torch.cat([_boxes(centres, *shape(s, r)) for s in sides for r in ratios])

    return anchors


def _right_shape(s, r):
    return s / r**0.5, s * r**0.5


def _by_area(s, r):
    w = (s * s / r) ** 0.5
    return w, r * w


def _by_product(centres, sides, ratios):
    from itertools import product

    out = []
    for (x, y), s, r in product(centres.tolist(), sides, ratios):
        h = (s**2 * r) ** 0.5
        w = h / r
        out.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(out)


def _by_convert(centres, sides, ratios):
    shapes = torch.tensor([_right_shape(s, r) for r in ratios for s in sides])
    n, m = len(centres), len(shapes)
    whole = torch.cat([centres.repeat_interleave(m, 0), shapes.repeat(n, 1)], dim=1)
    return ops.box_convert(whole, "cxcywh", "xyxy")


def _broadcast(centres, sides, ratios):
    s, r = torch.tensor(sides)[:, None], torch.tensor(ratios).sqrt()[None]
    half = torch.stack(torch.broadcast_tensors(-s / r, -s * r, s / r, s * r), dim=-1) / 2
    return (centres.repeat(1, 2)[:, None, None] + half).flatten(0, 2)


def _by_grid(centres, sides, ratios):
    s, r = (t.flatten() for t in torch.meshgrid(torch.tensor(sides), torch.tensor(ratios), indexing="ij"))
    w, h = s * r.rsqrt(), s * r.sqrt()
    return torch.cat([_boxes(centres, a, b) for a, b in zip(w, h, strict=True)])


def _corner(centres, sides, ratios):
    return torch.cat([torch.cat([centres, centres + torch.tensor([_right_shape(s, r)])], dim=1)
                      for s in sides for r in ratios])  # fmt: skip


def _decoded(x, y, w, h):
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)


def _apart(a):
    return (a[:, 0] + a[:, 2]) / 2, (a[:, 1] + a[:, 3]) / 2, a[:, 2] - a[:, 0], a[:, 3] - a[:, 1]


def _decode(a, t):
    x, y, w, h = _apart(a)
    return _decoded(x + t[:, 0] * w, y + t[:, 1] * h, w * t[:, 2].exp(), h * t[:, 3].exp())


def _decode_numpy(a, t):
    a, t = a.numpy(), t.numpy()
    c, s = (a[:, :2] + a[:, 2:]) / 2, a[:, 2:] - a[:, :2]
    c, s = c + t[:, :2] * s, s * np.exp(t[:, 2:])
    return np.hstack([c - s / 2, c + s / 2])


def _decode_loop(a, t):
    out = []
    for (x1, y1, x2, y2), (tx, ty, tw, th) in zip(a.tolist(), t.tolist(), strict=True):
        w, h = x2 - x1, y2 - y1
        x, y = x1 + (0.5 + tx) * w, y1 + (0.5 + ty) * h
        w, h = w * np.exp(tw), h * np.exp(th)
        out.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(out)


def _decode_coder(a, t):
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(t, a)


def _decode_halves(a, t):
    half = (a[:, 2:] - a[:, :2]) / 2
    c = a[:, :2] + half + 2 * half * t[:, :2]
    half = half * t[:, 2:].exp()
    return torch.cat((c - half, c + half), 1)


def _decode_corners(a, t):
    x, y, w, h = _apart(a)
    left, up = torch.exp(t[:, 2]) / 2, torch.exp(t[:, 3]) / 2
    return torch.stack([x + w * (t[:, 0] - left), y + h * (t[:, 1] - up),
                        x + w * (t[:, 0] + left), y + h * (t[:, 1] + up)], 1)  # fmt: skip


def _decode_slip(f):
    def decode(a, t):
        x, y, w, h = _apart(a)
        return _decoded(*f(x, y, w, h, *t.unbind(1)))

    return decode


def _greedy(boxes, scores, threshold, iou=ops.box_iou, above=torch.gt):
    left, kept = torch.argsort(scores, descending=True).tolist(), []
    while left:
        i = left.pop(0)
        kept.append(i)
        left = [j for j in left if not above(iou(boxes[i][None], boxes[j][None])[0, 0], torch.tensor(threshold))]
    return kept


def _nms_mask(boxes, scores, threshold):
    order = scores.argsort(descending=True)
    gone = torch.zeros(len(order), dtype=torch.bool)
    kept = []
    for i in order.tolist():
        if not gone[i]:
            kept.append(i)
            gone |= ops.box_iou(boxes[i][None], boxes)[0] > threshold
    return np.array(kept)


def _nms_numpy(boxes, scores, threshold):
    order, kept = np.argsort(-scores.numpy()), []
    while order.size:
        kept.append(int(order[0]))
        overlaps = ops.box_iou(boxes[order[:1]], boxes[order[1:]]).numpy()[0]
        order = order[1:][overlaps <= threshold]
    return kept


def _nms_recursive(boxes, scores, threshold, left=None):
    left = scores.argsort(descending=True).tolist() if left is None else left
    if not left:
        return []
    i, *rest = left
    rest = [j for j in rest if ops.box_iou(boxes[[i]], boxes[[j]]).item() <= threshold]
    return [i, *_nms_recursive(boxes, scores, threshold, rest)]


def _nms_batched(boxes, scores, threshold):
    return ops.batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.long), threshold)


def _by_number(boxes, scores, threshold):
    kept = []
    for i in range(len(boxes)):
        if all(ops.box_iou(boxes[[i]], boxes[[j]]).item() <= threshold for j in kept):
            kept.append(i)
    return kept


def _only_next(boxes, scores, threshold):
    order = scores.argsort(descending=True).tolist()
    return [i for n, i in enumerate(order) if n == 0
            or ops.box_iou(boxes[[i]], boxes[[order[n - 1]]]).item() <= threshold]  # fmt: skip


def _places(boxes, scores, threshold):
    order = scores.argsort(descending=True).tolist()
    return [order.index(i) for i in ops.nms(boxes, scores, threshold).tolist()]


def _smaller(a, b):
    both = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0).prod(2)
    return both / torch.minimum(*(torch.stack(_wh(x)).prod(0) for x in (a, b)))


def _recall_precision(scores, hit, there):
    order = torch.sort(scores, descending=True).indices
    tp = torch.cumsum(hit[order].double(), 0)
    return tp / there, tp / torch.arange(1, len(order) + 1)


def _ap_padded(scores, hit, there):
    r, p = _recall_precision(scores, hit, there)
    r, p = np.r_[0, r.numpy(), 1], np.r_[0, p.numpy(), 0]
    for i in range(len(p) - 2, -1, -1):
        p[i] = max(p[i], p[i + 1])
    change = np.where(r[1:] != r[:-1])[0]
    return ((r[change + 1] - r[change]) * p[change + 1]).sum()


def _ap_numpy(scores, hit, there):
    hit = hit.numpy()[np.argsort(-scores.numpy(), kind="stable")]
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hit].sum() / there)


def _ap_levels(scores, hit, there):
    r, p = _recall_precision(scores, hit, there)
    return sum(max(p[r >= (k + 1) / there - 1e-9].tolist(), default=0.0) for k in range(there)) / there


def _ap_torch(scores, hit, there):
    r, p = _recall_precision(scores, hit, there)
    best = torch.stack([p[i:].max() for i in range(len(p))]) if len(p) else p
    return torch.dot(best, r - torch.cat([r.new_zeros(1), r])[:-1])


def _ap_where(scores, hit, there):
    if not hit.any():
        return 0.0
    _, p = _recall_precision(scores, hit, there)
    hits = hit[scores.argsort(descending=True)]
    return sum(p[i:].max().item() for i in hits.nonzero().flatten().tolist()) / there


def _sklearn(scores, hit, there):
    if not hit.any():
        return 0.0
    p, r, _ = precision_recall_curve(hit.numpy(), scores.numpy())
    return -np.trapezoid(p, r)


def _ap_slip(best=True, order=None, denominator=None, last=False):
    def ap(scores, hit, there):
        rows = torch.arange(len(scores)) if order == "as they are" else scores.argsort(descending=order != "rising")
        tp = hit[rows].double().cumsum(0)
        r, p = tp / (denominator or (lambda h, n: n))(hit, there), tp / torch.arange(1, len(rows) + 1)
        p = p.flip(0).cummax(0).values.flip(0) if best is True else (p.cummax(0).values if best == "turned" else p)
        return (p * torch.diff(r, prepend=r.new_zeros(1)))[: -1 if last else None].sum()

    return ap


RIGHT = {
    "13.iou": [_iou_where, _iou_numpy, _iou_relu, _iou_rows, _iou_double],
    "13.anchors": [_per_shape(_right_shape), _per_shape(_by_area), _by_product, _by_convert, _broadcast, _by_grid],
    "13.decode": [_decode, _decode_numpy, _decode_loop, _decode_coder, _decode_halves, _decode_corners],
    "13.nms": [_greedy, _nms_mask, _nms_numpy, _nms_recursive, _nms_batched],
    "13.average_precision": [_ap_padded, _ap_numpy, _ap_levels, _ap_torch, _ap_where],
}
SLIPS = {
    "13.iou": [
        (_iou(floor=-1e9), "sides below 0"),
        (_iou(extra=1.0), "pixels that count"),
        (_iou(union=lambda both, a, b: a + b), "no subtraction"),
        (_iou(union=lambda both, a, b: a + b + both), "added, not subtracted"),
        (_iou(union=lambda both, a, b: (a * b).sqrt()), "the geometric mean"),
        (_iou(union=lambda both, a, b: torch.maximum(a, b)), "the larger"),
        (lambda a, b: (_iou_where(a, b) > 0).float(), "whether they overlap"),
        (_as_sides, "taken as x, y, width, height"),
        (lambda a, b: _iou_where(a, b).T, "turned"),
        (lambda a, b: _iou_where(a, b).diagonal(), "pairs alone"),
        (lambda a, b: _iou_where(a, b).amax(1), "the best alone"),
        (lambda a, b: 100 * _iou_where(a, b), "percent"),
        (lambda a, b: ops.generalized_box_iou(a, b).nan_to_num(), "generalised IoU"),
        (lambda a, b: _iou_where(a, b).round(), "rounded"),
        (_iou(union=lambda both, a, b: a + b - both + 0.01), "a hundredth more below"),
    ],
    "13.anchors": [
        (_per_shape(lambda s, r: (s * r**0.5, s / r**0.5)), "width over height"),
        (_per_shape(lambda s, r: (s, s * r)), "the side is the width"),
        (_per_shape(lambda s, r: (s / r, s)), "the side is the height"),
        (_per_shape(lambda s, r: (s * r, s / r)), "no root, turned"),
        (_per_shape(lambda s, r: (s / r, s * r)), "no root"),
        (_per_shape(lambda s, r: (s, s)), "squares"),
        (_per_shape(lambda s, r: (2 * s / r**0.5, 2 * s * r**0.5)), "twice too large"),
        (_per_shape(lambda s, r: (s / r**0.5 / 2, s * r**0.5 / 2)), "half as large"),
        (_corner, "from the corner"),
        (lambda c, s, r: ops.box_convert(_by_convert(c, s, r), "xyxy", "cxcywh"), "middle and sides"),
        (lambda c, s, r: ops.box_convert(_by_convert(c, s, r), "xyxy", "xywh"), "corner and sides"),
        (lambda c, s, r: _by_convert(c, s, r)[: len(c) * len(s)], "some left out"),
        (lambda c, s, r: _by_convert(c.flip(1), s, r), "y first"),
        (lambda c, s, r: _by_convert(c[:1], s, r), "one place"),
    ],
    "13.decode": [
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + a, y + b, w * c.exp(), h * d.exp())), "pixels"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + a * w, y + b * h, w * c, h * d)), "no exp"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + a * w, y + b * h, w + c, h + d)), "added"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + a * w, y + b * h, w + c.exp(), h + d.exp())), "exp added"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + a * w, y + b * h, w, h)), "no growth"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x, y, w * c.exp(), h * d.exp())), "no move"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + b * w, y + a * h, w * d.exp(), h * c.exp())), "x for y"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x - a * w, y - b * h, w / c.exp(), h / d.exp())), "back"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (x + a * w, y + b * h, 2 * w * c.exp(), 2 * h * d.exp())), "2"),
        (_decode_slip(lambda x, y, w, h, a, b, c, d: (a * w, b * h, w * c.exp(), h * d.exp())), "around 0"),
        (lambda a, t: ops.box_convert(_decode(a, t), "xyxy", "cxcywh"), "middle and sides"),
        (lambda a, t: a * t.exp(), "corners times exp"),
        (lambda a, t: _decode_halves(a, t).clamp(max=30), "cut"),
        (lambda a, t: _decode(a, 0.1 * t), "a weight"),
    ],
    "13.nms": [
        (_by_number, "not by score"),
        (lambda b, s, t: _by_number(b, s, t)[::-1], "not by score, turned"),
        (_only_next, "compared with the one before"),
        (_places, "places in the order"),
        (lambda b, s, t: _greedy(b, s, t, above=torch.ge), "at the threshold"),
        (lambda b, s, t: _greedy(b, s, t, above=torch.lt), "the wrong way round"),
        (lambda b, s, t: _greedy(b, s, t, iou=_smaller), "over the smaller"),
        (lambda b, s, t: _greedy(b, s, 1 - t), "1 - threshold"),
        (lambda b, s, t: _greedy(b, s, 0.5), "a threshold of one's own"),
        (lambda b, s, t: _greedy(b, 1 - s, t), "least sure first"),
        (lambda b, s, t: (s > t).nonzero().flatten().tolist(), "scores above the threshold"),
        (lambda b, s, t: len(_greedy(b, s, t)), "how many"),
        (lambda b, s, t: [i + 1 for i in _greedy(b, s, t)], "counted from 1"),
        (lambda b, s, t: [i in _greedy(b, s, t) for i in range(len(b))], "a mask"),
    ],
    "13.average_precision": [
        (_ap_slip(best=False), "not made monotone"),
        (_ap_slip(best="turned"), "made monotone the wrong way"),
        (_ap_slip(order="as they are"), "not sorted"),
        (_ap_slip(order="rising"), "least sure first"),
        (_ap_slip(denominator=lambda h, n: len(h)), "recall over the boxes found"),
        (_ap_slip(denominator=lambda h, n: max(int(h.sum()), 1)), "recall over the hits"),
        (_ap_slip(last=True), "the last step left out"),
        (_sklearn, "trapezoids, of what was found"),
        (lambda s, h, n: 100 * _ap_torch(s, h, n), "percent"),
        (lambda s, h, n: 1 - _ap_torch(s, h, n), "the distance"),
        (lambda s, h, n: h.double().sum() / max(len(h), 1), "precision"),
        (lambda s, h, n: h.double().sum() / n, "recall"),
        (lambda s, h, n: s[h].sum() / n, "a sum of scores"),
        (lambda s, h, n: _recall_precision(s, h, n)[1].sum() / n, "no steps"),
    ],
}
