"""Checkers of notebook 13: overlap, anchors, moving boxes; those of lists of boxes are in `detections`."""

import torch
from torch import Tensor

from sftlib.checks import Wrong, checker, detections, expect, numeric, require
from sftlib.checks.boxes import around, boxes_at_random, draw, overlap

# ------------------------------------------------------------------------------------------------------------- overlap


@checker("13.iou")
def _iou(answer):
    """a (n, 4), b (m, 4) as x1, y1, x2, y2 -> (n, m), the overlap of each with each"""
    rand = draw(3)
    cases = {
        "5 and 7 boxes that overlap": (boxes_at_random(rand, 5), boxes_at_random(rand, 7)),
        "boxes that lie apart in both directions": ([(0, 0, 2, 3), (1, 1, 4, 2)], [(10, 20, 13, 29)]),
        "boxes that share an edge": ([(0, 0, 2, 3)], [(2, 0, 5, 3), (0, 3, 2, 7)]),
        "a box and itself": ([(1, 2, 6, 13)], [(1, 2, 6, 13)]),
        "boxes with areas below 1": ([(0.1, 0.2, 0.3, 0.6)], [(0.1, 0.2, 0.3, 0.6), (0.1, 0.3, 0.4, 0.8)]),
        "a small box in a large one": ([(0, 0, 10, 11)], [(2, 3, 4, 8)]),
        "no box and 3 boxes": (torch.zeros(0, 4), boxes_at_random(rand, 3)),
    }
    for what, (a, b) in cases.items():
        a, b = (torch.as_tensor(boxes, dtype=torch.float32) for boxes in (a, b))
        want = torch.tensor([[overlap(p, q) for q in b.tolist()] for p in a.tolist()]).reshape(len(a), len(b))
        try:
            got = answer(a.clone(), b.clone())
            got = torch.zeros(0, len(b)) if not len(a) and isinstance(got, list) and not got else got
        except RuntimeError as error:
            if "size of tensor" not in str(error):
                raise
            raise Wrong(f"{what}: {error}; each of a meets each of b: a[:, None] against b[None]") from None
        expect(what, got, want, known=_iou_mistakes(a, b, want))
    flat = torch.tensor([[3.0, 4.0, 3.0, 9.0]])
    got = numeric("a box without an area and itself", answer(flat.clone(), flat.clone()))
    require(
        bool((got == 0).all()),
        f"a box without an area and itself: got {got.flatten()[0].item():.4g}, expected 0; 0/0 is no overlap, so keep "
        "the denominator above 0",
    )


def _iou_mistakes(a, b, want):
    if 0 in want.shape:
        return [(want.T, "rows are those of a, columns those of b")]
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    both = (high - low).clamp(min=0).prod(2)
    sums = area_a[:, None] + area_b[None]
    signed = (high - low).prod(2)
    hull = torch.maximum(a[:, None, 2:], b[None, :, 2:]) - torch.minimum(a[:, None, :2], b[None, :, :2])
    more = (high - low + 1).clamp(min=0).prod(2)
    area_a1, area_b1 = ((x[:, 2:] - x[:, :2] + 1).prod(1) for x in (a, b))
    found = [
        (signed / (sums - signed), "two negative sides make a positive area: no side of the common part is below 0"),
        (both / sums, "the common part is counted twice in the sum of the areas: subtract it once"),
        (2 * both / sums, "this is the Dice coefficient: twice the common part over the sum"),
        (both / torch.minimum(area_a[:, None], area_b[None]), "divide by the area of both together, not the smaller"),
        (both / torch.maximum(area_a[:, None], area_b[None]), "divide by the area of both together, not the larger"),
        (both / area_a[:, None].expand_as(both), "divide by the area of both together, not that of a"),
        (both / area_b[None].expand_as(both), "divide by the area of both together, not that of b"),
        (both / hull.prod(2), "divide by the area of the two boxes, not of the frame around them"),
        (more / (area_a1[:, None] + area_b1[None] - more), "here a box ends at x2; + 1 belongs to pixels that count"),
        (both, "this is the area of the common part: divide by that of both together"),
        (1 - want, "this is the distance, 1 - IoU"),
        (both / (sums - both).clamp(min=1), "areas below 1 are areas too: the least that you divide by must be tiny"),
        (want.T, "rows are those of a, columns those of b"),
    ]
    return [(value, mistake) for value, mistake in found if value.shape != want.shape or not _same(value, want)]


def _same(value: Tensor, want: Tensor) -> bool:
    return torch.allclose(value.double(), want.double(), rtol=1e-4, atol=1e-4, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------- anchors


@checker("13.anchors")
def _anchors(answer):
    """centres (n, 2), sides, ratios -> (n · sides · ratios, 4) in any order; area side², height = ratio · width"""
    answer, rand = _tuples_or_tensors(answer), draw(5)
    for n, sides, ratios in ((1, (20.0,), (3.0,)), (3, (10.0, 30.0), (1.0, 2.5)), (5, (7.0, 16.0, 40.0), (0.5, 3.0))):
        centres = (rand(n, 2) * 100).round()
        got = answer(centres, sides, ratios)
        want = torch.tensor([_anchor(x, y, s, r) for x, y in centres.tolist() for s in sides for r in ratios])
        known = [
            (torch.tensor([function(x, y, s, r) for x, y in centres.tolist() for s in sides for r in ratios]), mistake)
            for function, mistake in ANCHOR_SLIPS
        ]
        what = f"{n} places, sides {sides}, ratios {ratios}, ordered by their corners"
        expect(what, _ordered(what, got, len(want)), _rows(want), known=[
            (_rows(value), mistake) for value, mistake in known if not _same(_rows(value), _rows(want))
        ], tolerance=1e-4)  # fmt: skip


def _tuples_or_tensors(answer):
    """The function, which gets tensors (S,), (R,) where it cannot do with tuples"""

    def call(centres, sides, ratios):
        try:
            return answer(centres.clone(), sides, ratios)
        except (TypeError, AttributeError):
            return answer(centres.clone(), torch.tensor(sides), torch.tensor(ratios))

    return call


def _anchor(x, y, side, ratio):
    w, h = side / ratio**0.5, side * ratio**0.5
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


ANCHOR_SLIPS = (
    (lambda x, y, s, r: _anchor(x, y, s, 1 / r), "the ratio is height over width: a person's is above 1"),
    (lambda x, y, s, r: around(x, y, s, s * r), "the area shall be side², whatever the ratio: here it grows with it"),
    (lambda x, y, s, r: around(x, y, s / r, s), "the area shall be side², whatever the ratio: here it falls with it"),
    (lambda x, y, s, r: around(x, y, s / r, s * r), "height over width is here the ratio squared: take the root"),
    (lambda x, y, s, r: (x, y, x + s / r**0.5, y + s * r**0.5), "the place is the middle of the box, not its corner"),
    (lambda x, y, s, r: (x, y, s / r**0.5, s * r**0.5), "expected corners x1, y1, x2, y2, not the middle and sides"),
    (lambda x, y, s, r: (*_anchor(x, y, s, r)[:2], s / r**0.5, s * r**0.5), "expected corners, not corner and sides"),
    (lambda x, y, s, r: _anchor(x, y, 2 * s, r), "half the width lies on each side of the middle, not all of it"),
    (lambda x, y, s, r: _anchor(y, x, s, r), "x comes first in a place, then y"),
    (lambda x, y, s, r: _anchor(0, 0, s, r), "all lie around 0: add the places"),
    (lambda x, y, s, r: around(x, y, s, s), "the ratios are not used"),
)


def _rows(boxes: Tensor) -> Tensor:
    """Boxes (n, 4) in the order of their corners, to a thousandth of a pixel"""
    rows = sorted(boxes.double().tolist(), key=lambda row: [round(v, 3) for v in row])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def _ordered(what: str, got, n: int) -> Tensor:
    got = numeric(what, got)
    require(got.shape[-1:] == (4,), f"{what}: got shape {tuple(got.shape)}, expected ({n}, 4): four numbers a box")
    require(got.numel() == 4 * n, f"{what}: got {got.numel() // 4} boxes, expected {n}: each side with each ratio, "
            "at each place")  # fmt: skip
    require(got.ndim == 2, f"{what}: got shape {tuple(got.shape)}, expected ({n}, 4)")
    return _rows(got)


# -------------------------------------------------------------------------------------------------------- moving boxes


@checker("13.decode")
def _decode(answer):
    """anchors (n, 4), t (n, 4) -> boxes (n, 4): the middle moves by t of the anchor's sides, those grow by exp t"""
    rand = draw(7)
    anchors = boxes_at_random(rand, 11)
    cases = {
        "t = 0": torch.zeros(11, 4),
        "moved by a tenth and a fifth": torch.tensor([0.1, -0.2, 0.0, 0.0]).expand(11, 4),
        "twice as wide, half as high": torch.tensor([0.0, 0.0, 0.6931472, -0.6931472]).expand(11, 4),
        "moved and grown": rand(11, 4) - 0.5,
    }
    for what, t in cases.items():
        want = torch.tensor([_moved(a, d) for a, d in zip(anchors.tolist(), t.tolist(), strict=True)])
        known = [
            (torch.tensor([slip(a, d) for a, d in zip(anchors.tolist(), t.tolist(), strict=True)]), mistake)
            for slip, mistake in DECODE_SLIPS
        ]
        expect(what, answer(anchors.clone(), t.clone()), want, tolerance=1e-4,
               known=[(value, mistake) for value, mistake in known if not _same(value, want)])  # fmt: skip


def _sides(a):
    return (a[0] + a[2]) / 2, (a[1] + a[3]) / 2, a[2] - a[0], a[3] - a[1]


def _moved(a, t, grow=lambda v: 2.718281828459045**v):
    x, y, w, h = _sides(a)
    return around(x + t[0] * w, y + t[1] * h, w * grow(t[2]), h * grow(t[3]))


def _unmoved_units(a, t):
    x, y, w, h = _sides(a)
    return around(x + t[0], y + t[1], w * 2.718281828459045 ** t[2], h * 2.718281828459045 ** t[3])


def _as_middle(a, t):
    x1, y1, x2, y2 = _moved(a, t)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _by_new_sides(a, t):
    x, y, w, h = _sides(a)
    w2, h2 = w * 2.718281828459045 ** t[2], h * 2.718281828459045 ** t[3]
    return around(x + t[0] * w2, y + t[1] * h2, w2, h2)


def _turned_sides(a, t):
    x, y, w, h = _sides(a)
    return around(x + t[0] * h, y + t[1] * w, w * 2.718281828459045 ** t[2], h * 2.718281828459045 ** t[3])


def _from_corner(a, t):
    _, _, w, h = _sides(a)
    w2, h2 = w * 2.718281828459045 ** t[2], h * 2.718281828459045 ** t[3]
    x1, y1 = a[0] + t[0] * w, a[1] + t[1] * h
    return x1, y1, x1 + w2, y1 + h2


DECODE_SLIPS = (
    (_unmoved_units, "the middle moves by t times the anchor's width and height, not by t pixels"),
    (lambda a, t: _moved(a, t, lambda v: v), "the sides are multiplied by exp(t), not by t: t = 0 changes nothing"),
    (lambda a, t: _moved(a, t, lambda v: 1 + v), "the sides are multiplied by exp(t), not by 1 + t"),
    (lambda a, t: _moved(a, t, lambda v: 2**v), "the sides are multiplied by exp(t), not by 2 to the t"),
    (lambda a, t: _moved(a, [-v for v in t]), "the signs are turned round: this is the way from box to anchor"),
    (_as_middle, "expected corners x1, y1, x2, y2, not the middle and the sides"),
    (_by_new_sides, "the middle moves by t times the anchor's own sides, not the new ones"),
    (_turned_sides, "x moves by the anchor's width, y by its height"),
    (_from_corner, "the middle moves and the box grows around it; here it is the corner"),
    (lambda a, t: [p + q for p, q in zip(a, t, strict=True)], "t is no difference of corners"),
)


# ------------------------------------------------------------------------------------------------------ lists of boxes


@checker("13.nms")
def _nms(answer):
    """boxes (n, 4), scores (n,), threshold -> which are kept, the surest first"""
    detections.nms(answer)


@checker("13.average_precision")
def _average_precision(answer):
    """scores (n,), hit (n,) of the boxes found, how many there are -> area below the non-increasing precision"""
    detections.average_precision(answer)
