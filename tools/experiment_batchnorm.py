"""BatchNorm's four modes in fine-tuning, with batches of 4 and of 32: what does the wrong one cost?

f is EfficientNet-Lite0 at 96 pixels. Up to stage3 it is frozen, BatchNorm included, in every row: so its maps are the
same whatever the mode, and are computed once. The mode is set for the 13 BatchNorms above, whose convolutions train
together with g. Solar cells, mono and poly, certain labels: each seed draws 200 of the training pictures, first weights
of g, an order. Adam, 4 epochs, cosine after a tenth of the steps.

Each mode and batch size has its own learning rate: two a decade, climbing from a guess while cross-entropy on 222
validation pictures falls, with a tuning seed that is not used again. The 334 test pictures are looked at once, in eval
mode; `own_batch` is the balanced accuracy when eval() is forgotten, normalised by their own batch of 32.
"""

import copy
from functools import cache

import torch
import torch.nn.functional as F

from sftlib import adaptation
from sftlib.backbones import load_backbone
from sftlib.datasets import loader, solar_cells
from sftlib.features import Cached, extract, upper_part
from sftlib.metrics import balanced_accuracy, confusion_matrix
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import fit

SEEDS = range(5)
TUNING_SEED = 1001
SIDE, STAGE, LABELLED, EPOCHS, K = 96, "stage3", 200, 4, 2  # pixels; the cut; pictures a seed
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
GUESS = 3e-4
PRECISION = Precision(torch.float32, channels_last=True)
MODES = {
    "batch statistics, affine trains": adaptation.train_stats_train_affine,
    "batch statistics, affine fixed": adaptation.train_stats_frozen_affine,
    "stored statistics, affine trains": adaptation.eval_stats_train_affine,
    "stored statistics, affine fixed": adaptation.eval_stats_frozen_affine,
}


def settings():
    """Modes x batch sizes."""
    return [{"mode": mode, "batch": batch} for batch in (4, 32) for mode in MODES]


def run(setting, seed):
    """One row: accuracies in [0, 1] and losses in nats at the chosen rate."""
    torch.set_num_threads(1)
    mode, batch = setting["mode"], setting["batch"]
    lr = choose(mode, batch)
    model, last = train(mode, batch, lr, seed)
    logits, y = predict(model, "test")
    careless, _ = predict(copy.deepcopy(model), "test", forgot_eval=True)
    return {
        "lr": lr,
        "train_loss": round(last, 4),
        "val_loss": round(F.cross_entropy(*predict(model, "val")).item(), 4),
        "test_loss": round(F.cross_entropy(logits, y).item(), 4),
        "accuracy": round((logits.argmax(1) == y).double().mean().item(), 4),
        "balanced": round(balanced(logits, y), 4),
        "own_batch": round(balanced(careless, y), 4),
    }


def train(mode, batch, lr, seed):
    """-> (model above the cut after training, mean loss of the last epoch)"""
    maps()  # before the seeds: the first call draws random numbers
    seed_everything(seed)
    order = torch.Generator().manual_seed(seed)
    h, y = maps()["train"]
    mine = torch.randperm(len(y), generator=order)[:LABELLED]
    model = upper_part(Model(copy.deepcopy(backbone()), LinearHead(1280, K)), STAGE)
    MODES[mode](model)
    optimizer = torch.optim.Adam(adaptation.param_groups(f=(model.backbone, lr), g=(model.head, lr)))
    batches = Cached(features=h[mine], labels=y[mine], batch_size=batch, shuffle=True, generator=order)
    steps = EPOCHS * len(batches)
    schedule = warmup_cosine(steps, warmup=steps // 10)
    records = list(fit(model, batches, optimizer, epochs=EPOCHS, schedule=schedule, precision=PRECISION))
    return model, records[-1].train["loss"]


@cache
def choose(mode, batch):
    """-> the learning rate: from the guess up or down while the loss on validation falls"""

    @cache
    def loss(i):
        try:
            model, _ = train(mode, batch, RATES[i], TUNING_SEED)
        except FloatingPointError:  # the rate is too high for this mode
            return float("inf")
        return F.cross_entropy(*predict(model, "val")).item()

    best = RATES.index(GUESS)
    while better := [i for i in (best - 1, best + 1) if 0 <= i < len(RATES) and loss(i) < loss(best)]:
        best = min(better, key=loss)
    return RATES[best]


@torch.no_grad()
def predict(model, part, forgot_eval=False):
    """-> logits (N, 2), labels (N,); batches of 32 in the order of the split, which is random"""
    model.train(forgot_eval)
    h, y = maps()[part]
    return torch.cat([model(PRECISION.place(some)) for some in h.split(32)]), y


def balanced(logits, y):
    """logits (N, 2), y (N,) -> balanced accuracy"""
    return balanced_accuracy(confusion_matrix(logits.argmax(1), y, K))


@cache
def backbone():
    """f as it came."""
    return load_backbone("efficientnet_lite0", size=SIDE)


@cache
def maps():
    """-> part: (maps h that leave STAGE, labels y)"""
    cells, f = solar_cells.load(size=SIDE, seed=0), backbone()
    parts = ("train", "val", "test")
    return {
        part: extract(f, loader(getattr(cells, part), f.preprocess, batch_size=64), stage=STAGE, precision=PRECISION)
        for part in parts
    }
