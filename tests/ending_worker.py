"""What a worker of tests/test_parallel_end.py does: ending_worker.py FOLDER END.

It trains, keeps all that it made, and leaves the group as END says. Where Python comes to its ordinary end, it says so,
and writes to FOLDER/RANK.json the names of its threads and what the model still does.
"""

import atexit
import copy
import json
import sys
from pathlib import Path

import parallel_worker as worker
import torch
import torch.nn.functional as F
from helpers import message, plain_model

from sftlib.model import Model
from sftlib.training import Parallel, Shards, fit, train_step, workers

TASKS = Path("/proc/self/task")  # Linux alone says the names of threads that are not Python's
ORDINARY = "an ordinary end of Python"


def threads():
    return [(task / "comm").read_text(encoding="utf-8").strip() for task in TASKS.iterdir()] if TASKS.exists() else []


def interrupt():
    raise KeyboardInterrupt  # as Ctrl-C does


# name -> the last thing that is done in the group
ENDS = {
    "by itself": lambda: None,
    "exit 0": sys.exit,
    "exit 3": lambda: sys.exit(3),
    "Ctrl-C": interrupt,
    "print": lambda: print("nobody reads this", flush=True),
}


def fail(model):
    """An error within DDP whose traceback refers to it, and which a frame of that refers to: a ring"""
    try:
        model.cut(torch.zeros(2, 1))
    except RuntimeError as error:
        ring = error
        return str(ring)


def report(folder, rank, before, model, data, optimizer):
    """What holds after the workers have parted"""
    model.eval()
    x, y = torch.zeros(2, 3, worker.SIDE, worker.SIDE), torch.zeros(2, dtype=torch.long)
    plain = Model(model.backbone, model.head)
    report = {
        "threads": [before, threads()],
        "predicts": torch.equal(model(x), plain(x)),
        "fit": message(lambda: next(fit(model, data, optimizer, epochs=1))),
        "step": message(lambda: train_step(model, x, y, optimizer, task_loss=F.cross_entropy)),
    }
    (folder / f"{rank}.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    folder, end = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    atexit.register(print, ORDINARY, file=sys.stderr)
    with workers(timeout_s=worker.TIMEOUT_S) as group:
        model = Parallel(plain_model(), group)
        another, optimizer = copy.deepcopy(model), worker.sgd(model)
        data = Shards(worker.batches(), group)
        records = fit(model, data, optimizer, epochs=1)
        kept = [next(records), another, fail(model)]  # of a run that is not at its end
        atexit.register(report, folder, group.rank, threads(), model, data, optimizer)
        ENDS[end]()
