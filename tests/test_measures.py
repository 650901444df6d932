"""Measures with a state: against naive counts and other libraries, whatever the batches, workers and order."""

import contextlib
import io
import itertools
import math

import jiwer
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sftlib.losses import ctc
from sftlib.metrics import (
    Accuracy,
    AveragePrecision,
    ErrorRate,
    Exact,
    MeanIoU,
    Metric,
    Tally,
    edit_distance,
    greedy_decode,
)

N, K = 11, 3


def g(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------- one batch or many, one worker or two


def scores(*shape):
    return torch.randn(shape, generator=g(len(shape)))


def classes(*shape, ignored=None):
    y = torch.randint(K, shape, generator=g(7))
    return y if ignored is None else y.masked_fill(torch.rand(shape, generator=g(8)) < 0.4, ignored)


def boxes(seed, n):
    corner = (torch.rand(n, 2, generator=g(seed)) * 20).round()
    size = 1 + (torch.rand(n, 2, generator=g(seed + 1)) * 12).round()
    return torch.cat([corner, corner + size], dim=1)


def scene(seed):
    """Found and true boxes of a picture: near, far, doubled, of other classes, with ties of their scores"""
    r = g(seed + 100)
    n, m = int(torch.randint(6, (1,), generator=r)), int(torch.randint(9, (1,), generator=r))
    true = {"boxes": boxes(seed, n), "labels": torch.randint(1, 4, (n,), generator=r)}
    found, labels = boxes(seed + 50, m), torch.randint(1, 5, (m,), generator=r)
    if n:
        source = torch.randint(n, (m,), generator=r)
        near = torch.rand(m, generator=r) < 0.8
        shifted = true["boxes"][source] + (torch.rand(m, 4, generator=r) * 3 - 1.5).round()
        shifted[:, 2:] = torch.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        found = torch.where(near[:, None], shifted, found)
        labels = torch.where(near & (torch.rand(m, generator=r) < 0.8), true["labels"][source], labels)
    return {"boxes": found, "labels": labels, "scores": (torch.rand(m, generator=r) * 6).round() / 6}, true


CASES = {
    "classes": (Accuracy, scores(N, K), classes(N)),
    "tokens": (lambda: Accuracy(ignore_index=-100), scores(N, K, 5), classes(N, 5, ignored=-100)),
    "answers": (Exact, scores(N, K, 2), classes(N, 2, ignored=-100)),
    "pixels": (lambda: MeanIoU(K), scores(N, K, 5, 7), classes(N, 5, 7, ignored=255)),
    "transcripts": (ErrorRate, (scores(N, 7, K + 1), torch.randint(1, 8, (N,), generator=g(3))), classes(N, 4) + 1),
    "boxes": (AveragePrecision, *map(list, zip(*map(scene, range(N)), strict=True))),
}


def parts_of(output, y, sizes):
    from sftlib.batches import rows

    ends = list(itertools.accumulate(sizes))
    return [(rows(output, slice(e - n, e)), rows(y, slice(e - n, e))) for e, n in zip(ends, sizes, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_batches_workers_and_a_checkpoint_change_nothing(name):
    metric, output, y = CASES[name]
    whole, pieces, first, second = metric(), metric(), metric(), metric()
    whole.add(output, y)
    batches = parts_of(output, y, (2, 7, 1, 1))
    for batch in batches:
        pieces.add(*batch)
    for batch in batches[:2]:
        first.add(*batch)
    second.load(first.state())  # a run that was stopped and goes on
    for batch in batches[2:]:
        second.add(*batch)
    other = metric()
    for batch in batches[2:]:
        other.add(*batch)
    first.merge(other)  # what another worker saw
    assert isinstance(whole, Metric) and whole.key in whole.values()
    for measure in (pieces, first, second):
        assert str(measure.values()) == str(whole.values())  # as text: NaN is equal to itself there


@pytest.mark.parametrize("name", CASES)
def test_the_state_survives_a_file_that_holds_no_code(name, tmp_path):
    metric, output, y = CASES[name]
    measure, again = metric(), metric()
    measure.add(output, y)
    torch.save(measure.state(), tmp_path / "state")
    again.load(torch.load(tmp_path / "state", weights_only=True))
    assert str(again.values()) == str(measure.values())


@pytest.mark.parametrize("metric", [Accuracy, lambda: MeanIoU(K), ErrorRate, AveragePrecision])
def test_nothing_added_is_an_error(metric):
    with pytest.raises(ValueError, match="expected at least one"):
        metric().values()


# ------------------------------------------------------------------------------------------------------------ accuracy


def test_accuracy_is_the_naive_count_over_what_is_not_ignored():
    _, output, y = CASES["tokens"]
    hits = [
        int(output[i, :, t].argmax() == y[i, t]) for i in range(N) for t in range(5) if y[i, t] != -100
    ]  # fmt: skip
    measure = Accuracy(ignore_index=-100)
    measure.add(output, y)
    assert measure.values() == {"accuracy": pytest.approx(sum(hits) / len(hits))}


def test_an_example_is_exact_when_all_of_its_targets_are_right():
    y = torch.tensor([[1, 2, -100], [0, 0, 0], [-100, -100, -100], [2, 1, 0], [1, -100, 0]])
    output = torch.zeros(5, K, 3)
    output.scatter_(1, y.clamp(min=0)[:, None], 1.0)
    output[3, :, 2], output[4, :, 1] = torch.arange(K), math.nan  # a last token that is wrong; one that does not count
    measure = Exact()
    measure.add(output, y)
    assert measure.values() == {"exact": 3 / 4}
    output[0, 0, 1] = math.nan
    measure.add(output[:1], y[:1])
    assert measure.values() == {"exact": 3 / 5}
    with pytest.raises(ValueError, match="no examples"):
        measure = Exact()
        measure.add(output[2:3], y[2:3])
        measure.values()
    measure.add(torch.zeros(1, K, 1), torch.tensor([[K]]))
    with pytest.raises(ValueError, match="1 examples of no class"):
        measure.values()


def test_a_row_of_nan_is_never_right():
    measure = Accuracy()
    measure.add(torch.full((2, K), math.nan), torch.tensor([0, 1]))
    assert measure.values()["accuracy"] == 0


@pytest.mark.parametrize(
    "output, y, words",
    [
        (torch.zeros(N, K), torch.zeros(N, K), "soft"),
        (torch.zeros(N, 1), torch.zeros(N, 1, dtype=torch.long), "metric=…"),
        (torch.zeros(N), torch.zeros(N, dtype=torch.long), "metric=…"),
        (torch.zeros(N, K), torch.zeros(N), "whole numbers"),
        ({"loss": torch.zeros(())}, torch.zeros(N), "got a dict"),
        (torch.zeros(N, K), [{}], "got a list"),
    ],
)
def test_what_has_no_accuracy_is_refused(output, y, words):
    with pytest.raises(ValueError, match=words):
        Accuracy().add(output, y)


@pytest.mark.parametrize("metric, wrong", [(Accuracy, K), (Accuracy, -1), (lambda: MeanIoU(K), K)])
def test_targets_that_are_no_class_are_counted_and_refused(metric, wrong):
    measure = metric()
    measure.add(torch.zeros(1, K, 2, 1), torch.tensor([[[0], [wrong]]]))
    with pytest.raises(ValueError, match="1 (targets|pixels) of no class"):
        measure.values()


# ------------------------------------------------------------------------------------------------------------ mean IoU


def test_mean_iou_is_intersection_over_union_of_sets_of_pixels():
    metric, output, y = CASES["pixels"]
    measure = metric()
    measure.add(output, y)
    predicted, seen = output.argmax(1).flatten().tolist(), y.flatten().tolist()
    pairs = [(i, p, t) for i, (p, t) in enumerate(zip(predicted, seen, strict=True)) if t != 255]
    iou = []
    for k in range(K):
        a, b = {i for i, p, _ in pairs if p == k}, {i for i, _, t in pairs if t == k}
        iou.append(len(a & b) / len(a | b))
    values = measure.values()
    assert values["iou"] == pytest.approx(iou) and values["mean_iou"] == pytest.approx(sum(iou) / K)
    assert values["pixel_accuracy"] == pytest.approx(sum(p == t for _, p, t in pairs) / len(pairs))


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    measure = MeanIoU(3)
    output = torch.zeros(1, 3, 2, 1)
    output[0, 0] = 1
    measure.add(output, torch.tensor([[[0], [1]]]))
    assert measure.values()["mean_iou"] == 0.25 and math.isnan(measure.values()["iou"][2])


# ---------------------------------------------------------------------------------------------------------- error rate


def test_edit_distance_and_error_rate_are_jiwers():
    letters = "abcd"
    words = [
        "".join(letters[i] for i in torch.randint(4, (n,), generator=g(n + s))) for s in (0, 40) for n in range(1, 17)
    ]
    said, written = words, words[::-1]
    edits = [edit_distance(w, s) for w, s in zip(written, said, strict=True)]
    assert sum(edits) / sum(map(len, said)) == pytest.approx(jiwer.cer(said, written))
    assert edit_distance("", "abc") == 3 and edit_distance("abc", "") == 3 and edit_distance("kitten", "sitting") == 3


def test_the_best_path_merges_repeats_before_it_drops_blanks():
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0]])
    log_p = torch.nn.functional.one_hot(path, 3).float()
    assert greedy_decode(log_p, torch.tensor([7])) == [[1, 1, 2]] and greedy_decode(log_p, torch.tensor([3])) == [[1]]


def test_error_rate_counts_edits_over_units_of_all():
    path = torch.tensor([[1, 0, 1, 2], [2, 2, 2, 2]])
    measure = ErrorRate()
    measure.add(
        (torch.nn.functional.one_hot(path, 4).float(), torch.tensor([4, 2])), torch.tensor([[1, 2, -1], [3, 3, 1]])
    )
    assert measure.values() == {"error_rate": (1 + 3) / 5, "edits": 4, "units": 5}  # 1 1 2 for 1 2; 2 for 3 3 1


def test_ctc_is_the_sum_over_all_paths():
    torch.manual_seed(1)
    log_p, lengths, y = torch.randn(2, 4, 3).log_softmax(-1), torch.tensor([4, 3]), torch.tensor([[1, 1], [2, -1]])

    def naive(log_p, T, said):
        total = 0.0
        for path in itertools.product(range(3), repeat=T):
            if [k for k, before in zip(path, (None, *path), strict=False) if k not in (before, 0)] == said:
                total += math.exp(sum(log_p[t, k].item() for t, k in enumerate(path)))
        return -math.log(total) / len(said)

    expected = (naive(log_p[0], 4, [1, 1]) + naive(log_p[1], 3, [2])) / 2
    assert ctc((log_p, lengths), y).item() == pytest.approx(expected, rel=1e-5)


def test_ctc_names_the_example_that_no_path_fits():
    with pytest.raises(ValueError, match="2 frames for 2 units in example 1; expected at least 3"):
        ctc((torch.zeros(2, 4, 3), torch.tensor([4, 2])), torch.tensor([[1, 2], [1, 1]]))


# --------------------------------------------------------------------------------------------------- average precision


def coco(found, true):
    """AP, AP50, AP75 as pycocotools has them"""
    truth, results, kinds = [], [], set()
    for i, y in enumerate(true, 1):
        for box, k in zip(y["boxes"].tolist(), y["labels"].tolist(), strict=True):
            w, h = box[2] - box[0], box[3] - box[1]
            truth.append({"id": len(truth) + 1, "image_id": i, "category_id": k, "bbox": [*box[:2], w, h],
                          "area": w * h, "iscrowd": 0})  # fmt: skip
            kinds.add(k)
    for i, d in enumerate(found, 1):
        for box, k, score in zip(d["boxes"].tolist(), d["labels"].tolist(), d["scores"].tolist(), strict=True):
            results.append({"image_id": i, "category_id": k, "score": score,
                            "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {"images": [{"id": i} for i in range(1, len(true) + 1)], "annotations": truth,
                         "categories": [{"id": k} for k in sorted(kinds)], "info": {}}  # fmt: skip
        known.createIndex()
        judge = COCOeval(known, known.loadRes(results), "bbox")
        judge.params.catIds = sorted(kinds)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[:3].tolist()


@pytest.mark.parametrize("seed", range(23))
def test_average_precision_is_cocos(seed):
    found, true = map(list, zip(*(scene(13 * seed + i) for i in range(1 + seed % 7)), strict=True))
    found.append({"boxes": torch.tensor([[0.0, 0, 5, 5]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])})
    true.append({"boxes": torch.tensor([[0.0, 0, 5, 3]]), "labels": torch.tensor([1])})  # overlap exactly 0.6
    measure = AveragePrecision()
    measure.add(found, true)
    values = measure.values()
    assert [values["ap"], values["ap50"], values["ap75"]] == pytest.approx(coco(found, true), abs=1e-9)


def test_one_box_of_overlap_057_has_the_precision_of_two_thresholds_in_ten():
    measure = AveragePrecision()
    found = {"boxes": torch.tensor([[0.0, 0, 57, 100]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    measure.add([found], [{"boxes": torch.tensor([[0.0, 0, 100, 100]]), "labels": torch.tensor([1])}])
    assert measure.values()["ap"] == pytest.approx(0.2) and measure.values()["ap50"] == 1


def test_pictures_may_be_drawn_again():
    _, found, true = CASES["boxes"]
    measure, twice = AveragePrecision(), AveragePrecision()
    measure.add(found, true)
    twice.add([found[i] for i in (0, 3, 3)], [true[i] for i in (0, 3, 3)])
    assert torch.equal(measure.of_pictures([0, 3, 3]), twice.of_pictures(range(3)))


# ------------------------------------------------------------------------------------------------------------- a tally


def test_tallies_of_unequal_workers_are_merged_into_that_of_all_examples():
    """L_g is a mean over terms, what L is beyond it over examples; both by hand from all batches at once."""
    sizes, terms = [2, 5, 1, 3], [7.0, 2.0, 0.5, 3.0]
    output, y = torch.randn(sum(sizes), K, generator=g()), torch.randint(K, (sum(sizes),), generator=g(1))
    losses, beyond = torch.rand(4, generator=g(2)), torch.rand(4, generator=g(3))
    tallies, start = [Tally(Accuracy) for _ in range(3)], 0  # the third worker has nothing
    for i, n in enumerate(sizes):
        part = slice(start, start + n)
        tallies[i % 2].add(n, output[part], y[part])
        tallies[i % 2].add_loss(losses[i], terms[i], beyond[i], n)
        start += n
    whole = Tally(Accuracy).merged([tally.state() for tally in tallies])
    L_g = sum(t * loss for t, loss in zip(terms, losses.tolist(), strict=True)) / sum(terms)
    rest = sum(n * value for n, value in zip(sizes, beyond.tolist(), strict=True)) / sum(sizes)
    expected = {"loss": L_g, "accuracy": (output.argmax(1) == y).float().mean().item(), "total": L_g + rest, "n": 11}
    assert whole.values(total=True) == pytest.approx(expected, rel=1e-5)
    assert whole.values(loss=False).keys() == {"accuracy", "n"} and Tally(None).state()["measures"].keys() == {
        "loss", "total",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"measured by \['accuracy', 'loss', 'total'\], here by \['loss', 'total'\]"):
        Tally(None).load(whole.state())
