"""What each worker of tests/test_sharded.py does: small runs in shards, whose results it writes to FOLDER/RANK.pt."""

import sys
from pathlib import Path

import parallel_worker as worker
import torch
from helpers import K, message, plain_model
from parallel_worker import SETTINGS, conv_model, freeze_f, freeze_half_of_f, norm_in_eval_mode, two_layers
from torch import nn

from sftlib.adaptation import trainable
from sftlib.datasets import NestSplit, augment, loader, nest_loader
from sftlib.model import Model, TokenHead
from sftlib.training import Epoch, Sharded, Shards, Step, evaluate, fit, load_checkpoint, save_checkpoint
from sftlib.training import workers as workers_of

N, BATCH, V, D = 22, 6, 13, 5  # batches of 6, 6, 6 and 4: slices of 3, at last of 2
SAVED_AT = 6  # within the second epoch


class Tied(nn.Module):
    """ids (N, T) -> z (N, T, D); its table is the output matrix of the head"""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(V, D), nn.Sequential(nn.Linear(D, 7), nn.Tanh(), nn.Linear(7, D))

    def forward(self, ids):
        return self.mix(self.table(ids))


def tied(seed):
    torch.manual_seed(seed)
    f = Tied()
    return Model(f, TokenHead(f.table.weight))


def sentences(n=N):
    ids = torch.randint(V, (n, 4), generator=torch.Generator().manual_seed(5))
    return NestSplit(ids[:, :-1], ids[:, 1:])


def adam(model):
    return torch.optim.AdamW(trainable(model), lr=0.01)


def pictures():
    generator = torch.Generator().manual_seed(3)
    data = worker.split(N)
    return loader(data, worker.preprocess, batch_size=BATCH, shuffle=True, augment=augment.flip, generator=generator)


def texts():
    return nest_loader(sentences(), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(3))


CLIP = SETTINGS | {"clip": 0.1}
SENTENCES = {"epochs": 3, "terms": lambda y: y.numel()}
# name -> (a model from a seed, its preparation, settings of fit, batches, optimizer)
RUNS = {
    "all": (plain_model, lambda m: m, SETTINGS, pictures, worker.sgd),
    "frozen f": (two_layers, freeze_f, {"epochs": 3}, pictures, worker.sgd),
    "partly frozen f": (two_layers, freeze_half_of_f, {"epochs": 3}, pictures, worker.sgd),
    "BatchNorm": (conv_model, norm_in_eval_mode, SETTINGS, pictures, worker.sgd),
    "in parts of 2": (two_layers, lambda m: m, SETTINGS | {"micro_batch": 2}, pictures, worker.sgd),
    "clipped": (two_layers, lambda m: m, CLIP, pictures, worker.sgd),
    "AdamW": (two_layers, lambda m: m, {"epochs": 3}, pictures, adam),
    "tied": (tied, lambda m: m, SENTENCES, texts, adam),
}


def in_one_process(name, path=None):
    """One of RUNS in one process; ``path``: where it saves itself after SAVED_AT steps"""
    build, prepare, settings, batches, optimizer = RUNS[name]
    model, settings = prepare(build(0)), {key: v for key, v in settings.items() if key != "micro_batch"}
    return result(model, optimizer(model), batches(), settings, path)


def result(model, optimizer, batches, settings, path=None, **more):
    found = {"losses": [], "epochs": []}
    for record in fit(model, batches, optimizer, **settings, **more):
        if isinstance(record, Epoch):
            found["epochs"].append(record.train)
        elif path is not None and record.step == SAVED_AT:
            save_checkpoint(path, model, optimizer, step=record)
    return found


def run(name, group, path=None, resume=None):
    """One of RUNS in shards -> what it measured; its end is written to ``path``.end, a checkpoint of whole tensors"""
    build, prepare, settings, batches, optimizer = RUNS[name]
    model = Sharded(prepare(build(group.rank)), group)
    before = evaluate(model, Shards(batches(), group), terms=settings.get("terms", len))  # gathers without gradients
    optimizer = optimizer(model)
    found = None if resume is None else load_checkpoint(resume, model, optimizer, exact=False)
    records = fit(model, Shards(batches(), group), optimizer, resume=found, **settings)
    measured = []
    for record in records:
        if isinstance(record, Step) and record.step == SAVED_AT and resume is None:
            save_checkpoint(path, model, optimizer, step=record)
        if isinstance(record, Epoch):
            measured.append(record.train)
            evaluate(model, Shards(batches(), group), terms=settings.get("terms", len))
            save_checkpoint(f"{path}.end", model, optimizer, epoch=record)
    held = sum(p.to_local().numel() for p in model.parameters()), sum(p.numel() for p in model.parameters())
    measured.append(evaluate(model, Shards(batches(), group), terms=settings.get("terms", len)))
    return {"before": before, "epochs": measured, "held": held}


def refused(group):
    """What is said where workers would wait for each other, or train what they do not have"""
    model = Sharded(two_layers(0), group)
    optimizer, data = worker.sgd(model), Shards(worker.batches(), group)  # batches of 7: slices of 3 and 4
    one_left = Shards(worker.val_batches(), group)  # at last of 0 and 1
    early = two_layers(0)
    too_early = worker.sgd(early)
    copied = Sharded(early, group)
    return {
        "parts": message(lambda: fit(model, data, optimizer, epochs=1, micro_batch=3)),
        "validation": message(lambda: fit(model, data, optimizer, epochs=1, val_loader=one_left)),
        "evaluation": message(lambda: evaluate(model, one_left)),
        "optimizer": message(lambda: fit(copied, data, too_early, epochs=1)),
        "statistics": message(lambda: Sharded(conv_model(0), group)),
    }


def main(folder):
    with workers_of() as group:
        found = {name: run(name, group, folder / f"{name}.pt") for name in RUNS}
        if group.leads:
            for name in ("all", "AdamW", "tied"):
                in_one_process(name, folder / f"{name}.one.pt")
        torch.distributed.barrier()
        for name in ("all", "AdamW", "tied"):
            found[f"{name} from one"] = run(name, group, folder / f"{name}.back.pt", folder / f"{name}.one.pt")
            found[f"{name} again"] = run(name, group, folder / f"{name}.again.pt", folder / f"{name}.pt")
        found["refused"] = refused(group)
        model = Sharded(plain_model(), group)
    found["parted"] = message(lambda: model(torch.zeros(2, 3, 5, 5)))
    torch.save(found, folder / f"{group.rank}.pt")


if __name__ == "__main__":
    assert K == 3
    main(Path(sys.argv[1]))
