# %% [markdown]
# # 08 Which strategy?
#
# A decision. You have a pretrained *f* and **500 labelled pictures of solar cells**, defective or not. You may train
#
# - *g* alone, on features that are computed once: a third of a second;
# - the last stage of *f* too: two seconds;
# - that, and one more term in the loss that holds *f* back: two to four seconds.
#
# Which do you take? Write it down. This notebook looks the answer up in 270 stored runs, then asks how far to trust
# it: how many labels, which task, which runs broke, and on which pictures was the choice made?
#
# Afterwards you can
#
# - write Co-Tuning, the term that keeps *f*'s old head alive, from its formula;
# - read a table of strategies without being fooled by its size;
# - choose a strategy on validation by a rule, and report it on test.
#
# **65 minutes** to read and try, half a minute to run. Before: notebooks 00, 02, 03 and 05.

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch

from sftlib import adaptation, backbones, features, losses, metrics, results, runtime
from sftlib.checks import check
from sftlib.datasets import loader, photo_details, solar_cells
from sftlib.model import LinearHead, Model, Standardise
from sftlib.plotting import COLOURS, MARKERS, heat, idea, intervals, pictures, use_style
from sftlib.schedules import warmup_cosine
from sftlib.training import fit
from sftlib.widgets import Explorer

use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("f", "g"))
plt.show()

# %%
SEED, SEEDS = 0, range(5)  # of the live runs; of the table
SIDE, D = 96, 512  # pixels; features
LABELS, BATCH, EPOCHS = 500, 25, 5  # of the live runs, as in the table
PRECISION = runtime.Precision(torch.bfloat16, channels_last=True)  # as in the table
SIZES = (20, 100, 500)  # labelled pictures, in the table

# %% [markdown]
# ## Look at the data
#
# The cells of notebook 00, with two questions: **cell defect** (is it defective?) and **cell type** (cut from one
# crystal or from many?). And a made-up task, **photo details**: which of eight details of two photographs is this?

# %%
TASKS = {
    "photo details": photo_details.load(size=SIDE),
    "cell type": solar_cells.load(task="cell_type", size=SIDE),
    "cell defect": solar_cells.load(task="defect", size=SIDE),
}
for name, task in TASKS.items():
    counts = task.test.labels.bincount()
    parts = [len(p) for p in (task.train, task.val, task.test)]
    majority = (counts.max() / counts.sum()).item()
    print(f"{name:<14}{len(counts)} classes, train, val, test {parts}, ", end="")
    print(f"majority {majority:.3f}, log K {np.log(len(counts)):.3f}")

# %%
fig, axes = plt.subplots(3, 6, figsize=(9, 5), layout="constrained")
for row, task in zip(axes, TASKS.values(), strict=True):
    K = len(task.classes)
    which = [int((task.train.labels == k % K).nonzero()[k // K]) for k in range(6)]
    names = [task.classes[k % K].replace(" the ", " the\n") for k in range(6)]
    pictures(row, task.train.pictures[which], names)
    for ax in row:
        ax.title.set_fontsize(9)
plt.show()

# %% [markdown]
# ## By hand: Co-Tuning
#
# Full fine-tuning may destroy what *f* knows. **Co-Tuning** (You et al. 2020) keeps *f*'s old ImageNet head, *q*, in
# the model and asks it to go on answering as before training. Row y of the **relationship** $\bar p$ is the mean of its
# probabilities then, over labelled pictures of target class y:
#
# $$\bar p_{ys} = \frac1{N_y}\sum_{i:\,y_i = y} p_{is},\qquad
# L = L_g + \lambda\,\frac1N\sum_i\Big[-\sum_s \bar p_{y_i s}\log q_s(x_i)\Big]$$
#
# | symbol | in the code | is |
# |---|---|---|
# | $p_{is}$ | `p` (N, S) | old head's probabilities of S = 1,000 source classes, before training |
# | $q_s(x_i)$ | `log_q` (N, S) | the same, now |
# | $\bar p_{ys}$ | `relation` (K, S) | what the old head says of each target class |
#
# (The paper also learns the reverse, turned round by Bayes' rule; the mean is its simpler form and our table's.)

# %% tags=["varies"]
f = backbones.load_backbone("squeezenet1_1", size=SIDE)
old_head, reads = backbones.load_source_head("squeezenet1_1")
cells = TASKS["cell defect"]
some, y = f.preprocess(cells.train.pictures[:60]), cells.train.labels[:60]
with torch.inference_mode():
    source_logits = old_head(f.lower(some, reads))  # (60, 1000)
p, log_q = source_logits.softmax(1), source_logits.log_softmax(1)
relation = torch.stack([p[y == k].mean(0) for k in range(2)])  # (2, 1000)
by_hand = -(relation[y] * log_q).sum(1).mean()
assert torch.allclose(relation, losses.category_relationship(p, y, num_classes=2))
assert torch.allclose(losses.co_tuning(source_logits, y, relation), by_hand)
for k, name in enumerate(cells.classes):
    said = zip(*(t.tolist() for t in relation[k].topk(3)), strict=True)
    print(f"{name:<11}", ", ".join(f"{f.source_classes[s]} {v:.2f}" for v, s in said))

# %% [markdown]
# No ImageNet class is a solar cell, and what the head says is odd. Only a comparison can tell whether keeping it
# *helps*.
#
# ## The experiment: labels × task × strategy
#
# | strategy | what is trained | settings tried |
# |---|---|---|
# | linear probe | *g* alone, logistic regression | 4 penalties |
# | full | stage4 of *f* at rate α, *g* at 10 α, from a random *g* | 3 rates |
# | LP-FT | the same, from the probe's *g* | 3 rates |
# | L2-SP | full, with $\frac a2\lVert\theta-\theta_0\rVert^2$: *f*'s weights θ stay near their start | 3 rates × 2 |
# | BSS | full, smallest singular value of a batch's features shrunk | 3 rates × 2 |
# | Co-Tuning | full, with the term above | 3 rates × 2 |
#
# (L2-SP, BSS: *Going deeper*.) *f* below stage4 stays as it came; its maps are computed once. The settings were chosen
# for each task and number of labels by validation accuracy (222 cells, 240 details), in one tuning run (two with 20
# labels). So the three regularised strategies had twice as many tries as full, and validation labels count too. Then
# five seeds: which pictures are labelled, the start of *g*, the order of batches. The test pictures were looked at once
# a row.
#
# First seed 0, live: the probe and Co-Tuning.


# %%
def prepare():
    """-> top of f, standardise, random g, batches of cached maps: as in the table"""
    order = torch.Generator().manual_seed(SEED)
    mine = torch.randperm(len(cells.train), generator=order)[:LABELS]
    batches = loader(cells.train.subset(mine), f.preprocess, batch_size=100)
    h, y = features.extract(f, batches, stage="stage3")
    how = {"batch_size": BATCH, "shuffle": True, "generator": order}
    top = backbones.load_backbone("squeezenet1_1", size=SIDE)
    runtime.seed_everything(SEED)
    with torch.no_grad():
        standardise = Standardise(top.pool(top.stage4(h)))
    g = LinearHead(D, 2)
    return top, standardise, g, features.Cached(features=h, labels=y, **how)


# %%
@torch.inference_mode()
def accuracy(model):
    """-> share of right answers on the test pictures, in [0, 1]"""
    with PRECISION.autocast("cpu"):
        return (model.eval()(h_test).argmax(1) == y_test).double().mean().item()


test = loader(cells.test, f.preprocess, batch_size=100)
h_test, y_test = features.extract(f, test, stage="stage3")
grid = results.read("strategy_grid")
stored = {(r["target"], r["labels"], r["strategy"], r["seed"]): r for r in grid}


# %%
def probe(row):
    top, standardise, _, maps = prepare()
    body = torch.nn.Sequential(top.stage4, top.pool, standardise)
    with torch.no_grad():
        z = body(maps.features)
    l2 = float(row["weight"])
    return Model(body, features.linear_probe(z, maps.labels, num_classes=2, l2=l2))


# %%
def co_tuning(row):
    """f ends where the old head reads; pool, standardise and g come after it"""
    top, standardise, g, maps = prepare()
    with torch.no_grad():
        p = old_head(top.stage4(maps.features)).softmax(1)
    relation = losses.category_relationship(p, maps.labels, num_classes=2)
    return (
        Model(top.stage4, torch.nn.Sequential(top.pool, standardise, g)),
        maps,
        relation,
    )


# %%
def train(row):
    """-> a model trained with Co-Tuning at a row's rate and weight"""
    model, maps, relation = co_tuning(row)
    lr, steps = float(row["lr"]), EPOCHS * len(maps)
    term = losses.CoTuning(backbones.load_source_head("squeezenet1_1")[0], relation)
    rates = {"f": (model.backbone, lr), "g": (model.head, 10 * lr), "old": (term, lr)}
    optimizer = torch.optim.SGD(adaptation.param_groups(**rates), momentum=0.9)
    how = {"feature_loss": term, "feature_weight": float(row["weight"]),
           "schedule": warmup_cosine(steps, warmup=steps // 10)}  # fmt: skip
    list(fit(model, maps, optimizer, epochs=EPOCHS, precision=PRECISION, **how))
    return model


# %% tags=["varies"]
for strategy, make in (("linear probe", probe), ("Co-Tuning", train)):
    row = stored["cell defect", str(LABELS), strategy, str(SEED)]
    live = accuracy(make(row))
    print(f"{strategy:<13} live {live:.3f}, in the table {float(row['test']):.3f}")
    assert abs(live - float(row["test"])) < 0.03  # rounding may turn a few of 334

# %% [markdown]
# **Predict.** With 500 labelled cells, which strategies are visibly better than the probe: (a) all that train *f*,
# (b) one of them, (c) none?
#
# All rows, by the course's one rule (`metrics.compare`): seed by seed, intervals that hold together for all 45
# comparisons with the probe.

# %%
STRATEGIES = list(dict.fromkeys(r["strategy"] for r in grid))
COLUMNS = ("val", "test", "shifted", "cpu_s", "moved")
BY = ("target", "labels", "strategy", "seed")
numbers = {column: results.numbers(grid, column, *BY) for column in COLUMNS}


def five(column, target, n, strategy):
    """-> values of a column for the five seeds of a cell of the grid"""
    return np.array([numbers[column][target, str(n), strategy, str(s)] for s in SEEDS])


def compared(column, target, n, base="linear probe"):
    """-> strategy -> its comparison with the base, one of 45"""
    table = {s: five(column, target, n, s) for s in STRATEGIES}
    found = metrics.compare(table, against=base, comparisons=45)
    return {c.first: c for c in found}


# %%
def mark(c):
    """Comparison with the probe, or None for itself -> its sign"""
    if c is None:
        return ""
    return "○" if not c.visible else "▲" if c.interval.mean > 0 else "▼"


def draw_table(ax, target):
    """One task: strategies × labels, mean test accuracy and sign against the probe"""
    mean = [[five("test", target, n, s).mean() for n in SIZES] for s in STRATEGIES]
    texts = [[f"{100 * value:.1f}" for value in row] for row in mean]
    for j, n in enumerate(SIZES):
        of = compared("test", target, n)
        for i, s in enumerate(STRATEGIES):
            texts[i][j] += f" {mark(of.get(s))}"
    how = {"rows": STRATEGIES, "columns": SIZES, "limits": (0.3, 1.6)}
    heat(ax, mean, texts=texts, **how).set(title=target, xlabel="labels")


# %%
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), sharey=True, layout="constrained")
for ax, target in zip(axes, TASKS, strict=True):
    draw_table(ax, target)
plt.show()
print(*compared("test", "cell defect", 500).values(), sep="\n")
every = [c for t in TASKS for n in SIZES for c in compared("test", t, n).values()]
visible = [c for c in every if c.visible]
print(f"{len(visible)} of {len(every)} are visible")
assert len(visible) < 9 and all(c.interval.mean > 0 for c in visible)

# %% [markdown]
# Mean test accuracy in per cent; ▲ or ▼: visibly above or below the probe; ○: no visible difference.
#
# **Read.** (b): Co-Tuning, by three points. Elsewhere on the cells, nothing visible: neither from training more of *f*
# nor from any term. With 20 labels, where the penalties are meant to help, most intervals are wide, up to ± 26 points
# on the defects: they exclude neither gains nor losses of several points.
#
# ### Two controls
#
# **Other pictures.** All five seeds share the *same* 334 test pictures. The interval holds the noise of training and of
# which pictures are labelled, not that of another test set. But each of the ten models was also judged on 222
# validation pictures. If Co-Tuning is better for solar cells, not for these 334 alone, it should show there.

# %%
for column in ("test", "val"):
    print(column, compared(column, "cell defect", 500)["Co-Tuning"])
spread = np.sqrt(0.1 / 334)  # of a difference, where two models disagree on 10 %
print(f"two models that disagree on 10 % of 334: ± {200 * spread:.1f} points by chance")
two = {s: five("val", "cell defect", 500, s) for s in ("Co-Tuning", "linear probe")}
print("val, as if it were the only comparison:", metrics.compare(two)[0].interval)
on_val = compared("val", "cell defect", 500)["Co-Tuning"]
assert not on_val.visible and compared("test", "cell defect", 500)["Co-Tuning"].visible

# %% [markdown]
# It does not: on validation the mean difference is about 0, though these pictures chose the settings, Co-Tuning's
# among more. But the interval holds three points too, even as the only comparison. So the gain stands *for these test
# pictures*, unconfirmed by others, and is of the size that a draw of pictures gives or takes.
#
# **Seen pixels.** The other two ▲ stand at photo details with 100 labels. Its train, validation and test squares are
# all cut from the same eight rectangles. How much of a new square have the labelled ones of its class already shown? We
# draw squares as the loader does.


# %%
def turned(v, angle):
    """v (…, 2), angle (…) -> v turned by it"""
    (x, y), c, s = v.unbind(-1), angle.cos(), angle.sin()
    return torch.stack([x * c - y * s, x * s + y * c], -1)


def squares(detail, n):
    """-> centres (n, 2), sides (n,) and turns (n,) of squares inside a detail"""
    u, (low, high) = torch.rand(n, 4, generator=draw), photo_details.SPAN
    side = low + (high - low) * u[:, 2]
    corner = torch.tensor([detail.left, detail.top])
    room = torch.tensor([detail.right, detail.bottom]) - corner - side[:, None]
    place = corner + side[:, None] / 2 + u[:, :2] * room.clamp(min=0)
    return place, side, 2 * np.pi * u[:, 3]


# %%
draw, covered = torch.Generator().manual_seed(SEED), {}
for n in SIZES:
    shares = []
    for detail in photo_details.DETAILS:
        place, side, turn = squares(detail, round(n / 8))  # labelled
        new, new_side, new_turn = squares(detail, 60)
        at = torch.rand(60, 200, 2, generator=draw) - 0.5  # points of each new square
        at = new[:, None] + new_side[:, None, None] * turned(at, new_turn[:, None])
        away = turned(at[:, :, None] - place, -turn).abs()  # (60, 200, labelled, 2)
        inside = (away <= side[:, None] / 2).all(-1).any(-1)
        shares.append(inside.double().mean(1))
    covered[n] = torch.cat(shares)
    print(f"{n} labels: covered {covered[n].mean():.0%}, least {covered[n].min():.0%}")
assert covered[500].mean() > 0.95 > covered[20].mean()

# %% [markdown]
# With 500 labels a "new" picture shows what was labelled before, at another angle, in other colours. So this task
# measures how well seen pixels are *recognised*. It says little about new photographs, and its ▲ are no evidence for
# pictures "near to ImageNet".
#
# ## Where it breaks: the runs that a mean hides
#
# A rate that was fine in the tuning run can fail with another seed. The experiment repeats a run whose loss is no
# number at a third of its rate, so the table's rates tell which ones. And `moved`, the distance of *f*'s weights from
# their start over the start's norm, tells those that broke without a word.
#
# **Predict.** Of 225 trained runs (5 strategies), how many broke: (a) none, (b) 1 to 5, (c) more?

# %%
rates, broken = {}, []
for r in grid:
    rates.setdefault(tuple(r[b] for b in BY[:3]), []).append(float(r["lr"]))
for r in grid:
    cell = tuple(r[b] for b in BY)
    again, moved = float(r["lr"]) < max(rates[cell[:3]]), float(r["moved"])
    if again or moved > 1:
        how = f"{'repeated, ' if again else ''}moved {moved:.2g} times its norm"
        print(*cell, f"test {float(r['test']):.3f}:", how)
        broken.append(r["strategy"])
by_strategy = {s: broken.count(s) for s in STRATEGIES}
print(by_strategy, "of 45 runs each")
assert by_strategy["LP-FT"] > by_strategy["full"] > 0

# %%
chosen = {c: max(lrs) for c, lrs in rates.items() if c[2] != "linear probe"}
tried = sorted(set(chosen.values()))
count = {lr: list(chosen.values()).count(lr) for lr in tried}
print("rates of f, and how often each was chosen:", count)
edge, lot = len(chosen) - count[tried[1]], 2 * len(chosen) // 3
print(f"{edge} of {len(chosen)} at an edge of the grid; a lot: {lot}")
gains = [chosen[t, str(n), c.first] for t in TASKS for n in SIZES
         for c in compared("test", t, n).values() if c.visible]  # fmt: skip
print("rates of the ▲:", gains)
assert edge == 29 and lot == 30 and set(gains) == {tried[-1]} and len(tried) == 3

# %% [markdown]
# (c): nine. Six were repeated, one of these broke again; three more ended far below their neighbours with a finite
# loss. LP-FT has most of them, but full broke twice too. The three means of LP-FT that look worst in the figure hold
# such runs: no verdict on LP-FT.
#
# And 29 of 45 chosen rates lie at an edge of the three, as a lot would put them: the best may lie outside. What
# separates strategies may be their rates: all three ▲ stand at the highest, where other runs broke. Try rates until the
# best lies inside, with more seeds.
#
# ## Choose on validation, report on test
#
# The **one-standard-error rule**: of all strategies whose mean is at least the best mean minus its standard error
# (deviation over the seeds, divided by √seeds), take the *cheapest*. Means are those on *validation*; test is looked at
# afterwards. For contrast, the same rule on test, which one must not do.


# %%
def advise(target, n, allowed=STRATEGIES, column="val"):
    """-> the strategy that the one-standard-error rule takes"""
    mean = {s: five(column, target, n, s).mean() for s in allowed}
    best = max(mean, key=mean.get)
    error = five(column, target, n, best).std(ddof=1) / len(SEEDS) ** 0.5
    near = [s for s in allowed if mean[s] >= mean[best] - error]
    return min(near, key=lambda s: five("cpu_s", target, n, s).mean())


# %%
differ, told = [], []
for target in TASKS:
    for n in SIZES:
        choice, peeked = advise(target, n), advise(target, n, column="test")
        gain = compared("test", target, n).get(choice)
        differ += [(target, n)] if choice != peeked else []
        told += [(target, n)] if gain and gain.visible else []
        test = five("test", target, n, choice).mean()
        print(f"{target:<14}{n:>4}: {choice:<13}test {test:.3f}   (on test: {peeked})")
print(f"{len(differ)} of 9 differ; visibly better than the probe: {told}")
assert differ and len(told) < 5

# %% [markdown]
# For the decision at the top the honest choice is the probe, *not* the winner of the table: the validation pictures
# never saw its lead. Only one of the nine choices is told apart from the probe, on seen pixels. Where strategies cannot
# be told apart, a rule takes one near the top, and with five other seeds might take its neighbour.
#
# ### The winner's luck
#
# The best of many trials is partly good and partly lucky. Simulated: 20 settings, each judged on 240 pictures of its
# own draw, all equally good (75 %), or as different as our search's trials. Measured, in the stored searches (20 trials
# each, five seeds, two samplers): how much more does the winner's validation accuracy exceed its test accuracy than the
# mean trial's of the *same search*?
#
# **Predict** the measured luck: (a) about 5 points, as in the simulation of equals, (b) about 1 or nothing visible.

# %%
rng = np.random.default_rng(SEED)
live = [r for r in results.read("search") if float(r["val"]) > 0]  # 0: not a number
equal = rng.binomial(240, 0.75, size=(4000, 20)).max(1).mean() / 240 - 0.75
truth = rng.choice([float(r["test"]) for r in live], size=(4000, 20))
seen = rng.binomial(240, truth) / 240
spread = (seen.max(1) - truth[range(4000), seen.argmax(1)]).mean()
print(f"simulated: equals {100 * equal:+.1f} points, unequal {100 * spread:+.1f}")
luck = {"random": [], "TPE": []}
for sampler in luck:
    for s in SEEDS:
        mine = [r for r in live if (r["sampler"], r["seed"]) == (sampler, str(s))]
        val, test = (np.array([float(r[c]) for r in mine]) for c in ("val", "test"))
        luck[sampler].append((val - test)[val.argmax()] - (val - test).mean())
    print(f"measured, {sampler:<6}", metrics.mean_interval(luck[sampler]))
assert equal > 0.03 and spread < equal

# %% [markdown]
# (b): nothing visible; both intervals exclude the 5 points of equals, not the 2.6 of unequal settings. (The two are not
# independent: they share their first ten trials.) Settings that truly differ are separated by more than luck; and ours
# share their pictures, so part of the luck too.
#
# ## The control that the grid lacks
#
# All strategies start from a pretrained *f*. Was that a good idea? Notebook 01's runs, balanced accuracy on defects,
# differences to the frozen pretrained *f*:

# %%
budget = [r for r in results.read("label_budget") if r["task"] == "defect"]
ways = ("pretrained f, frozen", "random f, frozen", "from scratch")
found = results.numbers(budget, "balanced", "method", "labels", "seed")
for n in (10, 30, 100, 300, 1000):
    table = {m: [found[m, str(n), str(s)] for s in SEEDS] for m in ways}
    print(n, "labels")
    for c in metrics.compare(table, against=ways[0], comparisons=10):
        print("   ", c)
    two = {m: table[m] for m in ways[:2]}
    alone = metrics.compare(two, against=ways[0])[0].interval
    print(f"    random f, as if it were the only comparison: {alone}")
    assert n > 30 or alone.low > 0

# %% [markdown]
# With 10 and 30 labels the *random* frozen *f* lies above the pretrained one, by 7 and 4 points, and *from scratch*
# above both. Each as the only comparison would exclude 0; of the ten, corrected, only from scratch with 30 labels does.
# Nothing here speaks *for* the pretrained *f* on this question. Defective cells are darker, and ImageNet's features
# hardly say so (notebook 01). So "which strategy?" starts with a question that no strategy answers: does this *f* know
# anything about *this* question?
#
# ## Play: describe your task
#
# The advice uses the rule above on validation, compares it with the probe on test, and says when you are outside what
# was measured.

# %%
LIKE = {
    "solar cells, a fine question": "cell defect",
    "solar cells, a coarse question": "cell type",
    "pixels that were seen": "photo details",
    "not pictures at all": None,
}
ALLOWED = {
    "seconds: cached features": STRATEGIES[:1],
    "one training run": STRATEGIES[:3],
    "a search over constants": STRATEGIES,
}


# %%
def update(settings):
    """-> task, labels, strategies of the evidence; the advice; what is outside"""
    target, labels = LIKE[settings["like"]] or "cell defect", settings["labels"]
    n = min(SIZES, key=lambda size: abs(np.log(size / labels)))
    outside = [] if 20 <= labels <= 500 else [f"{labels} labels (20 to 500)"]
    outside += [] if LIKE[settings["like"]] else ["not pictures"]
    allowed = ALLOWED[settings["compute"]]
    return target, n, allowed, advise(target, n, allowed), outside


# %%
def plot(axes, found):
    (text, ax), (target, n, allowed, *_) = axes, found
    for i, column in enumerate(("val", "test")):
        means = [metrics.mean_interval(five(column, target, n, s)) for s in allowed]
        ends = [(m.mean, max(m.low, 0), min(m.high, 1)) for m in means]
        rows = {s: metrics.Interval(*e) for s, e in zip(allowed, ends, strict=True)}
        how = {"colour": COLOURS[("blue", "orange")[i]], "marker": MARKERS[i]}
        intervals(ax, rows, scale=100, shift=0.4 * i - 0.2, label=column, **how)
    ax.set_xlabel(f"accuracy, {n} labels (%), 95 % intervals")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    text.set_axis_off()
    lines = "\n".join(advice_lines(*found))
    text.text(0, 0.95, lines, va="top", fontsize=10, linespacing=1.6)


# %%
def advice_lines(target, n, _, advice, outside):
    """-> the advice in words"""
    seconds = [five("cpu_s", target, n, s).mean() for s in (advice, "linear probe")]
    how = "A guess" if outside else "Advice"
    how = "No run tells; the nearest" if "not pictures" in outside else how
    yield f"{how}: {advice}"
    yield f"{seconds[0]:.2f} s a run, {seconds[0] / seconds[1]:.0f} times the probe"
    shifted = five("shifted", target, n, advice).mean()
    yield f"blurred or pale test pictures: {shifted:.1%}"
    if advice != "linear probe":
        c = compared("test", target, n)[advice]
        yield "test, minus probe: " + ("" if c.visible else "no visible difference")
        yield str(c.interval)
    yield "OUTSIDE: " + ", ".join(outside) if outside else "Inside what was measured"


# %% tags=["varies"]
controls = {
    "labels": w.IntSlider(value=500, min=5, max=2000, step=5, description="labels"),
    "like": w.Dropdown(options=list(LIKE), description="task"),
    "compute": w.Dropdown(options=list(ALLOWED)[::-1], description="compute"),
}
explorer = Explorer(controls, update, plot, figsize=(9, 3.6), columns=2)
assert explorer.error is None
explorer

# %%
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: what does the old head say?
#
# Complete `relationship`: row *y* is the mean of the old head's probabilities over the pictures of target class *y*.
#
# <details><summary>Hint 1</summary>
#
# `p[y == 0]` are the rows of class 0.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `.mean(0)` is over pictures: S numbers that sum to 1.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `torch.stack` makes one tensor of a list of K rows.
#
# </details>


# %% tags=["exercise"]
def relationship(p, y, K):
    """p (N, S) probabilities, y (N,) -> (K, S)"""
    # BEGIN SOLUTION
    # STUB: ...
    return torch.stack([p[y == k].mean(0) for k in range(K)])
    # END SOLUTION


check("08.relationship", relationship)

# %% [markdown]
# ### ★ Exercise 2: the one-standard-error rule
#
# Complete `choose`: the cheapest of all strategies whose mean accuracy is at least the best mean minus its *standard
# error*, defined above.
#
# <details><summary>Hint 1</summary>
#
# `accuracy.mean(1)` is one number a strategy; `.argmax()` finds the best.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Its standard error: `accuracy[best].std() / seeds ** 0.5`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Set the cost of those too far below to infinity; `argmin`.
#
# </details>


# %% tags=["exercise"]
def choose(accuracy, cost):
    """accuracy (strategies, seeds), cost (strategies,) -> index"""
    # BEGIN SOLUTION
    # STUB: ...
    means, seeds = accuracy.mean(1), accuracy.shape[1]
    best = means.argmax()
    near = means >= means[best] - accuracy[best].std() / seeds**0.5
    return int(torch.where(near, cost, torch.inf).argmin())
    # END SOLUTION


check("08.one_standard_error", choose)

# %% [markdown]
# ### ★ Exercise 3: choose and report
#
# R settings were trained; `val` and `test` hold their accuracies. Complete `honest`: which setting do you choose, and
# which accuracy do you report for it?
#
# <details><summary>Hint 1</summary>
#
# Which may be looked at before choosing?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The winner's own validation accuracy was picked because it was high.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `i = val.argmax()`; report `test[i]`.
#
# </details>


# %% tags=["exercise"]
def honest(val, test):
    """val (R,), test (R,) -> index of the choice, the accuracy to report"""
    # BEGIN SOLUTION
    # STUB: choice, report = ..., ...
    # STUB: return choice, report
    choice = int(val.argmax())
    return choice, test[choice]
    # END SOLUTION


check("08.honest", honest)

# %% [markdown]
# ### ★★ Exercise 4: how many seeds?
#
# From the table: about how many seeds would it take to see a difference of one point between L2-SP and full on cell
# defects with 100 labels, if there is one and nothing else is compared? And what would more seeds *not* tell you?

# %% [markdown] tags=["solution"]
# **Exercise 4.** The half-width is $t\,s/\sqrt n$, with s the deviation of the differences and t about 2 for many
# seeds. So one point takes about $(2s)^2$ seeds, s in points:

# %% tags=["solution"]
rows = [r for r in results.read("strategy_grid") if r["target"] == "cell defect"]
table = results.numbers(rows, "test", "strategy", "labels", "seed")
names = ("L2-SP", "full")
one, other = ([table[s, "100", str(i)] for i in range(5)] for s in names)
s = 100 * np.std(np.subtract(one, other), ddof=1)
print(f"s = {s:.1f} points, so about {(2 * s) ** 2:.0f} seeds for ± 1 point")

# %% [markdown] tags=["solution"]
# Small differences are dear. And seeds share one test set: no number of them tells what other pictures would say.

# %% [markdown]
# ### ★★★ Exercise 5: a task of your own
#
# Take a folder of your pictures (or another question about the cells) and find out whether the widget's advice holds
# for it. Decide before you look what would refute it, how many seeds, and which pictures choose.
#
# ## Remember
#
# - The linear probe comes first: it costs next to nothing, and is the bar for everything else.
# - Of 45 corrected comparisons with it, three are visible: two on seen pixels, one that other pictures do not confirm.
# - Seeds that share a test set say nothing of another test set.
# - Count the runs that broke, the repeated ones too. A mean hides them.
# - Choose on validation; report on test, once.
#
# **Limits.** Three tasks, one on seen pixels, two with cells of one panel in all parts; one network at 96 pixels, its
# last stage trained by one optimizer, no augmentation, five seeds, one split each; small grids, tuned on one or two
# runs, unequal numbers of tries.
#
# **References.** You et al. 2020, *Co-Tuning for transfer learning*, NeurIPS, eqs. (1) to (4). Hastie, Tibshirani and
# Friedman 2009, *The elements of statistical learning*, section 7.10 (one-standard-error rule). Kumar et al. 2022,
# *Fine-tuning can distort pretrained features and underperform out-of-distribution* (LP-FT), ICLR. Data: Deitsch et
# al. 2019, arXiv 1807.02894. **Going deeper**: [L2-SP and BSS derived, what they do to the weights, and a search with
# Optuna](08_which_strategy_deeper.ipynb). Next: **09 The bug clinic**.
