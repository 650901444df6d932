# %% [markdown]
# # 08 Which strategy, going deeper: terms that hold *f* back, and a search with Optuna
#
# Notebook 08 compared six strategies. Here are the two whose terms it did not derive, L2-SP and batch spectral
# shrinkage, with what they do to the weights; a measure of how far a task is from what *f* saw; and the search for
# rate, decay, epochs and strategy, with what it found and what it did not.
#
# Afterwards you can
#
# - write L2-SP and BSS from their formulas, and say where each breaks;
# - search with Optuna in a way that can be interrupted and repeated;
# - read "what mattered" in a search without counting a trial twice.
#
# **60 minutes** to read and try, 1 minute to run. You need notebook 08.

# %% tags=["setup"]
import re

import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from scipy.stats import rankdata

from sftlib import adaptation, backbones, features, losses, metrics, results, runtime
from sftlib.checks import check
from sftlib.datasets import loader, photo_details, solar_cells
from sftlib.model import LinearHead, Model, Standardise
from sftlib.plotting import COLOURS, LINES, MARKERS, curves, use_style
from sftlib.schedules import warmup_cosine
from sftlib.search import search
from sftlib.training import fit

use_style()

# %%
SEED, SEEDS = 0, range(5)  # of the live runs; of the stored searches
SIDE, D = 96, 512  # pixels; features
LABELS, BATCH = 100, 20  # of the live runs, as in the stored searches
TRIALS = runtime.profile().pick(quick=14, full=40)  # TPE is guided from the 11th on
SHUFFLES = runtime.profile().pick(quick=19, full=99)  # of the control of importance
PRECISION = runtime.Precision(torch.bfloat16, channels_last=True)

# %% [markdown]
# ## How far is a task from what *f* saw?
#
# *f* came with an ImageNet head of S = 1,000 classes. The **entropy** of its answers, $-\sum_s p_s\log p_s$ in nats
# (units of the natural logarithm), is low where it recognises something; a head that knows nothing has
# $\log 1000 = 6.9$. That looks at the *pictures*. Whether *f*'s features answer the *question* is another matter: ask
# **k nearest neighbours** on z, and count the errors that they save, as a share of those that the majority answer
# makes.
#
# The control: the files of the cells stand in the order of the solar panels that they were cut from. The nearest
# neighbour may be a cell of the *same panel*, of the same type and often with the same damage. So once more without the
# votes of cells less than 72 files away (2,624 cells of 44 panels: some 60 each), and without as many drawn by lot (20
# times). **Predict**: of which question about cells do the neighbours lose more, type or defect?

# %%
f, measured = backbones.load_backbone("squeezenet1_1", size=SIDE), {}
TASKS = {
    "photo details": photo_details.load(size=SIDE),
    "cell type": solar_cells.load(task="cell_type", size=SIDE),
    "cell defect": solar_cells.load(task="defect", size=SIDE),
}


# %%
def saved_by(z, y, number=None, k=5):
    """z (N, D), y (N,) -> share of the majority's errors that k neighbours save; with
    the number (N,) of each file, those that are less than 72 files away have no vote
    """
    number = 72 * torch.arange(len(y)) if number is None else number
    u = torch.nn.functional.normalize(z, dim=1)
    too_near = (number[:, None] - number).abs() < 72
    nearest = (u @ u.T).masked_fill(too_near, -torch.inf).topk(k).indices
    votes = torch.nn.functional.one_hot(y[nearest])  # (N, k, K), nearest first
    right = (2 * votes.sum(1) + votes[:, 0]).argmax(1) == y
    majority = (y.bincount().max() / len(y)).item()
    return (right.double().mean().item() - majority) / (1 - majority)


# %% tags=["varies"]
lot = torch.Generator().manual_seed(SEED)
for name, task in TASKS.items():
    z, y = features.extract(f, loader(task.test, f.preprocess, batch_size=100))
    with torch.inference_mode():
        p = f.source_logits(f.preprocess(task.test.pictures)).softmax(1)
    entropy = -torch.special.xlogy(p, p).sum(1).mean().item()
    number = torch.tensor([int(re.sub(r"\D", "", n)) for n in task.test.names])
    lots = [number[torch.randperm(len(y), generator=lot)] for _ in range(20)]
    by_lot = np.mean([saved_by(z, y, mixed) for mixed in lots])
    measured[name] = entropy, saved_by(z, y), saved_by(z, y, number), by_lot
    words = "{:.2f} nats; saved {:.0%}, far {:.0%}, by lot {:.0%}"
    print(f"{name:<14} entropy", words.format(*measured[name]))
kind, defect = measured["cell type"], measured["cell defect"]
assert measured["photo details"][0] < defect[0] - 0.5 and kind[2] > 0.7
assert 0.6 > defect[1] > defect[2] + 0.05 and defect[3] > defect[2] + 0.03

# %% [markdown]
# **Read.** The two solar tasks have the same pictures, hence the same entropy; the neighbours save nearly all errors on
# one, and less than half on the other. "How similar is my data to ImageNet?" is half a question. And without the
# neighbours of the same panel (*far*) they still save nine tenths of the errors on the type, though the few that are
# left multiply, while on the defects close to half of what was saved is gone; as many others, left out by lot, take
# little. Part of what looked like seeing damage was knowing the panel. (The photo details are drawn, in no order, and
# from pixels that the training part holds too, as notebook 08 shows: what their neighbours save is recognition.)
#
# ## L2-SP
#
# $\theta$ are the weights of *f*, $\theta_0$ their pretrained values. L2-SP adds
# $\tfrac a2\lVert\theta-\theta_0\rVert^2$, with gradient $a\,(\theta-\theta_0)$: a spring. Weight decay is the same
# spring tied to 0 instead of $\theta_0$.

# %%
gen = torch.Generator().manual_seed(SEED)
layer, a = torch.nn.Linear(7, 5), 0.3
start = losses.snapshot(layer)  # θ0: a copy, for the weights themselves will move
with torch.no_grad():
    for weight in layer.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=gen))
away = {name: weight - start[name] for name, weight in layer.named_parameters()}
by_hand = a / 2 * sum(v.square().sum() for v in away.values())
from_sftlib = a * losses.l2_sp(layer, start)
from_sftlib.backward()
print(f"by hand {by_hand.item():.6f}, sftlib {from_sftlib.item():.6f}")
assert torch.allclose(by_hand, from_sftlib)
assert torch.allclose(layer.weight.grad, a * away["weight"])  # the spring

# %% [markdown]
# **Where it breaks.** Without the copy, $\theta-\theta_0$ is zero for ever, and the penalty does nothing, silently.
# `sftlib` refuses:

# %% tags=["raises-exception"]
losses.l2_sp(layer, dict(layer.named_parameters()))  # these ARE the weights

# %% [markdown]
# ## Batch spectral shrinkage (BSS)
#
# A batch of features is a matrix $Z = \sum_i\sigma_i u_i v_i^\top$. Directions with small σ, say Chen et al., do not
# transfer; so BSS adds $\eta\sum_{i\le k}\sigma_{-i}^2$, the k smallest. $\partial\sigma_i^2/\partial Z =
# 2\sigma_i u_i v_i^\top$ needs no difference of singular values, so it is safe where the gradient of the *vectors* is
# not.

# %%
Z = torch.randn(11, 23, generator=gen, dtype=torch.float64).requires_grad_()
k = 2
by_hand = torch.linalg.svdvals(Z)[-k:].square().sum()  # min(N, D) values, falling
from_sftlib = losses.batch_spectral_shrinkage(Z, k=k)
from_sftlib.backward()
U, sigma, Vt = torch.linalg.svd(Z.detach(), full_matrices=False)
rank_k = 2 * sum(sigma[-i] * torch.outer(U[:, -i], Vt[-i]) for i in range(1, k + 1))
print(f"by hand {by_hand.item():.6f}, sftlib {from_sftlib.item():.6f}")
assert torch.allclose(by_hand, from_sftlib) and torch.allclose(Z.grad, rank_k)

# %% [markdown]
# ## What they do to the weights
#
# Now with training, as in notebook 08: *f* up to stage3 stays, its maps are computed once; stage4 is trained with *g*.

# %%
task = TASKS["photo details"]
first = torch.Generator().manual_seed(SEED)
mine = torch.randperm(len(task.train), generator=first)[:LABELS]  # the labelled ones
parts = {"train": task.train.subset(mine), "val": task.val}
maps = {
    name: features.extract(f, loader(p, f.preprocess, batch_size=100), stage="stage3")
    for name, p in parts.items()
}
h, y = maps["train"]
print(f"maps of {len(h)} labelled pictures: {tuple(h.shape)}")


# %%
def prepare():
    """-> model before training, batches of the cached maps"""
    top = backbones.load_backbone("squeezenet1_1", size=SIDE)
    top = torch.nn.Sequential(top.stage4, top.pool)
    runtime.seed_everything(SEED)
    how = {"shuffle": True, "generator": torch.Generator().manual_seed(SEED)}
    batches = features.Cached(features=h, labels=y, batch_size=BATCH, **how)
    with torch.no_grad():
        body = torch.nn.Sequential(top, Standardise(top(h)))
    return Model(body, LinearHead(D, 8)), batches


# %%
def tune(model, batches, lr, *, epochs, ratio=10, decay=0.0, **terms):
    """Train f's top at lr and g at ratio · lr -> the records of the steps"""
    groups = adaptation.param_groups(f=(model.backbone, lr), g=(model.head, ratio * lr))
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=decay)
    steps = epochs * len(batches)
    terms |= {"schedule": warmup_cosine(steps, warmup=steps // 10)}
    records = fit(
        model, batches, optimizer, epochs=epochs, precision=PRECISION, **terms
    )
    return [r for r in records if hasattr(r, "task_loss")]


# %%
def distance(model, start):
    """-> ‖θ − θ0‖ / ‖θ0‖ over the parameters of f's top"""
    now = model.backbone.named_parameters()
    away = sum((v - start[name]).square().sum() for name, v in now)
    return (away / sum(v.square().sum() for v in start.values())).sqrt().item()


def smallest(z, y):
    return losses.batch_spectral_shrinkage(z, k=1)


def with_spring(a):
    """-> how far f's top went at strength a"""
    model, batches = prepare()
    start = losses.snapshot(model.backbone)
    spring = {"penalty": lambda m: a * losses.l2_sp(m.backbone, start)}
    tune(model, batches, 3e-3, epochs=5, **spring)
    return distance(model, start)


# %% tags=["varies"]
moved, spectrum = {a: with_spring(a) for a in (0, 1, 10, 100)}, {}
for eta in (0.0, 1e-2):
    how = {"feature_loss": smallest, "feature_weight": eta}
    steps = tune(*prepare(), 1e-3, epochs=5, **how)
    values = [s.feature_loss**0.5 for s in steps]
    spectrum[f"η = {eta:g}"] = range(1, len(values) + 1), values
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
heights = [100 * m for m in moved.values()]
left.bar([str(a) for a in moved], heights, color=COLOURS["blue"], width=0.6)
left.set(xlabel="strength a of L2-SP", ylabel="distance from the start (%)")
curves(right, spectrum, xlabel="step", ylabel="smallest singular value, BSS")
right.set_ylim(0, None)
plt.show()
off, on = (values[-1] for _, values in spectrum.values())
assert moved[100] < 0.5 * moved[0] and on < 0.8 * off

# %% [markdown]
# Both terms do what they say, and even without a penalty *f* moves by about one per cent. Whether being held back helps
# is notebook 08's question, and its answer.
#
# ## A search that can be repeated
#
# **Random search** draws settings from ranges; a rate log-uniformly, for what matters is its order of magnitude.
# **TPE** (tree-structured Parzen estimator, Optuna's default) draws ten at random, then where good trials were denser
# than others. Its core for one number x, with ℓ the density of the x of the good trials so far, b that of the others:
#
# $$x^* = \arg\max_x\; \ell(x)/b(x)$$

# %%
rng = np.random.default_rng(SEED)
tried = np.log10(rng.permuted(np.geomspace(1e-5, 1e-1, 13)))
order = np.argsort((tried + 3) ** 2)  # best at a rate of 0.001
x = np.linspace(-5, -1, 200)


def density(at, points, width=0.5):
    """at (n,), points (m,) -> a bell curve on every point, averaged"""
    bells = np.exp(-((at[:, None] - points) ** 2) / (2 * width**2))
    return bells.mean(1) / (width * np.sqrt(2 * np.pi))


good, others = density(x, tried[order[:3]]), density(x, tried[order[3:]])
# %%
fig, ax = plt.subplots(figsize=(7, 3))
shown = {"ℓ: good trials": (x, good), "b: the others": (x, others)}
curves(ax, shown, xlabel="log10 of the rate", ylabel="density")
best = x[(good / others).argmax()]
ax.axvline(best, color="black", ls=":")
ax.set_title(f"next try: ℓ/b is largest at {best:.2f}", fontsize=10)
plt.show()

# %% [markdown]
# `sftlib.search.search` wraps Optuna in one generator. Trial number *i* draws from a seed made of (seed, *i*), so the
# same call gives the same trials; and every trial goes into a **journal**, so an interrupted search goes on where it
# stopped. Both, on a hill that costs nothing:


# %%
def hill(trial):
    """Highest at a rate of 0.001 with the strategy LP-FT"""
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    strategy = trial.suggest_categorical("strategy", ("full", "LP-FT"))
    return -(np.log10(lr / 1e-3) ** 2) - (strategy == "full")


journal = runtime.cache_folder() / "search" / "notebook_08_hill.journal"
journal.unlink(missing_ok=True)
whole = [t.params for t in search(hill, trials=14, seed=SEED)]
part = [t.params for t in search(hill, trials=9, seed=SEED, journal=journal)]
resumed = [t.params for t in search(hill, trials=14, seed=SEED, journal=journal)]
print("9 trials, then 5 more, equal to 14 in one go:", resumed == whole)
assert resumed == whole and part == whole[:9]

# %% [markdown]
# For real, on the cached maps, judged on validation. The first ten are random; from the eleventh on, TPE guides.


# %%
@torch.inference_mode()
def on_validation(model):
    """-> share of right answers, in [0, 1]"""
    h_val, y_val = maps["val"]
    with PRECISION.autocast("cpu"):
        return (model.eval()(h_val).argmax(1) == y_val).double().mean().item()


# %%
def objective(trial):
    """-> validation accuracy of one training on the 100 labelled pictures"""
    model, batches = prepare()
    if trial.suggest_categorical("strategy", ("full", "LP-FT")) == "LP-FT":
        with torch.no_grad():
            z = model.backbone(h)
        model.head = features.linear_probe(z, y, num_classes=8, l2=0.1)
    how = {"ratio": trial.suggest_float("ratio", 1, 30, log=True),
           "decay": trial.suggest_float("decay", 1e-5, 1e-1, log=True),
           "epochs": trial.suggest_int("epochs", 1, 6)}  # fmt: skip
    try:
        tune(model, batches, trial.suggest_float("lr", 1e-4, 1e-2, log=True), **how)
    except FloatingPointError:  # the rate is too high: as bad as can be
        return 0.0
    return on_validation(model)


# %% tags=["varies"]
values = []
for trial in search(objective, trials=TRIALS, seed=SEED):
    t, values = trial.params, [*values, trial.value]
    drawn = f"{t['strategy']:<6} rate {t['lr']:.1e}, g {t['ratio']:4.1f}×"
    drawn += f", decay {t['decay']:.0e}, {t['epochs']} epochs"
    print(f"{trial.number + 1:>3}: {drawn}  val {trial.value:.3f}")
assert max(values) > 0.4  # eight classes: guessing gives 0.125

# %% [markdown]
# ## Did the guided search pay?
#
# `data/results/search.csv`: TPE and random draws, 20 trials each, five seeds (other labelled pictures, other draws).
# Its `test` column was used for no choice. **Predict.** After 20 trials TPE's best is (a) visibly better, (b) not
# visibly different, (c) visibly worse?

# %%
trials = results.read("search")
SETTINGS = ("strategy", "l2", "lr", "head", "decay", "epochs")
runs = {(name, s): [] for name in ("TPE", "random") for s in SEEDS}
for r in trials:
    runs[r["sampler"], int(r["seed"])].append(r)
best = {key: max(run, key=lambda r: float(r["val"])) for key, run in runs.items()}
for column in ("val", "test"):
    table = {n: [float(best[n, s][column]) for s in SEEDS] for n in ("TPE", "random")}
    (c,) = metrics.compare(table)
    print(f"{column:<5}", c)
    assert not c.visible
both = [zip(runs["TPE", s], runs["random", s], strict=True) for s in SEEDS]
same = [[one[c] == two[c] for c in SETTINGS] for pairs in both for one, two in pairs]
print(f"{sum(map(all, same))} trials of TPE are trials of random draws as well")
assert sum(map(all, same)) == 10 * len(SEEDS)


# %%
fig, ax = plt.subplots(figsize=(7.5, 3.2))
at = np.arange(1, 21)
for i, name in enumerate(("TPE", "random")):
    val = [[float(r["val"]) for r in runs[name, s]] for s in SEEDS]
    best = 100 * np.maximum.accumulate(val, axis=1)
    colour = list(COLOURS.values())[i]
    ax.fill_between(at, best.min(0), best.max(0), color=colour, alpha=0.15, lw=0)
    ax.plot(at, best.mean(0), color=colour, ls=LINES[i], label=f"{name}, mean of 5")
ax.axvline(10.5, color="black", ls=":", label="TPE is guided from here")
ax.set(xlabel="trials", ylabel="best validation\naccuracy so far (%)", xticks=at[1::2])
ax.set_title("bands: lowest and highest of five searches", fontsize=10)
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# **Read.** (b). The first ten trials of both are *the same rows*, so only ten guided trials were compared with ten
# random ones, in five searches: far too few to see a point.
#
# ## What mattered: each trial once
#
# **Importance** (fANOVA: the share of the scores' variance that a setting explains alone, averaged over the others;
# Optuna leaves out what only two together explain, and scales the rest to a sum of 1), over the trials that trained
# *f*. The 50 doubled rows are left out. With and without the trials whose loss was no number (they count as accuracy
# 0); three seeds of the forest that fANOVA grows. As the shares sum to 1 whatever happens, the control is the sound
# trials with their scores *shuffled*, many times.

# %%
unique = [r for r in trials if r["sampler"] == "TPE" or int(r["trial"]) >= 10]
tuned = [r for r in unique if r["strategy"] != "linear probe"]
sound = [r for r in tuned if float(r["val"]) > 0]

# %%
Real, Whole = (
    optuna.distributions.FloatDistribution,
    optuna.distributions.IntDistribution,
)
RANGES = {
    "lr": Real(1e-4, 1e-2, log=True),
    "head": Real(1, 30, log=True),
    "decay": Real(1e-5, 1e-1, log=True),
    "epochs": Whole(2, 15),
    "strategy": optuna.distributions.CategoricalDistribution(("full", "LP-FT")),
}
NAMES = dict(
    zip(RANGES, ("rate of f", "g / f", "decay", "epochs", "strategy"), strict=True)
)


# %%
def as_trial(row):
    """A row of the table as Optuna keeps it; rounding may not leave a range"""
    params = {"strategy": row["strategy"], "epochs": int(row["epochs"])}
    for name in ("lr", "head", "decay"):
        params[name] = np.clip(float(row[name]), RANGES[name].low, RANGES[name].high)
    how = {"distributions": RANGES, "value": float(row["val"])}
    return optuna.trial.create_trial(params=params, **how)


def importance(rows, seed):
    """rows of the search -> setting -> share of the variance of validation accuracy"""
    study = optuna.create_study(direction="maximize")
    study.add_trials([as_trial(r) for r in rows])
    judge = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=judge)


# %% tags=["varies"]
shares = {}
for name, rows in (("all", tuned), ("sound", sound)):
    found = [importance(rows, seed) for seed in range(3)]
    shares[name] = {k: np.mean([s[k] for s in found]) for k in RANGES}
    print(f"{name}: {len(rows)} trials")
    for k in sorted(RANGES, key=shares[name].get, reverse=True):
        v = [s[k] for s in found]
        print(f"    {NAMES[k]:<10} {min(v):.2f} to {max(v):.2f}")
assert max(shares["all"], key=shares["all"].get) == "lr"
assert max(shares["sound"], key=shares["sound"].get) == "head"

# %% [markdown]
# Now the control. **Predict.** The share of g / f among the sound trials, when their scores are shuffled: does any
# setting reach it by chance (a) never, (b) now and then, (c) in most shuffles?


# %% tags=["varies"]
def shuffled(seed):
    """-> setting -> share of the variance of the sound trials' scores, shuffled"""
    mixed = np.random.default_rng(seed).permutation([r["val"] for r in sound])
    rows = [r | {"val": v} for r, v in zip(sound, mixed, strict=True)]
    return importance(rows, seed)


by_chance = [shuffled(seed) for seed in range(SHUFFLES)]
print(f"{SHUFFLES} shuffles: lowest, median, highest; as much as the sound trials")
for k in RANGES:
    v = sorted(s[k] for s in by_chance)
    reached = sum(share >= shares["sound"][k] for share in v)
    ends = f"{v[0]:.2f}, {np.median(v):.2f}, {v[-1]:.2f}"
    print(f"    {NAMES[k]:<10} {ends}; {reached} of {SHUFFLES}")
top = sum(max(s.values()) >= max(shares["sound"].values()) for s in by_chance)
print(f"some setting has as much as {NAMES['head']} had: {top} of {SHUFFLES}")
assert 0.1 < top / SHUFFLES < 0.5

# %%
lost = [r for r in tuned if float(r["val"]) == 0]
least = min(float(r["lr"]) for r in lost)
print(f"{len(lost)} lost, with rates from {least:.1e} on. Trials at such rates:")
gone = {}
for strategy in ("full", "LP-FT"):
    there = [r for r in tuned if r["strategy"] == strategy and float(r["lr"]) >= least]
    gone[strategy] = sum(r in lost for r in there) / len(there)
    print(f"    {strategy:<5}  {sum(r in lost for r in there)} of {len(there)} lost")
assert gone["LP-FT"] > gone["full"] + 0.3

# %%
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3), sharey=True, layout="constrained")
for ax, name in zip(axes, ("lr", "head", "epochs"), strict=True):
    for i, strategy in enumerate(("full", "LP-FT")):
        some = [r for r in tuned if r["strategy"] == strategy]
        xs, ys = ([float(r[c]) for r in some] for c in (name, "val"))
        how = {"color": list(COLOURS.values())[i], "alpha": 0.6, "ms": 4}
        ax.plot(xs, 100 * np.array(ys), MARKERS[i], label=strategy, **how)
    ax.set(xlabel=NAMES[name], xscale="linear" if name == "epochs" else "log")
axes[0].set_ylabel("validation accuracy (%)")
marks = axes[0].get_legend_handles_labels()
fig.legend(*marks, loc="outside upper center", ncols=2)
plt.show()

# %% [markdown]
# **Read.** With the lost trials the rate of *f* explains most, for they all lie at its high end; nine of the eleven are
# LP-FT, of which most were lost there, of *full* few. Without them about half belongs to g / f, how much faster *g*
# learns. And (b): shuffled scores, which no setting can explain, give some setting as much in about a quarter of the
# draws. (A single shuffle would not have told.) The other settings have what chance often gives. So this *index* tells
# no setting from chance. Does none matter, then? In the left picture *full* seems to rise.
#
# So each strategy alone, by **rank correlation** (1: the order of the setting is the order of the accuracies): with
# every setting, and with rate × g / f × epochs, how far *g* is driven. The control is shuffled again: the largest that
# any of the five reaches, in size, in 1,000 shuffles. **Predict**: will *full* exceed it? And LP-FT, whose *g* is
# fitted already? (a) Both, (b) *full* alone, (c) LP-FT alone, or neither.


# %%
def ranks(v):
    """v (n,) -> ranks with mean 0 and length 1: products are rank correlations"""
    r = rankdata(v) - (len(v) + 1) / 2
    return r / np.linalg.norm(r)


def correlations(rows):
    """rows of the search -> name -> correlation; the largest |correlation| by chance"""
    x = {NAMES[c]: np.array([float(r[c]) for r in rows]) for c in list(RANGES)[:4]}
    x["product"] = x["rate of f"] * x["g / f"] * x["epochs"]
    X, val = (
        np.stack([ranks(v) for v in x.values()]),
        ranks([float(r["val"]) for r in rows]),
    )
    rng = np.random.default_rng(SEED)
    by_chance = max(abs(X @ rng.permutation(val)).max() for _ in range(1000))
    return dict(zip(x, X @ val, strict=True)), by_chance


# %%
found, unguided = (
    {},
    [r for r in sound if r["sampler"] == "random" or int(r["trial"]) < 10],
)
for strategy in ("full", "LP-FT"):
    for what, rows in (("sound", sound), ("unguided", unguided)):
        some = [r for r in rows if r["strategy"] == strategy]
        found[strategy, what] = rho, most = correlations(some)
        print(f"{strategy:<5}  {what}: {len(some)};", end=" ")
        print(", ".join(f"{name} {v:+.2f}" for name, v in rho.items()), end="; ")
        print(f"by chance up to {most:.2f}")
for what in ("sound", "unguided"):
    (rho, most), (other, of_other) = found["full", what], found["LP-FT", what]
    assert rho["product"] > most + 0.05
    assert max(map(abs, other.values())) < of_other

# %% [markdown]
# (b): in *full* accuracy rises with the product, far beyond what chance gave, also in the trials that TPE did not guide
# (*unguided*: no earlier score had a say in them). Of the single settings the rate of *f* is beyond chance in all sound
# trials, the epochs in the unguided ones. In LP-FT nothing is visible among the sound ones. The index looked at one
# setting at a time, over both strategies, and missed it: look at the picture first. (The product was thought of after a
# look at these very trials: a guess for the next search.) "What matters" is a statement about the range that was
# searched and about what counts as a result.
#
# ## How good is that, compared with what is published?
#
# The solar cells under their authors' protocol: 88.42 % by a VGG-19, 82.44 % by an SVM (Deitsch et al. 2019). Ours,
# SqueezeNet at 224 pixels: `probe` trains *g* alone, `upper` what lies above stage2, `full` all of *f*; with a plus,
# weights are averaged and each test picture is seen in eight views (notebook 05, going deeper). One split; a seed
# that draws nothing is no second run, so *different* results are counted.

# %%
elpv = results.numbers(results.read("elpv"), "weighted_accuracy", "recipe", "seed")
for recipe in dict.fromkeys(recipe for recipe, _ in elpv):
    values = sorted({v for (r, _), v in elpv.items() if r == recipe})
    listed = ", ".join(f"{100 * v:.1f}" for v in values)
    print(f"{recipe:<7} {len(values)} run{'s' * (len(values) > 1)}: {listed} %")
assert len({v for (r, _), v in elpv.items() if r == "probe"}) == 1

# %% [markdown]
# The probe has no randomness: one number, stored with three seeds. No recipe reaches the VGG-19.

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: L2-SP and its gradient
#
# Complete `l2_sp`: the penalty $\tfrac a2\lVert\theta-\theta_0\rVert^2$ for one vector of weights (`w`, `w0` in the
# code), and its gradient.
#
# <details><summary>Hint 1</summary>
#
# Start with `away = w - w0`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# ‖v‖² is the sum of the squares: `(v ** 2).sum()`, or `v @ v`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The derivative of v² is 2v; the half in front cancels the 2.
#
# </details>


# %% tags=["exercise"]
def l2_sp(w, w0, a):
    """w (P,), w0 (P,), strength a -> penalty (), gradient (P,)"""
    # BEGIN SOLUTION
    # STUB: penalty, gradient = ..., ...
    # STUB: return penalty, gradient
    away = w - w0
    return a / 2 * away @ away, a * away
    # END SOLUTION


check("08.l2_sp", l2_sp)

# %% [markdown]
# ### ★ Exercise 2: draw a learning rate
#
# Complete `log_uniform`: turn numbers u, uniform between 0 and 1, into rates between `low` and `high` such that each
# factor of ten is equally likely.
#
# <details><summary>Hint 1</summary>
#
# What must u = 0 give, and what u = 1?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The *logarithm* of the rate is uniform between log low and log high.
#
# </details>
# <details><summary>Hint 3</summary>
#
# exp(log low + u · (log high − log low)) is low times a power of high / low.
#
# </details>


# %% tags=["exercise"]
def log_uniform(low, high, u):
    """u (n,) uniform in [0, 1] -> rates (n,)"""
    # BEGIN SOLUTION
    # STUB: ...
    return low * (high / low) ** u
    # END SOLUTION


check("08.log_uniform", log_uniform)

# %% [markdown]
# ### ★★ Exercise 3: hold it too tight
#
# In "What they do to the weights", call `with_spring(10_000)`. **Predict**, then run. Which product decides where it
# breaks, and what would you change?

# %% [markdown] tags=["solution"]
# **Exercise 3.** The spring alone makes a step of rate × a × (θ − θ₀). With rate 0.003 and a = 10,000 that is 30 times
# the distance: each step overshoots further, and the loss is soon not a number. With momentum 0.9 the limit is rate × a
# < 2 · (1 + 0.9) = 3.8, so a < 1,267 at this rate. Lower the rate, or hold *f* by freezing it: that is a → ∞.

# %% [markdown]
# ### ★★★ Exercise 4: a fair race
#
# Plan a comparison of TPE and random draws that could show a difference of one point: how many trials, how many
# searches, which pictures judge? Use the spread of the five searches above, and say what it would cost in hours.
#
# ## Remember
#
# - L2-SP is a spring tied to the start, BSS a shrinking of the weakest direction: one term each.
# - "Is my data like ImageNet?" is two questions: of the pictures and of what is asked of them.
# - Draw rates log-uniformly; give the search a seed and a journal.
# - Count each trial once. "What matters" is a statement about the range that was searched, broken runs included or not;
#   shuffle the scores, more than once, to see what chance says. An index that tells nothing may have looked past it.
#
# **Limits.** One task (photo details, whose pixels are in training and validation alike), one network, five searches
# of 20 trials.
#
# **References.** Li et al. 2018, *Explicit inductive bias for transfer learning with convolutional networks* (L2-SP),
# arXiv 1802.01483. Chen et al. 2019, *Catastrophic forgetting meets negative transfer: batch spectral shrinkage*,
# NeurIPS. Bergstra et al. 2011, *Algorithms for hyper-parameter optimization* (TPE), NeurIPS. Akiba et al. 2019,
# *Optuna*, KDD. Hutter et al. 2014, *An efficient approach for assessing hyperparameter importance* (fANOVA), ICML.
# Data: Deitsch et al. 2019, arXiv 1807.02894. Next: **09 The bug clinic**.
