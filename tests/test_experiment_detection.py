"""The experiment of notebook 13: its table is whole, each way trains what its name says, rates are chosen as said."""

import pytest
import torch
from tables import assert_whole, experiment_fixtures

from sftlib.adaptation import is_frozen, trainable
from sftlib.datasets import street_scenes

module, table = experiment_fixtures("detection", scope="module")


@pytest.fixture(autouse=True)
def few_small_pictures(module, monkeypatch):
    few = street_scenes.load(size=(131, 97), numbers=(7, 2, 3))
    monkeypatch.setattr(module, "streets", lambda: few)
    module.the_anchors.cache_clear()
    yield
    module.the_anchors.cache_clear()


def test_the_table_holds_every_seed_of_every_way(module, table):
    assert_whole(module, table)
    for row in table:
        assert 0 <= float(row["ap75"]) <= float(row["ap50"]) <= 1 and 0 <= float(row["ap"]) <= float(row["ap50"])


def test_the_more_is_frozen_the_less_is_trained_and_kept(table):
    of = {row["way"]: row for row in table if row["seed"] == "0"}
    for column in ("trained", "memory_mb"):
        values = [float(of[way][column]) for way in ("full", "partly", "frozen")]
        assert values == sorted(values, reverse=True) and len(set(values)) == 3
    assert of["full"]["trained"] == of["from scratch"]["trained"]


def test_the_rates_of_a_way_are_those_of_the_module(module, table):
    for row in table:
        lr, body = module.RATES[row["way"]]
        assert (float(row["lr"]), float(row["lr_body"])) == (lr, body)


STAGES = {"from scratch": 5, "full": 5, "partly": 3, "frozen": 0}


@pytest.mark.parametrize("way", STAGES)
def test_each_way_trains_the_stages_that_it_names_and_all_that_is_new(module, way):
    torch.manual_seed(0)
    model, groups = module.build(way)
    body = model.backbone.body
    stages = [getattr(body, name) for name in body.stages[:-1]]
    learns = [stage for stage in stages if trainable(stage)]
    assert learns == stages[len(stages) - STAGES[way] :]
    assert all(is_frozen(stage) for stage in stages if stage not in learns)
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in trainable(model)}
    new = {id(p) for part in (model.backbone.pyramid, model.head) for p in part.parameters()}
    assert new <= held and len(held - new) == sum(len(trainable(stage)) for stage in learns)


def test_only_the_ways_that_say_so_start_at_random(module):
    first = {}
    for way in STAGES:
        torch.manual_seed(3)
        first[way] = next(module.build(way)[0].backbone.body.parameters()).detach()
    for way in ("partly", "frozen"):
        assert torch.equal(first[way], first["full"])
    assert not torch.equal(first["from scratch"], first["full"])


def test_a_row_has_its_columns_and_a_frozen_body_stays(module, monkeypatch):
    monkeypatch.setattr(module, "PASSES", 2)
    row = module.run({"way": "frozen"}, 5)
    assert {"lr", "lr_body", "ap", "ap50", "ap75", "trained", "cpu_s", "memory_mb"} == row.keys()
    model, _ = module.train("frozen", 5)
    start, _ = module.build("frozen")
    for name, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, start.backbone.body.state_dict()[name]), name
