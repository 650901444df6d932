"""The course's one rule for comparisons: tables without an effect show none, real effects are seen."""

import numpy as np
import pytest
import scipy.stats
import torch

from sftlib.metrics import compare, hits_interval, paired_interval

TABLES = 2000


def hits(rng, n, rates, shared):
    """-> table name -> hits (n,): of the noise that decides a picture, `shared` is common to all rows"""
    common, own = rng.normal(size=n), rng.normal(size=(len(rates), n))
    x = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return {f"row {i}": row < scipy.stats.norm.ppf(rate) for i, (row, rate) in enumerate(zip(x, rates, strict=True))}


def seeds(rng, n, means, shared, steps):
    """-> table name -> accuracies (n,) of seeds, with a deviation of 0.03, in whole numbers of 1 / steps"""
    common, own = rng.normal(size=n), rng.normal(size=(len(means), n))
    x = np.array(means)[:, None] + 0.03 * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
    return {f"row {i}": row for i, row in enumerate(np.round(x * steps) / steps)}


def share_with_a_visible_difference(make, *, tables=TABLES, **options):
    rng = np.random.default_rng(0)
    return np.mean([any(c.visible for c in compare(make(rng), **options)) for _ in range(tables)])


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: hits(rng, 226, [0.8] * 5, 0.5),
        lambda rng: hits(rng, 101, [0.97] * 4, 0.5),  # they differ on few pictures
        lambda rng: hits(rng, 37, [0.6] * 3, 0.2),
        lambda rng: seeds(rng, 5, [0.8] * 5, 0.5, 10**9),
        lambda rng: seeds(rng, 5, [0.8] * 4, 0.8, 113),
        lambda rng: seeds(rng, 3, [0.8] * 3, 0.9, 29),  # often equal at all seeds
    ],
    ids=["226 pictures", "few differ", "37 pictures", "5 seeds", "5 coarse seeds", "3 coarser seeds"],
)
def test_tables_without_an_effect_show_a_difference_in_at_most_65_of_a_thousand(make):
    assert share_with_a_visible_difference(make) <= 0.065


def test_the_correction_is_needed_and_the_rule_does_not_waste_much_of_its_five_percent():
    def one(rng):
        return hits(rng, 226, [0.8] * 5, 0.5)

    assert 0.02 <= share_with_a_visible_difference(one)
    naive = [
        any(hits_interval(a, b).excludes_zero for a in t.values() for b in t.values() if a is not b)
        for t in map(one, [np.random.default_rng(s) for s in range(300)])
    ]
    assert np.mean(naive) > 0.15


def test_real_effects_are_seen():
    gain = share_with_a_visible_difference(lambda rng: hits(rng, 226, [0.75, 0.9], 0.7), tables=200)
    unpaired = [
        abs(a.mean() - b.mean()) > 1.96 * np.sqrt(a.var() / 226 + b.var() / 226)
        for a, b in (hits(np.random.default_rng(s), 226, [0.75, 0.9], 0.7).values() for s in range(200))
    ]
    assert gain > 0.98 and gain >= np.mean(unpaired)
    among_ten = share_with_a_visible_difference(lambda rng: seeds(rng, 5, [0.7] + [0.9] * 4, 0.8, 226), tables=200)
    assert among_ten > 0.98


def test_hits_are_judged_as_mcnemar_s_exact_test_judges_them_but_at_the_border():
    n = 113
    for alpha in (0.05, 0.05 / 10):
        for b in range(30):
            for c in range(b + 1):
                first = np.array([1] * b + [0] * c + [1] * (n - b - c))
                second = np.array([0] * b + [1] * c + [1] * (n - b - c))
                p = scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0
                if not alpha / 2 < p < 2 * alpha:
                    assert hits_interval(first, second, confidence=1 - alpha).excludes_zero == (p < alpha), (b, c, p)


def test_two_pictures_are_added_and_the_difference_is_that_of_the_pictures():
    got = hits_interval([1, 1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 1, 1])  # 3 for a, 1 for b, of 7
    d, q = 2 / 9, (3 + 1 + 2) / 9
    half = 1.959964 * np.sqrt((q - d**2) / 9)
    assert (got.mean, got.low, got.high) == pytest.approx((2 / 7, d - half, min(d + half, 1)), abs=1e-6)


def test_seeds_are_compared_by_student_s_t_at_the_corrected_confidence():
    table = {name: np.random.default_rng(s).normal(size=7) for s, name in enumerate("abc")}
    got = {(c.first, c.second): c.interval for c in compare(table)}
    assert got.keys() == {("a", "b"), ("a", "c"), ("b", "c")}
    for (a, b), interval in got.items():
        want = scipy.stats.ttest_rel(table[a], table[b]).confidence_interval(1 - 0.05 / 3)
        assert (interval.low, interval.high) == pytest.approx((want.low, want.high))
    one = compare(table, against="b", comparisons=20)
    assert [(c.first, c.second) for c in one] == [("a", "b"), ("c", "b")]
    assert one[0].interval == paired_interval(table["a"], table["b"], confidence=1 - 0.05 / 20)


def test_seeds_that_all_agree_have_no_spread_and_show_nothing():
    a = np.array([0.8, 0.7, 0.9])
    (same,), (shifted,) = compare({"a": a, "b": a.copy()}), compare({"a": a, "b": a - 0.1})
    assert not same.visible and not shifted.visible and shifted.interval.mean == pytest.approx(0.1)
    assert str(shifted) == "a − b: no difference that we can see, +0.100 [+0.000, +0.100] over 3 seeds"


def test_the_order_of_pictures_and_the_kind_of_array_do_not_matter():
    table = hits(np.random.default_rng(0), 97, [0.6, 0.9, 0.8], 0.5)
    order = np.random.default_rng(1).permutation(97)
    want = list(map(str, compare(table)))
    for convert in (lambda v: v[order], torch.tensor, lambda v: v.astype(float).tolist()):
        assert list(map(str, compare({name: convert(v) for name, v in table.items()}))) == want
    assert "over 97 pictures" in want[0]


def test_what_is_paired_has_the_name_that_it_is_given_and_the_same_interval():
    of_texts, scores = hits(np.random.default_rng(0), 97, [0.6, 0.9], 0.5), {"a": [0.1, 0.5, 0.2], "b": [0.2, 0.5, 0.7]}
    for table, unit in ((of_texts, "texts"), (scores, "sounds")):
        (plain,), (named,) = compare(table), compare(table, unit=unit)
        assert named.interval == plain.interval and str(named).endswith(f" over {plain.n} {unit}")


@pytest.mark.parametrize(
    "table, options, words",
    [
        ({"a": [0.1, 0.2, 0.3]}, {}, "expected two at least"),
        ({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}, {"against": "c"}, "against='c'"),
        ({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2]}, {}, "the same seeds, in all rows"),
        ({"a": [0.1, 0.2], "b": [0.1, 0.3]}, {}, "at least 3 seeds"),
        ({"a": [0.1, 0.2, np.nan], "b": [0.1, 0.3, 0.2]}, {}, "values of 'a' that are NaN"),
        ({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.3, 0.2], "c": [0.1, 0.1, 0.2]}, {"comparisons": 2}, "comparisons=2"),
        ({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.3, 0.2]}, {"confidence": 95}, "confidence=95"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(table, options, words):
    with pytest.raises(ValueError, match=words):
        compare(table, **options)


def test_hits_that_are_not_hits_are_refused():
    with pytest.raises(ValueError, match="expected hits"):
        hits_interval([0.5, 1.0], [0.0, 1.0])


@pytest.mark.parametrize("make", [np.array, torch.tensor, list])
def test_the_classes_that_were_said_are_no_hits(make):
    y = [0, 1, 2] * 5
    said = {"a": make(y), "b": make(y[::-1])}
    with pytest.raises(ValueError, match="got whole numbers up to 2, such as the numbers of classes; expected hits"):
        compare(said)
    with pytest.raises(ValueError, match="expected hits"):
        compare(said | {"c": [1, 0, 1] * 5})
    assert compare(said, unit="mistakes")[0].n == 15
    compare({"a": [3, 5, 7], "b": [2, 3, 11]})  # three seeds
    compare({name: [float(v) for v in values] for name, values in said.items()})
