# %% [markdown]
# # 03 The combined loss: should the features have a loss of their own?
#
# So far *f* learned only through *g*: the classifier's loss $L_g$ sent its gradient back into the extractor. One can
# also judge the features directly, by a second loss $L_f$ on $z = f(x)$, and train on the sum:
#
# $$L = L_f(f(x), y) + L_g(g(f(x)), y)$$
#
# A much-copied article does this in twenty lines. We run its lines, see them fail in seven ways, and build the loss
# that they meant.
#
# Afterwards you can
#
# - say what a loss on features needs, and find the mistakes that make it do nothing;
# - derive the cosine loss and its gradient, choose directions for the classes, and place center, contrastive and
#   margin losses beside it;
# - balance two losses, and compare them fairly, with the answer "no difference that we can see" allowed.
#
# **60 minutes** to read and try, half a minute to run. Before: notebooks 00 and 02; what a gradient is. Nothing is
# downloaded.

# %% tags=["setup"]
import csv
import math
import time

import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torchvision
from IPython.display import display
from torch import nn

from sftlib import losses
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract, pca
from sftlib.metrics import mean_interval, paired_interval
from sftlib.model import LinearHead, Model
from sftlib.plotting import COLOURS, MARKERS, curves, idea, use_style
from sftlib.runtime import cache_folder, profile, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import fit
from sftlib.widgets import Explorer

use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("L_f", "L_g", "L"))
plt.show()

# %%
size = profile()
SEED = 0
SIDE = 96  # pixels, in both profiles: the table of the experiment was made with it
LABELS = 100  # labelled pictures of the live experiment, as in the table
LIVE_EPOCHS = 20  # passes over them, as in the table
# updates for each picture of features on a circle
STEPS = size.pick(quick=150, full=500)

# %% [markdown]
# ## Look at the data
#
# The solar cells of notebook 00 (Deitsch et al. 2019, arXiv 1807.02894). For the pictures of features we use three
# classes instead of two, because three directions in a plane show more than two: *whole mono*, *whole poly* (cells cut
# from one crystal or from many), and *defective*.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
defective, poly = cells.val.labels, cells.val.types
y3 = torch.where(defective == 1, 2, poly)  # 0 whole mono, 1 whole poly, 2 defective
CLASSES = ("whole mono", "whole poly", "defective")
for part in (cells.train, cells.val, cells.test):
    counts = part.labels.bincount()
    print(
        f"{len(part):5,} pictures, always '{cells.classes[counts.argmax()]}': "
        f"{counts.max() / counts.sum():.1%} right"
    )
print(
    dict(zip(CLASSES, y3.bincount().tolist(), strict=True)),
    "of the validation pictures",
)
print(
    f"loss of equal probabilities: log 2 = {math.log(2):.3f} nats, log 3 = "
    f"{math.log(3):.3f}"
)

# %% [markdown]
# ## The article's loss, as published
#
# The code below does what the article's does, line by line: a ResNet-50 without its last layer as extractor, frozen;
# a new linear classifier; $L_f = 1 - $ cosine similarity of features and labels; SGD on the classifier. We made **two
# changes**: the article has no data, so a loader is supplied, and the weights are random instead of downloaded, which
# changes numbers but no shape. Pictures are 64 pixels, to be quick; its batch of 4 stays.

# %%
seed_everything(SEED)
small = solar_cells.load(size=64, seed=SEED).train
mixed = [[0, 1], [2, 3]]  # of each class: two pictures a batch
order = [
    torch.cat([(small.labels == k).nonzero()[i, 0] for k in (1, 0)]) for i in mixed
]
dataloader = [(small.pictures[i] / 255, small.labels[i]) for i in order]

model = torchvision.models.resnet50(weights=None)
feature_extractor = nn.Sequential(*list(model.children())[:-1]).eval()
for p in feature_extractor.parameters():
    p.requires_grad = False
classifier = nn.Linear(2048, 2)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(classifier.parameters(), lr=0.001)


# %% [markdown]
# **Predict.** How many of the five steps in `train_as_published` go wrong: features, outputs, two losses, backward?


# %% tags=["raises-exception"]
def train_as_published():
    for inputs, labels in dataloader:
        features = feature_extractor(inputs)
        feature_loss = 1 - F.cosine_similarity(features, labels)
        outputs = classifier(features)
        classification_loss = criterion(outputs, labels)
        total_loss = feature_loss + classification_loss
        optimizer.zero_grad()
        total_loss.backward()
        optimizer.step()


train_as_published()

# %% [markdown]
# **Failure 1, a missing import.** Harmless: it is loud, and one line mends it.

# %% tags=["setup"]
import torch.nn.functional as F  # noqa: E402

# %% tags=["raises-exception"]
train_as_published()

# %% [markdown]
# **Failure 2, shapes.** The extractor's last stage is a pooling that leaves maps of one pixel: (N, D, 1, 1), not (N,
# D). `nn.Linear` works on the last axis, finds length 1 instead of 2048, and stops. That is lucky, for the line
# *before* it has already gone wrong and said nothing:

# %%
inputs, labels = dataloader[0]
features = feature_extractor(inputs)  # (4, 2048, 1, 1)
feature_loss = 1 - F.cosine_similarity(features, labels)
print(
    "features",
    tuple(features.shape),
    " labels",
    tuple(labels.shape),
    " loss",
    tuple(feature_loss.shape),
)

# %% [markdown]
# **Failure 3, a silent broadcast.** Four pictures, four labels, and *sixteen* losses of shape (N, 1, N). Tensors of
# unequal shape are *broadcast*: aligned at their last axes, and repeated where one has length 1. Labels (4,) count as
# (1, 1, 1, 4), features (4, 2048, 1, 1) are repeated four times, and every picture is compared with every label, its
# neighbours' included. We can compute the same by hand: a label y stands for the vector (y, y, …, y).

# %%
z = features.flatten(1)  # (4, 2048)
by_hand = torch.zeros(4, 4)
for i in range(4):
    for j in range(4):  # picture i with label j
        vector = labels[j] * torch.ones(2048)
        by_hand[i, j] = 1 - z[i] @ vector / max(z[i].norm() * vector.norm(), 1e-8)
print("labels", labels.tolist())
print(by_hand)
assert torch.allclose(by_hand, feature_loss[:, 0], atol=1e-4)

# %% [markdown]
# A column for each label: 1 wherever the label is 0, and nearly one constant wherever it is 1. So let us flatten the
# features, as the author must have meant.

# %% tags=["raises-exception"]
F.cosine_similarity(features.flatten(1), labels)

# %% [markdown]
# **Failure 4, flattened.** (N, 2048) against (N,) cannot be broadcast, unless the numbers happen to fit. Two sizes of
# batch run without a word, and both are wrong:

# %%
for n in (1, 2048):
    batch, y = z[:1].expand(n, -1), torch.arange(n) % 2
    out = F.cosine_similarity(batch, y)
    print(
        f"N = {n:<5}features {tuple(batch.shape)}, labels {tuple(y.shape)} -> "
        f"{tuple(out.shape)}"
    )

# %% [markdown]
# With N = 1 the label is repeated along the features. With N = D = 2048 *the list of all labels of the batch* is taken
# for one feature vector, and every picture is compared with it.
#
# **Failure 5, no scalar.** Mend the shapes halfway (the classifier gets flat features, the cosine the unflattened
# ones) and the loop reaches `backward`:

# %% tags=["raises-exception"]
classification_loss = criterion(classifier(z), labels)
total_loss = feature_loss + classification_loss
print("total loss", tuple(total_loss.shape))
total_loss.backward()

# %% [markdown]
# A gradient belongs to *one* number; `.mean()` over the batch would make one. And now that everything could run, look
# at what it would learn.
#
# **Failure 6, labels are not directions.** A cosine compares directions. Here is one picture (N = 1, the size that
# runs) with each label it might have:

# %%
for label in range(4):
    cosine = F.cosine_similarity(z[:1], torch.tensor([label]))
    print(
        f"label {label}: the vector ({label}, {label}, …), cosine {cosine.item():.3f}"
    )

# %% [markdown]
# Label 0 is the zero vector, which has no direction: cosine 0, whatever the features. Labels 1, 2 and 3 are all *the
# same direction*, (1, 1, …, 1). A class number is a name, and the loss reads it as an amount. It cannot tell class 1
# from class 2.
#
# **Failure 7, a loss that moves nothing.** The extractor is frozen and the classifier does not appear in $L_f$. Mend
# all the rest and train twice, with and without $L_f$:

# %%


def train_mended(feature_weight):
    """Three rounds of the loop with shapes, mean and directions mended; f frozen
    as published.
    """
    seed_everything(SEED)
    classifier = nn.Linear(2048, 2)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.001)
    # one direction a class: explained below
    directions = losses.simplex_prototypes(2, 2048)
    for inputs, labels in 3 * dataloader:
        z = feature_extractor(inputs).flatten(1)
        L_f = (1 - F.cosine_similarity(z, directions[labels])).mean()
        L = feature_weight * L_f + criterion(classifier(z), labels)
        optimizer.zero_grad()
        L.backward()
        optimizer.step()
    return L.item(), classifier.weight.detach()


without, with_it = train_mended(0.0), train_mended(1.0)
print(f"last loss without L_f {without[0]:.2f}, with L_f {with_it[0]:.2f}")
print("classifier the same to the bit:", torch.equal(without[1], with_it[1]))
assert torch.equal(without[1], with_it[1])

# %% [markdown]
# The printed loss changes, and *nothing else*. $L_f$ must reach numbers that can learn: f itself, at least its last
# stage, or a projection after it. (Then f receives *both* gradients, and g only that of $L_g$: notebook 04 keeps that
# ledger.)
#
# So, of the five steps: the features had a shape that nothing after them expects, L_f was wrong in silence, outputs and
# backward stopped. Only the classification loss was right from the start.
#
# ## The repair, by hand
#
# Replace the label by a **direction of the class**: for each class k a vector $\mu_k$ of length 1, with as many
# numbers as z. The loss is one minus the cosine of the angle θ between z and the direction of its own class:
#
# $$L_f = \frac1N \sum_i \Big[1 - \Big\langle \frac{z_i}{\lVert z_i\rVert},\; \mu_{y_i}\Big\rangle\Big]
# = \frac1N\sum_i\,[1 - \cos\theta_i]$$
#
# | symbol | in the code | is |
# |---|---|---|
# | $z_i$ | `z` (N, D) | features of picture i |
# | $\hat z_i = z_i / \lVert z_i\rVert$ | `unit` (N, D) | its direction: the same vector with length 1 |
# | $\mu_k$ | `mu` (K, D) | direction of class k, also called its *prototype* |
# | $\theta_i$ | `theta` | angle between $z_i$ and $\mu_{y_i}$ |
#
# It runs from 0 (same direction) over 1 (right angle) to 2 (opposite). This is the loss of Barz and Denzler
# (arXiv 1901.09054).

# %%
generator = torch.Generator().manual_seed(SEED)
z = torch.randn(5, 7, generator=generator, dtype=torch.float64)  # N = 5, D = 7
y = torch.tensor([0, 1, 2, 1, 0])
# K = 3
mu = F.normalize(torch.randn(3, 7, generator=generator, dtype=torch.float64), dim=1)

unit = z / z.norm(dim=1, keepdim=True)  # (5, 7)
cosine = (unit * mu[y]).sum(dim=1)  # (5,)
L_f = (1 - cosine).mean()
print("cosines", cosine.round(decimals=3).tolist(), f" L_f {L_f:.4f}")

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
# / N: the mean
by_formula = -(mu[y] - cosine[:, None] * unit) / z.norm(dim=1, keepdim=True) / len(z)


def loss_at(z):
    return losses.cosine_prototype(z, y, mu)


by_autograd = torch.func.grad(loss_at)(z)
by_differences = torch.zeros_like(z)
h = 1e-6
for index in range(z.numel()):
    step = torch.zeros(z.numel(), dtype=z.dtype)
    step[index] = h
    step = step.view_as(z)
    by_differences.view(-1)[index] = (loss_at(z + step) - loss_at(z - step)) / (2 * h)
for name, other in (("autograd", by_autograd), ("finite differences", by_differences)):
    print(
        f"formula against {name:<20}largest difference below 1e-8: "
        f"{bool((by_formula - other).abs().max() < 1e-8)}"
    )
sine = (1 - cosine**2).sqrt()
length = len(z) * by_formula.norm(dim=1)
print("orthogonal to z:", bool(((by_formula * z).sum(1).abs() < 1e-12).all()), end="")
print("   length sin θ / ||z||:", torch.allclose(length, sine / z.norm(dim=1)))

# %% [markdown]
# (`losses.cosine_prototype` is the same from `sftlib`; that its values agree was just used.) Where does the gradient
# vanish? **Predict**: only where the loss is smallest, θ = 0, or also somewhere else?

# %%
theta = torch.linspace(0, math.pi, 181, dtype=torch.float64)
# length 1, at angle θ from μ = (1, 0)
points = torch.stack([theta.cos(), theta.sin()], dim=1)
first = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
zeros = torch.zeros(1, dtype=torch.long)
rows = torch.func.vmap(
    torch.func.grad(lambda p: losses.cosine_prototype(p[None], zeros, first))
)(points)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
curves(
    left,
    {"loss": (theta.rad2deg(), 1 - theta.cos())},
    xlabel="θ (degrees)",
    ylabel="1 − cos θ",
)
curves(
    right,
    {
        "‖z‖ = 1": (theta.rad2deg(), rows.norm(dim=1)),
        "‖z‖ = 3": (theta.rad2deg(), rows.norm(dim=1) / 3),
    },
    xlabel="θ (degrees)",
    ylabel="length of the gradient",
)
for ax in (left, right):
    ax.set(xlim=(0, 180), xticks=range(0, 181, 45))
plt.show()
assert torch.allclose(rows.norm(dim=1), theta.sin(), atol=1e-9)

# %% [markdown]
# Also at 180°: a picture that points *exactly the wrong way gets no push at all*, and one near it hardly any. And
# the gradient of three times longer features is a third as long. A step on z itself is orthogonal to z, so it can only
# make z longer (Pythagoras again), and the angle turns ever more slowly. Both say: **the cosine loss needs its own
# learning rate**. To compare it with cross-entropy at cross-entropy's rate would be rigged.
#
# ## A floor for features after a ReLU
#
# f ends with a ReLU, $\max(0,\cdot)$, so features have no negative entries. Take two classes with opposite directions,
# $\mu$ and $-\mu$. Let $\mu_+$ hold the positive entries of μ and $\mu_-$ the negative ones without their sign. A
# direction $\hat z \ge 0$ can do no better than $\langle\hat z,\mu\rangle \le \lVert\mu_+\rVert$ and $\langle\hat
# z,-\mu\rangle \le \lVert\mu_-\rVert$. As $\lVert\mu_+\rVert^2 + \lVert\mu_-\rVert^2 = 1$, the two sum to at most
# $\sqrt2$, and with balanced classes
#
# $$L_f \;\ge\; 1 - \tfrac12\big(\lVert\mu_+\rVert + \lVert\mu_-\rVert\big) \;\ge\; 1 - \tfrac1{\sqrt2} \approx 0.293$$
#
# All-positive vectors are never more than 90° apart, and opposite directions ask for 180°. We let features go
# wherever they like, with and without the ReLU:

# %%
directions = losses.simplex_prototypes(2, 16)  # μ and −μ, D = 16
y2 = torch.arange(20) % 2
start = torch.randn(20, 16, generator=torch.Generator().manual_seed(SEED)).abs()
history = {}
for name, end in (("after a ReLU", F.relu), ("may be negative", nn.Identity())):
    # no negative entry: a ReLU would pass no gradient to those
    free = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([free], lr=5.0)
    history[name] = []
    for _ in range(400):
        L_f = losses.cosine_prototype(end(free), y2, directions)
        optimizer.zero_grad()
        L_f.backward()
        optimizer.step()
        history[name].append(L_f.item())
    print(f"{name:<16}{history[name][-1]:.3f}")
floor = (
    1
    - (directions[0].clamp(min=0).norm() + directions[1].clamp(min=0).norm()).item() / 2
)
print(
    f"the floor for these directions {floor:.3f}, for any two opposite ones "
    f"{1 - 0.5**0.5:.3f}"
)

# %%
fig, ax = plt.subplots(figsize=(8, 3))
curves(
    ax,
    {name: (range(1, 401), values) for name, values in history.items()},
    xlabel="step",
    ylabel="$L_f$",
)
ax.set_xlim(0, 400)  # so that the dotted line ends before the labels
_ = ax.axhline(1 - 0.5**0.5, color="black", linestyle=":")
plt.show()

# %% [markdown]
# The dotted line is 0.293. So from here on f ends with one more, fixed operation: each feature minus its mean, divided
# by its deviation (both measured once, before training, on the labelled pictures). A learned projection would do too.
# $L_f$ then acts on *centred* z, which may point anywhere.
#
# ## Which directions?
#
# | directions μ | how | needs |
# |---|---|---|
# | **simplex** | fixed: K directions as far apart as K can be, all cosines −1/(K−1) | D ≥ K − 1 |
# | **projected one-hot** | learn a projection P to K numbers; class k is axis k | nothing; P learns |
# | **running mean** | the mean of the class's features so far, no gradient | centred z |
# | **learned** | the μ are parameters | something that keeps them apart |
#
# Why not one-hot without a projection? It would ask for features of K numbers. Why −1/(K−1)? The K directions sum to a
# vector with a squared length of at least 0: $K + K(K-1)\,c \ge 0$, so the common cosine c cannot be below
# $-1/(K-1)$.

# %%
print("simplex, K = 4, D = 512: cosines of different classes")
corners = losses.simplex_prototypes(4, 512)
print((corners @ corners.T).round(decimals=3) + 0.0)
z = torch.randn(40, 512, generator=torch.Generator().manual_seed(SEED))
y = torch.arange(40) % 4
gen = torch.Generator().manual_seed(SEED)
for loss in (
    losses.ProjectedOneHot(4, 512, generator=gen),
    losses.RunningPrototypes(4, 512),
    losses.LearnedPrototypes(4, 512, generator=gen),
):
    numbers = sum(p.numel() for p in loss.parameters())
    print(
        f"{type(loss).__name__:<20}loss {loss(z, y):.3f}, {numbers:,} numbers that "
        "learn"
    )

# %% [markdown]
# **Learned directions need repulsion.** The loss rewards agreement of z with its own μ and says nothing about other
# classes. If all features and all μ fall onto *one* direction, it is 0, perfect, and useless. Features after a ReLU,
# which share most of their direction, are already halfway there. We train a projection *u = P z* of raw features to
# two numbers, with learned μ, without and with a term that punishes cosines above −1/(K−1):

# %%
f = load_backbone("squeezenet1_1", size=SIDE)
# (222, 512), no entry below 0
raw, _ = extract(f, loader(cells.val, f.preprocess, batch_size=64))
assert (raw >= 0).all()


def learn_directions(repulsion, steps=400):
    """-> (last loss without the repulsion, largest cosine between two learned
    directions)
    """
    gen = torch.Generator().manual_seed(SEED)
    z = raw / raw.norm(dim=1, keepdim=True)
    P = (0.1 * torch.randn(2, 512, generator=gen)).requires_grad_()
    loss = losses.LearnedPrototypes(3, 2, repulsion=repulsion, generator=gen)
    optimizer = torch.optim.SGD([P, *loss.parameters()], lr=0.02, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(z @ P.T, y3).backward()
        optimizer.step()
    mu = F.normalize(loss.prototypes.detach(), dim=1)
    closest = (mu @ mu.T - 2 * torch.eye(3)).max().item()
    return losses.cosine_prototype(z @ P.detach().T, y3, mu).item(), closest


# %% tags=["varies"]
collapsed, apart = learn_directions(0.0), learn_directions(1.0)
for name, (value, closest) in (
    ("without repulsion", collapsed),
    ("with repulsion", apart),
):
    print(
        f"{name:<18}L_f {value:.3f}, largest cosine between two directions "
        f"{closest:+.3f}"
    )
assert collapsed[0] < apart[0] and collapsed[1] > 0.95 > 0 > apart[1]

# %% [markdown]
# The smaller loss belongs to the useless solution. A loss that falls is not a model that learns.

# %% [markdown]
# ## The family, on a circle
#
# What does each loss do to features? We take the centred features of the validation pictures, reduced to their 32
# directions of largest variance (principal components, each scaled to the same deviation), and train only a projection
# *P* to two numbers, *u = P z*, and a classifier of three classes on u. So everything can be drawn. These pictures
# *illustrate*: the points are the ones trained on, and nothing here is a comparison.
#
# | loss | formula, for one picture | what it asks |
# |---|---|---|
# | cosine | $1-\cos\theta_y$ | stand in the direction of your class |
# | center | $\frac12\lVert z-c_y\rVert^2$, $c_y$ a moving class mean | stand near your class's center |
# | supervised contrastive | $L_i$ below | of all others in the batch, be nearest to your own class |
# | NormFace | cross-entropy of $s\cos\theta_k$ | the right angle smallest; length does not count |
# | CosFace | the same with $s(\cos\theta_y-m)$ for the true class | … smallest by a margin m in cosine |
# | ArcFace | the same with $s\cos(\theta_y+m)$ | … smallest by a margin m in angle |
#
# $$L_i = -\frac1{|P|}\sum_{p\in P}\log\frac{e^{\langle\hat z_i,\hat z_p\rangle/T}}{\sum_{a\ne i}
# e^{\langle\hat z_i,\hat z_a\rangle/T}},\qquad P = \text{the others in the batch of the same class}$$
#
# The first three are added to $L_g$; the last three *replace* it, with $\theta_k$ the angle between z and row k of g's
# weight. T is a *temperature*: small T makes near pairs count most. The *scale* s is needed because cosines end at 1.

# %%
z = pca((raw - raw.mean(0)) / (raw.std(0) + 0.1 * raw.std(0).mean()), 32)
z = (z - z.mean(0)) / z.std(0) / 32**0.5  # (222, 32), typical length 1
simplex = losses.simplex_prototypes(3, 2)


def on_circle(total_loss, steps=STEPS, lr=0.03):
    """total_loss(u, y, g) -> (u (N, 2), rows of g (3, 2)) after `steps` updates
    of P and g by Adam
    """
    seed_everything(SEED)
    P, g = nn.Linear(32, 2, bias=False), LinearHead(2, 3)
    with torch.no_grad():
        g.weight.copy_(simplex)  # the three rows of g start apart
    optimizer = torch.optim.Adam([*P.parameters(), *g.parameters()], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        total_loss(P(z), y3, g).backward()
        optimizer.step()
    return P(z).detach(), g.weight.detach()


# %%
def L_g(u, y, g):
    return F.cross_entropy(g(u), y)


moving = losses.CenterLoss(3, 2)
FAMILY = {
    "cross-entropy": L_g,
    "+ cosine": lambda u, y, g: L_g(u, y, g) + losses.cosine_prototype(u, y, simplex),
    "+ center": lambda u, y, g: L_g(u, y, g) + 0.5 * moving(u, y),
    "+ contrastive": lambda u, y, g: (
        L_g(u, y, g) + losses.supervised_contrastive(u, y, temperature=0.1)
    ),
    "NormFace": lambda u, y, g: losses.cosface(u, y, g.weight, scale=8, margin=0),
    "CosFace": lambda u, y, g: losses.cosface(u, y, g.weight, scale=8, margin=0.35),
    "ArcFace": lambda u, y, g: losses.arcface(u, y, g.weight, scale=8, margin=0.5),
}
after = {name: on_circle(total_loss) for name, total_loss in FAMILY.items()}


# %%
def draw_circle(ax, u, y, directions=None, *, lengths=True):
    """u (N, 2), y (N,), directions (K, 2) -> ax with features, the unit circle, and a
    line a class

    lengths=False draws directions only, each class on a ring of its own.
    """
    colours = (COLOURS["blue"], COLOURS["orange"], COLOURS["green"])
    ring = 1 + 0.13 * (y[:, None] - 1)
    u = u / u.norm(dim=1).quantile(0.8) if lengths else ring * F.normalize(u, dim=1)
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.7"))
    for k, (name, colour) in enumerate(zip(CLASSES, colours, strict=True)):
        own = u[y == k].clamp(-1.9, 1.9)
        ax.scatter(
            *own.T,
            s=9,
            color=colour,
            marker=MARKERS[k],
            label=name,
            alpha=0.7,
            linewidths=0.3,
        )
        if directions is not None:
            ax.plot(
                *zip((0, 0), F.normalize(directions[k], dim=0).tolist(), strict=True),
                color=colour,
                lw=2,
            )
    half = 2 if lengths else 1.35
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    ax.set_axis_off()
    return ax


fig, axes = plt.subplots(2, 4, figsize=(9, 4.9))
for ax, (name, (u, rows)) in zip(axes.flat, after.items(), strict=False):
    lines = simplex if name == "+ cosine" else rows if "Face" in name else None
    draw_circle(ax, u, y3, lines, lengths="Face" not in name)
    ax.set_title(name, fontsize=10)
axes.flat[-1].set_axis_off()
_ = axes.flat[-1].legend(
    *axes.flat[0].get_legend_handles_labels(),
    loc="center",
    frameon=False,
    markerscale=2,
)
plt.show()

# %% [markdown]
# (Upper row: all features of a panel are divided by one length, far ones drawn at the edge, and lines are the
# directions asked for. Lower row, where only directions count: they alone are drawn, each class on a ring of its own;
# lines are the rows of g.) How narrow are the classes? The mean cosine between a feature and the mean direction of its
# class, and the share of pictures that are nearest to their own class's mean direction:


# %% tags=["varies"]
def tightness(u, y):
    """u (N, 2), y (N,) -> (mean cosine to the own class's mean direction, share
    nearest to it)
    """
    unit = F.normalize(u, dim=1)
    mean = F.normalize(torch.stack([unit[y == k].mean(0) for k in range(3)]), dim=1)
    cosines = unit @ mean.T
    return cosines.gather(1, y[:, None]).mean().item(), (
        cosines.argmax(1) == y
    ).double().mean().item()


tight = {name: tightness(u, y3) for name, (u, _) in after.items()}
for name, (own, nearest) in tight.items():
    print(f"{name:<16}cosine to own class {own:.3f}   nearest to own {nearest:.1%}")
assert (
    min(tight["+ cosine"][0], tight["+ contrastive"][0])
    > tight["cross-entropy"][0] + 0.03
)
assert (
    max(tight[name][0] for name in ("NormFace", "CosFace", "ArcFace"))
    < tight["+ cosine"][0] - 0.03
)

# %% [markdown]
# Cross-entropy alone lets *length* say how sure it is. The cosine and contrastive losses gather each class in an
# angle; center pulls it towards a point. With the margin losses only angles count, and their rows of g need not lie in
# the middle of a class: they lie where the *differences* of cosines are right. Made for narrow classes, they leave them
# *wider* here than the cosine and contrastive losses do. Narrower classes on the training pictures look better; whether
# they *classify better* on new ones is what the experiment below is for.
#
# **Why the scale s?** Cosines end at ±1, so $s\cos\theta$ can never be very sure. With every feature at the corner of
# a simplex, the best there is, the cross-entropy is still $\log\big(1+(K-1)\,e^{-sK/(K-1)}\big)$ (exercise 4 derives
# it). With s = 1 it stays large whatever is learned, the more so the more classes there are:

# %%
scales = torch.linspace(0.5, 16, 63)
bound = {
    f"K = {K}": (scales, (1 + (K - 1) * (-scales * K / (K - 1)).exp()).log())
    for K in (2, 10, 100)
}
bound = {
    name: (s, torch.where(value > 1e-4, value, torch.nan))
    for name, (s, value) in bound.items()
}
fig, ax = plt.subplots(figsize=(8, 3))
ax.set(yscale="log", ylim=(1e-4, 8), xlim=(0, 16))
for (name, (x, value)), line in zip(bound.items(), ("-", "--", "-."), strict=True):
    _ = ax.plot(x, value, line, label=name)
ax.set(xlabel="scale s", ylabel="lowest loss (nats)")
_ = ax.legend(frameon=False)
plt.show()
corners = losses.simplex_prototypes(10, 16)
reached = losses.cosface(corners, torch.arange(10), corners, scale=1, margin=0)
print(
    f"K = 10, s = 1: formula {math.log(1 + 9 * math.exp(-10 / 9)):.3f}, features at "
    f"the corners {reached:.3f}"
)

# %% [markdown]
# ## Where it breaks: center loss alone
#
# Leave $L_g$ out and nothing keeps the classes apart. **Predict** where the features go.

# %%
alone = losses.CenterLoss(3, 2)
before, _ = on_circle(lambda u, y, g: alone(u, y), steps=0)
u, _ = on_circle(lambda u, y, g: alone(u, y), steps=max(STEPS, 150))
final = losses.center(u, y3, alone.centers)
print(
    "loss below 0.001:",
    bool(final < 1e-3),
    "  largest feature below 0.1:",
    bool(u.norm(dim=1).max() < 0.1),
)
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True)
for ax, points, name in zip(
    axes, (before, u), ("before", "after: one point for everything"), strict=True
):
    for k, colour in enumerate((COLOURS["blue"], COLOURS["orange"], COLOURS["green"])):
        ax.scatter(*points[y3 == k].T, s=12, color=colour, marker=MARKERS[k], alpha=0.7)
    ax.set(title=name, xlabel="$u_1$", ylabel="$u_2$")
plt.show()

# %% [markdown]
# A perfect loss, and nothing is told apart: the same collapse as with learned directions.
#
# ## λ: how much of each?
#
# In practice $L = L_g + \lambda L_f$, and λ matters: the two losses have different units, and they pull with different
# force on f. Rules that choose λ while training:
#
# | rule | λ at each step |
# |---|---|
# | **fixed**, tuned on validation | the same. *The one that every other rule has to beat* |
# | **gradient-norm ratio** | $\lVert\nabla L_g\rVert / \lVert\nabla L_f\rVert$ at the last weight of f: equal pulls |
# | **uncertainty** (arXiv 1705.07115) | learned: at its optimum $\lambda = L_g/L_f$, see below |
# | **GradNorm** (arXiv 1711.02257) | weights trained so that the loss that lags behind pulls more |
# | **PCGrad** (arXiv 2001.06782) | λ = 1, but where the two gradients point against each other, each loses that part |
# | **random** (arXiv 2111.10603) | random weights at each step. No sense in it: a *litmus test* for the clever ones |
#
# Uncertainty minimises $\sum_i \frac12 e^{-s_i}L_i+\frac12 s_i$ over learned $s_i$ too; setting the derivative by
# $s_i$ to zero gives $e^{s_i}=L_i$. Each rule is a function `combine(losses, model)` in `sftlib.losses`. What λ do
# they choose? Autograd can tell: the derivative of the total with respect to $L_f$, divided by that with respect to
# $L_g$.


# %%
def chosen_weights(combine, steps=60):
    """-> λ (steps,), cosine between the two gradients at P (steps,)"""
    seed_everything(SEED)
    model = Model(nn.Linear(32, 2, bias=False), LinearHead(2, 3))
    own = list(combine.parameters()) if isinstance(combine, nn.Module) else []
    groups = [{"params": model.parameters()}, {"params": own, "lr": 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    lambdas, agreement = [], []
    for _ in range(steps):
        u = model.backbone(z)
        both = (
            F.cross_entropy(model.head(u), y3),
            losses.cosine_prototype(u, y3, simplex),
        )
        pulls = [
            torch.autograd.grad(L, model.backbone.weight, retain_graph=True)[
                0
            ].flatten()
            for L in both
        ]
        total = combine(both, model)
        w_g, w_f = torch.autograd.grad(total, both, retain_graph=True)
        lambdas.append((w_f / w_g).item())
        agreement.append(F.cosine_similarity(*pulls, dim=0).item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return lambdas, agreement


# %%
RULES = {
    "fixed, 1": losses.fixed_weight(1.0),
    "gradient ratio": losses.gradient_norm_ratio("backbone.weight"),
    "uncertainty": losses.UncertaintyWeights(),
    "GradNorm": losses.GradNorm("backbone.weight"),
    "random": losses.RandomWeights(torch.Generator().manual_seed(SEED)),
}
chosen = {name: chosen_weights(rule) for name, rule in RULES.items()}
_, agreement = chosen_weights(losses.pcgrad)
fig, ax = plt.subplots(figsize=(8, 3.8))
ax.set(yscale="log", ylim=(1e-2, 100), xlim=(1, 60))
curves(
    ax,
    {name: (range(1, 61), values) for name, (values, _) in chosen.items()},
    xlabel="step",
    ylabel="λ",
)
plt.show()

# %% tags=["varies"]
for name, (values, _) in chosen.items():
    print(
        f"{name:<16}λ at the first step {values[0]:.2f}, at the last {values[-1]:.2f}"
    )
print(
    "the two gradients at P point against each other in "
    f"{sum(a < 0 for a in agreement)} of {len(agreement)} steps"
)
# five different λ, told apart by a tenth of themselves
assert len({round(math.log(values[-1]), 1) for values, _ in chosen.values()}) == 5

# %% [markdown]
# (PCGrad has something to take away in those steps only.) Five rules, five different λ. No rule knows which λ gives
# the best accuracy on new pictures: none of them looks at any. A λ chosen on validation does, which is why a tuned
# constant is so hard to beat (Kurin et al. 2022 argue this at length). By hand, the gradient-norm ratio takes two
# lines:

# %%
seed_everything(SEED)
model = Model(nn.Linear(32, 2, bias=False), LinearHead(2, 3))
u = model.backbone(z)
both = (F.cross_entropy(model.head(u), y3), losses.cosine_prototype(u, y3, simplex))
norm_g, norm_f = (
    torch.autograd.grad(L, model.backbone.weight, retain_graph=True)[0].norm()
    for L in both
)
by_hand = both[0] + norm_g / (norm_f + 1e-4) * both[1]
from_sftlib = losses.gradient_norm_ratio("backbone.weight")(both, model)
print(f"by hand {by_hand.item():.4f}   from sftlib {from_sftlib.item():.4f}")

# %% [markdown]
# ## The experiment: does it help?
#
# Solar cells, defect yes or no, with **few** labels (100) and with **all** 1,667. To keep it affordable, f below its
# last stage stays as it is and its maps are computed once; *the last stage of f and g are trained*, so $L_f$ does
# reach f. Rules of fairness:
#
# - each loss has its **own learning rate** (three tried) and its own λ or margin (up to three tried), chosen by
#   accuracy on 222 validation pictures, in tuning runs whose seeds are not used again;
# - then six seeds each; a seed decides which 100 pictures are labelled, g's first weights and the order of the batches;
# - all losses share the seeds, so we compare *differences to cross-entropy, seed by seed*, with 95 % intervals;
# - the 334 test pictures are used once a row, after everything is chosen.
#
# Of the rules for λ, GradNorm and PCGrad did not take part.
#
# **Predict.** With 100 labels, the best of these losses beats plain cross-entropy by
# (a) 5 points or more, (b) 1 to 4 points, clearly, (c) nothing that six seeds can show.
#
# The table is `data/results/combined_loss.csv` (`python tools/experiments/run.py combined_loss` makes it). Here we run
# its seed 0 live for two losses; rounding apart, it is the same run.

# %%
with open(
    cache_folder().parent / "results" / "combined_loss.csv", encoding="utf-8"
) as file:
    table = list(csv.DictReader(file))
row_of = {(r["loss"], int(r["labels"]), int(r["seed"])): r for r in table}
print(
    f"{len(table)} rows: {len({r['loss'] for r in table})} losses, "
    f"{len({r['seed'] for r in table})} seeds; ",
    end="",
)
print(
    f"they took {sum(float(r['seconds']) for r in table) / 60:.0f} minutes on one "
    "core, tuning included"
)


@torch.no_grad()
def maps(pictures):
    """pictures (N, 3, S, S) -> what leaves stage3 of f, the part that stays as it is"""
    return torch.cat(
        [f.lower(f.preprocess(some), "stage3") for some in pictures.split(128)]
    )


class Standardise(nn.Module):
    """z (N, D) -> (z − mean) / deviation, both fixed: lets features point anywhere"""

    def __init__(self, z):
        super().__init__()
        self.register_buffer("mean", z.mean(0))
        self.register_buffer("deviation", z.std(0) + 0.1 * z.std(0).mean())

    def forward(self, z):
        return (z - self.mean) / self.deviation


# %%
order = torch.Generator().manual_seed(SEED)
# these 100 are labelled, the others unknown
mine = torch.randperm(len(cells.train), generator=order)[:LABELS]
h, y = maps(cells.train.pictures[mine]), cells.train.labels[mine]
h_test, start_order = maps(cells.test.pictures), order.get_state()


class Batches:
    """16 maps and labels at a time, in a new order each epoch, as `fit` wants them."""

    def __len__(self):
        return -(-LABELS // 16)

    def __iter__(self):
        for part in torch.randperm(LABELS, generator=order).split(16):
            yield h[part], y[part]


def train(loss, feature_loss=None):
    """name in the table, L_f -> test accuracy after 20 epochs, losses of each step"""
    row = row_of[loss, LABELS, SEED]
    top = load_backbone("squeezenet1_1", size=SIDE)
    top = nn.Sequential(top.stage4, top.pool)
    seed_everything(SEED)
    order.set_state(start_order)
    # f's last stage, and g
    model = Model(nn.Sequential(top, Standardise(top(h).detach())), LinearHead(512, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(row["lr"]), momentum=0.9)
    schedule = warmup_cosine(LIVE_EPOCHS * len(Batches()))
    records = fit(
        model,
        Batches(),
        optimizer,
        epochs=LIVE_EPOCHS,
        feature_loss=feature_loss,
        feature_weight=float(row["weight"]),
        schedule=schedule,
    )
    values = [(r.task_loss, r.feature_loss) for r in records if hasattr(r, "task_loss")]
    with torch.inference_mode():
        return (
            model(h_test).argmax(1) == cells.test.labels
        ).double().mean().item(), values


# %% tags=["varies"]
directions = losses.simplex_prototypes(2, 512)


def cosine_loss(z, y):
    return losses.cosine_prototype(z, y, directions)


for loss, L_f in (("cross-entropy", None), ("+ cosine", cosine_loss)):
    found, values = train(loss, L_f)
    row = row_of[loss, LABELS, SEED]
    print(
        f"{loss:<15}rate {row['lr']}, λ {row['weight']}: test {found:.1%}, in the "
        f"table {float(row['test']):.1%}"
    )
    print(
        f"{'':<15}L_g {values[0][0]:.3f} -> {values[-1][0]:.3f}, L_f "
        f"{values[0][1]:.3f} -> {values[-1][1]:.3f}"
    )
    # rounding on another machine may turn a few pictures
    assert abs(found - float(row["test"])) < 0.02

# %% [markdown]
# Now all rows. Left, the choices that validation made (`weight` is λ, for cosface and arcface the margin; margin 0,
# which `cosface` got both times, is NormFace) and the mean accuracy; then what counts, the differences.

# %%
ROWS = [loss for loss in dict.fromkeys(r["loss"] for r in table)]
SEEDS = sorted({int(r["seed"]) for r in table})
results = {}
for labels in (100, 1667):
    header = (
        f"{'rate':>6}{'weight':>9}{'val':>7}{'test':>7}   test minus cross-entropy, 95 "
        "% interval"
    )
    print(f"{f'{labels:,} labels':<25}{header}")
    for loss in (r for r in ROWS if (r, labels, 0) in row_of):
        mine = [row_of[loss, labels, s] for s in SEEDS]
        base = [float(row_of["cross-entropy", labels, s]["test"]) for s in SEEDS]
        val, test = ([float(r[part]) for r in mine] for part in ("val", "test"))
        results[loss, labels] = (
            None if loss == "cross-entropy" else paired_interval(test, base)
        )
        about = (
            f"{mine[0]['lr']:>6}{mine[0]['weight']:>9}{mean_interval(val).mean:>7.3f}"
            f"{mean_interval(test).mean:>7.3f}"
        )
        print(f"{loss:<25}{about}   {results[loss, labels] or ''}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, layout="constrained")
for ax, labels in zip(axes, (100, 1667), strict=True):
    shown = [
        (loss, i) for (loss, n), i in results.items() if n == labels and i is not None
    ][::-1]
    for place, (_, i) in enumerate(shown):
        _ = ax.plot(
            [100 * i.low, 100 * i.high],
            [place, place],
            "-",
            color=COLOURS["blue"],
            lw=3,
            solid_capstyle="butt",
        )
        _ = ax.plot(100 * i.mean, place, "o", color="black", ms=6)
    ax.axvline(0, color="black", linestyle=":")
    ax.set(
        yticks=range(len(shown)),
        yticklabels=[loss for loss, _ in shown],
        title=f"{labels:,} labels",
        xlabel="test accuracy minus\ncross-entropy (points)",
    )
plt.show()

# %%
clear = [
    (loss, labels)
    for (loss, labels), i in results.items()
    if i is not None and i.excludes_zero
]
compared = sum(i is not None for i in results.values())
print(f"{len(clear)} of {compared} intervals exclude zero: {clear}")
print(
    f"by chance alone one expects {0.05 * compared:.1f}; one test picture is "
    f"{100 / 334:.1f} points"
)

# %% [markdown]
# **Read.** No loss gains anything that we can see: answer (c). With 100 labels *all eight* means lie below plain
# cross-entropy; the only intervals that exclude zero belong to two balancers, the gradient-norm ratio and uncertainty,
# which are *worse*, and not better than random weights. (Both got the lowest rate of the grid, so too short a training
# may be a part of it; and of thirteen such intervals, chance alone leaves zero outside of about one.) With all labels
# the cosine loss and ArcFace come out ahead by less than a point, with intervals that hold zero: a difference of two or
# three test pictures. An interval wholly above zero would have refuted (c), and one above five points would have meant
# (a). What the intervals do *not* exclude is a gain of up to two points.
#
# Look also at the λ that validation chose for the cosine loss: the smallest of its grid with 100 labels (in the live
# run $L_f$ hardly moved), the largest with all of them. 222 validation pictures hardly tell these settings apart.
#
# ## Play
#
# One loss with three knobs: CosFace with scale 1/T and margin m, plus λ times the cosine loss to the simplex (black
# dotted lines; coloured lines are the rows of g). Each move trains *P* and *g* anew from the same start; **steps** says
# how far, so that moving it shows the features on their way. Try: T = 1 (a scale of 1: the bound above); λ = 10 with T
# = 0.05; margin 0 against 0.8.


# %%
def update(settings):
    """λ, margin, temperature, steps -> features u (N, 2), rows of g (3, 2), share
    nearest to their own row
    """
    gen = torch.Generator().manual_seed(SEED)
    P = (0.3 * torch.randn(2, 32, generator=gen)).requires_grad_()
    W = simplex.clone().requires_grad_()
    optimizer = torch.optim.Adam([P, W], lr=0.1)
    scale = 1 / settings["temperature"]
    for _ in range(settings["steps"]):
        u = z @ P.T
        L = losses.cosface(u, y3, W, scale=scale, margin=settings["margin"])
        L = L + settings["feature_weight"] * losses.cosine_prototype(u, y3, simplex)
        optimizer.zero_grad()
        L.backward()
        optimizer.step()
    u, W = (z @ P.T).detach(), W.detach()
    return u, W, ((u @ F.normalize(W, dim=1).T).argmax(1) == y3).double().mean().item()


def plot(ax, arrays):
    u, W, share = arrays
    draw_circle(ax, u, y3, W, lengths=False)
    for k in range(3):
        ax.plot(
            *zip((0, 0), (1.25 * simplex[k]).tolist(), strict=True),
            color="black",
            linestyle=":",
            lw=1,
        )
    ax.set_title(
        f"{share:.0%} nearest to their own row of g", fontsize=10, loc="center"
    )
    for k, (name, colour) in enumerate(
        zip(CLASSES, ("blue", "orange", "green"), strict=True)
    ):
        ax.text(
            -1.35,
            1.28 - 0.12 * k,
            "●▲■"[k] + " " + name,
            color=COLOURS[colour],
            fontsize=9,
        )


# %% tags=["varies"]
controls = {
    "feature_weight": w.FloatSlider(
        value=1.0, min=0, max=10, step=0.5, description="λ"
    ),
    "margin": w.FloatSlider(
        value=0.35, min=0, max=0.8, step=0.05, description="margin m"
    ),
    "temperature": w.FloatLogSlider(
        value=0.1, base=10, min=-1.5, max=0, step=0.1, description="temperature T"
    ),
    "steps": w.IntSlider(value=20, min=0, max=40, description="steps"),
}
explorer = Explorer(controls, update, plot, figsize=(4.2, 4.2))
display(explorer)
assert explorer.error is None

# %%
explorer.still()

# %% [markdown]
# (The picture above is the first setting of the widget, for readers without a running kernel.) How long does a move
# take, training and drawing?

# %% tags=["varies"]
took = []
for margin in (0.0, 0.2, 0.5, 0.7, 0.35):
    began = time.perf_counter()
    controls["margin"].value = margin
    took.append(time.perf_counter() - began)
print(f"a move takes {1000 * sorted(took)[2]:.0f} ms (median of {len(took)})")
assert explorer.error is None

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: the gradient of the cosine loss
#
# Complete `cosine_gradient`: the gradient of $1-\cos\theta$ with respect to z, for one picture, from the formula (or
# your own derivation), without autograd.


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
# <details><summary>Hint 1</summary>
#
# First the unit vector ẑ = z / ‖z‖, then cos θ as an inner product: `unit @ mu`.
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

# %% [markdown]
# ### ★ Exercise 2: why did it collapse?
#
# A colleague trains prototypes together with the features. Her loss is the cosine loss, it falls to zero, and all
# three prototypes end in one place. Find out what is missing in `her_loss`, and mend it. The checker trains a small
# projection and three prototypes with your loss, 120 steps of SGD, on features that share most of their direction.


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
# <details><summary>Hint 1</summary>
#
# What is the value of her loss when all features and all prototypes are the same vector?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Something must make that place expensive: a term that grows when two prototypes come close, or a loss that compares
# the own prototype with the others.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `losses.prototype_repulsion(prototypes)` is one such term; a cross-entropy of scaled cosines to all K prototypes is
# another way.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: a simplex
#
# Complete `simplex_directions`: K rows of length 1 whose inner products are all −1/(K−1). Any such rows will do, with
# as many columns as you like.


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
# <details><summary>Hint 1</summary>
#
# The K rows of `torch.eye(K)` are at right angles: all inner products 0. That is not far enough.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Seen from their common mean, they point away from each other.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Subtract the mean of the rows (every entry of it is 1/K), then give each row length 1.
#
# </details>

# %% [markdown]
# ### ★ Exercise 4: the NormFace bound
#
# Cosines between −1 and 1, times a scale s, are the scores. Complete `lowest_loss`: the cross-entropy when every
# feature lies in the direction of its own class and the K class directions form a simplex.


# %% tags=["exercise"]
def lowest_loss(K, s):
    """K classes, scale s -> cross-entropy in nats"""
    # BEGIN SOLUTION
    # STUB: ...
    return math.log(1 + (K - 1) * math.exp(-s * K / (K - 1)))
    # END SOLUTION


check("03.normface_bound", lowest_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What is the score of the true class, and what that of each of the others?
#
# </details>
# <details><summary>Hint 2</summary>
#
# s · 1 and s · (−1/(K−1)). The cross-entropy is minus the logarithm of $e^{\text{own}} / \sum e^{\text{all}}$.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Divide above and below by $e^{s}$: below stands 1 + (K−1) times e to the power of the *difference* of the two scores.
#
# </details>

# %% [markdown]
# ### ★ Exercise 5: supervised contrastive, by loops
#
# Complete `contrastive` from the formula below the table: for each picture i (the *anchor*), P(i) are the others of its
# class, a runs over all others. Normalise z first; average over the anchors that have someone in P(i). Loops are fine.


# %% tags=["exercise"]
def contrastive(z, y, temperature):
    """z (N, D), y (N,) -> scalar"""
    # BEGIN SOLUTION
    # STUB: ...
    unit = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(y)):
        others = [a for a in range(len(y)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        if positives:
            scores = unit[others] @ unit[i] / temperature
            logs = [
                unit[i] @ unit[p] / temperature - scores.logsumexp(0) for p in positives
            ]
            terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)
    # END SOLUTION


check("03.contrastive", contrastive)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# For one anchor: `others = [a for a in range(N) if a != i]`, and from these the positives.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Below the fraction stands the sum over *all others*, positives included, but not the anchor itself.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One anchor's loss is the *mean* over its positives of −log(fraction). Append it only if there are positives, and
# divide at the end by how many anchors you appended.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 6: too much of a good thing
#
# In `train` of the live run, set `feature_weight=100` (and keep the rate), and run the cosine loss again. **Predict**
# first: does $L_f$ end lower, does $L_g$, does the test accuracy fall? Then try 100 with a hundredth of the rate.
#
# ### ★★ Exercise 7: batches of four
#
# The article's batch is 4. How often does a picture in a batch of 4 have no partner of its class, when a third of the
# pictures are defective? Work it out for a defective and for a functional picture, then simulate. What does this mean
# for the contrastive loss?
#
# ### ★★★ Exercise 8: rescue it
#
# Find a setting in which one of these losses clearly helps: fewer labels, other data, f trained from scratch (where
# Barz and Denzler found gains), more classes. Decide the number of seeds and what would refute you *before* you look.

# %% [markdown] tags=["solution"]
# **Exercise 6.** Under SGD a loss 100 times as large is a step 100 times as long for whatever $L_f$ reaches: after a
# few steps the loss is *not a number*, and `fit` says so. With a hundredth of the rate it runs: in our run $L_f$ ended
# at about 0.8 instead of 1.0, so f did turn towards the directions, $L_g$ ended a little higher, and about 76 % of the
# test pictures were right instead of 80 %. f moved as at λ = 1 with hardly any $L_g$, and g moved a hundredth as fast.
# So λ and the rates of f and g have to be tuned together.
#
# **Exercise 7.** A defective picture's three companions are all functional with probability (2/3)³ = 0.30; a
# functional picture's are all defective with (1/3)³ = 0.04. So about 30 % of the defective ones, the class of
# interest, give no contrastive loss. Use larger batches, or batches with a fixed number of each class.
#
# **Exercise 8.** There is no single answer. A good one has its own rate for each loss, at least five seeds, intervals
# of paired differences, and a test set touched once.

# %% [markdown]
# ## Remember
#
# - A loss on features needs shapes (N, D), one number at the end, a *direction* for each class, and something that can
#   learn behind it. Check the last first: does any weight end up different with and without it?
# - Cosine loss: gradient $-(\mu-\cos\theta\,\hat z)/\lVert z\rVert$, orthogonal to z, zero at 0° *and at 180°*. It
#   needs its own learning rate.
# - Features after a ReLU cannot point both ways: centre or project them first.
# - What pulls together needs something that pushes apart, or all falls into one point with a perfect loss.
# - Tune λ on validation and compare with seeds and intervals; keep "random weights" at hand as a litmus test.
#
# **Limits.** One data set with two classes, one network, the last stage of f trained at 96 pixels, six seeds, one
# split with 334 test pictures: the intervals show the noise of training and of which pictures are labelled, not that
# of another test set. The grids were small, and several choices lie at their edge; in a trial with 100 labels, a rate
# of 0.01 ended in *not a number* for cross-entropy. Other data, more classes or training from scratch may say
# otherwise: Barz and Denzler report large gains for small data sets *trained from scratch*.
#
# **References.** Barz and Denzler 2020, *Deep learning on small datasets without pre-training using cosine loss*,
# arXiv 1901.09054. Wen et al. 2016, *A discriminative feature learning approach for deep face recognition* (center
# loss), ECCV, eqs. (2) and (4). Khosla et al. 2020, *Supervised contrastive learning*, arXiv 2004.11362, eq. (2). Wang
# et al. 2017, *NormFace*, arXiv 1704.06369. Wang et al. 2018, *CosFace*, arXiv 1801.09414, eq. (4). Deng et al. 2019,
# *ArcFace*, arXiv 1801.07698, eq. (3). Kendall et al. 2018, *Multi-task learning using uncertainty to weigh losses*.
# Chen et al. 2018, *GradNorm*. Yu et al. 2020, *Gradient surgery for multi-task learning*. Lin et al. 2022,
# *Reasonable effectiveness of random weighting*. Kurin et al. 2022, *In defense of the unitary scalarization*. The
# gradient-norm ratio is from Esser et al. 2021, arXiv 2012.09841. Data: Deitsch et al. 2019, arXiv 1807.02894. Next:
# **04 The gradient update**.
