# %% [markdown]
# # 03 The combined loss: should the features have a loss of their own?
#
# So far *f* learned only through *g*, from the classifier's loss $L_g$. One can also judge the features directly, by a
# second loss $L_f$ on $z = f(x)$, and train on the sum, with a weight λ:
#
# $$L = L_g(g(f(x)), y) + \lambda\, L_f(f(x), y)$$
#
# First the loss that works. Then a colleague's loop that means it and says something else: its twenty lines fail in
# seven ways. Last, whether any of it helps.
#
# Afterwards you can
#
# - derive the cosine loss and its gradient, and say which directions the classes need;
# - say what a loss on features needs, and find the mistakes that make it do nothing;
# - compare losses fairly, with the answer "no difference that we can see" allowed.
#
# **65 minutes** to read and try, half a minute to run. Before: notebooks 00 and 02; what a gradient is.

# %% tags=["setup"]
import math

import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import torchvision

from sftlib import backbones, losses, metrics, results, runtime, training, widgets
from sftlib.checks import check
from sftlib.datasets import solar_cells
from sftlib.model import LinearHead, Model, Standardise
from sftlib.plotting import COLOURS, MARKERS, curves, idea, intervals, use_style
from sftlib.schedules import warmup_cosine

use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("L_f", "L_g", "L"))
plt.show()

# %%
SEED = 0
SIDE = 96  # pixels, in both profiles: the table of the experiment was made with it
LABELS = 100  # labelled pictures of the live experiment, as in the table
EPOCHS = 20  # passes over them, as in the table
STEPS = 400  # updates of the small experiments

# %% [markdown]
# ## Look at the data
#
# The solar cells of notebook 00 (Deitsch et al. 2019, arXiv 1807.02894), defective or not. Where three classes show
# more, we take *whole mono*, *whole poly* (cells cut from one crystal or from many) and *defective*.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
y3 = torch.where(cells.val.labels == 1, 2, cells.val.types)
CLASSES = ("whole mono", "whole poly", "defective")
print(dict(zip(CLASSES, y3.bincount().tolist(), strict=True)), "for validation")
counts = cells.test.labels.bincount()
share = (counts.max() / counts.sum()).item()
print(f"of {len(cells.test)} test pictures {share:.1%} are '{cells.classes[0]}'")
print(f"loss of equal probabilities: log 2 = {math.log(2):.3f} nats")
f = backbones.load_backbone("squeezenet1_1", size=SIDE).eval()
with torch.no_grad():
    raw = torch.cat([f(f.preprocess(p)) for p in cells.val.pictures.split(64)])
print("features of the validation pictures", tuple(raw.shape), f"least {raw.min():.0f}")

# %% [markdown]
# ## By hand: a direction for each class
#
# For each class k take a **direction** $\mu_k$: a vector of length 1 with as many numbers as z, also called its
# *prototype*. The loss is one minus the cosine of the angle θ between z and the direction of its own class (Barz and
# Denzler, arXiv 1901.09054):
#
# $$L_f = \frac1N \sum_i \Big[1 - \Big\langle \frac{z_i}{\lVert z_i\rVert},\; \mu_{y_i}\Big\rangle\Big]
# = \frac1N\sum_i\,[1 - \cos\theta_i]$$
#
# | symbol | in the code | is |
# |---|---|---|
# | $z_i$ | `z` (N, D) | features of picture i |
# | $\hat z_i = z_i / \lVert z_i\rVert$ | `unit` (N, D) | its direction: the same vector with length 1 |
# | $\mu_k$ | `mu` (K, D) | direction of class k |
# | $\theta_i$ | `theta` | angle between $z_i$ and $\mu_{y_i}$ |
#
# It runs from 0 (same direction) over 1 (right angle) to 2 (opposite).

# %%
draw = torch.Generator().manual_seed(SEED)
how = {"generator": draw, "dtype": torch.float64}
z, y = torch.randn(5, 7, **how), torch.tensor([0, 1, 2, 1, 0])  # N = 5, D = 7
mu = F.normalize(torch.randn(3, 7, **how), dim=1)  # K = 3

unit = z / z.norm(dim=1, keepdim=True)  # (5, 7)
cosine = (unit * mu[y]).sum(dim=1)  # (5,)
L_f = (1 - cosine).mean()
print("cosines", cosine.round(decimals=3).tolist(), f" L_f {L_f:.4f}")
assert torch.allclose(losses.cosine_prototype(z, y, mu), L_f)  # the same from sftlib

# %% [markdown]
# **Its gradient.** For one picture, $\cos\theta = \langle z, \mu\rangle / \lVert z\rVert$. The quotient rule, with
# $\partial \lVert z\rVert/\partial z = \hat z$, gives
#
# $$\frac{\partial(1-\cos\theta)}{\partial z}
# = -\frac{\mu}{\lVert z\rVert} + \frac{\langle z,\mu\rangle}{\lVert z\rVert^2}\,\hat z
# = -\frac{\mu - \cos\theta\;\hat z}{\lVert z\rVert}$$
#
# $\mu - \cos\theta\,\hat z$ is what is left of μ when its part along z is taken away. So the gradient is **orthogonal
# to z**, and by Pythagoras its length is $\sqrt{1-\cos^2\theta}/\lVert z\rVert = \sin\theta/\lVert z\rVert$. The
# formula, PyTorch, and finite differences ($L$ a little to the right minus $L$ a little to the left) must agree.


# %%
def loss_at(z):
    return losses.cosine_prototype(z, y, mu)


length = z.norm(dim=1, keepdim=True)
by_formula = -(mu[y] - cosine[:, None] * unit) / length / len(z)  # / N: the mean
by_autograd, by_differences = torch.func.grad(loss_at)(z), torch.zeros_like(z)
for place in range(z.numel()):
    step = torch.zeros_like(z)
    step.view(-1)[place] = 1e-6
    by_differences.view(-1)[place] = (loss_at(z + step) - loss_at(z - step)) / 2e-6
for name, other in (("autograd", by_autograd), ("finite differences", by_differences)):
    assert (by_formula - other).abs().max() < 1e-8
    print(f"formula and {name}: largest difference below 1e-8")
assert ((by_formula * z).sum(1).abs() < 1e-12).all()  # orthogonal to z

# %% [markdown]
# **Predict.** A picture points *exactly the wrong way*. Its push is (a) the strongest of all, (b) as strong as at a
# right angle, (c) none.

# %%
theta = torch.linspace(0, math.pi, 181, dtype=torch.float64)
points = torch.stack([theta.cos(), theta.sin()], dim=1)  # at angle θ from (1, 0)
first, zeros = torch.eye(2, dtype=torch.float64)[:1], torch.zeros(1, dtype=torch.long)
one = torch.func.grad(lambda p: losses.cosine_prototype(p[None], zeros, first))
rows = torch.func.vmap(one)(points)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
degrees, n = theta.rad2deg(), rows.norm(dim=1)
_ = [ax.set(xlim=(0, 180), xticks=range(0, 181, 45)) for ax in (left, right)]
curves(
    left, {"loss": (degrees, 1 - theta.cos())}, xlabel="θ (degrees)", ylabel="1 − cos θ"
)
lengths = {"‖z‖ = 1": (degrees, n), "‖z‖ = 3": (degrees, n / 3)}
curves(right, lengths, xlabel="θ (degrees)", ylabel="length of the gradient")
plt.show()
assert torch.allclose(n, theta.sin(), atol=1e-9)

# %% [markdown]
# **Read.** (c): a picture that points *exactly the wrong way gets no push at all*, and one near it hardly any. And
# the gradient of three times longer features is a third as long. A step on z itself is orthogonal to z, so it can only
# make z longer (Pythagoras again), and the angle turns ever more slowly. So **the cosine loss needs its own learning
# rate**.
#
# ## A floor for features after a ReLU
#
# f ends with a ReLU, $\max(0,\cdot)$, so features have no negative entries. Let $\mu_+$ hold the positive entries of a
# direction μ. A direction $\hat z \ge 0$ can do no better than $\langle\hat z,\mu\rangle \le \lVert\mu_+\rVert$. For
# two classes with opposite directions, μ and −μ, the two best values squared add up to 1, so they sum to at most
# $\sqrt2$, and with balanced classes
#
# $$L_f \;\ge\; 1 - \tfrac12\big(\lVert\mu_+\rVert + \lVert(-\mu)_+\rVert\big)
# \;\ge\; 1 - \tfrac1{\sqrt2} \approx 0.293$$
#
# All-positive vectors are never more than 90° apart, and opposite directions ask for 180°. We let features go free,
# with and without the ReLU:

# %%
opposite = losses.simplex_prototypes(2, 16)  # μ and −μ, D = 16
y2, history = torch.arange(20) % 2, {}
start = torch.randn(20, 16, generator=torch.Generator().manual_seed(SEED)).abs()
for name, end in (("after a ReLU", F.relu), ("may be negative", lambda z: z)):
    free = start.clone().requires_grad_()  # starts positive, so a ReLU passes gradients
    optimizer = torch.optim.SGD([free], lr=5.0)
    history[name] = []
    for _ in range(STEPS):
        L_f = losses.cosine_prototype(end(free), y2, opposite)
        optimizer.zero_grad()
        L_f.backward()
        optimizer.step()
        history[name].append(L_f.item())
floor = 1 - opposite.clamp(min=0).norm(dim=1).mean().item()

# %%
fig, ax = plt.subplots(figsize=(7, 3))
shown = {name: (range(1, STEPS + 1), values) for name, values in history.items()}
ax.set_xlim(0, STEPS)
curves(ax, shown, xlabel="step", ylabel="$L_f$")
ax.axhline(floor, color="black", linestyle=":", label="the floor")
ax.legend(loc="upper right")
plt.show()
print({k: round(v[-1], 3) for k, v in history.items()}, f"floor {floor:.3f}")
assert abs(history["after a ReLU"][-1] - floor) < 0.01 > history["may be negative"][-1]

# %% [markdown]
# So in the experiment below f ends with a fixed operation, `Standardise`: each feature minus its mean, divided by its
# deviation (measured once, on the labelled pictures). $L_f$ acts on *centred* z, which may point anywhere. And the
# directions are fixed: a **simplex**, K directions as far apart as K can be, with all cosines −1/(K−1).
#
# ## Directions that learn need something that pushes
#
# Could the directions be learned too? If all features and all μ fall onto *one* direction, the loss is 0, perfect, and
# useless. We train a projection to two numbers, with learned μ, on features as they leave the ReLU: they share most of
# their direction, so one for all is within reach. (Centred ones sum to zero: they cannot all point one way.) Without
# and with a *repulsion*: the mean of $(\cos + \frac1{K-1})^2$ over pairs of directions, which draws their cosines to
# −1/(K−1).


# %%
def learn_directions(repulsion):
    """-> last cosine loss, largest cosine of two directions, share nearest its own"""
    gen, z = torch.Generator().manual_seed(SEED), F.normalize(raw)
    P = (0.1 * torch.randn(2, 512, generator=gen)).requires_grad_()
    loss = losses.LearnedPrototypes(3, 2, repulsion=repulsion, generator=gen)
    optimizer = torch.optim.SGD([P, *loss.parameters()], lr=0.02, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(z @ P.T, y3).backward()
        optimizer.step()
    mu, u = F.normalize(loss.prototypes.detach(), dim=1), z @ P.detach().T
    closest = (mu @ mu.T - 2 * torch.eye(3)).max().item()
    nearest = ((u @ mu.T).argmax(1) == y3).double().mean().item()
    return losses.cosine_prototype(u, y3, mu).item(), closest, nearest


# %% tags=["varies"]
found = {name: learn_directions(r) for name, r in (("without", 0.0), ("with", 1.0))}
for name, (value, closest, nearest) in found.items():
    print(f"{name:<8} repulsion: L_f {value:.3f}, closest two: cosine {closest:+.3f},")
    print(f"{'':<8} {nearest:.0%} of the pictures are nearest to the μ of their class")
assert found["without"][0] < found["with"][0]
assert found["without"][2] < found["with"][2] - 0.05
assert found["without"][1] > 0.95 > 0 > found["with"][1]

# %% [markdown]
# The smaller loss belongs to the worse directions: hardly apart, and fewer pictures are nearest to their own.
#
# ## The loss, written wrong
#
# A colleague's loop: a ResNet-50 without its last layer as extractor, frozen; a new linear classifier; $L_f = 1 - $
# cosine similarity of features and *labels*; SGD on the classifier. (The loader and random weights are ours.)
# **Predict.** Which of (a) to (e) raise (one only when others are mended), and which is wrong in silence?

# %%
runtime.seed_everything(SEED)
small = solar_cells.load(size=64, seed=SEED).train
members = [(small.labels == k).nonzero()[:, 0] for k in (1, 0)]
dataloader = []
for i in ([0, 1], [2, 3]):  # of each class two pictures a batch
    rows = torch.cat([m[i] for m in members])
    dataloader.append((small.pictures[rows] / 255, small.labels[rows]))
model = torchvision.models.resnet50(weights=None)
feature_extractor = torch.nn.Sequential(*list(model.children())[:-1]).eval()
for p in feature_extractor.parameters():
    p.requires_grad = False
classifier = torch.nn.Linear(2048, 2)
criterion = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(classifier.parameters(), lr=0.001)


# %% tags=["raises-exception"]
def train_as_written():
    for inputs, labels in dataloader:
        features = feature_extractor(inputs)  # (a)
        feature_loss = 1 - F.cosine_similarity(features, labels)  # (b)
        outputs = classifier(features)  # (c)
        classification_loss = criterion(outputs, labels)  # (d)
        total_loss = feature_loss + classification_loss
        optimizer.zero_grad()
        total_loss.backward()  # (e)
        optimizer.step()


train_as_written()

# %% [markdown]
# **Failure 1, a missing import** (`F`): one line mends it. **Failure 2, shapes**, this message. The extractor ends with
# a pooling that leaves maps of one pixel: (N, D, 1, 1), not (N, D). `nn.Linear` works on the last axis, finds length 1,
# and stops.
#
# **Failure 3, a silent broadcast**, a line before. Four pictures, four labels, and *sixteen* losses. Tensors of unequal
# shape are *broadcast*: aligned at their last axes, and repeated where one has length 1. So every picture is compared
# with every label. By hand: a label y stands for the vector (y, y, …, y).

# %%
inputs, labels = dataloader[0]
features = feature_extractor(inputs)  # (4, 2048, 1, 1)
feature_loss = 1 - F.cosine_similarity(features, labels)
z, by_hand = features.flatten(1), torch.zeros(4, 4)
for i in range(4):
    for j in range(4):  # picture i with label j
        vector = labels[j] * torch.ones(2048)
        by_hand[i, j] = 1 - z[i] @ vector / max(z[i].norm() * vector.norm(), 1e-8)
print("losses", tuple(feature_loss.shape), "for labels", labels.tolist())
print(by_hand.numpy().round(2))
assert torch.allclose(by_hand, feature_loss[:, 0], atol=1e-4)

# %% [markdown]
# A column for each label: 1 wherever the label is 0, nearly one constant wherever it is 1. **Failure 4**: with
# flattened features, (N, D) against (N,), it stops, unless the sizes happen to fit; then it runs, and is wrong.
# **Failure 5, no scalar**: a loss of shape (N, 1, N) cannot be sent backward. **Failure 6, labels are not directions**:
# a class number is a name, and the loss reads it as an amount.

# %%
for n in (4, 1, 2048):
    try:
        shape = F.cosine_similarity(z[:1].expand(n, -1), torch.arange(n) % 2).shape
        print(f"flattened, N = {n}: runs, one loss for", tuple(shape))
    except RuntimeError as error:
        print(f"flattened, N = {n}: {error}")
try:
    (feature_loss + criterion(classifier(z), labels)).backward()
except RuntimeError as error:
    print("backward:", error)
for label in range(4):
    cosine = F.cosine_similarity(z[:1], torch.tensor([label])).item()
    print(f"label {label}: the vector ({label}, {label}, …), cosine {cosine:.3f}")

# %% [markdown]
# **Read.** (c) raises and, once it is mended, (e); (b) is wrong in silence. (a) runs, in a shape that hurts later; (d)
# is right.
#
# With N = D *the list of all labels of the batch* is taken for one feature vector. Label 0 is the zero vector, which
# has no direction; labels 1, 2 and 3 are all *the same* direction: the loss cannot tell class 1 from class 2.
#
# **Failure 7, a loss that moves nothing.** The extractor is frozen and the classifier does not appear in $L_f$. Mend
# all the rest and train twice, with and without $L_f$:


# %%
def train_mended(feature_weight):
    """The loop with shapes, mean and directions mended; f frozen as before"""
    runtime.seed_everything(SEED)
    classifier = torch.nn.Linear(2048, 2)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.001)
    directions = losses.simplex_prototypes(2, 2048)
    for inputs, labels in 3 * dataloader:
        z = feature_extractor(inputs).flatten(1)
        L_f = (1 - F.cosine_similarity(z, directions[labels])).mean()
        L = feature_weight * L_f + criterion(classifier(z), labels)
        optimizer.zero_grad()
        L.backward()
        optimizer.step()
    return L.item(), classifier.weight.detach()


# %%
without, with_it = train_mended(0.0), train_mended(1.0)
print(f"last loss without L_f {without[0]:.2f}, with L_f {with_it[0]:.2f}")
print("classifier the same to the bit:", torch.equal(without[1], with_it[1]))
assert torch.equal(without[1], with_it[1]) and with_it[0] > without[0] + 0.1

# %% [markdown]
# The printed loss changes, and *nothing else*. $L_f$ must reach numbers that can learn: f itself, at least its last
# stage.
#
# ## The experiment: does it help?
#
# Solar cells, defect yes or no, with **few** labels (100) and with **all** 1,667. f below its last stage stays as it
# is; *its last stage and g are trained*, so $L_f$ does reach f. What was tuned, on what: each loss has its **own rate**
# (three tried) and its own λ or margin (up to three tried), chosen by accuracy on 222 validation pictures, in runs
# whose seeds are not used again; most choices lie at the grid's edge, and *cosface* came out with margin 0. Then six
# seeds each: which 100 pictures are labelled, g's first weights, the order of the batches. The 334 test pictures are
# used once a row. (Table: `data/results/combined_loss.csv`; its other losses: *Going deeper*.)
#
# **Predict.** With 100 labels, the best of these losses beats plain cross-entropy by (a) 5 points or more, (b) 1 to 4
# points, visibly, (c) nothing that six seeds can show. First its seed 0, live, for the cosine loss:


# %%
@torch.no_grad()
def maps(p):
    """pictures (N, 3, S, S) -> what leaves stage3 of f, the part that stays"""
    return torch.cat([f.lower(f.preprocess(some), "stage3") for some in p.split(128)])


order = torch.Generator().manual_seed(SEED)
mine = torch.randperm(len(cells.train), generator=order)[:LABELS]  # the labelled ones
h, y = maps(cells.train.pictures[mine]), cells.train.labels[mine]


class Batches:
    """16 maps and labels at a time, in a new order each epoch, as `fit` wants them"""

    def __len__(self):
        return -(-LABELS // 16)

    def __iter__(self):
        for part in torch.randperm(LABELS, generator=order).split(16):
            yield h[part], y[part]


# %% tags=["varies"]
rows = results.read("combined_loss")
row_of = {(r["loss"], int(r["labels"]), int(r["seed"])): r for r in rows}
row = row_of["+ cosine", LABELS, SEED]
top = torch.nn.Sequential(f.stage4, f.pool)
runtime.seed_everything(SEED)
with torch.no_grad():
    centred = Standardise(top(h))
model = Model(torch.nn.Sequential(top, centred), LinearHead(512, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=float(row["lr"]), momentum=0.9)
mu = losses.simplex_prototypes(2, 512)
how = {"feature_loss": lambda z, y: losses.cosine_prototype(z, y, mu),
       "feature_weight": float(row["weight"]),
       "schedule": warmup_cosine(EPOCHS * len(Batches()))}  # fmt: skip
records = list(training.fit(model, Batches(), optimizer, epochs=EPOCHS, **how))

# %% tags=["varies"]
with torch.inference_mode():
    right = model.eval()(maps(cells.test.pictures)).argmax(1) == cells.test.labels
test = right.double().mean().item()
print(f"live: {test:.1%} of the test pictures, in the table {float(row['test']):.1%}")
assert abs(test - float(row["test"])) < 0.02  # rounding may turn a few pictures

# %% [markdown]
# All rows, by the course's one rule: differences to cross-entropy, seed by seed, all thirteen intervals together.

# %% tags=["varies"]
SEEDS = sorted({seed for *_, seed in row_of})
tables, found = {}, {}
for labels in (100, 1667):
    names = dict.fromkeys(loss for loss, n, _ in row_of if n == labels)
    test = {k: [float(row_of[k, labels, s]["test"]) for s in SEEDS] for k in names}
    tables[labels] = metrics.compare(test, against="cross-entropy", comparisons=13)
    print(f"{labels:,} labels: cross-entropy {sum(test['cross-entropy']) / 6:.3f}")
    print(*tables[labels], sep="\n")
everything = [c for table in tables.values() for c in table]
assert len(everything) == 13 and not any(c.interval.low > 0 for c in everything)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharex=True, layout="constrained")
for ax, (labels, table) in zip(axes, tables.items(), strict=True):
    intervals(ax, {c.first: c.interval for c in table}, scale=100, against=0)
    ax.set(title=f"{labels:,} labels", xlabel="accuracy minus cross-entropy (points)")
plt.show()

# %% [markdown]
# **Read.** (c): not one of the thirteen intervals excludes 0 (their marks are hollow), on either side. With 100 labels
# all eight means lie *below* cross-entropy; but they share its runs, so eight on one side are not eight witnesses.
# Eleven intervals do not exclude a gain of one point: six seeds and 334 pictures are too few. An interval wholly above
# 0 would have refuted (c).
#
# ## Play
#
# Twenty free features in the plane, two classes, whose directions (the two lines) lie a chosen angle apart. After a
# ReLU only the grey quarter can be reached. From which angle on does the loss end at a floor above 0? What happens in
# the first 20 steps to features far from their direction?


# %%
def play(settings):
    half = math.radians(settings["angle"] / 2)
    angles = torch.tensor([math.pi / 4 - half, math.pi / 4 + half])
    mu = torch.stack([angles.cos(), angles.sin()], dim=1)
    end = F.relu if settings["end"] == "after a ReLU" else lambda z: z
    free = torch.rand(20, 2, generator=torch.Generator().manual_seed(SEED)) + 0.05
    free.requires_grad_()
    for _ in range(settings["steps"]):
        L_f = losses.cosine_prototype(end(free), y2, mu)
        (slope,) = torch.autograd.grad(L_f, free)
        free = (free - 2.0 * slope).detach().requires_grad_()
    z = end(free).detach()
    floor = 1 - mu.clamp(min=0).norm(dim=1).mean().item() if end is F.relu else 0.0
    return z, mu, losses.cosine_prototype(z, y2, mu).item(), floor


# %%
def draw_play(ax, found):
    z, mu, loss, floor = found
    ax.fill_between([0, 2], 0, 2, color="0.92", linewidth=0)
    for k, name in enumerate(("blue", "orange")):
        ax.plot(*zip((0, 0), 1.8 * mu[k], strict=True), color=COLOURS[name], lw=2)
        how = {"color": COLOURS[name], "marker": MARKERS[k], "label": f"class {k}"}
        ax.scatter(*z[y2 == k].T, **how)
    ax.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
    ax.set_title(f"$L_f$ = {loss:.3f}, floor {floor:.3f}")
    ax.legend(loc="lower left")


# %% tags=["varies"]
controls = {
    "angle": w.IntSlider(value=180, min=20, max=180, step=10, description="angle"),
    "end": w.Dropdown(
        options=["after a ReLU", "may be negative"], description="features"
    ),
    "steps": w.IntSlider(value=60, min=0, max=100, description="steps"),
}
explorer = widgets.Explorer(controls, play, draw_play, figsize=(4.6, 4.6))
assert explorer.error is None
explorer

# %%
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: the gradient of the cosine loss
#
# Complete `cosine_gradient`: the gradient of $1-\cos\theta$ with respect to z, for one picture, from the formula (or
# your own derivation), without autograd.
#
# <details><summary>Hint 1</summary>
#
# First ẑ = z / ‖z‖, then cos θ: `unit @ mu`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# μ − cos θ ẑ is the part of μ that is orthogonal to z.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The gradient points *uphill*, away from μ, and is smaller for longer z.
#
# </details>


# %% tags=["exercise"]
def cosine_gradient(z, mu):
    """z (D,), mu (D,) of length 1 -> gradient (D,) of 1 − cos(z, mu) with respect
    to z
    """
    # BEGIN SOLUTION
    # STUB: ...
    unit = z / z.norm()
    return -(mu - (unit @ mu) * unit) / z.norm()
    # END SOLUTION


check("03.cosine_gradient", cosine_gradient)

# %% [markdown]
# ### ★ Exercise 2: why did it collapse?
#
# A colleague trains prototypes together with the features. Her cosine loss falls to zero, and all three prototypes end
# in one place. Find out what is missing in `her_loss`, and mend it. The checker trains a small projection and three
# prototypes with your loss, on features that share most of their direction.
#
# <details><summary>Hint 1</summary>
#
# What is her loss when all features and prototypes are one vector?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Something must make that place expensive: a term that grows when two prototypes come close.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `losses.prototype_repulsion(prototypes)` is one such term.
#
# </details>


# %% tags=["exercise"]
def her_loss(z, y, prototypes):
    return losses.cosine_prototype(z, y, prototypes)


def my_loss(z, y, prototypes):
    """z (N, D), y (N,), prototypes (K, D) that learn -> scalar"""
    # BEGIN SOLUTION
    # STUB: ...
    return her_loss(z, y, prototypes) + losses.prototype_repulsion(prototypes)
    # END SOLUTION


check("03.no_collapse", my_loss)

# %% [markdown]
# ### ★ Exercise 3: a simplex
#
# Complete `simplex_directions`: K rows of length 1 whose inner products are all −1/(K−1). Any such rows will do, with
# any number of columns.
#
# <details><summary>Hint 1</summary>
#
# The rows of `torch.eye(K)` are at right angles: not far enough.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Seen from their common mean, they point away from each other.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Subtract the mean of the rows, then give each row length 1.
#
# </details>


# %% tags=["exercise"]
def simplex_directions(K):
    """K -> (K, D) unit rows, as far apart as K directions can be"""
    # BEGIN SOLUTION
    # STUB: ...
    rows = torch.eye(K) - 1 / K
    return rows / rows.norm(dim=1, keepdim=True)
    # END SOLUTION


check("03.simplex", simplex_directions)

# %% [markdown]
# ### ★★ Exercise 4: directions that a ReLU can reach
#
# In *A floor for features after a ReLU*, replace `opposite` by the first two axes, `torch.eye(16)[:2]`. **Predict** the
# floor and where the two curves end. Why does one not always take the axes? (Think of K classes and D numbers.)

# %% [markdown] tags=["solution"]
# **Exercise 4.** The axes have no negative entry, so $\lVert\mu_+\rVert = 1$, the floor is 0, and both curves fall to
# it. The price: classes end at 90°, not at 180° (for large K the difference vanishes: −1/(K−1) is nearly 0), and D must
# be at least K.

# %% [markdown]
# ### ★★★ Exercise 5: rescue it
#
# Find a setting in which one of these losses visibly helps: fewer labels, other data, f trained from scratch, more
# classes. Decide seeds, comparisons, and what would refute you *before* you look.
#
# ## Remember
#
# - A loss on features needs shapes (N, D), one number at the end, a *direction* for each class, and something that can
#   learn behind it. Does any weight end up different with it?
# - Cosine loss: gradient $-(\mu-\cos\theta\,\hat z)/\lVert z\rVert$, orthogonal to z, zero at 0° *and at 180°*.
# - Features after a ReLU cannot point both ways: centre or project them first.
# - What pulls together needs something that pushes apart, or all can fall into one point with a perfect loss.
#
# **Limits.** One data set with two classes, one network, the last stage of f trained at 96 pixels, six seeds, one split
# with 334 test pictures that all seeds share, small grids. Barz and Denzler report large gains for small data sets
# *trained from scratch*.
#
# **References.** Barz and Denzler 2020, *Deep learning on small datasets without pre-training using cosine loss*,
# arXiv 1901.09054. Deitsch et al. 2019, arXiv 1807.02894 (data). **Going deeper**:
# [center, contrastive and margin losses, and rules for λ](03_combined_loss_deeper.ipynb). Next: **04 The gradient
# update**.
