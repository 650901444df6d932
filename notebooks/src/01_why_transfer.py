# %% [markdown]
# # 01 Why transfer? What a network that saw a million photographs is worth on pictures it has never seen
#
# Notebook 00 took *f* from ImageNet and it worked. Was ImageNet the reason? Here the same pictures are learned without
# it too: from raw pixels, from random weights, from eleven numbers that a person would think of.
#
# Afterwards you can
#
# - say what transfer means, and draw the curve that shows its worth: accuracy against the number of labels;
# - look into a feature space: nearest neighbours, maps, a linear classifier on top, one stage after the other;
# - set up the controls without which "pretraining helped" is only a belief.
#
# **40 minutes** to read and try, about a minute to run. You need notebook 00.

# %% tags=["setup"]
import csv

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from sftlib import backbones, features, metrics, schedules, training, widgets
from sftlib.checks import check
from sftlib.datasets import augment, loader, solar_cells
from sftlib.model import LinearHead, Model
from sftlib.plotting import COLOURS, bands, curves, embedding, idea, pictures, use_style
from sftlib.runtime import Precision, cache_folder, profile, seed_everything

use_style()

# %% [markdown]
# ## The idea
#
# **Transfer learning** is any use of what was learned on one task for another. In this course it travels in the
# weights of *f*. Today *f* stands still, the way it came, and we ask what *z* = *f*(*x*) knows already.

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("f", "z"))
plt.show()

# %% [markdown]
# | word | here | means |
# |---|---|---|
# | source task | 1,000 kinds of things on ImageNet's photographs | what *f* was trained on: **pretraining** |
# | target task | defect, yes or no | what we want, with few labels |
# | domain shift | everyday photographs → infrared pictures of cells | the pictures themselves differ |
# | inductive transfer | other task, with labels for it | the kind of transfer that this course is about |
# | **feature extraction** | *f* frozen, only *g* learns | with a linear *g*: a *linear probe* of *f* |
# | **fine-tuning** | *f* starts pretrained and learns on | more freedom, more cost |
# | from scratch | *f* starts random | no transfer: the control |
#
# (Pan & Yang 2010 has the full family tree: *transductive* transfer has labels for the source alone, *unsupervised*
# transfer has none.) **Frozen** means: nothing in *f* changes while *g* learns.

# %% [markdown]
# ## Settings

# %% tags=["setup"]
size = profile()
SEED = 0
# pixels; that of the stored table, so that rows can be compared
SIDE = size.pick(quick=96, full=96)
LABELS = (10, 30, 100, 300, 1000)  # how many training pictures have a label
# with how many the two trained ways run here
LIVE_LABELS = size.pick(quick=100, full=300)
SECONDS_A_LOOK, LOOKS, PAY_AN_HOUR = 20, 2, 40  # of an expert: put in your own

# %% [markdown]
# ## What is scarce
#
# Pictures are often cheap: these came out of a camera on a rail. What costs is a person who knows the answer. How
# much? That is your arithmetic, not ours: how long does one look take, how many people must agree, what does an hour
# cost? The three numbers above are placeholders.

# %%
for n in LABELS:
    hours = n * LOOKS * SECONDS_A_LOOK / 3600
    print(f"{n:>5,} labels: {hours:5.1f} hours, {hours * PAY_AN_HOUR:6,.0f} for pay")

# %% [markdown]
# The line is straight: ten times the labels, ten times the price. What they buy is not. So we shall draw accuracy over
# labels on a *logarithmic* axis, where each point costs about three times as much as the one before.

# %% [markdown]
# ## Look at the data
#
# The solar cells of notebook 00, and two questions about the *same* pictures: is the cell **defective**? And is it
# cut from one crystal (**mono**) or many (**poly**)?

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
questions = {"defect": cells.classes, "cell_type": solar_cells.TYPES}


def truth(question, part):
    """-> labels (N,) of a split"""
    split = getattr(cells, part)
    return split.labels if question == "defect" else split.types


for question, classes in questions.items():
    counts = {
        part: truth(question, part).bincount().tolist()
        for part in ("train", "val", "test")
    }
    share = max(counts["test"]) / sum(counts["test"])
    print(
        f"{question:<10} {' / '.join(classes):<23} {counts}  always the larger class: "
        f"{share:.1%} right"
    )

# %%
val_type, val_defect = truth("cell_type", "val"), truth("defect", "val")
show = torch.cat(
    [
        ((val_type == t) & (val_defect == d)).nonzero().flatten()[:3]
        for t in (0, 1)
        for d in (0, 1)
    ]
)
fig, axes = plt.subplots(2, 6, figsize=(9, 3.6))
titles = [
    f"{solar_cells.TYPES[val_type[i]]}, {cells.classes[val_defect[i]]}" for i in show
]
pictures(axes, cells.val.pictures[show], titles)
plt.show()

# %% [markdown]
# Two thirds of the cells work, so "always functional" is right for two thirds and finds *no* defect. **Balanced
# accuracy** is not fooled: the share found of each class, averaged over the K classes,
#
# $$\text{balanced accuracy} = \frac1K\sum_{k} \frac{\text{examples of class } k \text{ that were found}}
# {\text{examples of class } k}$$
#
# Any constant answer gets 1/K, here 0.5. We show both measures throughout: accuracy says how often you are right,
# balanced accuracy whether you have learned to tell the classes apart.

# %% [markdown]
# ## By hand: what does a picture look like to *f*?
#
# A good feature space puts pictures with the same answer close together. How close two are, the **cosine similarity**
# says: the cosine of the angle between their features, after each feature has been centred and scaled.
#
# $$x_{id} = \frac{z_{id} - m_d}{s_d} \qquad \cos(x_i, x_j) = \frac{x_i\cdot x_j}{\lVert x_i\rVert\,\lVert x_j\rVert}$$
#
# | symbol | code | is |
# |---|---|---|
# | $z_{id}$ | `z` (N, D) | feature *d* of picture *i* |
# | $m_d, s_d$ | `mean`, `deviation` (D,) | of that feature over the training pictures |
# | $\cos(x_i, x_j)$ | `similarity` (N, N) | 1 for the same direction, 0 for none in common |
#
# The simplest features are the **pixels** themselves: 32 × 32 grey values, each the mean of 3 × 3.


# %%
def pixels(split):
    """split of N pictures -> (N, 1024)"""
    return F.interpolate(
        split.pictures[:, :1].float(), size=(32, 32), mode="area"
    ).flatten(1)


z = pixels(cells.val)
mean, deviation = pixels(cells.train).mean(0), pixels(cells.train).std(0)
x = (z - mean) / deviation  # (N, D)
unit = x / x.norm(dim=1, keepdim=True)  # length 1
similarity = unit @ unit.T  # (N, N)
similarity.fill_diagonal_(-2)  # no picture is its own neighbour
nearest = similarity.argmax(1)  # (N,)

i, j = 3, nearest[3]
# the formula, number by number
one = sum(x[i, d] * x[j, d] for d in range(1024)) / (x[i].norm() * x[j].norm())
print(
    f"picture {i} is nearest to {j}: cosine {similarity[i, j]:.4f}, by the sum "
    f"{one:.4f}"
)
by_hand = (val_defect[nearest] == val_defect).double().mean().item()
print(f"the nearest neighbour has the same answer for {by_hand:.1%} of {len(z)}")

# %% [markdown]
# That is a classifier already: *answer what your nearest neighbour is*. Nothing was trained. With *k* neighbours that
# vote it is called **k nearest neighbours** (kNN), and `sftlib` has it:

# %%
print(f"knn_accuracy, k = 1: {features.knn_accuracy(x, val_defect, k=1):.1%}")
assert abs(features.knn_accuracy(x, val_defect, k=1) - by_hand) < 1e-9
print(f"knn_accuracy, k = 9: {features.knn_accuracy(x, val_defect, k=9):.1%}")

# %% [markdown]
# ## Four things that *g* could read
#
# - **brightness**: eleven numbers, the mean, the deviation and nine quantiles of the grey values. No idea where
#   anything is;
# - **pixels**: 1,024 numbers;
# - **random f**: 512 features of SqueezeNet as it was *before* anybody trained it. Same architecture, random weights;
# - **pretrained f**: 512 features of SqueezeNet from ImageNet.
#
# The random network matters: it has the convolutions and the pooling, but none of the knowledge. What a pretrained
# network does better than a random one, it has *learned*. We keep what leaves every stage (a map a channel, averaged
# to one number), for later.


# %%
def brightness(split):
    """split of N pictures -> (N, 11)"""
    grey = split.pictures[:, 0].float().flatten(1)
    marks = torch.tensor([0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1])
    return torch.cat(
        [grey.mean(1)[:, None], grey.std(1)[:, None], grey.quantile(marks, dim=1).T],
        dim=1,
    )


FORWARD = Precision(torch.float32, channels_last=True)
train_grey = cells.train.pictures[:, 0].float()
grey_mean, grey_deviation = train_grey.mean(), train_grey.std()


def network(pretrained, seed=SEED):
    """-> f, and what turns pictures into its x: random weights have no
    preprocessing of their own
    """
    seed_everything(seed)
    f = backbones.load_backbone("squeezenet1_1", size=SIDE, pretrained=pretrained)
    return (
        f,
        f.preprocess
        if pretrained
        else lambda p: (p.float() - grey_mean) / grey_deviation,
    )


@torch.inference_mode()
def all_stages(f, prepare, split):
    """-> stage -> (N, C): the mean of each channel that leaves it; for the last
    stage that is z
    """
    found = {stage: [] for stage in f.stages[:-1]}  # the last one is that very average
    for h, _ in loader(split, prepare, batch_size=64):
        h = FORWARD.place(h)
        for stage, parts in found.items():
            h = getattr(f, stage)(h)
            parts.append(h.flatten(2).mean(2))
    return {stage: torch.cat(parts).clone() for stage, parts in found.items()}


# %%
PARTS = ("train", "val", "test")
nets = {
    name: network(pretrained)
    for name, pretrained in (("random f", False), ("pretrained f", True))
}
stages = {
    name: {
        part: all_stages(FORWARD.place(f), prepare, getattr(cells, part))
        for part in PARTS
    }
    for name, (f, prepare) in nets.items()
}
ways = {"brightness": brightness, "pixels": pixels}
Z = {
    name: {part: way(getattr(cells, part)) for part in PARTS}
    for name, way in ways.items()
}
Z |= {
    name: {part: kept[part]["stage4"] for part in PARTS}
    for name, kept in stages.items()
}
for name, kept in Z.items():
    print(f"{name:<13}", {part: tuple(kept[part].shape) for part in PARTS})

# %% [markdown]
# ## Maps
#
# 512 dimensions cannot be looked at, two can. *Principal components* (PCA) are the two directions in which the points
# spread most; the labels play no part in choosing them. **Predict**: in which row will the colours separate best
# under the pretrained features: defect, or cell type?


# %%
def standardised(name, part):
    """-> x (N, D): centred and scaled by the training pictures; features that
    hardly vary stay small
    """
    mean, deviation = Z[name]["train"].mean(0), Z[name]["train"].std(0)
    return (Z[name][part] - mean) / (deviation + 0.1 * deviation.mean())


maps = {name: features.pca(standardised(name, "val"), 2) for name in Z}
# one scale for all
maps = {name: points / points.std() for name, points in maps.items()}
shown = ("pixels", "random f", "pretrained f")
fig, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True, sharey=True)
for row, (question, classes) in zip(axes, questions.items(), strict=True):
    for ax, name in zip(row, shown, strict=True):
        embedding(ax, maps[name], truth(question, "val"), classes)
        ax.set(
            xlim=(-3.2, 4.6),
            ylim=(-3.2, 3.2),
            xlabel="",
            ylabel="",
            title=f"{name}: {question}",
        )
        if name != shown[-1]:
            ax.get_legend().remove()
plt.show()

# %% [markdown]
# **Read.** The cell type, in the bottom right panel: mono and poly fall into two groups, and nobody told PCA, or *f*,
# that there are two. In the other panels, and for defects anywhere, no map shows two groups. (That is not the same as
# knowing nothing: a cloud can lean without parting, and a map leaves out what lies beyond its edges.) A network trained
# on cats and cars sorts solar cells, but by what *it* finds important.
#
# A map of two directions hides 510 others, so we count, too: kNN, and a **linear probe**: *g* alone is trained, on all
# 1,667 labels, with *f* as it is. (`linear_probe` does it by **logistic regression**: the cross-entropy of a
# linear *g*, plus a penalty `l2` on large weights, has one lowest point, and that is found directly.)


# %%
def measures(predicted, y):
    """-> accuracy, balanced accuracy"""
    counts = metrics.confusion_matrix(predicted, y, 2)
    return (counts.diagonal().sum() / counts.sum()).item(), metrics.balanced_accuracy(
        counts
    )


def neighbours_say(name, question, k=9):
    """-> predictions for the validation pictures: a vote of the k nearest
    training pictures
    """
    similarity = (
        F.normalize(standardised(name, "val"))
        @ F.normalize(standardised(name, "train")).T
    )
    return (
        truth(question, "train")[similarity.topk(k, dim=1).indices].double().mean(1)
        > 0.5
    ).long()


@torch.no_grad()
def probe_says(z_train, y_train, z_new, l2=0.1):
    """-> predictions of the g that fits the training features best"""
    return features.linear_probe(z_train, y_train, num_classes=2, l2=l2)(z_new).argmax(
        1
    )


# %% tags=["varies"]
judged = {}
for question in questions:
    y_train, y_val = truth(question, "train"), truth(question, "val")
    for name in Z:
        probe = measures(probe_says(Z[name]["train"], y_train, Z[name]["val"]), y_val)
        judged[question, name] = (
            *measures(neighbours_say(name, question), y_val),
            *probe,
        )
print(f"{'validation pictures':<26}{'9 neighbours':^20}{'linear probe':^20}")
print(f"{'':<26}{'accuracy':>9}{'balanced':>10}{'accuracy':>11}{'balanced':>10}")
for (question, name), (a, b, c, d) in judged.items():
    print(f"{question:<12}{name:<14}{a:>9.3f}{b:>10.3f}{c:>11.3f}{d:>10.3f}")
assert judged["defect", "pretrained f"][3] > judged["defect", "random f"][3]

# %% [markdown]
# **Read.** For the cell type the pretrained features are (nearly) perfect with nothing trained but a vote; pixels get
# near that only with a trained *g*. For defects they are first or second in every column, and the lead is small: raw
# pixels with a linear *g* are about as good at this one penalty (0.1, not tuned for either). And look at the random
# network: nothing in it was ever trained, yet it stands far above chance, and still it is behind the raw pixels in
# nearly every column. To stand above chance is no merit of a network: what counts is what it adds to the pixels.
#
# ## What does ImageNet know about solar cells?
#
# SqueezeNet's own classifier, the head that we cut off, must give one of its 1,000 names to every picture. What does
# it see?

# %% tags=["varies"]
f, prepare = nets["pretrained f"]
with torch.inference_mode():
    p = f.source_logits(f.preprocess(cells.val.pictures)).softmax(1)  # (222, 1000)
for question, classes in questions.items():
    for k, name in enumerate(classes):
        mean = p[truth(question, "val") == k].mean(0)
        top = ", ".join(
            f"{f.source_classes[c]} {mean[c]:.0%}" for c in mean.topk(4).indices
        )
        print(f"{name:<11}{top}")
print(f"\nhow sure of its first choice, on average: {p.max(1).values.mean():.0%}")
assert p.max(1).values.mean() > 0.05  # 1,000 names: a shrug would be 0.001

# %% [markdown]
# **Read.** Window screens, prisons, crossword puzzles: thin dark lines on something bright. It does not know the
# thing (how could it?), it recognises the *pattern*. And a wrong name can be useful: mono and poly cells get
# different ones, functional and defective cells get much the same. What is asked of the features decides what they
# are worth.
#
# The neighbours say it in pictures. Five validation cells, each with its nearest *training* picture by pixels and by
# the two kinds of features:

# %% tags=["varies"]
some = show[[0, 3, 4, 6, 9]]
fig, axes = plt.subplots(4, 5, figsize=(8, 7.6))


def about(split, i):
    return f"{solar_cells.TYPES[split.types[i]]}, {cells.classes[split.labels[i]]}"


pictures(axes[0], cells.val.pictures[some], [about(cells.val, i) for i in some])
for row, name in zip(axes[1:], shown, strict=True):
    similarity = (
        F.normalize(standardised(name, "val"))
        @ F.normalize(standardised(name, "train")).T
    )
    found = similarity[some].argmax(1)
    same = cells.train.labels[found] == cells.val.labels[some]
    pictures(
        row,
        cells.train.pictures[found],
        [about(cells.train, i) for i in found],
        right=same,
    )
for row, name in zip(axes, ("the cell", *shown), strict=True):
    row[0].text(
        -0.12,
        0.5,
        name,
        transform=row[0].transAxes,
        rotation=90,
        ha="center",
        va="center",
        fontsize=11,
    )
plt.show()
# the last row: pretrained f
assert (cells.train.types[found] == cells.val.types[some]).all()

# %% [markdown]
# **Read.** To the pretrained *f*, alike means alike in texture all over the picture: smooth cells find smooth ones,
# spotted ones spotted ones, one with many cracks another with many. A defect that fills a tenth of the cell is a
# tenth of an average, for *z* **is** an average over the picture, and it hardly moves the cell to other neighbours.

# %% [markdown]
# ## Which stage knows it?
#
# *f* is a chain of stages: early ones see edges, later ones ever larger and more particular patterns. A linear probe
# after each stage, on its averaged channels. **Predict**: where is defect read best, after (a) the first stages,
# (b) the last, the one made for naming ImageNet's things, or (c) is it all the same?

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True)
by_stage = {}
for ax, question in zip(axes, questions, strict=True):
    y_train, y_val = truth(question, "train"), truth(question, "val")
    for name, kept in stages.items():
        by_stage[question, name] = [
            measures(
                probe_says(kept["train"][s], y_train, kept["val"][s], l2=0.01), y_val
            )[1]
            for s in kept["val"]
        ]
    ax.set(ylim=(0.5, 1.02), title=question)
    curves(
        ax,
        {name: (range(5), by_stage[question, name]) for name in stages},
        xlabel="after",
        ylabel="",
    )
    ax.set_xticks(range(5), kept["val"])
axes[0].set_ylabel("balanced accuracy")
plt.show()
assert max(by_stage["defect", "pretrained f"]) > max(by_stage["defect", "random f"])

# %% [markdown]
# **Read.** For defects the curve of the pretrained *f* peaks *before* its last stage: what serves to name ImageNet's
# things is not what finds cracks. (One defective cell is 0.7 points here, so trust the rise more than the peak; with
# another split the peak may move.) The random *f* gains nothing with depth after its first stages. For the cell type
# the first stages are enough. Where to cut *f* is a choice: notebook 02 makes it, notebook 05 trains above it.

# %% [markdown]
# ## The label-budget curve
#
# Now the question itself. With *n* labels, from 10 to 1,000, six ways:
#
# - *g* alone learns, by logistic regression: on **brightness**, **pixels**, **random f, frozen**, **pretrained f,
#   frozen**;
# - *f* and *g* learn, by gradient steps on mirrored and turned pictures: **from scratch** and **fine-tuned**, the same
#   network and recipe, started from random and from pretrained weights.

# %% [markdown]
# A fair comparison needs rules. Each way has its *own* learning rate or penalty, chosen on the 222 validation
# pictures: a penalty of five, for each number of labels; a rate of three, with 100 labels (for 10 to 100) or 300 (for
# the others), on one or two runs that are not used again. Those 222 have labels too, so "10 labels" are ten to learn
# from, with more to choose by. Some choices lie at the edge of what was tried. Then five seeds; a seed decides which
# pictures are labelled (the shares of the classes as in the whole; the 10 are among the 30, and so on) and all that
# is random. The test pictures are used once a row. A line is the mean, a band reaches from the lowest seed to the
# highest.

# %%
with open(
    cache_folder().parent / "results" / "label_budget.csv", encoding="utf-8"
) as file:
    table = {
        (r["task"], r["method"], int(r["labels"]), int(r["seed"])): r
        for r in csv.DictReader(file)
    }
SEEDS = sorted({seed for *_, seed in table})
WAYS = list(dict.fromkeys(way for _, way, _, _ in table))


def column(question, way, what, labels=LABELS):
    """-> values (seeds, numbers of labels) of the table"""
    return np.array(
        [[float(table[question, way, n, seed][what]) for n in labels] for seed in SEEDS]
    )


print(
    f"{len(table)} rows, {len(SEEDS)} seeds; what validation chose (penalty for the "
    "first four, then learning rate):"
)
for way in WAYS:
    print(
        f"{way:<22}",
        *(f"{n:>6,}: {table['defect', way, n, 0]['knob']:<7}" for n in LABELS),
    )

# %% [markdown]
# The table took about fifteen minutes of one core (`python tools/experiments/run.py label_budget`). One seed of it runs
# live: first the four ways in which *f* stands still.


# %%
def labelled(y, n, seed):
    """labels y (N,) -> n rows, the classes in y's shares; those of a smaller n
    are among those of a larger
    """
    generator, parts = torch.Generator().manual_seed(seed), []
    for k in range(2):
        members = (y == k).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        parts.append(order[: round(n * len(members) / len(y))])
    return torch.cat(parts)


# %% tags=["varies"]
y_train, y_test = truth("defect", "train"), truth("defect", "test")
furthest, said = 0.0, {}
for way, name in zip(WAYS, Z, strict=False):
    line = []
    for n in LABELS:
        row, rows = table["defect", way, n, SEED], labelled(y_train, n, SEED)
        predicted = probe_says(
            Z[name]["train"][rows],
            y_train[rows],
            Z[name]["test"],
            l2=float(row["knob"]),
        )
        said[way, n], found = predicted, measures(predicted, y_test)[0]
        furthest = max(furthest, abs(found - float(row["test"])))
        line.append(f"{n:>6,}: {found:.3f}")
    print(f"{way:<22}", *line)
print(
    f"largest difference to the table: {furthest * len(y_test):.0f} of {len(y_test)} "
    "test pictures"
)
assert furthest < 0.03  # rounding on another machine may turn a few pictures

# %% [markdown]
# Then the two that learn *f*. This is notebook 00's loop, with *Adam* for an optimizer: it gives every parameter a
# step length of its own, and suits a network that starts from nothing (notebook 04 takes it apart).

# %%
# steps, pictures a step
STEPS_AT = {10: (60, 10), 30: (60, 15), 100: (120, 16), 300: (120, 32), 1000: (160, 32)}
STEPS, BATCH = STEPS_AT[LIVE_LABELS]


def train(pretrained, n=LIVE_LABELS):
    """-> predictions for the test pictures, the loss of each step; with n labels"""
    way = "fine-tuned" if pretrained else "from scratch"
    f, prepare = network(pretrained)
    model = Model(f, LinearHead(f.feature_dim, 2))
    part = cells.train.subset(labelled(y_train, n, SEED))
    turns = augment.Chain((augment.flip, augment.rotate))
    order = torch.Generator().manual_seed(SEED)
    batches = loader(
        part,
        prepare,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        augment=turns,
        generator=order,
    )
    epochs = -(-STEPS // len(batches))  # rounded up
    optimizer = torch.optim.Adam(
        model.parameters(), lr=float(table["defect", way, n, SEED]["knob"])
    )
    schedule = schedules.warmup_cosine(epochs * len(batches), warmup=10)
    records = training.fit(
        model, batches, optimizer, epochs=epochs, schedule=schedule, precision=FORWARD
    )
    losses = [r.loss for r in records if hasattr(r, "step")]
    with torch.inference_mode():
        test = loader(cells.test, prepare, batch_size=128)
        predicted = torch.cat(
            [model.eval()(FORWARD.place(x)).argmax(1) for x, _ in test]
        )
    return predicted, losses


# %% tags=["varies"]
history = {}
for way, pretrained in (("from scratch", False), ("fine-tuned", True)):
    predicted, history[way] = train(pretrained)
    (found, found_balanced), row = (
        measures(predicted, y_test),
        table["defect", way, LIVE_LABELS, SEED],
    )
    about = (
        f"in the table {float(row['test']):.3f}, balanced {float(row['balanced']):.3f}"
    )
    print(
        f"{way:<13}{LIVE_LABELS} labels: test {found:.3f}, balanced "
        f"{found_balanced:.3f}   {about}"
    )
    same = (predicted == said["brightness", LIVE_LABELS]).double().mean()
    print(
        f"{'':<13}the same answer as brightness with {LIVE_LABELS} labels: {same:.0%} "
        "of the test pictures"
    )
fig, ax = plt.subplots(figsize=(7, 3))
smooth = {
    way: np.convolve(losses, np.ones(8) / 8, "valid") for way, losses in history.items()
}
curves(
    ax,
    {way: (range(8, len(y) + 8), y) for way, y in smooth.items()},
    xlabel="step",
    ylabel="loss, mean of 8 steps",
)
plt.show()
assert smooth["fine-tuned"][-1] < smooth["from scratch"][-1] - 0.05

# %% [markdown]
# **Read.** Fine-tuning drives the loss on its labelled pictures far down, yet on test pictures it is hardly better,
# if at all: it also learns what is true of these few pictures only. That is **overfitting**, and the loss on the
# training pictures never shows it. (The table's rows were trained in 16-bit arithmetic, these in 32-bit; training
# amplifies rounding, so they differ by a few pictures.)
#
# **Predict** before you look. With 30 labels, the order from best to worst of *pretrained f, frozen*, *from scratch*,
# *brightness* is (a) as written, (b) the other way round, (c) no difference that five seeds can show. And with 1,000:
# which of the six wins?


# %%
fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
for ax, what, title in zip(
    axes, ("test", "balanced"), ("accuracy", "balanced accuracy"), strict=True
):
    ax.set(xscale="log", ylim=(0.48, 0.9), title=f"defect: {title}")
    bands(
        ax,
        LABELS,
        {way: column("defect", way, what) for way in WAYS},
        xlabel="labels",
        ylabel="",
    )
    ax.set_xticks(LABELS, [f"{n:,}" for n in LABELS])
    constant = {"test": (y_test == 0).double().mean(), "balanced": 0.5}[what]
    ax.axhline(constant, color="black", linestyle=":")
    ax.text(1000, constant + 0.006, "constant answer", ha="right")
plt.show()

# %% [markdown]
# **Read.** Not (a). With 10 and 30 labels the pretrained *f*, standing still, is at the *bottom* of balanced
# accuracy: eleven numbers, raw pixels and even the random network do better on average. Then one line leaves the
# others: **fine-tuned**, with 300 labels at least as good as *from scratch* with 1,000. So ImageNet's weights are
# worth something for defects, but as a place to *start from*, and with enough labels to move them. A fine-tuned curve
# among the others at 300 and 1,000 would have refuted that. Look at the bands before you believe an order among the
# rest.

# %% [markdown]
# ## How many labels is pretraining worth?
#
# Read the picture sideways. At *n* labels a way reaches some balanced accuracy; how many labels would the *other* way
# have needed for it? The other way's mean curve, read backwards on the logarithmic axis, answers for each seed. (Its
# dips are levelled out first. Beyond its ends we can only say "10 or less" and "1,000 or more".)

# %%


def labels_for(question, way, reached):
    """balanced accuracies (S,) -> the labels with which the mean curve of this
    way reaches them (S,)
    """
    rising = np.maximum.accumulate(column(question, way, "balanced").mean(0))
    return 10 ** np.interp(reached, rising, np.log10(LABELS))


def worth(question, way, other):
    """Print how many labels the other way needs for the same: median, lowest and
    highest of the seeds
    """
    print(f"{question}: {way}, against {other}")
    for n, reached in zip(LABELS, column(question, way, "balanced").T, strict=True):
        needed = np.sort(labels_for(question, other, reached)).round()
        low, middle, high = (needed[i] for i in (0, len(needed) // 2, -1))
        print(
            f"{n:>6,} labels do what {middle:>6,.0f} do there [{low:,.0f} to "
            f"{high:,.0f}]: {middle / n:>5.1f} times"
        )


worth("defect", "pretrained f, frozen", "from scratch")
worth("defect", "fine-tuned", "from scratch")

# %% [markdown]
# **Read.** The answer depends on what is done with the weights. Frozen, with up to 300 labels, they are worth less
# than nothing: *from scratch* does as much with 30 or fewer. Fine-tuned, they are worth nothing with 10 or 30 that we
# can see, anything from less than nothing to tenfold with 100, about threefold or more with 300; at 1,000 the other
# curve ends too early to tell. Mind the brackets: where the other curve is flat, a small difference in height is a huge
# one sideways. "Pretraining is worth ten times the labels" is a sentence about one task, one way and one budget.

# %% [markdown]
# ## Another question, the same pictures
#
# Now the cell type: same pictures, same *f*, same 512 features, other labels. (*From scratch* was run with up to 100
# labels, at the learning rate that was chosen for defects.) **Predict**: does pretraining help here more, less, or as
# much?

# %%
FEW = LABELS[:3]
FROZEN = [way for way in WAYS if way not in ("from scratch", "fine-tuned")]
fig, ax = plt.subplots(figsize=(7.5, 4.2))
ax.set(xscale="log", ylim=(0.5, 1.01), title="cell type: balanced accuracy")
series = {way: column("cell_type", way, "balanced") for way in FROZEN}
scratch = column("cell_type", "from scratch", "balanced", FEW)
series["from scratch"] = np.hstack(
    [scratch, np.full((len(SEEDS), len(LABELS) - len(FEW)), np.nan)]
)
bands(ax, LABELS, series, xlabel="labels", ylabel="")
ax.set_xticks(LABELS, [f"{n:,}" for n in LABELS])
plt.show()
worth("cell_type", "pretrained f, frozen", "pixels")

# %% [markdown]
# **Read.** Now it is worth a great deal, and frozen: ten labels do what pixels need several times as many for. Then
# pixels catch up, and with 300 labels there is nothing left to gain: what the labels tell, pretraining need not. Same
# pictures, same 512 features; only the question changed. Texture is what *f* sees (the window screens!), and the grain
# of the crystal is one mark of the cell type. How near the *question* is to what *f* knows decides, not how near the
# pictures are. (There is a second mark, a *shortcut*: mono cells are cut from round crystals, so their corners are cut
# off. Raw pixels can read that alone. Whoever wants texture to be the answer must cover the corners first.)

# %% [markdown]
# ## Where it breaks: the control that nobody ran
#
# Suppose we had never looked at **brightness**: eleven numbers, no network. Differences in balanced accuracy, seed by
# seed, with the 95 % **confidence interval** of their mean: made so that in 95 of 100 such experiments it would hold
# the mean of endless seeds. If it holds 0, we see no difference.

# %%
pairs = (
    ("defect", "pretrained f, frozen", "brightness"),
    ("cell_type", "pretrained f, frozen", "brightness"),
    ("defect", "fine-tuned", "from scratch"),
)
for question, way, other in pairs:
    print(f"{question}: {way}, minus {other}")
    for n, a, b in zip(
        LABELS,
        column(question, way, "balanced").T,
        column(question, other, "balanced").T,
        strict=True,
    ):
        i = metrics.paired_interval(a, b)
        verdict = (
            "no difference that we can see"
            if not i.excludes_zero
            else ("better" if i.mean > 0 else "worse")
        )
        print(f"{n:>6,} labels: {i}   {verdict}")

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
for ax, (question, classes) in zip(axes, questions.items(), strict=True):
    values = Z["brightness"]["train"][:, 0]
    for k, (name, look) in enumerate(
        zip(classes, ({"hatch": ""}, {"hatch": "///"}), strict=True)
    ):
        here = values[truth(question, "train") == k].numpy()
        colour = list(COLOURS.values())[k]
        ax.hist(
            here,
            bins=30,
            range=(0, 256),
            density=True,
            alpha=0.5,
            color=colour,
            label=name,
            edgecolor="white",
            **look,
        )
    ax.set(xlabel="mean grey value of a picture (0 to 255)", title=question, yticks=[])
    ax.legend()
axes[0].set_ylabel("share of the class")
plt.show()

# %% [markdown]
# **Read.** For defects the frozen network is *worse* than eleven numbers with 10 and 30 labels, and visibly better
# only with 1,000. The left histogram shows why: dead areas are dark, so a defective cell is a darker one, and a few
# numbers tell that better than 512 that look for other things. Does *from scratch* learn much the same? With 100
# labels it agrees with *brightness* more often than *fine-tuned* does (printed above). But two ways that both say
# "functional" most of the time agree often by that alone, so this is a hint, and no proof of a light meter. For the
# type, brightness does well too, but pretraining better.
#
# There is a second noise, of which these intervals know nothing: all seeds share the 334 test pictures. Would others
# have given the same answer? Drawing test pictures again and again from our own (*bootstrap*), seed 0, accuracy:

# %% tags=["varies"]
widths = []
for n in LABELS:
    pretrained, dull = (
        said[way, n] == y_test for way in ("pretrained f, frozen", "brightness")
    )
    i = metrics.bootstrap_interval(pretrained.double() - dull.double())
    widths.append(i.high - i.low)
    print(f"{n:>6,} labels: pretrained minus brightness {i}")
assert min(widths) > 0.02
print(
    "\nthe same networks on the other pictures that nobody trained on, mean accuracy "
    "over the seeds:"
)
for way in WAYS:
    val, test = (column("defect", way, part).mean(0) for part in ("val", "test"))
    print(
        f"{way:<22}",
        *(
            f"{LABELS[i]:>6,} labels: val {val[i]:.3f}, test {test[i]:.3f}"
            for i in (2, 4)
        ),
    )

# %% [markdown]
# **Read.** Each of these intervals is several points wide, and more seeds would not make it narrower; only more test
# pictures would. The last table is sobering: *from scratch* and *brightness* do some points better on the test
# pictures than on the validation pictures, *fine-tuned* hardly. So an order of the ways at 100 labels, read off 334
# pictures, is not a property of the ways. That fine-tuning leads with 1,000 shows on both sets.

# %% [markdown]
# ## What it costs to compute
#
# The unit of work is the **multiply-add**: a convolution or a linear layer is many of them (notebook 02 counts them by
# hand). A training step costs about three forward passes: one forward, and two of the same size to carry the gradient
# back, to the values and to the weights. A frozen *f* runs **once** a picture; a trained one runs in every step.

# %%
# it counts the two operations apart
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter, torch.no_grad():
    nets["pretrained f"][0](torch.zeros(1, 3, SIDE, SIDE))
forward = counter.get_total_flops() / 2
print(f"one picture forward: {forward / 1e6:.0f} million multiply-adds")
print(
    f"{'labels':>6}{'f frozen':>12}{'f trained':>12}{'ratio':>7}   core seconds in the "
    "table: frozen, fine-tuned"
)
for n, (steps, batch) in STEPS_AT.items():
    frozen, trained = n * forward, 3 * steps * batch * forward
    seconds = [
        column("defect", way, "cpu_s")[:, LABELS.index(n)].mean()
        for way in ("pretrained f, frozen", "fine-tuned")
    ]
    print(
        f"{n:>6,}{frozen / 1e9:>10.1f} G{trained / 1e9:>10.1f} "
        f"G{trained / frozen:>7.0f}   "
        f"{seconds[0]:>6.1f} s {seconds[1]:>6.1f} s"
    )

# %% [markdown]
# **Read.** Training *f* costs 15 to 180 times the multiply-adds of running it once. (In seconds the ratio is smaller:
# the table's training ran in 16-bit arithmetic.) And a frozen *z* serves every question about the same pictures, as
# it did here. But look at the scale: some twenty core seconds, against the hours of experts at the top of this
# notebook. Where labels are the scarce thing, computing is the cheap one; with a large network and many pictures it
# turns round (notebook 06).

# %% [markdown]
# ## Play
#
# Every point is a validation picture, on the map of the chosen features; a cross is one that the *k* nearest
# **labelled** neighbours get wrong. On the right the label-budget curve for this *k*, for all features. Nothing is
# trained, so every move is a new experiment.

# %%
nearness = {
    name: F.normalize(standardised(name, "val"))
    @ F.normalize(standardised(name, "train")).T
    for name in Z
}
answered = {
    question: {n: labelled(truth(question, "train"), n, SEED) for n in LABELS}
    for question in questions
}


def vote(name, question, n, k):
    """-> predictions (222,) by the k nearest of n labelled pictures"""
    rows = answered[question][n]
    nearest = nearness[name][:, rows].topk(min(k, n), dim=1).indices
    return (truth(question, "train")[rows][nearest].double().mean(1) > 0.5).long()


def explore(settings):
    """features, question, labels, k -> points, answers, predictions, and the
    curve of every kind of features
    """
    question, k, y = (
        settings["question"],
        settings["k"],
        truth(settings["question"], "val"),
    )
    score = {
        name: [measures(vote(name, question, n, k), y)[1] for n in LABELS] for name in Z
    }
    predicted = vote(settings["features"], question, settings["labels"], k)
    return {
        **settings,
        "points": maps[settings["features"]],
        "y": y,
        "predicted": predicted,
        "score": score,
    }


# %% tags=["hide-input"]
def draw_map(axes, found):
    left, right = axes
    wrong = found["predicted"] != found["y"]
    for k, (name, colour, marker) in enumerate(
        zip(questions[found["question"]], ("blue", "orange"), "o^", strict=True)
    ):
        points = found["points"][found["y"] == k]
        left.scatter(
            *points.T, color=COLOURS[colour], marker=marker, s=22, alpha=0.7, label=name
        )
    left.scatter(
        *found["points"][wrong].T,
        color="black",
        marker="x",
        s=34,
        linewidth=1.2,
        label="wrong",
    )
    left.set(
        xlim=(-3.2, 4.6),
        ylim=(-3.2, 3.2),
        xticks=[],
        yticks=[],
        title=f"{found['features']}: {int((~wrong).sum())} of {len(wrong)} right",
    )
    left.legend(loc="lower left")
    right.set(
        xscale="log", ylim=(0.45, 1.02), title=f"{found['question']}, k = {found['k']}"
    )
    curves(
        right,
        {name: (LABELS, values) for name, values in found["score"].items()},
        xlabel="labels",
        ylabel="balanced accuracy",
    )
    right.plot(
        found["labels"],
        found["score"][found["features"]][LABELS.index(found["labels"])],
        "o",
        color="black",
        ms=9,
    )
    right.set_xticks(LABELS, [f"{n:,}" for n in LABELS])


# %% tags=["varies"]
controls = {
    "features": w.Dropdown(
        options=list(Z), value="pretrained f", description="features"
    ),
    "question": w.Dropdown(options=list(questions), description="question"),
    "labels": w.SelectionSlider(options=LABELS, value=100, description="labels"),
    "k": w.IntSlider(value=1, min=1, max=25, description="neighbours k"),
}
explorer = widgets.Explorer(controls, explore, draw_map, figsize=(9.5, 4.0), columns=2)
explorer

# %% tags=["varies"]
controls["question"].value, controls["k"].value = "cell_type", 5
assert explorer.error is None and explorer.settings["k"] == 5
explorer.still()

# %% [markdown]
# (The still picture: cell type, 100 labels, *k* = 5.) Try: defect under *pretrained f*, then *k* from 1 to 25: which
# way do accuracy and balanced accuracy go? With 10 labels and *k* = 10 or more, why do the curves start at 0.5? Where
# on the map of *brightness* do the crosses lie?
#
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: k nearest neighbours
#
# Complete `neighbours`: for each row of `new`, the *k* rows of `x` with the largest cosine similarity vote with their
# labels; return the class with most votes (of equals, the lowest number). Nothing is centred or scaled here.


# %% tags=["exercise"]
def neighbours(new, x, y, k, num_classes):
    """new (M, D), x (N, D), y (N,) -> predicted classes (M,)"""
    # BEGIN SOLUTION
    # STUB: ...
    similarity = F.normalize(new, dim=1) @ F.normalize(x, dim=1).T  # (M, N)
    nearest = similarity.topk(k, dim=1).indices  # (M, k)
    return F.one_hot(y[nearest], num_classes).sum(1).argmax(1)
    # END SOLUTION


check("01.neighbours", neighbours)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `F.normalize(a, dim=1)` gives every row the length 1; the products of such rows are the cosines.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `similarity.topk(k, dim=1).indices` (M, k) says which rows of `x` may vote. Their labels are `y[...]` of it.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `F.one_hot(labels, num_classes)` (M, k, K) makes every label a ballot; sum the ballots over the neighbours, then
# `argmax`.
#
# </details>

# %% [markdown]
# ### ★ Exercise 2: balanced accuracy
#
# Complete `balanced` from its formula above. A class of which there is no example does not count, neither above nor
# below the fraction line.


# %% tags=["exercise"]
def balanced(predicted, y):
    """predicted (N,), y (N,) -> mean over the classes that occur in y of the
    share found, a float in [0, 1]
    """
    # BEGIN SOLUTION
    # STUB: ...
    shares = [(predicted[y == k] == k).double().mean() for k in y.unique()]
    return (sum(shares) / len(shares)).item()
    # END SOLUTION


check("01.balanced", balanced)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# One class at a time: which rows have `y == k`, and for which share of *those* is `predicted` also *k*?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `y.unique()` lists the classes that occur.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The mean is over classes, each counts the same however many examples it has. A mean over all rows is plain accuracy.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: how many labels does it take?
#
# Complete `labels_needed`: the number of labels at which a measured curve **first** reaches `target`, read off the
# straight line between two measured points, drawn on a *logarithmic* axis of labels. `labels[0]` if the curve starts at
# or above the target, `np.inf` if it never gets there. The curve may dip in between, so `np.interp` will not do.


# %% tags=["exercise"]
def labels_needed(labels, scores, target):
    """labels (n,) ascending, scores (n,) -> number of labels, a float"""
    # BEGIN SOLUTION
    # STUB: ...
    if scores[0] >= target:
        return float(labels[0])
    for i in range(1, len(labels)):
        if scores[i] >= target:
            share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
            return labels[i - 1] * (labels[i] / labels[i - 1]) ** share
    return np.inf
    # END SOLUTION


check("01.labels_needed", labels_needed)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Walk along the points until one is at or above the target. The crossing lies between it and the one before.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Which share of the way *up* is needed? `(target - below) / (above - below)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The same share of the way to the right, in logarithms: log n = log a + share · (log b − log a), so n =
# a · (b/a)^share.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 4: too many neighbours
#
# In the widget, *k* ends at 25. **Predict** accuracy and balanced accuracy of `vote("pretrained f", "defect", 1000, k)`
# for *k* = 100, 300 and 1,000, then compute them with `measures(…, truth("defect", "val"))`. What is the classifier at
# *k* = 1,000, and which of the two measures says so?

# %% [markdown]
# ### ★★ Exercise 5: take the brightness away
#
# Bring every picture to the same mean and deviation before anything else (subtract its mean, divide by its deviation,
# times 40, plus 152, clamped to 0 … 255 as `uint8`), and compute `brightness`, `pixels` and the pretrained *z* anew.
# **Predict** which of the three loses most in the linear probe for defects, and which does not care.

# %% [markdown] tags=["solution"]
# **Exercise 4.** With all 1,000 as neighbours everybody gets the same vote: the majority. The accuracy stays above two
# thirds and looks harmless; the balanced accuracy is exactly 0.5. On the way there defects get lost first, for they
# are the smaller class.
#
# **Exercise 5.** The table that the cell below prints decides; ours is stored with it. On 222 pictures a step of a few
# points is about the noise. Expect *brightness* and *pixels* to lose, for part of what they know about defects is
# "dark"; the pretrained features need not, as far as they did not rely on it.

# %% tags=["solution", "varies"]
whole = solar_cells.load(size=SIDE, seed=SEED)
f = backbones.load_backbone("squeezenet1_1", size=SIDE)
marks = torch.tensor([0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1])


def levelled(p):
    """pictures p (N, 3, H, W) uint8 -> the same, all with mean 152 and deviation 40"""
    p = p.float()
    mean, deviation = p.mean((1, 2, 3), keepdim=True), p.std((1, 2, 3), keepdim=True)
    return ((p - mean) / deviation * 40 + 152).clamp(0, 255).to(torch.uint8)


def three_kinds(p):
    """pictures p (N, 3, H, W) uint8 -> brightness, pixels and pretrained z of them"""
    grey = p[:, 0].float()
    numbers = torch.cat([grey.mean((1, 2))[:, None], grey.std((1, 2))[:, None],
                         grey.flatten(1).quantile(marks, dim=1).T], dim=1)  # fmt: skip
    with torch.inference_mode():
        z = torch.cat([f(f.preprocess(some)) for some in p.split(64)]).clone()
    return {
        "brightness": numbers,
        "pixels": F.adaptive_avg_pool2d(grey, 32).flatten(1),
        "pretrained f": z,
    }


print(f"{'linear probe, validation, balanced':<36}{'as they are':>12}{'levelled':>10}")
as_they_are, even = (
    [three_kinds(change(part.pictures)) for part in (whole.train, whole.val)]
    for change in (lambda p: p, levelled)
)
scores = {}
for name in as_they_are[0]:
    scores[name] = []
    for train, val in (as_they_are, even):
        with torch.no_grad():
            g = features.linear_probe(
                train[name], whole.train.labels, num_classes=2, l2=0.1
            )
            counts = metrics.confusion_matrix(
                g(val[name]).argmax(1), whole.val.labels, 2
            )
        scores[name].append(metrics.balanced_accuracy(counts))
    print(f"{name:<36}{scores[name][0]:>12.3f}{scores[name][1]:>10.3f}")
assert min(scores["pretrained f"]) > 0.6

# %% [markdown]
# ### ★★★ Exercise 6: a fairer chance for ImageNet
#
# *f* saw photographs of 224 pixels and reads our cells at 96; cracks are thin. Does `SIDE = 224`, or *z* from stage 3,
# or the largest instead of the mean value of every channel move the pretrained curve above the brightness curve with
# 100 labels? Decide on the validation pictures. How many things may you try before one of them wins by luck?

# %% [markdown]
# ## Remember
#
# - Transfer is measured as a curve: accuracy over labels, with and without the pretrained weights, each way tuned.
# - The controls decide: a random *f*, raw pixels, and the simplest numbers that you can think of. Run them first.
# - A frozen *f* helps as far as your question is about what it sees (here: texture). Fine-tuning moves it to other
#   questions, and needs labels for that.
# - Balanced accuracy shows what accuracy hides when classes are unequal. Two noises: other labels, other test pictures.
# - **Limits**: one small network at 96 pixels, one data set, five seeds, 334 test pictures, *z* a plain average, one
#   recipe for training with few labels. At 224 pixels, or with another network, the frozen curve may look better.
#
# **References.** Pan & Yang 2010, *A survey on transfer learning*, IEEE TKDE 22. Yosinski et al. 2014, arXiv 1411.1792
# (which stage transfers). Kornblith et al. 2019, arXiv 1805.08974 (do better ImageNet models transfer better). Raghu et
# al. 2019, arXiv 1902.07208 (pretraining that helps little, on medical pictures). Deitsch et al. 2019, arXiv 1807.02894
# (solar cells). Next: **02 Decoupling**; how to fine-tune is 05, on a GPU 06, which network 07, which strategy 08.
