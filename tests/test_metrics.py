import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from helpers import K, N

from sftlib.metrics import (
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
