"""The stored tables of notebook 11: rows of the settings they say, rates that were the best, and cheap rows again."""

import json

import pytest
from tables import assert_counts, experiment_fixtures

from tools.experiments import run as experiments

module, table = experiment_fixtures("language_model", scope="module")
rates_module, rates = experiment_fixtures("language_model_rates", scope="module")


def test_every_row_is_of_a_setting_and_there_once(module, table):
    wanted = {experiments.key(setting, seed) for setting, seed in experiments.jobs(module)}
    there = [tuple(row[column] for column in ("seed", *module.settings()[0])) for row in table]
    assert len(set(there)) == len(there) and set(there) <= wanted
    ways = {row["method"] for row in table}
    assert ways >= {"majority", "TF-IDF", "untouched", "top 6", "LoRA"}


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


def test_what_is_trained_has_the_form_and_the_upper_layers_forget_more_than_lora(module, table):
    """In every seed that is there, by a wide margin"""
    nats = {way: [float(r["nats"]) for r in table if r["method"] == way] for way in ("untouched", "top 6", "LoRA")}
    assert min(nats["top 6"]) > max(nats["LoRA"]) + 1 > max(nats["untouched"]) + 0.9
    forms = {way: [float(r["form"]) for r in table if r["method"] == way] for way in nats}
    assert max(forms["untouched"]) < 0.1 and min(forms["top 6"] + forms["LoRA"]) > 0.9


def test_examples_in_the_prompt_give_the_form_and_a_probe_names_as_many_topics_as_tuned_layers(table):
    """So "nothing before" is a question of form: the untouched model, shown five examples, writes one of the words"""
    assert min(float(r["form"]) for r in table if r["method"] == "few-shot") > 0.5
    exact = {
        way: {r["seed"]: float(r["exact"]) for r in table if r["method"] == way} for way in ("linear probe", "top 6")
    }
    probe, tuned = exact.values()
    assert len(probe) == len(tuned) == 3 and all(abs(probe[seed] - tuned[seed]) < 0.1 for seed in tuned)


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
