"""Transferability scores against SciPy, naive loops, limits and invariances."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from sftlib import selection
from sftlib.features import knn_accuracy

OF_FEATURES = ["h_score", "regularized_h_score", "log_me", "trans_rate", "gbc", "parc", "n_leep"]


def task(seed=0, n=53, d=7, c=3, gap=1.0):
    """Features whose class means differ by about gap, in float64."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(c, (n,), generator=g)
    y[:c] = torch.arange(c)
    means = gap * torch.randn(c, d, generator=g, dtype=torch.float64)
    return means[y] + torch.randn(n, d, generator=g, dtype=torch.float64), y


def random_probabilities(seed=0, n=53, s=11):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, s, generator=g, dtype=torch.float64).softmax(1)


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize("n, d", [(53, 7), (29, 101)])
def test_float32_and_float64_agree_also_with_fewer_samples_than_features(name, n, d):
    z, y = task(1, n, d)
    score = getattr(selection, name)
    z = z.float()
    value = score(z, y)
    assert isinstance(value, float) and math.isfinite(value)
    assert score(z.double(), y) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_order_of_samples_and_names_of_classes_do_not_matter(name):
    z, y = task(2)
    score = getattr(selection, name)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    names = torch.tensor([97, -3, 41])
    assert score(z, names[y]) == pytest.approx(score(z, y), rel=1e-9)
    if name != "n_leep":  # k-means starts from other samples
        assert score(z[order], y[order]) == pytest.approx(score(z, y), rel=1e-9)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_separated_classes_score_higher_than_mixed_ones(name):
    score = getattr(selection, name)
    for seed in range(3):
        assert score(*task(seed, 101, gap=5.0)) > score(*task(seed, 101, gap=0.1))


@pytest.mark.parametrize("name", OF_FEATURES)
def test_class_with_one_member_and_constant_features_are_finite(name):
    score = getattr(selection, name)
    z, y = task(3)
    y[y == 2] = 1
    y[5] = 2
    assert math.isfinite(score(z, y))
    z[:, 2] = 0.1  # one constant feature
    assert math.isfinite(score(z, y))
    value = score(torch.linspace(0.1, 0.7, 7, dtype=torch.float64).expand(53, 7), y)  # its mean is rounded
    nothing = {"h_score": 0, "regularized_h_score": 0, "trans_rate": 0, "gbc": -6, "parc": 0}
    assert math.isfinite(value)
    assert value == pytest.approx(nothing.get(name, value), abs=1e-9)


@pytest.mark.parametrize("name", OF_FEATURES + ["leep", "nce", "probe_accuracy"])
def test_wrong_input_is_named_with_its_remedy(name):
    score = getattr(selection, name)
    z, y = task()
    z = z.softmax(1)
    for bad in (math.nan, math.inf):
        broken = z.clone()
        broken[[3, 17], 2] = bad
        with pytest.raises(ValueError, match=r"rows \[3, 17\].*finite"):
            score(broken, y)
    for features, labels in [(z[:, :, None], y), (z, y[:-1]), (z, y.double()), (z[:, :0], y)]:
        with pytest.raises(ValueError, match="one integer label a row|N and D at least 1"):
            score(features, labels)
    with pytest.raises(ValueError, match="1 class"):
        score(z, torch.zeros_like(y))


# --- H-score -----------------------------------------------------------------------------------------------


def covariances(z, y):
    z = z.numpy() - z.numpy().mean(0)
    means = np.stack([z[(y == c).numpy()].mean(0) for c in y.unique()])[np.unique(y.numpy(), return_inverse=True)[1]]
    return z, z.T @ z / len(z), means.T @ means / len(z)


@pytest.mark.parametrize("n, d", [(53, 7), (53, 11)])
def test_h_score_is_the_trace_of_the_pseudo_inverse_times_the_covariance_of_the_class_means(n, d):
    z, y = task(4, n, d)
    z = torch.cat([z, z[:, :2] + z[:, 1:3]], 1)  # two dependent features: the inverse does not exist
    _, total, between = covariances(z, y)
    expected = np.trace(np.linalg.pinv(total, rcond=1e-10) @ between)
    assert selection.h_score(z, y) == pytest.approx(expected, rel=1e-9)


def test_h_score_of_one_hot_features_is_the_number_of_classes_minus_one():
    y = torch.arange(101) % 5
    assert selection.h_score(torch.eye(5)[y], y) == pytest.approx(4)


def test_h_score_does_not_change_under_an_affine_map_and_vanishes_for_noise():
    z, y = task(5)
    g = torch.Generator().manual_seed(0)
    A = torch.randn(7, 7, generator=g, dtype=torch.float64)
    assert selection.h_score(z @ A + 13, y) == pytest.approx(selection.h_score(z, y), rel=1e-8)
    noise, y = torch.randn(5003, 3, generator=g), torch.randint(3, (5003,), generator=g)
    assert selection.h_score(noise, y) < 0.01


def test_h_score_with_more_features_than_samples_explains_every_label():
    z, y = task(6, 29, 101, gap=0)  # noise
    assert selection.h_score(z, y) == pytest.approx(2)
    assert selection.regularized_h_score(z, y) < 1


@pytest.mark.parametrize("n, d", [(53, 7), (29, 101)])
def test_regularized_h_score_uses_ledoit_wolf_of_scikit_learn(n, d):
    z, y = task(7, n, d)
    centred, _, between = covariances(z, y)
    model = LedoitWolf(assume_centered=True).fit(centred)
    expected = np.trace(np.linalg.solve(model.covariance_, (1 - model.shrinkage_) * between))
    assert 0.01 < model.shrinkage_ < 0.99
    assert selection.regularized_h_score(z, y) == pytest.approx(expected, rel=1e-8)


# --- LogME -------------------------------------------------------------------------------------------------


def evidence_by_scipy(z, target):
    """max over a, b of 1/N log N(target; 0, I/b + z z^T / a), by a density and a search that know no algebra"""
    z, N = z.numpy(), len(z)

    def loss(log_ab):
        a, b = np.exp(np.clip(log_ab, -25, 25))
        covariance = np.eye(N) / b + z @ z.T / a
        return -scipy.stats.multivariate_normal.logpdf(target, cov=covariance) / N

    found = [
        scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13})
        for start in ([0, 0], [5, 2])
    ]
    return -min(f.fun for f in found)


@pytest.mark.parametrize("n, d, gap", [(31, 5, 0.3), (31, 5, 2.0), (17, 29, 0.3), (17, 29, 2.0)])
def test_log_me_is_the_maximised_evidence_also_for_fewer_samples_than_features(n, d, gap):
    z, y = task(8, n, d, gap=gap)
    expected = np.mean([evidence_by_scipy(z, (y == c).double().numpy()) for c in range(3)])
    assert selection.log_me(z, y) == pytest.approx(expected, abs=1e-6)


def test_log_me_keeps_under_rotation_and_scale_but_not_under_a_shift():
    z, y = task(9)
    Q = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    value = selection.log_me(z, y)
    for scale in (1e-9, 1e9):
        assert selection.log_me(scale * z @ Q, y) == pytest.approx(value, rel=1e-8)
    assert abs(selection.log_me(z + 5, y) - value) > 1e-3


def test_log_me_is_finite_and_high_for_separable_features_and_the_floor_touches_nothing_else(monkeypatch):
    y = torch.arange(53) % 3
    perfect = selection.log_me(torch.eye(3)[y], y)
    assert math.isfinite(perfect) and perfect > 5 > selection.log_me(*task(10, gap=9.0))
    before = selection.log_me(*task(11, 17, 29))
    monkeypatch.setattr("sftlib.selection.scores.NOISE_FLOOR", 1e-8)
    assert selection.log_me(*task(11, 17, 29)) == before
    assert selection.log_me(torch.eye(3)[y], y) < perfect


def test_log_me_of_features_that_are_zero_is_the_evidence_of_noise_alone():
    y = torch.arange(51) % 3
    variance = 1 / 3  # of a 0/1 target around 0
    expected = -0.5 * (math.log(2 * math.pi * variance) + 1)
    assert selection.log_me(torch.zeros(51, 7), y) == pytest.approx(expected, rel=1e-9)


# --- TransRate, GBC, PARC ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n, d", [(53, 7), (17, 29)])
def test_trans_rate_is_the_difference_of_log_determinants(n, d):
    z, y = task(12, n, d)
    c = z.numpy() - z.numpy().mean(0)
    rate = lambda a: 0.5 * np.linalg.slogdet(np.eye(d) + a.T @ a / (len(a) * 1e-4))[1]  # noqa: E731
    expected = rate(c) - np.mean([rate(c[(y == k).numpy()]) for k in range(3)])
    assert selection.trans_rate(z, y) == pytest.approx(expected, rel=1e-9)
    assert selection.trans_rate(z + 13, y) == pytest.approx(expected, rel=1e-7)


def test_gbc_is_minus_the_sum_of_the_overlap_integrals():
    y = torch.arange(30) % 3
    z = torch.randn(30, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + y[:, None]
    normals = [scipy.stats.norm(z[y == c].mean().item(), z[y == c].numpy().std()) for c in range(3)]
    x = np.linspace(-20, 20, 400_001)
    overlap = [
        np.trapezoid(np.sqrt(normals[i].pdf(x) * normals[j].pdf(x)), x) for i in range(3) for j in range(3) if i != j
    ]  # exp(-Bhattacharyya) by its definition
    assert selection.gbc(z, y) == pytest.approx(-sum(overlap), rel=1e-8)
    twin = torch.cat([z, z], 1)  # two independent equal features: the distances double, the log term too
    assert selection.gbc(twin, y) == pytest.approx(-sum(o**2 for o in overlap), rel=1e-8)


def test_gbc_is_within_its_range_and_projects_more_than_64_features():
    y = torch.arange(30) % 3
    assert selection.gbc(torch.ones(30, 7), y) == pytest.approx(-6)
    assert selection.gbc(100 * torch.eye(3)[y], y) == pytest.approx(0, abs=1e-12)
    z, y = task(13, 101, 67)
    Q = torch.linalg.qr(torch.randn(67, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    assert selection.gbc(z @ Q, y) == pytest.approx(selection.gbc(z, y), rel=1e-3)  # principal axes turn along
    z, y = task(13, 101, 61)
    Q = Q[:61, :61]
    assert abs(selection.gbc(z @ Q, y) / selection.gbc(z, y) - 1) > 1e-2  # without projection they do not


def test_parc_is_the_rank_correlation_over_pairs_of_a_naive_loop():
    z, y = task(14, 23)
    s = ((z - z.mean(0)) / z.std(0)).numpy()
    hot = np.eye(3)[y.numpy()]
    pairs = [(i, j) for i in range(23) for j in range(i + 1, 23)]
    far = [1 - np.corrcoef(s[i], s[j])[0, 1] for i, j in pairs]
    apart = [1 - np.corrcoef(hot[i], hot[j])[0, 1] for i, j in pairs]
    ranks = [scipy.stats.rankdata(np.round(v, 9)) for v in (far, apart)]
    assert selection.parc(z, y) == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-9)


def test_parc_does_not_depend_on_shift_or_scale_of_a_feature_and_is_one_for_one_hot_features():
    z, y = task(15)
    scale = torch.logspace(-3, 3, 7, dtype=torch.float64)
    assert selection.parc(z * scale + 13, y) == pytest.approx(selection.parc(z, y), rel=1e-9)
    y = torch.arange(30) % 3
    assert selection.parc(torch.eye(3)[y], y) == pytest.approx(1)
    assert selection.parc(task(15, 5)[0], torch.arange(5)) == 0  # no two of one class: nothing to correlate


# --- LEEP, NCE ---------------------------------------------------------------------------------------------


def test_leep_equals_the_naive_loop():
    theta, (_, y) = random_probabilities(), task()
    N, S = theta.shape
    total = 0.0
    for i in range(N):
        p = 0.0
        for s in range(S):
            joint = sum(theta[n, s].item() for n in range(N) if y[n] == y[i]) / N
            p += joint / (theta[:, s].sum().item() / N) * theta[i, s].item()
        total += math.log(p)
    assert selection.leep(theta, y) == pytest.approx(total / N, rel=1e-12)


def test_nce_is_minus_the_conditional_entropy_of_a_contingency_table():
    theta, (_, y) = random_probabilities(1), task(1)
    table = np.zeros((3, 11))
    np.add.at(table, (y.numpy(), theta.argmax(1).numpy()), 1 / len(y))
    expected = -(scipy.stats.entropy(table.ravel()) - scipy.stats.entropy(table.sum(0)))
    assert selection.nce(theta, y) == pytest.approx(expected, rel=1e-12)


def test_leep_and_nce_agree_on_one_hot_probabilities_and_reach_their_limits():
    _, y = task(2)
    hot = torch.eye(11)[random_probabilities(2).argmax(1)]
    assert selection.leep(hot, y) == pytest.approx(selection.nce(hot, y), rel=1e-12)
    y = torch.arange(51) % 3
    assert selection.leep(torch.eye(3)[y], y) == selection.nce(torch.eye(3)[y], y) == 0  # perfect
    uniform = torch.full((51, 11), 1 / 11)
    for score in (selection.leep, selection.nce):
        assert score(uniform, y) == pytest.approx(-math.log(3))  # knows only how frequent each class is


def test_probabilities_have_to_be_probabilities():
    theta, (_, y) = random_probabilities(), task()
    for broken in (theta.log(), 2 * theta, theta - 0.2):
        with pytest.raises(ValueError, match="softmax"):
            selection.leep(broken, y)
    assert selection.leep(1.005 * theta, y) == pytest.approx(selection.leep(theta, y))  # bf16 rows, say
    assert selection.leep(theta.float(), y) == pytest.approx(selection.leep(theta, y), rel=1e-6)


def test_n_leep_of_well_separated_clusters_is_near_zero_and_one_component_knows_only_frequencies():
    y = torch.arange(60) % 3
    z = 50 * torch.eye(3)[y] + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    assert selection.n_leep(z, y, components=3) == pytest.approx(0, abs=1e-6)
    assert selection.n_leep(z, y, components=1) == pytest.approx(-math.log(3))
    assert selection.n_leep(z, y, seed=1) == selection.n_leep(z, y, seed=1)


# --- baseline and ranking ----------------------------------------------------------------------------------


def test_probe_accuracy_agrees_with_scikit_learn_on_held_out_folds():
    z, y = task(16, 211, gap=0.7)
    half = torch.arange(211) < 105
    model = LogisticRegression(C=10.0, max_iter=1000).fit(z[half].numpy(), y[half].numpy())
    assert selection.probe_accuracy(z, y) == pytest.approx(model.score(z[~half].numpy(), y[~half].numpy()), abs=0.08)
    assert selection.probe_accuracy(z, y, seed=1) == selection.probe_accuracy(z, y, seed=1)
    assert len({selection.probe_accuracy(z[:53], y[:53], seed=s) for s in range(5)}) > 1  # other folds


def test_probe_accuracy_never_sees_its_test_fold():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(60, 101, generator=g), torch.arange(60) % 2  # noise that a probe can learn by heart
    assert selection.probe_accuracy(z, y) < 0.75
    y[:], y[7] = 0, 1  # alone in its class: guessed wrong
    assert selection.probe_accuracy(z, y) <= 59 / 60
    with pytest.raises(ValueError, match="folds=1"):
        selection.probe_accuracy(z, y, folds=1)


def test_weighted_tau_counts_exchanges_by_hyperbolic_weights():
    truth, score = np.array([0.9, 0.8, 0.7, 0.5]), np.array([3.0, 4.0, 2.0, 1.0])

    def one_way(ranks):  # weight of a pair: sum of 1/(rank + 1), rank 0 the best
        up = down = 0.0
        for i in range(4):
            for j in range(i):
                w = 1 / (ranks[i] + 1) + 1 / (ranks[j] + 1)
                agree = (truth[i] - truth[j]) * (score[i] - score[j]) > 0
                up, down = up + w * agree, down + w
        return 2 * up / down - 1

    by_truth, by_score = np.argsort(np.argsort(-truth)), np.argsort(np.argsort(-score))
    expected = (one_way(by_truth) + one_way(by_score)) / 2
    assert selection.weighted_tau(score, truth) == pytest.approx(expected)
    assert selection.weighted_tau(truth, truth) == pytest.approx(1)
    assert selection.weighted_tau(-truth, truth) == pytest.approx(-1)
    assert selection.weighted_tau(np.ones(4), truth) == 0


def test_scores_that_differ_by_rounding_tie():
    truth, rounding = np.array([0.9, 0.7, 0.5]), 1e-14 * np.arange(3)
    assert selection.weighted_tau(5 + rounding, truth) == 0
    assert selection.regret(5 + rounding, truth) == pytest.approx(0.2)  # the mean of all three choices
    assert selection.weighted_tau(np.array([1e-20, 3e-20, 2e-20]), truth) != 0  # small, but apart
    assert selection.weighted_tau(np.zeros(3), truth) == 0


def test_regret_is_the_accuracy_lost_by_following_the_score():
    truth = [0.9, 0.8, 0.7]
    assert selection.regret([3, 2, 1], truth) == 0
    assert selection.regret([1, 2, 3], truth) == pytest.approx(0.2)
    assert selection.regret([5, 1, 5], truth) == pytest.approx(0.1)  # a tie: the mean of both choices
    for bad in ([1, 2], [1, 2, math.nan], [[1, 2, 3]]):
        with pytest.raises(ValueError, match="one number a model"):
            selection.regret(bad, truth)


def test_ranking_table_judges_each_score_on_each_task():
    g = np.random.default_rng(0)
    truth = g.random((13, 5))
    scores = {"right": truth * 7, "noise": g.random((13, 5)), "wrong": -truth, "constant": np.ones((13, 5))}
    table = selection.ranking_table(scores, truth)
    assert table["right"].tau == pytest.approx(np.ones(13)) and not table["right"].regret.any()
    taus = [scipy.stats.weightedtau(t, s).statistic for t, s in zip(truth, scores["noise"], strict=True)]
    assert table["noise"].tau == pytest.approx(taus)
    lost = [max(t) - t[list(s).index(max(s))] for t, s in zip(truth, scores["noise"], strict=True)]
    assert table["noise"].regret == pytest.approx(lost)
    assert table["wrong"].regret == pytest.approx(truth.max(1) - truth.min(1))
    assert not table["constant"].tau.any()
    assert table["constant"].regret == pytest.approx(truth.max(1) - truth.mean(1))


def test_ranking_table_takes_one_task_as_a_row_and_names_a_wrong_shape():
    row = selection.ranking_table({"a": [1, 3, 2]}, [0.1, 0.2, 0.4])["a"]
    assert row.tau.shape == row.regret.shape == (1,) and row.regret[0] == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"'a' \(1, 2\).*\(1, 3\)"):
        selection.ranking_table({"a": [1, 2]}, [0.1, 0.2, 0.3])


def test_every_score_has_its_name_and_its_own_arguments():
    (z, y), theta = task(n=23), torch.eye(7, dtype=torch.float64)[torch.arange(23) % 7].softmax(1)
    found = {name: score(z, y, theta) for name, score in selection.SCORES.items()}
    own = ("h_score", "regularized_h_score", "n_leep", "log_me", "trans_rate", "gbc", "parc")
    expected = {name: getattr(selection, name)(z, y) for name in own}
    expected |= {name: getattr(selection, name)(theta, y) for name in ("leep", "nce")}
    expected |= {"knn": knn_accuracy(z, y, k=5), "probe": selection.probe_accuracy(z, y)}
    assert found == expected
