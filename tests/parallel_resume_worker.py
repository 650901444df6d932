"""What each worker of tests/test_parallel_resume.py does: runs that stop and go on, whose results it writes to
FOLDER/RANK.pt; then the memory of worker 1 runs out in the middle of one. Started by torchrun with FOLDER."""

import sys
from pathlib import Path

import parallel_worker as worker
import torch
from helpers import D, K, message, plain_model
from torch import nn

from sftlib.model import LinearHead, Model
from sftlib.training import Epoch, Parallel, Shards, Step, fit, load_checkpoint, save_checkpoint, workers

STOPS = (1, 4, 6, 7, 8)  # of 4 steps an epoch; in the last one each worker has one example
OUT_AT = 6


def with_dropout(seed):
    """A model that draws masks: other ones in each worker, as soon as the slices differ in length"""
    torch.manual_seed(seed)
    f = nn.Sequential(nn.Flatten(), nn.Linear(3 * worker.SIDE**2, 11), nn.Tanh(), nn.Dropout(0.3), nn.Linear(11, D))
    return Model(f, LinearHead(D, K))


def going(group, build, seed, path=None, micro_batch=None):
    """-> model, optimizer and the records of a run in this worker, from the checkpoint at ``path`` if given"""
    model, data = build(seed), worker.batches(seed=3 + seed)
    optimizer = worker.sgd(model)
    found = path and load_checkpoint(path, model, optimizer)
    model = Parallel(model, group)
    records = fit(
        model, Shards(data, group), optimizer, val_loader=Shards(worker.val_batches(), group), resume=found,
        micro_batch=micro_batch, **worker.SETTINGS,
    )  # fmt: skip
    return model, optimizer, records


def stop(group, path, build, place, micro_batch=None):
    """Save after step ``place``, or at the end of the epoch whose record is ``place``, and go no further"""
    model, optimizer, records = going(group, build, 0, micro_batch=micro_batch)
    for record in records:
        if isinstance(record, Step) and record.step == place:
            save_checkpoint(path, model, optimizer, step=record)
            break
        if isinstance(record, Epoch) and f"epoch {record.epoch}" == place:
            save_checkpoint(path, model, optimizer, epoch=record)
            break
    torch.distributed.barrier()


def stopped_and_resumed(group, path, place, micro_batch=None):
    stop(group, path, with_dropout, place, micro_batch)
    model, _, records = going(group, with_dropout, 5, path)
    return worker.result(model, records)


def whole(group, micro_batch=None):
    model, _, records = going(group, with_dropout, 0, micro_batch=micro_batch)
    return worker.result(model, records)


def stop_in_one_process(path):
    model, data = plain_model(), worker.batches()
    optimizer = worker.sgd(model)
    for record in fit(model, data, optimizer, **worker.SETTINGS):
        if isinstance(record, Step) and record.step == 6:
            save_checkpoint(path, model, optimizer, step=record)
            break


def after_one_process(group, path):
    """Two workers go on from what one process wrote"""
    if group.leads:
        stop_in_one_process(path)
    torch.distributed.barrier()
    model, _, records = going(group, plain_model, 5, path)
    return worker.result(model, records)


def refused(group, folder):
    """Workers that go on from two different places"""
    *_, records = going(group, with_dropout, 0, folder / f"{STOPS[group.rank]}.pt")
    return message(lambda: next(records))


class Full(nn.Module):
    """z -> z, until memory runs out"""

    def __init__(self):
        super().__init__()
        self.over = False

    def forward(self, z):
        if self.over:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return z


def run_out_of_memory(group, path):
    model, full = plain_model(), Full()
    model.backbone.append(full)
    optimizer = worker.sgd(model)
    model = Parallel(model, group)
    for record in fit(model, Shards(worker.batches(), group), optimizer, epochs=3):
        if isinstance(record, Step):
            save_checkpoint(path, model, optimizer, step=record)
            full.over = record.step == OUT_AT and group.rank == 1


def main(folder: Path):
    torch.set_num_threads(1)
    with workers(timeout_s=worker.TIMEOUT_S) as group:
        found = {"whole": whole(group), "whole in parts": whole(group, 3)}
        for place in (*STOPS, "epoch 1"):
            found[place] = stopped_and_resumed(group, folder / f"{place}.pt", place)
        found["in parts"] = stopped_and_resumed(group, folder / "parts.pt", 6, 3)
        stop(group, folder / "plain.pt", plain_model, 6)
        found["after one process"] = after_one_process(group, folder / "alone.pt")
        found["refused"] = refused(group, folder)
        torch.save(found, folder / f"{group.rank}.pt")
        run_out_of_memory(group, folder / "memory.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
