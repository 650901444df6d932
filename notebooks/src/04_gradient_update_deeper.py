# %% [markdown]
# # 04 The gradient update, going deeper: optimizers to the last bit, and a map of the loss
#
# Notebook 04 derived the gradient and said how long a step may be. Here the step itself is taken apart: what SGD,
# momentum, weight decay and AdamW do with a gradient, to the last bit; what a factor in front of the loss does to each;
# what the loss of a real network looks like from above, and what it does when a step is too long; and what a single
# picture contributes.
#
# Afterwards you can
#
# - rebuild an optimizer and prove it equal, or say in which rounding it differs;
# - say for which optimizers scaling the loss is scaling α;
# - draw a slice of a loss, and know what such a picture can hide.
#
# **60 minutes** to read and try, 1 minute to run. You need notebook 04.

# %% tags=["setup"]
import copy

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RectBivariateSpline

from sftlib import adaptation, backbones, features, runtime, training, widgets
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.model import LinearHead, Model
from sftlib.plotting import COLOURS, MARKERS, curves, use_style

use_style()

# %%
size = runtime.profile()
SEED = 0
SIDE = size.pick(quick=96, full=224)  # pixels of the solar cells
PICTURES = size.pick(quick=600, full=1667)  # that the network is tuned on
SUBSET = size.pick(quick=48, full=256)  # of these, those of the map
GRID = size.pick(quick=25, full=41)  # points along each side of the map
EPOCHS = size.pick(quick=6, full=12)

# %% [markdown]
# The pieces of notebook 04: SqueezeNet's lower stages run once, *f* is its last stage, *g* a linear layer. The pictures
# are a random sample of the training part, and its shares of the classes are those of the whole.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
squeezenet = backbones.load_backbone("squeezenet1_1", size=SIDE)
some = torch.randperm(len(cells.train), generator=torch.Generator().manual_seed(SEED))
part = cells.train.subset(some[:PICTURES])
batches = loader(part, squeezenet.preprocess, batch_size=50)
h, labels = features.extract(squeezenet, batches, stage="stage3")
runtime.seed_everything(SEED)
top = torch.nn.Sequential(squeezenet.stage4, squeezenet.pool)
untouched = Model(top, LinearHead(512, 2)).eval()
shares = [y.double().mean().item() for y in (labels, cells.train.labels)]
print("defective, of these and of all: {:.0%}, {:.0%}".format(*shares))
assert abs(shares[0] - shares[1]) < 0.06

# %% [markdown]
# ## Equal to `torch.optim.SGD`, bit for bit
#
# For ten steps: a difference in the last bit of one weight is there for all later steps. `ten_steps` does forward and
# backward; `move` is what is compared. Each model starts as an exact copy of `untouched`.


# %%
def ten_steps(make_move, scale=1.0):
    """make_move(model) -> move(), which changes the parameters by their .grad ->
    weights (10, n) after each step
    """
    model = copy.deepcopy(untouched)
    move, path = make_move(model), []
    for k in range(10):
        rows = torch.arange(24 * k, 24 * (k + 1)) % len(labels)
        model.zero_grad()
        (scale * F.cross_entropy(model(h[rows]), labels[rows])).backward()
        with torch.no_grad():
            move()
        path.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return torch.stack(path)


# %%
def rates(model, lr_f=1e-3, lr_g=1e-2):
    """-> (parameter, its α) for all parameters of f and of g"""
    f, g = model.backbone.parameters(), model.head.parameters()
    return [(p, lr_f) for p in f] + [(p, lr_g) for p in g]


def groups(model, lr_f=1e-3, lr_g=1e-2):
    return adaptation.param_groups(f=(model.backbone, lr_f), g=(model.head, lr_g))


def sgd_by_hand(model):
    return lambda: [p.add_(p.grad, alpha=-lr) for p, lr in rates(model)]


def sgd_naive(model):  # the same in mathematics
    return lambda: [p.copy_(p - lr * p.grad) for p, lr in rates(model)]


# %% [markdown]
# **Predict**: which of the two hand-written updates gives, after ten steps, the same bits as `torch.optim.SGD`?
#
# (a) Both. (b) Only the first. (c) Neither: floating-point numbers are never quite equal.

# %% tags=["varies"]
official = ten_steps(lambda model: torch.optim.SGD(groups(model)).step)
mine, naive = ten_steps(sgd_by_hand), ten_steps(sgd_naive)
for name, path in (("p.add_(g, alpha=-lr)", mine), ("p - lr * g", naive)):
    share = (path[-1] != official[-1]).double().mean()
    print(f"{name:<22} {share:.2%} of the weights differ")
assert torch.equal(mine, official)  # every bit, after each of the ten steps
assert torch.allclose(naive, official, atol=1e-4)

# %% [markdown]
# (b). Floating-point arithmetic is not vague: the same operations in the same order give the same bits. But `lr * g`
# is *rounded* to 32 bits before it is subtracted, while `add_` with `alpha` lets the processor do both in one
# instruction (a *fused multiply-add*) that rounds once, at the end. Is that the reason? In 64 bits the product of two
# 32-bit numbers is exact; so we can round once, on purpose, and compare. A thousand numbers are evidence, no proof:

# %% tags=["varies"]
p32, g32 = torch.randn(2, 1000, generator=torch.Generator().manual_seed(SEED))
lr = torch.tensor(0.1)  # the float32 nearest to 0.1
fused = p32.clone().add_(g32, alpha=-0.1)
once = (p32.double() - lr.double() * g32.double()).float()
twice = p32 - 0.1 * g32
for name, other in (("once", once), ("twice", twice)):
    print(f"rounded {name}, against add_: {(other != fused).sum()} of 1000 differ")
assert torch.allclose(twice, fused, rtol=0, atol=1e-6)

# %% [markdown]
# Neither is wrong. But if you want to know whether two programs do *the same*, bits are the sharpest question there
# is. (On a processor without that instruction, `add_` rounds twice as well.)
#
# ## Momentum, weight decay, AdamW
#
# **Momentum** β keeps a velocity *v*: steps in one direction add up, steps to and fro cancel. **Weight decay** ω
# pulls every weight *p* towards 0. *Coupled*, it joins the gradient before everything else; *decoupled* (Loshchilov &
# Hutter 2019, arXiv 1711.05101) it shrinks the weight directly:
#
# $$\text{SGD: } v \leftarrow \beta v + (\nabla L + \omega p),\quad p \leftarrow p - \alpha v$$
# $$\text{AdamW: } p \leftarrow (1 - \alpha\omega)\,p,\quad
# p \leftarrow p - \alpha\,\frac{\hat m}{\sqrt{\hat s} + \epsilon}$$
#
# with *m* and *s* the running means of ∇L and (∇L)², each new one weighted by $1-\beta_1$ and $1-\beta_2$, and the hat
# a division by $1-\beta_1^t$ and $1-\beta_2^t$ at step *t*, because both start at 0.

# %%
BETA, OMEGA = 0.9, 5e-4


def momentum_by_hand(model):
    velocity = {}

    def move():
        for p, lr in rates(model):
            gradient = p.grad.add(p, alpha=OMEGA)  # coupled
            v = velocity[p].mul_(BETA).add_(gradient) if p in velocity else gradient
            velocity[p] = v
            p.add_(v, alpha=-lr)

    return move


how = {"momentum": BETA, "weight_decay": OMEGA}
official = ten_steps(lambda model: torch.optim.SGD(groups(model), **how).step)
assert torch.equal(ten_steps(momentum_by_hand), official)


# %%
def adamw_by_hand(model, alpha=1e-3, omega=0.1, beta1=0.9, beta2=0.999, eps=1e-8):
    m, s, t = {}, {}, [0]

    def move():
        t[0] += 1
        for p in model.parameters():
            zero = torch.zeros_like(p)
            m[p] = beta1 * m.get(p, zero) + (1 - beta1) * p.grad
            s[p] = beta2 * s.get(p, zero) + (1 - beta2) * p.grad**2
            m_hat, s_hat = m[p] / (1 - beta1 ** t[0]), s[p] / (1 - beta2 ** t[0])
            p.mul_(1 - alpha * omega)  # decoupled: the gradient knows nothing of it
            p.sub_(alpha * m_hat / (s_hat.sqrt() + eps))

    return move


# %%
def by_torch(kind, **how):
    return ten_steps(lambda model: kind(model.parameters(), lr=1e-3, **how).step)


mine = ten_steps(adamw_by_hand)
official = by_torch(torch.optim.AdamW, weight_decay=0.1)
coupled = by_torch(torch.optim.Adam, weight_decay=0.1)
apart, decays = (mine - official).norm(), (coupled - official).norm()
print("by hand and official: less than a thousandth of the decays' difference apart")
assert apart < 1e-3 * decays

# %% [markdown]
# SGD with momentum and coupled decay is equal to the bit. For AdamW the operations are not in torch's order, so the
# bits differ, but by less than a thousandth of what the *coupled* decay (`Adam` with `weight_decay`) makes of the same
# numbers. Under Adam the two decays are different methods: coupled decay is divided by $\sqrt{\hat s}$ like the rest of
# the gradient, so weights with large gradients decay least.
#
# ## Ten times the loss, or ten times α?
#
# Some sum the loss over a batch, others average; a combined loss has a λ. That multiplies the gradient, or part of it.
# **Predict**: *L* becomes 8 *L*. For which optimizers is that the same as 8 α?
#
# (a) For SGD, with or without weight decay. (b) For SGD without weight decay. (c) For Adam too.

# %%
origin = torch.cat([p.detach().flatten() for p in untouched.parameters()])
KINDS = {
    "SGD": (torch.optim.SGD, 1e-3, {}),
    "SGD with weight decay": (torch.optim.SGD, 1e-3, {"weight_decay": 0.1}),
    "Adam": (torch.optim.Adam, 1e-4, {}),
}
far, equal = {}, {}
for name, (kind, lr, how) in KINDS.items():
    tries = {"L, α": (lr, 1.0), "8 L, α": (lr, 8.0), "L, 8 α": (8 * lr, 1.0)}
    make = lambda lr: lambda model: kind(model.parameters(), lr=lr, **how).step  # noqa
    paths = {t: ten_steps(make(a), scale) for t, (a, scale) in tries.items()}
    far[name] = {t: (path - origin).norm(dim=1) for t, path in paths.items()}
    equal[name] = torch.equal(paths["8 L, α"], paths["L, 8 α"])
assert equal == {"SGD": True, "SGD with weight decay": False, "Adam": False}

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for ax, (name, distances) in zip(axes, far.items(), strict=True):
    for i, (label, d) in enumerate(distances.items()):
        ax.plot(range(1, 11), d, marker=MARKERS[i], ls=("-", "--", ":")[i], label=label)
    ax.set(title=name, xlabel="step", yscale="log")
axes[0].set_ylabel("distance from the start")
axes[0].legend()
plt.show()

# %% [markdown]
# **Read.** (b). For SGD "8 L, α" and "L, 8 α" are one path, bit for bit (8 is a power of two). With coupled weight
# decay they are not: the decay is multiplied by 8 α in one of them and by α in the other. Adam divides the gradient by
# its own size, so the factor cancels (all but the tiny ε), and "8 L, α" lies on "L, α". Therefore: change a sum into a
# mean, or λ, and α and the decay have to change under SGD; under Adam, λ changes the *mixture* of two losses but not
# the length of the step. (The axes are logarithmic and have scales of their own: compare lines within a panel.)
#
# ## A map of the loss
#
# First, tune the network. Then choose two directions *u* and *v* (no velocity here) of length 1, at a right angle, and
# look at $L(w_0 + a\,u + b\,v)$, where $w_0$ holds all the weights of the tuned network. *a* and *b* are distances in
# weight space, and gradient descent within this **slice** is gradient descent with the same α. Which directions?
#
# - **start → tuned**, the way training went;
# - **random**, *filter-normalised*: noise in which each filter has the length it has in $w_0$ (Li et al. 2018, arXiv
#   1712.09913);
# - **sharpest**, the direction of largest curvature, by power iteration (notebook 04).


# %% tags=["varies"]
tuned = copy.deepcopy(untouched)
optimizer = torch.optim.SGD(tuned.parameters(), lr=0.003, momentum=0.9)
order, history = torch.Generator().manual_seed(SEED), []
for _ in range(EPOCHS):
    for rows in torch.randperm(len(labels), generator=order).split(50):
        step = training.train_step(
            tuned, h[rows], labels[rows], optimizer, task_loss=F.cross_entropy
        )
        history.append(step.loss.item())
per_epoch = np.array(history).reshape(EPOCHS, -1).mean(axis=1)
print("mean training loss of each epoch:", *(f"{loss:.3f}" for loss in per_epoch))
assert per_epoch[-1] < per_epoch[0]

# %%
h_map, y_map = h[:SUBSET], labels[:SUBSET]
names = [name for name, _ in tuned.named_parameters()]
shapes = [p.shape for p in tuned.parameters()]


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def loss_at(weights):
    """weights (n,) -> the loss of the network with these weights"""
    parts = weights.split([s.numel() for s in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    state = dict(zip(names, views, strict=True))
    return F.cross_entropy(torch.func.functional_call(tuned, state, (h_map,)), y_map)


# %%
def sharpest(model, steps=15):
    """-> direction (n,) of largest curvature, and that curvature"""
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(h_map), y_map)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    slope = torch.cat([s.flatten() for s in slopes])
    v = torch.randn(len(slope), generator=torch.Generator().manual_seed(SEED))
    for _ in range(steps):
        v = v / v.norm()
        v = flat(torch.autograd.grad(slope @ v, parameters, retain_graph=True))
    return v / v.norm(), v.norm().item()


# %%
def filter_normalised(generator):
    """-> direction (n,) of length 1: noise with each filter's length; biases stay"""
    noise = []
    for p in tuned.parameters():
        scale = float(p.ndim > 1)
        r = torch.randn(len(p), p[0].numel(), generator=generator)
        length = p.detach().view(len(p), -1).norm(dim=1, keepdim=True)
        noise.append(scale * F.normalize(r) * length)
    return F.normalize(flat(noise), dim=0)


# %%
w_0 = flat(tuned.parameters())
way = w_0 - flat(untouched.parameters())
u = way / way.norm()
v, kappa = sharpest(tuned)
v = F.normalize(v - (v @ u) * u, dim=0)  # at a right angle to u
noise = filter_normalised(torch.Generator().manual_seed(SEED))
directions = {"sharpest": v, "start → tuned": u, "random": noise}
distance = torch.linspace(-0.24, 0.24, 13)
with torch.inference_mode():
    rise = {
        name: (distance, [loss_at(w_0 + t * d).item() for t in distance])
        for name, d in directions.items()
    }
spread = {name: max(losses) - min(losses) for name, (_, losses) in rise.items()}
assert spread["sharpest"] > 5 * max(spread["start → tuned"], spread["random"])

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.2))
curves(ax, rise, xlabel="distance from the tuned weights", ylabel="loss (nats)")
plt.show()

# %% [markdown]
# The random direction mixes all 387,202, and along it nothing happens: most are flat. A few are steep walls, and *they*
# limit α.
# A slice through random directions would look like a plain with every α harmless, so the map is drawn through the way
# of training and the sharpest direction. Between the points of its grid the loss is *interpolated* (cubic splines
# through its logarithm), so that a step on the map is a matter of microseconds; whether the map can be trusted is
# checked by walking beside it with the network itself.

# %% tags=["varies"]
a_axis = np.linspace(-1.25, 0.9, GRID) * way.norm().item()
b_axis = np.linspace(-0.45, 0.45, GRID)
with torch.inference_mode():
    grid = np.array([[loss_at(w_0 + float(a) * u + float(b) * v).item()
                      for a in a_axis] for b in b_axis])  # fmt: skip
surface = RectBivariateSpline(b_axis, a_axis, np.log(grid))
limit = 2 / kappa
print(
    f"largest curvature at the tuned weights {kappa:.0f}, so the limit is {limit:.4f}"
)
assert grid.min() < loss_at(w_0).item() + 1e-6 < grid.max()


# %%
def slope_on_map(point):
    """point (a, b) -> loss, gradient (2,), from the interpolated map"""
    a, b = point
    loss = np.exp(surface(b, a)[0, 0])
    slope = [surface(b, a, dy=1)[0, 0], surface(b, a, dx=1)[0, 0]]
    return loss, loss * np.array(slope)


def slope_of_network(point):
    """the same from the network itself"""
    ab = torch.tensor(point, dtype=torch.float32, requires_grad=True)
    loss = loss_at(w_0 + ab[0] * u + ab[1] * v)
    return loss.item(), torch.autograd.grad(loss, ab)[0].double().numpy()


# %%
def walk(slope, start, alpha, momentum=0.0, steps=40):
    """-> points (T, 2), losses (T,) of gradient descent; it ends off the map"""
    point, velocity, points, losses = np.array(start), np.zeros(2), [], []
    for _ in range(steps + 1):
        points.append(point)
        a, b = point
        if not (a_axis[0] <= a <= a_axis[-1] and b_axis[0] <= b <= b_axis[-1]):
            break
        loss, gradient = slope(point)
        losses.append(loss)
        velocity = momentum * velocity + gradient
        point = point - alpha * velocity
    return np.array(points), np.array(losses)


# %% [markdown]
# Notebook 04 showed the sweep of step sizes on the whole network. On the map, from a point on the wall of the valley:

# %% tags=["varies"]
wall = (-0.4 * way.norm().item(), 0.15)
beside = walk(slope_of_network, wall, 0.5 * limit, steps=8)[0]
off = np.abs(beside - walk(slope_on_map, wall, 0.5 * limit, steps=8)[0]).max()
print(f"after 8 steps the network beside the map is {off:.3f} off")
shares = np.concatenate([[0.02, 0.05, 0.1, 0.2], np.arange(0.3, 4.05, 0.1)])
ends = [walk(slope_on_map, wall, share * limit) for share in shares]
last = [np.nan if len(points) > len(losses) else losses[-1] for points, losses in ends]
gone = [share for share, value in zip(shares, last, strict=True) if np.isnan(value)]
assert off < 0.02 and last[0] > np.nanmin(last) + 0.02 and gone

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
ax.plot(shares, last, marker="o", ms=4, label="loss after 40 steps on the map")
ax.axvline(1, color="black", linestyle=":", label="the limit at the tuned weights")
edge = [np.nanmax(last)] * len(gone)
ax.plot(gone, edge, "x", color=COLOURS["vermillion"], label="left the map")
ax.set(xlabel="α / limit", ylabel="loss (nats)", yscale="log")
ax.legend()
plt.show()

# %% [markdown]
# **Read.** From a twentieth of the limit to a little above it all walks end about as low, the lowest near the limit
# itself; smaller steps have no time, and from 1.3 times the limit on (in our run) the walk leaves the map. Three α
# chosen by hand ("too small, right, too large") would have hidden how wide the good range is. The limit is that of the
# tuned weights, and the walk starts elsewhere: a curvature measured at one place is a guide at another, no more.
#
# ## The catapult, step by step
#
# The slice forbids the walk to leave its plane. Now **all** 387,202 weights, plain gradient descent, each from its
# place at twice *its* limit: from the untuned network, as in notebook 04, and from the tuned one. Beside the loss, the
# largest curvature at every step of the first.

# %%
MANY = 30


def thrown(start, watch):
    """-> losses, curvatures, both (MANY,), and what twice the limit allows, 2/α"""
    model = copy.deepcopy(start)
    allowed = sharpest(model)[1] / 2  # α = 2 · 2/κ
    optimizer, out = torch.optim.SGD(model.parameters(), lr=2 / allowed), []
    for _ in range(MANY):
        loss = F.cross_entropy(model(h_map), y_map)
        out.append((loss.item(), sharpest(model, steps=5)[1] if watch else 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return *np.array(out).T, allowed


# %% tags=["varies"]
runs = {"untuned": thrown(untouched, True), "tuned": thrown(tuned, False)}
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
for name, (loss, _, _), look in zip(runs, runs.values(), ("o-", "s--"), strict=True):
    far = [min(value, 100) if value == value else 100 for value in loss]
    left.plot(range(MANY), far, look, ms=4, label=f"from the {name} network")
left.set(yscale="log", xlabel="step", ylabel="loss (100: that or more, or nan)")
left.legend(fontsize=9)
loss, curvature, allowed = runs["untuned"]
right.plot(range(MANY), curvature, "o-", ms=4, label="curvature, untuned")
right.axhline(allowed, color="black", ls=":", label="2/α: what this α allows")
right.set(xlabel="step", ylabel="largest curvature", ylim=(0, None))
right.legend(fontsize=9)
plt.show()
assert loss.max() > loss[0] > loss[-1] and curvature[1:6].min() < allowed < curvature[0]

# %% [markdown]
# **Read.** From the untuned network, the curvature jumps to and fro, low where the loss is high, and within a few steps
# it is far lower than at the start; then the loss falls calmly, and the curvature *climbs* again, to the line 2/α that
# this α allows and a little past it. (What notebook 04 prints at the end is one moment of that.) What comes next is
# exercise 4. In our run the tuned network, at twice its own limit, found no flatter place and ended as *not a number*;
# neither end is a law.
#
# ## One gradient a picture
#
# The batch gradient is a mean of N gradients, one a picture. `torch.func` computes them all: `grad` turns a loss into
# the function that returns its gradient, `vmap` runs that over the N rows at once. For a linear *g* with weight *B*
# there is a closed form, the sum $\sum_i E_{ik} z_{id}$ of notebook 04, taken apart:
# $\partial L_i/\partial B_{kd} = (p_{ik} - Y_{ik})\, z_{id}$, with *p* and *Y* as there.


# %%
def loss_of_one(B, b, z, y):
    """B (K, D), b (K,), z (D,), y () -> the loss of one picture"""
    return F.cross_entropy((B @ z + b)[None], y[None])


with torch.no_grad():
    z = tuned.backbone(h[:200])  # (N, D)
    p = tuned.head(z).softmax(dim=1)  # (N, K)
y, B, b = labels[:200], tuned.head.weight.detach(), tuned.head.bias.detach()
one = torch.func.grad(loss_of_one)
each = torch.func.vmap(one, in_dims=(None, None, 0, 0))(B, b, z, y)  # (N, K, D)
closed = (p - F.one_hot(y, 2))[:, :, None] * z[:, None, :]
(batch,) = torch.autograd.grad(F.cross_entropy(tuned.head(z), y), tuned.head.weight)
assert torch.allclose(each, closed, atol=1e-4)
assert torch.allclose(each.mean(dim=0), batch, atol=1e-4)

# %% tags=["varies"]
length, right = each.flatten(1).norm(dim=1), p[torch.arange(200), y]
fig, ax = plt.subplots(figsize=(6.5, 3.2))
for k, name in enumerate(cells.classes):
    here = y == k
    ax.scatter(
        right[here], length[here], marker=MARKERS[k], s=24, alpha=0.7, label=name
    )
ax.set(xlabel="probability given to the true class", ylabel="length of its gradient")
ax.legend(title="true class")
plt.show()
quarter = length.sort(descending=True).values[:50].sum() / length.sum()
print(f"the quarter with the longest gradients holds {quarter:.0%} of all length")
assert length[right < 0.5].mean() > 2 * length[right > 0.9].mean()

# %% [markdown]
# What the network is sure of and right about hardly pulls; what it gets wrong pulls most. That is $p - Y$ at work:
# the error is the strength, $\|z\|$ the lever. A batch of easy pictures makes a short step; a wrong label, which a
# good network contradicts, pulls as hard as can be.
#
# ## Play
#
# The map under your hands; α is given as a share of the limit at the tuned weights. Darker is lower. Try, with β = 0:
# raise α until the walk leaves the map. Then bring β to 0.9 and look for the α that gets lowest in 80 steps, from each
# of the three starts. Is it the same one?

# %%
starts = {"on the wall": wall, "the untuned network": (-way.norm().item(), 0.0),
          "across the valley": (0.3, -0.2)}  # fmt: skip


def explore(settings):
    alpha, start = settings["share"] * limit, starts[settings["start"]]
    return walk(slope_on_map, start, alpha, settings["momentum"], 80)


# %%
def draw_walk(ax, arrays):
    points, losses = arrays
    levels = np.geomspace(grid.min() * 0.999, grid.max() * 1.001, 16)
    ax.contourf(a_axis, b_axis, grid, levels=levels, cmap="Blues_r", norm="log")
    ax.plot(*points.T, "o-", color=COLOURS["orange"], ms=4, mec="black")
    places = (points[0], (0, 0), (-way.norm().item(), 0))
    marks = zip("s*X", places, ("first point", "tuned", "untuned"), strict=True)
    for marker, (a, b), name in marks:
        ax.plot(a, b, marker, color="white", mec="black", ms=10, label=name, ls="")
    left = "" if len(losses) == len(points) else ", then off the map"
    ax.set_title(f"{len(losses)} points{left}: {losses[0]:.2f} → {losses[-1]:.3f}")
    ax.set(xlabel="a: start → tuned", ylabel="b: sharpest direction")
    ax.set(xlim=a_axis[[0, -1]], ylim=b_axis[[0, -1]])
    ax.legend(loc="upper center", ncols=3, fontsize=9, frameon=True)
    ax.grid(False)


# %% tags=["varies"]
share = {"base": 10, "min": -2, "max": 1, "step": 0.02, "description": "α / limit"}
controls = {
    "share": w.FloatLogSlider(value=0.5, **share),
    "momentum": w.FloatSlider(0.0, min=0.0, max=0.98, step=0.02, description="β"),
    "start": w.Dropdown(options=list(starts), description="start"),
}
explorer = widgets.Explorer(controls, explore, draw_walk, figsize=(7.5, 4))
assert explorer.error is None
explorer

# %% tags=["varies"]
controls["momentum"].value, controls["start"].value = 0.9, "the untuned network"
assert explorer.error is None
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: momentum by hand
#
# Complete `momentum_step` as torch does it: the new *v* is β *v* + gradient, then *w* moves by −α times the **new**
# *v*. Return both.
#
# <details><summary>Hint 1</summary>
#
# Two lines: one for *v*, one for *w*. The order matters.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The gradient joins *v* with weight 1, not 1 − β: torch adds up, it does not average.
#
# </details>
# <details><summary>Hint 3</summary>
#
# α does not enter *v*. Older texts write v ← β v − α · gradient; that is the same path until α changes.
#
# </details>


# %% tags=["exercise"]
def momentum_step(w, v, gradient, lr, momentum):
    """w, v, gradient (D,), lr = α, momentum = β -> (new w, new v)"""
    # BEGIN SOLUTION
    # STUB: ...
    v = momentum * v + gradient
    return w - lr * v, v
    # END SOLUTION


check("04.momentum", momentum_step)

# %% [markdown]
# ### ★ Exercise 2: one gradient a picture
#
# Complete `per_sample`: for each row, the gradient of **its own** cross-entropy by the weight *W* (K, D) of a linear
# *g*, from the logits. No autograd needed.
#
# <details><summary>Hint 1</summary>
#
# What arrives at the logits of one row is *p* − *Y*. There is no mean here, so no division by N.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Entry (k, d) of a row's gradient is its error at class k times its feature d.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `a[:, :, None] * b[:, None, :]` multiplies every entry of a row of `a` by every entry of the same row of `b`.
#
# </details>


# %% tags=["exercise"]
def per_sample(logits, z, y):
    """logits (N, K), z (N, D), y (N,) -> gradients (N, K, D)"""
    # BEGIN SOLUTION
    # STUB: ...
    error = logits.softmax(dim=1) - F.one_hot(y, logits.shape[1])  # (N, K)
    return error[:, :, None] * z[:, None, :]
    # END SOLUTION


check("04.per_sample", per_sample)

# %% [markdown]
# ### ★★ Exercise 3: a forgotten `zero_grad`
#
# In `ten_steps`, delete `model.zero_grad()`. **Predict**: is the tenth step about as long, ten times as long, or
# something else? Print `(path[1:] - path[:-1]).norm(dim=1)` with and without. Which optimizer of this notebook does
# the mistake imitate?

# %% [markdown] tags=["solution"]
# **Exercise 3.** The gradients add up, so the tenth step is made of ten gradients. It would be ten times as long if
# they were equal; in our run it was some four times as long. It is SGD with momentum β = 1: a velocity that never
# forgets. With β = 0.9 instead, what is older fades away.

# %% [markdown]
# ### ★★★ Exercise 4: the edge of stability
#
# Plain gradient descent at half the limit, 60 steps, on all the weights: plot the loss, and beside it the curvature by
# `sharpest` and the line 2/α. Cohen et al. 2021 (arXiv 2103.00065) found that the curvature climbs to this line and
# then stays near it, while the loss falls in bumps. Is that what you see? What would you need to call it a finding?
#
# ## Remember
#
# - Equal to the bit is a question that can be asked, and answered, of two optimizers.
# - Scaling *L* is scaling α for SGD without weight decay; with it, or for Adam, it is not.
# - A slice shows what its two directions show. Most directions are flat, a few are walls, and these limit α.
# - Too long a step may throw the network to a flatter place, or out of all bounds: the limit is one of *here*.
#
# **Limits**: one network, of which the top was tuned on 600 small pictures; one seed; a slice of two directions and a
# loss on 48 pictures. The equalities hold anywhere; the shape of the map is this network's.
#
# **References.** Li et al. 2018, arXiv 1712.09913 (slices, filter normalisation). Loshchilov & Hutter 2019, arXiv
# 1711.05101 (decoupled decay). Lewkowycz et al. 2020, arXiv 2003.02218 (catapult). Cohen et al. 2021, arXiv 2103.00065
# (edge of stability). Deitsch et al. 2019, arXiv 1807.02894 (solar cells). Next: **05 Freeze or fine-tune?**
