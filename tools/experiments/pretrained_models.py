"""Which pretrained model? Seven candidates on three tasks: twelve scores before training, and the truth after it.

Tasks: defects and cell type of the solar cells, and the outline of drawn shapes (read by image_folder). Pictures of 64
pixels, 200 of them labelled: each seed draws its own from one training split, so scores and truth both vary by seed.

Candidates: SqueezeNet and EfficientNet-Lite0, 1, 2 with their ImageNet weights; SqueezeNet and Lite0 with random
weights (a new draw each seed); and SqueezeNet trained further by us on *another task* of this course (800 cells, 3
epochs, seed 0): on cell type where the target is defects, on defects where it is cell type or shapes.

f is cut after stage3: the stages up to there stay as they came, so their maps are computed once, and the last stage
(stage4) is trained together with g.

Truth 1, `test`: fine-tuning stage4 and g (AdamW, one rate for both, batches of 25, 8 epochs, BatchNorm of stage4 in
train mode, no augmentation). The rate of each candidate on each task is the one of RATES with the best validation
accuracy in a run whose seed is not used again. Truth 2, `probe_test`: all of f frozen, logistic regression, its l2
chosen in the same way. The test pictures are looked at once a row.

Scores see the 200 labelled pictures only. Where a score is not defined, what is done is this: ImageNet top-1 of random
weights is 1/1000, and of the network trained further that of the weights it began with; LEEP and NCE use its own head
with two classes, and for random weights a head that says the same of every picture.

Seconds are CPU time of one process; run it with one thread (OMP_NUM_THREADS=1).
"""

import time
from functools import cache, lru_cache

import torch
from torch import nn

from sftlib import selection
from sftlib.adaptation import param_groups
from sftlib.backbones import BACKBONES, load_backbone
from sftlib.datasets import drawn_shapes, image_folder, loader, solar_cells
from sftlib.features import Cached, extract, linear_probe, upper_part
from sftlib.model import LinearHead, Model
from sftlib.runtime import CANDIDATES, cache_folder, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import evaluate, fit

SEEDS = range(3)
SIDE, LABELS, STAGE = 64, 200, "stage3"  # pixels; labelled pictures; f up to here is frozen
EPOCHS, BATCH = 8, 25  # 64 steps
RATES = {"squeezenet1_1": (3e-4, 1e-3, 3e-3)}  # of AdamW
RATES |= dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), (1e-3, 3e-3))
L2 = (1e-2, 1e-1, 1.0, 10.0)
TUNING_SEED = 1001
TASKS = ("defect", "cell_type", "shapes")
CANDIDATE = {  # name -> (network, kind of weights)
    "SqueezeNet": ("squeezenet1_1", "imagenet"),
    "Lite0": ("efficientnet_lite0", "imagenet"),
    "Lite1": ("efficientnet_lite1", "imagenet"),
    "Lite2": ("efficientnet_lite2", "imagenet"),
    "SqueezeNet, other task": ("squeezenet1_1", "other task"),
    "SqueezeNet, random": ("squeezenet1_1", "random"),
    "Lite0, random": ("efficientnet_lite0", "random"),
}
OTHER_TASK = {"defect": "cell_type", "cell_type": "defect", "shapes": "defect"}
OTHER = {"pictures": 800, "epochs": 3, "lr": 3e-4, "seed": 0}
PRECISION = CANDIDATES[1]  # float32, channels last


def settings():
    """Tasks x candidates."""
    return [{"task": task, "candidate": name} for task in TASKS for name in CANDIDATE]


def run(setting, seed):
    """One row: the choices, the two truths (accuracies in [0, 1]), the scores, and CPU seconds of each score."""
    task, name = setting["task"], setting["candidate"]
    lr, l2 = choose_rate(task, name), choose_l2(task, name)
    began = time.process_time()
    model = train(task, name, lr, seed)
    row = {"lr": lr, "l2": l2, "train_s": round(time.process_time() - began, 1)}
    row |= {part: round(measure(model, task, name, seed, part)[0], 4) for part in ("val", "test")}
    row["probe_test"] = round(probe(task, name, l2, seed, "test"), 4)
    return row | scores(task, name, seed)


# ------------------------------------------------------------------------------------------- tasks and candidates


@cache
def data(task):
    """-> Splits of pictures of SIDE pixels"""
    if task == "shapes":
        return image_folder.load(drawn_shapes.folder(), size=SIDE)
    return solar_cells.load(task=task, size=SIDE, seed=0)


def labelled(task, seed):
    """-> the seed's LABELS pictures of the training split"""
    rows = torch.randperm(len(data(task).train), generator=torch.Generator().manual_seed(seed))[:LABELS]
    return data(task).train.subset(rows)


def backbone(task, name, seed):
    """-> f of a candidate; seeds everything, since random weights are drawn here"""
    network, weights = CANDIDATE[name]
    f = load_backbone(network, pretrained=weights != "random", size=SIDE)  # before the seed: the first call draws
    seed_everything(seed)
    if weights == "random":
        f = load_backbone(network, pretrained=False, size=SIDE)
    if weights == "other task":
        f.load_state_dict(other_task(OTHER_TASK[task])["f"])
    return f


@cache
def other_task(source):
    """-> states of f and g of SqueezeNet after training on the task called source; kept in the cache folder"""
    path = cache_folder() / f"squeezenet_{source}_{SIDE}_{'_'.join(map(str, OTHER.values()))}.pt"
    if not path.exists():
        f = load_backbone("squeezenet1_1", size=SIDE)
        seed_everything(OTHER["seed"])
        split = data(source).train
        model = Model(f, LinearHead(f.feature_dim, len(data(source).classes)))
        some = slice(OTHER["pictures"])
        learn(
            model, (f.preprocess(split.pictures[some]), split.labels[some]), OTHER["lr"], OTHER["epochs"], OTHER["seed"]
        )
        torch.save({"f": model.backbone.state_dict(), "g": model.head.state_dict()}, path)
    return torch.load(path, weights_only=True)


# ------------------------------------------------------------------------------------------- the truth


@cache
def choose_rate(task, name):
    """-> the learning rate with the best validation accuracy, of equals the one with the smaller loss"""

    def goodness(lr):
        try:
            right, loss = measure(train(task, name, lr, TUNING_SEED), task, name, TUNING_SEED, "val")
        except FloatingPointError:  # the rate is too high
            return 0.0, 0.0
        return right, -loss

    return max(RATES[CANDIDATE[name][0]], key=goodness)


def train(task, name, lr, seed):
    """-> Model of f's last stage and g, both trained on the maps of the seed's labelled pictures"""
    f = backbone(task, name, seed)
    model = upper_part(Model(f, LinearHead(f.feature_dim, len(data(task).classes))), STAGE)
    return learn(model, maps(task, name, seed, "labelled"), lr, EPOCHS, seed)


def learn(model, examples, lr, epochs, seed):
    """(inputs (N, …), labels (N,)) -> the model after these epochs, in eval mode"""
    x, y = examples
    order = torch.Generator().manual_seed(seed)
    batches = Cached(features=x, labels=y, batch_size=BATCH, shuffle=True, generator=order)
    optimizer = torch.optim.AdamW(param_groups(f=(model.backbone, lr), g=(model.head, lr)))
    schedule = warmup_cosine(epochs * len(batches))
    for _ in fit(model, batches, optimizer, epochs=epochs, schedule=schedule, precision=PRECISION):
        pass
    return model.eval()


def maps(task, name, seed, part):
    """-> maps h (N, C, H, W) that leave STAGE and y (N,), of "labelled", "val" or "test" """
    own = part == "labelled" or CANDIDATE[name][1] == "random"
    return _maps(task, name, seed if own else TUNING_SEED, part)


@lru_cache(maxsize=64)
def _maps(task, name, seed, part):
    split = labelled(task, seed) if part == "labelled" else getattr(data(task), part)
    return features(backbone(task, name, seed), split, STAGE)


def measure(model, task, name, seed, part):
    """model above STAGE -> accuracy in [0, 1] and loss in nats on "val" or "test" """
    h, y = maps(task, name, seed, part)
    found = evaluate(model, Cached(features=h, labels=y, batch_size=100), precision=PRECISION)
    return found["accuracy"], found["loss"]


@cache
def choose_l2(task, name):
    """-> the l2 of the probe with the best validation accuracy; the largest of equals"""
    return max(reversed(L2), key=lambda l2: probe(task, name, l2, TUNING_SEED, "val"))


@torch.inference_mode()
def probe(task, name, l2, seed, part):
    """-> accuracy in [0, 1] of a linear probe on f frozen, fitted on the seed's labelled pictures"""
    f = backbone(task, name, seed)
    (z, y), (z_new, y_new) = (
        (f.upper(h, STAGE), y) for h, y in (maps(task, name, seed, p) for p in ("labelled", part))
    )
    g = linear_probe(z, y, num_classes=len(data(task).classes), l2=l2)
    return (g(z_new).argmax(1) == y_new).double().mean().item()


def features(f, split, stage=None):
    """-> z (N, D), or the maps that leave a stage, and y (N,)"""
    batches = loader(split, f.preprocess, batch_size=100)
    return extract(PRECISION.place(f), batches, stage=stage, precision=PRECISION)


# ------------------------------------------------------------------------------------------- the scores


def scores(task, name, seed):
    """-> name -> score on the seed's labelled pictures, and name_s -> its CPU seconds; extract_s is what all share"""
    split, f = labelled(task, seed), backbone(task, name, seed)
    began = time.process_time()
    z, y = features(f, split)
    row = {"extract_s": round(time.process_time() - began, 3)}
    theta = source_probabilities(task, name, f, split)
    network, weights = CANDIDATE[name]
    top1 = 0.001 if weights == "random" else BACKBONES[network].top1
    found = {"top1": lambda z, y, theta: top1} | selection.SCORES
    for score, compute in found.items():
        began = time.process_time()
        row[score] = f"{compute(z, y, theta):.6g}"
        row[f"{score}_s"] = round(time.process_time() - began, 4)
    return row


@torch.inference_mode()
def source_probabilities(task, name, f, split):
    """-> what the candidate's own head says, (N, S); of random weights (N, 1), all 1"""
    weights = CANDIDATE[name][1]
    if weights == "random":
        return torch.ones(len(split), 1)
    if weights == "imagenet":
        return torch.cat([f.source_logits(x) for x, _ in loader(split, f.preprocess, batch_size=100)]).softmax(1)
    head = nn.Linear(f.feature_dim, len(data(OTHER_TASK[task]).classes))
    head.load_state_dict(other_task(OTHER_TASK[task])["g"])
    return head(features(f, split)[0]).softmax(1)
