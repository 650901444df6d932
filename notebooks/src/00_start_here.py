# %% [markdown]
# # 00 Start here: can a network that knows cats and cars learn solar cells in a minute?
#
# A network that was trained on a million everyday photographs is cut in two, given a new last layer, and trained on
# some 1,700 pictures of solar cells, a kind of picture that it has never seen. You watch it learn.
#
# Afterwards you can
#
# - say what *fine-tuning* is, in one sentence and in ten lines of code;
# - start, stop and read a training run;
# - work through an exercise that checks itself.
#
# **55 minutes** to read and try, 1 minute to run. You should have trained a network in PyTorch before, or be ready to
# look a few things up. Nothing is downloaded: weights and pictures came with the installation.

# %% tags=["setup"]
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

from sftlib import adaptation, environment, metrics, runtime, training, widgets
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import augment, loader, solar_cells
from sftlib.model import LinearHead, Model
from sftlib.plotting import curves, idea, pictures, use_style

use_style()

# %% [markdown]
# ## The idea of the whole course
#
# Any classifier can be cut into two functions. The **feature extractor** *f* turns a picture *x* into a list of
# numbers *z*; the **classifier** *g* turns *z* into one score for each class (*logits*). A loss *L* says how wrong the
# scores are for the true label *y*, and its gradient says how to change *g*, and *f*, to be less wrong; the **learning
# rate** α says how far to go at each step.
#
# $$z = f(x) \qquad \text{logits} = g(z) \qquad f \leftarrow f - \alpha\,\frac{\partial L}{\partial f} \qquad
# g \leftarrow g - \alpha\,\frac{\partial L}{\partial g}$$
#
# **Supervised fine-tuning** takes *f* from a network trained on another task, puts a new *g* behind it, and goes on
# training, with labels, on yours. Here both are coloured, because both learn.

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("f", "g"))
plt.show()

# %% [markdown]
# (Other names that you will meet: *f* is also called backbone, body, trunk or encoder; *g* is also called head; *z* is
# also called features, embedding or representation. In the picture, N counts pictures, C × H × W are the channels and
# pixels of one, D counts features, K classes. The lower path, a second loss $L_f$, waits for notebook 03: here *L* is
# $L_g$ alone.)
#
# ## Is everything there?
#
# Each line should say `[OK]`. A line that says `[FAIL]` tells you what to do.

# %% tags=["varies"]
report = environment.environment_report()
print(*report, sep="\n")
assert all(line.ok for line in report), "see the lines marked [FAIL] above"

# %% [markdown]
# ## How the course works
#
# - **Run** a cell with Shift + Enter, or everything with *Run → Run All Cells*, from the top, as often as you like.
# - This notebook is **your copy**. Change what you like; `python lab.py reset 00` gives you a fresh one and keeps yours
#   beside it.
# - **Predict** before you run: where a question is asked, answer it first. Being wrong is how you find out what you
#   believed.
# - **Exercises**: ★ you complete a function and a checker tells you how you did, ★★ you change something and predict
#   what happens, ★★★ are open. Hints unfold; solutions lie in `solutions/`, all terms in `GLOSSARY.md`, and what
#   the data and the weights are in `data/README.md`.
# - Everything has two sizes. *Quick* suits two processor cores, *full* a graphics card; the environment variable
#   `SFT_PROFILE` chooses. This notebook's settings, both side by side:

# %%
size = runtime.profile()
SEED = 0
# pixels: the pictures are 300 x 300, smaller is faster
SIDE = size.pick(quick=128, full=224)
EPOCHS = size.pick(quick=3, full=20)  # passes over the training pictures
BATCH = 32  # pictures a step
# α of f and of g: the new part may move faster than the one that knows something
LR_F, LR_G = 1e-3, 1e-2

# %% [markdown]
# ## Look at the data
#
# Electroluminescence: a current is sent through a solar cell, and the cell glows in the infrared. Dead areas stay
# dark. Experts looked at each of 2,624 photographs and said how likely the cell is defective (Deitsch et al. 2019,
# arXiv 1807.02894). We take the 2,223 of which they were certain. Three disjoint parts: we **train** on one, look at
# the **val**idation part while we train, and touch the **test** part once, at the end.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
cells

# %%
show = torch.tensor([10, 4, 25, 3, 14, 0, 18, 12])
fig, axes = plt.subplots(2, 4, figsize=(8, 4.4))
pictures(
    axes, cells.val.pictures[show], [cells.classes[i] for i in cells.val.labels[show]]
)
plt.show()

# %% [markdown]
# Some defects are plain (black areas), some are thin cracks. What would a network get that always gives the same
# answer? This **trivial baseline** is the number to beat; without it, no accuracy means anything.

# %%
counts = cells.train.labels.bincount()
majority = counts.argmax()
for name, part in (("train", cells.train), ("val", cells.val), ("test", cells.test)):
    share = (part.labels == majority).double().mean()
    print(
        f"{name:<6}{len(part):5,} pictures; always saying '{cells.classes[majority]}' "
        f"is right for {share:.1%}"
    )

# %% [markdown]
# ## The two halves
#
# *f* is SqueezeNet 1.1, a small network trained on ImageNet: 1.28 million photographs of 1,000 things (animals, tools,
# vehicles, food), with no class of solar cells. Its own classifier, which knows those 1,000 things, is left out. In its
# place comes a new *g*: one linear layer with random weights.


# %%
def build():
    """A new model: f with the pretrained weights, g new."""
    runtime.seed_everything(SEED)
    f = load_backbone("squeezenet1_1", size=SIDE)
    g = LinearHead(f.feature_dim, len(cells.classes))
    return Model(f, g)


model = build()
f, g = model.backbone, model.head

# %%
# what this f was trained on: centred values, channels in its order
five = torch.arange(0, 1500, 300)  # of both classes
x = f.preprocess(cells.train.pictures[five])
z = f(x)
logits = g(z)
for name, part in (("x", x), ("z = f(x)", z), ("logits = g(z)", logits)):
    print(f"{name:<14}{tuple(part.shape)}")
for name, part in (("f", f), ("g", g)):
    n = sum(p.numel() for p in part.parameters())
    print(f"{name} has {n:,} numbers that can learn")
assert torch.equal(logits, model(x))  # the model is g after f, nothing else

# %% [markdown]
# Five pictures go in, five lists of 512 features come out of *f*, five pairs of scores out of *g*. `softmax` turns
# scores into probabilities, and the loss of one picture is minus the logarithm of the probability given to the true
# class (*cross-entropy*): 0 for certainty in the right answer, log 2 ≈ 0.693 for a coin flip. By hand, and by PyTorch:

# %%
y = cells.train.labels[five]
p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # softmax
by_hand = -p[torch.arange(5), y].log().mean()
official = F.cross_entropy(logits, y)
print(f"by hand {by_hand.item():.3f}   F.cross_entropy {official.item():.3f}")
assert torch.allclose(by_hand, official)

# %% [markdown]
# ## One step of fine-tuning
#
# This is all of it. `backward` computes ∂L/∂f and ∂L/∂g, and the two groups of the optimizer have their own learning
# rate each. Everything else in this course decides *what* goes into these lines and *why*. (The five pictures are
# training pictures: no other part is ever trained on, not even for a demonstration.)

# %%
# five pictures: a small step
groups = adaptation.param_groups(f=(f, 0.1 * LR_F), g=(g, 0.1 * LR_G))
optimizer = torch.optim.SGD(groups)
before = F.cross_entropy(model(x), y)

loss = F.cross_entropy(g(f(x)), y)
optimizer.zero_grad()
loss.backward()  # ∂L/∂f and ∂L/∂g
optimizer.step()  # f ← f − α ∂L/∂f, g ← g − α ∂L/∂g

after = F.cross_entropy(model(x), y)
print(f"loss on these five pictures: {before.item():.3f} -> {after.item():.3f}")
assert after < before

# %% [markdown]
# `fit` from `sftlib` is this step in a loop over batches and epochs. It yields a record after each step, so whoever
# iterates can plot, print or stop. Two more things are chosen once, in sight: the *augmentation* (a solar cell is as
# defective upside down as upright, so pictures are mirrored and turned at random), and the *arithmetic* (some
# processors are much faster with 16-bit numbers, or with the channels of a pixel side by side in memory, *channels
# last*; we measure instead of guessing).

# %% tags=["varies"]
turn_and_mirror = augment.Chain((augment.flip, augment.rotate))


def batches(split, **settings):
    return loader(split, f.preprocess, batch_size=BATCH, **settings)


x, y = next(iter(batches(cells.train)))
choice = training.measure_precision(model, x, y)
print(choice)
assert max(choice.rates.values()) <= 1.05 * choice.rates[choice.precision]

# %%
models = []  # of all runs, the newest last


def train(lr_f=LR_F, lr_g=LR_G):
    """A fresh model and the iterator of records that trains it."""
    model = build()
    models.append(model)
    groups = adaptation.param_groups(f=(model.backbone, lr_f), g=(model.head, lr_g))
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    order = torch.Generator().manual_seed(SEED)  # of batches, turns and mirrors
    how = {"shuffle": True, "augment": turn_and_mirror, "generator": order}
    train_batches, val_batches = batches(cells.train, **how), batches(cells.val)
    more = {"val_loader": val_batches, "precision": choice.precision}
    return training.fit(model, train_batches, optimizer, epochs=EPOCHS, **more)


# %% [markdown]
# ## Watch it learn
#
# **Predict.** After three passes over the training pictures (in the quick profile), how many of the validation pictures
# will be right?
#
# (a) As many as with the trivial baseline: ImageNet has no class of solar cells. (b) Between 75 and 90 %. (c) 99 %.
#
# The cell trains once. After that, the panel is yours: **Start** begins again from the pretrained weights, **Stop**
# ends the run after the step it is in. Loss is what training makes small; accuracy is what you wanted.

# %% tags=["varies"]
panel = widgets.LiveRun(train)
display(panel)
began = time.perf_counter()
history = panel.run()
print(f"{EPOCHS} epochs in {time.perf_counter() - began:.0f} seconds")
tuned = models[-1]  # what this cell has trained; later runs leave it as it is
assert min(history["loss"][-20:]) < history["loss"][0]

# %% [markdown]
# The same curves once more, to keep. Each jag is one batch of 32 pictures, so single steps say little; the
# epochs tell. (The loss is in *nats*: natural logarithms are used, and log 2 = 0.693 nats are one bit.)

# %% tags=["varies"]
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
steps = {"each step": (history["step"], history["loss"])}
curves(left, steps, xlabel="step", ylabel="loss (nats per picture)")
right.set_ylim(0.5, 1)
both = ("train", "val")
epochs = {k: (history["epochs"], history[f"{k}_accuracy"]) for k in both}
curves(right, epochs, xlabel="epoch", ylabel="accuracy")
right.set_xticks(history["epochs"])
plt.show()

# %% [markdown]
# ## What was gained
#
# The test pictures, touched for the first time: by the model before training, and after. "Before", *g* is random:
# whatever it answers, it has not seen a label.

# %% tags=["varies"]
test_batches = batches(cells.test)
first = training.evaluate(build(), test_batches, precision=choice.precision)
last = training.evaluate(tuned, test_batches, precision=choice.precision)
trivial = (cells.test.labels == majority).double().mean().item()
print(f"before  {first['accuracy']:.1%}   loss {first['loss']:.3f}")
print(f"trivial {trivial:.1%}")
print(f"after   {last['accuracy']:.1%}   loss {last['loss']:.3f}")
assert last["accuracy"] > trivial + 0.05

# %% tags=["varies"]
fig, rows = plt.subplots(2, 5, figsize=(9, 4.4))
some = torch.arange(0, len(cells.test), len(cells.test) // 5)[:5]
shown, answers = cells.test.pictures[some], cells.test.labels[some]
for row, name, model in zip(rows, ("before", "after"), (build(), tuned), strict=True):
    with torch.inference_mode():
        p = model.eval()(f.preprocess(shown)).softmax(dim=1)  # (5, 2)
    said = p.argmax(dim=1)
    sure = zip(said, p, strict=True)
    titles = [f"{name}: {cells.classes[k]}\n{q[k]:.0%} sure" for k, q in sure]
    pictures(row, shown, titles, right=said == answers)
plt.show()

# %% [markdown]
# Is that more than luck? Both answers, the model's and the constant one, are about the *same* pictures. So we compare
# picture by picture: where one of the two is right and the other wrong. `compare` is this course's one rule for
# comparisons; it gives the difference of the two accuracies with a range, made so that in 95 of 100 such experiments
# it would hold the true difference (a *confidence interval* of 95 %). If 0 lies in it, there is *no difference that
# we can see*. (`predict` computes in 32-bit numbers here; where 16 were chosen above, a picture or two may fall on the
# other side.)

# %% tags=["varies"]
test = [(y, out.argmax(dim=1)) for out, y in training.predict(tuned, test_batches)]
y, said = (torch.cat(parts) for parts in zip(*test, strict=True))
hits = {"after": said == y, "trivial": majority == y}
(gain,) = metrics.compare(hits)
print(gain)
assert gain.visible and gain.interval.mean > 0

# %% [markdown]
# **Read.** In the quick profile (b) is right, on the validation pictures and on the test pictures: the trained model
# beats the trivial baseline by more than luck. An interval with 0 in it would have been (a). What we have *not* shown
# is that the pretrained weights were the reason: for that, the same network has to be trained from random weights
# too. That is notebook 01, and its answer may surprise you.

# %% [markdown]
# ## Where it breaks
#
# A hundred times the learning rate. **Predict**: will it learn faster, learn nothing, or something else? (The next cell
# ends in red, on purpose.)

# %% tags=["raises-exception", "varies"]
for record in train(lr_f=100 * LR_F, lr_g=100 * LR_G):
    print(f"step {record.step}: loss {record.loss:.3g}")

# %% [markdown]
# Read the losses: the steps were so long that the loss grew instead of falling, by a larger factor each time, until
# it left the range of numbers. `fit` notices at once, says where, and puts the model back. It copies the model every 20
# steps, as long as the loss is a number, and the last copy of this run is the *untrained start*. A training loop
# without this check goes on for hours with a model made of *not a number*. (`tuned` is not touched by this: all cells
# above can be run again.)
#
# ## Play
#
# Scroll up to the panel and press **Start**, then **Stop** after some ten steps, then **Start** again. Does the second
# run begin where the first one stopped, or from the pretrained weights? (Look at the loss of its first steps.)
#
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: accuracy
#
# Complete `accuracy`: the share of pictures whose largest logit belongs to the true class, as a number between 0
# and 1. Run the cell; the checker tells you how you did.


# %% tags=["exercise"]
def accuracy(logits, y):
    """logits (N, K), y (N,) -> share of right answers, a float in [0, 1]"""
    # BEGIN SOLUTION
    # STUB: ...  # one line is enough
    return (logits.argmax(dim=1) == y).double().mean().item()
    # END SOLUTION


check("00.accuracy", accuracy)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which column of a row is the largest? `logits.argmax(dim=…)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Comparing two lists of N classes with `==` gives N times true or false.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The mean of true (1) and false (0) is the share of true; `bool` tensors need `.double()` before `.mean()`.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 2: who should move?
#
# In the settings, set `LR_F = 1e-5`: *f* hardly moves, only *g* learns. **Predict** the validation accuracy after three
# epochs, then run the notebook from there. Then the other way round: `LR_F = 1e-3, LR_G = 1e-5`. Which of the two
# surprised you? Could you tell them apart? (Notebook 05 compares *g* alone with both, over several seeds.)
#
# ### ★★ Exercise 3: the wrong colours
#
# In `batches`, replace `f.preprocess` by `lambda pictures: pictures / 255`. The pictures look the same to you.
# **Predict**: does training still work, and what is the loss at the first step? (Look at the panel. An `assert` further
# down may object: that is what it is there for.)
#
# ### ★★ Exercise 4: how many test pictures?
#
# An accuracy *a* on *n* pictures that were drawn at random has a standard deviation of $\sqrt{a(1-a)/n}$. What is it
# for the accuracy "after"? **Predict** how many test pictures it would take to bring it to half a point (0.005), then
# work it out. Is there a way to tell two models apart with fewer?

# %% [markdown] tags=["solution"]
# **Exercise 2.** In our run (seed 0, 222 validation pictures) both moving gave 83.8 %, *f* nearly still 82.0 %, *g*
# nearly still 83.3 %: four pictures between the first and the second. One seed and such a difference decide nothing,
# and that is itself a surprise: a linear cut through ImageNet's features does it, and so does bending the features
# towards a random *g* that hardly moves.
#
# **Exercise 3.** It learns nothing: in our run, 68.0 % after each of the three epochs, which is the trivial baseline.
# SqueezeNet's first layer expects values from about −120 to 150 in the order blue, green, red, and gets values from 0
# to 1. The loss at the first step, 0.633, looks as healthy as with the right numbers (0.637), and nothing warns you.
#
# **Exercise 4.** With *a* = 0.85 and *n* = 334 it is 2.0 points. Half a point takes 0.85 · 0.15 / 0.005² = 5,100
# pictures: four times the precision, sixteen times the pictures. Two models on the *same* pictures need fewer, since
# only the pictures on which they differ count: that is why `compare` is paired.

# %% [markdown]
# ### ★★★ Exercise 5: your own question
#
# Give `solar_cells.load` one more argument, `task="cell_type"`, and train the network to tell mono- from
# polycrystalline cells. Is it easier or harder than finding defects? What would you have to do to be sure that your
# answer is not luck?
#
# ## Remember
#
# - Fine-tuning: take *f* from another task, put a new *g* behind it, go on training with your labels.
# - One step is *f ← f − α ∂L/∂f, g ← g − α ∂L/∂g*, and each of the two may have its own α.
# - Compare with the trivial baseline first. Look at validation while you train, at test once.
# - A learning rate too large destroys a network in a few steps; a good loop says so.
# - Limits of what you saw: one data set without its 401 doubtful pictures, one network, one seed, 334 test pictures
#   (with cells of the modules trained on, even near-twins: notebook 01), and rates that were not tuned. A difference of
#   two points between two such runs means nothing.
#
# **References.** Deitsch et al. 2019, *Automatic classification of defective photovoltaic module cells in
# electroluminescence images*, Solar Energy 185, arXiv 1807.02894. Iandola et al. 2016, *SqueezeNet*, arXiv 1602.07360.
# Next: **01 Why transfer?**, where the same network also starts from random weights.
