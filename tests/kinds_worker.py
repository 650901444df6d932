"""What each worker of tests/test_kinds.py does: every kind, in one launch, to FOLDER/RANK.pt."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from kinds import KINDS, fresh, loader_of, optimizer_of, parameters_of, score_of

from sftlib.training import Epoch, Parallel, Shards, evaluate, fit, workers

BATCH = 4  # 13 examples: batches of 4, 4, 4 and 1, which is left out


def run(name, group=None):
    """-> parameters, the last epoch's measures and those of an evaluation; a refusal: its words"""
    kind = KINDS[name]()
    kind = replace(kind, settings=fresh(kind))
    model, loader, val = kind.model(), loader_of(kind, batch_size=BATCH, drop_last=True), loader_of(kind, shuffle=False)
    if group is not None:
        model, loader, val = Parallel(model, group), Shards(loader, group), Shards(val, group)
    torch.manual_seed(3)
    try:
        records = list(fit(model, loader, optimizer_of(kind, model), epochs=2, **kind.settings))
    except ValueError as error:
        return {"refused": str(error)}
    (train,) = [r.train for r in records if isinstance(r, Epoch) and r.epoch == 2]
    return {"state": parameters_of(kind, model), "train": train, "val": evaluate(model, val, **score_of(kind))}


def main(folder):
    with workers(timeout_s=120) as group:
        found = {name: run(name, group) for name in KINDS}
        torch.save(found, Path(folder) / f"{group.rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
