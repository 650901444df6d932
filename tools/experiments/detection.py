"""Faster R-CNN for pedestrians in drawn streets: from scratch, frozen, partly, fully fine-tuned; AP, time, memory.

The network is that of notebook 13: SqueezeNet 1.1 up to stage4, a feature pyramid on the maps after stem, stage1 and
stage4, region proposals and a box head. The body of f is what comes from ImageNet; pyramid and g are always new.

from scratch   everything starts random and learns; pictures are centred and scaled, for no preprocessing belongs to
               random weights
frozen         the body stays as it came from ImageNet
partly         stem and stage1 stay, the rest of the body learns
full           everything learns

RATES says at which rates each way learns. They are those of "full", for which 1e-3 and 2e-3 of what is new were tried
(AP50 on validation pictures, one seed that is not used again, .19 and .17 after two passes); no way has rates of its
own, but that a random body learns as fast as what is new. SEEDS decide the first weights, the order and the flips;
the pictures are the same. The test pictures are looked at once a row. Every way passes over the pictures as often.
"""

import time
from functools import cache

import torch
from torch import nn

from sftlib.adaptation import freeze, param_groups, train_only, trainable
from sftlib.backbones import load_backbone
from sftlib.datasets import nest_loader, street_scenes
from sftlib.datasets.scene_augment import flip
from sftlib.datasets.scenes import ForDetection
from sftlib.metrics import AveragePrecision
from sftlib.model.detection import anchors_for, detector, sum_of_losses
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import evaluate, fit

SEEDS = range(5)
SIZE, NUMBERS = (320, 240), (120, 60, 100)  # pixels; pictures to learn from, to tune on, to test on
PASSES, BATCH = 3, 2  # over the pictures; pictures a step
LEVELS = ("stem", "stage1", "stage4")
WAYS = ("from scratch", "frozen", "partly", "full")
RATES = dict.fromkeys(WAYS, (1e-3, 3e-4))  # of what is new, of the body
RATES |= {"from scratch": (1e-3, 1e-3), "frozen": (1e-3, 0.0)}
PRECISION = Precision(torch.bfloat16, channels_last=True)
MEGABYTE = 2**20


def settings():
    """The ways."""
    return [{"way": way} for way in WAYS]


def run(setting, seed):
    """One row: rates, AP in [0, 1] on the test pictures, seconds of one core, memory of a step."""
    way = setting["way"]
    model, cost = train(way, seed)
    lr, lr_body = RATES[way]
    return {"lr": lr, "lr_body": lr_body, **measure(model, way, streets().test), **cost}


def scaled(pictures):
    """uint8 (N, 3, H, W) -> about -2 to 2: for networks that come with no preprocessing of their own"""
    return (pictures.float() - 114) / 60


def normalise_of(way, body):
    """What turns pictures into the x of this way's body"""
    return scaled if way == "from scratch" else body.preprocess.normalise


def build(way, rates=None):
    """-> a detector of which the right parts are frozen, its groups of parameters"""
    lr, lr_body = rates or RATES[way]
    body = load_backbone("squeezenet1_1", pretrained=way != "from scratch")
    anchors, ratios = the_anchors()
    model = detector(body, 1 + len(streets().objects[1:]), stages=LEVELS, anchors=anchors, ratios=ratios)
    if way == "frozen":
        freeze(body)
    if way == "partly":
        train_only(body, body.stage2, body.stage3, body.stage4)
    new = nn.ModuleList([model.backbone.pyramid, model.head])
    groups = {"new": (new, lr)} | ({"body": (body, lr_body)} if trainable(body) else {})
    return model, param_groups(**groups)


def train(way, seed, rates=None):
    """-> a trained detector, what that cost"""
    pictures = streets().train
    seed_everything(seed)
    model, groups = build(way, rates)
    make = ForDetection(normalise_of(way, model.backbone.body), flip)
    order = torch.Generator().manual_seed(seed)
    batches = nest_loader(pictures, make, batch_size=BATCH, shuffle=True, drop_last=True, generator=order)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    how = {"task_loss": sum_of_losses, "metric": None, "terms": None, "clip": 10.0, "precision": PRECISION}
    start = time.process_time()
    schedule = warmup_cosine(PASSES * len(batches), warmup=len(batches))
    for _ in fit(model, batches, optimizer, epochs=PASSES, schedule=schedule, **how):
        pass
    seconds = time.process_time() - start
    numbers = sum(p.numel() for p in trainable(model))
    memory = kept_for_backward(model, *next(iter(batches))) + 3 * 4 * numbers  # gradient and two moments
    return model, {"trained": numbers, "cpu_s": round(seconds, 1), "memory_mb": round(memory / MEGABYTE, 1)}


def measure(model, way, split):
    """-> {"ap", "ap50", "ap75"} of a split's pictures"""
    make = ForDetection(normalise_of(way, model.backbone.body))
    found = evaluate(model, nest_loader(split, make, batch_size=10), task_loss=None, metric=AveragePrecision,
                     precision=PRECISION)  # fmt: skip
    return {name: round(found[name], 4) for name in ("ap", "ap50", "ap75")}


def kept_for_backward(model, x, y):
    """One batch -> bytes that the backward pass will need beside the weights, each storage once"""
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()  # the tensor too: a freed address is given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), PRECISION.autocast("cpu"):
        model.train()(x)
    return sum(nbytes for _, nbytes in kept.values())


@cache
def streets():
    """The pictures of every row."""
    return street_scenes.load(size=SIZE, numbers=NUMBERS)


@cache
def the_anchors():
    """Anchors and ratios for the boxes of the training pictures"""
    split = streets().train
    return anchors_for(torch.cat([split.scene(i).boxes for i in range(len(split))]))
