"""Training the voice network further (notebook 12): tables whole, rates as chosen, ways start as they are called."""

import os

import pytest
import torch
from tables import assert_counts, assert_whole, experiment_fixtures

from sftlib.datasets import NestSplit
from tools.experiments import run as experiments

module, table = experiment_fixtures("speech_training", scope="module")
rates, table_of_rates = experiment_fixtures("speech_training_rates", scope="module")
scratch, table_of_scratch = experiment_fixtures("speech_scratch", scope="module")
budgets, table_of_budgets = experiment_fixtures("speech_budgets", scope="module")


def split(n, longest, classes=10):
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, longest + 1, (n,), generator=draw)
    x = torch.rand(n, longest, 40, generator=draw) * 1e-3
    inside = torch.arange(longest) < lengths[:, None]
    return NestSplit((x * inside[..., None], lengths), torch.arange(n) % classes)


def means(table, *by):
    found = {}
    for row in table:
        found.setdefault(tuple(row[k] for k in by), []).append(float(row["accuracy"]))
    return {key: sum(values) / len(values) for key, values in found.items()}


@pytest.fixture
def trained(table, table_of_scratch, table_of_budgets):
    """The rows of all three tables of recordings"""
    return [*table, *table_of_scratch, *table_of_budgets]


@pytest.mark.parametrize("name", ["speech_training", "speech_training_rates", "speech_scratch", "speech_budgets"])
def test_a_table_holds_every_seed_of_every_setting(name):
    rows = experiments.read(experiments.RESULTS / f"{name}.csv")
    assert_whole(experiments.load(name), rows)
    assert len({row["code"] for row in rows}) == 1


def test_each_row_has_the_steps_of_its_way(module, scratch, trained, table_of_rates):
    for row in (*trained, *table_of_rates):
        tested = 240 if row in table_of_rates else 500
        assert_counts(row, {"accuracy": tested})
        assert row["tested"] == str(tested)
        assert int(row["steps"]) == (module.SCRATCH_STEPS if row["method"] in scratch.WAYS else module.STEPS)


def test_each_way_takes_the_rate_that_did_best_on_made_words(module, rates, table_of_rates, trained):
    found = means(table_of_rates, "method", "rate")
    for row in trained:
        tried = rates.RATES[row["method"]]
        assert float(row["rate"]) in tried[1:-1]  # no edge of the grid
        assert all(found[row["method"], row["rate"]] >= found[row["method"], str(other)] for other in tried), row
    assert not set(module.SEEDS) & set(rates.SEEDS)


def test_ways_start_as_they_are_called(module, scratch):
    own, mine = module.load_backbone("voice_lstm").lstm1.weight_hh_l0, split(23, 7)
    for way in (*module.WAYS, *scratch.WAYS):
        model, groups = module.build(way, 1e-3, mine, 0)
        assert torch.equal(model.backbone.lstm1.weight_hh_l0, own) == (not way.startswith("scratch"))
        assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
        assert model(mine.x).shape == (23, 10) and groups[-1]["lr"] == module.LR_G
        lrs = [g["lr"] for g in groups[:-1]]
        assert lrs == ([pytest.approx(1e-3 / 2.6**k) for k in (3, 2, 1, 0)] if way == "discriminative" else [1e-3])
        fits = (model(mine.x).argmax(1) == mine.y).double().mean()
        assert (fits > 0.5) == (way == "LP-FT")  # g is the probe already


def test_only_one_way_hears_logarithms(module, scratch, monkeypatch):
    heard = {}
    train, test = split(53, 11), split(17, 13)

    monkeypatch.setattr(module, "STEPS", 12)
    monkeypatch.setattr(module, "SCRATCH_STEPS", 24)
    plain = module.predict

    def predict(model, batches, **how):
        heard[way] = torch.cat([x[0].flatten() for x, _ in batches])
        return plain(model, batches, **how)

    monkeypatch.setattr(module, "predict", predict)
    for way in (*module.WAYS, *scratch.WAYS):
        row = module.learned(way, 1e-3, train, test, 5, 0)
        assert row["tested"] == 17 and row["steps"] == (24 if way.startswith("scratch") else 12)
    for way, frames in heard.items():
        assert (frames.min() < 0) == (way == "scratch, log frames"), way


def test_a_row_of_rates_comes_out_again(rates, table_of_rates):
    """Made words, so no folder is needed; other arithmetic, kept up for 80 updates, may turn some of 240 sounds"""
    index = next(i for i, r in enumerate(table_of_rates) if (r["method"], r["rate"]) == ("fine-tuned", "0.001"))
    stored, new = experiments.recompute("speech_training_rates", index)
    assert abs(float(stored["accuracy"]) - new["accuracy"]) < 0.12, (stored, new)


@pytest.mark.skipif("SPEECH_RECORDINGS" not in os.environ, reason="needs the recordings: SPEECH_RECORDINGS=folder")
def test_a_row_of_recordings_comes_out_again(table):
    which = ("fine-tuned", "theo", "10", "0")
    index = next(i for i, r in enumerate(table) if (r["method"], r["left_out"], r["n"], r["seed"]) == which)
    stored, new = experiments.recompute("speech_training", index)
    assert abs(float(stored["accuracy"]) - new["accuracy"]) < 0.12, (stored, new)


def test_the_pretrained_network_is_ahead_of_its_controls_on_every_man(scratch, trained):
    """Fine-tuned against the control at each budget, on the draws that both have, averaged over these"""
    found = {}
    for row in trained:
        found.setdefault((row["left_out"], row["method"], row["n"]), {})[row["seed"]] = float(row["accuracy"])
    compared = [(man, way, n) for man, way, n in found if way in scratch.WAYS]
    assert len(compared) == 4 * (3 + 1)  # men x budgets of the one control, and one of the other
    for man, way, n in compared:
        ahead = [found[man, "fine-tuned", n][seed] - share for seed, share in found[man, way, n].items()]
        assert sum(ahead) / len(ahead) > 0.2, (man, way, n)


def test_on_power_without_a_logarithm_the_control_fits_little_of_its_own_sounds(table_of_rates, table_of_scratch):
    """Made words at any rate, and people at the best of them"""
    on_people = {}
    for row in table_of_scratch:
        on_people.setdefault((row["method"], row["left_out"]), []).append(float(row["fitted"]))
    for (way, _), shares in on_people.items():
        assert (sum(shares) / len(shares) < 0.7) == (way == "scratch, same frames")
    fitted = {way: [float(r["fitted"]) for r in table_of_rates if r["method"] == way] for way in
              ("scratch, same frames", "scratch, log frames")}  # fmt: skip
    assert max(fitted["scratch, same frames"]) < 0.5 < max(fitted["scratch, log frames"])
