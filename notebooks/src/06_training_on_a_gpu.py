# %% [markdown]
# # 06 Training on a GPU: what does a step wait for, and what survives a crash?
#
# The loop of notebook 00 is right. Is it also fast? What happens when memory runs out, or the power goes? Here you
# take one step apart, steer a run from a panel, run it out of memory, and kill it. All of it runs on a CPU, small.
# What is said of GPUs here is a rule, not a result: none was at hand.
#
# Afterwards you can
#
# - say what a step waits for, and which usual remedies can help *your* machine;
# - watch, pause and steer a run, and resume it to the last bit after a crash;
# - compute one update in parts, when memory is short.
#
# **65 minutes** to read and try, 1 minute to run. You need notebook 00; notebook 04 helps. *Going deeper*, the second
# notebook, has 16-bit arithmetic, compiling, a profile and several devices.

# %% tags=["setup"]
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import chdir

import matplotlib.pyplot as plt
import torch

import sftlib.model as models
from sftlib import adaptation, backbones, datasets, plotting, runtime, training, widgets
from sftlib.checks import check
from sftlib.datasets import augment, on_device, solar_cells

F, nn, COLOURS = torch.nn.functional, torch.nn, plotting.COLOURS
plotting.use_style()

# %% [markdown]
# ## The idea
#
# *f*, *g* and the gradient are those of notebook 04. What does it take to compute them often?

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("x", "f", "g", "gradient"))
plt.show()

# %% [markdown]
# ## Settings

# %% tags=["varies", "setup"]
size, where, SEED = runtime.profile(), runtime.device(), 0
# with a network also resnet50
BACKBONE = size.pick(quick="squeezenet1_1", full="efficientnet_lite0")
SIDE = size.pick(quick=96, full=224)  # pixels
PICTURES = size.pick(quick=320, full=1667)  # training pictures
BATCH = size.pick(quick=16, full=128)  # pictures a step
EPOCHS = size.pick(quick=3, full=10)
LR_F, LR_G = 5e-4, 1e-3  # α of f and of g
# by what α is multiplied on purpose, for two steps
JOLT = size.pick(quick=50.0, full=10.0)
print(f"this machine computes on: {where}, with {torch.get_num_threads()} CPU threads")
assert torch.ones(2, 3, device=where).sum().item() == 6  # and it does

# %% [markdown]
# ## Look at the data
#
# The solar cells of notebook 00: is a cell defective? What matters today is how many bytes a picture has.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
chosen = torch.randperm(
    len(cells.train), generator=torch.Generator().manual_seed(SEED)
)[:PICTURES]
part = cells.train.subset(chosen)
base = cells.val.labels.bincount().max() / len(cells.val)
print(f"{len(part):,} of {tuple(part.pictures.shape[1:])}, {part.pictures.dtype}")
print(f"always answering {cells.classes[0]!r} is right for {base:.1%} of validation")
f = backbones.load_backbone(BACKBONE, size=SIDE)
x = f.preprocess(part.pictures[:BATCH])  # (N, 3, H, W)
of_one = {"uint8": 3 * SIDE * SIDE, "float32": x[0].numel() * x.element_size()}
for name, count in of_one.items():
    print(f"one as {name:<8}{count:9,} bytes; a million: {count / 1e3:6,.0f} GB")
assert of_one["float32"] == 4 * of_one["uint8"]

# %% [markdown]
# So pictures wait as `uint8` and become `float32` batch by batch. Floats need four times the memory, and four times the
# bytes are sent. A few gigabytes of `uint8` fit into a GPU's memory; then the loader reads, augments and preprocesses
# there, and nothing is sent.


# %%
turn = augment.Chain((augment.flip, augment.rotate))


def build(on=where):
    """A new model, f pretrained and g new, and its optimizer"""
    runtime.seed_everything(SEED)
    f = backbones.load_backbone(BACKBONE, size=SIDE)
    if any(isinstance(m, nn.BatchNorm2d) for m in f.modules()):
        # the averages stay: pictures of a batch do not see each other
        adaptation.eval_stats_train_affine(f)
    model = models.Model(f, models.LinearHead(f.feature_dim, 2)).to(on)
    groups = adaptation.param_groups(f=(model.backbone, LR_F), g=(model.head, LR_G))
    return model, torch.optim.SGD(groups, momentum=0.9)


model, optimizer = build()
print(f"{sum(p.numel() for p in model.parameters()):,} numbers can learn")

# %% [markdown]
# ## By hand 1: one step, taken apart
#
# A GPU works on its own: Python only *queues* the work and goes on. So a clock around a line measures the queueing,
# unless the line waits. To time a piece, wait before and after (`synchronize`).
#
# | symbol | code | what it is |
# |---|---|---|
# | *N* | `BATCH` | pictures a step |
# | *h* | `host_s` | seconds the host (Python, on the CPU) needs to prepare and queue a step |
# | *d* | `device_s` | seconds the device needs to compute it |
#
# **Predict.** What takes longest on your machine? (a) Preparing the batch. (b) Sending it to the device. (c) Forward.
# (d) Backward. (e) The update.


# %%
def synchronize():
    """Wait until the device has done all that was queued; a CPU has no queue"""
    if where.type in ("cuda", "mps"):
        getattr(torch, where.type).synchronize()


def seconds(work, times=3):
    """-> fastest, median, slowest of a few calls of work(), the first left out"""
    spent = []
    for _ in range(times + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        spent.append(time.perf_counter() - start)
    spent = sorted(spent[1:])
    return spent[0], spent[times // 2], spent[-1]


# %% tags=["varies"]
rows, draw = torch.arange(BATCH), torch.Generator().manual_seed(SEED)
raw, y = part.pictures[rows], part.labels[rows].to(where)
on_host, x = x, x.to(where)
loss = F.cross_entropy(model(x), y)
pieces = {
    "read and augment (uint8)": lambda: turn(part.pictures[rows], draw),
    "preprocess to float32": lambda: f.preprocess(raw),
    "send to the device": lambda: on_host.to(where),
    "forward": lambda: F.cross_entropy(model(x), y),
    "backward": lambda: loss.backward(retain_graph=True),
    "update": optimizer.step,
}
spent = {name: 1e3 * seconds(work)[1] for name, work in pieces.items()}
work = spent["forward"] + spent["backward"]
assert where.type != "cpu" or work > 0.5 * sum(spent.values())

# %% tags=["varies"]
optimizer.zero_grad()
fig, ax = plt.subplots(figsize=(8, 2.6))
bars = ax.barh(list(spent), list(spent.values()), color=COLOURS["blue"], height=0.6)
ax.bar_label(bars, [f" {s:.1f}" for s in spent.values()])
ax.set(xlabel=f"milliseconds for {BATCH} pictures of {SIDE} pixels")
ax.set_xlim(0, 1.15 * max(spent.values()))
ax.invert_yaxis()
plt.show()
assert min(spent.values()) >= 0

# %% [markdown]
# **Read.** On a CPU: (c) and (d), and sending is nothing, for the batch is there already. By products alone (d) would
# take twice as long as (c): the gradient by the input and the one by the weights. If your bars say otherwise, forward
# does something besides products (*Going deeper* names it). The faster the device, the shorter the last three bars,
# while the first stay: from some speed on (a) or (b) is the answer, and only remedies for *those* help.
#
# ## By hand 2: two clocks
#
# Host and device are two workers with a queue between them. In this model the device starts a step when it is queued
# *and* the last one is done. (Really it starts with the first operation queued, so *steps · (h + d)* is an upper
# bound.) Reading a number, `loss.item()`, makes the host wait until the device has come to it.


# %%
def timeline(host_s, device_s, steps, read_every=None):
    """-> a row a step: host begins, host ends, device begins, device ends, in s"""
    host = device = 0.0
    rows = []
    for step in range(1, steps + 1):
        begun, host = host, host + host_s  # prepare and queue
        starts = max(host, device)
        device = starts + device_s  # compute
        rows.append((begun, host, starts, device))
        if read_every and step % read_every == 0:
            host = device  # .item() waits
    return rows


h, d, steps = 0.004, 0.006, 8
always, never = timeline(h, d, steps, 1), timeline(h, d, steps)
# steps · (h + d), and h + steps · max(h, d), as d > h here
assert abs(always[-1][-1] - 0.080) + abs(never[-1][-1] - 0.052) < 1e-9


# %% tags=["hide-input"]
fig, axes = plt.subplots(2, 1, figsize=(9, 3.2), sharex=True)
titles = {"read after every step": always, "read at the end": never}
for ax, (title, rows) in zip(axes, titles.items(), strict=True):
    for step, (h0, h1, d0, d1) in enumerate(rows, 1):
        for lane, start, end in ((1, h0, h1), (0, d0, d1)):
            colour = COLOURS["orange" if lane else "blue"]
            span = 1e3 * (end - start)
            ax.barh(lane, span, 0.7, 1e3 * start, color=colour, edgecolor="white")
            middle, ink = 500 * (start + end), "black" if lane else "white"
            ax.text(middle, lane, step, ha="center", va="center", color=ink)
    ax.set(yticks=(0, 1), yticklabels=("device", "host"))
    ax.set_title(f"{title}: {1e3 * rows[-1][-1]:.0f} ms")
axes[1].set_xlabel("milliseconds; the numbers count the steps")
plt.show()

# %% [markdown]
# The same work, a third less time: without reading, the host prepares step 2 while the device computes step 1. What can
# be gained is the *smaller* of *h* and *d*, a step. So `fit` keeps losses as tensors, a `Step` reads its `.loss` only
# when you ask, and the panel asks a few times a second.
#
# **Predict** for *your* machine: how much faster is a loop that never reads the loss? (a) Twice. (b) 20 to 50 %.
# (c) By no more than the clock's noise.


# %% tags=["varies"]
def loop(read, steps=3):
    for _ in range(steps):
        outcome = training.train_step(model, x, y, optimizer, task_loss=F.cross_entropy)
        if read:
            outcome.loss.item()


# the work without the learning
optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
took = {True: [], False: []}
for _ in range(5):  # in turns: what else runs here meets both
    for read in took:
        took[read].append(seconds(lambda read=read: loop(read), times=1)[1])
for read, spent in took.items():
    most, middle, least = (3 * BATCH / sorted(spent)[i] for i in (0, 2, 4))
    print(f"{where}: {middle:.0f} ({least:.0f} to {most:.0f}) pictures/s, {read = }")
assert where.type != "cpu" or 0.5 < sorted(took[True])[2] / sorted(took[False])[2] < 2

# %% [markdown]
# **Read.** On a CPU (c): host and device are the same processor, and `.item()` has nothing to wait for. Brackets: the
# slowest and the fastest of five loops, in turns. Elsewhere the smaller of *h* and *d* is the limit.
#
# ## The same from `sftlib`
#
# Before `fit` is trusted with the tricks below, it must compute the plain loop's update, on the same batches.


# %%
def ordered(split=part):
    draws = torch.Generator().manual_seed(SEED)
    how = {"batch_size": BATCH, "shuffle": True, "augment": turn}
    return datasets.loader(split, f.preprocess, generator=draws, **how)


def plain_loop(model, optimizer, loader):
    model.train()
    for x, y in loader:
        x, y = x.to(where), y.to(where)
        optimizer.zero_grad()
        loss = F.cross_entropy(model.head(model.backbone(x)), y)
        loss.backward()
        optimizer.step()
        loss.item()  # for the progress bar


# %%
def largest_difference(a, b):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


one, other = build(), build()
few = part.subset(torch.arange(3 * BATCH))
plain_loop(*one, ordered(few))
for _ in training.fit(other[0], ordered(few), other[1], epochs=1):
    pass
moved = largest_difference(one[0], build()[0])
same = largest_difference(one[0], other[0]) < 0.01 * moved
print("plain loop and fit differ by less than 1 % of what parameters moved:", same)
assert same

# %% [markdown]
# ## Under a panel
#
# `fit` yields records, `LiveRun` draws them. **Pause** lets the step finish and waits, **Stop** ends the run. The
# slider multiplies every learning rate, through a `Controls` that `fit` reads before each step. A ring (in the still
# picture a star) marks the best validation so far, a dotted line your change.
#
# *Run All* has no hand on the slider, so a few lines multiply the rate by `JOLT` in the middle of the run, for two
# steps. The control is the same run without a jolt. **Predict**: the loss of the jolted one (a) hardly moves, (b) jumps
# and comes back within the run, (c) becomes `nan`, and `fit` stops. And its validation accuracy at the end: (d) as good
# as the control's, (e) lower?


# %%
def train(controls=None):
    """A fresh model, and the iterator of records that trains it"""
    model, optimizer = build()
    validation = datasets.loader(cells.val, f.preprocess, batch_size=BATCH)
    # a batch is made, or sent, while the device computes the one before
    ahead = on_device.prefetch(ordered(), where)
    how = {"epochs": EPOCHS, "val_loader": validation, "controls": controls}
    return training.fit(model, ahead, optimizer, **how)


steps = EPOCHS * len(ordered())
JUMP = range(steps // 2, steps // 2 + 2)
controls = training.Controls()


# %%
def with_a_hand_on_the_slider():
    controls.rate = 1.0
    for record in train(controls):
        controls.rate = JOLT if getattr(record, "step", None) in JUMP else 1.0
        yield record


print(f"{steps} steps; α × {JOLT:g} in steps {JUMP[0] + 1} and {JUMP[-1] + 1}")

# %% tags=["varies"]
panel = widgets.LiveRun(with_a_hand_on_the_slider, controls=controls)
assert not panel.running
panel

# %% tags=["varies"]
history = panel.run()
ends = [(JUMP[0] + 1, "rate"), (JUMP[-1] + 2, "rate")]
assert [change[:2] for change in history["changes"]] == ends
assert abs(history["lr"][JUMP[0]] / history["lr"][0] - JOLT) < 1e-3

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
panel.plot(axes)
plt.show()
loss, control = history["loss"], training.History(train())
before, worst = sum(loss[JUMP[0] - 5 : JUMP[0]]) / 5, max(loss[JUMP[0] :])
print(f"mean loss of the five steps before {before:.2f}, largest after {worst:.2f}")
other, right = [s.loss for s in control.steps], control.epochs[-1].val["accuracy"]
runs = {"jolted": (loss, history["val_accuracy"][-1]), "control": (other, right)}
for name, (losses, right) in runs.items():
    last = sum(losses[-10:]) / 10
    print(f"{name}: mean loss of the last ten {last:.2f}, validation {right:.3f}")
share = part.labels.bincount() / len(part)
print(f"a constant: loss {-(share * share.log()).sum():.2f}, validation {base:.3f}")
assert worst > before

# %% [markdown]
# **Read.** (b), or (c) for who drives faster still; and, in our run, (e). The jump comes one step late: the loss of a
# step is that *before* its update. Then it falls back to where it was, about that of a constant answer, while the
# control's went on falling: only beside the control does one see it. Whether *f* or *g* is spoilt is not measured, and
# one seed proves no size. `history["lr"]`, the rate of every step, tells whether the slider reached the optimizer.
#
# ## By hand 3: a batch in parts
#
# With SGD and momentum each number that learns is stored three times: the parameter, its gradient, its velocity. On top
# come the **activations**, what the forward pass keeps for the backward pass, and they grow with the batch (*Going
# deeper* counts them). A smaller batch saves memory, but it is another training: noisier gradients, another best α. The
# way out is **micro-batches**: parts of the batch one after the other, their gradients added up, then *one* update. *L*
# is a mean over *N* pictures, so a part with *n* of them counts with *n/N* (notebook 04):
#
# $$\nabla L = \sum_{\text{parts}} \frac{n}{N}\,\nabla L_{\text{part}}$$


# %%
def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


# a GPU may round convolutions of 11 and of 4 pictures differently
whole, pieced = build("cpu")[0], build("cpu")[0]
x11, y11 = x[:11].cpu(), y[:11].cpu()
F.cross_entropy(whole(x11), y11).backward()
for rows in torch.arange(11).split(4):  # 4, 4 and 3 pictures
    loss = F.cross_entropy(pieced(x11[rows]), y11[rows])
    (len(rows) / 11 * loss).backward()  # adds to .grad
off = (gradient(pieced) - gradient(whole)).norm() / gradient(whole).norm()
print(f"gradient at once, and as 4 + 4 + 3: off by less than 1 %: {bool(off < 0.01)}")
assert off < 0.01

# %% [markdown]
# ## When memory runs out
#
# `fit` does this by itself. When a batch does not fit, it halves the part, says so once, and computes the *same batch*
# again from the same random numbers. The *f* below refuses more than 5 pictures with the error that PyTorch raises on a
# GPU.
#
# **Predict.** After three updates with batches of 16, do the parameters differ from those of a machine with enough
# memory? (a) Yes, the batches were smaller. (b) Only by rounding. (c) Not in a single bit.


# %%
class SmallDevice(nn.Module):
    """An f on a device with room for 5 pictures"""

    def __init__(self, f):
        super().__init__()
        self.f, self.seen = f, []

    def forward(self, x):
        if len(x) > 5:
            raise torch.OutOfMemoryError(
                f"{len(x)} pictures: out of memory (simulated)"
            )
        self.seen.append(len(x))
        return self.f(x)


enough, small = build("cpu"), build("cpu")
small[0].backbone = SmallDevice(small[0].backbone)

# %%
three = [part.subset(torch.arange(i, i + 16)) for i in (0, 16, 32)]
sixteen = [(f.preprocess(some.pictures), some.labels) for some in three]
list(training.fit(enough[0], sixteen, enough[1], epochs=1))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    list(training.fit(small[0], sixteen, small[1], epochs=1))
print(*(str(warning.message) for warning in said), sep="\n")
print("pictures at once:", small[0].backbone.seen)
print("(the first batch twice: once to see whether its loss allows the cut)")
off = largest_difference(enough[0], small[0])
moved = largest_difference(enough[0], build("cpu")[0])
print(f"they differ by less than 1 % of what they moved: {off < 0.01 * moved}")
assert len(said) == 1 and off < 0.01 * moved

# %% [markdown]
# **Read.** (b): sums in another order round differently. Were the batches smaller, three updates would have become
# twelve, and the parameters would lie elsewhere. What cannot be cut so: BatchNorm in `train` mode, and losses that
# compare the pictures of a batch (notebook 03's contrastive one); `fit` refuses the latter. The usual remedies:
#
# | what is short | what helps |
# |---|---|
# | the host: *h* > *d* | augment in batches, decode ahead (loader workers, `prefetch`), pictures on the device |
# | the way to the device | `uint8` in place of floats, pinned memory with `non_blocking=True` |
# | the device: *d* > *h* | 16-bit arithmetic, `channels_last`, compiling, a frozen *f* whose features are kept |
# | memory | micro-batches, 16 bits, freezing, *activation checkpointing*: keep less, compute again |
#
# ## Killed, and resumed
#
# A checkpoint must hold everything that the next step depends on. Which of these can be left out: parameters, BatchNorm
# averages, velocities of the optimizer, place in the schedule, state of every random generator, place in the shuffled
# order, controls, precision, versions and number of threads?
#
# **Predict** first. Then this small run saves itself after *every* step, and is killed without warning in the middle
# of an epoch.

# %%
PARTS = """
import torch
from sftlib import adaptation, backbones, datasets, model as models
from sftlib.datasets import augment

def parts(folder):
    torch.manual_seed(0)
    f = backbones.load_backbone("squeezenet1_1", size=64)
    model = models.Model(f, models.LinearHead(f.feature_dim, 2))
    groups = adaptation.param_groups(f=(f, 1e-4), g=(model.head, 1e-3))
    split = datasets.PictureSplit(*torch.load(folder / "pictures.pt"), ("",) * 31)
    draws = torch.Generator().manual_seed(0)
    how = {"shuffle": True, "generator": draws, "augment": augment.flip}
    batches = datasets.loader(split, f.preprocess, batch_size=7, **how)
    return model, torch.optim.SGD(groups, momentum=0.9), batches
"""

# %%
RUN = """
import sys
from pathlib import Path
from small_run import parts
from sftlib.training import Step, fit, save_checkpoint

folder = Path(sys.argv[1])
model, optimizer, batches = parts(folder)
for record in fit(model, batches, optimizer, epochs=3):
    if isinstance(record, Step):
        save_checkpoint(folder / "run.pt", model, optimizer, step=record)
        print(record.step, flush=True)
"""

# %%
kept = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
folder = runtime.cache_folder() / kept.name  # which is a whole path
(folder / "small_run.py").write_text(PARTS, encoding="utf-8")
(folder / "killed_run.py").write_text(RUN, encoding="utf-8")
little = solar_cells.load(size=64, seed=SEED).train.subset(chosen[:31])
torch.save((little.pictures.clone(), little.labels), folder / "pictures.pt")
print(f"{len(little)} pictures in batches of 7: 5 steps an epoch, the last of 3")

# %% tags=["varies"]
command, errors = [sys.executable, folder / "killed_run.py", folder], folder / "errors"
how = {"stdout": subprocess.PIPE, "text": True}
with open(errors, "w", encoding="utf-8") as stderr:
    process = subprocess.Popen(command, stderr=stderr, **how)
reached = any(line.strip() == "7" for line in process.stdout)  # in the second epoch
process.kill()  # SIGKILL: it cannot tidy up
process.stdout.close()
status, left = process.wait(), sorted(p.name for p in folder.glob("run.pt*"))
print("its exit status:", status, "  it left:", left)
words = errors.read_text(encoding="utf-8", errors="replace")
assert reached and status != 0 and "run.pt" in left, words

# %% [markdown]
# Now the same run three times in this process: never interrupted; resumed from what the killed process left; and
# resumed with the model only.


# %%
space = {}
exec(PARTS, space)  # the same lines, in this process
parts = space["parts"]


def end_of(model, optimizer, batches, **how):
    list(training.fit(model, batches, optimizer, epochs=3, **how))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


never_stopped, again, forgetful = end_of(*parts(folder)), parts(folder), parts(folder)
found = training.load_checkpoint(folder / "run.pt", *again[:2])
resumed = torch.equal(end_of(*again, resume=found), never_stopped)
# the optimizer and the place are thrown away
training.load_checkpoint(folder / "run.pt", forgetful[0], parts(folder)[1])
model_only = end_of(*forgetful, first_epoch=found.epoch + 1)
print("resumed = never interrupted, bit for bit:", resumed)
print("model only, the same:", torch.equal(model_only, never_stopped))
assert resumed and not torch.equal(model_only, never_stopped)

# %% [markdown]
# **Read.** Of what a run uses, nothing (this one has no BatchNorm). With the model alone it goes on without complaint
# and ends somewhere else: comparisons are off by what the crash did. Bit for bit holds on a CPU, on the same machine,
# with the same versions and number of threads; the file knows them, and `load_checkpoint` refuses others unless told
# `exact=False`. GPUs may add in another order each time: there the run goes on, not to the bit.
#
# ## Where it breaks
#
# Half a file. It cannot come from `save_checkpoint`, which renames the new file only when complete; but copies break
# off, and disks fill up.

# %% tags=["raises-exception"]
whole_file = (folder / "run.pt").read_bytes()
(folder / "half.pt").write_bytes(whole_file[: len(whole_file) // 2])
with chdir(folder):
    training.load_checkpoint("half.pt", *parts(folder)[:2])

# %% [markdown]
# The message names the file, and the model was left as it was: all of a checkpoint is put in place, or nothing.
# Reading executes no code either (`weights_only=True`); a stranger's pickle may.
#
# ## Play
#
# **The panel is yours.** Start, pause, stop and restart it; move the rate while it runs. What does a factor of 0.1 do
# to the jags? Can you save a run that you drove too fast?

# %% tags=["varies"]
yours = training.Controls()
playground = widgets.LiveRun(lambda: train(yours), controls=yours)
assert not playground.running and playground.history["step"] == []
playground

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: a large batch in small parts
#
# Complete `accumulate`: leave in every `p.grad` the gradient of the mean loss over all rows of *x*, but never give
# the model more than `size` rows at once. The last part may be smaller. What was in `.grad` before is old.
#
# <details><summary>Hint 1</summary>
#
# `x.split(size)` gives the parts; `backward` adds to `.grad`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Which weights turn the parts' means into the mean over all?
#
# </details>
# <details><summary>Hint 3</summary>
#
# The weight is `len(y_part) / len(y)`. Clear the gradients once, at the start.
#
# </details>


# %% tags=["exercise"]
def accumulate(model, x, y, size):
    """model, x (N, P), y (N,), size -> nothing; every parameter's .grad is that
    of the cross-entropy of the batch
    """
    # BEGIN SOLUTION
    # STUB: ...
    model.zero_grad()
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        loss = F.cross_entropy(model(x_part), y_part)
        (loss * len(y_part) / len(y)).backward()
    # END SOLUTION


check("06.accumulate", accumulate)

# %% [markdown]
# ### ★ Exercise 2: who makes the host wait?
#
# In this loop `loss`, `logits` and `hits` are tensors on a GPU. Which lines make Python wait for the device? Answer
# with the set of their letters.
#
# ```
# A   x = x.to("cuda", non_blocking=True)            # x lies in pinned memory
# B   loss = F.cross_entropy(model(x), y)
# C   hits += (logits.argmax(1) == y).sum()
# D   history.append(loss.detach())
# E   if loss > 10: break
# F   bar.set_description(f"loss {loss:.3f}")
# G   torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
# H   wrong = logits[logits.argmax(1) != y]
# ```
#
# <details><summary>Hint 1</summary>
#
# Python waits where it needs a *value*: to decide, print, know a size.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Adding tensors on the device, or listing them, needs no value.
#
# </details>
# <details><summary>Hint 3</summary>
#
# How many rows does a mask pick? Somebody must count first.
#
# </details>

# %% tags=["exercise"]
# BEGIN SOLUTION
# STUB: waits = ...  # for example {"A", "B"}
waits = {"E", "F", "H"}
# END SOLUTION

check("06.waits", waits)

# %% [markdown]
# ### ★★ Exercise 3: a slower host
#
# In `timeline`, let the host need 9 ms and the device 6 ms. **Predict** both times for 8 steps, and which worker waits.
# Which remedies of this notebook help now, and which do not? Then read the loss every 4 steps: how much of the gain is
# left?
#
# ### ★★ Exercise 4: forget one thing
#
# In the small run, pass `optimizer=parts(folder)[1]` to `load_checkpoint` but keep `resume=found`, so that only the
# velocities are lost. **Predict**: is the end closer to `never_stopped` than `model_only` is? Measure `(a - b).norm()`
# for both.
#
# ### ★★★ Exercise 5: a faster loop than ours
#
# Take the profile of *your* machine and name the largest thing that is not the work itself. Remove it, and show with
# paired runs in turns (`benchmarks/` has examples) that it is gone and the parameters are the same.

# %% [markdown] tags=["solution"]
# **Exercise 3.** With h = 9 and d = 6: reading every step 8 · 15 = 120 ms, reading at the end 8 · 9 + 6 = 78 ms, and
# the *device* waits. Faster arithmetic, compiling and a larger GPU change nothing; decoding ahead, batched
# augmentation and data in the device's memory do. Reading every 4 steps costs two waits of 6 ms instead of eight, 84
# ms in all: most of the gain is left.
#
# **Exercise 4.** The order of the pictures and all draws are then right, and only the velocities start from zero, so
# one expects it to be closer. In our run it was hardly so: at a momentum of 0.9 a velocity takes some ten steps to be
# rebuilt, and eight were left. With more steps to go the right order would count for more, but the end is never the
# same again.

# %% [markdown]
# ## Remember
#
# - Measure before you mend: what can be gained by overlapping is the smaller of *h* and *d*, and nothing on a CPU.
# - Reading a tensor waits. Keep losses as tensors, read them a few times a second.
# - Activations grow with the batch. Its parts, weighted by *n/N*, give the same update.
# - A run that can be resumed holds *everything* the next step depends on, is written whole or not at all, and is
#   checked bit for bit.
# - **Limits**: times are of one machine and one run; on a laptop they say little about a GPU. The equalities hold for
#   losses that are means over pictures, without dropout, and with BatchNorm that does not look at the batch.
#
# **References.** Iandola et al. 2016, arXiv 1602.07360 (SqueezeNet). Deitsch et al. 2019, arXiv 1807.02894 (solar
# cells). Next: **07 Which pretrained model?**
