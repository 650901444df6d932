"""Right and wrong answers to the exercises of notebook 13. WRONG: (answer, words that the checker must say)."""

import math

import torch
from torchvision import ops


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _parts(a, b):
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    return both, _areas(a)[:, None], _areas(b)[None]


def _iou(a, b):
    both, first, second = _parts(a, b)
    return both / (first + second - both).clamp(min=1e-9)


def _iou_loop(a, b):
    out = torch.zeros(len(a), len(b))
    for i, (x1, y1, x2, y2) in enumerate(a.tolist()):
        for j, (u1, v1, u2, v2) in enumerate(b.tolist()):
            w, h = max(0, min(x2, u2) - max(x1, u1)), max(0, min(y2, v2) - max(y1, v1))
            total = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - w * h
            out[i, j] = w * h / total if total else 0
    return out


def _iou_library(a, b):
    return ops.box_iou(a, b).nan_to_num(0.0)


def _without_clamp(a, b):
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).prod(2)
    return both / (_areas(a)[:, None] + _areas(b) - both).clamp(min=1e-9)


def _over(denominator):
    def iou(a, b):
        both, first, second = _parts(a, b)
        return both / denominator(both, first, second).clamp(min=1e-9)

    return iou


def _anchors(centres, sides, ratios):
    return torch.tensor([
        (x - s / math.sqrt(r) / 2, y - s * math.sqrt(r) / 2, x + s / math.sqrt(r) / 2, y + s * math.sqrt(r) / 2)
        for x, y in centres.tolist() for s in sides for r in ratios
    ])  # fmt: skip


def _shapes(sides, ratios):
    s, r = torch.tensor(sides)[:, None], torch.tensor(ratios)[None]
    return torch.stack([s / r.sqrt(), s * r.sqrt()], dim=-1).reshape(-1, 2)


def _anchors_at_once(centres, sides, ratios):
    half = _shapes(sides, ratios) / 2
    return torch.cat([centres[:, None] - half, centres[:, None] + half], dim=-1).reshape(-1, 4)


def _anchors_by_shape(centres, sides, ratios):
    half = _shapes(sides, ratios) / 2
    return torch.cat([torch.cat([centres - h, centres + h], dim=1) for h in half])


def _anchors_of_tensors(centres, sides, ratios):
    w, h = sides[:, None] / ratios.sqrt(), sides[:, None] * ratios.sqrt()
    return (centres.repeat(1, 2)[:, None] + torch.stack([-w, -h, w, h], -1).reshape(-1, 4) / 2).reshape(-1, 4)


def _anchors_of(width, height, place=lambda c, w, h: (c[0] - w / 2, c[1] - h / 2, c[0] + w / 2, c[1] + h / 2)):
    def anchors(centres, sides, ratios):
        return torch.tensor([place(c, width(s, r), height(s, r))
                             for c in centres.tolist() for s in sides for r in ratios])  # fmt: skip

    return anchors


def _w(s, r):
    return s / r**0.5


def _h(s, r):
    return s * r**0.5


def _middle_and_sides(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def _decode(anchors, t):
    middle, sides = _middle_and_sides(anchors)
    middle, sides = middle + t[:, :2] * sides, sides * t[:, 2:].exp()
    return torch.cat([middle - sides / 2, middle + sides / 2], dim=1)


def _decode_columns(anchors, t):
    x1, y1, x2, y2 = anchors.unbind(1)
    w, h = x2 - x1, y2 - y1
    x, y = x1 + w / 2 + t[:, 0] * w, y1 + h / 2 + t[:, 1] * h
    w, h = w * torch.exp(t[:, 2]), h * torch.exp(t[:, 3])
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)


def _decode_convert(anchors, t):
    c = ops.box_convert(anchors, "xyxy", "cxcywh")
    moved = torch.cat([c[:, :2] + t[:, :2] * c[:, 2:], c[:, 2:] * t[:, 2:].exp()], dim=1)
    return ops.box_convert(moved, "cxcywh", "xyxy")


def _decode_with(grow=torch.exp, units=None, by_new=False, corners=True):
    def decode(anchors, t):
        middle, sides = _middle_and_sides(anchors)
        new = sides * grow(t[:, 2:])
        unit = new if by_new else (sides if units is None else units(sides))
        middle = middle + t[:, :2] * unit
        return torch.cat([middle - new / 2, middle + new / 2] if corners else [middle, new], dim=1)

    return decode


def _nms(boxes, scores, threshold):
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(ops.box_iou(boxes[i : i + 1], boxes[j : j + 1]) <= threshold for j in kept):
            kept.append(i)
    return kept


def _nms_shrinking(boxes, scores, threshold):
    left, kept = scores.argsort(descending=True), []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        left = left[ops.box_iou(boxes[first][None], boxes[left])[0] <= threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)


def _nms_matrix(boxes, scores, threshold):
    iou, alive, kept = ops.box_iou(boxes, boxes), scores.clone(), []
    while len(alive) and alive.max() > -1:
        i = int(alive.argmax())
        kept.append(i)
        alive[iou[i] > threshold] = -1
        alive[i] = -1
    return torch.tensor(kept, dtype=torch.long)


def _nms_library(boxes, scores, threshold):
    return ops.nms(boxes, scores, threshold)


def _against_all(boxes, scores, threshold):
    order = scores.argsort(descending=True)
    iou = ops.box_iou(boxes[order], boxes[order])
    return [int(order[i]) for i in range(len(order)) if not (iou[i, :i] > threshold).any()]


def _ap(scores, hit, there):
    hit = hit[scores.argsort(descending=True)].double()
    found = hit.cumsum(0)
    recall, precision = found / there, found / torch.arange(1, len(hit) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)
    return (best * torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64))).sum()


def _ap_hits(scores, hit, there):
    """Each hit is a step of 1 / there in recall"""
    hits, curve, area = 0, [], 0.0
    for n, i in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i].item()), start=1):
        hits += hit[i].item()
        curve.append((hits / n, hit[i].item()))
    best = 0.0
    for precision, step in reversed(curve):
        best = max(best, precision)
        area += best * step / there
    return area


def _ap_loop(scores, hit, there):
    order = scores.argsort(descending=True).tolist()
    points, found = [], 0
    for n, i in enumerate(order, start=1):
        found += int(hit[i])
        points.append((found / there, found / n))
    return sum((r - (points[i - 1][0] if i else 0)) * max(p for _, p in points[i:]) for i, (r, _) in enumerate(points))


def _curve(scores, hit, there, descending=True):
    hit = hit[scores.argsort(descending=descending)].double()
    found = hit.cumsum(0)
    return found / there, found / torch.arange(1, len(hit) + 1)


def _read_at(points):
    def ap(scores, hit, there):
        recall, precision = _curve(scores, hit, there)
        return sum(max([p for r, p in zip(recall.tolist(), precision.tolist(), strict=True) if r >= i / (points - 1)],
                       default=0.0) for i in range(points)) / points  # fmt: skip

    return ap


def _not_monotone(scores, hit, there):
    recall, precision = _curve(scores, hit, there)
    return (precision * torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64))).sum()


RIGHT = {
    "13.iou": [_iou, _iou_loop, _iou_library, lambda a, b: _iou_loop(a, b).tolist()],
    "13.anchors": [_anchors, _anchors_at_once, _anchors_by_shape, _anchors_of_tensors],
    "13.decode": [_decode, _decode_columns, _decode_convert],
    "13.nms": [_nms, _nms_shrinking, _nms_matrix, _nms_library],
    "13.average_precision": [_ap, _ap_hits, _ap_loop],
}
WRONG = {
    "13.iou": [
        (_without_clamp, "two negative sides make a positive area"),
        (_over(lambda both, a, b: a + b), "counted twice"),
        (_over(lambda both, a, b: (a + b) / 2), "Dice"),
        (_over(lambda both, a, b: torch.minimum(a, b)), "not the smaller"),
        (_over(lambda both, a, b: torch.maximum(a, b)), "not the larger"),
        (_over(lambda both, a, b: a + 0 * b), "not that of a"),
        (_over(lambda both, a, b: b + 0 * a), "not that of b"),
        (_over(lambda both, a, b: (a + b - both).clamp(min=1)), "areas below 1 are areas too"),
        (lambda a, b: _parts(a, b)[0], "the area of the common part"),
        (lambda a, b: _iou(a, b).T, "rows are those of a"),
        (lambda a, b: 1 - _iou(a, b), "the distance"),
        (lambda a, b: _iou(a[:, None].expand(-1, len(b), 4).reshape(-1, 4), b)[:, 0], "expected (5, 7)"),
        (lambda a, b: ops.box_iou(a, b), "0/0 is no overlap"),
    ],
    "13.anchors": [
        (_anchors_of(_h, _w), "height over width"),
        (_anchors_of(lambda s, r: s, lambda s, r: s * r), "grows with it"),
        (_anchors_of(lambda s, r: s / r, lambda s, r: s), "falls with it"),
        (_anchors_of(lambda s, r: s / r, lambda s, r: s * r), "the ratio squared"),
        (_anchors_of(_w, _h, lambda c, w, h: (c[0], c[1], c[0] + w, c[1] + h)), "not its corner"),
        (_anchors_of(_w, _h, lambda c, w, h: (c[0], c[1], w, h)), "not the middle and sides"),
        (_anchors_of(_w, _h, lambda c, w, h: (c[0] - w, c[1] - h, c[0] + w, c[1] + h)), "half the width"),
        (lambda centres, sides, ratios: _anchors(centres.flip(1), sides, ratios), "x comes first"),
        (lambda centres, sides, ratios: _anchors(0 * centres, sides, ratios), "add the places"),
        (lambda centres, sides, ratios: _anchors(centres, sides, [1.0] * len(ratios)), "ratios are not used"),
        (lambda centres, sides, ratios: _anchors(centres, [s / 2 for s in sides], ratios), "got"),
        (lambda centres, sides, ratios: _anchors(centres, sides[:1], ratios), "each side with each ratio"),
        (lambda centres, sides, ratios: _anchors(centres, sides, ratios).reshape(len(centres), -1, 4), "expected"),
    ],
    "13.decode": [
        (_decode_with(units=torch.ones_like), "not by t pixels"),
        (_decode_with(grow=lambda t: t), "t = 0 changes nothing"),
        (_decode_with(grow=lambda t: 1 + t), "not by 1 + t"),
        (_decode_with(grow=torch.exp2), "2 to the t"),
        (lambda anchors, t: _decode(anchors, -t), "turned round"),
        (_decode_with(corners=False), "not the middle and the sides"),
        (_decode_with(by_new=True), "not the new ones"),
        (_decode_with(units=lambda sides: sides.flip(1)), "y by its height"),
        (lambda anchors, t: anchors + t, "no difference of corners"),
        (lambda anchors, t: _decode(anchors, t)[:, :2], "expected (11, 4)"),
    ],
    "13.nms": [
        (_against_all, "throws out no other"),
        (lambda b, s, t: _nms(b, s, t - 1e-6), "only an overlap above the threshold"),
        (lambda b, s, t: _nms(b, -s, t), "the largest score"),
        (lambda b, s, t: s.argsort(descending=True), "got"),
        (lambda b, s, t: list(range(len(b))), "nothing is thrown out"),
        (lambda b, s, t: s.argsort(descending=True)[:1], "the surest alone"),
        (lambda b, s, t: _nms(b, s, t)[::-1], "the surest comes first"),
        (lambda b, s, t: sorted(_nms(b, s, t)), "the surest comes first"),
        (lambda b, s, t: b[_nms(b, s, t)], "not the boxes"),
        (lambda b, s, t: [i + 0.4 for i in _nms(b, s, t)], "whole ones"),
        (lambda b, s, t: torch.tensor([i in _nms(b, s, t) for i in range(len(b))]), "not a mask"),
        (lambda b, s, t: _nms(b[s.argsort(descending=True)], s.sort(descending=True).values, t), "sorted list"),
        (lambda b, s, t: _nms(b, s, 1 - t), "1 - threshold"),
        (lambda b, s, t: _nms(b, s, 0.5), "whatever is given"),
        (lambda b, s, t: s[_nms(b, s, t)], "got"),
    ],
    "13.average_precision": [
        (lambda s, h, n: _ap(-torch.arange(len(s)).double(), h, n), "in the order of their scores"),
        (lambda s, h, n: _ap(-s, h, n), "the largest score"),
        (_not_monotone, "non-increasing"),
        (lambda s, h, n: _ap(s, h, max(int(h.sum()), 1)), "found or not"),
        (_read_at(11), "at 11 recalls"),
        (_read_at(101), "at 101 recalls"),
        (lambda s, h, n: h.double().mean() if len(h) else 0.0, "precision of all that was found"),
        (lambda s, h, n: h.double().sum() / n, "recall of all that was found"),
        (lambda s, h, n: _curve(s, h, n)[1].mean() if len(h) else 0.0, "a mean over the boxes"),
        (lambda s, h, n: torch.trapezoid(*reversed(_curve(s, h, n))) if len(h) else 0.0, "expected"),
    ],
}
