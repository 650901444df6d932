"""The published ELPV protocol: its table is whole and adds up, and the probe's row comes out again."""

import math
from dataclasses import replace

import pytest
import torch
from tables import experiment_fixtures

from tools.experiments import elpv_search

CELLS = {"0": 377, "33": 74, "67": 26, "100": 179}  # of the 656 test cells, by what the expert said


module, table = experiment_fixtures("elpv", scope="module")


def test_the_table_holds_every_seed_of_every_recipe_but_full_which_holds_the_first_ones(module, table):
    """Full fine-tuning takes five minutes a seed on a quiet core: as many seeds as have been run, at least one."""
    seeds = {setting["recipe"]: [] for setting in module.settings()}
    for row in table:
        seeds[row["recipe"]].append(int(row["seed"]))
    for recipe, run in seeds.items():
        assert sorted(run) == list(module.SEEDS)[: len(run)], recipe
        assert len(run) == len(module.SEEDS) or (recipe.startswith("full") and run), recipe
    assert len(seeds["full"]) == len(seeds["full+"])


def test_the_accuracies_of_a_row_are_those_of_its_counts(table):
    for row in table:
        tn, fp, fn, tp = (int(row[name]) for name in ("tn", "fp", "fn", "tp"))
        assert (tn + fp, fn + tp) == (CELLS["0"] + CELLS["33"], CELLS["67"] + CELLS["100"])
        assert float(row["accuracy"]) == pytest.approx((tn + tp) / 656, abs=6e-5)
        assert float(row["balanced_accuracy"]) == pytest.approx((tn / 451 + tp / 205) / 2, abs=6e-5)
        called = {level: int(row[f"called_{level}"]) for level in CELLS}
        assert all(0 <= called[level] <= n for level, n in CELLS.items())
        weighed = 377 - called["0"] + called["33"] / 3 + 2 * called["67"] / 3 + called["100"]
        assert float(row["weighted_accuracy"]) == pytest.approx(weighed / (377 + 74 / 3 + 52 / 3 + 179), abs=6e-5)
        sure = float(row["certain_accuracy"]) * (377 + 179)
        assert abs(sure - round(sure)) < 0.03  # a count of cells, rounded to four digits


def test_one_training_serves_a_recipe_and_the_same_with_a_plus(module):
    for name in module.RECIPES:
        if name.endswith("+"):
            plain, plus = module.RECIPES[name[:-1]], module.RECIPES[name]
            assert replace(plain, **module.END) == plus


def test_the_published_split_has_its_sizes_and_the_search_never_sees_the_test_part(module):
    parts = module.parts(64)
    assert {name: len(part) for name, part in parts.items()} == {"train": 1968, "test": 656, "learn": 1574, "val": 394}
    names = {name: set(part.names) for name, part in parts.items()}
    assert not names["train"] & names["test"]
    assert names["learn"] | names["val"] == names["train"] and not names["learn"] & names["val"]
    assert [int((parts["test"].labels == level).sum()) for level in range(4)] == list(CELLS.values())


def test_the_probes_row_comes_out_again_from_half_of_the_training_cells(module, table, monkeypatch):
    """On all of them it takes 20 s; half cost a point of accuracy at most, plain guessing would cost 15."""
    row = next(row for row in table if row["recipe"] == "probe")
    whole = module.parts(224)
    half = {"train": whole["train"].subset(torch.arange(0, 1968, 2)), "test": whole["test"]}
    monkeypatch.setattr(module, "parts", lambda side: half)
    found = module.measures(module.predict(module.probe(224), module.RECIPES["probe"], "test"))
    for name in ("accuracy", "weighted_accuracy", "certain_accuracy"):
        assert abs(found[name] - float(row[name])) < 0.02


def test_a_cell_is_called_defective_where_that_weighs_more(module):
    p = torch.tensor([[0.4, 0.6, 0.0, 0.0], [0.15, 0.6, 0.0, 0.25], [0.45, 0.1, 0.45, 0.0], [0.3, 0.0, 0.0, 0.7]])
    naive = [a < b / 3 + 2 * c / 3 + d for a, b, c, d in p.tolist()]
    assert (module.published_score(p.clamp_min(1e-12).log()) > 0).tolist() == naive == [False, True, False, True]


def test_measures_by_hand(module):
    p = torch.eye(4)[[0, 3, 3, 0, 2, 0, 1, 3, 3, 0]]
    y = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    found = module.measures((p, y))
    assert found["weighted_accuracy"] == pytest.approx((1 + 1 / 3 + 4 / 3 + 2) / (2 + 2 / 3 + 2 + 3), abs=6e-5)
    assert (found["tn"], found["fp"], found["fn"], found["tp"]) == (2, 2, 3, 3)
    assert found["accuracy"] == pytest.approx(5 / 10, abs=6e-5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 4 + 3 / 6) / 2, abs=6e-5)
    assert found["certain_accuracy"] == pytest.approx(3 / 5, abs=6e-5)
    assert [found[f"called_{level}"] for level in CELLS] == [1, 1, 2, 2]


def test_the_eight_views_are_all_turns_of_both_mirror_images(module):
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    seen = {tuple(module.view(picture, i).flatten().tolist()) for i in range(8)}
    assert len(seen) == 8
    corners = {(s[0], s[2], s[8], s[6]) for s in seen}
    assert {sum(c) for c in corners} == {16} and all(s[4] == 4 for s in seen)


def test_cached_maps_train_what_lies_above_the_cut_on_what_pictures_would_give(module, monkeypatch):
    few = {name: part.subset(torch.arange(11)) for name, part in module.parts(64).items()}
    monkeypatch.setattr(module, "parts", lambda side: few)
    recipe = replace(module.RECIPES["upper+"], side=64, epochs=1, probed=False, lr=1e-5)
    module.maps.cache_clear()
    averaged, last = module.train(recipe, seed=1)
    assert not any("stage2" in name for name, _ in last.named_parameters())
    p, y = module.predict(last, recipe, "test", 8)
    whole = module.load_backbone("squeezenet1_1", size=64)
    for stage in ("stage3", "stage4"):
        whole.get_submodule(stage).load_state_dict(last.backbone.get_submodule(stage).state_dict())
    q, _ = module.predict(module.Model(whole, last.head), replace(recipe, cut=""), "test", 8)
    r, _ = module.predict(last, recipe, "test", 1)
    assert (p - q).abs().max() < 0.02 < (p - r).abs().max()  # bfloat16; one view is another answer than eight
    module.maps.cache_clear()
    assert math.isclose(float(p.sum()), len(y), rel_tol=1e-4)


def test_every_loss_of_the_search_is_a_mean_over_its_terms():
    recipes = elpv_search.SEARCH
    g = torch.Generator().manual_seed(3)
    logits, y = torch.randn(13, 4, generator=g), torch.randint(4, (13,), generator=g)
    losses = {recipe.loss.__name__: (recipe.loss, recipe.terms) for recipe in recipes}
    assert {"four_levels", "smooth_levels", "published_weights"} == set(losses)
    for loss, terms in losses.values():
        parts = [(loss(z, of).item(), float(terms(of))) for z, of in zip(logits.split(5), y.split(5), strict=True)]
        mean = sum(value * t for value, t in parts) / sum(t for _, t in parts)
        assert mean == pytest.approx(loss(logits, y).item(), rel=1e-5)
