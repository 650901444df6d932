"""Does a guided search pay? Optuna's TPE against random draws, 20 trials each, five times, on details of photographs.

One trial draws a strategy (linear probe, fine-tuning of f's last stage, or that from the probe: LP-FT), its rate, how
much faster g learns than f, weight decay, epochs and the probe's l2, trains once on 100 labelled pictures and is judged
by accuracy on 240 validation pictures. A seed decides which pictures are labelled, the start of training, and what the
sampler draws; both samplers share the first two. `test` is noted for every trial and used for no choice: it shows how
far the best validation accuracy flatters. A row is a trial; what is drawn depends on the trials before it, which are
kept in a journal in the cache folder (and run again where that is missing).
"""

import time
from functools import partial

import torch
from optuna.samplers import RandomSampler, TPESampler

from sftlib.adaptation import param_groups
from sftlib.runtime import cache_folder
from sftlib.schedules import warmup_cosine
from sftlib.search import search
from sftlib.training import fit
from tools.experiments import strategy_grid as grid  # the same data, cut, model and precision

SEEDS = range(5)
TARGET, LABELS, TRIALS = "photo details", 100, 20
SAMPLERS = {"TPE": TPESampler, "random": RandomSampler}
DRAWN = ("strategy", "l2", "lr", "head", "decay", "epochs")  # head: rate of g / rate of f; lr: of f


def settings():
    """Samplers x trials."""
    return [{"sampler": sampler, "trial": i} for sampler in SAMPLERS for i in range(TRIALS)]


def run(setting, seed):
    """One row: what trial number `trial` drew, and its accuracies in [0, 1]."""
    journal = journal_of(setting["sampler"], seed)
    how = {"seed": seed, "sampler": SAMPLERS[setting["sampler"]], "journal": journal}
    *_, trial = search(partial(objective, seed=seed), trials=setting["trial"] + 1, **how)
    drawn = {name: trial.params.get(name, "") for name in DRAWN}
    drawn |= {name: float(f"{value:.4g}") for name, value in drawn.items() if isinstance(value, float)}
    return drawn | {"val": round(trial.value, 4), **trial.user_attrs}


def journal_of(sampler, seed):
    """Where the trials of one search are kept."""
    return cache_folder() / "search" / f"{sampler}_{seed}.journal"


def objective(trial, seed):
    """-> accuracy on the validation pictures after training as the trial says"""
    strategy = trial.suggest_categorical("strategy", ("linear probe", "full", "LP-FT"))
    started = time.process_time()
    model, batches = grid.start(TARGET, LABELS, 2000 + seed)
    if strategy != "full":
        model.head = grid.probe(model, batches, 8, trial.suggest_float("l2", 1e-2, 1e1, log=True))
    try:
        if strategy != "linear probe":
            tune(model, batches, trial)
    except FloatingPointError:  # the loss is not a number: as bad as can be
        trial.set_user_attr("test", 0.0)
        trial.set_user_attr("cpu_s", round(time.process_time() - started, 2))
        return 0.0
    trial.set_user_attr("test", round(grid.accuracy(model, TARGET, "test"), 4))
    trial.set_user_attr("cpu_s", round(time.process_time() - started, 2))
    return grid.accuracy(model, TARGET, "val")


def tune(model, batches, trial):
    """Train f's last stage and g at the rates that the trial draws."""
    lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    head = trial.suggest_float("head", 1, 30, log=True)
    decay = trial.suggest_float("decay", 1e-5, 1e-1, log=True)
    epochs = trial.suggest_int("epochs", 2, 15)
    groups = param_groups(f=(model.backbone, lr), g=(model.head, lr * head))
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=decay)
    schedule = warmup_cosine(epochs * len(batches), warmup=epochs * len(batches) // 10)
    for _ in fit(model, batches, optimizer, epochs=epochs, schedule=schedule, precision=grid.PRECISION):
        pass
