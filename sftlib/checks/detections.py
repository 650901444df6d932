"""Checkers of notebook 13 on lists of boxes: non-maximum suppression, average precision."""

import torch

from sftlib.checks import Wrong, expect, numeric
from sftlib.checks.boxes import boxes_at_random, draw, overlap


def nms(answer) -> None:
    """boxes (n, 4), scores (n,), threshold -> which are kept, the surest first; a tensor or list of numbers"""
    rand = draw(11)
    chain = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [40, 0, 50, 10]])
    half = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 3]])
    cases = [
        ("a chain, of which each overlaps the next", chain, torch.tensor([0.9, 0.8, 0.7, 0.95]), 0.5),
        ("an overlap of exactly the threshold", half[:2], torch.tensor([0.6, 0.9]), 0.5),
        ("the surest box stands last", half, torch.tensor([0.2, 0.3, 0.9]), 0.5),
        ("31 boxes, threshold 0.3", boxes_at_random(rand, 31), rand(31), 0.3),
        ("31 boxes, threshold 0.7", boxes_at_random(rand, 31), rand(31), 0.7),
        ("one box", half[:1], torch.tensor([0.1]), 0.5),
        ("no box", torch.zeros(0, 4), torch.zeros(0), 0.5),
    ]
    for what, boxes, scores, threshold in cases:
        want = _kept(boxes, scores, threshold)
        got = answer(boxes.clone(), scores.clone(), threshold)
        got = numeric(what, got)
        if bool((got != got.round()).any()):
            raise Wrong(f"{what}: got {got.flatten().tolist()[:9]}, expected the numbers of the boxes, whole ones")
        if got.ndim == 2 and len(boxes):
            raise Wrong(f"{what}: got shape {tuple(got.shape)}, expected the numbers of the boxes, not the boxes")
        if got.numel() == 0 and not want:
            continue
        _say_what_is_kept(what, [int(i) for i in got.flatten().tolist()], want, boxes, scores, threshold)


def _kept(boxes, scores, threshold, strictly=True, against_all=False, ascending=False) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: float(scores[i]) if ascending else -float(scores[i]))
    kept: list[int] = []
    for place, i in enumerate(order):
        others = order[:place] if against_all else kept
        overlaps = [overlap(boxes[i].tolist(), boxes[j].tolist()) for j in others]
        if not any(o > threshold or (not strictly and o == threshold) for o in overlaps):
            kept.append(i)
    return kept


def _say_what_is_kept(what, got, want, boxes, scores, threshold):
    if got == want:
        return
    known = [
        (_kept(boxes, scores, threshold, against_all=True), "a box that was thrown out throws out no other: compare "
         "with those that were kept"),
        (_kept(boxes, scores, threshold, strictly=False), "only an overlap above the threshold throws a box out"),
        (_kept(boxes, scores, threshold, ascending=True), "begin with the surest, the largest score"),
        (list(range(len(boxes))), "nothing is thrown out"),
        (want[:1], "this keeps the surest alone"),
        (want[::-1], "the right ones, but the surest comes first"),
        (sorted(want), "the right ones, but the surest comes first"),
        ([int(i in want) for i in range(len(boxes))], "expected the numbers of the boxes, not a mask"),
        (_places_of(want, scores), "these are places in the sorted list: translate them to the boxes as they came"),
        (_kept(boxes, scores, 1 - threshold), "this is 1 - threshold: it is the overlap that is compared"),
        (_kept(boxes, scores, 0.5), "this takes 0.5 for a threshold, whatever is given"),
    ]  # fmt: skip
    at = next((i for i, (g, w) in enumerate(zip(got, want, strict=False)) if g != w), min(len(got), len(want)))
    at = at if at >= 9 else 0  # so that the first difference is shown
    place = f" from place {at} on" if at else ""
    found = "; or: ".join(dict.fromkeys(mistake for value, mistake in known if got == value))
    raise Wrong(f"{found + ' ' if found else ''}({what}: got {got[at : at + 9]}, expected {want[at : at + 9]}{place})")


def _places_of(kept, scores) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: -float(scores[i]))
    return [order.index(i) for i in kept]


# --------------------------------------------------------------------------------------------------- average precision


def average_precision(answer) -> None:
    """scores (n,), hit (n,) of the boxes found, how many there are -> area below the non-increasing precision"""
    rand = draw(13)
    cases = [
        ("3 found of 4, in the order of their scores", torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), [0, 1, 1, 0, 1], 4),
        ("the same, in another order", torch.tensor([0.6, 0.9, 0.5, 0.7, 0.8]), [0, 0, 1, 1, 1], 4),
        ("47 boxes of which 23 hit, 29 true ones", rand(47), [int(i % 2 == 1) for i in range(47)], 29),
        ("all right", torch.tensor([0.4, 0.9, 0.7]), [1, 1, 1], 3),
        ("nothing right", torch.tensor([0.4, 0.9]), [0, 0], 3),
        ("nothing found", torch.zeros(0), [], 5),
    ]
    for what, scores, hit, there in cases:
        hit = torch.tensor(hit, dtype=torch.bool)
        want = _area_below(scores.tolist(), hit.tolist(), there)
        got = answer(scores.clone(), hit.clone(), there)
        known = _ap_mistakes(scores, hit, there) if len(hit) else []
        expect(what, got, want, known=[(value, why) for value, why in known if abs(value - want) > 1e-4])


def _curve(scores, hit, there, order=None):
    """-> recall, precision after each box, the surest first"""
    order = sorted(range(len(scores)), key=lambda i: -scores[i]) if order is None else order
    recall, precision, found = [], [], 0
    for n, i in enumerate(order, start=1):
        found += bool(hit[i])
        recall.append(found / there)
        precision.append(found / n)
    return recall, precision


def _steps(recall, precision, *, best=True) -> float:
    area, before = 0.0, 0.0
    for i, r in enumerate(recall):
        area += (r - before) * (max(precision[i:]) if best else precision[i])
        before = r
    return area


def _area_below(scores, hit, there) -> float:
    return _steps(*_curve(scores, hit, there))


def _ap_mistakes(scores, hit, there):
    scores, hit = scores.tolist(), hit.tolist()
    recall, precision = _curve(scores, hit, there)
    unsorted = _curve(scores, hit, there, range(len(scores)))
    rising = _curve(scores, hit, there, sorted(range(len(scores)), key=lambda i: scores[i]))
    points = {n: [i / (n - 1) for i in range(n)] for n in (11, 101)}
    read = {
        n: sum(max([p for r, p in zip(recall, precision, strict=True) if r >= at], default=0.0) for at in grid) / n
        for n, grid in points.items()
    }
    ends = list(zip([0.0, *recall], recall, [precision[0], *precision], precision, strict=False))
    return [
        (_steps(*unsorted), "take the boxes in the order of their scores, the surest first"),
        (_steps(*rising), "begin with the surest, the largest score"),
        (_steps(recall, precision, best=False), "precision is first made non-increasing: at each recall, the best "
         "that this or a larger recall reaches"),
        (_area_below(scores, hit, max(sum(hit), 1)), "recall is a share of all that are there, found or not"),
        (sum((b - a) * (p + q) / 2 for a, b, p, q in ends), "steps, not slopes: no trapezoids"),
        (read[11], "this reads the curve at 11 recalls; here the whole area is wanted"),
        (read[101], "this reads the curve at 101 recalls, as COCO does; here the whole area is wanted"),
        (sum(precision) / len(precision), "a mean over the boxes: weigh each precision by its step in recall"),
        (precision[-1], "this is the precision of all that was found"),
        (recall[-1], "this is the recall of all that was found"),
    ]  # fmt: skip
