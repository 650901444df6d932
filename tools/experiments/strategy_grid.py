"""Which strategy, for how many labels, on which task? Six ways to train, three tasks, 20, 100 and 500 labels.

f is SqueezeNet 1.1 at 96 pixels. Up to stage3 it stays as it came, so the maps that leave stage3 are computed once;
stage4, half of f's parameters, is trained ("fine-tuned" below means this) together with g. That costs a quarter of
what training all of f does. f ends with a standardisation of the features, fixed before training on the labelled ones.
Training from scratch, all of f, is measured in label_budget.

Tasks: details of photographs (8 classes), the type of a solar cell (2), its defect (2). For each task, number of
labels and strategy, the rate of f (g's is ten times that) and the strategy's own constant (`weight`: of the penalty;
for the probe, its l2) are chosen by accuracy on the validation pictures, averaged over tuning runs whose seeds are not
used again. Then each seed (its own labelled pictures, first weights of g, order of the batches) trains once at that
choice (where the loss stops being a number, again at a third of the rate), and the test pictures are looked at once;
`shifted` is the same pictures blurred, and with little contrast (mean of the two). One split of the data serves all
seeds. Products are in bfloat16; weights, losses and updates in float32. `moved` is the distance of f's weights from
their start over the start's norm.
"""

import copy
import time
from functools import cache

import torch
from torch import nn

from sftlib import losses
from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone, load_source_head
from sftlib.datasets import loader, photo_details, solar_cells
from sftlib.datasets.corruptions import blur, contrast, corrupted
from sftlib.features import Cached, extract, linear_probe
from sftlib.model import LinearHead, Model, Standardise
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import fit

SEEDS = range(5)
SIDE, STAGE, D = 96, "stage3", 512  # pixels; f up to and including this stage is frozen; features
LABELS = (20, 100, 500)
EPOCHS = {20: 25, 100: 15, 500: 5}  # 50, 75 and 100 steps
BATCH = {20: 10, 100: 20, 500: 25}  # pictures a step
TUNING_SEEDS = {20: (1001, 1002), 100: (1001,), 500: (1001,)}
RATES = (3e-4, 1e-3, 3e-3)  # of f
PRECISION = Precision(torch.bfloat16, channels_last=True)
SHIFTS = {"blur": (blur, 2), "contrast": (contrast, 2)}
TARGETS = {
    "photo details": photo_details.load,
    "cell type": lambda size: solar_cells.load(task="cell_type", size=size),
    "cell defect": lambda size: solar_cells.load(task="defect", size=size),
}
WEIGHTS = {  # strategy -> values of its constant that are tried
    "linear probe": (0.01, 0.1, 1.0, 10.0),  # l2
    "full": (0.0,),
    "LP-FT": (0.0,),
    "L2-SP": (1.0, 10.0),
    "BSS": (1e-3, 1e-2),
    "Co-Tuning": (0.5, 2.3),
}


def settings():
    """Tasks x labels x strategies."""
    return [{"target": t, "labels": n, "strategy": s} for t in TARGETS for n in LABELS for s in WEIGHTS]


def run(setting, seed):
    """One row: accuracies in [0, 1] at the chosen rate and weight, and what it cost on one thread."""
    where = setting["target"], setting["labels"], setting["strategy"]
    lr, weight = choose(*where)
    data(where[0])  # computed before the clock runs
    started = time.process_time()
    try:
        model, before = train(*where, lr, weight, seed)
    except FloatingPointError:  # it had gone well with the tuning seeds; one would lower the rate
        lr = float(f"{lr / 3:.1g}")
        model, before = train(*where, lr, weight, seed)
    cpu_s = time.process_time() - started
    shifted = sum(accuracy(model, where[0], part) for part in SHIFTS) / len(SHIFTS)
    found = {part: accuracy(model, where[0], part) for part in ("val", "test")} | {"shifted": shifted}
    return {
        "lr": lr, "weight": weight, **{part: round(share, 4) for part, share in found.items()},
        "moved": round(moved(model.backbone, before), 4), "cpu_s": round(cpu_s, 2),
    }  # fmt: skip


@cache
def choose(target, labels, strategy):
    """-> (rate of f, weight) with the best mean validation accuracy; the first of equals

    Chosen once in each process, and never read from the table: a row that is computed again can contradict it.
    """
    rates = (0.0,) if strategy == "linear probe" else RATES

    def score(pair):
        try:
            models = [train(target, labels, strategy, *pair, seed)[0] for seed in TUNING_SEEDS[labels]]
        except FloatingPointError:  # the rate is too high for this strategy
            return 0.0
        return sum(accuracy(model, target, "val") for model in models)

    return max(((lr, weight) for lr in rates for weight in WEIGHTS[strategy]), key=score)


def train(target, labels, strategy, lr, weight, seed):
    """-> (model of f's trained part and g, after all epochs; the start of f's part by name of parameter)"""
    model, batches = start(target, labels, seed)
    K = data(target)[2]
    if strategy in ("linear probe", "LP-FT"):
        l2 = weight if strategy == "linear probe" else choose(target, labels, "linear probe")[1]
        model.head = probe(model, batches, K, l2)
    if strategy == "Co-Tuning":
        model, both_heads = with_source_head(model, batches, K)
    before = losses.snapshot(model.backbone)
    if strategy == "linear probe":
        return model.eval(), before
    groups = param_groups(f=(model.backbone, lr), g=(model.head, 10 * lr))
    terms = terms_of(strategy, weight, before)
    if strategy == "Co-Tuning":
        groups += param_groups(source=(both_heads, lr))
        terms = {"feature_loss": both_heads, "feature_weight": weight}
    tune(model, batches, torch.optim.SGD(groups, momentum=0.9), EPOCHS[labels], terms)
    return model.eval(), before


def tune(model, batches, optimizer, epochs, terms):
    """Train with the schedule and precision that all share."""
    steps = len(batches) * epochs
    schedule = warmup_cosine(steps, warmup=steps // 10)
    for _ in fit(model, batches, optimizer, epochs=epochs, schedule=schedule, precision=PRECISION, **terms):
        pass


def with_source_head(model, batches, K):
    """-> (the model cut where the source head reads it, Co-Tuning's loss on that map)"""
    (top, pool), standardise = model.backbone[0], model.backbone[1]
    head, _ = load_source_head("squeezenet1_1")
    with torch.no_grad():
        p = head(top(batches.features)).softmax(1)
    relation = p.mean(0).repeat(K, 1)  # where a class has no labelled picture
    there = batches.labels.unique()
    relation[there] = losses.category_relationship(p, torch.searchsorted(there, batches.labels), num_classes=len(there))
    return Model(top, nn.Sequential(pool, standardise, model.head)), losses.CoTuning(head, relation)


def terms_of(strategy, weight, before):
    """-> what `fit` adds to the task loss for this strategy"""

    def near_start(model):
        return weight * losses.l2_sp(model.backbone, before)

    def shrink_spectrum(z, y):
        return losses.batch_spectral_shrinkage(z, k=1)

    if strategy == "L2-SP":
        return {"penalty": near_start}
    if strategy == "BSS":
        return {"feature_loss": shrink_spectrum, "feature_weight": weight}
    return {}


def start(target, labels, seed):
    """-> (model before training, its batches of cached maps)"""
    top, (h, y, K) = upper(), data(target)
    seed_everything(seed)
    order = torch.Generator().manual_seed(seed)
    mine = torch.randperm(len(y["train"]), generator=order)[:labels]
    h, y = h["train"][mine], y["train"][mine]
    batches = Cached(features=h, labels=y, batch_size=BATCH[labels], shuffle=True, generator=order)
    with torch.no_grad():
        f = nn.Sequential(top, Standardise(top(h)))
    return Model(f, LinearHead(D, K)), batches


@torch.no_grad()
def probe(model, batches, K, l2):
    """model before training, its cached maps -> head (K, D): logistic regression on the features"""
    return linear_probe(model.backbone(batches.features), batches.labels, num_classes=K, l2=l2)


def upper():
    """-> f above STAGE, as it came"""
    f = copy.deepcopy(pretrained())
    return nn.Sequential(f.stage4, f.pool)


@cache
def pretrained():
    return load_backbone("squeezenet1_1", size=SIDE)


@cache
def data(target):
    """-> maps h (N, 384, 5, 5) that leave STAGE and labels y, by part, shifted ones too; number of classes"""
    f, splits, h, y = pretrained(), TARGETS[target](size=SIDE), {}, {}
    parts = {part: getattr(splits, part) for part in ("train", "val", "test")}
    parts |= {name: corrupted(splits.test, *how) for name, how in SHIFTS.items()}
    for part, split in parts.items():
        h[part], y[part] = extract(f, loader(split, f.preprocess, batch_size=128), stage=STAGE)
    return h, y, len(splits.classes)


@torch.inference_mode()
def accuracy(model, target, part):
    """-> share of right answers on a part of the data, in [0, 1]"""
    h, y, _ = data(target)
    with PRECISION.autocast("cpu"):
        logits = model.eval()(h[part])  # (N, K)
    return (logits.argmax(1) == y[part]).double().mean().item()


@torch.no_grad()
def moved(f, before):
    """f, its start by name -> ||w - w0|| / ||w0||"""
    away = sum((w - before[name]).square().sum() for name, w in f.named_parameters())
    return (away / sum(w0.square().sum() for w0 in before.values())).sqrt().item()
