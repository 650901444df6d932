# %% [markdown]
# # 03 The combined loss, going deeper: the family of feature losses, and who chooses λ
#
# Notebook 03 had one loss on the features, the cosine loss. Here are its relatives, drawn on a circle: center,
# contrastive, and the margin losses that replace $L_g$. Then the question how much $L_f$ should count, and the rules
# that claim to know.
#
# Afterwards you can
#
# - place cosine, center, contrastive and margin losses beside one another, and write one from its formula;
# - say why scaled cosines have a lowest loss, and derive it;
# - take a rule for λ apart: which λ does it choose, and what does it look at?
#
# **50 minutes** to read and try, half a minute to run. You need notebook 03.

# %% tags=["setup"]
import math

import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from sftlib import backbones, losses, runtime, widgets
from sftlib.checks import check
from sftlib.datasets import solar_cells
from sftlib.features import pca
from sftlib.model import LinearHead, Model, Standardise
from sftlib.plotting import COLOURS, MARKERS, curves, use_style

use_style()

# %%
SEED = 0
SIDE = 96  # pixels
STEPS = runtime.profile().pick(quick=150, full=500)  # for each picture of a circle
CLASSES = ("whole mono", "whole poly", "defective")
LOOKS = list(zip(CLASSES, ("blue", "orange", "green"), MARKERS, strict=False))

# %% [markdown]
# ## The features
#
# The validation pictures of the solar cells in three classes; SqueezeNet's features, centred, and reduced to their 32
# directions of largest variance (*principal components*, PCA), each scaled to the same deviation.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
y3 = torch.where(cells.val.labels == 1, 2, cells.val.types)
f = backbones.load_backbone("squeezenet1_1", size=SIDE).eval()
with torch.no_grad():
    raw = torch.cat([f(f.preprocess(p)) for p in cells.val.pictures.split(64)])
z = pca(Standardise(raw)(raw), 32)
z = (z - z.mean(0)) / z.std(0) / 32**0.5  # (222, 32), typical length 1
simplex = losses.simplex_prototypes(3, 2)
print("of each class", dict(zip(CLASSES, y3.bincount().tolist(), strict=True)))

# %% [markdown]
# ## Which directions?
#
# | directions μ | how | needs |
# |---|---|---|
# | **simplex** | fixed: K directions as far apart as K can be, all cosines −1/(K−1) | D ≥ K − 1 |
# | **projected one-hot** | learn a projection P to K numbers; class k is axis k | nothing; P learns |
# | **running mean** | the mean of the class's features so far, no gradient | centred z, and $L_g$ to keep them apart |
# | **learned** | the μ are parameters | something that keeps them apart |
#
# Why −1/(K−1)? The K directions sum to a vector with a squared length of at least 0: $K + K(K-1)\,c \ge 0$, so the
# common cosine c cannot be below $-1/(K-1)$.

# %%
corners = losses.simplex_prototypes(4, 512)
print("simplex, K = 4, D = 512: cosines of different classes")
print((corners @ corners.T).round(decimals=3) + 0.0)
gen = torch.Generator().manual_seed(SEED)
some = torch.randn(40, 512, generator=gen)
for kind in ("ProjectedOneHot", "RunningPrototypes", "LearnedPrototypes"):
    how = {} if kind == "RunningPrototypes" else {"generator": gen}
    loss = getattr(losses, kind)(4, 512, **how)
    n = sum(p.numel() for p in loss.parameters())
    value = loss(some, torch.arange(40) % 4)
    print(f"{kind:<20}loss {value:.3f}, {n:,} numbers that learn")

# %% [markdown]
# ## The family, on a circle
#
# What does each loss do to features? We train only a projection *P* to two numbers, *u = P z*, and a classifier of
# three classes on u. So everything can be drawn. The points are the ones trained on: the pictures *illustrate*.
#
# | loss | formula, for one picture | what it asks |
# |---|---|---|
# | cosine | $1-\cos\theta_y$ | stand in the direction of your class |
# | center | $\frac12\lVert u-c_y\rVert^2$, $c_y$ a moving class mean | stand near your class's center |
# | supervised contrastive | $L_i$ below | of all others in the batch, be nearest to your own class |
# | NormFace | cross-entropy of $s\cos\theta_k$ | the right angle smallest; length does not count |
# | CosFace | the same with $s(\cos\theta_y-m)$ for the true class | … smallest by a margin m in cosine |
# | ArcFace | the same with $s\cos(\theta_y+m)$ | … smallest by a margin m in angle |
#
# $$L_i = -\frac1{|S_i|}\sum_{j\in S_i}\log\frac{e^{\langle\hat u_i,\hat u_j\rangle/\tau}}{\sum_{a\ne i}
# e^{\langle\hat u_i,\hat u_a\rangle/\tau}},\qquad S_i = \text{the others in the batch of i's class}$$
#
# The first three are added to $L_g$; the last three *replace* it, with $\theta_k$ the angle between u and row k of g's
# weight. τ is a *temperature*: small τ makes near pairs count most. The *scale* s is needed because cosines end at 1.
# (The row *cosface* of notebook 03's table was chosen with margin 0, so it is NormFace.)


# %%
def on_circle(total_loss, steps=STEPS, lr=0.03):
    """total_loss(u, y, g) -> u (N, 2), rows of g (3, 2), after updates by Adam"""
    runtime.seed_everything(SEED)
    P, g = torch.nn.Linear(32, 2, bias=False), LinearHead(2, 3)
    with torch.no_grad():
        g.weight.copy_(simplex)  # the three rows of g start apart
    optimizer = torch.optim.Adam([*P.parameters(), *g.parameters()], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        total_loss(P(z), y3, g).backward()
        optimizer.step()
    return P(z).detach(), g.weight.detach()


def L_g(u, y, g):
    return F.cross_entropy(g(u), y)


# %%
def added(L_f, weight=1.0):
    return lambda u, y, g: L_g(u, y, g) + weight * L_f(u, y)


FAMILY = {
    "cross-entropy": L_g,
    "+ cosine": added(lambda u, y: losses.cosine_prototype(u, y, simplex)),
    "+ center": added(losses.CenterLoss(3, 2), 0.5),
    "+ contrastive": added(
        lambda u, y: losses.supervised_contrastive(u, y, temperature=0.1)
    ),
    "NormFace": lambda u, y, g: losses.cosface(u, y, g.weight, scale=8, margin=0),
    "CosFace": lambda u, y, g: losses.cosface(u, y, g.weight, scale=8, margin=0.35),
    "ArcFace": lambda u, y, g: losses.arcface(u, y, g.weight, scale=8, margin=0.5),
}
after = {name: on_circle(total_loss) for name, total_loss in FAMILY.items()}


# %%
def draw_circle(ax, u, rows=None, *, lengths=True):
    """u (N, 2), rows (3, 2) -> ax; without lengths, each class on a ring of its own"""
    ring = 1 + 0.13 * (y3[:, None] - 1)
    u = u / u.norm(dim=1).max() * 1.9 if lengths else ring * F.normalize(u, dim=1)
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.7"))
    for k, (name, colour, marker) in enumerate(LOOKS):
        how = {"color": COLOURS[colour], "marker": marker, "label": name, "alpha": 0.7}
        ax.scatter(*u[y3 == k].T, s=9, linewidths=0.3, **how)
        if rows is not None:
            end = F.normalize(rows[k], dim=0).tolist()
            ax.plot(*zip((0, 0), end, strict=True), color=COLOURS[colour], lw=2)
    half = 2 if lengths else 1.35
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)


# %%
fig, axes = plt.subplots(2, 4, figsize=(9, 4.9), layout="constrained")
for ax, (name, (u, rows)) in zip(axes.flat, after.items(), strict=False):
    lines = simplex if name == "+ cosine" else rows if "Face" in name else None
    draw_circle(ax, u, lines, lengths="Face" not in name)
    ax.set_title(name, fontsize=10)
axes.flat[-1].set_axis_off()
shown = axes.flat[0].get_legend_handles_labels()
axes.flat[-1].legend(*shown, loc="center", frameon=False, markerscale=2)
plt.show()

# %% [markdown]
# (In the first four panels all features are divided by the longest one of the panel, so lengths are not compared
# between panels; lines are the directions asked for. In the last three only directions count, so they alone are drawn,
# each class on a ring of its own; lines are the rows of g.)
#
# How narrow are the classes, and does that settle? The mean cosine between a feature and the mean direction of its
# class, after a few steps and after many. **Predict**: is the order of the losses the same?


# %% tags=["varies"]
def tightness(u):
    """u (N, 2) -> mean cosine to the own class's mean direction"""
    unit = F.normalize(u, dim=1)
    mean = torch.stack([unit[y3 == k].mean(0) for k in range(3)])
    return (unit * F.normalize(mean, dim=1)[y3]).sum(1).mean().item()


LATER = 500
FAMILY["+ center"] = added(losses.CenterLoss(3, 2), 0.5)  # its centers start anew
later = {name: on_circle(loss, steps=LATER) for name, loss in FAMILY.items()}
print(f"{'cosine to the own class after':<32}{STEPS:>5} steps {LATER:>5} steps")
tight = {
    name: (tightness(after[name][0]), tightness(later[name][0])) for name in FAMILY
}
for name, (few, many) in tight.items():
    print(f"{name:<32}{few:>11.3f} {many:>11.3f}")
assert all(tight["+ contrastive"][i] > tight["cross-entropy"][i] + 0.02 for i in (0, 1))

# %% [markdown]
# **Read.** No. In the quick profile cross-entropy is narrower than the three *-Face* losses after few steps and wider
# than they are after many. This is one run (try another `SEED`): such an order belongs to the start and the number of
# steps, and says nothing of new pictures. What holds both times is what was asked for: with the cosine or the
# contrastive loss added, angles are narrower than with cross-entropy alone.
#
# ## Why the scale s?
#
# Cosines end at ±1, so $s\cos\theta$ can never be very sure. With as many pictures of each class, the lowest
# cross-entropy has every feature at the corner of a simplex, and it is still $\log\big(1+(K-1)\,e^{-sK/(K-1)}\big)$
# (exercise 1 derives it). With s = 1 it stays large whatever is learned, the more so the more classes there are. (With
# *unequal* classes one can do better than the corners.)

# %%
scales = torch.linspace(0.5, 16, 63, dtype=torch.float64)
fig, ax = plt.subplots(figsize=(8, 3))
for K, line in ((2, "-"), (10, "--"), (100, "-.")):
    bound = torch.log1p((K - 1) * (-scales * K / (K - 1)).exp())
    ax.plot(scales, bound, line, label=f"K = {K}")
ax.set(yscale="log", xlim=(0, 16), xlabel="scale s", ylabel="lowest loss (nats)")
ax.legend()
plt.show()
corners = losses.simplex_prototypes(10, 16)
reached = losses.cosface(corners, torch.arange(10), corners, scale=1, margin=0)
formula = math.log(1 + 9 * math.exp(-10 / 9))
print(f"K = 10, s = 1: formula {formula:.3f}, features at the corners {reached:.3f}")

# %% [markdown]
# The control: K = 3, s = 1, with 33 of each class, and with 97, 1 and 1. We let the features and the directions go
# where they like, and look where the loss ends, and at the cosines of the first direction with the two others and of
# these two with each other.

# %%
for shares in ((33, 33, 33), (97, 1, 1)):
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(shares))
    gen = torch.Generator().manual_seed(SEED)
    free = torch.randn(len(y), 2, generator=gen).requires_grad_()
    rows = simplex.clone().requires_grad_()
    optimizer = torch.optim.Adam([free, rows], lr=0.05)
    for _ in range(300):
        loss = losses.cosface(free, y, rows, scale=1, margin=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bound = math.log(1 + 2 * math.exp(-1.5))
    cos = F.cosine_similarity(rows[[0, 0, 1]], rows[[1, 2, 2]]).detach().numpy()
    print(f"{shares}: ends at {loss:.3f}, at the corners {bound:.3f}, {cos.round(2)}")
    assert (loss > bound - 1e-3) == (shares[0] == 33) == (cos[2] < 0)

# %% [markdown]
# With unequal classes the two rare directions point away from the frequent one, and so fall onto each other: 97
# pictures gain a little, two lose more.
#
# ## Where it breaks: center loss alone
#
# Leave $L_g$ out and nothing keeps the classes apart. **Predict** where the features go.

# %%
alone = losses.CenterLoss(3, 2)
before, _ = on_circle(lambda u, y, g: alone(u, y), steps=0)
u, _ = on_circle(lambda u, y, g: alone(u, y), steps=max(STEPS, 150))
final = losses.center(u, y3, alone.centers)
assert final < 1e-3 and u.norm(dim=1).max() < 0.1
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True)
for ax, points, title in zip(axes, (before, u), ("before", "after"), strict=True):
    for k, (name, colour, marker) in enumerate(LOOKS):
        how = {"color": COLOURS[colour], "marker": marker, "label": name, "alpha": 0.7}
        ax.scatter(*points[y3 == k].T, s=12, **how)
    ax.set(title=title, xlabel="$u_1$", ylabel="$u_2$")
axes[0].legend(fontsize=9)
plt.show()

# %% [markdown]
# A perfect loss, below 0.001, and nothing is told apart: one point for everything.
#
# ## λ: how much of each?
#
# In $L = L_g + \lambda L_f$ the two losses have different units, and they pull with different force on f. Rules that
# choose λ while training:
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
# Uncertainty minimises $\sum_i \frac12 e^{-r_i}L_i+\frac12 r_i$ over learned $r_i$ too; setting the derivative by
# $r_i$ to zero gives $e^{r_i}=L_i$. Each rule is a function `combine(losses, model)` in `sftlib.losses`. What λ do
# they choose? Autograd can tell: the derivative of the total with respect to $L_f$, divided by that with respect to
# $L_g$. First the gradient-norm ratio by hand:


# %%
def fresh():
    runtime.seed_everything(SEED)
    return Model(torch.nn.Linear(32, 2, bias=False), LinearHead(2, 3))


def two_losses(model):
    u = model.backbone(z)
    L_f = losses.cosine_prototype(u, y3, simplex)
    return F.cross_entropy(model.head(u), y3), L_f


model = fresh()
both, weight = two_losses(model), model.backbone.weight
slopes = [torch.autograd.grad(L, weight, retain_graph=True)[0] for L in both]
by_hand = both[0] + slopes[0].norm() / (slopes[1].norm() + 1e-4) * both[1]
from_sftlib = losses.gradient_norm_ratio("backbone.weight")(both, model)
print(f"by hand {by_hand.item():.4f}   from sftlib {from_sftlib.item():.4f}")
assert torch.allclose(by_hand, from_sftlib)


# %%
def chosen_weights(combine, steps=60):
    """-> the λ of each step"""
    model, out = fresh(), []
    own = list(combine.parameters()) if isinstance(combine, torch.nn.Module) else []
    groups = [{"params": model.parameters()}, {"params": own, "lr": 0.02}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(steps):
        both = two_losses(model)
        total = combine(both, model)
        of_g, of_f = torch.autograd.grad(total, both, retain_graph=True)
        out.append((of_f / of_g).item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return out


# %%
RULES = {
    "fixed, 1": losses.fixed_weight(1.0),
    "gradient ratio": losses.gradient_norm_ratio("backbone.weight"),
    "uncertainty": losses.UncertaintyWeights(),
    "GradNorm": losses.GradNorm("backbone.weight"),
    "random": losses.RandomWeights(torch.Generator().manual_seed(SEED)),
}
chosen = {name: chosen_weights(rule) for name, rule in RULES.items()}
fig, ax = plt.subplots(figsize=(8, 3.8))
ax.set(yscale="log", xlim=(1, 60), ylim=(0.02, 60))
series = {name: (range(1, 61), values) for name, values in chosen.items()}
curves(ax, series, xlabel="step", ylabel="λ")
plt.show()
assert len({round(math.log(values[-1]), 1) for values in chosen.values()}) == 5

# %% [markdown]
# **Read.** Five rules, five different λ. No rule knows which λ gives the best accuracy on new pictures: none of them
# looks at any. A λ chosen on validation does. (Kurin et al. 2022 found that the plain sum, all weights 1, with standard
# regularisation and stabilisation, does as well as such rules or better, and read the rules as a kind of
# regularisation. That is about unit weights, not about a tuned λ.) In notebook 03's table two of these rules took part,
# and *random*.
#
# ## Play
#
# One loss with three knobs: CosFace with scale 1/τ and margin m, plus λ times the cosine loss to the simplex (black
# dotted lines; coloured lines are the rows of g). Each move trains *P* and *g* anew from the same start; **steps** says
# how far. Try: τ = 1 (a scale of 1: the bound above); λ = 10 with τ = 0.05; margin 0 against 0.8.


# %%
def update(settings):
    """λ, margin, temperature, steps -> features u (N, 2), rows of g (3, 2)"""
    gen = torch.Generator().manual_seed(SEED)
    P = (0.3 * torch.randn(2, 32, generator=gen)).requires_grad_()
    rows = simplex.clone().requires_grad_()
    optimizer = torch.optim.Adam([P, rows], lr=0.1)
    how = {"scale": 1 / settings["temperature"], "margin": settings["margin"]}
    for _ in range(settings["steps"]):
        u = z @ P.T
        L_f = losses.cosine_prototype(u, y3, simplex)
        L = losses.cosface(u, y3, rows, **how) + settings["feature_weight"] * L_f
        optimizer.zero_grad()
        L.backward()
        optimizer.step()
    return (z @ P.T).detach(), rows.detach()


# %%
def plot(ax, arrays):
    u, rows = arrays
    draw_circle(ax, u, rows, lengths=False)
    for corner in simplex:
        ax.plot(*zip((0, 0), (1.25 * corner).tolist(), strict=True), "k:", lw=1)
    near = (u @ F.normalize(rows, dim=1).T).argmax(1) == y3
    ax.set_title(
        f"{near.double().mean():.0%} nearest to their own row of g", fontsize=10
    )
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8)


# %% tags=["varies"]
power = {"base": 10, "min": -1.5, "max": 0, "step": 0.1}
controls = {
    "feature_weight": w.FloatSlider(1.0, min=0, max=10, step=0.5, description="λ"),
    "margin": w.FloatSlider(0.35, min=0, max=0.8, step=0.05, description="margin m"),
    "temperature": w.FloatLogSlider(0.1, **power, description="temperature τ"),
    "steps": w.IntSlider(20, min=0, max=40, description="steps"),
}
explorer = widgets.Explorer(controls, update, plot, figsize=(4.4, 4.8))
assert explorer.error is None
explorer

# %%
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: the NormFace bound
#
# Cosines between −1 and 1, times a scale s, are the scores. Complete `lowest_loss`: the cross-entropy when every
# feature lies in the direction of its own class and the K class directions form a simplex.
#
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


# %% tags=["exercise"]
def lowest_loss(K, s):
    """K classes, scale s -> cross-entropy in nats"""
    # BEGIN SOLUTION
    # STUB: ...
    return math.log(1 + (K - 1) * math.exp(-s * K / (K - 1)))
    # END SOLUTION


check("03.normface_bound", lowest_loss)

# %% [markdown]
# ### ★ Exercise 2: supervised contrastive, by loops
#
# Complete `contrastive` from the formula below the table: for each picture i (the *anchor*), $S_i$ are the others of
# its class, a runs over all others. Normalise z first; average over the anchors that have someone in $S_i$. Loops are
# fine.
#
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
# ### ★★ Exercise 3: batches of four
#
# The colleague's batch in notebook 03 is 4. How often does a picture in a batch of 4 have no partner of its class, when
# a third of the pictures are defective? Work it out for a defective and for a functional picture, then simulate. What
# does this mean for the contrastive loss?

# %% [markdown] tags=["solution"]
# **Exercise 3.** A defective picture's three companions are all functional with probability (2/3)³ = 0.30; a
# functional picture's are all defective with (1/3)³ = 0.04. So about 30 % of the defective ones, the class of
# interest, give no contrastive loss. Use larger batches, or batches with a fixed number of each class.

# %% [markdown]
# ### ★★★ Exercise 4: another λ
#
# Add a rule of your own to `RULES`, such as "λ falls to 0 along a cosine" or "λ doubles when $L_f$ stops falling". What
# would it have to do in notebook 03's experiment for you to call it better, and in how many comparisons?
#
# ## Remember
#
# - Cosine and contrastive losses ask for an angle, center for a place, the margin losses for differences of angles.
# - Pictures of training points illustrate. Orders read off them change with the start and the number of steps.
# - Scaled cosines have a lowest loss; at s = 1 it is large. The simplex is best for balanced classes.
# - A rule for λ looks at gradients or losses, never at accuracy. Keep "random weights" at hand as a litmus test.
#
# **Limits.** One data set, 222 pictures that are trained on and drawn, one seed, two dimensions.
#
# **References.** Wen et al. 2016, *A discriminative feature learning approach for deep face recognition* (center
# loss), ECCV, eqs. (2) and (4). Khosla et al. 2020, *Supervised contrastive learning*, arXiv 2004.11362, eq. (2). Wang
# et al. 2017, *NormFace*, arXiv 1704.06369. Wang et al. 2018, *CosFace*, arXiv 1801.09414, eq. (4). Deng et al. 2019,
# *ArcFace*, arXiv 1801.07698, eq. (3). Kendall et al. 2018, *Multi-task learning using uncertainty to weigh losses*.
# Chen et al. 2018, *GradNorm*. Yu et al. 2020, *Gradient surgery for multi-task learning*. Lin et al. 2022,
# *Reasonable effectiveness of random weighting*. Kurin et al. 2022, *In defense of the unitary scalarization for deep
# multi-task learning*, arXiv 2201.04122. The gradient-norm ratio is from Esser et al. 2021, arXiv 2012.09841. Data:
# Deitsch et al. 2019, arXiv 1807.02894. Next: **04 The gradient update**.
