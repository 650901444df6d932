# %% [markdown]
# # 07 Which pretrained model, going deeper: what LEEP, LogME and the regularized H-score pay for chance
#
# Notebook 07 derived the H-score and showed that with N ≤ D it is the same for any labels. Here are three scores that
# were made for such cases. What does each give to labels that have nothing to do with the features, and why?
#
# Afterwards you can
#
# - prove that LEEP and NCE credit a head for chance, and say how much;
# - compute LogME from a Gaussian density, and find the mistake in its published code;
# - say what a regularized H-score is by chance, and take it off.
#
# **45 minutes** to read and try, half a minute to run. You need notebook 07.

# %% tags=["setup"]
import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf_shrinkage

from sftlib import backbones, features, runtime, selection
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.plotting import COLOURS, use_style

use_style()

# %% tags=["setup"]
SEED, SIDE, LABELS = 0, 64, 200  # side in pixels; as in notebook 07
PRECISION = runtime.CANDIDATES[1]  # float32 with channels last
cells = solar_cells.load(size=SIDE, seed=SEED)
gen = torch.Generator().manual_seed(SEED)
part = cells.train.subset(torch.randperm(len(cells.train), generator=gen)[:LABELS])
y, N, K = part.labels, LABELS, 2
shuffled = [y[torch.randperm(N, generator=gen)] for _ in range(50)]

# %% [markdown]
# The task is *defect*, with the 200 labelled cells of notebook 07. Two networks, each with ImageNet weights and with
# random ones: the features z (N, D) of all four, and what SqueezeNet's **source head** says, the probabilities θ (N, S)
# of its S = 1,000 ImageNet classes.

# %%
z, theta = {}, {}
for name, network in (("SqueezeNet", "squeezenet1_1"), ("Lite0", "efficientnet_lite0")):
    for kind in ("", ", random"):
        runtime.seed_everything(SEED)
        f = backbones.load_backbone(network, pretrained=not kind, size=SIDE)
        batches = loader(part, f.preprocess, batch_size=100)
        f = PRECISION.place(f)
        z[name + kind] = features.extract(f, batches, precision=PRECISION)[0]
        if not kind:
            with torch.no_grad():
                logits = torch.cat([f.source_logits(x) for x, _ in batches])
            theta[name] = logits.softmax(1).double()
print({name: tuple(values.shape) for name, values in z.items()})

# %% [markdown]
# ## LEEP, and what it pays for chance
#
# How well do the *source classes* tell the target? $\theta_{is}$ is the probability that the source head gives class s
# for picture i. Count jointly, condition, and average the log of the predicted probability (Nguyen et al. 2020):
#
# $$P(y, s) = \frac1N\sum_{i:\,y_i = y}\theta_{is} \qquad P(y\mid s) = \frac{P(y,s)}{\sum_{y'} P(y', s)} \qquad
# \text{LEEP} = \frac1N\sum_i \log \sum_s P(y_i\mid s)\,\theta_{is}$$
#
# | symbol | code | shape |
# |---|---|---|
# | θ | `theta` | (N, S) |
# | $P(y, s)$ | `joint` | (K, S) |
# | $P(y \mid s)$ | `conditional` | (K, S), columns sum to 1 |
#
# **NCE** is the same with θ replaced by its largest class (Tran et al. 2019).

# %%
head = theta["SqueezeNet"]
joint = torch.nn.functional.one_hot(y, K).double().T @ head / N
conditional = joint / joint.sum(0)
by_hand = (conditional[y] * head).sum(1).log().mean().item()
told = selection.leep(head, y), selection.nce(head, y)
print(f"LEEP by hand {by_hand:.3f}, sftlib {told[0]:.3f}; NCE {told[1]:.3f}")
assert abs(by_hand - told[0]) < 1e-6
nothing = selection.leep(torch.ones(N, 1), y)
share = y.bincount().double() / N
print(f"a head that says nothing: {nothing:.3f}, minus the entropy of the labels")
assert abs(nothing - (share * share.log()).sum().item()) < 1e-9

# %% [markdown]
# **Predict.** Now shuffle the labels. Do LEEP and NCE fall (a) to the value of a head that says nothing, on average
# over shuffles, (b) below it in about half of the shuffles, (c) never below it?

# %%
credit = {}
for score in (selection.leep, selection.nce):
    found = [score(head, s) - nothing for s in shuffled]
    credit[score.__name__] = np.mean(found)
    print(f"{score.__name__:<5} true labels {score(head, y) - nothing:+.3f}; ", end="")
    print(f"50 shuffles: mean {np.mean(found):+.3f}, least {min(found):+.3f}")
    assert min(found) > 0

# %% [markdown]
# (c), and it can be proved. The logarithm is concave, so (Jensen)
#
# $$\text{LEEP} \;\ge\; \frac1N\sum_i\sum_s\theta_{is}\log P(y_i\mid s) \;=\; \sum_{y,s}P(y,s)\log P(y\mid s)
# \;=\; -H(Y\mid S) \;\ge\; -H(Y)$$
#
# for *any* labels: the head's classes are fitted to the labels that they are judged on. For NCE the first sign is an
# equality, and its credit is the mutual information of two tables of counts, which by chance is about
# $(K-1)(S'-1)/2N$, where S′ source classes occur (half the mean of a χ²; Miller 1955).

# %%
bound = (joint * conditional.clamp(min=1e-300).log()).sum().item()
print(f"LEEP {by_hand:.3f} ≥ -H(Y|S) {bound:.3f} ≥ -H(Y) {nothing:.3f}")
assert by_hand >= bound >= nothing
pictures = head.argmax(1).unique(return_counts=True)[1]  # of each class that occurs
occur = len(pictures)
expected = (K - 1) * (occur - 1) / (2 * N)
print(f"{occur} source classes occur: credit of NCE by chance about {expected:.3f},")
print(f"mean of 50 shuffles {credit['nce']:.3f}")
print(f"{(pictures == 1).sum()} of the classes hold one picture")
assert abs(credit["nce"] / expected - 1) < 0.35

# %% [markdown]
# It is somewhat more, for the χ² is rough where a class is small: one that holds a single picture always "knows" its
# label, and adds H(Y)/N, here 0.62/N, where the formula counts 0.5/N.
#
# So by chance alone a head that spreads the pictures over many classes gets more than one with two classes. Compare
# scores of different heads only after the mean over some shuffles is taken off each (exercise 3).
#
# ## LogME: labels under all linear models at once
#
# How probable are the labels under a linear model whose weights were not fitted but *averaged over*? For class c, with
# targets $t_i = 1$ if $y_i = c$, else 0,
#
# $$t \sim \mathcal N\big(0,\; \tfrac1b I + \tfrac1a\, z z^\top\big) \qquad
# \text{LogME} = \frac1K\sum_c \max_{a, b}\;\frac1N \log \mathcal N(t_c)$$
#
# (You et al. 2021). a is the *precision* (one over the variance) of each weight before any label is seen, b that of the
# noise on the targets; both are chosen anew for each class. It is a Gaussian in N dimensions: SciPy knows its density,
# a general search finds a and b. Slow, and hard to get wrong: our **oracle**.


# %%
def exact(z, t):
    """z (N, D), t (N,) -> the largest log density / N"""
    zz = (z @ z.T).numpy()

    def minus(log_ab):
        a, b = np.exp(log_ab)
        covariance = np.eye(len(t)) / b + zz / a
        return -multivariate_normal.logpdf(t, cov=covariance, allow_singular=True)

    start = [np.log(np.trace(zz) / len(t)), 2.0]
    how = {"method": "Nelder-Mead", "options": {"xatol": 1e-4, "fatol": 1e-5}}
    return -minimize(minus, start, **how).fun / len(t)


# %%
unit = z["SqueezeNet"].double()
unit /= unit.square().mean().sqrt()
oracle = np.mean([exact(unit, (y == c).double().numpy()) for c in range(K)])
print(f"exact {oracle:.4f}, sftlib {selection.log_me(unit, y):.4f}")
assert abs(oracle - selection.log_me(unit, y)) < 1e-3

# %% [markdown]
# The paper's code is faster: with the singular values $d_j$ of z it repeats two updates until a and b stand still
# (`share` says how far each direction is learned). z has $k = \min(N, D)$ directions, and each adds one $\log a$:
#
# $$\log\mathcal N(t) = \tfrac12\Big[\,k\log a + N\log\tfrac{b}{2\pi} - \textstyle\sum_{j\le k}\log(a + b\,d_j^2)
# - b\,\lVert t - zm\rVert^2 - a\,\lVert m\rVert^2\Big]$$
#
# with m the mean of the weights, given t. Of the two functions that were published, the faster, which is used unless
# one asks otherwise, writes D for k (thuml/LogME, issue 23). `terms` below is that number.


# %%
def fixed_point(z, t, terms):
    """z (N, D), t (N,), how often log a is counted -> log density / N"""
    U, d, _ = torch.linalg.svd(z, full_matrices=False)
    d2, q2, a, b = d**2, (U.T @ t) ** 2, 1.0, 1.0
    for _ in range(100):
        share = d2 / (d2 + a / b)
        m2 = (d2 * q2 / (a / b + d2) ** 2).sum()
        misfit = (q2 * (1 - share) ** 2).sum() + t @ t - q2.sum()
        a, b = share.sum() / m2, (len(t) - share.sum()) / misfit
    logs = (
        terms * a.log() + len(t) * (b / 2 / torch.pi).log() - (a + b * d2).log().sum()
    )
    return (logs - b * misfit - a * m2).item() / 2 / len(t)


# %%
def log_me(z, y, terms):
    """z (N, D), y (N,) -> LogME by the fast formula"""
    z = z.double()
    return np.mean([fixed_point(z, (y == c).double(), terms) for c in range(K)])


for what, some in (("40 features", unit[:, :40]), ("all 512", unit)):
    D, k, right = some.shape[1], min(some.shape), selection.log_me(some, y)
    mended, published = log_me(some, y, k), log_me(some, y, D)
    print(f"{what:<12} with k {mended:.3f}, with D {published:.3f}, exact {right:.3f}")
    assert abs(mended - right) < 2e-3 and (abs(published - right) < 2e-3) == (D < N)

# %% [markdown]
# **Predict.** Multiply all features by 10, as other units would. Which of the two changes: (a) both, (b) the published
# one, (c) neither?

# %%
k, D = min(unit.shape), unit.shape[1]
change = {
    terms: log_me(10 * unit, y, terms) - log_me(unit, y, terms) for terms in (k, D)
}
expected = (D - k) * np.log(100) / (2 * N)
print(f"with k {change[k]:+.3f}, with D {change[D]:+.3f}; ", end="")
print(f"(D - k) log 100 / 2N = {expected:.3f}")
assert abs(change[k]) < 1e-3 and abs(change[D] - expected) < 1e-3

# %% [markdown]
# (b): its error is $(D - k)\log a\,/\,2N$. Ten times larger features need weights ten times smaller, so a is 100 times
# as large. The error depends on D and on the scale of z, so it can turn a ranking. Does it here?

# %% tags=["varies"]
right = {name: selection.log_me(values, y) for name, values in z.items()}
published = {name: log_me(values, y, values.shape[1]) for name, values in z.items()}
for what, found in (("exact", right), ("published", published)):
    names = sorted(found, key=found.get, reverse=True)
    print(f"{what:<10}", " > ".join(f"{name} {found[name]:.2f}" for name in names))
assert published["Lite0, random"] > published["SqueezeNet"]
assert right["Lite0, random"] < right["SqueezeNet"]

# %% [markdown]
# It does: by the published formula Lite0 with *random* weights is ahead of SqueezeNet with trained ones.
#
# ## The regularized H-score: how much is chance?
#
# Ibrahim et al. 2021 shrink the covariance of z towards a multiple of the identity, by Ledoit and Wolf's rule: with
# $\lambda_i$ the variance of z along its i-th direction and ρ the weight of the identity, direction i counts by
#
# $$r_i = \frac{(1-\rho)\lambda_i}{(1-\rho)\lambda_i + \rho\,\bar\lambda},\qquad
# H_\rho = \sum_i r_i\,(v_i^\top u)^2 \quad\text{(two classes)}$$
#
# where $\bar\lambda$ is the mean variance of a feature, $v_i$ the i-th left singular vector of the centred z, and u the
# centred labels of length 1. Over all shuffles the mean of $u u^\top$ is $(I - \mathbf 1\mathbf 1^\top/N)/(N-1)$, so
# by chance alone
#
# $$\mathbb E\,H_\rho = \frac{1}{N-1}\sum_i r_i .$$
#
# **Predict.** Which share of Lite0's value is chance: about a half, three quarters, or nearly all?


# %%
def spectrum(z):
    """z (N, D) -> variances of its directions, falling; ρ; floor ρ λ̄ / (1 − ρ)"""
    z = z.double() - z.double().mean(0)
    rho = float(ledoit_wolf_shrinkage(z.numpy(), assume_centered=True))
    floor = rho * z.square().mean() / (1 - rho)
    return torch.linalg.svdvals(z) ** 2 / len(z), rho, floor


def by_chance(z):
    """z (N, D) -> the mean of the regularized H-score over all shuffles"""
    variance, _, floor = spectrum(z)
    r = variance / (variance + floor)
    return r.sum().item() / (len(z) - 1)


# %% tags=["varies"]
true, by_shuffle, chance = {}, {}, {}
for name, values in z.items():
    true[name], chance[name] = (
        selection.regularized_h_score(values, y),
        by_chance(values),
    )
    by_shuffle[name] = [selection.regularized_h_score(values, s) for s in shuffled]
    some = np.mean(by_shuffle[name])
    print(f"{name:<19} labels {true[name]:.3f}; by chance {chance[name]:.3f}, ", end="")
    print(f"mean of 50 shuffles {some:.3f}")
    assert abs(some - chance[name]) < 0.03
assert chance["Lite0"] / true["Lite0"] > 0.9

# %%
fig, ax = plt.subplots(figsize=(8, 2.8))
labels = ("shuffled labels", "their mean, computed", "true labels")
marks, colours = ("|", "D", "o"), ("sky", "black", "vermillion")
for i, name in enumerate(z):
    three = by_shuffle[name], [chance[name]], [true[name]]
    for found, mark, colour, label in zip(three, marks, colours, labels, strict=True):
        style = {"color": COLOURS[colour], "ms": 8, "label": "" if i else label}
        ax.plot(found, [i] * len(found), mark, **style)
ax.set_yticks(range(len(z)), z)
ax.set(xlabel="regularized H-score (1: labels are linear in z)", xlim=(0, 1.02))
ax.margins(y=0.15)
ax.invert_yaxis()
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Nearly all. And Lite0 with random weights is ahead of SqueezeNet with trained ones. Lite0 has 1,280 features and
# SqueezeNet 512. Do more features explain more? The control: 512 of the 1,280. And the remedy, as in an adjusted R²:
# take the chance off and rescale, $(H - \mathbb E H) / (1 - \mathbb E H)$: 0 is chance, 1 the best.

# %% tags=["varies"]
some = [torch.randperm(1280, generator=gen)[:512] for _ in range(5)]
fewer = [selection.regularized_h_score(z["Lite0, random"][:, c], y) for c in some]
print(
    f"512 features of Lite0, random, five draws: {min(fewer):.3f} to {max(fewer):.3f}"
)
print(f"SqueezeNet, its 512: {true['SqueezeNet']:.3f}")
assert min(fewer) > true["SqueezeNet"]
lead, kept = (h - true["SqueezeNet"] for h in (true["Lite0, random"], np.mean(fewer)))
print(f"its lead of {lead:.2f} falls to {kept:.2f}")
adjusted = {name: (true[name] - chance[name]) / (1 - chance[name]) for name in z}
print("adjusted:", ", ".join(f"{name} {value:.2f}" for name, value in adjusted.items()))
assert min(adjusted["SqueezeNet"], adjusted["Lite0"]) > adjusted["Lite0, random"] + 0.03

# %% [markdown]
# The number of features is a part of it: with as many as SqueezeNet, the lead of Lite0's random weights is about half
# as large, but it is there. What else? $r_i$ compares $\lambda_i$ with a **floor**: it is above ½ where
# $\lambda_i > \rho\bar\lambda/(1-\rho)$. How many directions stand above theirs? And is it evenness: which share of the
# variance lies along the first?

# %% tags=["varies"]
above, first = {}, {}
for name, values in z.items():
    variance, rho, floor = spectrum(values)
    above[name] = (variance > floor).sum().item()
    first[name] = (variance[0] / variance.sum()).item()
    print(
        f"{name:<19} ρ {rho:.3f}; above the floor {above[name]:>3} of {N - 1}", end=""
    )
    print(f"; along the first direction {first[name]:.0%} of the variance")
assert above["Lite0, random"] > above["SqueezeNet"] + 50
assert first["Lite0, random"] > first["SqueezeNet"] + 0.2

# %% [markdown]
# Not evenness: Lite0's random features vary mostly along one direction. But their ρ is small and their features are
# many, so the floor is low, and nearly all directions stand above it, of SqueezeNet's about half. Σ r counts these.
# With it taken off, both trained networks stand above both random ones.
#
# ## Exercises
#
# ### ★ Exercise 1: LEEP
#
# Complete `my_leep` from the formula above.
#
# <details><summary>Hint 1</summary>
#
# First the table P(y, s): for each class add the rows of theta of its pictures, and divide by N.
#
# </details>
# <details><summary>Hint 2</summary>
#
# P(y | s) divides each *column* by its sum over the classes.
#
# </details>
# <details><summary>Hint 3</summary>
#
# For picture i: row `conditional[y[i]]` times row `theta[i]`, summed over s; then the log; then the mean.
#
# </details>


# %% tags=["exercise"]
def my_leep(theta, y):
    """theta (N, S) rows of probabilities, y (N,) with classes 0 … K − 1 -> mean
    log probability in nats
    """
    # BEGIN SOLUTION
    # STUB: ...
    target = torch.nn.functional.one_hot(y).to(theta.dtype)  # (N, K)
    joint = target.T @ theta / len(y)
    conditional = joint / joint.sum(0)
    return (conditional[y] * theta).sum(1).log().mean()
    # END SOLUTION


check("07.leep", my_leep)

# %% [markdown]
# ### ★ Exercise 2: the evidence from D × D matrices
#
# With many pictures the Gaussian in N dimensions is too large, and D is what is small. Complete `evidence`: the log
# density of t, for given a and b, from matrices of D × D, right for N > D *and* N < D. With $A = aI + b\,z^\top z$
# (D × D) and $m = b\,A^{-1} z^\top t$,
#
# $$\log\mathcal N(t) = \tfrac12\big[\,D\log a + N\log b - N\log 2\pi - \log\det A - b\,\lVert t - zm\rVert^2
# - a\,\lVert m\rVert^2\big]$$
#
# <details><summary>Hint 1</summary>
#
# `torch.linalg.solve(A, b * z.T @ t)` gives m.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.logdet(A)` counts all D directions: with N < D, D − N of them give log a each. So D log a is right *here*.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Compare with `torch.distributions.MultivariateNormal` with covariance I / b + z zᵀ / a on a small case.
#
# </details>


# %% tags=["exercise"]
def evidence(z, t, a, b):
    """z (N, D), t (N,), precisions a (weights), b (noise) -> log density, nats"""
    # BEGIN SOLUTION
    # STUB: ...
    N, D = z.shape
    A = a * torch.eye(D, dtype=z.dtype) + b * z.T @ z
    m = torch.linalg.solve(A, b * z.T @ t)
    logs = D * np.log(a) + N * np.log(b / (2 * np.pi)) - torch.logdet(A)
    return (logs - b * (t - z @ m).square().sum() - a * m.square().sum()) / 2
    # END SOLUTION


check("07.evidence", evidence)

# %% [markdown]
# ### ★★ Exercise 3: fewer source classes
#
# Merge the 1,000 columns of `head` into 100, 10 and 2 by adding neighbours (`head.reshape(N, S, -1).sum(2)`). Compute
# LEEP for the labels, and its mean over `shuffled`. **Predict** both curves first. What is left of the labels' lead?
#
# ### ★★ Exercise 4: N and D
#
# Compute `h_score`, `regularized_h_score` and `log_me` of SqueezeNet's features with all 1,667 training cells, for the
# labels and for shuffled ones. **Predict**: which changes most, compared with 200 cells?

# %% [markdown] tags=["solution"]
# **Exercise 3.** The labels, and the mean of the shuffles:

# %% tags=["solution", "varies"]
f = PRECISION.place(backbones.load_backbone("squeezenet1_1", size=SIDE))
with torch.no_grad():
    batches = loader(part, f.preprocess, batch_size=100)
    head = torch.cat([f.source_logits(x) for x, _ in batches]).softmax(1)
credit, gap = {}, {}
print(f"a head that says nothing: {selection.leep(torch.ones(N, 1), y):.3f}")
for S in (1000, 100, 10, 2):
    merged = head.reshape(N, S, -1).sum(2)
    credit[S] = np.mean([selection.leep(merged, s) for s in shuffled])
    gap[S] = selection.leep(merged, y) - credit[S]
    print(f"S = {S:>4}: labels {credit[S] + gap[S]:.3f}, ", end="")
    print(f"shuffled {credit[S]:.3f}, difference {gap[S]:+.3f}")
assert credit[1000] > credit[2] + 0.02 and gap[1000] > gap[2] + 0.02

# %% [markdown] tags=["solution"]
# Both fall to the value of a head that says nothing: merging takes away the credit of chance, *and* what the source
# classes had to tell. The difference is what the labels have to do with the head.
#
# **Exercise 4.** With 200 cells and with all:

# %% tags=["solution", "varies"]
changed = {}
for what, some in (("200 cells", part), ("all cells", cells.train)):
    batches = loader(some, f.preprocess, batch_size=100)
    z, y = features.extract(f, batches, precision=PRECISION)
    mixed = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(SEED))]
    for score in (selection.h_score, selection.regularized_h_score, selection.log_me):
        changed[what, score.__name__] = pair = score(z, y), score(z, mixed)
        print(f"{what}  {score.__name__:<21}labels {pair[0]:6.3f}, ", end="")
        print(f"shuffled {pair[1]:6.3f}")
rank = torch.linalg.matrix_rank(z.double() - z.double().mean(0)).item()
print(f"directions in which z varies {rank}, over N - 1: {rank / (len(z) - 1):.3f}")
assert min(changed["200 cells", "h_score"]) > 0.99
assert max(changed["all cells", "h_score"]) < 0.8
assert changed["all cells", "h_score"][0] > changed["all cells", "h_score"][1] + 0.2

# %% [markdown] tags=["solution"]
# The H-score changes most: with 200 cells it was 1 for any labels, now the true ones stand clearly above shuffled ones.
# Those get about the last number printed, as notebook 07 proved. (z varies in fewer than D directions: after the ReLU
# some features are zero for every cell.) All three now tell labels from shuffled ones by more than before.

# %% [markdown]
# ## Remember
#
# - LEEP ≥ −H(Y|S) ≥ −H(Y) for any labels: a head is never worse than silence on the pictures it is judged on.
# - LogME is a Gaussian's density. With N < D its published code counts log a too often, and the units of z matter.
# - A regularized H-score is alive with N < D, but most of it can be chance: Σ r / (N − 1), which can be taken off.
# - Shuffled labels are the control that each of the three needs.
#
# **Limits.** One task, 200 cells, two networks and one draw of random weights. Whether a corrected score ranks *better*
# was not measured: notebook 07's table would tell it for three tasks only.
#
# **References.** Nguyen et al. 2020, *LEEP*, arXiv 2002.12462. Tran et al. 2019 (NCE), arXiv 1908.08142. Miller 1955,
# *Note on the bias of information estimates*. You et al. 2021, *LogME*, arXiv 2102.11005. Ibrahim et al. 2021
# (regularized H), arXiv 2110.06893. Ledoit and Wolf 2004, *A well-conditioned estimator for large-dimensional
# covariance matrices*. Next: **08 Which strategy?**
