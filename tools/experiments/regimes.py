"""Freeze or fine-tune? Nineteen rows of regimes on mono solar cells, judged on mono, on poly and on corrupted pictures.

One protocol. f is SqueezeNet 1.1 at 96 pixels, g is linear; products in bfloat16, channels last, one thread. Only mono
cells with a certain label are trained on: each seed draws its own 400 of the 495 in the training part, its first
weights of g and its order of the batches. Adam without decay, 6 epochs of 25 batches, the first a warm-up, then half a
cosine; no augmentation, so that whatever lies below the lowest trained stage is computed once. g starts at random,
except where the start is the point (LP-FT, and what is interpolated from it). The probe is a logistic regression and
nothing else.

Each regime has its own learning rate (the probe: its own l2; the interpolation: its own alpha), chosen by cross-entropy
on the 180 validation mono cells with a tuning seed that is not used again. Two rates a decade: from a first guess the
choice climbs until both neighbours are worse. Then each seed trains once, and the test pictures are looked at once: 226
mono cells, 661 poly cells (every second one with a certain label; none was trained or tuned on), and 113 of the mono
cells under five corruptions at two strengths each.

Columns: accuracy, balanced accuracy, expected calibration error and counts of each; balanced accuracy of each kind of
corruption; `trained` parameters; `cpu_s`, processor seconds of one thread for training, maps below the cut included;
`memory_mb`, what a step on 16 pictures keeps for the backward pass beside the weights, plus gradients and Adam's two
moments, at the end of training.
"""

import copy
import time
from functools import cache, lru_cache

import torch
import torch.nn.functional as F

from sftlib import adaptation, metrics
from sftlib.adaptation import blocks, geometric_rates, gradual, interpolate, param_groups, train_only
from sftlib.backbones import load_backbone
from sftlib.datasets import loader, solar_cells
from sftlib.datasets.corruptions import CORRUPTIONS, corrupted
from sftlib.features import Cached, extract, linear_probe, upper_part
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import Objective, fit, forward

SEEDS = range(5)
TUNING_SEED = 1001
SIDE, FRACTIONS, LABELLED, K = 96, (0.55, 0.20, 0.25), 400, 2  # pixels; train, val, test; training pictures a seed
EPOCHS, BATCH, STEPS = 6, 16, 25  # steps an epoch
PRECISION = Precision(torch.bfloat16, channels_last=True)  # the same on every machine, fast or slow
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
STRENGTHS = (1, 3)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
L2 = (1e-3, 1e-2, 1e-1, 1.0)
ALPHAS = tuple(i / 10 for i in range(11))
MEGABYTE = 1e6

GUESS = {  # regime -> the rate where the climb starts
    "full": 3e-4,
    "LP-FT": 1e-3,
    "gradual": 1e-3,
    "discriminative": 1e-3,
    "layer-wise decay": 1e-3,
    "above stem": 3e-4,
    "above stage1": 3e-4,
    "above stage2": 1e-3,
    "above stage3": 1e-3,
    "head only": 1e-2,
    "stem alone": 3e-3,
    "stage2 alone": 1e-3,
    "biases": 1e-2,
    "LoRA": 3e-3,
    "from scratch": 1e-3,
}
ROWS = ("probe", "full", "LP-FT", "interpolation", "interpolation 0.25", "interpolation 0.5", "interpolation 0.75",
        *[name for name in GUESS if name not in ("full", "LP-FT")])  # fmt: skip


def settings():
    """One regime each; what shares a trained model stands together."""
    return [{"regime": name} for name in ROWS]


def run(setting, seed):
    """One row: what the regime reaches at its own rate, and what it costs."""
    torch.set_num_threads(1)
    regime = setting["regime"]
    if regime == "probe":
        chosen, trained = {"l2": choose_l2()}, probe(choose_l2(), seed)
    elif regime.startswith("interpolation"):
        trained, alpha = interpolated(regime, seed)
        chosen = {"lr": choose("LP-FT"), "l2": choose_l2(), "alpha": alpha}
    else:
        chosen, trained = {"lr": choose(regime)}, train(regime, choose(regime), seed)
        chosen |= {"l2": choose_l2()} if regime == "LP-FT" else {}
    model, cost = trained
    choice = {name: chosen.get(name, "") for name in ("lr", "l2", "alpha")}
    return {**choice, "precision": str(PRECISION), **cost, "val": round(score(model)[0], 4), **measure(model)}


# --- the regimes: what trains, and at which rate -------------------------------------------------------------------


def groups_of(regime, model, lr):
    """Freeze what the regime freezes -> the optimizer's groups"""
    f, g = model.backbone, model.head
    if regime in ("full", "LP-FT", "from scratch"):
        return param_groups(f=(f, lr), g=(g, lr))
    if regime == "gradual":  # the first epoch; `fit_gradually` adds the stages
        adaptation.freeze(f)
        return param_groups(g=(g, lr))
    if regime == "discriminative":
        return param_groups(**geometric_rates({**dict(f.named_children()), "g": g}, lr=lr, factor=2.6))
    if regime == "layer-wise decay":
        return param_groups(**geometric_rates({**blocks(f), "g": g}, lr=lr, factor=1 / 0.75))
    if regime == "biases":
        adaptation.train_biases_only(f)
    elif regime == "LoRA":
        adaptation.wrap_lora(f, rank=8, alpha=8)
    elif regime == "head only":
        adaptation.freeze(f)
        return param_groups(g=(g, lr))
    else:
        train_only(f, *[getattr(f, stage) for stage in trained_stages(regime)])
    return param_groups(f=(f, lr), g=(g, lr))


def trained_stages(regime):
    """ "above stage2" -> ("stage3", "stage4"); "stem alone" -> ("stem",)"""
    if regime.endswith(" alone"):
        return (regime.removesuffix(" alone"),)
    return STAGES[STAGES.index(regime.removeprefix("above ")) + 1 :]


def probe(l2, seed):
    """-> (f as it came with the logistic regression's head, its cost)"""
    started = time.process_time()
    f, pictures = load_backbone("squeezenet1_1", size=SIDE), training_pictures(seed)
    z, y = extract(f, loader(pictures, f.preprocess, batch_size=128), precision=PRECISION)
    head = linear_probe(z, y, l2=l2, num_classes=K)
    seconds = time.process_time() - started
    nothing_kept = {"memory_mb": 0.0}  # no backward pass: a convex problem in 1,026 numbers
    return Model(f, head).eval(), {"trained": size(head.parameters()), "cpu_s": round(seconds, 1), **nothing_kept}


@lru_cache(maxsize=2)  # the interpolations ask for the model of the row before again
def train(regime, lr, seed):
    """-> (model after all epochs, its cost)"""
    model, seconds = start(regime, seed)
    order = torch.Generator().manual_seed(seed)
    started = time.process_time()
    groups = groups_of(regime, model, lr)
    part, batches = above_the_cut(regime, model, seed, order)
    optimizer = torch.optim.Adam(groups)
    steps = fit_gradually if regime == "gradual" else fit_at_once
    for _ in steps(part, batches, optimizer, lr):
        pass
    seconds += time.process_time() - started
    parameters = adaptation.trainable(model)
    memory = kept_for_backward(part, *next(iter(batches))) + 3 * 4 * size(parameters)  # gradient and two moments
    cost = {"trained": size(parameters), "cpu_s": round(seconds, 1), "memory_mb": round(memory / MEGABYTE, 2)}
    return model.eval(), cost


def start(regime, seed):
    """-> (model before training, processor seconds that its start took)"""
    pictures = training_pictures(seed)  # before the seeds: the first call reads the data
    if regime == "LP-FT":
        model, cost = probe(choose_l2(), seed)
        seed_everything(seed)
        return model, cost["cpu_s"]
    seed_everything(seed)
    f = load_backbone("squeezenet1_1", size=SIDE, pretrained=regime != "from scratch")
    assert len(pictures) == STEPS * BATCH
    return Model(f, LinearHead(f.feature_dim, K)), 0.0


def above_the_cut(regime, model, seed, order):
    """-> (what is trained, its batches): pictures, or maps from below the lowest trained stage, computed once"""
    f, pictures, below = model.backbone, training_pictures(seed), cut_of(regime)
    if below is None:
        return model, loader(pictures, f.preprocess, batch_size=BATCH, shuffle=True, generator=order)
    h, y = extract(f, loader(pictures, f.preprocess, batch_size=128), stage=below, precision=PRECISION)
    return upper_part(model, below), Cached(features=h, labels=y, batch_size=BATCH, shuffle=True, generator=order)


def cut_of(regime):
    """-> the stage up to which nothing ever trains; None where the stem does"""
    if regime == "head only":
        return "pool"
    if regime.startswith("above ") or regime.endswith(" alone"):
        lowest = STAGES.index(trained_stages(regime)[0])
        return STAGES[lowest - 1] if lowest else None
    return None


def fit_at_once(model, batches, optimizer, lr):
    """All epochs -> records of `fit`"""
    schedule = warmup_cosine(EPOCHS * STEPS, warmup=STEPS)
    return fit(model, batches, optimizer, epochs=EPOCHS, schedule=schedule, precision=PRECISION)


def fit_gradually(model, batches, optimizer, lr):
    """One stage more each epoch, from the top -> records of `fit`"""
    schedule, training = warmup_cosine(EPOCHS * STEPS, warmup=STEPS), set()
    for epoch in range(1, EPOCHS + 1):
        for stage in set(gradual(STAGES, epoch)) - training:
            part = adaptation.unfreeze(getattr(model.backbone, stage))
            adaptation.add_group(optimizer, **{stage: (part, lr)})
            training.add(stage)
        yield from fit(model, batches, optimizer, epochs=epoch, first_epoch=epoch, schedule=schedule,
                       precision=PRECISION)  # fmt: skip


def interpolated(regime, seed):
    """-> ((model between LP-FT's start, a = 0, and its end, a = 1; its cost), a)"""
    (end, cost), (first, _) = train("LP-FT", choose("LP-FT"), seed), start("LP-FT", seed)
    theta0, theta1 = first.state_dict(), end.state_dict()
    between = copy.deepcopy(end)

    def at(a):
        between.load_state_dict(interpolate(theta0, theta1, a))
        return between

    fixed = regime.removeprefix("interpolation").strip()
    alpha = float(fixed) if fixed else min(ALPHAS, key=lambda a: score(at(a))[1])
    return (at(alpha), cost), alpha


# --- choices on validation -----------------------------------------------------------------------------------------


@cache
def choose(regime):
    """-> the learning rate: from the guess up or down while the loss on validation falls"""

    @cache
    def loss(i):
        try:
            return score(train(regime, RATES[i], TUNING_SEED)[0])[1]
        except FloatingPointError:  # the rate is too high for this regime
            return float("inf")

    best = RATES.index(GUESS[regime])
    while better := [i for i in (best - 1, best + 1) if 0 <= i < len(RATES) and loss(i) < loss(best)]:
        best = min(better, key=loss)
    return RATES[best]


@cache
def choose_l2():
    """-> the probe's l2, of four"""
    return min(L2, key=lambda l2: score(probe(l2, TUNING_SEED)[0])[1])


def score(model):
    """-> (accuracy, cross-entropy in nats) on validation"""
    logits, y = predict(model, mono().val)
    return (logits.argmax(1) == y).double().mean().item(), F.cross_entropy(logits, y).item()


# --- what is measured ----------------------------------------------------------------------------------------------


def measure(model):
    """-> the columns of the three test sets, and the balanced accuracy under each corruption"""
    logits = {"mono": predict(model, mono().test), "poly": predict(model, poly())}
    each = {kind: [predict(model, split) for split in splits] for kind, splits in corruptions().items()}
    logits["corrupted"] = joined(pair for pairs in each.values() for pair in pairs)
    columns = {}
    for part, pair in logits.items():
        columns |= {f"{part}_{name}": value for name, value in judge(*pair).items()}
    return columns | {kind: judge(*joined(pairs))["balanced"] for kind, pairs in each.items()}


def judge(logits, y):
    """logits (N, 2), y (N,) -> accuracy, balanced accuracy, calibration error in [0, 1]; counts"""
    table = metrics.confusion_matrix(logits.argmax(1), y, K)
    (tn, fp), (fn, tp) = table.tolist()
    values = {
        "accuracy": (tn + tp) / len(y),
        "balanced": metrics.balanced_accuracy(table),
        "ece": metrics.expected_calibration_error(logits.softmax(1), y),
    }
    return {name: round(value, 4) for name, value in values.items()} | {"tn": tn, "fp": fp, "fn": fn, "tp": tp}


def joined(pairs):
    """pairs of (logits, y) -> one pair"""
    return tuple(torch.cat(column) for column in zip(*pairs, strict=True))


@torch.inference_mode()
def predict(model, split):
    """-> logits (N, 2), labels (N,)"""
    model.eval()
    outputs = []
    for x, _ in loader(split, model.backbone.preprocess, batch_size=128):
        with PRECISION.autocast("cpu"):
            outputs.append(model(PRECISION.place(x)).float())
    return torch.cat(outputs), split.labels


def kept_for_backward(model, x, y):
    """One batch -> bytes that the backward pass will need beside the weights, each storage once"""
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()  # the tensor too: a freed address is given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(model.train(), PRECISION.place(x), y, Objective(), PRECISION)
    return sum(nbytes for _, nbytes in kept.values())


def size(parameters):
    """-> numbers in them"""
    return sum(p.numel() for p in parameters)


# --- the pictures --------------------------------------------------------------------------------------------------


@cache
def mono():
    """The split that everything is trained, tuned and first tested on."""
    return solar_cells.load(size=SIDE, seed=0, fractions=FRACTIONS, types=("mono",))


@cache
def poly():
    """Every second poly cell with a certain label, as one split."""
    return every_second(solar_cells.load(size=SIDE, seed=0, fractions=(1, 0, 0), types=("poly",)).train)


@cache
def corruptions():
    """kind -> half of the mono test pictures under it, one split a strength"""
    clean = every_second(mono().test)
    return {kind: [corrupted(clean, f, s) for s in STRENGTHS] for kind, f in CORRUPTIONS.items()}


def every_second(split):
    """N pictures -> half of them, since looking costs as much as training"""
    return split.subset(torch.arange(0, len(split), 2))


@cache
def training_pictures(seed):
    """The 400 of this seed, in an order of its own."""
    rows = torch.randperm(len(mono().train), generator=torch.Generator().manual_seed(seed))[:LABELLED]
    return mono().train.subset(rows)
