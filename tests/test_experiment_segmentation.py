"""The stored runs of notebook 14: whole, at the rates that the other table says, and what is cheap comes out again."""

import pytest
import torch
import torch.nn.functional as F
from tables import assert_whole, experiment_fixtures

from sftlib.adaptation import is_frozen, trainable
from tools.experiments import run as experiments

module, table = experiment_fixtures("segmentation")
rates, table_of_rates = experiment_fixtures("segmentation_rates")
parts, table_of_parts = experiment_fixtures("segmentation_parts")


def test_the_tables_hold_every_run(module, table, rates, table_of_rates, parts, table_of_parts):
    assert_whole(module, table)
    assert_whole(rates, table_of_rates)
    assert_whole(parts, table_of_parts)


def test_each_strategy_runs_at_the_middle_rate_which_no_other_clearly_beat(module, rates, table_of_rates):
    for strategy in rates.RATES:
        mine = [row for row in table_of_rates if row["strategy"] == strategy]
        found = {float(row["lr_f"]): float(row["mean_iou"]) for row in mine}
        assert sorted(found)[1] == module.LR_F[strategy]
        assert max(found.values()) <= found[module.LR_F[strategy]] + 0.005
    assert not set(module.SEEDS) & set(rates.SEEDS)


def test_values_are_shares_and_an_edge_is_harder_than_its_road(table):
    for row in table:
        shares = {name: float(row[name]) for name in ("mean_iou", "pixel_accuracy", "road", "road_boundary")}
        assert all(0 < share < 1 for share in shares.values()), row
        assert shares["road_boundary"] < shares["road"] and shares["mean_iou"] < shares["pixel_accuracy"], row


@pytest.mark.parametrize("strategy", ["frozen", "top", "full", "scratch"])
def test_a_strategy_trains_what_its_name_says(module, strategy):
    model = module.build(strategy, 0)
    learns = {name for name, stage in model.backbone.body.named_children() if trainable(stage)}
    stages = ("stem", "stage1", "stage2", "stage3", "stage4")
    expected = {"frozen": (), "top": stages[3:], "full": stages, "scratch": stages}
    assert learns == set(expected[strategy]) and trainable(model.head)
    assert is_frozen(model.backbone) == (strategy == "frozen")
    pretrained = module.build("full", 0).backbone.body.stem[0].weight
    assert torch.equal(model.backbone.body.stem[0].weight, pretrained) == (strategy != "scratch")


def test_one_seed_has_the_same_g_and_streets_in_every_setting(module):
    heads = [module.build(s, 3).head.classify[1].bias for s in ("frozen", "full")]
    assert torch.equal(*heads)
    assert module.data(3) is module.data(3)


def test_variants_change_what_they_say(module):
    plain, coarse, wide = (module.build("full", 0, v) for v in ("", "no early map", "rates 12 24 36"))
    assert plain.head.reduce is not None and coarse.head.reduce is None
    rates = [[m.dilation[0] for m in model.head.context.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
             for model in (plain, wide)]  # fmt: skip
    assert rates == [[1, 2, 4], [12, 24, 36]]


def test_weighted_terms_make_the_loss_a_mean_over_them(module):
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(5, 11, 7, 13, generator=generator), torch.randint(11, (5, 7, 13), generator=generator)
    y[0, :5] = 255
    weight = torch.linspace(0.1, 10, 11)
    loss = lambda rows: F.cross_entropy(logits[rows], y[rows], weight=weight, ignore_index=255).item()  # noqa: E731
    t = [module.counted(y[rows], weight) for rows in (slice(0, 2), slice(2, 5))]
    parts = [loss(slice(0, 2)), loss(slice(2, 5))]
    assert (t[0] * parts[0] + t[1] * parts[1]) / sum(t) == pytest.approx(loss(slice(0, 5)), rel=1e-5)
    assert module.counted(y) == (y != 255).sum()


def test_a_row_comes_out_again_in_short(module, monkeypatch):
    """One pass over few pictures, twice: the same numbers; the stored rows take ten passes"""
    monkeypatch.setattr(module, "NUMBERS", (17, 3, 5))
    monkeypatch.setattr(module, "EPOCHS", 1)
    module.data.cache_clear()
    first, again = (module.run({"strategy": "full"}, 7, "class weights") for _ in range(2))
    module.data.cache_clear()
    timed = {"cpu_s"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}
    assert first["memory_mb"] > 20


def test_the_frozen_row_comes_out_again(module, table):
    """The cheapest stored row; rounding elsewhere may turn some pixels"""
    index = next(i for i, row in enumerate(table) if row["strategy"] == "frozen" and row["seed"] == "0")
    stored, new = experiments.recompute("segmentation", index)
    for name in ("mean_iou", "pixel_accuracy", "road", "road_boundary"):
        assert abs(float(stored[name]) - new[name]) < 0.03, (name, stored[name], new[name])
