"""The training loop, in sight: one update (`step`), epochs as an iterator of records (`loop`), runs that go on."""

from sftlib.arithmetic import CompileTimes, compile_pays, measure_precision
from sftlib.objective import Loss, Objective
from sftlib.parallel import Parallel, Sharded, Shards, workers
from sftlib.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from sftlib.training.evaluation import evaluate, predict
from sftlib.training.loop import fit, set_rates
from sftlib.training.records import Controls, Epoch, History, Step, best_epoch
from sftlib.training.step import Outcome, forward, train_step

__all__ = [
    "Checkpoint",
    "CompileTimes",
    "Controls",
    "Epoch",
    "History",
    "Loss",
    "Objective",
    "Outcome",
    "Parallel",
    "Sharded",
    "Shards",
    "Step",
    "best_epoch",
    "compile_pays",
    "evaluate",
    "fit",
    "forward",
    "load_checkpoint",
    "measure_precision",
    "predict",
    "save_checkpoint",
    "set_rates",
    "train_step",
    "workers",
]
