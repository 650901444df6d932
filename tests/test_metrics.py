import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from helpers import K, N

from sftlib.metrics import (
    Interval,
    Mean,
    balanced_accuracy,
    bootstrap_interval,
    confusion_matrix,
    correct,
    expected_calibration_error,
    mean_interval,
    paired_interval,
)


def labels(seed=0, n=101):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(K, (n,), generator=g), torch.randint(K, (n,), generator=g)


def test_mean_divides_once_over_unequal_batches():
    mean = Mean()
    for batch in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0])):
        mean.add(batch.sum(), len(batch))
    assert mean.value == 4.0  # the mean of the batch means would be 6


def test_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        _ = Mean().value


def test_correct_counts_rows():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert correct(logits, torch.tensor([1, 0, 0])) == 2


def test_confusion_matrix_and_balanced_accuracy_agree_with_scikit_learn():
    predicted, y = labels()
    ours = confusion_matrix(predicted, y, K)
    assert (ours.numpy() == sklearn.metrics.confusion_matrix(y, predicted)).all()
    assert balanced_accuracy(ours) == pytest.approx(sklearn.metrics.balanced_accuracy_score(y, predicted))


def test_balanced_accuracy_of_a_constant_answer_is_one_over_k():
    y = torch.tensor([0] * 90 + [1] * 7 + [2] * 4)
    assert balanced_accuracy(confusion_matrix(torch.zeros_like(y), y, K)) == pytest.approx(1 / K)


def test_confusion_matrix_refuses_labels_out_of_range():
    predicted, y = labels()
    with pytest.raises(ValueError, match="predicted in"):
        confusion_matrix(predicted + 1, y, K)
    with pytest.raises(ValueError, match="expected"):
        confusion_matrix(predicted[:-1], y, K)


def test_calibration_error_of_a_hand_case():
    # bin (0.6, 0.8]: confidence 0.7, 1 of 2 right; bin (0.8, 1]: confidence 0.9, 2 of 2 right
    p = torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.9, 0.1], [0.1, 0.9]])
    y = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(p, y, bins=5) == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)


def test_calibration_error_equals_the_naive_loop():
    logits = torch.randn(97, 29, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 5, 97)[:, None]
    p, y = torch.softmax(logits, 1), labels(n=97)[1]
    confidence = p.max(1).values  # from 1/29 to 1
    total = 0.0
    for b in range(11):
        inside = (confidence > b / 11) & (confidence <= (b + 1) / 11)
        if inside.any():
            right = (p.argmax(1)[inside] == y[inside]).double().mean()
            total += inside.double().mean() * (right - confidence[inside].double().mean()).abs()
    assert expected_calibration_error(p, y, bins=11) == pytest.approx(total.item(), abs=1e-6)


def test_mean_interval_is_student_t():
    v = np.random.default_rng(0).normal(size=N)
    expected = scipy.stats.ttest_1samp(v, 0).confidence_interval(0.95)
    got = mean_interval(v)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert got.mean == pytest.approx(v.mean())


def test_paired_interval_removes_what_the_seeds_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=N)
    a, b = shared + 0.1 + 0.01 * rng.normal(size=N), shared + 0.01 * rng.normal(size=N)
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    got = paired_interval(a, b)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert got.excludes_zero and not paired_interval(a, rng.permutation(b)).excludes_zero


def test_intervals_need_more_than_one_run():
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([0.9])
    with pytest.raises(ValueError, match="same order"):
        paired_interval([0.9, 0.8], [0.9])


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [
        (i := bootstrap_interval(rng.random(101) < 0.7, draws=300, seed=s)).low <= 0.7 <= i.high for s in range(200)
    ]
    assert 0.89 <= np.mean(covered) <= 0.99


# ------------------------------------------------------------------------------------------------- what is refused


GOOD_P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: mean_interval([0.8, float("nan"), 0.9]), r"NaN or infinite at \[1\].*a run that failed"),
        (lambda: mean_interval([0.8, float("inf"), 0.9]), "NaN or infinite"),
        (lambda: mean_interval([0.8, 0.9], confidence=95), "confidence=95; expected .* below 1"),
        (lambda: mean_interval([0.8, 0.9], confidence=0), "above 0"),
        (lambda: mean_interval(["a", "b"]), "expected a tensor"),
        (lambda: mean_interval([[0.8, 0.9]]), r"shape \(1, 2\)"),
        (lambda: paired_interval([0.8, 0.9], [0.8, float("nan")]), r"got b .*at \[1\]"),
        (lambda: bootstrap_interval([1.0]), "n at least 2"),
        (lambda: bootstrap_interval([0, 1], draws=0), "draws=0"),
        (lambda: bootstrap_interval([0, 1], confidence=float("nan")), "confidence=nan"),
        (lambda: Interval(float("nan"), 0.1, 0.2), "expected numbers"),
        (lambda: Interval(0.1, float("nan"), 0.2), "expected numbers"),
        (lambda: Interval(0.1, 0.3, 0.2), "the lower end first"),
        (lambda: expected_calibration_error(torch.tensor([[3.0, -1.0]]), [0]), r"logits.softmax\(1\)"),
        (lambda: expected_calibration_error(GOOD_P, [0, 3]), r"in \[0, 3\]; expected classes 0 … 2"),
        (lambda: expected_calibration_error(GOOD_P, [0, 2], bins=0), "bins=0"),
        (lambda: expected_calibration_error(GOOD_P[:, :1] * 0 + 1, [0, 0]), "one class"),
        (lambda: expected_calibration_error(GOOD_P[:0], []), "N and D at least 1"),
        (lambda: expected_calibration_error(GOOD_P * torch.nan, [0, 2]), "NaN or infinity in rows"),
        (lambda: balanced_accuracy(torch.zeros(K, K)), "at least one example"),
        (lambda: balanced_accuracy(torch.ones(K, K + 2)), r"expected counts \(K, K\)"),
        (lambda: balanced_accuracy(-torch.ones(K, K)), "0 or more"),
        (lambda: confusion_matrix([0, 1], [0, 10**7], 10**7 + 1), "num_classes=10000001; expected .* to 32768"),
        (lambda: confusion_matrix([0.0, 1.0], [0, 1], K), "one integer label a row"),
        (lambda: correct(torch.zeros(5, 1), torch.zeros(5).long()), "one output"),
        (lambda: correct(torch.zeros(5, 3), torch.zeros(5, 3)), "soft or several labels"),
        (lambda: correct(torch.zeros(5, 3), torch.zeros(5, 1).long()), "one class index a row"),
        (lambda: Mean().add(torch.ones(3), 3), "the batch's sum"),
        (lambda: Mean().add(1.0, -3), "count=-3"),
        (lambda: Mean().add(1.0, float("nan")), "count=nan"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_arrays_lists_and_tensors_of_any_integer_type_give_the_same():
    predicted, y = labels()
    want = confusion_matrix(predicted, y, K)
    for convert in (
        lambda v: v.numpy(),
        lambda v: v.tolist(),
        lambda v: v.to(torch.uint8),  # y · K + predicted passes 255
        lambda v: v.numpy().astype(">i4"),
        lambda v: v.numpy().astype(np.uint16)[::-1][::-1],
    ):
        assert torch.equal(confusion_matrix(convert(predicted), convert(y), K), want)
    assert balanced_accuracy(want.numpy()) == balanced_accuracy(want)
    many = torch.arange(101) % 29 + 229
    assert confusion_matrix(many.to(torch.uint8), many.to(torch.uint8), 258).diagonal().sum() == 101
    p = torch.softmax(torch.randn(101, K, generator=torch.Generator().manual_seed(0)), 1)
    assert expected_calibration_error(p.numpy(), y.tolist()) == expected_calibration_error(p, y)
    assert correct(p.numpy(), y.numpy()) == (p.argmax(1) == y).sum()
    grown = torch.tensor([0.5, 0.7, 0.9], requires_grad=True)
    assert mean_interval(grown) == mean_interval(grown.tolist()) == mean_interval(np.float32([0.5, 0.7, 0.9]))


def test_a_row_of_nan_is_never_right():
    logits = torch.tensor([[0.0, torch.nan, 1.0], [0.0, 2.0, 1.0]])
    assert [int(correct(logits, torch.tensor([k, 1]))) for k in range(3)] == [1, 1, 1]


def test_correct_counts_pixels():
    logits = torch.randn(5, 3, 7, 11, generator=torch.Generator().manual_seed(0))
    y = torch.randint(3, (5, 7, 11), generator=torch.Generator().manual_seed(1))
    rows = logits.movedim(1, -1).reshape(-1, 3)
    assert correct(logits, y) == correct(rows, y.flatten()) > 0


def test_an_interval_that_touches_or_holds_zero_does_not_exclude_it():
    assert Interval(0.1, 0.05, 0.2).excludes_zero and Interval(-0.1, -0.2, -0.05).excludes_zero
    assert not any(Interval(0.1, low, 0.2).excludes_zero for low in (0.0, -0.1, -np.inf))


def test_bootstrap_in_blocks_is_the_bootstrap_at_once(monkeypatch):
    v = np.random.default_rng(0).random(101)
    whole = bootstrap_interval(v, draws=300)
    monkeypatch.setattr("sftlib.metrics.intervals.AT_ONCE", 700)
    assert bootstrap_interval(v, draws=300) == whole
