"""The experiment of notebook 10: its table is whole, a cheap row comes out again, its ways do what they say."""

import pytest
import torch
from tables import assert_whole, experiment_fixtures

TEXTS = {"topics": {"val": 213, "test": 424}, "sentiment": {"val": 394, "test": 789}}
TRAINED = ("fine-tuned", "LP-FT", "LoRA", "combined", "full")

module, table = experiment_fixtures("text")


def test_the_table_holds_every_seed_of_every_setting(module, table):
    assert_whole(module, table)
    for row in table:
        for part, n in TEXTS[row["task"]].items():
            right = float(row[part]) * n  # of 789 texts, from a share with four digits
            assert abs(right - round(right)) < 0.04, (part, row)


def test_what_was_chosen_is_among_what_was_tried_and_is_one_for_all_seeds(module, table):
    cells = {}
    for row in table:
        labels = row["labels"] if row["way"] in module.CHEAP else module.TUNED_AT
        cells.setdefault((row["task"], labels, row["way"]), set()).add(row["chosen"])
    for (_, _, way), chosen in cells.items():
        tried = {module.written(value) for value in module.WAYS[way]}
        assert len(chosen) == 1 and chosen <= tried, (way, chosen)


def test_every_way_has_as_many_tries_as_the_others_of_its_price(module):
    assert {len(module.WAYS[way]) for way in TRAINED} == {3}
    assert len(module.WAYS["TF-IDF"]) >= 12 and len(module.WAYS["frozen"]) >= 4


@pytest.mark.parametrize("task", ["sentiment"])
def test_words_come_out_again(module, table, task):
    row = next(r for r in table if (r["seed"], r["task"], r["labels"], r["way"]) == ("0", task, "100", "TF-IDF"))
    C, most, logarithm = row["chosen"].split()
    value = float(C), int(float(most)), bool(float(logarithm))
    score = module.train(task, 100, "TF-IDF", value, 0)
    assert round(score("test"), 4) == float(row["test"]) and round(score("val"), 4) == float(row["val"])


def test_f_reads_the_words_that_the_control_reads(module):
    text = "Words, words and unbelievably more words. " * 40
    read, f = module.read_by_f(text), module.pretrained()
    assert text.startswith(read) and len(read) < len(text) / 3
    assert torch.equal(f.preprocess([read])["ids"], f.preprocess([text])["ids"])
    assert module.read_by_f("Two words.") == "Two words."


@pytest.fixture
def tiny(module, monkeypatch):
    """The experiment on 23 sentiment texts, in two steps"""
    some = 119 * torch.arange(23)  # of both classes

    class Few:
        classes = ("negative", "positive")
        train = val = test = module.TASKS["sentiment"]().train.subset(some)

    monkeypatch.setattr(module, "TASKS", {"sentiment": Few})
    monkeypatch.setattr(module, "BATCH", {100: 23})
    monkeypatch.setattr(module, "EPOCHS", {100: 2})
    monkeypatch.setattr(module, "choose", lambda task, labels, way: module.WAYS[way][0])
    return module


@pytest.mark.parametrize("way", ("frozen", *TRAINED))
def test_every_way_gives_a_row_and_leaves_the_pretrained_network_alone(tiny, way):
    before = {name: p.clone() for name, p in tiny.pretrained().named_parameters()}
    row = tiny.run({"task": "sentiment", "labels": 100, "way": way}, 0)
    assert 0 <= row["test"] <= 1 and list(row) == ["chosen", "val", "test", "cpu_s"]
    assert all(torch.equal(p, before[name]) for name, p in tiny.pretrained().named_parameters())


def test_what_is_cached_at_the_cut_is_what_f_computes(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "PRECISION", None)
    (h, y), (z, _) = (part(task="sentiment")["val"] for part in (tiny.token_features, tiny.features))
    f = tiny.pretrained()
    with torch.no_grad():
        wanted = f(f.preprocess(list(tiny.splits("sentiment").val.texts)))
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-5)
    assert h["h"].shape[:2] == h["mask"].shape and len(y) == 23


def changed(module, way):
    """-> names of the parameters that two steps made different from f's, or that f does not have"""
    backbone = module.tune("sentiment", 100, way, 1e-2, 0, torch.arange(23)).backbone
    start = dict(module.pretrained().named_parameters())
    now = {name.replace(".base", ""): p for name, p in backbone.named_parameters()}
    return {name for name, p in now.items() if name not in start or not torch.equal(p, start[name])}


def test_each_way_trains_what_it_says(tiny):
    for way in ("fine-tuned", "LP-FT", "combined"):
        assert {name.split(".")[0] for name in changed(tiny, way)} == {"layer5", "layer6"}
    assert {name.rsplit(".", 1)[-1] for name in changed(tiny, "LoRA")} == {"A", "B"}
    assert {name.split(".")[0] for name in changed(tiny, "full")} == {
        "embeddings", *(f"layer{i}" for i in range(1, 7))}  # fmt: skip
