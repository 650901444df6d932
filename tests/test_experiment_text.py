"""The experiment of notebook 10: its tables are whole, cheap rows come out again, its ways do what they say."""

import pytest
import torch
from tables import experiment_fixtures

from tools.experiments.run import key

TEXTS = {
    "topics": {"val": 213, "test": 424, "balanced": 424},
    "sentiment": {"val": 396, "test": 634, "balanced": 634},
    "as it comes": {"val": 789, "test": 1182, "balanced": 634},
    "as it comes, 70 %": {"val": 394, "test": 789, "balanced": 446},
}
TRAINED = ("fine-tuned", "LP-FT", "LoRA", "combined", "full")

module, table = experiment_fixtures("text")
choices_module, choices = experiment_fixtures("text_choices")


def test_the_table_holds_each_setting_with_all_its_seeds_once_and_nothing_else(module, table):
    wanted = [key(setting, seed) for setting in module.settings() for seed in module.SEEDS]
    assert sorted(wanted) == sorted(tuple(r[c] for c in ("seed", "task", "labels", "way")) for r in table)
    assert len({row["code"] for row in table}) == 1
    for row in table:
        for part, n in TEXTS[row["task"]].items():
            right = float(row[part]) * n  # from a share with four digits
            assert abs(right - round(right)) < 0.06, (part, row)


def test_what_was_chosen_without_training_f_is_among_what_was_tried_and_is_one_for_all_seeds(module, table):
    cells = {}
    for row in table:
        if row["way"] in module.CHEAP:
            cells.setdefault((row["task"], row["labels"], row["way"]), set()).add(row["chosen"])
    for (_, _, way), chosen in cells.items():
        tried = {module.written(value) for value in module.WAYS[way]}
        assert len(chosen) == 1 and chosen <= tried, (way, chosen)


def test_what_trains_f_took_what_was_best_on_the_validation_texts(module, table, choices_module, choices):
    wanted = [key(s, 1001) for s in choices_module.settings()]
    assert wanted == [tuple(r[c] for c in ("seed", "task", "way", "value")) for r in choices]
    assert len({row["code"] for row in choices}) == 1
    for row in (row for row in table if row["way"] in TRAINED):
        task, way = row["task"], row["way"]
        scores = {r["value"]: float(r["val"]) for r in choices if (r["task"], r["way"]) == (task, way)}
        assert list(scores) == [module.written(value) for value in module.WAYS[way]], (task, way)
        best = max(scores, key=scores.get)
        assert row["chosen"] == best == module.written(module.choose(task, 100, way)), (task, way)


def test_a_way_that_was_not_tried_is_not_trained_at_a_guess(module):
    with pytest.raises(ValueError, match=r"full at 3e-05 on topics: run the experiment text_choices first"):
        module.choose("topics", 100, "full")


def row_of(table, **cell):
    return next(row for row in table if cell.items() <= row.items())


def test_rows_that_train_f_come_out_again(module, table, choices):
    """As far as the arithmetic of this machine is that of the one that made them"""
    row = row_of(table, seed="0", task="sentiment", labels="25", way="LoRA")
    score = module.train("sentiment", 25, "LoRA", float(row["chosen"]), 0)
    for part in ("val", "test"):
        assert abs(score(part).double().mean().item() - float(row[part])) < 0.04, (part, row)
    row = row_of(choices, task="sentiment", way="LoRA", value=row["chosen"])
    assert abs(module.tried("sentiment", module.TUNED_AT, "LoRA", float(row["value"])) - float(row["val"])) < 0.04, row


def test_every_way_has_as_many_tries_as_the_others_of_its_price(module):
    assert {len(module.WAYS[way]) for way in TRAINED if way != "full"} == {4}
    assert len(module.WAYS["TF-IDF"]) >= 12 and len(module.WAYS["frozen"]) >= 6


def test_the_subject_alone_is_right_in_half_of_the_balanced_texts_and_in_far_more_as_they_come(table):
    rows = [r for r in table if r["way"] == "subject" and int(r["labels"]) >= 500]
    assert {float(r["test"]) for r in rows if r["task"] == "sentiment"} == {0.5}
    came = [r for r in rows if r["task"] == "as it comes"]
    assert {float(r["balanced"]) for r in came} == {0.5} and min(float(r["test"]) for r in came) > 0.7


@pytest.mark.parametrize("task", ["topics", "sentiment", "as it comes"])
def test_words_come_out_again(module, table, task):
    row = row_of(table, seed="0", task=task, labels="100", way="TF-IDF")
    C, most, logarithm = row["chosen"].split()
    value = float(C), int(float(most)), bool(float(logarithm))
    score = module.train(task, 100, "TF-IDF", value, 0)
    test = score("test").double()
    found = {"val": score("val").double(), "test": test, "balanced": test[module.balanced(task)]}
    assert {part: round(hits.mean().item(), 4) for part, hits in found.items()} == {p: float(row[p]) for p in found}
    assert task == "topics" or module.written(module.choose(task, 100, "TF-IDF")) == row["chosen"]


def test_f_reads_the_words_that_the_control_reads(module):
    text = "Words, words and unbelievably more words. " * 40
    read, f = module.read_by_f(text), module.pretrained()
    assert text.startswith(read) and len(read) < len(text) / 3
    assert torch.equal(f.preprocess([read])["ids"], f.preprocess([text])["ids"])
    assert module.read_by_f("Two words.") == "Two words."


@pytest.fixture
def tiny(module, monkeypatch):
    """The experiment on 23 sentiment texts, in two steps"""
    some = 43 * torch.arange(23)  # of both classes

    class Few:
        classes = ("negative", "positive")
        train = val = test = module.TASKS["sentiment"]().train.subset(some)

    monkeypatch.setattr(module, "TASKS", {"sentiment": Few})
    monkeypatch.setattr(module, "BATCH", {100: 23})
    monkeypatch.setattr(module, "EPOCHS", {100: 2})
    monkeypatch.setattr(module, "choose", lambda task, labels, way: module.WAYS[way][0])
    return module


@pytest.mark.parametrize("way", ("subject", "frozen", *TRAINED))
def test_every_way_gives_a_row_and_leaves_the_pretrained_network_alone(tiny, way):
    before = {name: p.clone() for name, p in tiny.pretrained().named_parameters()}
    row = tiny.run({"task": "sentiment", "labels": 100, "way": way}, 0)
    assert 0 <= row["test"] == row["balanced"] <= 1 and list(row) == ["chosen", "val", "test", "balanced", "cpu_s"]
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
