# %% [markdown]
# # 04 The gradient update: f ← f − α ∂L/∂f, g ← g − α ∂L/∂g
#
# **What does this line do, exactly?** All of fine-tuning is this one line, repeated. Here you derive it with pencil
# and paper for a network of two layers, check it in three ways that must agree, find out which loss moves which half,
# rebuild PyTorch's optimizers to the last bit, and see on a real network what a step too long does.
#
# Afterwards you can
#
# - derive ∂L/∂*f* and ∂L/∂*g* for a combined loss, and check any gradient against finite differences;
# - say which loss moves which parameters, and cut that with one word (`detach`) when you want to;
# - predict from the curvature at which α training breaks, and what batch size, loss scale and BatchNorm do to a step.
#
# **75 minutes** to read and try, 1 minute to run. You need notebook 03 (the combined loss), the chain rule, and
# matrix products.

# %% tags=["setup"]
import copy

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from sftlib import adaptation, backbones, features, runtime, training, widgets
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.losses import cosine_prototype, simplex_prototypes
from sftlib.model import LinearHead, Model
from sftlib.plotting import COLOURS, MARKERS, curves, idea, pictures, use_style

use_style()

# %% [markdown]
# ## The idea
#
# The forward arrows compute the loss. The dashed arrows carry the **gradient** back: for each number in *f* and in
# *g*, how fast *L* grows when that number grows. A step goes the other way, and α, the *learning rate*, says how far.

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("gradient", "f", "g"))
plt.show()

# %% [markdown]
# Look at where the dashed arrows meet: two of them arrive at *z* and go on into *f*, one from each loss. Only one
# arrives at *g*. Which loss moves which part is what we call the *ledger* of the update.
#
# ## Settings

# %%
size = runtime.profile()
SEED = 0
SIDE = size.pick(quick=96, full=224)  # pixels of the solar cells
# training pictures that the real network is tuned on
PICTURES = size.pick(quick=600, full=1667)
# of these, the fixed ones on which the map of the loss is drawn
SUBSET = size.pick(quick=48, full=256)
GRID = size.pick(quick=25, full=41)  # points along each side of that map
EPOCHS = size.pick(quick=6, full=12)  # passes over the training pictures
FEATURE_WEIGHT = 0.5  # λ in L = L_g + λ L_f

# %% [markdown]
# ## Look at the data
#
# Two kinds. For the derivation, a batch so small that it could be written on paper: N = 11 rows of P = 7 numbers, in
# K = 3 classes. In 64-bit numbers, so that rounding does not hide a mistake.

# %%
draw = torch.Generator().manual_seed(SEED)
x = torch.randn(11, 7, generator=draw, dtype=torch.float64)
y = torch.arange(11) % 3
print("x", tuple(x.shape), "  y", y.tolist())
print(f"a model that knows nothing has the loss log 3 = {np.log(3):.3f}")

# %% [markdown]
# For the real network, the solar cells of notebook 00 (Deitsch et al. 2019, arXiv 1807.02894). To keep every
# experiment here below a few seconds, the lower stages of SqueezeNet stay as they are and run *once*: we keep their
# output *h*. What is tuned is the top: *f* is its last stage with the pooling, *g* a new linear layer.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
squeezenet = backbones.load_backbone("squeezenet1_1", size=SIDE)
part = cells.train.subset(torch.arange(PICTURES))
h, labels = features.extract(
    squeezenet, loader(part, squeezenet.preprocess, batch_size=50), stage="stage3"
)
print("h", tuple(h.shape), "  of each class", labels.bincount().tolist(), cells.classes)
print(
    "always answering the larger class is right for "
    f"{labels.bincount().max() / len(labels):.1%}; log 2 = 0.693"
)

# %%
fig, axes = plt.subplots(1, 6, figsize=(9, 1.9))
show = torch.cat([(labels == k).nonzero().flatten()[:3] for k in (0, 1)])
pictures(axes, part.pictures[show], [cells.classes[k] for k in labels[show]])
plt.show()

# %% [markdown]
# ## By hand 1: forward
#
# The smallest model with both halves, and the combined loss of notebook 03:
#
# $$z = f(x) = \tanh(A x) \qquad \text{logits} = g(z) = B z \qquad L = L_g + \lambda L_f$$
# $$L_g = \frac1N\sum_i -\log p_{i,y_i} \qquad L_f = \frac1N\sum_i \Bigl(1 - \frac{z_i\cdot\mu_{y_i}}{\|z_i\|}\Bigr)$$
#
# | symbol | code | shape | what it is |
# |---|---|---|---|
# | *x*, *z*, *p* | `x`, `z`, `p` | (N, P), (N, D), (N, K) | inputs, features, softmax of the logits |
# | *A*, *B* | `A`, `B` | (D, P), (K, D) | all that *f* can learn, all that *g* can learn |
# | *μ* | `mu` | (N, D) | for each row, the direction (length 1) of its class |
# | *λ* | `FEATURE_WEIGHT` | number | how much *L_f* counts |

# %%
draw = torch.Generator().manual_seed(SEED + 1)
A = torch.randn(5, 7, generator=draw, dtype=torch.float64) / 7**0.5
B = torch.randn(3, 5, generator=draw, dtype=torch.float64) / 5**0.5
prototypes = simplex_prototypes(3, 5)  # three directions, as far apart as can be
mu = F.normalize(prototypes.double()[y])


def both_losses(A, B, x=x, mu=mu):
    """A (D, P), B (K, D) -> L_g, L_f on the batch above"""
    z = torch.tanh(x @ A.T)  # (N, D)
    p = (z @ B.T).softmax(dim=1)  # (N, K)
    L_g = -p[torch.arange(len(y)), y].log().mean()
    L_f = (1 - (F.normalize(z) * mu).sum(dim=1)).mean()
    return L_g, L_f


L_g, L_f = both_losses(A, B)
print(f"L_g {L_g:.4f}   L_f {L_f:.4f}   L {L_g + FEATURE_WEIGHT * L_f:.4f}")

# %% [markdown]
# ## By hand 2: backward through *g*
#
# Start at the end. For one row, $-\log p_y = -\text{logits}_y + \log\sum_k e^{\text{logits}_k}$, so its derivative by
# the logits is $p - Y$, with $Y$ = 1 at the true class and 0 elsewhere: *what was said minus what is right*. The mean
# over N rows divides by N. Call this error *E*:
#
# $$E = \frac{\partial L_g}{\partial\,\text{logits}} = \frac{p - Y}{N} \qquad
# \frac{\partial L_g}{\partial B} = E^\top z$$
# $$\underbrace{\Bigl(\frac{\partial g}{\partial f}\Bigr)^{\!\top}
# \frac{\partial L_g}{\partial g}}_{\text{arrives at }z} = E B$$
#
# Logits are $B z$. By *B* they change with *z*, by *z* they change with *B*: hence the two products. (∂g/∂f is short
# for the derivative of *g*'s output by *f*'s output *z*. Here that is *B* itself.)

# %%
z = torch.tanh(x @ A.T)  # (N, D)
p = (z @ B.T).softmax(dim=1)  # (N, K)
E = (p - F.one_hot(y, 3)) / len(y)  # (N, K)
g_hears = E.T @ z  # ∂L_g/∂B (K, D)
from_g = E @ B  # what L_g sends back to z (N, D)
print("each row of E sums to zero:", bool(E.sum(dim=1).abs().max() < 1e-12))

# %% [markdown]
# ## By hand 3: backward into *f*
#
# *L_f* reaches *z* without *g*. By the quotient rule, with $\hat z = z/\|z\|$ and $\cos t = \hat z\cdot\mu$,
#
# $$\frac{\partial L_f}{\partial z} = -\frac1N\Bigl(\frac{\mu}{\|z\|} - \frac{(z\cdot\mu)\,z}{\|z\|^3}\Bigr)
# = -\frac1N\,\frac{\mu - \cos t\;\hat z}{\|z\|}$$
#
# At *z* both messages are **added**; from there on there is only one. The derivative of tanh is $1 - z^2$, entry by
# entry (⊙), and $Ax$ changes with *x*:
#
# $$\delta = \bigl(\lambda\,\tfrac{\partial L_f}{\partial z} + E B\bigr)\odot(1 - z^2) \qquad
# \frac{\partial L}{\partial A} = \delta^\top x \qquad \frac{\partial L}{\partial B} = E^\top z$$

# %%
length = z.norm(dim=1, keepdim=True)  # (N, 1)
cosine = (z * mu).sum(dim=1, keepdim=True) / length  # (N, 1)
from_L_f = -(mu - cosine * z / length) / length / len(y)  # ∂L_f/∂z (N, D)

delta = (FEATURE_WEIGHT * from_L_f + from_g) * (1 - z**2)  # (N, D)
by_hand = {"∂L/∂A": delta.T @ x, "∂L/∂B": g_hears}
for name, gradient in by_hand.items():
    print(name, tuple(gradient.shape), f" length {gradient.norm():.4f}")

# %% [markdown]
# ## Three ways that must agree
#
# **Autograd** does the same by machine: PyTorch writes down each operation and walks back through them. **Finite
# differences** know nothing of rules: move one number by ±ε and look at the loss,
# $\partial L/\partial a \approx \bigl(L(a+\varepsilon) - L(a-\varepsilon)\bigr)/2\varepsilon$. Someone who makes a
# mistake in the derivation makes it in one of the three only.


# %%
def combined(A, B, x=x, mu=mu):
    L_g, L_f = both_losses(A, B, x, mu)
    return L_g + FEATURE_WEIGHT * L_f


def finite_differences(function, tensors, which, eps):
    """The derivative of function(*tensors) by every entry of tensors[which], one
    after the other.
    """
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
with torch.no_grad():
    differences = [
        finite_differences(combined, (A, B), which, eps=1e-5) for which in (0, 1)
    ]


def agree(what, a, b, below):
    largest = (a - b).abs().max().item()
    assert largest < below, f"{what}: {largest}"
    print(f"{what:<32} largest difference < {below:.0e}")


for i, (name, gradient) in enumerate(by_hand.items()):
    agree(f"{name} by hand, autograd", gradient, autograd[i], 1e-12)
    agree(f"{name} by hand, finite differences", gradient, differences[i], 1e-8)
print("torch.autograd.gradcheck:", torch.autograd.gradcheck(combined, (A, B)))

# %% [markdown]
# `gradcheck` is PyTorch's own version of the third way. It asks for 64-bit numbers (float64). **Predict**: with
# 32-bit numbers (float32), what happens to finite differences as ε gets smaller?
#
# (a) Always better. (b) Better, then worse. (c) The number format does not matter.

# %%
sizes = 10.0 ** np.arange(-10, 0.1, 0.5)
errors = {}
for dtype in (torch.float64, torch.float32):
    start = [t.detach().to(dtype) for t in (A, B)]

    def loss(A, B, dtype=dtype):
        return combined(A, B, x.to(dtype), mu.to(dtype))

    tries = [finite_differences(loss, start, 1, eps).double() for eps in sizes]
    errors[str(dtype).removeprefix("torch.")] = (
        sizes,
        [(t - by_hand["∂L/∂B"]).abs().max().item() for t in tries],
    )

fig, ax = plt.subplots(figsize=(6.5, 3.2))
ax.set(xscale="log", yscale="log")
curves(ax, errors, xlabel="ε", ylabel="largest error of the gradient")
plt.show()
assert min(errors["float32"][1]) > 1e3 * min(errors["float64"][1])

# %% [markdown]
# **Read.** (b). On the right the error falls with ε²: the curve between the two points is less and less bent. On the
# left it grows like 1/ε: the two losses agree in nearly all their digits, and what is left of their difference is
# rounding. Had we seen a line that falls all the way to the left, rounding would play no part. The best that 32 bits
# can do is more than a thousand times worse than the best of 64 bits, so a check in float32 says little.
#
# ## The ledger
#
# The same gradients, as a picture. Each panel is a matrix, one square an entry, in one colour scale. Which loss moves
# what?


# %%
def parts_of(L_g, L_f):
    """-> loss -> (gradient for A, gradient for B); None where the loss does not
    depend on it
    """
    losses = {"L_f": FEATURE_WEIGHT * L_f, "L_g": L_g, "L": L_g + FEATURE_WEIGHT * L_f}
    return {
        name: torch.autograd.grad(loss, (A, B), retain_graph=True, allow_unused=True)
        for name, loss in losses.items()
    }


ledger = parts_of(*both_losses(A, B))
# g does not appear in L_f: autograd finds no way, not even a zero
assert ledger["L_f"][1] is None
agree(
    "∂L/∂f = λ ∂L_f/∂f + ∂L_g/∂f",
    ledger["L"][0],
    ledger["L_f"][0] + ledger["L_g"][0],
    1e-12,
)
agree(
    "∂L_g/∂f is what came through B",
    ledger["L_g"][0],
    (from_g * (1 - z**2)).T @ x,
    1e-12,
)
agree("∂L/∂g = ∂L_g/∂g", ledger["L"][1], ledger["L_g"][1], 1e-12)


# %% tags=["hide-input"]
def ledger_picture(ledger, titles):
    """loss -> (gradient for f, for g) or None -> figure: a row for f, a row for
    g, a column a loss
    """
    fig, axes = plt.subplots(2, 3, figsize=(9, 4.0))
    top = max(
        g.abs().max().item() for pair in ledger.values() for g in pair if g is not None
    )
    for row, (part, letter) in enumerate((("f", "A"), ("g", "B"))):
        for column, pair in enumerate(ledger.values()):
            ax, gradient = axes[row, column], pair[row]
            none = gradient is None or not gradient.abs().max() > 0
            values = torch.zeros_like((A, B)[row]) if none else gradient
            image = ax.imshow(
                values.detach(), cmap="PuOr", vmin=-top, vmax=top, aspect="auto"
            )
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.set_title(titles[row][column], fontsize=12, loc="center")
            ax.set_xlabel(
                "nothing: not connected" if none else f"length {gradient.norm():.3f}"
            )
            if none:
                ax.text(
                    0.5,
                    0.5,
                    "0",
                    transform=ax.transAxes,
                    ha="center",
                    va="center",
                    fontsize=30,
                    color="#595959",
                )
            sign = ("+", "=", "")[column]
            ax.text(
                1.12,
                0.5,
                sign,
                transform=ax.transAxes,
                ha="center",
                va="center",
                fontsize=22,
            )
        axes[row, 0].set_ylabel(
            f"{part}\n({letter})", rotation=0, labelpad=22, va="center", fontsize=13
        )
    fig.colorbar(image, ax=axes, label="entry of the gradient", shrink=0.8)
    return fig


# %%
titles = (
    ("λ ∂L_f/∂f", "(∂g/∂f)ᵀ ∂L_g/∂g", "∂L/∂f"),
    ("λ ∂L_f/∂g", "∂L_g/∂g", "∂L/∂g"),
)
ledger_picture(ledger, titles)
plt.show()

# %% [markdown]
# Read it row by row. *f* hears **both** losses, and its gradient is their sum; *g* hears **only** *L_g*. So "*L_f*
# trains *f* and *L_g* trains *g*" is wrong by the panel in the middle of the first row: what *L_g* sends through *g*
# back to *f* (carried on by $1 - z^2$ and *x*). In ordinary fine-tuning, without *L_f*, it is all that *f* hears.
#
# ## Joint and stop-gradient
#
# One can *make* that sentence true. `z.detach()` is the same numbers with the way back cut off (a *stop-gradient*).
# The two are different methods and get different names:
#
# - **joint**: *g* reads *z*. *f* learns from both losses.
# - **stop-gradient** (decoupled): *g* reads `z.detach()`. *f* learns from *L_f* alone, *g* from *L_g* alone.


# %%
def joint(A, B):
    z = torch.tanh(x @ A.T)
    return F.cross_entropy(z @ B.T, y), cosine_prototype(z, y, prototypes)


def stop_gradient(A, B):
    z = torch.tanh(x @ A.T)
    return F.cross_entropy(z.detach() @ B.T, y), cosine_prototype(z, y, prototypes)


cut = parts_of(*stop_gradient(A, B))
agree(
    "joint, by sftlib: L_g and L_f",
    torch.stack(joint(A, B)),
    torch.stack(both_losses(A, B)),
    1e-12,
)
agree(
    "stop-gradient has the same values",
    torch.stack(stop_gradient(A, B)),
    torch.stack(joint(A, B)),
    1e-12,
)
assert cut["L_g"][0] is None and cut["L_f"][1] is None  # each part hears one loss
agree("stop-gradient: f hears L_f", cut["L"][0], ledger["L_f"][0], 1e-12)
agree("stop-gradient: g hears L_g", cut["L"][1], ledger["L_g"][1], 1e-12)

# %%
ledger_picture(cut, titles)
plt.show()

# %% [markdown]
# The same loss to the last digit, another gradient: **a printed loss does not tell you what is learned from it.**
# That is why a wrong `detach` (or a frozen *f* with an *L_f*, as in the article of notebook 03) is so hard to see.
#
# ## The update, and the same from `sftlib`
#
# Now the step, *A* ← *A* − α_f ∂L/∂A and *B* ← *B* − α_g ∂L/∂B, with the gradients found by hand. `train_step` of
# `sftlib.training` gets the same two layers as modules.


# %%
def two_layers(cut=False):
    """The model above as modules; `cut` puts a stop-gradient between f and g."""
    f = torch.nn.Sequential(torch.nn.Linear(7, 5, bias=False), torch.nn.Tanh()).double()
    g = torch.nn.Linear(5, 3, bias=False).double()
    with torch.no_grad():
        f[0].weight.copy_(A), g.weight.copy_(B)
    return Model(f, torch.nn.Sequential(Detach(), g) if cut else g)


class Detach(torch.nn.Module):
    """z (N, D) -> z (N, D), no gradient back"""

    def forward(self, z):
        return z.detach()


# %%
LR_F, LR_G = 0.1, 0.3  # α of f and of g


def towards_prototypes(z, y):
    return cosine_prototype(z, y, prototypes)


def one_train_step(model):
    optimizer = torch.optim.SGD(
        adaptation.param_groups(f=(model.backbone, LR_F), g=(model.head, LR_G))
    )
    losses = {
        "task_loss": F.cross_entropy,
        "feature_loss": towards_prototypes,
        "feature_weight": FEATURE_WEIGHT,
    }
    training.train_step(model, x, y, optimizer, **losses)
    return [p.detach() for p in model.parameters()]


new_A, new_B = one_train_step(two_layers())
agree("train_step: A", new_A, A - LR_F * by_hand["∂L/∂A"], 1e-12)
agree("train_step: B", new_B, B - LR_G * by_hand["∂L/∂B"], 1e-12)
new_A, new_B = one_train_step(two_layers(cut=True))
agree("train_step with the cut: A", new_A, A - LR_F * cut["L_f"][0], 1e-12)
agree("train_step with the cut: B", new_B, B - LR_G * by_hand["∂L/∂B"], 1e-12)

# %% [markdown]
# So the whole of `train_step` is: forward, `backward`, and this update. The next question is how exactly.
#
# ## Equal to `torch.optim.SGD`, bit for bit
#
# On the real network now, and for ten steps: a difference in the last bit of one weight is there for all later steps.
# `ten_steps` does forward and backward; `move` is what is compared. Each model starts as an exact copy of
# `untouched`.

# %%
runtime.seed_everything(SEED)
untouched = Model(
    torch.nn.Sequential(squeezenet.stage4, squeezenet.pool), LinearHead(512, 2)
).eval()
print(
    f"f learns {sum(p.numel() for p in untouched.backbone.parameters()):,} numbers,",
    end=" ",
)
print(f"g learns {sum(p.numel() for p in untouched.head.parameters()):,}")


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
    return [(p, lr_f) for p in model.backbone.parameters()] + [
        (p, lr_g) for p in model.head.parameters()
    ]


def groups(model, lr_f=1e-3, lr_g=1e-2):
    return adaptation.param_groups(f=(model.backbone, lr_f), g=(model.head, lr_g))


def sgd_by_hand(model):
    def move():
        for p, lr in rates(model):
            p.add_(p.grad, alpha=-lr)  # p ← p − α ∂L/∂p

    return move


def sgd_naive(model):
    def move():
        for p, lr in rates(model):
            p.copy_(p - lr * p.grad)  # the same in mathematics

    return move


# %% [markdown]
# **Predict**: which of the two hand-written updates gives, after ten steps, the same bits as `torch.optim.SGD`?
#
# (a) Both. (b) Only the first. (c) Neither: floating-point numbers are never quite equal.

# %% tags=["varies"]
official = ten_steps(lambda model: torch.optim.SGD(groups(model)).step)
mine, naive = ten_steps(sgd_by_hand), ten_steps(sgd_naive)
for name, path in (("p.add_(g, alpha=-lr)", mine), ("p - lr * g", naive)):
    share = (path[-1] != official[-1]).double().mean()
    print(
        f"{name:<22} {share:.2%} of the weights differ, by at most "
        f"{(path[-1] - official[-1]).abs().max():.1e}"
    )
# every weight, every bit, after each of the ten steps
assert torch.equal(mine, official)
assert torch.allclose(naive, official, atol=1e-4)

# %% [markdown]
# (b). Floating-point arithmetic is not vague: the same operations in the same order give the same bits. But `lr * g`
# is *rounded* to 32 bits before it is subtracted, while `add_` with `alpha` lets the processor do both in one
# instruction (a *fused multiply-add*) that rounds once, at the end. The proof: multiply and add in 64 bits, where the
# product of two 32-bit numbers is exact, and round once.

# %% tags=["varies"]
draw = torch.Generator().manual_seed(SEED)
p32, g32 = torch.randn(2, 1000, generator=draw)
lr = torch.tensor(0.1)  # the float32 nearest to 0.1
fused = p32.clone().add_(g32, alpha=-0.1)
two_roundings = p32 - 0.1 * g32
one_rounding = (p32.double() - lr.double() * g32.double()).float()
print(
    f"rounded once, against add_:       {(one_rounding != fused).sum()} of 1000 differ"
)
print(
    f"rounded twice, against add_:      {(two_roundings != fused).sum()} of 1000 differ"
)
assert torch.allclose(two_roundings, fused, rtol=0, atol=1e-6)

# %% [markdown]
# Neither is wrong. But if you want to know whether two programs do *the same*, bits are the sharpest question there
# is, and this is what it costs to ask it. (On a processor without that instruction, `add_` rounds twice as well.)
#
# ## Momentum, weight decay, AdamW
#
# **Momentum** μ keeps a velocity *v*: steps in one direction add up, steps to and fro cancel. **Weight decay** ω
# pulls every weight towards 0. *Coupled*, it joins the gradient before everything else (and so goes through the
# momentum); *decoupled* (Loshchilov & Hutter 2019, arXiv 1711.05101) it shrinks the weight directly:
#
# $$\text{SGD: } v \leftarrow \mu v + (\nabla L + \omega p),\quad p \leftarrow p - \alpha v$$
# $$\text{AdamW: } p \leftarrow (1 - \alpha\omega)\,p,\quad
# p \leftarrow p - \alpha\,\frac{\hat m}{\sqrt{\hat s} + \epsilon}$$
#
# with *m* and *s* the running means of ∇L and (∇L)², and the hat a division by $1-\beta^t$, because both start at 0.

# %%
MOMENTUM, DECAY = 0.9, 5e-4


def momentum_by_hand(model):
    velocity = {}

    def move():
        for p, lr in rates(model):
            # coupled: decay is part of the gradient
            gradient = p.grad.add(p, alpha=DECAY)
            velocity[p] = (
                velocity[p].mul_(MOMENTUM).add_(gradient) if p in velocity else gradient
            )
            p.add_(velocity[p], alpha=-lr)

    return move


mine = ten_steps(momentum_by_hand)
official = ten_steps(
    lambda model: (
        torch.optim.SGD(groups(model), momentum=MOMENTUM, weight_decay=DECAY).step
    )
)
assert torch.equal(mine, official)
print("SGD with momentum and coupled decay: equal to the bit after each of ten steps")


# %%
def adamw_by_hand(model, alpha=1e-3, decay=0.1, beta1=0.9, beta2=0.999, eps=1e-8):
    m, s, t = {}, {}, [0]

    def move():
        t[0] += 1
        for p in model.parameters():
            # running mean of the gradient
            m[p] = m.get(p, torch.zeros_like(p)).lerp(p.grad, 1 - beta1)
            # … and of its square
            s[p] = beta2 * s.get(p, torch.zeros_like(p)) + (1 - beta2) * p.grad**2
            m_hat, s_hat = m[p] / (1 - beta1 ** t[0]), s[p] / (1 - beta2 ** t[0])
            p.mul_(1 - alpha * decay)  # decoupled: the gradient knows nothing of it
            p.sub_(alpha * m_hat / (s_hat.sqrt() + eps))

    return move


mine = ten_steps(adamw_by_hand)
official = ten_steps(
    lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1).step
)
coupled = ten_steps(
    lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1).step
)
agree("AdamW by hand, torch's", mine[-1], official[-1], 1e-4)
assert (mine - official).norm() < 1e-3 * (coupled - official).norm()

# %% [markdown]
# Here the operations are not in torch's order, so the bits differ, but by less than a thousandth of what the
# *coupled* decay (`Adam` with `weight_decay`) makes of the same numbers. Under Adam the two decays are different
# methods: coupled decay is divided by $\sqrt{\hat s}$ like the rest of the gradient, so weights with large gradients
# decay least.
#
# ## How long may a step be? First a bowl
#
# Near a minimum every smooth loss looks like a bowl, $L(w) = \tfrac12\sum_j \lambda_j w_j^2$, where the **curvature**
# $\lambda_j$ says how fast the slope changes along direction *j*. There a step is a multiplication:
#
# $$w_j \leftarrow w_j - \alpha\lambda_j w_j = (1 - \alpha\lambda_j)\,w_j \qquad\Longrightarrow\qquad
# w_j \text{ after } t \text{ steps} = (1 - \alpha\lambda_j)^t\, w_j$$
#
# It shrinks as long as $|1 - \alpha\lambda_j| < 1$, that is $\alpha < 2/\lambda_j$. **The steepest direction sets the
# limit, $\alpha < 2/\lambda_{\max}$; the flattest one then takes longest.**

# %%
curvature = np.array([1.0, 10.0])  # so the limit is 2 / 10


def descend(alpha, start=(-4.0, 1.0), steps=30):
    path = [np.array(start)]
    for _ in range(steps):
        path.append(path[-1] - alpha * curvature * path[-1])
    return np.array(path)


def bowl(w):
    return 0.5 * (curvature * w**2).sum(axis=-1)


for alpha in (0.02, 0.18, 0.198, 0.202, 0.21):
    path = descend(alpha)
    # the formula above
    assert np.allclose(path[-1], (1 - alpha * curvature) ** 30 * path[0])
    print(
        f"α {alpha:<6} α λ_max {alpha * 10:<5.2f} loss {bowl(path[0]):.1f} -> "
        f"{bowl(path[-1]):9.3f}"
    )
    assert (abs(path[-1, 1]) > abs(path[0, 1])) == (alpha > 2 / curvature.max())

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(1.3, 1))
a, b = np.meshgrid(np.linspace(-5, 4, 80), np.linspace(-5, 5, 80))
left.contour(
    a, b, bowl(np.stack([a, b], axis=-1)), levels=12, colors="#BBBBBB", linewidths=0.8
)
right.set(yscale="log", xlim=(0, 30))
tries = {"too small": 0.02, "right": 0.18, "too large": 0.21}
for (name, alpha), colour, marker in zip(
    tries.items(), ("blue", "vermillion", "green"), MARKERS, strict=False
):
    path = descend(alpha)
    left.plot(
        *path[:26].T,
        color=COLOURS[colour],
        marker=marker,
        markersize=4,
        linewidth=1,
        label=f"{name}, {alpha}",
    )
left.set(
    xlabel="flat direction, λ = 1",
    ylabel="steep direction, λ = 10",
    xlim=(-5, 4),
    ylim=(-5, 5),
)
left.legend(title="α", loc="center right", fontsize=9, frameon=True)
curves(
    right,
    {n: (np.arange(31), bowl(descend(a))) for n, a in tries.items()},
    xlabel="step",
    ylabel="loss",
)
plt.show()

# %% [markdown]
# At 0.21, just above the limit of 0.2, the steep coordinate jumps across the valley and lands a little higher each
# time, while the flat one still gets better: the loss first falls, then explodes. A curve that falls and then
# explodes is the mark of an α just above the limit. Momentum (a velocity *v* ← μ *v* + ∇L, as above) moves the limit
# out to $2(1 + \mu)/\lambda_{\max}$:


# %%
def grows(alpha, momentum, curvature=10.0, steps=3000):
    """Does gradient descent with momentum get farther from the minimum of a bowl
    with one direction?
    """
    w, v = 1.0, 0.0
    for _ in range(steps):
        v = momentum * v + curvature * w
        w = w - alpha * v
    return abs(w) > 1


for momentum in (0.0, 0.5, 0.9):
    limit = 2 * (1 + momentum) / 10
    assert grows(1.01 * limit, momentum) and not grows(0.99 * limit, momentum)
    print(
        f"μ = {momentum}: 1 % below α = {limit:.2f} it comes to rest, 1 % above it "
        "diverges"
    )

# %% [markdown]
# ## Then a real network
#
# Is any of this true of a network with 387,202 numbers and no bowl in sight? First, tune it.

# %% tags=["varies"]
tuned = copy.deepcopy(untouched)
optimizer = torch.optim.SGD(tuned.parameters(), lr=0.003, momentum=0.9)
order, history = torch.Generator().manual_seed(SEED), []
for _ in range(EPOCHS):
    for rows in torch.randperm(len(labels), generator=order).split(50):
        history.append(
            training.train_step(
                tuned, h[rows], labels[rows], optimizer, task_loss=F.cross_entropy
            ).loss.item()
        )
per_epoch = np.array(history).reshape(EPOCHS, -1).mean(axis=1)
print("mean training loss of each epoch:", *(f"{loss:.3f}" for loss in per_epoch))
assert per_epoch[-1] < per_epoch[0]

# %% [markdown]
# A loss of 387,202 numbers cannot be drawn, a **slice** of it can: choose two directions *u* and *v* of length 1, at
# a right angle, and look at $L(\theta + a\,u + b\,v)$, where θ holds all the weights of the tuned network. *a* and
# *b* are then distances in weight space, and gradient descent within the slice is gradient descent with the same α.
# The loss is that of a fixed set of training pictures. Which directions? Three candidates:
#
# - **start → tuned**, the way training went;
# - **random**, *filter-normalised*: noise in which each filter has the length it has in θ (Li et al. 2018, arXiv
#   1712.09913);
# - **sharpest**, the direction of largest curvature, $\lambda_{\max}$, found by multiplying a vector by the matrix of
#   second derivatives again and again (*power iteration*: what is longest in that direction wins).

# %%
rows = torch.arange(0, len(labels), len(labels) // SUBSET)[:SUBSET]
h_map, y_map = h[rows], labels[rows]


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


theta = flat(tuned.parameters())
names = [name for name, _ in tuned.named_parameters()]
shapes = [p.shape for p in tuned.parameters()]


def loss_at(weights):
    """weights (n,) -> the loss of the network with these weights on the fixed
    pictures
    """
    parts = weights.split([s.numel() for s in shapes])
    state = {
        name: part.view(shape)
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }
    return F.cross_entropy(torch.func.functional_call(tuned, state, (h_map,)), y_map)


# %%
def sharpest(model, steps=10):
    """-> direction (n,) of largest curvature, and that curvature, by power
    iteration on the second derivatives
    """
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(h_map), y_map)
    slope = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)]
    )
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(SEED))
    for _ in range(steps):
        v = v / v.norm()
        v = flat(torch.autograd.grad(slope @ v, parameters, retain_graph=True))
    return v / v.norm(), v.norm().item()


def filter_normalised(generator):
    """-> direction (n,) of length 1: noise with the length of each filter; biases
    stay
    """
    noise = []
    for p in tuned.parameters():
        r = (
            torch.randn(p.shape, generator=generator).flatten(1)
            if p.ndim > 1
            else torch.zeros(len(p), 1)
        )
        noise.append(
            F.normalize(r) * p.detach().flatten(1).norm(dim=1, keepdim=True)
            if p.ndim > 1
            else r
        )
    return F.normalize(flat(noise), dim=0)


# %%
way = theta - flat(untouched.parameters())
u = way / way.norm()
v, curvature_max = sharpest(tuned)
v = F.normalize(v - (v @ u) * u, dim=0)  # at a right angle to u
directions = {
    "sharpest": v,
    "start → tuned": u,
    "random": filter_normalised(torch.Generator().manual_seed(SEED)),
}

distance = torch.linspace(-0.24, 0.24, 13)
with torch.inference_mode():
    profiles = {
        n: (distance, [loss_at(theta + t * d).item() for t in distance])
        for n, d in directions.items()
    }
fig, ax = plt.subplots(figsize=(6.5, 3.2))
ax.set_ylim(0, 5)
curves(
    ax,
    profiles,
    xlabel="distance from the tuned weights",
    ylabel="loss (nats per picture)",
)
plt.show()
rise = {name: max(losses) - min(losses) for name, (_, losses) in profiles.items()}
assert rise["sharpest"] > 5 * max(rise["start → tuned"], rise["random"])

# %% [markdown]
# Most of the 387,202 directions are like the random one: nothing happens. A few are steep walls, and *they* limit α.
# A slice through random directions would look like a plain with every α harmless, so the map is drawn through the way
# of training and the sharpest direction.

# %% tags=["varies"]
a_axis, b_axis = (
    np.linspace(-1.25, 0.9, GRID) * way.norm().item(),
    np.linspace(-0.45, 0.45, GRID),
)
with torch.inference_mode():
    grid = np.array(
        [
            [loss_at(theta + float(a) * u + float(b) * v).item() for a in a_axis]
            for b in b_axis
        ]
    )
limit = 2 / curvature_max
print(
    f"way from the start to the tuned weights: {way.norm():.2f}   largest curvature "
    f"{curvature_max:.0f}"
)
print(f"so near the tuned weights the limit should be α = 2/λ_max = {limit:.4f}")
assert grid.min() < loss_at(theta).item() + 1e-6 < grid.max()

# %% [markdown]
# Between the points of the grid, the loss is *interpolated* (cubic splines through its logarithm): that makes a step
# on the map a matter of microseconds. Whether the map can be trusted is checked by walking beside it with the network
# itself.

# %%
from scipy.interpolate import RectBivariateSpline

surface = RectBivariateSpline(b_axis, a_axis, np.log(grid))


def slope_on_map(w):
    """w = (a, b) -> loss, gradient (2,), from the interpolated map"""
    loss = np.exp(surface(w[1], w[0])[0, 0])
    return loss, loss * np.array(
        [surface(w[1], w[0], dy=1)[0, 0], surface(w[1], w[0], dx=1)[0, 0]]
    )


def slope_of_network(w):
    """the same from the network itself"""
    w = torch.tensor(w, dtype=torch.float32, requires_grad=True)
    loss = loss_at(theta + w[0] * u + w[1] * v)
    return loss.item(), torch.autograd.grad(loss, w)[0].double().numpy()


def walk(slope, start, alpha, momentum=0.0, steps=40):
    """-> points (T, 2), losses (T,) of gradient descent; it ends where it leaves
    the map
    """
    w, velocity, points, losses = np.array(start), np.zeros(2), [], []
    for _ in range(steps + 1):
        points.append(w)
        if not (a_axis[0] <= w[0] <= a_axis[-1] and b_axis[0] <= w[1] <= b_axis[-1]):
            break
        loss, gradient = slope(w)
        losses.append(loss)
        velocity = momentum * velocity + gradient
        w = w - alpha * velocity
    return np.array(points), np.array(losses)


# %% [markdown]
# **Predict.** We start on the wall of the valley, with α at 2 %, 50 % and 250 % of the limit $2/\lambda_{\max}$.
# Which of the three ends lowest after 40 steps?
#
# (a) 50 %. (b) 250 %: a real loss is no bowl. (c) 2 %: small steps are careful.

# %% tags=["varies"]
wall = (-0.4 * way.norm().item(), 0.15)
shares = {"too small": 0.02, "right": 0.5, "too large": 2.5}
walks = {
    name: walk(slope_on_map, wall, share * limit) for name, share in shares.items()
}
for name, (points, losses) in walks.items():
    beside, _ = walk(slope_of_network, wall, shares[name] * limit, steps=8)
    off = np.abs(beside - points[: len(beside)]).max()
    end = (
        "leaves the map"
        if len(losses) < len(points)
        else f"loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    )
    print(
        f"{name:<10} α {shares[name] * limit:.4f}: {end}; the network beside it is at "
        f"most {off:.3f} off"
    )
    assert name == "too large" or off < 0.02
assert walks["right"][1][-1] < walks["too small"][1][-1]


# %% tags=["hide-input"]
def draw_map(ax, points):
    """points (T, 2) of a walk -> ax with the map of the loss and the walk on it"""
    levels = np.geomspace(grid.min() * 0.999, grid.max() * 1.001, 16)
    ax.contourf(a_axis, b_axis, grid, levels=levels, cmap="Blues_r", norm="log")
    look = {
        "marker": "o",
        "markersize": 4,
        "markeredgecolor": "black",
        "markeredgewidth": 0.5,
        "linewidth": 1.3,
    }
    ax.plot(*points.T, color=COLOURS["orange"], linestyle="-", label="walk", **look)
    ax.plot(
        *points[0],
        "s",
        color=COLOURS["yellow"],
        markeredgecolor="black",
        markersize=8,
        label="its first point",
    )
    ax.plot(
        0, 0, "*", color="white", markeredgecolor="black", markersize=13, label="tuned"
    )
    ax.plot(
        -way.norm(),
        0,
        "X",
        color="white",
        markeredgecolor="black",
        markersize=9,
        label="untuned",
    )
    ax.set(xlim=a_axis[[0, -1]], ylim=b_axis[[0, -1]])
    ax.set(xlabel="a: start → tuned", ylabel="b: sharpest direction")
    ax.grid(False)
    return ax


# %% tags=["varies"]
fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True)
for ax, (name, (points, _)) in zip(axes, walks.items(), strict=True):
    draw_map(ax, points)
    ax.set(
        title=f"{name}: {shares[name]:.0%} of the limit",
        xlim=(-1.1, 0.15),
        ylim=(-0.3, 0.4),
    )
    ax.label_outer()
handles, texts = axes[0].get_legend_handles_labels()
fig.legend(handles[:3], texts[:3], loc="outside lower center", ncols=3, fontsize=9)
plt.show()

# %% tags=["varies"]
fig, ax = plt.subplots(figsize=(6.5, 2.8))
ax.set_yscale("log")
ax.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
ax.minorticks_off()
curves(
    ax,
    {n: (np.arange(len(loss)), loss) for n, (_, loss) in walks.items()},
    xlabel="step",
    ylabel="loss on the map",
)
plt.show()

# %% [markdown]
# **Read.** (a), as the bowl said: the small α slides down the wall and has no time to go along the valley, 50 % of
# the limit is down at once, 250 % jumps from wall to wall. (The two axes have the same unit but are not drawn to the
# same scale: the valley is even narrower than it looks.) Had the walk at 250 % come down, the second derivative at
# one point would say nothing about the walk.
#
# The slice forbids the walk to leave its plane. Does the limit hold for **all** 387,202 weights? The same α, plain
# gradient descent on the whole network, from a point just beside the tuned weights:


# %% tags=["varies"]
def descend_all(alpha, steps=20):
    """-> losses (steps,) of the whole network from just beside the tuned weights,
    and the network at the end
    """
    model = copy.deepcopy(tuned)
    torch.nn.utils.vector_to_parameters(theta + 0.02 * v, model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=alpha)
    losses = [
        training.train_step(
            model, h_map, y_map, optimizer, task_loss=F.cross_entropy
        ).loss.item()
        for _ in range(steps)
    ]
    return np.array(losses), model


whole = {
    f"{share:.0%} of the limit": descend_all(share * limit) for share in (0.5, 2.0, 3.0)
}
fig, ax = plt.subplots(figsize=(6.5, 3.0))
ax.set(yscale="log", ylim=(0.1, 100))
shown = {
    name: (range(1, 21), np.where(losses < 100, losses, np.nan))
    for name, (losses, _) in whole.items()
}
curves(ax, shown, xlabel="step", ylabel="loss of the whole network")
plt.show()
(below, settled), (above, thrown), (beyond, _) = whole.values()
print(f"curvature at the tuned weights: {curvature_max:.0f}")
for name, model, share in (("50 %", settled, 0.5), ("200 %", thrown, 2.0)):
    print(
        f"{name}: {sharpest(model)[1]:.0f} after 20 steps; this α allows up to 2/α = "
        f"{2 / (share * limit):.0f}"
    )
print(f"300 %: the last loss is {beyond[-1]:.3g}")
assert below.argmax() == 0 and np.nanmax(above[1:]) > above[0]

# %% [markdown]
# At half the limit the loss falls at every step, at twice the limit it climbs first, as the bowl says. Then something
# happens that no bowl can do: it comes down again. The printed curvature says why: the network was thrown to a place
# so much flatter that this α is allowed there (Lewkowycz et al. 2020, arXiv 2003.02218, call it the *catapult*). At
# three times the limit there is no such rescue.
#
# And the other way round: on the calm way down at 50 %, the curvature *grew*, past what this α allows. Go on, and a
# bump will come (exercise 8). So the limit says when a step is too long *here*, and "here" moves.
#
# ## Ten times the loss, or ten times α?
#
# Some sum the loss over a batch, others average; a combined loss has a λ. All of that multiplies the gradient.
# **Predict**: *L* becomes 8 *L*. For which optimizer is that the same as 8 α?
#
# (a) For SGD and Adam. (b) For SGD only. (c) For neither.


# %% tags=["varies"]
def sgd(alpha):
    return lambda model: torch.optim.SGD(model.parameters(), lr=alpha).step


def adam(alpha):
    return lambda model: torch.optim.Adam(model.parameters(), lr=alpha).step


origin = flat(untouched.parameters())
far = {}
for name, make, alpha in (("SGD", sgd, 1e-3), ("Adam", adam, 1e-4)):
    paths = {
        "L, α": ten_steps(make(alpha)),
        "8 L, α": ten_steps(make(alpha), 8.0),
        "L, 8 α": ten_steps(make(8 * alpha)),
    }
    far[name] = {label: (path - origin).norm(dim=1) for label, path in paths.items()}
    if name == "SGD":
        # to the bit: 8 is a power of two
        assert torch.equal(paths["8 L, α"], paths["L, 8 α"])
    else:
        assert (paths["8 L, α"] - paths["L, α"]).norm() < 0.1 * (
            paths["L, 8 α"] - paths["L, α"]
        ).norm()
    print(
        f"{name:<5}",
        "   ".join(
            f"{label}: {path[-1]:.4f} from the start"
            for label, path in far[name].items()
        ),
    )

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.2))
for ax, (name, distances) in zip(axes, far.items(), strict=True):
    ax.set_title(name)
    curves(
        ax,
        {label: (range(1, 11), d) for label, d in distances.items()},
        xlabel="step",
        ylabel="distance from start",
    )
plt.show()

# %% [markdown]
# **Read.** (b). For SGD "8 L, α" and "L, 8 α" are one path, bit for bit. Adam divides the gradient by its own size,
# so the factor cancels (all but the tiny ε), and "8 L, α" lies on "L, α". Therefore: change a sum into a mean, or λ,
# and α has to change under SGD and not under Adam; and under Adam, λ changes the *mixture* of two losses but not the
# length of the step. Had the two Adam curves "L" and "8 L" come apart, ε would not be small against the gradients.
#
# ## A batch in pieces
#
# A batch that does not fit into memory is cut into *micro-batches*: `backward` on each, gradients add up, then one
# step (*accumulation*). Since *L* is a mean over N pictures, each piece counts with its share: $L = \sum_k
# \frac{n_k}{N} L_k$.
#
# **Predict**: 20 pictures as one batch, and in pieces of 8, 7 and 5. The gradients are equal up to rounding
#
# (a) for every network; (b) for every network in `eval` mode only; (c) for networks without BatchNorm, in any mode,
# and for others in `eval` mode.


# %%
def gradient_of(model, x, y, pieces, weights):
    """Gradient (n,) of sum_k weight_k · mean loss of piece k, added up piece by
    piece.
    """
    model.zero_grad()
    for x_k, y_k, weight in zip(x.split(pieces), y.split(pieces), weights, strict=True):
        (weight * F.cross_entropy(model(x_k), y_k)).backward()
    return torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    )


def difference(name, *, train, weights=(8 / 20, 7 / 20, 5 / 20)):
    """Relative difference between the gradient of 20 pictures at once and in
    pieces of 8, 7 and 5.
    """
    runtime.seed_everything(SEED)
    f = backbones.load_backbone(name, size=64)
    model = Model(f, LinearHead(f.feature_dim, 2)).train(train)
    x, y = f.preprocess(cells.train.pictures[:20]), cells.train.labels[:20]
    whole = gradient_of(model, x, y, 20, [1.0])
    return (
        (gradient_of(model, x, y, [8, 7, 5], weights) - whole).norm() / whole.norm()
    ).item()


# %% tags=["varies"]
cases = {
    "SqueezeNet, no BatchNorm, train": difference("squeezenet1_1", train=True),
    "… each piece weighted 1/3": difference(
        "squeezenet1_1", train=True, weights=(1 / 3, 1 / 3, 1 / 3)
    ),
    "EfficientNet-Lite0, BatchNorm in eval": difference(
        "efficientnet_lite0", train=False
    ),
    "EfficientNet-Lite0, BatchNorm in train": difference(
        "efficientnet_lite0", train=True
    ),
}
fig, ax = plt.subplots(figsize=(8, 2.6))
bars = ax.barh(
    list(cases),
    cases.values(),
    color=[COLOURS["blue"], COLOURS["orange"]] * 2,
    height=0.6,
)
ax.bar_label(bars, [f" {d:.0e}" if d < 0.01 else f" {d:.0%}" for d in cases.values()])
ax.set(
    xscale="log",
    xlim=(1e-8, 50),
    xlabel="difference relative to the gradient of the whole batch",
)
ax.invert_yaxis()
plt.show()
same, thirds, in_eval, in_train = cases.values()
assert max(same, in_eval) < 1e-3 < 1e-2 < min(thirds, in_train)

# %% [markdown]
# **Read.** (c). In `train` mode BatchNorm centres and scales each picture by the mean and deviation of *its
# micro-batch*: the loss of a picture then depends on its neighbours, *L* is no mean over pictures any more, and no
# weights can repair that. The other orange bar is a mistake without BatchNorm: pieces of different size averaged as
# if they were equal. Were the sum rule wrong, the first and the third bar would be long as well.
#
# ## One gradient a picture
#
# The batch gradient is a mean of N gradients, one a picture. `torch.func` computes them all: `grad` turns a loss into
# the function that returns its gradient, `vmap` runs that over the N rows at once. For a linear *g* there is a closed
# form, the sum $E^\top z$ of above, taken apart: $\partial L_i/\partial W = (p_i - Y_i) \otimes z_i$ (⊗: every entry
# of the one times every entry of the other).


# %%
def loss_of_one(weight, bias, z, y):
    """weight (K, D), bias (K,), z (D,), y () -> the loss of one picture"""
    return F.cross_entropy((weight @ z + bias)[None], y[None])


with torch.no_grad():
    z_all = tuned.backbone(h[:200])  # (N, D)
    p_all = tuned.head(z_all).softmax(dim=1)  # (N, K)
y_all, W, bias = labels[:200], tuned.head.weight.detach(), tuned.head.bias.detach()

# (N, K, D)
each = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, None, 0, 0))(
    W, bias, z_all, y_all
)
closed = (p_all - F.one_hot(y_all, 2))[:, :, None] * z_all[:, None, :]
print("one gradient for W a picture:", tuple(each.shape))
agree("torch.func, closed form", each, closed, 1e-4)
batch = torch.autograd.grad(
    F.cross_entropy(tuned.head(z_all), y_all), tuned.head.weight
)[0]
agree("their mean, the batch gradient", each.mean(dim=0), batch, 1e-4)

# %% tags=["varies"]
length, right_p = each.flatten(1).norm(dim=1), p_all[torch.arange(200), y_all]
fig, ax = plt.subplots(figsize=(6.5, 3.2))
for k, name in enumerate(cells.classes):
    here = y_all == k
    ax.scatter(
        right_p[here], length[here], marker=MARKERS[k], s=24, alpha=0.7, label=name
    )
ax.set(xlabel="probability given to the true class", ylabel="length of its gradient")
ax.legend(title="true class")
plt.show()
quarter = length.sort(descending=True).values[:50].sum() / length.sum()
print(
    f"the quarter of the pictures with the longest gradients holds {quarter:.0%} of "
    "all length"
)
assert length[right_p < 0.5].mean() > 2 * length[right_p > 0.9].mean()

# %% [markdown]
# What the network is sure of and right about hardly pulls; what it gets wrong pulls most. That is $p - Y$ at work:
# the error is the strength, $\|z\|$ the lever. A batch of easy pictures makes a short step; a wrong label, which a
# good network contradicts, pulls as hard as can be.
#
# ## Where it breaks
#
# The formula *A* ← *A* − α ∂*L*/∂*A*, typed as it stands:

# %% tags=["raises-exception"]
weight = torch.ones(3, requires_grad=True)
weight.square().sum().backward()
weight -= 0.1 * weight.grad

# %% [markdown]
# A *leaf* is a tensor that was made, not computed, and autograd watches what is done to it. An update is no part of
# the model, so it belongs under `torch.no_grad()`, as in `ten_steps`. The obvious way out, `weight = weight - 0.1 *
# weight.grad`, raises nothing and is worse: it makes a *new* tensor, which the model does not know of. The old one
# stays as it was, and nothing learns.
#
# ## Play
#
# The map of the tuned network under your hands. The path is computed on the **interpolated** map (checked above
# against the network), so that it follows the slider at once; α is given as a share of the limit $2/\lambda_{\max}$.
# Darker is lower; the square is the first point, the star the tuned network, the cross the untuned one.

# %% tags=["varies"]
starts = {
    "on the wall": wall,
    "the untuned network": (-way.norm().item(), 0.0),
    "across the valley": (0.3, -0.2),
}


def explore(settings):
    points, losses = walk(
        slope_on_map,
        starts[settings["start"]],
        settings["share"] * limit,
        settings["momentum"],
        80,
    )
    return {"points": points, "losses": losses, "alpha": settings["share"] * limit}


def draw_walk(ax, arrays):
    draw_map(ax, arrays["points"])
    losses, points = arrays["losses"], arrays["points"]
    end = (
        "80 steps"
        if len(losses) == len(points)
        else f"{len(losses)} steps, then off the map"
    )
    ax.set_title(
        f"α = {arrays['alpha']:.4f}, {end}: loss {losses[0]:.2f} → {losses[-1]:.3f}"
    )


controls = {
    "share": w.FloatLogSlider(
        value=0.5, base=10, min=-2, max=1, step=0.02, description="α / (2/λ_max)"
    ),
    "momentum": w.FloatSlider(
        value=0.0, min=0.0, max=0.98, step=0.02, description="momentum μ"
    ),
    "start": w.Dropdown(options=list(starts), description="start"),
}
explorer = widgets.Explorer(controls, explore, draw_walk, figsize=(7.5, 3.8))
explorer

# %% tags=["varies"]
controls["share"].value, controls["momentum"].value, controls["start"].value = (
    0.5,
    0.9,
    "the untuned network",
)
assert explorer.error is None and len(explore(explorer.settings)["losses"]) > 1
explorer.still()

# %% [markdown]
# (The still picture: from the untuned network, momentum 0.9, half the limit.) Try, with momentum 0: raise α until the
# walk leaves the map. Is it at 1? Then bring momentum to 0.9 and look for the α that gets lowest in 80 steps, from
# each of the three starts. Is it the same one? What does the walk from the untuned network do at the bend of the
# valley?
#
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: one step by hand
#
# Complete `one_step`: *p* ← *p* − α ∂L/∂*p* for every parameter in the list, in place, as `torch.optim.SGD` would. It
# is called again and again with a fresh loss, and must work each time.


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
# <details><summary>Hint 1</summary>
#
# Two ways to the gradients: `loss.backward()`, which *adds* to each `p.grad`, or `torch.autograd.grad(loss,
# parameters)`, which returns them.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The update must not be watched: `with torch.no_grad():`. And it must change the tensor itself: `add_`, `sub_`, `-=`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# With `backward`, set `p.grad = None` for every parameter before it. Otherwise the second call uses both gradients.
#
# </details>

# %% [markdown]
# ### ★ Exercise 2: complete the ledger
#
# For each situation and part: which losses move it by their gradient? Write `"none"`, `"L_f"`, `"L_g"` or `"both"`.
# In the last line the directions μ are themselves learned.

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
# <details><summary>Hint 1</summary>
#
# A loss moves a part if there is a way along the forward arrows from the part to the loss.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `detach` removes the arrow from *z* to *g*. The arrow from *z* to *L_f* stays.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A frozen part asks for no gradient at all. The prototypes stand beside *z* in the cosine, and nowhere else.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: the learning rate at which a bowl diverges
#
# A bowl in any position is $L(w) = \tfrac12 w^\top H w$, with a symmetric matrix *H* of second derivatives. Complete
# `largest_rate`: the α above which gradient descent diverges.


# %% tags=["exercise"]
def largest_rate(H):
    """H (D, D), symmetric with positive eigenvalues -> the α at the limit, a number"""
    # BEGIN SOLUTION
    # STUB: ...
    return 2 / torch.linalg.eigvalsh(H).max()
    # END SOLUTION


check("04.largest_rate", largest_rate)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Along an eigenvector of *H* a step is a multiplication, as in the section on the bowl. By what?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $|1 - \alpha\lambda| = 1$ has one positive solution for each eigenvalue λ. Which eigenvalue reaches it first?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `torch.linalg.eigvalsh(H)` gives the eigenvalues of a symmetric matrix, the smallest first.
#
# </details>

# %% [markdown]
# ### ★ Exercise 4: momentum by hand
#
# Complete `momentum_step` as torch does it: the new *v* is μ *v* + gradient, then *w* moves by −α times the **new**
# *v*. Return both.


# %% tags=["exercise"]
def momentum_step(w, v, gradient, lr, momentum):
    """w, v, gradient (D,), lr = α, momentum = μ -> (new w, new v)"""
    # BEGIN SOLUTION
    # STUB: ...
    v = momentum * v + gradient
    return w - lr * v, v
    # END SOLUTION


check("04.momentum", momentum_step)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Two lines: one for *v*, one for *w*. The order matters.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The gradient joins *v* with weight 1, not 1 − μ: torch adds up, it does not average.
#
# </details>
# <details><summary>Hint 3</summary>
#
# α does not enter *v*. Older texts write v ← μ v − α g; that is the same path until α changes.
#
# </details>

# %% [markdown]
# ### ★ Exercise 5: one gradient a picture
#
# Complete `per_sample`: for each row, the gradient of **its own** cross-entropy by the weight *W* (K, D) of a linear
# *g*, from the logits. No autograd needed.


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

# %% [markdown]
# ### ★★ Exercise 6: another first layer
#
# In the derivation, replace tanh by ReLU, max(0, ·). **Predict** which single factor changes, and what it is. Change
# the code of the forward pass and of `delta`; the three ways must agree again. When could finite differences disagree
# with both others now?
#
# ### ★★ Exercise 7: a forgotten `zero_grad`
#
# In `ten_steps`, delete `model.zero_grad()`. **Predict**: is the tenth step about as long, ten times as long, or
# something else? Print `(path[1:] - path[:-1]).norm(dim=1)` with and without. Which optimizer of this notebook does
# the mistake imitate?

# %% [markdown] tags=["solution"]
# **Exercise 6.** Only $1 - z^2$ changes, into 1 where $z > 0$ and 0 elsewhere: `delta = (…) * (z > 0)`. (A row whose
# five features are all zero has no direction; then `length` must be kept away from 0, as `F.normalize` does.) At the
# kink finite differences average the two slopes when $Ax$ lies within ε of zero; autograd takes one of them.
#
# **Exercise 7.** The gradients add up, so the tenth step is made of ten gradients and is up to ten times as long. It
# is SGD with momentum μ = 1: a velocity that never forgets. With momentum 0.9 instead, what is older fades away.

# %% [markdown]
# ### ★★★ Exercise 8: the edge of stability
#
# `descend_all(0.5 * limit, steps)` with 10, 20, … 60 steps: plot the loss, and beside it the curvature by `sharpest`
# and the line 2/α. Cohen et al. 2021 (arXiv 2103.00065) found that the curvature climbs to this line and then stays
# near it, while the loss falls in bumps. Is that what you see? What would you need to call it a finding?
#
# ## Remember
#
# - *f* hears both losses, added up at *z*: ∂L/∂f = λ ∂L_f/∂f + (∂g/∂f)ᵀ ∂L_g/∂g. *g* hears only *L_g*. A `detach`
#   between them changes what is learned and not what is printed.
# - A gradient is checked by hand, autograd and finite differences together, in float64.
# - α works up to 2/λ_max of the steepest direction, and the flattest one then takes its time; momentum helps along
#   it.
# - Scaling *L* is scaling α for SGD and not for Adam. Micro-batches weighted by their size give the gradient of the
#   whole batch, unless BatchNorm is in `train` mode.
# - **Limits**: one network, of which the top was tuned on 600 small pictures; one seed; a slice of two directions and
#   a loss on 48 pictures. The equalities are exact and hold anywhere; the shape of the map is this network's.
#
# **References.** Barz & Denzler 2020, arXiv 1901.09054 (*L_f*). Li et al. 2018, arXiv 1712.09913 (slices,
# filter normalisation). Loshchilov & Hutter 2019, arXiv 1711.05101 (decoupled decay). Lewkowycz et al. 2020, arXiv
# 2003.02218 (catapult). Cohen et al. 2021, arXiv 2103.00065 (edge of stability). Deitsch et al. 2019, arXiv
# 1807.02894 (solar cells). Next: **05 Freeze or fine-tune?**
