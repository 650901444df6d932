"""What each worker of tests/test_parallel.py does: small runs, whose results it writes to FOLDER/RANK.pt; then worker
1 dies in the middle of one. Started by torchrun with FOLDER. The settings are here, for one process to do the same."""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from helpers import D, K, message, plain_model
from torch import nn

from sftlib.adaptation import batchnorm, eval_stats_train_affine, freeze, trainable
from sftlib.datasets import PictureSplit, Split, augment, loader
from sftlib.model import LinearHead, Model
from sftlib.runtime import FLOAT32, Group, Precision
from sftlib.training import Epoch, Parallel, Shards, Step, fit, load_checkpoint, save_checkpoint, workers

N, BATCH, EPOCHS = 23, 7, 3  # batches of 7, 7, 7 and 2: slices of 3 and 4, at last of 1 and 1
SIDE = 5
DIES_AT, EXIT_CODE = 6, 7
TIMEOUT_S = 120  # for a worker that starts later than the other, on a machine with much else to do
BF16 = Precision(torch.bfloat16, channels_last=True)


class Files(Split):
    """The pictures of a split, each made when its turn comes, as those of files are"""

    def __init__(self, split):
        self.labels, self.names, self.pictures_on_disk = split.labels, split.names, split.pictures

    def batch(self, rows):
        return [self.pictures_on_disk[i].clone() for i in rows.tolist()], self.labels[rows]


def preprocess(pictures):
    if len(pictures) == 0:
        raise ValueError("a backbone's preprocess refuses an empty batch")
    return pictures.float() / 255


def split(n=N):
    g = torch.Generator().manual_seed(2)
    pictures = torch.randint(256, (n, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    return PictureSplit(pictures, torch.randint(K, (n,), generator=g), tuple(map(str, range(n))))


def batches(data=None, seed=3):
    crop_and_flip = augment.Chain((augment.Crop(SIDE, scale=(0.5, 1)), augment.flip))
    return loader(
        data or split(), preprocess, batch_size=BATCH, shuffle=True, augment=crop_and_flip,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def val_batches():
    return loader(split(17), preprocess, batch_size=8)  # 8, 8, 1: at last of 0 and 1


def to_origin(z, y):
    return z.pow(2).sum(1).mean() / 2


def of_head(model):
    return model.head.weight.pow(2).sum()


SETTINGS = {"epochs": EPOCHS, "feature_loss": to_origin, "feature_weight": 0.3, "penalty": of_head,
            "schedule": lambda step: 1 / (1 + step)}  # fmt: skip


def conv_model(seed):
    """With BatchNorm whose statistics are not 0 and 1, and a convolution of 1 x 1"""
    torch.manual_seed(seed)
    f = nn.Sequential(
        nn.Conv2d(3, 11, 3), nn.BatchNorm2d(11), nn.ReLU(), nn.Conv2d(11, D, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    nn.init.uniform_(f[1].running_mean)
    nn.init.uniform_(f[1].running_var, 0.5, 2)
    return Model(f, LinearHead(D, K))


def freeze_f(model):
    freeze(model.backbone)
    return model


def freeze_half_of_f(model):
    freeze(model.backbone[1])
    return model


def freeze_g(model):
    freeze(model.head)
    return model


def norm_in_eval_mode(model):
    eval_stats_train_affine(model)
    return model


def two_layers(seed):
    torch.manual_seed(seed)
    f = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 11), nn.Tanh(), nn.Linear(11, D))
    return Model(f, LinearHead(D, K))


CLASS_WEIGHTS = torch.tensor([0.0, 1.0, 0.3])  # class 0 is left out; a worker may have nothing else
WEIGHED = SETTINGS | {
    "task_loss": lambda output, y: F.cross_entropy(output, y, CLASS_WEIGHTS),
    "terms": lambda y: CLASS_WEIGHTS[y].sum(),
}


# name -> (a model from a seed, its preparation, settings of fit, precision)
RUNS = {
    "all": (plain_model, lambda m: m, SETTINGS, FLOAT32),
    "frozen f": (plain_model, freeze_f, {"epochs": EPOCHS}, FLOAT32),
    "partly frozen f": (two_layers, freeze_half_of_f, {"epochs": EPOCHS}, FLOAT32),
    "frozen g": (plain_model, freeze_g, {"epochs": EPOCHS}, FLOAT32),
    "feature loss alone": (plain_model, freeze_g, SETTINGS | {"task_loss": None}, FLOAT32),
    "BatchNorm": (conv_model, norm_in_eval_mode, SETTINGS, FLOAT32),
    "in parts of 3": (plain_model, lambda m: m, SETTINGS | {"micro_batch": 3}, FLOAT32),  # worker 0 cuts no slice
    "in parts of 2": (two_layers, freeze_half_of_f, {"epochs": EPOCHS, "micro_batch": 2}, FLOAT32),
    "BatchNorm in parts of 1": (conv_model, norm_in_eval_mode, SETTINGS | {"micro_batch": 1}, FLOAT32),
    "weighed classes": (plain_model, lambda m: m, WEIGHED, FLOAT32),
    "weighed classes in parts of 2": (plain_model, lambda m: m, WEIGHED | {"micro_batch": 2}, FLOAT32),
    "bf16": (conv_model, norm_in_eval_mode, {"epochs": 1}, BF16),
}


def sgd(model):
    return torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9, weight_decay=0.01)


def result(model, records):
    """What a run leaves: state, measures of the epochs, losses of the steps"""
    records = list(records)
    return {
        "state": model.state_dict(),
        "epochs": [(r.train, r.val) for r in records if isinstance(r, Epoch)],
        "losses": [r.loss for r in records if isinstance(r, Step)],
    }


def in_one_process(name, **changes):
    """One of RUNS in one process, with whole batches at once"""
    build, prepare, settings, precision = RUNS[name]
    model = prepare(build(0))
    records = fit(
        model, batches(), sgd(model), val_loader=val_batches(), precision=precision,
        **settings | {"micro_batch": None} | changes,
    )  # fmt: skip
    return result(model, records)


def run(name, group: Group):
    """One of RUNS in this worker; it starts from weights of its own, which worker 0's replace"""
    build, prepare, settings, precision = RUNS[name]
    model = Parallel(prepare(build(group.rank)), group, precision=precision)
    records = fit(
        model, Shards(batches(), group), sgd(model), val_loader=Shards(val_batches(), group), precision=precision,
        **settings,
    )  # fmt: skip
    return result(model, records)


def from_files(group: Group):
    model = Parallel(plain_model(), group)
    return result(model, fit(model, Shards(batches(Files(split())), group), sgd(model), **SETTINGS))


def resumed(group: Group, path: Path):
    """Two epochs, a checkpoint, and a third one by new objects"""
    model, data = plain_model(), batches()
    optimizer = sgd(model)
    model = Parallel(model, group)
    for record in fit(model, Shards(data, group), optimizer, **SETTINGS | {"epochs": 2}):
        if isinstance(record, Epoch):
            save_checkpoint(path, model, optimizer, epoch=record)
    torch.distributed.barrier()
    model, data = plain_model(5), batches(seed=7)
    optimizer = sgd(model)
    found = load_checkpoint(path, model, optimizer)
    model = Parallel(model, group)
    return result(model, fit(model, Shards(data, group), optimizer, resume=found, **SETTINGS))


class NoRoom(nn.Module):
    """A backbone for which more than one example is too many"""

    def forward(self, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13 GiB\nand more")
        return x.flatten(1)


def out_of_memory(group: Group, micro_batch=None):
    model = Parallel(Model(NoRoom(), LinearHead(3 * SIDE * SIDE, K)), group)
    list(fit(model, Shards(batches(), group), sgd(model), epochs=1, micro_batch=micro_batch))


def refusals(group: Group):
    thawed = Model(batchnorm.train_stats_train_affine(freeze(conv_model(0).backbone)), LinearHead(D, K))
    model = Parallel(plain_model(), group)
    own_seed = fit(model, Shards(batches(seed=group.rank), group), sgd(model), epochs=1)
    return {
        "train mode": message(lambda: Parallel(conv_model(0), group)),
        "train mode inside frozen": message(lambda: Parallel(thawed, group)),
        "own seed": message(lambda: list(own_seed)),
        "out of memory": message(lambda: out_of_memory(group)),
        "out of memory in parts": message(lambda: out_of_memory(group, 2)),
    }


def die(group: Group, path: Path):
    """Worker 1 ends without a word after step DIES_AT, an epoch and a checkpoint after the start"""
    model, data = plain_model(), batches()
    optimizer = sgd(model)
    model = Parallel(model, group)
    for record in fit(model, Shards(data, group), optimizer, epochs=EPOCHS):
        if isinstance(record, Epoch):
            save_checkpoint(path, model, optimizer, epoch=record)
        if isinstance(record, Step) and record.step == DIES_AT and group.rank == 1:
            os._exit(EXIT_CODE)


def main(folder: Path):
    torch.set_num_threads(1)
    with workers(timeout_s=TIMEOUT_S) as group:
        found = {name: run(name, group) for name in RUNS}
        found["files"] = from_files(group)
        found["resumed"] = resumed(group, folder / "resumed.pt")
        found["refusals"] = refusals(group)
        torch.save(found, folder / f"{group.rank}.pt")
        die(group, folder / "dies.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
