"""How many labels is pretraining worth? Six ways to learn from 10 to 1,000 labelled solar cells, each tuned.

Every way ends in a linear g; what differs is what g reads, and whether that is trained (SqueezeNet 1.1, 96 pixels):

brightness            11 numbers of a picture: mean, deviation and nine quantiles of its grey values
pixels                the picture itself, 32 x 32 grey values (means of 3 x 3)
random f, frozen      z of a network with random weights, other ones for each seed
pretrained f, frozen  z of the network as it came from ImageNet
from scratch          f starts random, f and g are trained
fine-tuned            f starts pretrained, f and g are trained

Where f is frozen, g is a logistic regression on features computed once. f and g are trained with Adam, mirrored and
turned pictures, and a number of steps fixed for each number of labels. What is not pretrained gets centred and scaled
pictures, since no preprocessing belongs to random weights.

A seed decides which training pictures are labelled: stratified, and nested, so that the 10 are among the 30. One split
of the data serves all seeds. The penalty l2 or the learning rate is chosen for each way and number of labels by
balanced accuracy on the 222 validation pictures (accuracy would choose the constant answer where labels are few),
averaged over tuning seeds that are not used again; a learning rate is chosen with 100 labels for 10 to 100, with 300
for 300 and 1,000. The 334 test pictures are looked at once a row. The task "cell_type" (mono- or polycrystalline, same
pictures) is a second opinion: the frozen ways, and training from scratch up to 100 labels at the rate for defects.
"""

import time
from functools import cache

import torch
import torch.nn.functional as F

from sftlib.backbones import load_backbone
from sftlib.datasets import augment, loader, solar_cells
from sftlib.features import extract, linear_probe
from sftlib.metrics import balanced_accuracy, confusion_matrix
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import fit

SEEDS = range(5)
SIDE, K = 96, 2  # pixels, classes
LABELS = (10, 30, 100, 300, 1000)
FROZEN = ("brightness", "pixels", "random f, frozen", "pretrained f, frozen")
TRAINED = ("from scratch", "fine-tuned")
STEPS = {10: 60, 30: 60, 100: 120, 300: 120, 1000: 160}
BATCH = {10: 10, 30: 15, 100: 16, 300: 32, 1000: 32}  # pictures a step
L2 = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
RATES = {"from scratch": (3e-4, 1e-3, 3e-3), "fine-tuned": (1e-4, 3e-4, 1e-3)}
PROBE_TUNING = (1001, 1002, 1003, 1004)
TUNED_AT = {10: 100, 30: 100, 100: 100, 300: 300, 1000: 300}  # labels -> labels with which its rate is chosen
TUNING_SEEDS = {100: (1001, 1002), 300: (1001,)}
TURNS = augment.Chain((augment.flip, augment.rotate))
FORWARD = Precision(torch.float32, channels_last=True)
TRAINING = Precision(torch.bfloat16, channels_last=True)


def settings():
    """Tasks x ways x numbers of labels; for the cell type, nothing is fine-tuned and little trained."""
    defect = [("defect", way, n) for way in FROZEN + TRAINED for n in LABELS]
    second = [("cell_type", way, n) for way in FROZEN for n in LABELS]
    second += [("cell_type", "from scratch", n) for n in LABELS if n <= 100]
    return [{"task": task, "method": way, "labels": n} for task, way, n in defect + second]


def run(setting, seed):
    """One row: the choice, accuracies in [0, 1], and the seconds of one processor core from pictures to g."""
    task, way, n = setting["task"], setting["method"], setting["labels"]
    knob = choose(task, way, n) if way in FROZEN else choose("defect", way, TUNED_AT[n])
    predict, cpu_s = learn(task, way, n, knob, seed)
    val, _ = scores(predict("val"), truth(task, "val"))
    test, balanced = scores(predict("test"), truth(task, "test"))
    return {"knob": knob, "val": val, "test": test, "balanced": balanced, "cpu_s": round(cpu_s, 2)}


@cache
def choose(task, way, n):
    """-> l2 or learning rate with the best mean balanced accuracy on the validation pictures; the first of equals"""
    seeds = PROBE_TUNING if way in FROZEN else TUNING_SEEDS[n]

    def score(knob):
        try:
            found = [learn(task, way, n, knob, seed)[0]("val") for seed in seeds]
        except FloatingPointError:  # the rate is too high
            return 0.0
        return sum(scores(predicted, truth(task, "val"))[1] for predicted in found)

    return max(L2 if way in FROZEN else RATES[way], key=score)


def learn(task, way, n, knob, seed):
    """-> (function: name of a split -> predicted classes (N,), seconds of one core)"""
    return (probe if way in FROZEN else train)(task, way, n, knob, seed)


def labelled(y, n, seed):
    """labels y (N,) -> n rows: the classes in y's own shares; those of a smaller n are among those of a larger"""
    generator, parts = torch.Generator().manual_seed(seed), []
    for k in range(K):
        members = (y == k).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        parts.append(order[: round(n * len(members) / len(y))])
    return torch.cat(parts)


def probe(task, way, n, l2, seed):
    """g by logistic regression on features computed once"""
    z, s_per_picture = features(way, seed if way == "random f, frozen" else 0)
    rows = labelled(truth(task, "train"), n, seed)
    start = time.process_time()
    head = linear_probe(z["train"][rows], truth(task, "train")[rows], num_classes=K, l2=l2)
    cpu_s = time.process_time() - start + n * s_per_picture
    return lambda part: head(z[part]).argmax(1), cpu_s


@cache
def features(way, seed):
    """-> ({split: (N, D)}, seconds of one core a picture)"""
    start, cells = time.process_time(), pictures()
    z = {part: measure(getattr(cells, part), way, seed) for part in ("train", "val", "test")}
    return z, (time.process_time() - start) / sum(len(y) for y in z.values())


def measure(split, way, seed):
    """split of N pictures -> what g reads (N, D)"""
    grey = split.pictures[:, :1].float()  # (N, 1, H, W)
    if way == "pixels":
        return F.interpolate(grey, size=(32, 32), mode="area").flatten(1)
    if way == "brightness":
        grey = grey.flatten(1)
        marks = torch.tensor([0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1])
        return torch.cat([grey.mean(1)[:, None], grey.std(1)[:, None], grey.quantile(marks, dim=1).T], dim=1)
    f, prepare = network(way, seed)
    return extract(FORWARD.place(f), loader(split, prepare, batch_size=128), precision=FORWARD)[0]


def network(way, seed):
    """-> (f, what turns pictures uint8 (N, 3, H, W) into its x)"""
    pretrained = way in ("pretrained f, frozen", "fine-tuned")
    seed_everything(seed)
    f = load_backbone("squeezenet1_1", size=SIDE, pretrained=pretrained)
    mean, deviation = grey_values()
    return f, f.preprocess if pretrained else lambda p: (p.float() - mean) / deviation


def train(task, way, n, lr, seed):
    """f and g by Adam"""
    f, prepare = network(way, seed)
    model = Model(f, LinearHead(f.feature_dim, K))
    rows = labelled(truth(task, "train"), n, seed)
    split = solar_cells.load(task=task, size=SIDE).train.subset(rows)
    order = torch.Generator().manual_seed(seed)
    how = {"batch_size": BATCH[n], "shuffle": True, "drop_last": True, "generator": order}
    batches = loader(split, prepare, augment=TURNS, **how)
    epochs = -(-STEPS[n] // len(batches))
    schedule = warmup_cosine(epochs * len(batches), warmup=10)
    start = time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in fit(model, batches, optimizer, epochs=epochs, schedule=schedule, precision=TRAINING):
        pass
    cpu_s = time.process_time() - start
    return lambda part: answers(model, part, prepare), cpu_s


@torch.inference_mode()
def answers(model, part, prepare):
    """-> predicted classes (N,), in float32"""
    batches = loader(getattr(pictures(), part), prepare, batch_size=128)
    return torch.cat([model.eval()(FORWARD.place(x)).argmax(1) for x, _ in batches])


def scores(predicted, y):
    """predicted, y (N,) -> accuracy, balanced accuracy"""
    counts = confusion_matrix(predicted, y, K)
    return round((counts.diagonal().sum() / counts.sum()).item(), 4), round(balanced_accuracy(counts), 4)


@cache
def pictures():
    """The split of the data that serves all."""
    return solar_cells.load(size=SIDE, seed=0)


@cache
def truth(task, part):
    """-> labels (N,)"""
    split = getattr(pictures(), part)
    return split.labels if task == "defect" else split.types


@cache
def grey_values():
    """-> mean and deviation of all grey values of the training pictures"""
    grey = pictures().train.pictures[:, 0].float()
    return grey.mean().item(), grey.std().item()
