# %% [markdown]
# # NN TITLE: TODO one question?
#
# TODO: what is done here, in two sentences, for somebody who has read the notebooks before this one.
#
# Afterwards you can
#
# - TODO: three things that the learner can do;
# - each begins with a verb;
# - and the exercises below need them.
#
# **TODO minutes** to read and try, 1 minute to run. TODO: which notebooks come before this one.

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract, linear_probe
from sftlib.metrics import paired_interval
from sftlib.plotting import curves, idea, use_style
from sftlib.runtime import profile, seed_everything
from sftlib.widgets import Explorer

use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("g",))
plt.show()

# %% [markdown]
# ## Settings

# %% tags=["setup"]
size = profile()
SEED = 0
SIDE = size.pick(quick=64, full=224)  # pixels
SEEDS = range(5)
FEW, MANY = 30, 300  # labels
L2 = 10.0  # weight decay of the probes, not tuned

# %% [markdown]
# ## Look at the data
#
# TODO: counts, pictures, one batch with its shapes, and what the trivial answer gets.

# %%
seed_everything(SEED)
cells = solar_cells.load(size=SIDE, seed=SEED)
f = load_backbone("squeezenet1_1", size=SIDE)
z, y = extract(f, loader(cells.train, f.preprocess, batch_size=100))
z_test, y_test = extract(f, loader(cells.test, f.preprocess, batch_size=100))
trivial = (y_test == y.bincount().argmax()).double().mean().item()
print(f"z {tuple(z.shape)}, y {tuple(y.shape)}, {len(y_test)} test pictures")
print(f"always '{cells.classes[y.bincount().argmax()]}' is right for {trivial:.1%}")

# %% [markdown]
# ## By hand
#
# TODO: two to four sentences, then the formula, then its letters. As an example, the cross-entropy:
#
# $$L_g = -\frac1N\sum_{i=1}^{N}\log p_{i,y_i}$$
#
# | symbol | in code | what it is |
# |---|---|---|
# | $N$ | `len(y)` | examples |
# | $p$ | `p` | (N, K), probabilities |
# | $y$ | `y` | (N,), the true classes |

# %%
head = linear_probe(z[:MANY], y[:MANY], num_classes=2, l2=L2)
p = head(z).softmax(1)  # (N, K)
by_hand = -p[torch.arange(len(y)), y].log().mean()
print(f"by hand {by_hand.item():.4f} nats")

# %% [markdown]
# ## The same from `sftlib`, or from PyTorch

# %%
official = F.cross_entropy(head(z), y)
print(f"PyTorch {official.item():.4f} nats")
assert torch.allclose(by_hand, official, atol=1e-5)

# %% [markdown]
# ## The experiment
#
# **Predict.** TODO: a question whose right answer is among the choices, and was not printed before. (a) … (b) … (c) …


# %% tags=["varies"]
def accuracy(n, seed):
    """A probe on n labels drawn with a seed -> its test accuracy, in [0, 1]"""
    mine = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:n]
    g = linear_probe(z[mine], y[mine], num_classes=2, l2=L2)
    return (g(z_test).argmax(1) == y_test).double().mean().item()


found = {n: [accuracy(n, seed) for seed in SEEDS] for n in (FEW, MANY)}
gain = paired_interval(found[MANY], found[FEW])
print(f"{MANY} labels minus {FEW}: {gain}")
fig, ax = plt.subplots(figsize=(6, 3))
curves(
    ax,
    {f"{n} labels": (SEEDS, values) for n, values in found.items()},
    xlabel="seed",
    ylabel="test accuracy",
)
plt.show()
assert gain.mean > 0

# %% [markdown]
# **Read.** TODO: three sentences: what was found, compared with what, and what would have refuted it.
#
# ## Where it breaks
#
# TODO: one failure on purpose, and why it fails. Here a label is missing:

# %% tags=["raises-exception"]
linear_probe(z[:5], y[:4], num_classes=2)

# %% [markdown]
# ## Play
#
# TODO: what to try with the widget. (The picture after it is for readers without a running kernel.)


# %% tags=["varies"]
def update(settings):
    return [accuracy(settings["labels"], seed) for seed in SEEDS]


def plot(ax, values):
    curves(ax, {"probe": (SEEDS, values)}, xlabel="seed", ylabel="test accuracy")


labels = w.IntSlider(100, 20, 400, 20, description="labels", continuous_update=False)
explorer = Explorer({"labels": labels}, update, plot)
display(explorer)
assert explorer.error is None

# %%
explorer.still()

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: the mean over examples
#
# TODO: your own. This one: batches of `counts` examples have the mean losses `means`. Complete `mean_loss`: the mean
# over all examples.


# %% tags=["exercise"]
def mean_loss(means, counts):
    """means (B,) of B batches, counts (B,) of examples -> the mean over examples"""
    # BEGIN SOLUTION
    # STUB: ...
    return (means * counts).sum() / counts.sum()
    # END SOLUTION


check("NN.mean_loss", mean_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The last batch is often smaller than the others: should it count as much?
#
# </details>
# <details><summary>Hint 2</summary>
#
# A mean times its count is a sum.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Sums are added, counts are added, and there is one division, at the end.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 2: change and predict
#
# TODO: what to change, and what to predict before running it.

# %% [markdown] tags=["solution"]
# **Exercise 2.** TODO: what comes out, and why.

# %% [markdown]
# ### ★★★ Exercise 3: your own question
#
# TODO: an open question.
#
# ## Remember
#
# - TODO: at most five points.
#
# **Limits.** TODO: which data, how many pictures, how many seeds; what was tuned, on what.
#
# **References.** TODO: authors, year, title, arXiv number, equation.
