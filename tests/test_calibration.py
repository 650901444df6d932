"""Reliability, the temperature, two looks at a picture, and weights of classes, each against another way."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import K, batches, plain_model

from sftlib.losses import class_weights, weighted_cross_entropy
from sftlib.metrics import (
    expected_calibration_error,
    proportion_interval,
    reliability,
    reliability_by_group,
    temperature,
)
from sftlib.model import Flipped
from sftlib.training import evaluate


def drawn(n, k, scale, seed=0):
    """logits z and labels drawn from softmax(z / scale): calibrated at T = scale"""
    g = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(n, k, generator=g, dtype=torch.float64)
    y = torch.multinomial((z / scale).softmax(1), 1, generator=g)[:, 0]
    return z, y


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.7])
def test_the_temperature_that_drew_the_labels_is_found(scale):
    z, y = drawn(20_011, 5, scale)
    assert temperature(z, y) == pytest.approx(scale, rel=0.04)


def test_the_temperature_is_the_minimum_that_a_grid_finds():
    z, y = drawn(211, 3, 1.7, seed=5)
    grid = torch.logspace(-1, 1, 2001, dtype=torch.float64)
    target = torch.full_like(z, 1 / 213 / 2).scatter(1, y[:, None], 212 / 213)
    losses = [-(target * (z / T).log_softmax(1)).sum() for T in grid]
    assert temperature(z, y) == pytest.approx(grid[int(np.argmin(losses))].item(), rel=3e-3)


def test_with_all_right_the_temperature_is_finite_and_one_wrong_raises_it():
    z = torch.full((50, 3), -2.0).scatter(1, torch.arange(50)[:, None] % 3, 2.0)
    y = torch.arange(50) % 3
    sure = temperature(z, y)
    assert 0.3 < sure < 1.5  # p of the truth is then 51/52: 4 / T = log(51 · 2)
    assert 4 / sure == pytest.approx(math.log(51 * 2), rel=1e-6)
    y[0] = 1
    assert temperature(z, y) > sure


def test_dividing_by_the_temperature_changes_no_prediction_and_lowers_the_calibration_error():
    z, y = drawn(3001, 7, 3.0, seed=2)
    T = temperature(z[:1500], y[:1500])
    before, after = (expected_calibration_error((z[1500:] / t).softmax(1), y[1500:]) for t in (1.0, T))
    assert after < before / 3 and torch.equal((z / T).argmax(1), z.argmax(1))


def test_logits_that_tell_nothing_apart_are_refused():
    with pytest.raises(ValueError, match="all the same in each row"):
        temperature(torch.ones(5, 3), torch.arange(5) % 3)


def test_reliability_by_a_loop_over_bins():
    z, y = drawn(997, 4, 1.3, seed=1)
    p = z.softmax(1)
    confidence, predicted = p.max(1)
    rows = []
    for b in range(7):
        mine = (confidence > b / 7) & (confidence <= (b + 1) / 7)
        if mine.any():
            rows.append((confidence[mine].mean(), (predicted == y)[mine].double().mean(), int(mine.sum())))
    found = reliability(p, y, bins=7)
    assert found.n.tolist() == [n for *_, n in rows]
    assert found.confidence.tolist() == pytest.approx([c.item() for c, *_ in rows])
    assert found.accuracy.tolist() == pytest.approx([a.item() for _, a, _ in rows])


# --- two looks -----------------------------------------------------------------------------------------------------


def test_two_looks_are_the_mean_of_two_probabilities_whatever_side_is_seen():
    model = plain_model()
    x, y = batches(1)[0]
    p = (model(x).softmax(1) + model(x.flip(-1)).softmax(1)) / 2
    log_p = Flipped(model)(x)
    assert torch.allclose(log_p.exp(), p, atol=1e-6) and torch.allclose(log_p, Flipped(model)(x.flip(-1)), atol=1e-6)
    found = evaluate(Flipped(model), [(x, y)])
    assert found["loss"] == pytest.approx(F.nll_loss(p.log(), y).item(), rel=1e-5)


# --- weights of classes --------------------------------------------------------------------------------------------


def test_weights_make_classes_count_alike():
    y = torch.tensor([0] * 11 + [1] * 3 + [2] * 2)
    w = class_weights(y, 3)
    assert torch.bincount(y, weights=w[y].double()).tolist() == pytest.approx([16 / 3] * 3)
    assert w[y].mean().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="no label of class 2"):
        class_weights(y[:14], 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_of_all_does_not_depend_on_the_batches(smoothing):
    loss, terms = weighted_cross_entropy([0.3, 2.0, 5.0], label_smoothing=smoothing)
    model = plain_model()
    (x, y), (x2, y2) = batches(2)
    whole = [(torch.cat([x, x2]), torch.cat([y, y2]))]
    parts = [(whole[0][0][a:b], whole[0][1][a:b]) for a, b in ((0, 5), (5, 7), (7, 26))]
    one, three = (evaluate(model, some, task_loss=loss, terms=terms)["loss"] for some in (whole, parts))
    assert one == pytest.approx(three, rel=1e-5)
    with torch.no_grad():
        log_p, w = model(whole[0][0]).log_softmax(1), torch.tensor([0.3, 2.0, 5.0])
    target = F.one_hot(whole[0][1], K) * (1 - smoothing) + smoothing / K
    by_hand = -(target * w * log_p).sum() / w[whole[0][1]].sum()
    assert one == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0, 1.0], [1.0], [float("nan"), 1.0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="expected"):
        weighted_cross_entropy(weights)


# --- by group --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hits, n", [(0, 7), (7, 7), (3, 11), (1, 1), (499, 1009)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.997])
def test_wilsons_interval_holds_the_shares_that_the_hits_do_not_contradict(hits, n, confidence):
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = np.linspace(0, 1, 200_001)
    kept = p[np.abs(hits / n - p) <= z * np.sqrt(p * (1 - p) / n) + 1e-12]
    found = proportion_interval(hits, n, confidence=confidence)
    assert found.mean == hits / n
    assert (found.low, found.high) == (pytest.approx(kept.min(), abs=1e-5), pytest.approx(kept.max(), abs=1e-5))


def test_each_group_has_its_own_count_confidence_and_share_of_right_ones():
    z, y = drawn(23, 3, 1.0, seed=4)
    p, cameras = z.softmax(1), ["old" if i % 3 == 0 else "new" for i in range(23)]
    found = reliability_by_group(p, y, cameras, confidence=0.9)
    assert [(g.group, g.n) for g in found] == [("new", 15), ("old", 8)]
    for g in found:
        rows = [i for i in range(23) if cameras[i] == g.group]
        hits = sum(int(p[i].argmax()) == int(y[i]) for i in rows)
        assert g.confidence == pytest.approx(sum(max(p[i]).item() for i in rows) / g.n)
        assert g.accuracy == proportion_interval(hits, g.n, confidence=0.95)  # two groups: 10 % is shared out


def test_a_calibrated_model_keeps_its_word_by_what_it_said_and_not_by_what_was_true():
    """Why groups are what is known before the truth"""
    z, y = drawn(20_011, 3, 1.0, seed=1)
    z = z + torch.tensor([2.0, 0.0, 0.0])  # a frequent class
    p = z.softmax(1)
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(7))[:, 0]
    assert not any(g.visible for g in reliability_by_group(p, y, p.argmax(1).tolist()))
    assert all(g.visible for g in reliability_by_group(p, y, y))
    sharp = (2 * z).softmax(1)
    found = reliability_by_group(sharp, y, p.argmax(1))
    assert all(g.visible and str(g).endswith(", too sure") for g in found)
    shy = (z / 2).softmax(1)
    assert all(str(g).endswith(", not sure enough") for g in reliability_by_group(shy, y, p.argmax(1)))


def test_groups_of_another_number_are_refused():
    with pytest.raises(ValueError, match="got 4 groups for 5 examples"):
        reliability_by_group(torch.full((5, 2), 0.5), torch.arange(5) % 2, "abcd")
