"""Notebook 10: which rate of f, or λ, for each way of `text` that trains f? Each with 100 labels, judged on validation.

A row is the mean of two trainings, with this seed and the next, which are used nowhere else. `text` takes the best.
"""

import time

from tools.experiments import text

SEEDS = text.TUNING_SEEDS[:1]


def settings():
    """Tasks x ways x what is tried; "fine-tuned" before "combined", which takes its rate."""
    needed = dict.fromkeys((s["task"], s["way"]) for s in text.settings() if s["way"] in text.TRAINED)
    return [{"task": t, "way": w, "value": text.written(value)} for t, w in needed for value in text.WAYS[w]]


def run(setting, seed):
    """One row: accuracy in [0, 1] on the validation texts, and the seconds of one thread that both trainings took."""
    task, way = setting["task"], setting["way"]
    value = next(v for v in text.WAYS[way] if text.written(v) == setting["value"])
    text.prepare(task, way)  # before the clock runs
    started = time.process_time()
    val = text.tried(task, text.TUNED_AT, way, value)
    return {"val": round(val, 4), "cpu_s": round(time.process_time() - started, 2)}
