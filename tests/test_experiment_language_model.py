"""The stored tables of notebook 11: rows of the settings they say, rates that were the best, and cheap rows again."""

import json

import numpy as np
import pytest
from tables import assert_counts, assert_whole, experiment_fixtures

from sftlib.results import numbers
from tools.experiments import run as experiments

module, table = experiment_fixtures("language_model", scope="module")
rates_module, rates = experiment_fixtures("language_model_rates", scope="module")


def test_the_table_holds_each_setting_and_seed_once_and_was_made_by_one_state_of_the_code(module, table):
    assert_whole(module, table)
    assert len({row["code"] for row in table}) == 1


def test_the_rates_were_measured_by_one_state_of_the_code(rates_module, rates):
    assert_whole(rates_module, rates)
    assert len({row["code"] for row in rates}) == 1


def test_scores_are_counts_of_the_test_rows(module, table):
    for row in table:
        assert_counts(row, {name: module.TEST for name in ("exact", "form", "likelihood") if row[name]})
        assert not row["form"] or float(row["exact"]) <= float(row["form"])


def test_each_way_was_trained_at_the_rate_that_was_best_on_the_validation_rows(module, table, rates_module, rates):
    trained = [row for row in table if row["method"] not in module.BASELINES]
    assert trained and all(row["lr"] == "" for row in table if row["method"] in module.BASELINES)
    for row in trained:
        way = row["method"].removesuffix(", prompt too").removesuffix(", constant rate")
        losses = {float(r["lr"]): float(r["loss"]) for r in rates if r["method"] == way}
        assert set(losses) == set(rates_module.CANDIDATES[way]), way
        assert min(losses, key=losses.get) == float(row["lr"]) == module.best_rate(way), (way, losses)


def test_a_way_without_rates_is_not_trained_at_a_guess(module):
    with pytest.raises(ValueError, match="run the experiment language_model_rates first"):
        module.best_rate("a new way")


def of_topics(table, name, *ways):
    """-> {way: its values of a column, a seed each}"""
    rows = sorted((row for row in table if row["task"] == "topic"), key=lambda row: int(row["seed"]))
    return {way: [float(row[name]) for row in rows if row["method"] == way] for way in ways}


def test_what_is_trained_has_the_form_and_the_upper_layers_forget_more_than_all_of_them(table):
    """In every seed, by a wide margin"""
    nats = of_topics(table, "nats", "untouched", "top 6", "top 2", "LoRA", "full")
    all_layers = nats["LoRA"] + nats["full"]
    assert len(all_layers) == 6 and max(abs(v - nats["untouched"][0]) for v in all_layers) < 0.3
    assert min(nats["top 6"] + nats["top 2"]) > max(all_layers) + 1
    forms = of_topics(table, "form", *nats)
    assert max(forms.pop("untouched")) < 0.1 and min(map(min, forms.values())) > 0.9


def test_all_layers_learn_more_topics_than_the_upper_ones_and_a_trained_prompt_costs_some(table):
    exact = of_topics(table, "exact", "full", "LoRA", "top 6", "top 2", "top 6, prompt too")
    assert all(len(values) == 3 for values in exact.values())
    assert min(exact["full"] + exact["LoRA"]) > max(exact["top 6"]) and min(exact["top 6"]) > max(exact["top 2"])
    assert max(exact["top 6, prompt too"]) < min(exact["top 6"])


def test_with_more_passes_the_loss_on_new_rows_rises_at_last_and_the_score_hardly_falls(module, table):
    rows = [row for row in table if "constant" in row["method"]]
    found = {name: numbers(rows, name, "passes", "seed") for name in ("exact", "loss", "train_loss", "nats")}
    for seed in map(str, module.SEEDS):
        four, eight = ({name: found[name][passes, seed] for name in found} for passes in ("4", "8"))
        assert eight["loss"] > four["loss"] and eight["train_loss"] < 0.5 * four["train_loss"]
        assert eight["exact"] > four["exact"] - 0.1 and min(four["nats"], eight["nats"]) > 7


def test_no_way_writes_the_fixed_form_in_most_answers(table):
    rows = [row for row in table if row["task"] == "JSON"]
    form = {way: [float(r["form"]) for r in rows if r["method"] == way] for way in ("untouched", "few-shot", "top 6")}
    assert max(form["untouched"]) == 0 and max(form["few-shot"] + form["top 6"]) < 0.6
    assert np.ptp(form["few-shot"]) > 0.2 > 0.1 > np.ptp(form["top 6"])


def test_the_best_rate_of_each_way_has_a_worse_one_on_either_side(rates_module, rates):
    for way, tried in rates_module.CANDIDATES.items():
        losses = {float(r["lr"]): float(r["loss"]) for r in rates if r["method"] == way}
        assert min(tried) < min(losses, key=losses.get) < max(tried), way


def test_examples_in_the_prompt_give_the_form_and_a_probe_names_as_many_topics_as_tuned_layers(table):
    """So "nothing before" is partly a question of form: shown five examples, the untouched model writes such a word"""
    assert min(of_topics(table, "form", "few-shot")["few-shot"]) > 0.5
    probe, tuned = of_topics(table, "exact", "linear probe", "top 6").values()
    assert len(probe) == len(tuned) == 3 and all(abs(a - b) < 0.1 for a, b in zip(probe, tuned, strict=True))


@pytest.mark.parametrize("way", ["majority", "TF-IDF"])
def test_cheap_rows_come_out_again(module, table, way):
    index = next(i for i, row in enumerate(table) if row["method"] == way and row["seed"] == "1")
    stored, new = experiments.recompute("language_model", index)
    assert abs(float(stored["exact"]) - new["exact"]) < 0.02


def test_a_seed_draws_rows_of_its_own_and_every_test_row_is_new(module):
    assert len(set(module.rows_of(0).tolist()) & set(module.rows_of(1).tolist())) < 30
    train, test = ({text for text, _ in module.of(part)} for part in ("train", "test"))
    assert not train & test and len(module.of("test")) == module.TEST
    assert all(len(module.start().tokenizer(text).input_ids) <= module.TOKENS for text in test)


@pytest.mark.parametrize("said, topic", [
    ("sports<|im_end|>", "sports"), ("sports", None), ("Sports<|im_end|>", None), (" sports<|im_end|>", None),
    ("sport<|im_end|>", None), ("sports\n<|im_end|>", None), ("<|im_end|>", None),
])  # fmt: skip
def test_one_word_is_judged_to_the_letter(module, said, topic):
    assert module.judge("topic", said, "any text") == topic


@pytest.mark.parametrize("said, topic", [
    ({"topic": "tech", "key": "phone"}, "tech"), ({"topic": "tech", "key": "phones"}, None),
    ({"topic": "news", "key": "phone"}, None), ({"key": "phone", "topic": "tech"}, None),
    ({"topic": "tech", "key": "phone", "more": "x"}, None), ({"topic": "tech"}, None), ({"topic": 1, "key": "x"}, None),
    (["tech", "phone"], None), ({"topic": ["tech"], "key": "phone"}, None), ({"topic": "tech", "key": ["x"]}, None),
])  # fmt: skip
def test_json_is_judged_by_a_parser_and_the_text(module, said, topic):
    text = "A new phone can be folded."
    assert module.judge("JSON", json.dumps(said) + "<|im_end|>", text) == topic
    assert module.judge("JSON", json.dumps(said), text) is None
    assert module.judge("JSON", json.dumps(said)[:-1] + "<|im_end|>", text) is None


def test_the_key_word_is_a_rare_word_of_the_text(module):
    assert module.key_word("The the said and Chelsea said the") == "Chelsea"
    text, topic = module.of("train")[0]
    answer = module.answer("JSON", text, topic)
    assert module.judge("JSON", answer + "<|im_end|>", text) == topic
