"""One training run in several processes: the same numbers as one process on the whole batch.

Each worker holds a copy of the model and takes a slice of every batch; DistributedDataParallel (DDP) averages the
gradients before each update, so the copies stay equal. ``tools/train.py`` is the script that torchrun starts.

    with workers() as group:                                   # one process without torchrun: everything is as before
        model = Parallel(Model(f, g).to(group.device), group, precision=precision)
        for record in fit(model, Shards(batches, group), optimizer, epochs=3, val_loader=Shards(val, group)):
            ...                                                # every worker; ``if group.leads:`` writes the log
            save_checkpoint(path, model, optimizer, epoch=record)       # every worker too; or step=record, at any step

*How DDP and the cut fit together.* DDP must see the whole forward pass of what it wraps, and our loop needs z and the
output. So DDP wraps a module that gives both, x -> (z, output), and ``Parallel.cut`` calls it. It stays outside the
model's own names: parameters, state and checkpoints are those of a plain ``Model``, and frozen parts, which DDP leaves
alone, need no search for unused parameters.

*What is equal.* Up to rounding (sums in another order): parameters, losses, measures. It holds
- for uneven slices: DDP averages over workers, so each worker weighs its loss by its share of the terms and examples of
  the whole batch, times the number of workers (`step.backward`);
- for losses that are means over terms. One that couples the examples of a batch (supervised contrastive, spectral
  shrinkage) sees a worker's slice only: a good loss, but not that of one process;
- without dropout, whose masks differ, and with BatchNorm in eval mode (or SyncBatchNorm, which exists on GPUs only);
- with augmentation: every worker makes the draws of the whole batch, from the same generator, and keeps its rows.

*Where one GPU does not hold the model*, ``Sharded`` stands in for ``Parallel``: each worker holds a part of every
tensor. Checkpoints hold whole tensors in both, so either, and one process, go on from either's.

A balancer (``combine``) and losses with state are refused. Where memory runs out, micro_batch is *not* halved: part of
the exchange may be under way. That worker ends with a MemoryError that says which one to try.
"""

from sftlib.parallel.group import contact, workers
from sftlib.parallel.model import Parallel, require_same_plan, require_shards, require_shareable
from sftlib.parallel.sharded import Sharded, gathered, optimizer_shards, shards_of
from sftlib.parallel.shards import Shards

__all__ = [
    "Parallel",
    "Sharded",
    "Shards",
    "contact",
    "gathered",
    "optimizer_shards",
    "require_same_plan",
    "require_shards",
    "require_shareable",
    "shards_of",
    "workers",
]
