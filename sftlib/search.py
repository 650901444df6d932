"""A search over settings with Optuna that can be interrupted, goes on where it stopped, and is fixed by its seed."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each trial is what we yield


def search(
    objective: Callable[[Trial], float],
    *,
    trials: int,
    seed: int,
    sampler: Callable[..., BaseSampler] = TPESampler,
    journal: Path | None = None,
) -> Iterator[FrozenTrial]:
    """Maximise objective(trial); yields each completed trial, those of the journal first, until there are ``trials``.

    objective asks the trial for its settings (``trial.suggest_float("lr", 1e-4, 1e-1, log=True)``) and returns a score,
    higher is better. journal: a file to which every trial is written; the same call goes on from it. Trial number i
    draws from sampler(seed=…) made of (seed, i) alone, so an interrupted search ends as one that was not. A trial that
    was cut off is run again, and a line that was cut off in the journal is taken out. One process a journal. ValueError
    where objective returns no number or prunes the trial, and for a journal with other damage, whose line is named.
    """
    if trials < 1 or seed < 0:
        raise ValueError(f"got trials={trials}, seed={seed}; expected at least one trial and a seed of 0 or more")
    study = _study(journal)
    _forget_cut_off(study)
    done = completed(study)
    yield from done[:trials]
    for i in range(len(done), trials):
        study.sampler = sampler(seed=int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
        study.optimize(objective, n_trials=1)
        if len(completed(study)) == i:  # Optuna only writes a line for this and goes on
            raise ValueError(f"got no score from trial {i}, expected a number: return a low one where training breaks")
        yield completed(study)[-1]


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that came to an end, in the order in which they ran."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _study(journal: Path | None) -> optuna.Study:
    storage = None
    if journal is not None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        _mend(journal)
        lock = JournalFileOpenLock(str(journal))  # works where links cannot be made, Windows among them
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    return optuna.create_study(storage=storage, study_name="search", load_if_exists=True, direction="maximize")


def _mend(journal: Path) -> None:
    """Take out a last line that has no end: whoever wrote it was killed. ValueError for any other that says nothing"""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(journal, journal.stat().st_size - len(lines.pop()))
    for number, line in enumerate(lines, start=1):
        if not _is_entry(line):
            raise ValueError(
                f"line {number} of {len(lines)} of {journal} is damaged, or the file is no journal of a search; "
                f"expected one that search wrote: take a new one, or go on from the lines before (head -n {number - 1})"
            )


def _is_entry(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _forget_cut_off(study: optuna.Study) -> None:
    """Samplers look at trials that are running; one that a crash left so would change what comes next."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
