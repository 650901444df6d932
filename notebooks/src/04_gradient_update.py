# %% [markdown]
# # 04 The gradient update: f ← f − α ∂L/∂f, g ← g − α ∂L/∂g
#
# **What does this line do, exactly?** Here you derive it for a network of two layers, index by index, check it in three
# ways, and see on a real network what a step too long does.
#
# Afterwards you can
#
# - derive ∂L/∂*f* and ∂L/∂*g* for a combined loss, and check any gradient against finite differences;
# - say which loss moves which parameters, and cut that with `detach`;
# - predict from the curvature at which α training breaks, and say when a batch may be cut into pieces.
#
# **60 minutes** to read and try, 1 minute to run. You need notebook 03, the chain rule, and sums with indices.

# %% tags=["setup"]
import copy

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from sftlib import adaptation, backbones, features, losses, runtime, training, widgets
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.model import LinearHead, Model
from sftlib.plotting import COLOURS, curves, idea, use_style

use_style()

# %% [markdown]
# ## The idea
#
# The forward arrows compute the loss. The dashed arrows carry the **gradient** back: how fast *L* grows with each
# number in *f* and *g*. A step goes the other way, and α, the *learning rate*, says how far. Two dashed arrows, one
# from each loss, go through *z* into *f*; only one arrives at *g*. Which loss moves which part is the *ledger*.

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("gradient", "f", "g"))
plt.show()

# %%
size = runtime.profile()
SEED = 0
SIDE = size.pick(quick=96, full=224)  # pixels of the solar cells
PICTURES = size.pick(quick=48, full=256)  # on which the step sizes are tried
STEPS = size.pick(quick=40, full=100)  # of each of them
LAMBDA = 0.5  # λ in L = L_g + λ L_f

# %% [markdown]
# ## Look at the data, and forward by hand
#
# A batch that fits on paper: N = 11 rows of C = 7 numbers, D = 5 features, K = 3 classes; 64-bit numbers, so that
# rounding hides no mistake. The smallest model with both halves:
#
# $$z = f(x) = \tanh(A x) \qquad l = g(z) = B z \qquad L = L_g + \lambda L_f$$
# $$L_g = \frac1N\sum_i -\log p_{i,y_i} \qquad L_f = \frac1N\sum_i \Bigl(1 - \frac{z_i\cdot\mu_{y_i}}{\|z_i\|}\Bigr)$$
#
# | symbol | code | shape | what it is |
# |---|---|---|---|
# | *x*, *z* | `x`, `z` | (N, C), (N, D) | inputs, features |
# | *l*, *p* | `logits`, `p` | (N, K) | logits, and their softmax $p_k = e^{l_k} / \sum_j e^{l_j}$ |
# | *A*, *B* | `A`, `B` | (D, C), (K, D) | all that *f* can learn, all that *g* can learn |
# | $μ_k$ | `mu` | (K, D) | the direction (length 1) of class *k* |
# | *λ* | `LAMBDA` | number | how much *L_f* counts |

# %%
draw = torch.Generator().manual_seed(SEED)
how = {"generator": draw, "dtype": torch.float64}
x, y = torch.randn(11, 7, **how), torch.arange(11) % 3
A, B = torch.randn(5, 7, **how) / 7**0.5, torch.randn(3, 5, **how) / 5**0.5
mu = F.normalize(losses.simplex_prototypes(3, 5).double(), dim=1)  # far apart


def both_losses(A, B, x=x, mu=mu):
    """A (D, C), B (K, D) -> L_g, L_f on the batch above"""
    z = torch.tanh(x @ A.T)  # (N, D)
    p = (z @ B.T).softmax(dim=1)  # (N, K)
    L_g = -p[torch.arange(len(y)), y].log().mean()
    return L_g, (1 - (F.normalize(z) * mu[y]).sum(dim=1)).mean()


# %% [markdown]
# ## By hand: backward through *g*
#
# For one row, $-\log p_y = -l_y + \log\sum_j e^{l_j}$. The derivative of the second part is
#
# $$\frac{\partial}{\partial l_k}\log\sum_j e^{l_j} = \frac{e^{l_k}}{\sum_j e^{l_j}} = p_k$$
#
# and that of $-l_y$ is −1 for *k* = *y* and 0 elsewhere. With $Y_{ik}$ = 1 where *k* is row *i*'s class, the mean over
# N rows gives the *error* **E**, prediction minus truth:
#
# $$E_{ik} = \frac{\partial L_g}{\partial l_{ik}} = \frac{p_{ik} - Y_{ik}}{N}$$
#
# Now $l_{ik} = \sum_d B_{kd}\, z_{id}$. $B_{kd}$ appears in logit *k* of every row *i*, with the factor $z_{id}$;
# $z_{id}$ appears in every logit *k* of its row, with the factor $B_{kd}$. The chain rule adds up all ways:
#
# $$\frac{\partial L_g}{\partial B_{kd}} = \sum_i E_{ik}\, z_{id} \qquad\qquad
# \frac{\partial L_g}{\partial z_{id}} = \sum_k E_{ik}\, B_{kd}$$

# %%
z = torch.tanh(x @ A.T)  # (N, D)
p = (z @ B.T).softmax(dim=1)  # (N, K)
E = (p - F.one_hot(y, 3)) / len(y)  # (N, K)
dB = torch.einsum("ik,id->kd", E, z)  # ∂L_g/∂B: the sum over i, in letters
from_g = torch.einsum("ik,kd->id", E, B)  # what L_g sends back to z: over k
print("each row of E sums to zero:", bool(E.sum(dim=1).abs().max() < 1e-12))

# %% [markdown]
# ## By hand: backward into *f*
#
# *L_f* reaches *z* without *g*; its gradient was derived in notebook 03, with $\hat z_i = z_i/\|z_i\|$:
#
# $$\frac{\partial L_f}{\partial z_i} = -\frac{1}{N}\,\frac{\mu_{y_i} - (\hat z_i\cdot\mu_{y_i})\,\hat z_i}{\|z_i\|}$$
#
# At *z* the two gradients are **added**, *L_f*'s times λ. Then $z_{id} = \tanh(a_{id})$ with
# $a_{id} = \sum_c A_{dc}\,x_{ic}$. The derivative of tanh is $1-\tanh^2$, so each entry is multiplied by
# $1 - z_{id}^2$, and $A_{dc}$ appears in $a_{id}$ of every row *i*, with the factor $x_{ic}$:
#
# $$\delta_{id} = \Bigl(\lambda\frac{\partial L_f}{\partial z_{id}} + \sum_k E_{ik}B_{kd}\Bigr)(1 - z_{id}^2) \qquad
# \frac{\partial L}{\partial A_{dc}} = \sum_i \delta_{id}\,x_{ic}$$

# %%
length = z.norm(dim=1, keepdim=True)  # (N, 1)
cosine = (z * mu[y]).sum(dim=1, keepdim=True) / length  # (N, 1)
from_L_f = -(mu[y] - cosine * z / length) / length / len(y)  # (N, D)

delta = (LAMBDA * from_L_f + from_g) * (1 - z**2)  # (N, D)
dA = torch.einsum("id,ic->dc", delta, x)
by_hand = {"∂L/∂A": dA, "∂L/∂B": dB}
for name, gradient in by_hand.items():
    print(name, tuple(gradient.shape), f" length {gradient.norm():.4f}")

# %% [markdown]
# ## Three ways that must agree
#
# **Autograd**: PyTorch writes down each operation and walks back through them. **Finite differences**: move one number
# by ±ε and look at the loss,
# $\partial L/\partial B_{kd} \approx \bigl(L(B_{kd}+\varepsilon) - L(B_{kd}-\varepsilon)\bigr)/2\varepsilon$.


# %%
def combined(A, B, x=x, mu=mu):
    L_g, L_f = both_losses(A, B, x, mu)
    return L_g + LAMBDA * L_f


def finite_differences(function, tensors, which, eps):
    """The derivative of function(*tensors) by every entry of tensors[which]"""
    moved = [t.clone() for t in tensors]
    entries, out = moved[which].view(-1), torch.zeros_like(tensors[which])
    for i, value in enumerate(entries.tolist()):
        for sign in (1, -1):
            entries[i] = value + sign * eps
            out.view(-1)[i] += sign * function(*moved) / (2 * eps)
        entries[i] = value
    return out


# %%
A.requires_grad_(), B.requires_grad_()
autograd = torch.autograd.grad(combined(A, B), (A, B))


def agree(what, a, b, below):
    largest = (a - b).abs().max().item()
    assert largest < below, f"{what}: {largest}"
    print(f"{what:<32} largest difference < {below:.0e}")


for i, (name, gradient) in enumerate(by_hand.items()):
    with torch.no_grad():
        differences = finite_differences(combined, (A, B), i, eps=1e-5)
    agree(f"{name} by hand, autograd", gradient, autograd[i], 1e-12)
    agree(f"{name} by hand, finite differences", gradient, differences, 1e-8)

# %% [markdown]
# **Predict**: with 32-bit numbers (float32), what happens to finite differences as ε gets smaller?
#
# (a) Always better. (b) Better, then worse. (c) The number format does not matter.

# %%
sizes, errors = 10.0 ** np.arange(-10, 0.1, 0.5), {}
for dtype in (torch.float64, torch.float32):
    inputs = [t.detach().to(dtype) for t in (A, B, x, mu)]
    tries = [finite_differences(combined, inputs, 1, eps).double() for eps in sizes]
    worst = [(t - dB).abs().max().item() for t in tries]
    errors[str(dtype).removeprefix("torch.")] = (sizes, worst)
fig, ax = plt.subplots(figsize=(6.5, 3.2))
ax.set(xscale="log", yscale="log")
curves(ax, errors, xlabel="ε", ylabel="largest error of the gradient")
plt.show()
best = {name: min(worst) for name, (_, worst) in errors.items()}
assert best["float32"] > 1e4 * best["float64"]
stuck = A.detach().float()
assert torch.equal(stuck + 1e-10, stuck)

# %% [markdown]
# **Read.** (b). On the right the error falls with ε². On the left it grows like 1/ε: what is left of the difference of
# two nearly equal losses is rounding. At the far left, in float32, $B_{kd}$ + ε **is** $B_{kd}$, and the estimate is 0.
# So check gradients in float64.
#
# ## The ledger
#
# The same gradients in one colour scale. Beside the loss as it is (**joint**), a second method: *g* reads `z.detach()`,
# the same numbers with the way back cut off (a **stop-gradient**).
#
# **Predict**: which panels of the last column differ from those of the third, and what are they equal to?


# %%
def ledger(cut):
    """-> name -> (gradient for A, for B); None where the loss does not depend on it"""
    z = torch.tanh(x @ A.T)
    L_g = F.cross_entropy((z.detach() if cut else z) @ B.T, y)
    L_f = losses.cosine_prototype(z, y, mu)
    how = {"retain_graph": True, "allow_unused": True}
    parts = {"λ L_f": LAMBDA * L_f, "L_g": L_g, "L": LAMBDA * L_f + L_g}
    return {k: torch.autograd.grad(v, (A, B), **how) for k, v in parts.items()}


joint, stopped = ledger(cut=False), ledger(cut=True)
agree("L_g reaches A through B alone", joint["L_g"][0],
      torch.einsum("id,ic->dc", from_g * (1 - z**2), x), 1e-12)  # fmt: skip
assert joint["λ L_f"][1] is None  # g does not appear in L_f: not even a zero


# %% tags=["hide-input"]
columns = {"λ ∂L_f / ∂": joint["λ L_f"], "∂L_g / ∂": joint["L_g"], "∂L / ∂": joint["L"],
           "stop-gradient: ∂L / ∂": stopped["L"]}  # fmt: skip
top = max(g.abs().max() for pair in columns.values() for g in pair if g is not None)
look = {"cmap": "PuOr", "vmin": -top, "vmax": top, "aspect": "auto"}
fig, axes = plt.subplots(2, 4, figsize=(10, 3.8), layout="constrained")
for (name, pair), two in zip(columns.items(), axes.T, strict=True):
    for ax, gradient, letter in zip(two, pair, "AB", strict=True):
        none = gradient is None
        image = ax.imshow(torch.zeros(3, 5) if none else gradient, **look)
        ax.set(xticks=[], yticks=[], title=name + letter)
        ax.set_xlabel("not connected" if none else f"length {gradient.norm():.3f}")
        ax.grid(False)
fig.colorbar(image, ax=axes, label="entry of the gradient", shrink=0.8)
plt.show()

# %% [markdown]
# **Read.** *f* (above) hears **both** losses, and its gradient is their sum; *g* hears **only** *L_g*. So "*L_f* trains
# *f* and *L_g* trains *g*" is wrong by the second panel: what *L_g* sends through *g* back to *f*. The stop-gradient
# makes it true: its upper panel is the first one. And the *loss* is the same to the last digit: **a printed loss does
# not tell what is learned.**
#
# ## The update, and the same from `sftlib`
#
# The step, *A* ← *A* − α_f ∂L/∂A and *B* ← *B* − α_g ∂L/∂B, by hand, and by `train_step` with the same two layers as
# modules.

# %%
LR_F, LR_G = 0.1, 0.3  # α of f and of g
f = torch.nn.Sequential(torch.nn.Linear(7, 5, bias=False), torch.nn.Tanh()).double()
g = torch.nn.Linear(5, 3, bias=False).double()
with torch.no_grad():
    f[0].weight.copy_(A), g.weight.copy_(B)
optimizer = torch.optim.SGD(adaptation.param_groups(f=(f, LR_F), g=(g, LR_G)))


def towards_mu(z, y):
    return losses.cosine_prototype(z, y, mu)


how = {"feature_loss": towards_mu, "feature_weight": LAMBDA}
training.train_step(Model(f, g), x, y, optimizer, task_loss=F.cross_entropy, **how)
agree("train_step: A", f[0].weight, A - LR_F * dA, 1e-12)
agree("train_step: B", g.weight, B - LR_G * dB, 1e-12)

# %% [markdown]
# ## How long may a step be? First a bowl
#
# Near a minimum every smooth loss looks like a bowl, $L(w) = \tfrac12\sum_j \kappa_j w_j^2$, where the **curvature**
# $\kappa_j$ says how fast the slope changes along direction *j*. There a step is a multiplication:
#
# $$w_j \leftarrow w_j - \alpha\kappa_j w_j = (1 - \alpha\kappa_j)\,w_j \qquad\Longrightarrow\qquad
# w_j \text{ after } t \text{ steps} = (1 - \alpha\kappa_j)^t\, w_j$$
#
# It shrinks while $|1 - \alpha\kappa_j| < 1$, that is $\alpha < 2/\kappa_j$: **the steepest direction sets the limit,
# $\alpha < 2/\kappa_{\max}$.** Which is the slowest? Up to $\alpha = 2/(\kappa_{\min}+\kappa_{\max})$ the flattest;
# from there to the limit the steepest, which jumps across the valley.

# %%
KAPPA = np.array([1.0, 10.0])  # so the limit is 2 / 10, and both are equal at 2 / 11


def descend(alpha, beta=0.0, start=(-4, 1), steps=30):
    """-> points (steps + 1, 2); beta is momentum, 0 for none"""
    point, velocity, path = np.array(start, float), np.zeros(2), [start]
    for _ in range(steps):
        velocity = beta * velocity + KAPPA * point
        point = point - alpha * velocity
        path.append(point)
    return np.array(path)


for alpha in (0.02, 0.18, 0.198, 0.202, 0.21):
    flat, steep = np.abs(descend(alpha)[-1])
    print(f"α {alpha:<6} after 30 steps: flat {flat:.4f}, steep {steep:.4f}")
    assert np.allclose((flat, steep), np.abs((1 - alpha * KAPPA) ** 30 * (-4, 1)))

# %% [markdown]
# ## Then a real network
#
# Is any of this true of a network with 387,202 numbers? SqueezeNet's lower stages run once: *h*. *f* is its last stage
# with the pooling, *g* a new linear layer. The pictures are drawn at random.
#
# The largest curvature is found by repeatedly multiplying a vector by the matrix of second derivatives (*power
# iteration*): its part along the steepest direction grows fastest.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
squeezenet = backbones.load_backbone("squeezenet1_1", size=SIDE)
some = torch.randperm(len(cells.train), generator=torch.Generator().manual_seed(SEED))
part = cells.train.subset(some[:PICTURES])
batches = loader(part, squeezenet.preprocess, batch_size=48)
h, labels = features.extract(squeezenet, batches, stage="stage3")
runtime.seed_everything(SEED)
top = torch.nn.Sequential(squeezenet.stage4, squeezenet.pool)
network = Model(top, LinearHead(512, 2)).eval()
counts = [labels.bincount().tolist(), cells.train.labels.bincount().tolist()]
print("of each class in these pictures, and in all:", *counts)


# %%
def sharpest(model, steps=20):
    """-> the largest curvature of the loss on these pictures"""
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(h), labels)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    slope = torch.cat([s.flatten() for s in slopes])  # (387202,)
    v = torch.randn(len(slope), generator=torch.Generator().manual_seed(SEED))
    for _ in range(steps):
        v = v / v.norm()
        parts = torch.autograd.grad(slope @ v, parameters, retain_graph=True)
        v = torch.cat([part.flatten() for part in parts])
    return v.norm().item()


# %% [markdown]
# Plain gradient descent from one start, for a *sweep* of α. **Predict**: which ends lowest?
#
# (a) One just below the limit, as in the bowl; all above diverge. (b) One above the limit. (c) The shortest steps.


# %%
def walk(alpha):
    """-> losses (STEPS + 1,), the network after all steps but the last"""
    model, out = copy.deepcopy(network), []
    parameters = list(model.parameters())
    for step in range(STEPS + 1):
        loss = F.cross_entropy(model(h), labels)
        out.append(loss.item())
        if step < STEPS:
            slopes = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, slope in zip(parameters, slopes, strict=True):
                    p.sub_(alpha * slope)  # p ← p − α ∂L/∂p
    return np.array(out), model


# %% tags=["varies"]
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 1.1, 1.5, 2, 3, 5, 10, 20, 50, 100)
kappa = sharpest(network)
limit = 2 / kappa
walks = {share: walk(share * limit) for share in SHARES}
print(f"largest curvature at the start {kappa:.0f}, so the limit is α = {limit:.5f}")
for share in (0.5, 0.9, 1.1, 1.5, 2, 3, 5, 10, 20):
    loss, model = walks[share]
    print(f"{share} of it: loss {loss[0]:.2f}, at most {loss.max():.2f}, last "
          f"{loss[-1]:.3f}; curvature at the end {sharpest(model):.0f}, "
          f"2/α {kappa / share:.0f}")  # fmt: skip
calm = [share for share in SHARES if share < 1]
assert all(np.diff(walks[share][0]).max() < 1e-3 for share in calm)
assert walks[3][0].max() > walks[3][0][0] + 0.1 and walks[3][0][-1] < walks[0.5][0][-1]
assert np.nanmax(walks[100][0]) > 1e3 and sharpest(walks[3][1]) < 0.8 * kappa

# %%
last = [walks[share][0][-1] for share in SHARES]
highest = [np.nanmax(walks[share][0]) for share in SHARES]
top = 20  # what is higher, or not a number, is drawn at this edge
fig, ax = plt.subplots(figsize=(7.5, 3.4))
for values, name, look in (
    (highest, "highest loss on the way", "^:"),
    (last, "last loss", "o-"),
):
    shown = [v if v < top else top for v in values]
    ax.plot(SHARES, shown, look, label=name, ms=6)
ax.axvline(1, color="black", lw=1, label="the limit at the start")
ax.axhline(top, color="0.6", lw=1, ls="--", label="above this, or not a number")
ax.set(xscale="log", yscale="log", xlabel="α / limit", ylabel="loss (nats)")
ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.93))
plt.show()

# %% [markdown]
# **Read.** (b). Up to the limit the loss falls at every step, and the more α, the lower it ends. From 1.5 times the
# limit (the bowl: from 1) it first *climbs*. Then, as no bowl can, it comes down again, and
# up to some five times the limit it ends lower than any from below. The printed curvature says why: the network was
# thrown to a flatter place, with, in our run, half to twice the 2/α that its α allows (the *catapult*: Lewkowycz et
# al. 2020). Only somewhere above twenty times the limit nothing is left: *not a number*, or a dead network that says
# the same of every picture. So the limit says when a step is too long *here*; and "here" moves. (Elsewhere, see *Going
# deeper*, there may be no way back.)
#

# %% [markdown]
# ## A batch in pieces
#
# A batch too large for the memory is cut into *micro-batches*: `backward` on each, gradients add up, then one step
# (*accumulation*). Where *L* is a mean over N pictures, each piece counts with its share:
# $L = \sum_\text{pieces} \frac{n_\text{piece}}{N} L_\text{piece}$. **Predict**: 20 pictures as one batch, and in
# pieces of 8, 7 and 5, weighted so. When are the gradients equal up to rounding?
#
# (a) Always: that is the sum rule. (b) With every network and loss, in `eval` mode. (c) In `eval` mode, if the loss
# looks at each picture alone; in `train` mode, if moreover nothing in the network is random or looks at its neighbours.


# %%
def cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def difference(name, train, loss=cross_entropy, drop=0.0, weights=(8, 7, 5)):
    """Gradient of 20 pictures in pieces against that at once, relative difference"""
    runtime.seed_everything(SEED)
    f = backbones.load_backbone(name, size=64)
    head = torch.nn.Sequential(torch.nn.Dropout(drop), LinearHead(f.feature_dim, 2))
    model = Model(f, head).train(train)
    x, y = f.preprocess(cells.train.pictures[:20]), cells.train.labels[:20]
    whole, added = gradient(model, loss(model, x, y)), 0
    pieces = zip(weights, x.split([8, 7, 5]), y.split([8, 7, 5]), strict=True)
    for n, some, its in pieces:
        added = added + n / sum(weights) * gradient(model, loss(model, some, its))
    return ((added - whole).norm() / whole.norm()).item()


# %%
def gradient(model, loss):
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


def contrastive(model, x, y):
    return losses.supervised_contrastive(model.backbone(x), y, temperature=0.1)


squeeze, lite = "squeezenet1_1", "efficientnet_lite0"
cases = {
    "SqueezeNet, train": difference(squeeze, True),
    "SqueezeNet + dropout, eval": difference(squeeze, False, drop=0.5),
    "Lite0 with BatchNorm, eval": difference(lite, False),
    "pieces weighted 1/3 each": difference(squeeze, True, weights=(1, 1, 1)),
    "SqueezeNet + dropout, train": difference(squeeze, True, drop=0.5),
    "Lite0 with BatchNorm, train": difference(lite, True),
    "contrastive loss, eval": difference(squeeze, False, loss=contrastive),
}

# %%
fig, ax = plt.subplots(figsize=(8, 3))
colours = 3 * [COLOURS["blue"]] + 4 * [COLOURS["orange"]]
ax.scatter(cases.values(), list(cases), color=colours, s=60)
for name, d in cases.items():
    text = f"{d:.0e}" if d < 0.01 else f"{d:.0%}"
    ax.annotate(text, (d, name), xytext=(9, -4), textcoords="offset points")
ax.set(xscale="log", xlim=(1e-8, 50), xlabel="difference, relative to the whole batch")
ax.invert_yaxis()
plt.show()
assert max(list(cases.values())[:3]) < 1e-3 < 1e-2 < min(list(cases.values())[3:])

# %% [markdown]
# **Read.** (c). The first three are rounding. Then four reasons why the pieces are not the batch: wrong weights;
# dropout, which draws other zeros; BatchNorm in `train` mode, which centres each picture by its *micro-batch*; and a
# loss that compares pictures, such as the contrastive *L_f* of 03's *Going deeper*: it is no mean over pictures.
#
# ## Where it breaks
#
# The formula *A* ← *A* − α ∂*L*/∂*A*, typed as it stands:

# %% tags=["raises-exception"]
weight = torch.ones(3, requires_grad=True)
weight.square().sum().backward()
weight -= 0.1 * weight.grad

# %% [markdown]
# Autograd watches what is done to a *leaf*, a tensor made, not computed. An update belongs under `torch.no_grad()`.
# `weight = weight - 0.1 * weight.grad` raises nothing and is worse: it makes a *new* tensor, unknown to the model, and
# nothing learns.
#
# ## Play
#
# The bowl, with **momentum** β: a velocity *v* ← β *v* + ∇L, and the step is −α *v*. α is given as a share of the limit
# $2/\kappa_{\max}$. With β = 0, raise α until the walk diverges: is it at 1? Then β = 0.5: the limit moves to
# $1 + \beta = 1.5$. (The still picture: β = 0, share 0.99.)

# %%
starts = {"both": (-4, 1), "on the wall": (0, 4), "along the valley": (-4, 0)}


def explore(s):
    return descend(s["share"] * 2 / KAPPA.max(), s["momentum"], starts[s["start"]])


def draw_walk(axes, path):
    left, right = axes
    a, b = np.meshgrid(np.linspace(-5, 5, 60), np.linspace(-5, 5, 60))
    heights = 0.5 * (KAPPA[0] * a**2 + KAPPA[1] * b**2)
    left.contour(a, b, heights, levels=12, colors="#BBBBBB", linewidths=0.8)
    left.plot(*path.T, "o-", color=COLOURS["orange"], ms=4, lw=1)
    out = int((np.abs(path) > 5).any(axis=1).sum())
    left.set(xlim=(-5, 5), ylim=(-5, 5), xlabel="flat, κ = 1", ylabel="steep, κ = 10")
    left.set_title(f"{out} of {len(path)} points outside")
    right.set_yscale("log")
    loss = 0.5 * (KAPPA * path**2).sum(axis=1).clip(1e-12)
    curves(right, {"loss": (np.arange(len(path)), loss)}, xlabel="step", ylabel="loss")


# %% tags=["varies"]
share = {"base": 10, "min": -2, "max": 1, "step": 0.02, "description": "α / (2/κ_max)"}
controls = {
    "share": w.FloatLogSlider(value=0.5, **share),
    "momentum": w.FloatSlider(0.0, min=0.0, max=0.98, step=0.02, description="β"),
    "start": w.Dropdown(options=list(starts), description="start"),
}
how = {"figsize": (9, 3.6), "columns": 2}
explorer = widgets.Explorer(controls, explore, draw_walk, **how)
assert explorer.error is None
explorer

# %% tags=["varies"]
controls["share"].value = 0.99
assert explorer.error is None
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: backward of two layers
#
# Another network: $z = \max(0, A x + a)$, logits $= B z + b$. Complete `backward`: the gradients of the mean
# cross-entropy by *A*, *a*, *B* and *b*, in this order, without autograd.
#
# <details><summary>Hint 1</summary>
#
# Forward first, then E (N, K), as above.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In which logits does $b_k$ appear? Sum over these.
#
# </details>
# <details><summary>Hint 3</summary>
#
# $\delta_{id} = (\sum_k E_{ik} B_{kd})$ where $z_{id} > 0$, else 0.
#
# </details>


# %% tags=["exercise"]
def backward(x, y, A, a, B, b):
    """x (N, C), y (N,), A (D, C), a (D,), B (K, D), b (K,) -> ∂L/∂A, ∂L/∂a, ∂L/∂B,
    ∂L/∂b, in the shapes of A, a, B, b
    """
    # BEGIN SOLUTION
    # STUB: ...
    z = (x @ A.T + a).clamp(min=0)  # (N, D)
    E = (z @ B.T + b).softmax(dim=1)  # (N, K)
    E = (E - F.one_hot(y, len(b))) / len(y)
    delta = (E @ B) * (z > 0)
    return delta.T @ x, delta.sum(dim=0), E.T @ z, E.sum(dim=0)
    # END SOLUTION


check("04.backward", backward)

# %% [markdown]
# ### ★ Exercise 2: complete the ledger
#
# Which losses move each part by their gradient? Write `"none"`, `"L_f"`, `"L_g"` or `"both"`. In the last line the
# directions μ are themselves learned.
#
# <details><summary>Hint 1</summary>
#
# Do the forward arrows lead from the part to the loss?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `detach` removes only the arrow from *z* to *g*.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A frozen part asks for no gradient. Directions stand in the cosine only.
#
# </details>


# %% tags=["exercise"]
ledger_answer = {
    # BEGIN SOLUTION
    # STUB: "joint, f": ...,
    # STUB: "joint, g": ...,
    # STUB: "stop-gradient, f": ...,
    # STUB: "stop-gradient, g": ...,
    # STUB: "f frozen, f": ...,
    # STUB: "f frozen, g": ...,
    # STUB: "joint, learned prototypes": ...,
    "joint, f": "both",
    "joint, g": "L_g",
    "stop-gradient, f": "L_f",
    "stop-gradient, g": "L_g",
    "f frozen, f": "none",
    "f frozen, g": "L_g",
    "joint, learned prototypes": "L_f",
    # END SOLUTION
}


check("04.ledger", ledger_answer)

# %% [markdown]
# ### ★ Exercise 3: one step by hand
#
# Complete `one_step`: *p* ← *p* − α ∂L/∂*p* for every parameter in the list, in place, as `torch.optim.SGD` would. It
# is called repeatedly, with a fresh loss.
#
# <details><summary>Hint 1</summary>
#
# `loss.backward()` *adds* to each `p.grad`; `torch.autograd.grad` returns them.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `with torch.no_grad():`, and in place: `sub_` or `-=`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Set `p.grad = None` before `backward`.
#
# </details>


# %% tags=["exercise"]
def one_step(parameters, loss, lr):
    """parameters: list of leaf tensors; loss: scalar computed from them; changes
    the parameters, returns nothing
    """
    # BEGIN SOLUTION
    # STUB: ...  # gradients first, then the update
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, gradient in zip(parameters, gradients, strict=True):
            p.add_(gradient, alpha=-lr)
    # END SOLUTION


check("04.step", one_step)

# %% [markdown]
# ### ★ Exercise 4: the learning rate at which a bowl diverges
#
# A bowl is $L(w) = \tfrac12 w^\top H w$, with a symmetric matrix *H* of second derivatives. Complete `largest_rate`:
# the α above which gradient descent diverges.
#
# <details><summary>Hint 1</summary>
#
# By what does a step multiply an eigenvector of *H*?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $|1 - \alpha\kappa| = 1$ has one positive solution for each eigenvalue κ.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `torch.linalg.eigvalsh(H)` gives the eigenvalues, the smallest first.
#
# </details>


# %% tags=["exercise"]
def largest_rate(H):
    """H (D, D), symmetric with positive eigenvalues -> the α at the limit, a number"""
    # BEGIN SOLUTION
    # STUB: ...
    return 2 / torch.linalg.eigvalsh(H).max()
    # END SOLUTION


check("04.largest_rate", largest_rate)

# %% [markdown]
# ### ★★ Exercise 5: twice the loss
#
# Multiply the loss by 2. **Predict** what becomes of the curvature, the limit, and the sweep, over α and over α /
# limit. Then let `walk` and `sharpest` use `2 * F.cross_entropy(…)` and look.
#
# ## Remember
#
# - *f* hears both losses, added up at *z*; *g* hears only *L_g*. `detach` changes what is learned, not what is printed.
# - Check a gradient by hand, autograd and finite differences, in float64.
# - In a bowl α works up to 2/κ_max. In a network the curvature moves on the way.
# - Pieces weighted by size give the whole batch's gradient, if nothing is random and each picture's loss is its own.
#
# **Limits**: one network, its top trained on 48 small pictures from one start; one seed. The equalities are exact; the
# sweep is this network's.
#
# **References.** Barz & Denzler 2020, arXiv 1901.09054 (*L_f*). Lewkowycz et al. 2020, arXiv 2003.02218 (catapult).
# Cohen et al. 2021, arXiv 2103.00065 (edge of stability). Deitsch et al. 2019, arXiv 1807.02894 (solar cells).
# **Going deeper**: [optimizers to the last bit, a map of the loss](04_gradient_update_deeper.ipynb). Next: **05 Freeze
# or fine-tune?**

# %% [markdown] tags=["solution"]
# **Exercise 5.** Twice the loss has twice the curvature in every direction, so the limit is half as large. Over α the
# curve moves to the left by a factor of 2; over α / limit it is the same curve (with twice the loss on its axis):
# plain gradient descent on 2 L with α is gradient descent on L with 2 α. That does not hold with weight decay in the
# optimizer, nor for Adam: see *Going deeper*.
