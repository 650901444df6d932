"""How much of f to train for street scenes? Frozen, its top, all of it, from scratch: a hundred steps, five seeds.

DeepLab v3 on SqueezeNet 1.1, joined with stage1, pictures drawn at 160 x 120, 80 of them to learn from, 10 passes in
batches of 8 with flips and crops. Each seed has its own pictures, order and first weights; settings of one seed share
them. From scratch: all of it, from random weights. Of the rates of f that `segmentation_rates` tried on other pictures,
the middle one. The test pictures are looked at once. `road_boundary` is the boundary IoU of the road, 3 pixels wide.
`memory_mb`: what a batch keeps for the backward pass, and parameters, their gradients and AdamW's two moments. Products
are in bfloat16.
"""

import time
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Generator

from sftlib.adaptation import freeze, param_groups, train_only
from sftlib.backbones import load_backbone
from sftlib.datasets import nest_loader, street_scenes
from sftlib.datasets.scene_augment import SceneChain, SceneCrop, flip
from sftlib.datasets.scenes import ForSegmentation
from sftlib.metrics import BoundaryIoU, MeanIoU
from sftlib.model.segmentation import AuxiliaryLoss, fitting_rates, segmenter
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import evaluate, fit

SEEDS = range(5)
SIZE, NUMBERS, EPOCHS, BATCH = (160, 120), (80, 20, 60), 10, 8
K, ROAD, IGNORED, WIDE = 11, 3, 255, 3
LR_G, DECAY = 1e-3, 1e-4
LR_F = {"frozen": 0.0, "top": 3e-4, "full": 3e-4, "scratch": 1e-3}  # see segmentation_rates
PRECISION = Precision(torch.bfloat16, channels_last=True)


def settings():
    """The strategies."""
    return [{"strategy": strategy} for strategy in LR_F]


def run(setting, seed, variant=""):
    """One row: IoU on the test pictures in [0, 1], and what it cost on one thread; `variant`: see segmentation_parts"""
    data(seed)  # drawn before the clock runs
    started = time.process_time()
    model, memory = trained(setting["strategy"], LR_F[setting["strategy"]], seed, variant)
    cpu_s = time.process_time() - started
    found = measured(model, data(seed).test)
    return {**found, "memory_mb": round(memory / 2**20, 1), "cpu_s": round(cpu_s, 1)}


@cache
def data(seed):
    """The streets of a seed"""
    return street_scenes.load(size=SIZE, seed=seed, numbers=NUMBERS)


def trained(strategy, lr_f, seed, variant=""):
    """-> (model after all passes, bytes that training it keeps)"""
    model = build(strategy, seed, variant)
    f = model.backbone
    auxiliary = AuxiliaryLoss(f.auxiliary_dim, K)
    weight = class_weights(data(seed).train) if variant == "class weights" else None
    groups = {"g": (model.head, LR_G)}
    if strategy != "frozen":
        groups |= {"f": (f, lr_f)}
    how = {"task_loss": partial(F.cross_entropy, ignore_index=IGNORED, weight=weight), "metric": None,
           "terms": partial(counted, weight=weight)}  # fmt: skip
    if variant != "no auxiliary loss" and strategy != "frozen":  # with f frozen it would train its own head alone
        groups |= {"auxiliary": (auxiliary, LR_G)}
        how |= {"feature_loss": auxiliary, "feature_weight": 0.5}
    optimizer = torch.optim.AdamW(param_groups(**groups), weight_decay=DECAY)
    make = ForSegmentation(f.preprocess.normalise, SceneChain((SceneCrop(), flip)))
    order = Generator().manual_seed(seed)
    batches = nest_loader(data(seed).train, make, batch_size=BATCH, shuffle=True, drop_last=True, generator=order)
    steps = EPOCHS * len(batches)
    schedule = warmup_cosine(steps, warmup=steps // 10)
    memory = kept(model, how.get("feature_loss"), groups, next(iter(batches)))
    order.manual_seed(seed)
    for _ in fit(model, batches, optimizer, epochs=EPOCHS, schedule=schedule, precision=PRECISION, **how):
        pass
    return model, memory


def build(strategy, seed, variant=""):
    """The model before training"""
    seed_everything(seed)
    f = load_backbone("squeezenet1_1", pretrained=strategy != "scratch")
    h = f.lower(torch.zeros(1, 3, SIZE[1], SIZE[0]), "stage4")
    rates = (12, 24, 36) if variant == "rates 12 24 36" else fitting_rates(*h.shape[-2:])
    model = segmenter(f, K, rates=rates, early=None if variant == "no early map" else "stage1")
    if strategy == "frozen":
        freeze(model.backbone)
    elif strategy == "top":
        train_only(model.backbone, model.backbone.body.stage3, model.backbone.body.stage4)
    return model


def class_weights(split):
    """split -> (K,): the median of the classes' pixels over each one's, at most 10 (Eigen and Fergus 2015)"""
    pixels = torch.stack([split[i][1]["class_map"] for i in range(len(split))]).flatten().bincount(minlength=256)[:K]
    return (pixels.double().median() / pixels.clamp(min=1)).clamp(max=10).float()


def counted(y, weight=None):
    """y (N, H, W) -> what the mean of cross-entropy is divided by: pixels that count, or the sum of their weights"""
    valid = y[y != IGNORED]
    return len(valid) if weight is None else weight[valid].sum().item()


def kept(model, auxiliary, groups, batch):
    """-> bytes: what autograd keeps for this batch, each storage once; parameters, gradients, two moments"""
    (x, y), storages = batch, {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    model = PRECISION.place(model).train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), PRECISION.autocast("cpu"):
        z, output = model.cut(PRECISION.place(x))
        loss = F.cross_entropy(output.float(), y, ignore_index=IGNORED)
        loss = loss if auxiliary is None else loss + 0.5 * auxiliary(z, y)
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    trains = sum(
        p.numel() * p.element_size() for part, _ in groups.values() for p in part.parameters() if p.requires_grad
    )
    del loss
    return sum(storages.values()) + own + 3 * trains


def measured(model, split):
    """-> IoU over all pictures of a split: mean over classes, road, its boundary, people; pixel accuracy"""
    batches = nest_loader(split, ForSegmentation(model.backbone.preprocess.normalise), batch_size=10)
    found = evaluate(model, batches, task_loss=None, metric=partial(MeanIoU, K), precision=PRECISION)
    boundary = evaluate(model, batches, task_loss=None, metric=partial(BoundaryIoU, K, WIDE), precision=PRECISION)
    values = {"mean_iou": found["mean_iou"], "pixel_accuracy": found["pixel_accuracy"], "road": found["iou"][ROAD],
              "pedestrian": found["iou"][9], "road_boundary": boundary["boundary_iou"][ROAD]}  # fmt: skip
    return {name: round(value, 4) for name, value in values.items()}
