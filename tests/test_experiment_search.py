"""The stored searches of notebook 08: whole, of the ranges they say, and the first trial comes out again."""

from tables import assert_whole, experiment_fixtures

from sftlib.search import search
from tools.experiments import run as experiments

module, table = experiment_fixtures("search")


def test_the_table_holds_every_trial_of_every_search(module, table):
    assert_whole(module, table)


def test_trials_lie_in_their_ranges_and_leave_out_what_their_strategy_does_not_have(table):
    ranges = {"lr": (1e-4, 1e-2), "head": (1, 30), "decay": (1e-5, 1e-1), "epochs": (2, 15), "l2": (1e-2, 1e1)}
    for row in table:
        without = {"linear probe": {"lr", "head", "decay", "epochs"}, "full": {"l2"}, "LP-FT": set()}[row["strategy"]]
        for name, (low, high) in ranges.items():
            assert (row[name] == "") == (name in without), row
            assert name in without or 0.999 * low <= float(row[name]) <= 1.001 * high, row


def test_random_draws_do_not_depend_on_what_was_found(module, table):
    """What a stored random search drew follows from its seed alone, with a made-up objective as well."""
    for seed in {r["seed"] for r in table}:
        how = {"seed": int(seed), "sampler": module.SAMPLERS["random"], "trials": module.TRIALS}
        drawn = [t.params["strategy"] for t in search(draw_strategy, **how)]
        assert drawn == [r["strategy"] for r in table if (r["seed"], r["sampler"]) == (seed, "random")]


def draw_strategy(trial):
    trial.suggest_categorical("strategy", ("linear probe", "full", "LP-FT"))
    return float(trial.number)


def test_the_first_trial_of_a_search_comes_out_again(module, table, monkeypatch, tmp_path):
    setting, seed = cheapest_first_trial(table)
    row = next(r for r in table if experiments.key(setting, seed) == tuple(r[k] for k in ("seed", *setting)))
    monkeypatch.setattr(module, "journal_of", lambda sampler, seed: tmp_path / "study.journal")
    new = module.run(setting, seed)
    assert {k: str(new[k]) for k in module.DRAWN} == {k: row[k] for k in module.DRAWN}
    for part in ("val", "test"):
        assert abs(new[part] - float(row[part])) < 0.03  # rounding elsewhere may turn a few of 240 pictures


def cheapest_first_trial(table):
    """-> (setting, seed) of the search whose first trial was the fastest"""
    row = min((r for r in table if r["trial"] == "0"), key=lambda r: float(r["cpu_s"]))
    return {"sampler": row["sampler"], "trial": 0}, int(row["seed"])


def test_an_interrupted_search_gives_the_same_rows(module, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "objective", cheap)
    whole, parts = tmp_path / "whole.journal", tmp_path / "parts.journal"
    monkeypatch.setattr(module, "journal_of", lambda sampler, seed: whole)
    at_once = module.run({"sampler": "TPE", "trial": 12}, 3)
    monkeypatch.setattr(module, "journal_of", lambda sampler, seed: parts)
    rows = [module.run({"sampler": "TPE", "trial": i}, 3) for i in (0, 4, 12)]
    assert rows[-1] == at_once and rows[0] != at_once


def cheap(trial, seed):
    trial.suggest_categorical("strategy", ("full", "LP-FT"))
    trial.set_user_attr("test", 0.5)
    return -abs(trial.suggest_float("lr", 1e-4, 1e-2, log=True) - 1e-3)
