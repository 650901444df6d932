# %% [markdown]
# # 05 Freeze or fine-tune, going deeper: BatchNorm's modes, more ways to tune, other damage
#
# Notebook 05 compared three answers. Here are the details that decide whether "frozen" is frozen, the ways to tune
# between "none" and "all" with what each promises, and all seventeen regimes of the experiment, also on damaged
# pictures.
#
# Afterwards you can
#
# - compute what BatchNorm does in each of its four modes, and say what the wrong one costs;
# - write LP-FT, gradual unfreezing, LoRA and weight interpolation, and check their promises;
# - read a table of seventeen regimes and 48 comparisons.
#
# **60 minutes** to read and try, half a minute to run. You need notebook 05.

# %% tags=["setup"]
import copy

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from sftlib import adaptation, features, metrics, plotting, results
from sftlib.adaptation import (
    freeze,
    geometric_rates,
    param_groups,
    train_only,
    trainable,
)
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import corruptions, loader, solar_cells
from sftlib.model import LinearHead, Model
from sftlib.runtime import seed_everything
from sftlib.training import fit

plotting.use_style()

# %% tags=["setup"]
SEED, SEEDS = 0, range(5)  # of the live runs; of the stored table
SIDE, BATCH, L2 = 96, 16, 0.1  # pixels; L2 of the probe; as in the table
how, draw = {"size": SIDE, "seed": SEED}, torch.Generator().manual_seed(SEED)
cells = solar_cells.load(types=("mono",), fractions=(0.55, 0.20, 0.25), **how)
poly = solar_cells.load(types=("poly",), fractions=(1, 0, 0), **how).train
poly = poly.subset(torch.arange(0, len(poly), 2))  # every second one
mine = torch.randperm(len(cells.train), generator=draw)[:400]
train = cells.train.subset(mine)  # as in notebook 05
squeezenet = load_backbone("squeezenet1_1", size=SIDE)


def fresh(head=None):
    """Pretrained f and a random g, or a copy of a head"""
    f = load_backbone("squeezenet1_1", size=SIDE)
    return Model(f, copy.deepcopy(head) if head else LinearHead(512, 2))


# %% [markdown]
# ## BatchNorm has four modes, not two
#
# A BatchNorm maps each channel of h to
#
# $$\mathrm{weight}\cdot\frac{h - \mathrm{mean}}{\sqrt{\mathrm{var} + \varepsilon}} + \mathrm{bias}$$
#
# In train mode mean and var are those of the *batch*, and the stored ones follow slowly; in eval mode they are the
# *stored* ones. Apart from that, weight and bias train or do not. By hand, on the first one of EfficientNet-Lite0:

# %%
lite0 = load_backbone("efficientnet_lite0", size=64)
norm, x = copy.deepcopy(lite0.stem[1]), lite0.preprocess(train.pictures[:8])
h = lite0.stem[0](x).detach()  # (8, 32, 32, 32)


def by_hand(h, mean, var):
    unit = (h - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
    out = norm.weight[:, None, None] * unit + norm.bias[:, None, None]
    return norm.act(out).detach()  # timm's layer ends with the ReLU6


# %%
mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
stored, step = norm.running_mean.clone(), norm.momentum
in_eval = by_hand(h, stored, norm.running_var)
assert torch.allclose(norm.eval()(h), in_eval, atol=1e-4)
assert torch.allclose(norm.train()(h), by_hand(h, mean, var), atol=1e-4)
followed = (1 - step) * stored + step * mean
assert torch.allclose(norm.running_mean, followed, atol=1e-4)
print(f"one pass in train mode moved the stored mean by {step:.0%} of the way")

# %% [markdown]
# Two switches make four modes. Each is a function of `sftlib.adaptation`, here applied to Lite0 whose convolutions are
# frozen. Two training steps: what moved, and by how much did the features of the same pictures change?

# %%
MODES = {
    "batch statistics, affine trains": adaptation.train_stats_train_affine,
    "batch statistics, affine fixed": adaptation.train_stats_frozen_affine,
    "stored statistics, affine trains": adaptation.eval_stats_train_affine,
    "stored statistics, affine fixed": adaptation.eval_stats_frozen_affine,
}


def two_steps(set_mode):
    """-> names of what moved in f, relative change of z (affine: weight and bias)"""
    model = Model(freeze(copy.deepcopy(lite0)), LinearHead(1280, 2))
    f, batch = set_mode(model.backbone), (x, train.labels[:8])
    before, z = copy.deepcopy(f.state_dict()), f.eval()(x).detach()
    list(fit(model, 2 * [batch], torch.optim.SGD(trainable(model), lr=0.01), epochs=1))
    names = [n for n, v in f.state_dict().items() if not torch.equal(v, before[n])]
    return names, ((f.eval()(x).detach() - z).norm() / z.norm()).item()


# %% tags=["varies"]
seed_everything(SEED)
drift = {}
for name, set_mode in MODES.items():
    names, drift[name] = two_steps(set_mode)
    statistics = "move" if any("running" in n for n in names) else "stay"
    affine = "move" if any(n.endswith(("weight", "bias")) for n in names) else "stay"
    told = f"mean, var {statistics}; weight, bias {affine}"
    print(f"{name:<33}{told}; features changed by {drift[name]:.1%}")
assert drift["batch statistics, affine fixed"] > 0.05
assert drift["stored statistics, affine fixed"] == 0

# %% [markdown]
# Not one convolution was trained. The second line is what `requires_grad = False` alone leaves. What does it cost?
# Probes on 200 mono cells, judged on the 226 new ones. f is Lite0, untouched; only BatchNorm's mode differs:
#
# - **right**: stored statistics for the probe's features and for the test;
# - **eval() forgotten** at the test, in batches of 4, of 32, and, as control, all 226 as *one* batch, whose statistics
#   have next to no noise;
# - **half frozen**: g learns on features made in train mode, while the statistics move; the test is in eval mode.
#
# **Predict**: how many points does each mistake cost, and do larger batches mend it?


# %%
@torch.no_grad()
def features_of(f, split, batch):
    some = [f(lite0.preprocess(p)) for p in split.pictures.split(batch)]
    return torch.cat(some)


def balanced(head, z, y):
    """-> balanced accuracy: mean share found of the two classes"""
    return metrics.balanced_accuracy(metrics.confusion_matrix(head(z).argmax(1), y, 2))


def half_frozen():
    f = freeze(copy.deepcopy(lite0))
    return adaptation.train_stats_frozen_affine(f).train()


# %% tags=["varies"]
part, y_test = train.subset(torch.arange(200)), cells.test.labels
frozen = freeze(copy.deepcopy(lite0))
head = features.linear_probe(features_of(frozen, part, 50), part.labels, l2=L2)
cost = {"right": balanced(head, features_of(frozen, cells.test, 50), y_test)}
for batch in (4, 32, len(y_test)):
    z = features_of(half_frozen(), cells.test, batch)
    cost[f"eval() forgotten, batches of {batch}"] = balanced(head, z, y_test)
for batch in (4, 32):
    f = half_frozen()
    head = features.linear_probe(features_of(f, part, batch), part.labels, l2=L2)
    z = features_of(f.eval(), cells.test, 50)
    cost[f"half frozen, batches of {batch}"] = balanced(head, z, y_test)
print(*[f"{name:<33}balanced accuracy {v:.3f}" for name, v in cost.items()], sep="\n")
assert max(v for name, v in cost.items() if name != "right") < cost["right"] - 0.06

# %% [markdown]
# **Read.** Every one costs more than the choice between any two tuned regimes below, on new cells, and none says a
# word. Larger batches are no cure: with one batch of all, next to no noise is left, and the result is no better. (Half
# frozen, in steps of 10 %, 7 batches of 32 move the stored statistics half of the way, 50 batches of 4 nearly all of
# it.) The cause is another: the statistics of solar cells are not those of ImageNet, which the convolutions above (and
# the probe) were made with. So keep the *stored* statistics for learning and test alike; or let them follow, and let g
# learn and be tested on features made with those same statistics. (One probe of one draw: the sizes are rough.)
#
# ## LP-FT: start at the probe
#
# **LP-FT** (linear probe, then fine-tune; Kumar et al. 2022): g starts at the *probe's* solution instead of random
# numbers. A random g sends a random message back, and f moves to suit it. How loud is it?


# %%
def first_message(head):
    """Length of L's gradient for f, on 64 training pictures, before any step"""
    model = fresh(head)
    logits = model(squeezenet.preprocess(train.pictures[:64]))
    loss = F.cross_entropy(logits, train.labels[:64])
    gradients = torch.autograd.grad(loss, list(model.backbone.parameters()))
    return torch.cat([g.flatten() for g in gradients]).norm().item()


# %% tags=["varies"]
z, y = features.extract(squeezenet, loader(train, squeezenet.preprocess))
best = features.linear_probe(z, y, l2=L2)
seed_everything(SEED)
heads = [LinearHead(512, 2) for _ in range(3)]
loud, quiet = [first_message(head) for head in heads], first_message(best)
print("random g:", ", ".join(f"{v:.1f}" for v in loud), f"  the probe's g: {quiet:.1f}")
assert quiet < min(loud)

# %% [markdown]
# The probe's *first* message is the quietest. Does f then move less? **Predict**: with Adam, which the experiment uses,
# and one rate for both: if g starts at the probe's, do f's weights go (a) half as far as from a random g, or less,
# (b) about as far?


# %%
def moved(head):
    """Two epochs of Adam on 200 pictures, f and g at 3e-4
    -> how far f's weights went, the relative change of z of the test cells
    """
    model, order = fresh(head), torch.Generator().manual_seed(SEED)
    f = model.backbone
    start = torch.nn.utils.parameters_to_vector(f.parameters()).detach().clone()
    batches = loader(
        part, f.preprocess, batch_size=BATCH, shuffle=True, generator=order
    )
    list(fit(model, batches, torch.optim.Adam(model.parameters(), lr=3e-4), epochs=2))
    end = torch.nn.utils.parameters_to_vector(f.parameters()).detach()
    z, _ = features.extract(f.eval(), loader(cells.test, f.preprocess))
    return (end - start).norm().item(), ((z - z_test).norm() / z_test.norm()).item()


# %% tags=["varies"]
z_test, _ = features.extract(squeezenet, loader(cells.test, squeezenet.preprocess))
far = {f"random g {i}": moved(head) for i, head in enumerate(heads, 1)}
far["the probe's g"] = moved(best)
for name, (way, change) in far.items():
    print(f"{name:<15}weights went {way:.2f}, features changed by {change:.0%}")
least, *_, most = sorted(way for way, _ in far.values())
assert most < 1.5 * least

# %% [markdown]
# **Read.** (b). Adam divides by the size of past gradients, so its steps are about a rate long however quiet they are
# (plain SGD's step is the message times the rate). The *features* changed somewhat less from the probe's g, in this one
# draw of pictures. (In the table LP-FT's own rate is about three times that of full fine-tuning.)
#
# ## Gradual unfreezing, and the way back from frozen
#
# Notebook 05 proved five things of a frozen f. A sixth concerns the way back: unfreeze, and give the optimizer each
# parameter **once**. **Gradual unfreezing** (Howard and Ruder 2018) needs it: g alone in the first epoch, then one
# stage more each epoch, from the top. The optimizer keeps its momenta.

# %%
seed_everything(SEED)
few, model = train.subset(torch.arange(48)), fresh()
f, training = freeze(model.backbone), ()
batches = loader(few, f.preprocess, batch_size=BATCH, shuffle=True)
optimizer = torch.optim.Adam(param_groups(g=(model.head, 1e-3)))
for epoch in range(1, 7):
    now = adaptation.gradual(f.stages[:-1], epoch)  # the last is a pooling
    for stage in now[: len(now) - len(training)]:
        part_of_f = adaptation.unfreeze(getattr(f, stage))
        adaptation.add_group(optimizer, **{stage: (part_of_f, 1e-3)})
    training = now
    list(fit(model, batches, optimizer, epochs=epoch, first_epoch=epoch))
    count = plotting.short(sum(p.numel() for p in trainable(model)))
    print(f"epoch {epoch}: {count:>6} numbers train: g", *training[::-1])

# %%
held = [id(p) for group in optimizer.param_groups for p in group["params"]]
assert sorted(held) == sorted({id(p) for p in model.parameters()})  # each once
try:
    adaptation.add_group(optimizer, stem=(f.stem, 1e-3))
except ValueError as error:
    print("a second time:", error)

# %% [markdown]
# ## LoRA: a change of low rank
#
# **LoRA** (Hu et al. 2021): W stays, a matrix of low rank is added, $W + \frac{\alpha}{r} B A$, with A (r rows) random
# and B zero at first. (This α is LoRA's constant, not a rate.) A convolution's kernel (C_out, C_in, 3, 3) is read as a
# matrix of C_out rows. Three promises: at step 0 nothing changes; *merged* into one kernel it computes the same;
# unmerged, W's bits are back.

# %%
seed_everything(SEED)
f = load_backbone("squeezenet1_1", size=SIDE)
x4, W = f.preprocess(train.pictures[:4]), f.stage4[0].expand3x3.weight.detach().clone()
with torch.no_grad():
    z_before = f(x4)
    adaptation.wrap_lora(f, rank=8, alpha=8)
    assert torch.equal(f(x4), z_before)  # 1: to the bit
    for layer in f.modules():
        if isinstance(layer, adaptation.LoRA):
            layer.B.normal_(std=0.02)  # as if it had been trained
    one, z_tuned = f.stage4[0].expand3x3, f(x4)
    BA = one.B.flatten(1) @ one.A.flatten(1)
assert not torch.allclose(z_tuned, z_before, atol=0.1)

# %%
with torch.no_grad():
    adaptation.merge_lora(f)
    assert torch.allclose(one.weight, W + one.scale * BA.view(W.shape), atol=1e-6)
    assert torch.allclose(f(x4), z_tuned, rtol=1e-3, atol=1e-3)  # 2: the same
    adaptation.unmerge_lora(f)
    assert torch.equal(one.base.weight, W)  # 3: to the bit
rank = torch.linalg.matrix_rank(BA, rtol=1e-5).item()
small, all_of_f = (
    sum(p.numel() for p in parts) for parts in (trainable(f), squeezenet.parameters())
)
print(f"rank of the change: {rank} of {len(W)}")
print(f"numbers that train: {small:,} instead of {all_of_f:,}")

# %% [markdown]
# ## What trains, and how fast
#
# Each way is a choice of *what trains* and *at which rate*: two or three lines of code.


# %%
def biases(f):  # BitFit
    adaptation.train_biases_only(f)


def lora(f):
    adaptation.wrap_lora(f, rank=8, alpha=8)


def one_rate(prepare):
    """-> a strategy: prepare f, then f and g at one rate"""

    def strategy(f, g, lr):
        prepare(f)
        return param_groups(f=(f, lr), g=(g, lr))

    return strategy


# %%
def discriminative(f, g, lr):  # each stage at 1 / 2.6 of the rate of the stage above
    parts = {**dict(f.named_children()), "g": g}
    return param_groups(**geometric_rates(parts, lr=lr, factor=2.6))


def layerwise_decay(f, g, lr):  # the same by single blocks, gently
    parts = {**adaptation.blocks(f), "g": g}
    return param_groups(**geometric_rates(parts, lr=lr, factor=1 / 0.75))


STRATEGIES = {
    "full": one_rate(lambda f: f),
    "discriminative": discriminative,
    "layer-wise decay": layerwise_decay,
    "above stage2": one_rate(lambda f: train_only(f, f.stage3, f.stage4)),
    "stem alone": one_rate(lambda f: train_only(f, f.stem)),
    "biases": one_rate(biases),
    "LoRA": one_rate(lora),
}

# %%
PARTS = ("stem", "stage1", "stage2", "stage3", "stage4", "g")


def who_learns(strategy):
    """-> for each part its largest rate relative to g's, and how many numbers train"""
    model = fresh()
    f, g = model.backbone, model.head
    rate = {id(p): one["lr"] for one in strategy(f, g, 1.0) for p in one["params"]}
    for name in PARTS:
        module = g if name == "g" else getattr(f, name)
        mine = [p for p in module.parameters() if id(p) in rate]
        largest = max((rate[id(p)] for p in mine), default=0.0)
        yield largest, sum(p.numel() for p in mine)


learns = [list(who_learns(strategy)) for strategy in STRATEGIES.values()]

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(9, 3.6))
rates = torch.tensor([[rate for rate, _ in row] for row in learns])
texts = [[f"rate × {r:.2g}\n{plotting.short(n)}" if n else "frozen" for r, n in row]
         for row in learns]  # fmt: skip
shade = rates.clamp(min=1e-3).log10()
plotting.heat(ax, shade, rows=STRATEGIES, columns=PARTS, texts=texts, limits=(-3, 0.6))
ax.set_title("largest rate in each part, how many of its numbers train", fontsize=11)
plt.show()

# %% [markdown]
# (Left the input, right the classifier. LoRA's numbers are those of its small matrices.)
#
# ## Seventeen regimes
#
# The protocol is notebook 05's: each regime has its own rate, five seeds, 226 mono and 661 poly cells. Here also 113 of
# the mono cells under five *corruptions* (blur, noise, contrast, brightness, compression; Hendrycks and Dietterich
# 2019) at two strengths. g starts at random but in LP-FT and in what is interpolated from it. **ECE**, expected
# calibration error (Guo et al. 2017), is the mean gap between how sure the model is and how often it is right.

# %%
table, KINDS = results.read("regimes"), ("mono", "poly", "corrupted")
every = dict.fromkeys(row["regime"] for row in table)
REGIMES = [name for name in every if not name.startswith("interpolation ")]


def column(regime, name):
    """-> one number a seed"""
    found = results.numbers(table, name, "regime", "seed")
    return [found[regime, str(seed)] for seed in SEEDS]


def mean_of(regime, name):
    return sum(column(regime, name)) / len(SEEDS)


# %%
print(f"{'mean of seeds':<18}" + "".join(f"{kind:^24}" for kind in KINDS))
print(f"{'':<18}" + 3 * f"{'acc':>8}{'bal':>8}{'ECE':>8}")
for regime in REGIMES:
    values = [
        mean_of(regime, f"{kind}_{what}")
        for kind in KINDS
        for what in ("accuracy", "balanced", "ece")
    ]
    print(f"{regime:<18}" + "".join(f"{value:8.3f}" for value in values))

# %% [markdown]
# **Predict.** Sixteen regimes against full fine-tuning on three kinds of cells are 48 comparisons. How many are
# visible: (a) about half, (b) a handful, all on poly, (c) none?

# %% tags=["hide-input"]
seen, others = {}, [r for r in REGIMES if r != "full"]
fig, axes = plt.subplots(1, 3, figsize=(10, 5.2), sharex=True, sharey=True)
for ax, kind in zip(axes, KINDS, strict=True):
    rows = {regime: column(regime, f"{kind}_balanced") for regime in REGIMES}
    for c in metrics.compare(rows, against="full", comparisons=48):
        seen[kind, c.first] = c
    shown = {r: seen[kind, r].interval for r in others}
    plotting.intervals(ax, shown, scale=100, against=0)
    ax.set_title(kind, fontsize=11)
words = "balanced accuracy minus that of full (points); hollow: no visible difference"
fig.supxlabel(words, fontsize=11)
plt.show()

# %%
visible = [(kind, c) for (kind, _), c in seen.items() if c.visible]
print(f"{len(visible)} of {len(seen)} are visible:")
print(*[f"    {kind}: {c}" for kind, c in visible], sep="\n")
tuned = [r for r in REGIMES if r not in ("probe", "head only", "from scratch")]
pairs = metrics.compare({r: column(r, "mono_balanced") for r in tuned})
means = sorted(mean_of(r, "mono_balanced") for r in tuned)
print(f"mono, all {len(pairs)} pairs of {len(tuned)} tunings, visible:")
print(*[f"    {c}" for c in pairs if c.visible], sep="\n")
print(f"    means from {means[0]:.3f} to {means[-1]:.3f}")
assert {kind for kind, _ in visible} == {"poly"} and len(visible) < 6

# %% [markdown]
# **Read.** (b). *Mono*: no row differs visibly from full, and of the 91 pairs of tunings one does, though the means of
# the tunings reach from .777 to .828; biases and stem alone stand with the probe at the lower end. Of the rest five
# seeds cannot tell; that is no proof that there is nothing. *Poly*: visibly better than full are *from scratch* (among
# the last on mono), *head only* and *biases*. *Corrupted*: nothing. So "fine-tuning harms out of distribution" is seen
# for one of two shifts, and only against some; "frozen features are safe" for neither.
#
# "Biases" behaves like "head only". Probably because, with Adam at one rate for f and g, a bias moves by about a rate a
# step, little against these activations; we did not test it.

# %%
print("good poly cells called defective, seed by seed; defective ones missed, mean")
for regime in ("probe", "head only", "LP-FT", "full", "from scratch"):
    pairs = zip(column(regime, "poly_fp"), column(regime, "poly_tn"), strict=True)
    alarms = [fp / (fp + tn) for fp, tn in pairs]
    fn, tp = mean_of(regime, "poly_fn"), mean_of(regime, "poly_tp")
    shares = "".join(f"{alarm:6.0%}" for alarm in alarms)
    print(f"{regime:<14}{shares}{fn / (fn + tp):12.0%}")
    if regime == "LP-FT":
        assert max(alarms) - min(alarms) > 0.5
print("LP-FT, mono, accuracy on validation:", *column("LP-FT", "val"))
print("LP-FT, mono, balanced, test:", *column("LP-FT", "mono_balanced"))

# %% [markdown]
# **Read.** Accuracy likes *head only* best on poly (first table), and that one misses nearly half of the defects. And
# LP-FT's false alarms run from 7 % to 93 %, while its seeds look alike on mono: accuracy on the validation cells could
# not warn. (Rates were chosen by the loss there, which the table does not hold.)
#
# ## What it costs
#
# `memory`: what a step on 16 pictures keeps for the backward pass, plus gradients and Adam's two moments. `seconds`: of
# one thread, for the whole training, the median of the seeds (other programs ran beside them).

# %%
print(f"{'':<18}{'trained':>9}{'memory (MB)':>13}{'seconds':>9}{'rate':>8}")
for regime in REGIMES:
    row = next(row for row in table if row["regime"] == regime)
    count, seconds = (
        plotting.short(int(row["trained"])),
        sorted(column(regime, "cpu_s")),
    )
    told = f"{count:>9}{float(row['memory_mb']):13.1f}{seconds[2]:9.1f}"
    print(f"{regime:<18}{told}{row['lr'] or '–':>8}")
assert mean_of("LoRA", "memory_mb") > 0.8 * mean_of("full", "memory_mb")

# %% [markdown]
# **Read.** LoRA trains less than a tenth of the numbers, and needs 85 % of the memory. It saves gradients and moments,
# which are a small part *here*: in a convolutional network the maps are large and the weights few. In a large
# Transformer it is the other way round, and LoRA's saving is the point. (It also stores a tuned model in few bytes.)
#
# ## Between the two: weight interpolation
#
# **WiSE-FT** (Wortsman et al. 2022) trains nothing: between the weights $w_0$ of the start (published f, the probe's g)
# and $w_1$ of the end (LP-FT) take $(1-a)\,w_0 + a\,w_1$. In the row "interpolation" a was chosen, of eleven, on the
# 180 validation cells for each seed's own model.

# %%
POINTS = {0.0: "probe", 1.0: "LP-FT"}
POINTS |= {a: f"interpolation {a:g}" for a in (0.25, 0.5, 0.75)}
POINTS = dict(sorted(POINTS.items()))
fig, axes = plt.subplots(1, 2, figsize=(10, 3.3))
for ax, what in zip(axes, ("balanced", "accuracy"), strict=True):
    series = {}
    for kind in KINDS:
        rows = [column(name, f"{kind}_{what}") for name in POINTS.values()]
        series[kind] = torch.tensor(rows).T
    label = "balanced accuracy" if what == "balanced" else what
    plotting.bands(ax, list(POINTS), series, xlabel="a: 0 probe, 1 LP-FT", ylabel=label)
fig.suptitle("mean and range of five seeds", fontsize=10)
plt.show()

# %%
chosen = [row["alpha"] for row in table if row["regime"] == "interpolation"]
print("a chosen on validation, seed by seed:", *chosen)
found = []
for kind in ("mono", "poly"):
    rows = {name: column(name, f"{kind}_balanced") for name in POINTS.values()}
    found += metrics.compare(rows, against="probe", comparisons=8)
print(*found, sep="\n")
assert not any(c.visible for c in found)

# %% [markdown]
# **Read.** (First four lines mono, then poly.) Nothing gained that we can see on either. Wortsman et al. found points
# in between that beat both ends, for large models tuned at small rates. On mono the means *sag* between the ends (not
# visibly). Two valleys with a ridge between would look so; we did not test it. On poly, accuracy (right) makes a = 0.25
# look like a find; balanced accuracy (left) shows that much of it is saying "functional" more often. Validation chose
# an end, or nearly, in every seed.
#
# ## Corrupted pictures
#
# One defective mono cell at strength 3. Below, balanced accuracy by kind, strengths 1 and 3 together, on 113 cells: the
# same for all regimes. ("None" is on all 226, so its difference to a column is not paired.)

# %%
one = cells.test.pictures[(cells.test.labels == 1).nonzero()[0]]
fig, axes = plt.subplots(1, 6, figsize=(9, 1.9))
gen = torch.Generator().manual_seed(SEED)
damage = corruptions.CORRUPTIONS
shown = [one, *[spoil(one, gen, strength=3) for spoil in damage.values()]]
plotting.pictures(axes, torch.cat(shown), ["as it is", *damage])
plt.show()

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(7.5, 5.4))
grid = [
    [mean_of(r, "mono_balanced"), *[mean_of(r, k) for k in damage]] for r in REGIMES
]
names = ["none\n(226 cells)", *[f"{kind}\n(113 cells)" for kind in damage]]
plotting.heat(ax, grid, rows=REGIMES, columns=names, limits=(0.45, 0.9))
ax.tick_params(labelsize=9)
ax.set_title("balanced accuracy on mono cells, mean of five seeds", fontsize=11)
plt.show()

# %%
told = {}
for kind in damage:
    rows = {regime: column(regime, kind) for regime in REGIMES}
    found = metrics.compare(rows, against="full", comparisons=80)
    told[kind] = [f"{c.first} {c.interval.mean:+.2f}" for c in found if c.visible]
    print(f"{kind:<12}", "; ".join(told[kind]))
assert not told["noise"] and told["brightness"]

# %% [markdown]
# Printed: what is visibly different from full under the same corruption, of 80 comparisons.
#
# **Read.** It depends on the kind. Noise takes every regime down to a coin, or nearly. Under contrast and brightness
# full keeps most of what it had; visibly behind it, under one or both, are scratch (most of all), probe, above stage3,
# head only, stem alone and biases. That depth protects is no rule: LP-FT trains all of f, and its means fall by 6 and 7
# points from the first column, the probe's by 5 and 3. Under compression scratch keeps the most, full falls to .61;
# over five seeds even that is not visible. An average over kinds hides all this: ask which damage your camera does.
#
# ## All cells: the published protocol
#
# Deitsch et al. 2019, who brought this data, train on 75 % of all 2,624 cells and test on the other 656, mono and poly
# together, doubtful labels included. They report **88.42 %** for a VGG-19 fine-tuned at 300 pixels and **82.44 %** for
# an SVM on hand-made features. An expert said functional or defective, and whether she was sure: probability 0, 1/3,
# 2/3 or 1. What is *not surely functional* counts as defective (above, only sure cells took part); a sure cell weighs
# 1, an unsure one its probability: *weighted accuracy*. We give this rule from memory; both of their numbers fit it
# (527 and 491⅓ of a weight of 596). The other two columns below ask another question: defective is 2/3 and 1, every
# cell weighs 1, with a decision rule of its own.
#
# `tools/experiments/elpv.py` keeps all this, cuts one stratified split of its own (theirs is not published), chooses on
# a fifth of the training part, and looks at the test part once a row. A plus: weights of the last epochs averaged, each
# cell seen from eight sides. All at 224 pixels; `upper` is what lies above stage2, starting at the probe.

# %%
elpv = results.read("elpv")
NAMES = ("weighted_accuracy", "accuracy", "balanced_accuracy")
print(f"{'':<22}", *[f"{name:>18}" for name in NAMES], "  runs")
weighted = {}
for recipe in dict.fromkeys(row["recipe"] for row in elpv):
    rows = [row for row in elpv if row["recipe"] == recipe]
    means = [sum(float(row[name]) for row in rows) / len(rows) for name in NAMES]
    runs = len({row["weighted_accuracy"] for row in rows})  # those that differ
    print(f"{recipe:<22}", *[f"{v:18.1%}" for v in means], f"{runs:6}")
    weighted[recipe] = means[0]
print(f"{'CNN of Deitsch et al.':<22} {0.8842:18.1%}")
print(f"{'SVM of Deitsch et al.':<22} {0.8244:18.1%}")

# %%
ours, theirs = ((p * (1 - p) / 598) ** 0.5 for p in (0.846, 0.8842))  # 598: weights
both = (ours**2 + theirs**2) ** 0.5
print(
    f"standard errors: ours {ours:.1%}, theirs {theirs:.1%}, of a difference {both:.1%}"
)
assert 0.8244 < max(weighted.values()) < 0.8842

# %% [markdown]
# **Read.** In the means, tuning the upper stages lies between the paper's SVM and its CNN; the CNN's number is **not
# reached**. Compare the *weighted* column with the paper, no other: plain accuracy flatters by some points. The two
# splits differ, so nothing is paired. At twice the error of a difference our best mean is told apart neither from the
# SVM nor, narrowly, from the CNN. (The test part weighs 598 cells.) SqueezeNet's f has 0.7 million numbers,
# VGG-19's convolutions 20 million. All that was tried stands in `data/results/elpv_search.csv`.
#
# ## Exercises
#
# ### ★ Exercise 1: between two models
#
# Complete `between`: a **new** state dict $(1-a)\,w_0 + a\,w_1$ that the model can load. BatchNorm keeps an integer in
# its state, the number of batches it has seen: what is a quarter of the way from 7 to 100 batches?
#
# <details><summary>Hint 1</summary>
#
# A dict comprehension over `w0.items()`, with `w1[name]` beside it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `tensor.is_floating_point()` tells weights from counts.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A count is taken over from one of the two, as a copy: `start.clone()`; a mixture, rounded, will do too. (And on real
# BatchNorms, recompute the running statistics afterwards: `adaptation.recompute_batchnorm`.)
#
# </details>


# %% tags=["exercise"]
def between(w0, w1, a):
    """two state dicts of one architecture, a in [0, 1] -> state dict"""
    # BEGIN SOLUTION
    # STUB: ...
    return {
        name: (1 - a) * start + a * w1[name]
        if start.is_floating_point()
        else start.clone()
        for name, start in w0.items()
    }
    # END SOLUTION


check("05.interpolate", between)

# %% [markdown]
# ### ★ Exercise 2: merge LoRA into a kernel
#
# Complete `merged_kernel`: $W + \frac{\alpha}{r} B A$ for a convolution, as a new tensor. W is (C_out, C_in, kh, kw), A
# is (r, C_in, kh, kw), B is (C_out, r, 1, 1).
#
# <details><summary>Hint 1</summary>
#
# `flatten(1)` makes matrices of all three: W (C_out, C_in · kh · kw), A (r, C_in · kh · kw), B (C_out, r).
#
# </details>
# <details><summary>Hint 2</summary>
#
# A product of matrices, then `view(W.shape)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The scale is α / r, with r the number of rows of A. `W + …` is new; `W += …` would overwrite the argument.
#
# </details>


# %% tags=["exercise"]
def merged_kernel(W, A, B, alpha):
    """-> (C_out, C_in, kh, kw)"""
    # BEGIN SOLUTION
    # STUB: ...
    r = len(A)
    delta = B.flatten(1) @ A.flatten(1)  # (C_out, C_in · kh · kw)
    return W + alpha / r * delta.view(W.shape)
    # END SOLUTION


check("05.merge", merged_kernel)

# %% [markdown]
# ### ★★ Exercise 3: a threshold for the new place
#
# A model says *how sure* it is. Suppose you had 20 labelled poly cells. For the probe (`best`): choose the threshold on
# `softmax(logits)[:, 1]` by balanced accuracy on them, and judge on the others. How much of what the shift took comes
# back? What does that tell you about *what* was lost? (Compare the area under the ROC curve on mono and on poly: the
# share of pairs, one defective, one functional, in which the defective cell is the more suspicious.)

# %% [markdown] tags=["solution"]
# **Exercise 3.**


# %% tags=["solution"]
def judged(p, y, threshold):
    table = metrics.confusion_matrix((p >= threshold).long(), y, 2)
    return metrics.balanced_accuracy(table)


def best_threshold(p, y):
    return max(p.tolist(), key=lambda threshold: judged(p, y, threshold))


def ranking(p, y):
    return (p[y == 1][:, None] > p[y == 0]).double().mean().item()


# %% tags=["solution", "varies"]
z, y = features.extract(squeezenet, loader(train, squeezenet.preprocess))
head, said = features.linear_probe(z, y, l2=L2), {}
for kind, split in (("mono", cells.test), ("poly", poly)):
    z, y = features.extract(squeezenet, loader(split, squeezenet.preprocess))
    said[kind] = head(z).softmax(1)[:, 1].detach(), y
(p, y), with_20 = said["poly"], []
gen = torch.Generator().manual_seed(SEED)
for _ in range(20):
    order = torch.randperm(len(y), generator=gen)
    few, others = order[:20], order[20:]
    with_20.append(judged(p[others], y[others], best_threshold(p[few], y[few])))
print(f"poly, balanced accuracy at 0.5: {judged(p, y, 0.5):.3f}")
low, mean, high = min(with_20), sum(with_20) / 20, max(with_20)
print(f"from 20 labels, mean of 20 draws: {mean:.3f} [{low:.3f} to {high:.3f}]")
print(f"at the best of all thresholds: {judged(p, y, best_threshold(p, y)):.3f}")
print(f"mono, at 0.5: {judged(*said['mono'], 0.5):.3f}")
print(f"ranking: mono {ranking(*said['mono']):.2f}, poly {ranking(p, y):.2f}")
assert ranking(p, y) < ranking(*said["mono"]) - 0.05

# %% [markdown] tags=["solution"]
# Nothing comes back: a threshold from 20 labels is no better than 0.5, and even the best of all, chosen on the test
# cells themselves, stays far from what mono had. Most of the loss is in the ranking. A threshold cannot mend that;
# labels that something can be learned from can.

# %% [markdown]
# ## Remember
#
# - BatchNorm in the wrong mode cost more than any choice of regime, and large batches did not mend it.
# - A quiet start is no promise that f stays: under Adam its weights go as far.
# - LoRA's promises hold to the bit or to rounding; its saving of memory is that of large weights, not of large maps.
# - Of 48 comparisons with full three are visible, all on poly cells. Damage is not damage: each kind has its
#   own order of regimes.
#
# **Limits.** As in notebook 05; intervals are corrected within each picture or list, not over all of the notebook.
#
# **References.** Ioffe and Szegedy 2015, *Batch normalization*, arXiv 1502.03167. Kumar et al. 2022 (LP-FT), arXiv
# 2202.10054. Howard and Ruder 2018, *ULMFiT*, arXiv 1801.06146, sections 3.2 and 3.3. Lee et al. 2023, *Surgical
# fine-tuning improves adaptation to distribution shifts* (parts alone), arXiv 2210.11466. Ben Zaken et al. 2022,
# *BitFit*, arXiv 2106.10199. Hu et al. 2021, *LoRA*, arXiv 2106.09685, eq. (3). Wortsman et al. 2022, *Robust
# fine-tuning of zero-shot models* (WiSE-FT), arXiv 2109.01903. Guo et al. 2017, *On calibration of modern neural
# networks*, arXiv 1706.04599, eq. (3). Hendrycks and Dietterich 2019, *Benchmarking neural network robustness*, arXiv
# 1903.12261. Data and the published protocol: Deitsch et al. 2019, arXiv 1807.02894.
