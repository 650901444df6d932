"""Ways to train f and g with `extract`, `linear_probe` and `fit`: what benchmarks/strategies.py compares with others.

Each takes a Job and returns its model, trained.
"""

from dataclasses import dataclass, replace

import torch

from sftlib.adaptation import (
    add_group,
    freeze,
    geometric_rates,
    gradual,
    param_groups,
    train_biases_only,
    unfreeze,
    wrap_lora,
)
from sftlib.backbones import load_backbone
from sftlib.datasets import augment, loader
from sftlib.features import Cached, extract, linear_probe, upper_part
from sftlib.model import Model
from sftlib.runtime import Precision
from sftlib.schedules import warmup_cosine
from sftlib.training import fit

BATCH, MOMENTUM = 32, 0.9
FLIPS = augment.Chain((augment.flip, augment.flip_vertical))


@dataclass(frozen=True)
class Job:
    """What one training gets: labelled pictures, a model to train, epochs, the rate, the seed, our arithmetic."""

    split: object
    model: Model
    epochs: int
    rate: float | None
    seed: int
    precision: Precision

    @property
    def preprocess(self):
        return self.model.backbone.preprocess


def batches(job: Job):
    order = torch.Generator().manual_seed(job.seed)
    return loader(job.split, job.preprocess, batch_size=BATCH, shuffle=True, augment=FLIPS, generator=order)


def run_fit(job: Job, groups: list[dict], model: Model | None = None, data=None) -> Model:
    """SGD with momentum on the groups, warm-up and cosine -> job.model, trained"""
    model, data = model or job.model, data or batches(job)
    steps = len(data) * job.epochs
    schedule = warmup_cosine(steps, warmup=steps // 10)
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM)
    for _ in fit(model, data, optimizer, epochs=job.epochs, schedule=schedule, precision=job.precision):
        pass
    return job.model


def features(job: Job, stage: str | None = None, split=None):
    f, split = job.precision.place(job.model.backbone), split or job.split
    return extract(f, loader(split, job.preprocess, batch_size=128), stage=stage, precision=job.precision)


def linear(job: Job) -> Model:
    job.model.head = linear_probe(*features(job), l2=job.rate)
    return job.model


def cached(job: Job, stage: str) -> Model:
    """Only what lies above the stage trains, on maps computed once (so without flips)"""
    top, (h, y) = upper_part(job.model, stage), features(job, stage)
    order = torch.Generator().manual_seed(job.seed)
    maps = Cached(features=h, labels=y, batch_size=BATCH, shuffle=True, generator=order)
    return run_fit(job, param_groups(top=(top, job.rate)), top, maps)


class Flipped:
    """Batches (h (n, C, H, W), y (n,)) of cached maps, each of one of a picture's flips, drawn anew at each pass"""

    batch_size = BATCH

    def __init__(self, job: Job, stage: str):
        flips = [job.split.pictures.flip(dims) for dims in ((), (-1,), (-2,), (-1, -2))]
        self.h = torch.stack([features(job, stage, replace(job.split, pictures=some))[0] for some in flips])
        self.y, self.order = job.split.labels, torch.Generator().manual_seed(job.seed)

    def __len__(self):
        return -(-len(self.y) // BATCH)

    def __iter__(self):
        drawn = torch.randint(len(self.h), self.y.shape, generator=self.order)
        for rows in torch.randperm(len(self.y), generator=self.order).split(BATCH):
            yield self.h[drawn[rows], rows], self.y[rows]


def cached_flips(job: Job, stage: str) -> Model:
    """The same from a linear probe, with flips: the maps of all four are computed once"""
    top, maps = upper_part(job.model, stage), Flipped(job, stage)
    with torch.inference_mode():
        z = top.backbone(maps.h.flatten(0, 1))
    job.model.head.load_state_dict(linear_probe(z, maps.y.repeat(len(maps.h)), l2=1.0).state_dict())
    return run_fit(job, param_groups(top=(top, job.rate)), top, maps)


def full(job: Job) -> Model:
    return run_fit(job, param_groups(all=(job.model, job.rate)))


def lp_ft(job: Job) -> Model:
    job.model.head = linear_probe(*features(job), l2=1.0)
    return full(job)


def top_down(job: Job) -> Model:
    """Gradual unfreezing: g alone for an epoch, then a stage more each epoch"""
    f, data = freeze(job.model.backbone), batches(job)
    optimizer = torch.optim.SGD(param_groups(head=(job.model.head, job.rate)), momentum=MOMENTUM)
    schedule = warmup_cosine(len(data) * job.epochs)
    free = ()
    for epoch in range(1, job.epochs + 1):
        wanted = gradual(f.stages[:-1], epoch)
        for stage in set(wanted) - set(free):
            unfreeze(f.get_submodule(stage))
            add_group(optimizer, **{stage: (f.get_submodule(stage), job.rate)})
        free = wanted
        rest = {"epochs": epoch, "first_epoch": epoch, "schedule": schedule, "precision": job.precision}
        for _ in fit(job.model, data, optimizer, **rest):
            pass
    return job.model


def discriminative(job: Job) -> Model:
    parts = {**dict(job.model.backbone.named_children()), "head": job.model.head}
    return run_fit(job, param_groups(**geometric_rates(parts, lr=job.rate, factor=2.6)))


def biases(job: Job) -> Model:
    train_biases_only(job.model.backbone)
    return full(job)


def lora(job: Job) -> Model:
    wrap_lora(job.model.backbone, rank=4, alpha=4)
    return full(job)


def scratch(job: Job) -> Model:
    job.model.backbone = load_backbone("squeezenet1_1", pretrained=False, size=job.preprocess.size)
    return full(job)
