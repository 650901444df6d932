"""Does a loss on the features help? Nine losses on solar cells, each tuned, with few and with many labels.

f is SqueezeNet 1.1 at 96 pixels. Up to stage3 it stays as it came, so the maps that leave stage3 are computed once;
stage4 is trained together with g. f ends with a standardisation that is fixed before training (mean and deviation of
the labelled features): after it features may point anywhere, which they cannot right after a ReLU.

For each loss and number of labels, the learning rate and the loss's own constant (`weight`: lambda, or the margin) are
chosen by accuracy on the 222 validation pictures, averaged over tuning runs whose seeds are not used again. Then each
seed (its own labelled pictures, first weights of g, order of the batches) trains once at that choice, and the 334 test
pictures are looked at once. One split of the data serves all seeds.
"""

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from sftlib import losses
from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract
from sftlib.model import LinearHead, Model, Standardise
from sftlib.runtime import seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import fit

SEEDS = range(6)
SIDE, STAGE, K = 96, "stage3", 2  # pixels; f below and including this stage is frozen
FEW, ALL = 100, 1667  # labelled pictures
EPOCHS = {FEW: 20, ALL: 6}  # 140 and 318 steps
BATCH = {FEW: 16, ALL: 32}  # pictures a step
TUNING_SEEDS = {FEW: (1001, 1002), ALL: (1001,)}
RATES = {FEW: (3e-4, 1e-3, 3e-3), ALL: (1e-3, 2e-3, 5e-3)}
SCALE, TEMPERATURE = 16.0, 0.1
BALANCE_RATE = 0.02  # of uncertainty's two parameters

WEIGHTS = {  # loss -> values of its constant that are tried
    "cross-entropy": (0.0,),
    "+ cosine": (0.1, 1.0, 10.0),
    "+ center": (1e-4, 1e-3, 1e-2),
    "+ contrastive": (0.1, 1.0),
    "cosface": (0.0, 0.35),  # margin; 0 is NormFace
    "arcface": (0.1, 0.5),  # margin in radians
    "+ cosine, gradient ratio": (1.0,),
    "+ cosine, uncertainty": (1.0,),
    "+ cosine, random": (1.0,),
}


def settings():
    """Losses x labels; the balancers (with a comma) only where labels are few."""
    pairs = [(loss, labels) for labels in (FEW, ALL) for loss in WEIGHTS if labels == FEW or "," not in loss]
    return [{"loss": loss, "labels": labels} for loss, labels in pairs]


def run(setting, seed):
    """One row: accuracies in [0, 1] at the chosen rate and weight."""
    lr, weight = choose(setting["loss"], setting["labels"])
    model = train(setting["loss"], setting["labels"], lr, weight, seed)
    result = {"val": round(accuracy(model, "val"), 4), "test": round(accuracy(model, "test"), 4)}
    return {"lr": lr, "weight": weight, **result}


@cache
def choose(loss, labels):
    """-> (learning rate, weight) with the best mean validation accuracy; the first of equals"""

    def score(pair):
        try:
            models = [train(loss, labels, *pair, seed) for seed in TUNING_SEEDS[labels]]
        except FloatingPointError:  # the rate is too high for this loss
            return 0.0
        return sum(accuracy(model, "val") for model in models)

    return max(((lr, weight) for lr in RATES[labels] for weight in WEIGHTS[loss]), key=score)


def train(loss, labels, lr, weight, seed):
    """-> Model of f's trained top and g, after all epochs"""
    model, batches = start(labels, seed)
    terms, extra = terms_of(loss, weight, model, seed)
    groups = param_groups(f=(model.backbone, lr), g=(model.head, lr))
    groups += param_groups(balance=(extra, BALANCE_RATE)) if extra is not None else []
    steps = len(batches) * EPOCHS[labels]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    for _ in fit(model, batches, optimizer, epochs=EPOCHS[labels], schedule=warmup_cosine(steps), **terms):
        pass
    return model.eval()


def start(labels, seed):
    """-> (model before training, its batches of cached maps)"""
    top, (h, y) = maps()  # before the seeds: the first call draws random numbers
    seed_everything(seed)
    order = torch.Generator().manual_seed(seed)
    mine = torch.randperm(len(y["train"]), generator=order)[:labels]
    h, y = h["train"][mine], y["train"][mine]
    model = Model(standardised(copy.deepcopy(top), h), LinearHead(512, K))
    return model, Batches(h, y, BATCH[labels], order)


def terms_of(loss, weight, model, seed):
    """-> (what fit needs of this loss, a module with parameters of its own or None)"""
    directions = losses.simplex_prototypes(K, 512)

    def cosine_loss(z, y):
        return losses.cosine_prototype(z, y, directions)

    def contrastive(z, y):
        return losses.supervised_contrastive(z, y, temperature=TEMPERATURE)

    if loss in ("cosface", "arcface"):
        margin_loss = getattr(losses, loss)
        model.head = CosineHead(512, K)

        def replaced(z, y):
            return margin_loss(z, y, model.head.weight, scale=SCALE, margin=weight)

        return {"task_loss": None, "feature_loss": replaced}, None
    kinds = {"cosine": cosine_loss, "center": losses.CenterLoss(K, 512), "contrastive": contrastive}
    name, _, balancer = loss.removeprefix("+ ").partition(", ")
    if name not in kinds:
        return {}, None
    balancers = {
        "": losses.fixed_weight(weight),
        "gradient ratio": losses.gradient_norm_ratio(last_weight(model)),
        "uncertainty": losses.UncertaintyWeights(),
        "random": losses.RandomWeights(torch.Generator().manual_seed(seed)),
    }
    combine = balancers[balancer]
    return {"feature_loss": kinds[name], "combine": combine}, combine if balancer == "uncertainty" else None


def last_weight(model):
    """Name of f's last weight: where the two gradients are measured."""
    return [name for name, p in model.named_parameters() if name.startswith("backbone") and p.ndim > 1][-1]


class CosineHead(nn.Linear):
    """z (N, D) -> cosines (N, K) with the rows of its weight: predicts for losses on angles"""

    def __init__(self, feature_dim, num_classes):
        super().__init__(feature_dim, num_classes, bias=False)

    def forward(self, z):
        return F.normalize(z, dim=1) @ F.normalize(self.weight, dim=1).T


@torch.no_grad()
def standardised(top, h):
    """f's top, maps h (N, C, H, W) of the labelled pictures -> top with its features standardised on them"""
    return nn.Sequential(top, Standardise(top(h)))


class Batches:
    """Cached maps h and labels y in a new order each time, as fit wants them."""

    def __init__(self, h, y, size, order):
        self.h, self.y, self.batch_size, self.order = h, y, size, order

    def __len__(self):
        return -(-len(self.y) // self.batch_size)

    def __iter__(self):
        for part in torch.randperm(len(self.y), generator=self.order).split(self.batch_size):
            yield self.h[part], self.y[part]


@cache
def maps():
    """-> f above STAGE, and the maps h and labels y that leave STAGE, for train, val and test"""
    f = load_backbone("squeezenet1_1", size=SIDE)
    cells = solar_cells.load(size=SIDE, seed=0)
    parts = ("train", "val", "test")
    found = [extract(f, loader(getattr(cells, part), f.preprocess, batch_size=128), stage=STAGE) for part in parts]
    h, y = (dict(zip(parts, columns, strict=True)) for columns in zip(*found, strict=True))
    return nn.Sequential(f.stage4, f.pool), (h, y)


@torch.inference_mode()
def accuracy(model, part):
    """-> share of right answers on "val" or "test", in [0, 1]"""
    _, (h, y) = maps()
    logits = model.eval()(h[part])  # (N, K)
    return (logits.argmax(1) == y[part]).double().mean().item()
