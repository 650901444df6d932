# %% [markdown]
# # 07 Which pretrained model?
#
# There are hundreds of pretrained extractors *f*, and to fine-tune each is dear. A **transferability score** promises a
# short cut: a number from the features $z = f(x)$ of your labelled pictures, without training, that should rank the
# candidates as fine-tuning would. Does it? Eleven are held against the truth here, beside what costs nothing: the
# model's card.
#
# Afterwards you can
#
# - score features by nearest neighbours, a probe and the H-score, and prove when the last says nothing;
# - judge a score by weighted τ and regret, against controls that know almost nothing;
# - choose a pretrained model for your own task in four steps.
#
# **65 minutes** to read and try, half a minute to run. Before: notebooks 01, 02 and 05. Nothing is downloaded.

# %% tags=["setup"]
from itertools import permutations

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import weightedtau

from sftlib import backbones, features, metrics, results, runtime, selection
from sftlib.checks import check
from sftlib.datasets import drawn_shapes, loader, solar_cells
from sftlib.plotting import COLOURS, MARKERS, idea, pictures, use_style
from sftlib.widgets import Explorer

use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("f", "z"))
plt.show()

# %% tags=["setup"]
SEED, SEEDS = 0, range(3)  # of the live part; of the table
SIDE, LABELS = 64, 200  # pixels; labelled pictures: as in the table
PRECISION = runtime.CANDIDATES[1]  # float32 with channels last, as in the table
cells = solar_cells.load(size=SIDE, seed=SEED)
gen = torch.Generator().manual_seed(SEED)
mine = torch.randperm(len(cells.train), generator=gen)[:LABELS]
part = cells.train.subset(mine)  # the labelled pictures of seed 0
y = part.labels

# %% [markdown]
# ## Look at the data
#
# Three tasks that differ in kind. **Defect** and **cell type** of the solar cells (Deitsch et al. 2019, arXiv
# 1807.02894): grey photographs, unlike ImageNet. **Shapes**: drawn by this course, in colour; the class is the outline,
# while place, size, turn, pattern and light vary. Of each task 200 pictures are labelled.

# %%
SHAPES = drawn_shapes.CLASSES
drawn = [
    drawn_shapes.draw(k, np.random.default_rng([SEED, k])) for k in range(len(SHAPES))
]
rows = zip(part.labels[:5], part.types[:5], strict=True)
titles = [f"{cells.classes[k]}, {solar_cells.TYPES[t]}" for k, t in rows]
fig, axes = plt.subplots(2, 5, figsize=(9, 4.1))
pictures(axes[0], part.pictures[:5], titles)
pictures(axes[1], np.stack(drawn).transpose(0, 3, 1, 2), SHAPES)
plt.show()

# %%
print(f"{y.bincount().tolist()} of {cells.classes} are labelled")
share = y.bincount().max() / len(y)
print(f"always the larger class: {share:.1%} right; log K = {np.log(2):.3f} nats")
print(f"shapes: {len(SHAPES)} classes of equal size, chance {1 / len(SHAPES):.0%}")

# %% [markdown]
# ## The candidates
#
# Seven. Four networks with ImageNet weights. Two with **random** weights, the control. And one trained further on
# **another task**: SqueezeNet after three epochs on 800 cells (on the cell type where the task is *defect*, else on
# defects).
#
# The **card** of a model tells its size and its ImageNet top-1, the accuracy on ImageNet itself. For random weights we
# write 1/1000, and for *other task* the card it began with.

# %%
NETWORK = {"SqueezeNet": "squeezenet1_1"}
NETWORK |= {f"Lite{i}": f"efficientnet_lite{i}" for i in range(3)}
NAMES = [*NETWORK, "SqueezeNet, other task", "SqueezeNet, random", "Lite0, random"]
size, top1 = {}, {}  # millions of weights; accuracy
for name in NAMES:
    spec = backbones.BACKBONES[NETWORK[name.split(",")[0]]]
    size[name], top1[name] = spec.params / 1e6, spec.top1
    if "random" in name:
        top1[name] = 0.001
    print(f"{name:<24}D = {spec.feature_dim:>5}   {size[name]:.1f} M weights", end="")
    print(f"   ImageNet top-1 {top1[name]:.1%}")
cards = sorted((size[n], top1[n]) for n in NAMES if "random" not in n)
assert cards == sorted(cards, key=lambda card: card[1])  # size orders as top-1 does
print(f"{(mine < 800).sum()} of our {LABELS} cells are among the 800 of 'other task'")

# %% [markdown]
# A score starts from one forward pass over the 200 pictures: the features z, and for some scores the **source head**,
# what the network's own last layer says of the 1,000 ImageNet classes. (*Other task*, read from the table below, has a
# head of its own two classes. It learned from many of the very cells that it is scored on, with other labels: that may
# flatter its scores, not its test accuracy.)


# %%
@torch.no_grad()
def look(name):
    """name -> features z (N, D), answers of the source head theta (N, S)"""
    trained, network = "random" not in name, NETWORK[name.split(",")[0]]
    f = backbones.load_backbone(network, pretrained=trained, size=SIDE)
    if not trained:  # drawn again, from the seed
        runtime.seed_everything(SEED)
        f = backbones.load_backbone(network, pretrained=False, size=SIDE)
    batches = loader(part, f.preprocess, batch_size=100)
    z = features.extract(PRECISION.place(f), batches, precision=PRECISION)[0]
    if not trained:
        return z, torch.ones(len(z), 1)  # no head: the same answer to every picture
    return z, torch.cat([f.source_logits(x) for x, _ in batches]).softmax(1)


# %%
seen = {name: look(name) for name in NAMES if "other" not in name}
z, theta = seen["SqueezeNet"]
print("SqueezeNet: z", tuple(z.shape), "  theta", tuple(theta.shape))

# %% [markdown]
# ## By hand 1: neighbours, and a probe
#
# **kNN, leave-one-out**: each picture is classified by the votes of the *k* others whose features point most nearly in
# its direction. **Probe**: a linear *g* is fitted on four fifths of the pictures and tested on the rest, five times.
# The trap: nobody is nearer to a picture than the picture itself.


# %%
def votes(z, y, k, itself=False):
    """z (N, D), y (N,) of 0 or 1 -> share that the votes of k neighbours get right"""
    unit = z / z.norm(dim=1, keepdim=True)
    similarity = unit @ unit.T  # (N, N)
    if not itself:
        similarity.fill_diagonal_(-torch.inf)
    neighbours = similarity.topk(k, dim=1).indices  # (N, k)
    return ((y[neighbours].double().mean(1) > 0.5) == y).double().mean().item()


# %%
for k in (1, 5):
    right, wrong = votes(z.double(), y, k), votes(z.double(), y, k, itself=True)
    print(f"k = {k}: {right:.3f} by hand; {wrong:.3f} where it counts itself")
    assert right == features.knn_accuracy(z, y, k=k)
g = features.linear_probe(z, y)
own = (g(z).argmax(1) == y).double().mean().item()
held_out = selection.probe_accuracy(z, y)
print(f"probe: {held_out:.3f} held out; {own:.3f} on what it was fitted on")
assert votes(z, y, 1, itself=True) == own == 1 and held_out < 0.9

# %% [markdown]
# ## By hand 2: the H-score
#
# How much of the variation of z lies between the classes (Bao et al. 2019)? With Z (N, D) the centred features, and
# $\bar Z$ the same with each row replaced by the mean of its class,
#
# $$H = \operatorname{tr}\big((Z^\top Z)^{+}\,\bar Z^\top \bar Z\big)$$
#
# where ⁺ inverts on the directions in which z varies. For two classes it has a plain meaning. Let u be the centred
# labels, scaled to length 1. Class means are $\bar Z = u u^\top Z$, and $P = Z (Z^\top Z)^{+} Z^\top$ projects on what
# is linear in z. So
#
# $$H = \operatorname{tr}\big(u^\top Z (Z^\top Z)^{+} Z^\top u\big) = \lVert P u\rVert^2 = R^2,$$
#
# the share of the labels' variation that a linear function of z explains. (K classes: the sum over K − 1 such u.)


# %%
def h_by_hand(z, y):
    """z (N, D), y (N,) of 0 or 1 -> the trace, as written first"""
    z = z.double() - z.double().mean(0)
    means = torch.stack([z[y == k].mean(0) for k in range(2)])[y]  # (N, D)
    inverse = torch.linalg.pinv(z.T @ z, hermitian=True, rtol=1e-10)
    return torch.trace(inverse @ (means.T @ means)).item()


def r_squared(z, y):
    """share of y's variation that the best linear function of z explains"""
    z, u = z.double() - z.double().mean(0), y.double() - y.double().mean()
    fit = z @ torch.linalg.lstsq(z, u, driver="gelsd").solution
    return (fit.square().sum() / u.square().sum()).item()


# %%
few = z[:, :40]  # N > D
for what, some in (("40 features", few), ("all 512", z)):
    three = h_by_hand(some, y), r_squared(some, y), selection.h_score(some, y)
    print(f"{what:<12} trace {three[0]:.3f}, R² {three[1]:.3f}, sftlib {three[2]:.3f}")
    assert max(three) - min(three) < 1e-3

# %% [markdown]
# **Predict.** Shuffle the labels, so that nothing is left to explain. What is H now, with 40 features and with 512?
# (a) 0 and 0, (b) above 0, and 1, (c) 0, and above 0.

# %%
shuffled = [y[torch.randperm(len(y), generator=gen)] for _ in range(200)]
rank = torch.linalg.matrix_rank(few.double() - few.double().mean(0)).item()
found = np.mean([selection.h_score(few, s) for s in shuffled])
print(f"40 features, mean of 200 shuffles {found:.3f}; ", end="")
print(f"directions / (N - 1) = {rank} / {len(y) - 1} = {rank / (len(y) - 1):.3f}")
assert abs(found - rank / (len(y) - 1)) < 0.02
least = min(selection.h_score(z, s) for s in shuffled[:5])
print(f"all 512, the least of five shuffles: {least:.3f}")
assert least > 0.999

# %% [markdown]
# (b). A shuffled u points anywhere in the N − 1 dimensions of centred labels, so each direction of z explains 1/(N − 1)
# of it on average. With N ≤ D, z has all N − 1 of them: *any* labels are a linear function of z, and H is K − 1 for
# every candidate. **Shuffled labels** are the control of any score.
#
# ## All scores
#
# **Regularized H** shrinks the covariance, so that N < D is allowed. **LEEP**, **NCE**: how well the source head's
# classes tell yours; **N-LEEP**: the same of clusters of z. **LogME**: how probable the labels are under linear models,
# averaged over their weights. **TransRate**: nats to code all z, less those to code one class. **GBC**: how little the
# Gaussians of the classes overlap. **PARC**: do pairs of pictures that differ in z differ in class?

# %% tags=["varies"]
TITLES = {"top1": "ImageNet top-1", "knn": "kNN", "probe": "probe", "leep": "LEEP",
          "nce": "NCE", "n_leep": "N-LEEP", "h_score": "H-score",
          "regularized_h_score": "regularized H", "log_me": "LogME",
          "trans_rate": "TransRate", "gbc": "GBC", "parc": "PARC"}  # fmt: skip
live = {score: {} for score in selection.SCORES}
short = [name.replace("SqueezeNet", "SqN") for name in seen]
print(f"{'defect, seed 0':<15}", *(f"{name:>13}" for name in short))
for score, compute in selection.SCORES.items():
    for name, (z_name, theta_name) in seen.items():
        live[score][name] = compute(z_name, y, theta_name)
    row = (f"{value:>13.3f}" for value in live[score].values())
    print(f"{TITLES[score]:<15}", *row)
assert min(live["h_score"].values()) > 0.999

# %% [markdown]
# Units differ: only the *order within a row* counts. Random weights have no head: LEEP and NCE are told so, and give
# them the least there is, −H(Y).
#
# ## The truth
#
# For every task, candidate and seed: f's last stage and a new g are **fine-tuned** on 200 pictures, and tested once
# (`python tools/experiments/run.py pretrained_models`). The rate was chosen by accuracy on the validation pictures,
# with one tuning seed, of three rates for SqueezeNet and of only two for Lite: a finer search could change an order. A
# second truth: f **frozen**, a probe whose penalty was chosen likewise.

# %% tags=["varies"]
table = results.read("pretrained_models")
table = [r | {"task": r["task"].replace("_", " ")} for r in table]
TASKS = list(dict.fromkeys(r["task"] for r in table))


def values(column):
    """-> (tasks, candidates, seeds)"""
    found = results.numbers(table, column, "task", "candidate", "seed")
    stored = [[[found[t, c, str(s)] for s in SEEDS] for c in NAMES] for t in TASKS]
    return np.array(stored)


test, frozen = values("test"), values("probe_test")
for score in ("knn", "probe", "leep", "regularized_h_score", "log_me", "parc"):
    stored = dict(zip(NAMES, values(score)[0, :, SEED], strict=True))
    apart = max(abs(value - stored[name]) for name, value in live[score].items())
    print(f"{TITLES[score]:<16}live and stored differ by at most {apart:.3f}")
    assert apart < 0.06  # rounding on another machine may turn a few neighbours

# %%
largest = [n.bincount().max() / len(n) for n in (cells.test.labels, cells.test.types)]
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), sharey=True)
for t, (ax, chance) in enumerate(zip(axes, [*largest, 1 / len(SHAPES)], strict=True)):
    ways = {"fine-tuned": (test, "o", "blue"), "frozen, probe": (frozen, "^", "orange")}
    for i, (what, (truth, marker, colour)) in enumerate(ways.items()):
        places = np.repeat(np.arange(len(NAMES)) + 0.3 * i - 0.15, len(SEEDS))
        style = {"color": COLOURS[colour], "ms": 6, "alpha": 0.8, "label": what}
        ax.plot(100 * truth[t].ravel(), places, marker, **style)
    ax.axvline(100 * chance, color="black", ls=":", lw=1.5, label="largest class")
    ax.set(title=TASKS[t], xlabel="test accuracy (%)")
axes[0].set_yticks(range(len(NAMES)), NAMES)
axes[0].invert_yaxis()
fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# One mark a seed. How sure is the truth?
#
# **Predict.** By the course's one rule (pairs seed by seed, all 18 intervals together), how many of the 18 candidates
# that are not the best of their task are visibly behind it: (a) nearly all, (b) about half, (c) fewer than five?

# %%
mean, seen_behind = test.mean(2), []  # (tasks, candidates)
for task, runs in zip(TASKS, test, strict=True):
    best, rows = NAMES[runs.mean(1).argmax()], dict(zip(NAMES, runs, strict=True))
    found = metrics.compare(rows, against=best, comparisons=18)
    told = [c.first for c in found if c.visible]
    seen_behind += told
    print(f"{task:<10} best {best} {runs.mean(1).max():.3f}; behind: {told or 'none'}")
assert len(seen_behind) < 5
two = {
    name: test[0, NAMES.index(name)] for name in ("SqueezeNet", "SqueezeNet, random")
}
print("one pair alone, on defect:", metrics.compare(two)[0])

# %% [markdown]
# (c): the random weights, on shapes. As the only question asked, SqueezeNet's ImageNet weights would visibly help on
# defects. (The intervals speak of other labelled pictures, not of other test pictures.)
#
# ## The judgement
#
# - **Weighted τ**: are pairs of candidates in the right order? With ranks 1, 2, … from the best,
#   $\tau_w = \sum_{i<j} w_{ij}\,\sigma_{ij} / \sum_{i<j} w_{ij}$; $\sigma_{ij}$ is 1 if score and truth order i and j
#   alike, else −1, and $w_{ij} = 1/\mathrm{rank}_i + 1/\mathrm{rank}_j$: a mistake among the best costs more (Vigna
#   2015; the mean of ranking by score and by truth).
# - **Regret**: the accuracy you lose by taking the score's favourite.
#
# Three models, and a score that swaps the best two or the worst two. Unweighted, τ is 1/3 for both.

# %%
for what, score in (("best two", [2, 3, 1]), ("worst two", [3, 1, 2])):
    pairs = [(i, j) for i in range(3) for j in range(i)]
    w_ij = [1 / (i + 1) + 1 / (j + 1) for i, j in pairs]  # truth ranks them 1, 2, 3
    agree = [1 if score[i] < score[j] else -1 for i, j in pairs]
    by_hand = np.dot(w_ij, agree) / np.sum(w_ij)
    print(f"{what:<10} swapped: τ = {by_hand:.2f}")
    assert np.isclose(by_hand, weightedtau([3, 2, 1], score).statistic)

# %% [markdown]
# **Predict.** Which stands at the top: (a) one of the newer scores, (b) kNN or the probe, (c) ImageNet top-1?

# %%
scores = {title: values(column).mean(2) for column, title in TITLES.items()}
judged = selection.ranking_table(scores, mean)
trained = selection.ranking_table({s: v[:, :5] for s, v in scores.items()}, mean[:, :5])
on_frozen = selection.ranking_table(scores, frozen.mean(2))
order = sorted(judged, key=lambda s: -judged[s].tau.mean())
columns = {title: column for column, title in TITLES.items()}
print("score            τ, mean [range]      regret (points)  trained  frozen  CPU ms")
for s in order:
    tau, lost = judged[s].tau, 100 * judged[s].regret
    print(f"{s:<15}{tau.mean():+6.2f} [{tau.min():+.2f}, {tau.max():+.2f}]", end="")
    print(f"{lost.mean():6.1f} [{lost.min():.1f}, {lost.max():4.1f}]", end="")
    print(f"{trained[s].tau.mean():+9.2f}{on_frozen[s].tau.mean():+8.2f}", end="")
    print(f"{1000 * np.median(values(columns[s] + '_s')):8.1f}")
eleven = np.mean([trained[s].tau.mean() for s in order if s != "ImageNet top-1"])
print(f"the eleven scores, trained candidates only: mean τ {eleven:+.2f}")

# %% [markdown]
# τ and regret are means over the tasks; of three tasks only the range is honest. *trained*: τ without the random
# weights. *frozen*: τ with the second truth. *CPU ms*: median time, once z is there. (Scores are means over three draws
# of labels; you have one.)
#
# (c) is at the top. Luck, or knowledge? The control: candidates in **any order**, a new one for each task; and in any
# order that puts the **random weights last**. In which share of 100,000 draws is the mean τ as high as the score's?

# %%
rng = np.random.default_rng(SEED)
orders = np.array(list(permutations(range(7))))  # 5,040 scores of the candidates
random_last = orders[orders[:, 5:].max(1) < 2]  # 240 of them
by_chance, as_high, ends = {}, {}, {}
for what, some in (("any order", orders), ("random weights last", random_last)):
    taus = np.array([[selection.weighted_tau(o, t) for o in some] for t in mean])
    draws = rng.integers(len(some), size=(3, 100_000))
    of_three = np.take_along_axis(taus, draws, 1).mean(0)
    as_high[what] = [(of_three >= judged[s].tau.mean()).mean() for s in order]
    by_chance[what], ends[what] = taus, np.quantile(of_three, [0.025, 0.975])
    print(f"{what:<20} mean τ {of_three.mean():+.2f}, 95 % in", ends[what].round(2))
cards = {(*o, 0, 0) for o in permutations([top1[n] for n in NAMES[:5]])}  # two equal
alike = [np.mean([selection.weighted_tau(o, t) for t in mean]) for o in cards]
blind = (mean.max(1) - mean[:, :5].mean(1)).mean()
print(f"regret of any trained candidate: {100 * blind:.1f} points")

# %%
beats = {what: [] for what in as_high}
for s, *both in zip(order, *as_high.values(), strict=True):
    print(f"{s:<16}any order {both[0]:6.2%}   random weights last {both[1]:6.2%}")
    for what, share in zip(beats, both, strict=True):
        beats[what] += [s] if 12 * share < 0.05 else []  # corrected for 12 scores
for what, names in beats.items():
    print(f"visibly better than {what!r}:", ", ".join(names))
share = (np.array(alike) >= judged["ImageNet top-1"].tau.mean() - 1e-9).mean()
print(f"top-1, one of {len(cards)} cards for all tasks, random last: {share:.2%}")
found = metrics.compare({s: judged[s].tau for s in order}, against="ImageNet top-1")
print("visibly behind top-1:", [c.first for c in found if c.visible] or "none")
lead = {s: (v[:, :5].min(1) - v[:, 5:].max(1)).min() for s, v in scores.items()}
print("random weights last on all tasks:", [s for s in order[1:] if lead[s] > 0])
assert beats["any order"] == ["ImageNet top-1", "probe"] and 12 * share > 0.05
assert all((judged[order[0]].tau > judged[s].tau).all() for s in order[1:])

# %%
fig, ax = plt.subplots(figsize=(8.5, 4.2))
for t, task in enumerate(TASKS):
    taus = [judged[s].tau[t] for s in order]
    style = {"color": list(COLOURS.values())[t], "ms": 8, "alpha": 0.8}
    ax.plot(taus, np.arange(12) + 0.2 * t - 0.2, MARKERS[t], label=task, **style)
means = [judged[s].tau.mean() for s in order]
ax.plot(means, range(12), "|", color="black", ms=20, mew=3, label="mean of the tasks")
band = {"label": "95 % of such means:\nrandom weights last", "color": "#DDDDDD"}
ax.axvspan(*ends["random weights last"], zorder=0, **band)
ax.axvline(0, color="black", ls=":", lw=1.5)
ax.set_yticks(range(12), order)
ax.set(xlabel="weighted τ with fine-tuning", xlim=(-1.05, 1.05))
ax.invert_yaxis()
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# **Read.** By this control only top-1 and the probe are visibly better than chance, and only top-1 is better than
# knowing which weights are random. It flatters top-1, though: a card gives *one* order to all three tasks, and two of
# its values are equal. Of the 60 ways to hand them to the trained candidates, two are as high: 3.3 %, not enough among
# twelve scores. On each task top-1 was ahead of all eleven, though by the rule none of them is *visibly* behind it: the
# same score stands high on one task and low on another, and three tasks decide little. And it depends on the truth that
# is asked: with f *frozen*, kNN is first (+0.66; top-1 +0.61). The favourites of ten scores lose 1.9 to 4.5 points; a
# trained candidate taken blindly loses 3.0.
#
# Nor is it proof that ImageNet accuracy makes good features: here "take the larger network" would have done as well.
#
# ## Where it breaks: a score that misleads
#
# PARC's favourites for *defect* have random weights, and its τ there is the lowest of all. Is that chance? And what
# does it reward? A suspect is **brightness**, for defective cells are darker (notebook 01). The control has no network:
# z = (m, −m) with m the mean grey value, so that for PARC two pictures are near where both are darker than the mean, or
# both brighter.

# %% tags=["varies"]
lowest = min(judged[s].tau.min() for s in order)
print(f"PARC on defect: τ {lowest:+.2f}; favourite of each seed:", end=" ")
print("; ".join(NAMES[i] for i in values("parc")[0].argmax(0)))
share = (by_chance["any order"] <= lowest + 1e-9).mean(1)  # of the orders, a task each
print(f"as low: {share[0]:.2%} of orders; ", end="")
print(f"the lowest of 36 orders: {1 - np.prod((1 - share) ** 12):.1%}")
grey = part.pictures[:, 0].double().mean((1, 2))  # m
bright = selection.parc(torch.stack([grey, -grey], dim=1), y)
best = max(value for name, value in live["parc"].items() if "random" not in name)
print(f"PARC: brightness {bright:.3f}, the best of trained networks {best:.3f}")
first = {name: features.pca(z, 1).flatten() for name, (z, _) in seen.items()}
along = {name: abs(np.corrcoef(v, grey)[0, 1]) for name, v in first.items()}
print("main direction with mean grey:", *(f"{n} {v:.2f};" for n, v in along.items()))
assert lowest == judged["PARC"].tau[0] and bright > best + 0.03
assert all("random" in name for name in sorted(along, key=along.get)[-2:])

# %% [markdown]
# One order in 600 is as low, but it is the lowest of 36 numbers: chance alone does that in one case in eighteen. And
# there is a reason: brightness alone gets a higher PARC than any trained network, and the main direction of random
# features goes with brightness, that of trained ones does not.
#
# ## In practice
#
# 1. **Shortlist** by what you can afford to run, and by the card.
# 2. **Extract** features of your own training pictures, with each candidate's *own* preprocessing.
# 3. **kNN and a cross-validated probe** show what is broken or hopeless. Do not rank what is near.
# 4. **Fine-tune the two or three** that are left, each at its own rate, with several seeds.
#
# ## Play
#
# Does the score (across) put the candidates in the order of the truth (up)? Bars: range over the seeds; filled:
# ImageNet weights.


# %%
TRUTHS = {"fine-tuned": 100 * test, "frozen, probe": 100 * frozen}


def update(settings):
    """-> settings, score and truth (candidates, seeds), the judgement"""
    t, truth = TASKS.index(settings["task"]), TRUTHS[settings["truth"]]
    s, a = values(columns[settings["score"]])[t], truth[t]
    found = selection.ranking_table({"": s.mean(1)}, a.mean(1))[""]
    return settings, s, a, found.tau[0], found.regret[0]


def reach(v):
    """v (seeds,) -> how far below and above the mean they reach, (2, 1)"""
    return np.clip([[v.mean() - v.min()], [v.max() - v.mean()]], 0, None)


# %%
def plot(ax, found):
    settings, s, a, tau, lost = found
    for i, (name, colour) in enumerate(zip(NAMES, COLOURS.values(), strict=False)):
        style = {"xerr": reach(s[i]), "yerr": reach(a[i]), "fmt": MARKERS[i], "ms": 9}
        inside = colour if name in NETWORK else "white"
        style |= {"color": colour, "markerfacecolor": inside, "label": name, "lw": 1.5}
        ax.errorbar(s[i].mean(), a[i].mean(), **style)
    ax.set(xlabel=settings["score"], ylabel=f"test accuracy, {settings['truth']} (%)")
    ax.set_title(f"{settings['task']}: τ {tau:+.2f}, regret {lost:.1f} points")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


# %% tags=["varies"]
controls = {
    "task": w.Dropdown(options=TASKS, description="task"),
    "score": w.Dropdown(options=list(columns), value="kNN", description="score"),
    "truth": w.Dropdown(options=list(TRUTHS), description="truth"),
}
explorer = Explorer(controls, update, plot, figsize=(8, 3.8))
assert explorer.error is None
explorer

# %%
explorer.still()

# %% [markdown]
# Try *H-score*, then *ImageNet top-1*, with both truths.
#
# ## Exercises
#
# ### ★ Exercise 1: leave-one-out
#
# Complete `loo_accuracy`: each picture is classified by the *nearest other* (k = 1) by cosine similarity.
#
# <details><summary>Hint 1</summary>
#
# Cosine similarity is the inner product of rows of length 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Whose similarity to a picture is the largest? It must not vote.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `fill_diagonal_(-torch.inf)`, then `argmax(1)`.
#
# </details>


# %% tags=["exercise"]
def loo_accuracy(z, y):
    """z (N, D), y (N,) -> share of the pictures whose nearest other has their class"""
    # BEGIN SOLUTION
    # STUB: ...
    unit = z / z.norm(dim=1, keepdim=True)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return (y[similarity.argmax(1)] == y).double().mean()
    # END SOLUTION


check("07.leave_one_out", loo_accuracy)

# %% [markdown]
# ### ★ Exercise 2: regret
#
# Complete `my_regret`: what accuracy is lost by taking the model with the highest score? Where several share it, one of
# them is picked by chance: give the mean.
#
# <details><summary>Hint 1</summary>
#
# Compare the best accuracy with the favourite's.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `scores == scores.max()` marks all favourites.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `truth[mask].mean()` is the mean over marked models.
#
# </details>


# %% tags=["exercise"]
def my_regret(scores, truth):
    """scores (M,), truth (M,) accuracies, as NumPy arrays -> a number of at least 0"""
    # BEGIN SOLUTION
    # STUB: ...
    chosen = scores == scores.max()
    return truth.max() - truth[chosen].mean()
    # END SOLUTION


check("07.regret", my_regret)

# %% [markdown]
# ### ★ Exercise 3: ties
#
# H-scores are equal, up to rounding. SciPy's `weightedtau` gives *nan* for what is equal, and else ranks the rounding
# errors. Complete `fair_tau`: scores that differ by less than a millionth of the largest (in size) count as equal; a
# constant score or truth says nothing, and gets 0; otherwise it is SciPy's value.
#
# <details><summary>Hint 1</summary>
#
# Make near ones equal; is anything left to rank?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `np.round(scores / np.abs(scores).max(), 6)` ties near ones. What if all are 0?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `np.ptp(scores) == 0` is true where all are equal.
#
# </details>


# %% tags=["exercise"]
def fair_tau(scores, truth):
    """scores (M,), truth (M,), as NumPy arrays -> weighted τ in [−1, 1]"""
    # BEGIN SOLUTION
    # STUB: ...
    largest = np.abs(scores).max()
    scores = np.round(scores / largest, 6) if largest > 0 else scores
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return 0.0
    return weightedtau(truth, scores).statistic
    # END SOLUTION


check("07.ties", fair_tau)

# %% [markdown]
# ### ★★ Exercise 4: an eighth candidate
#
# Take nine quantiles of the grey values as z (`quantile`), with ones (N, 1) as theta. **Predict** which of
# `selection.SCORES` put them above SqueezeNet, then look. Then ask the truth: a `features.linear_probe` on each, tested
# on `cells.test`.
#
# ### ★★★ Exercise 5: your own task
#
# Put your pictures into folders, read them with `image_folder.load`, and score all candidates. Write down which two you
# would fine-tune, and why; then fine-tune all, with seeds. Were you right, by more than noise?

# %% [markdown] tags=["solution"]
# **Exercise 4.** All scores of both, then a probe with the penalty of the stored table (1) on 200 cells:

# %% tags=["solution", "varies"]
f = PRECISION.place(backbones.load_backbone("squeezenet1_1", size=SIDE))
z, theta = {}, {"nine numbers": torch.ones(LABELS, 1)}
nine = torch.linspace(0.1, 0.9, 9)
for what, some in (("train", part), ("test", cells.test)):
    batches = loader(some, f.preprocess, batch_size=100)
    z["SqueezeNet", what] = features.extract(f, batches, precision=PRECISION)[0]
    grey = some.pictures[:, 0].float().flatten(1)
    z["nine numbers", what] = grey.quantile(nine, dim=1).T
with torch.no_grad():
    batches = loader(part, f.preprocess, batch_size=100)
    theta["SqueezeNet"] = torch.cat([f.source_logits(x) for x, _ in batches]).softmax(1)
for score, compute in selection.SCORES.items():
    found = {who: compute(z[who, "train"], y, theta[who]) for who in theta}
    print(f"{score:<20}", *(f"{who} {value:9.3f}" for who, value in found.items()))

# %% tags=["solution", "varies"]
hits = {}
for who in theta:
    g = features.linear_probe(z[who, "train"], y, l2=1.0)
    hits[who] = (g(z[who, "test"]).argmax(1) == cells.test.labels).numpy()
    print(f"{who:<11} test accuracy {hits[who].mean():.3f}")
print(metrics.compare(hits)[0])

# %% [markdown] tags=["solution"]
# kNN, the probe, N-LEEP and PARC put nine grey values above SqueezeNet's 512 features. LEEP and NCE give them the least
# there is, for they have no head. H-scores and TransRate prefer what has more directions, labels or not. And the truth
# does not take sides: between the two probes there is no difference that we can see.
#
# **Exercise 5.** There is no single answer. A good one names the noise of the test set before the ranks.

# %% [markdown]
# ## Remember
#
# - A transferability score is a guess. Judge it by weighted τ, *regret* and price, against the card, kNN and a probe.
# - Six of eleven scores put the random weights last on every task, two because they were told. Among the trained the
#   mean τ of the eleven was +0.05.
# - With N ≤ D any labels are linear in z: the H-score is constant. Shuffle the labels to see what chance alone gives.
# - The truth has noise too: of 18 candidates behind the best, two were visibly so.
#
# **Limits.** Three tasks, seven candidates of two families in which size and top-1 go together, 200 labels, 64 pixels,
# the last stage trained, three seeds. Larger studies: kNN ahead of 23 scores (arXiv 2503.18528), no winner everywhere
# (2204.01403), few ahead of top-1 (2405.20420).
#
# **References.** H-score: Bao et al. 2019, *An information-theoretic approach to transferability*; regularized: Ibrahim
# et al. 2021, arXiv 2110.06893. TransRate: Huang et al. 2022, 2106.09362. GBC: Pándy et al. 2022, 2111.12780. PARC:
# Bolya et al. 2021, 2111.06977. τ: Vigna 2015, *A weighted correlation index for rankings with ties*. Top-1: Iandola et
# al. 2016, 1602.07360, table 2; TensorFlow TPU models, efficientnet/lite. **Going deeper**: [LEEP, LogME and a mistake
# in its published code](07_which_pretrained_model_deeper.ipynb). Next: **08 Which strategy?**
