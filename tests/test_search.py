"""The search is fixed by its seed, goes on where it stopped, and finds what random draws find late."""

import random

import pytest
from optuna.samplers import RandomSampler

from sftlib.search import search

TRIALS = 17


def hill(trial):
    """Highest, 0, at x = 0.3 and kind b."""
    x = trial.suggest_float("x", 0, 1)
    kind = trial.suggest_categorical("kind", ("a", "b"))
    return -((x - 0.3) ** 2) - (kind == "a")


def settings(found):
    return [(t.params, t.value) for t in found]


@pytest.mark.parametrize("sampler", [None, RandomSampler])
def test_the_same_seed_gives_the_same_search_and_another_seed_another(sampler):
    how = {} if sampler is None else {"sampler": sampler}
    first, again = (settings(search(hill, trials=TRIALS, seed=3, **how)) for _ in range(2))
    other = settings(search(hill, trials=TRIALS, seed=4, **how))
    assert first == again and len(first) == TRIALS
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_trials_draw_anew(tmp_path):
    xs = {t.params["x"] for t in search(hill, trials=TRIALS, seed=0, sampler=RandomSampler)}
    assert len(xs) == TRIALS  # one sampler seed for all trials would repeat one draw


def test_a_search_in_two_parts_ends_as_one_in_one(tmp_path):
    journal = tmp_path / "deep" / "study.journal"
    whole = settings(search(hill, trials=TRIALS, seed=5))
    first = settings(search(hill, trials=13, seed=5, journal=journal))
    calls = []

    def counted(trial):
        calls.append(trial.number)
        return hill(trial)

    both = settings(search(counted, trials=TRIALS, seed=5, journal=journal))
    assert first == whole[:13] and both == whole
    assert len(calls) == TRIALS - 13
    assert settings(search(counted, trials=2, seed=5, journal=journal)) == whole[:2]
    assert len(calls) == TRIALS - 13


@pytest.mark.parametrize("cut", [KeyboardInterrupt, SystemExit])
def test_a_trial_that_was_cut_off_is_run_again(tmp_path, cut):
    journal = tmp_path / "study.journal"
    whole = settings(search(hill, trials=TRIALS, seed=7))

    def cut_off(trial):
        hill(trial)
        if trial.number == 12:
            raise cut
        return hill(trial)

    with pytest.raises(cut):
        list(search(cut_off, trials=TRIALS, seed=7, journal=journal))
    assert settings(search(hill, trials=TRIALS, seed=7, journal=journal)) == whole


def test_what_is_yielded_has_the_notes_of_the_trial(tmp_path):
    def noted(trial):
        trial.set_user_attr("twice", 2 * trial.suggest_float("x", 0, 1))
        return trial.params["x"]

    for journal in (None, tmp_path / "study.journal"):
        for trial in search(noted, trials=3, seed=0, journal=journal):
            assert trial.user_attrs["twice"] == 2 * trial.params["x"]


def test_after_its_random_start_the_search_looks_near_the_best():
    later = [t.params["x"] for seed in range(5) for t in list(search(hill, trials=40, seed=seed))[20:]]
    assert sum(abs(x - 0.3) < 0.2 for x in later) > 0.7 * len(later)  # random draws: 0.4


@pytest.mark.parametrize("wrong", [{"trials": 0, "seed": 0}, {"trials": 3, "seed": -1}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="expected at least one trial and a seed of 0 or more"):
        list(search(hill, **wrong))


@pytest.mark.parametrize("answer", [float("nan"), None])
def test_a_trial_without_a_score_is_refused(answer):
    def sometimes(trial):
        return hill(trial) if trial.number < 2 else answer

    found = search(sometimes, trials=5, seed=0)
    assert [next(found).number, next(found).number] == [0, 1]
    with pytest.raises(ValueError, match="got no score from trial 2"):
        next(found)


def test_a_journal_that_was_cut_off_anywhere_ends_as_one_that_was_not(tmp_path):
    journal = tmp_path / "study.journal"
    whole = settings(search(hill, trials=7, seed=5, journal=journal))
    data, cuts = journal.read_bytes(), random.Random(11)
    lines = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in sorted({0, 1, *lines[::5], *(i - 1 for i in lines[::5]), *cuts.sample(range(len(data)), 23)}):
        journal.write_bytes(data[:cut])
        assert settings(search(hill, trials=7, seed=5, journal=journal)) == whole, cut
        assert settings(search(hill, trials=7, seed=5, journal=journal)) == whole, cut


@pytest.mark.parametrize("damage", [b'{"op_code": 5, "tr\n', b"\0\0\0\n", b"[]\n", b"7\n", b"\xff\n", b"\n"])
def test_a_damaged_line_of_a_journal_is_named_and_the_file_left_alone(damage, tmp_path):
    journal = tmp_path / "study.journal"
    list(search(hill, trials=3, seed=5, journal=journal))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(before := b"".join([*lines[:4], damage, *lines[4:]]))
    with pytest.raises(ValueError, match=rf"line 5 of {len(lines) + 1} of .*study.journal is damaged.*head -n 4"):
        list(search(hill, trials=5, seed=5, journal=journal))
    assert journal.read_bytes() == before
