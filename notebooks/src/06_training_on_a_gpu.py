# %% [markdown]
# # 06 Training on a GPU: what does a step wait for, and what survives a crash?
#
# The loop of notebook 00 is right. Is it also fast? Does it fit into memory? Can you steer it, and what is left when
# the power goes? Here you take one step apart, put it under a panel, run it out of memory, kill it, and start it in
# two processes. All of it runs on a CPU, small; on a GPU the same cells show that machine's numbers.
#
# Afterwards you can
#
# - say what a step waits for, and which of the usual remedies can help *your* machine;
# - watch, pause and steer a run, and have it go on to the last bit after a crash;
# - compute one update in pieces: one after the other when memory is short, side by side on several devices.
#
# **60 minutes** to read and try, 1 minute to run. You need notebook 00; notebook 04 helps.

# %% tags=["setup"]
import contextlib
import csv
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn

from sftlib.adaptation import eval_stats_train_affine, param_groups
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import augment, loader, solar_cells
from sftlib.datasets.on_device import prefetch, to_device
from sftlib.model import LinearHead, Model
from sftlib.plotting import COLOURS, curves, idea, pictures, short, use_style
from sftlib.runtime import cache_folder, device, profile, seed_everything
from sftlib.training import (
    Controls,
    compile_pays,
    fit,
    load_checkpoint,
    measure_precision,
    train_step,
)
from sftlib.widgets import Explorer, LiveRun

use_style()

# %% [markdown]
# ## The idea
#
# Nothing new is learned today: *f*, *g* and the gradient are those of notebook 04. The question is what it takes to
# compute them often: where the arrows run, and what lies in memory meanwhile.

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("x", "f", "g", "gradient"))
plt.show()

# %% [markdown]
# ## Settings

# %%
size = profile()
SEED = 0
# with a network also resnet50
BACKBONE = size.pick(quick="squeezenet1_1", full="efficientnet_lite0")
SIDE = size.pick(quick=96, full=224)  # pixels
PICTURES = size.pick(quick=320, full=1667)  # training pictures
BATCH = size.pick(quick=16, full=128)  # pictures a step
EPOCHS = size.pick(quick=3, full=10)
LR_F, LR_G = 5e-4, 1e-3  # α of f and of g
# by what α is multiplied on purpose, for two steps
JOLT = size.pick(quick=50.0, full=10.0)
# pixels of the runs that are killed, or shared between processes: on the CPU everywhere
SMALL = 64

# %% tags=["varies"]
where = device()
print(f"this machine computes on: {where}, with {torch.get_num_threads()} CPU threads")
assert torch.ones(2, 3, device=where).sum().item() == 6  # and it does

# %% [markdown]
# ## Look at the data
#
# The solar cells of notebook 00 once more. Two things matter today: how many bytes a picture has, and in which form.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
chosen = torch.randperm(
    len(cells.train), generator=torch.Generator().manual_seed(SEED)
)[:PICTURES]
part = cells.train.subset(chosen)
share = part.labels.bincount().max() / len(part)
print(
    f"{len(part):,} pictures {tuple(part.pictures.shape[1:])}, {part.pictures.dtype}, "
    f"classes {cells.classes}"
)
print(
    f"always answering the larger class is right for {share:.1%}; log 2 = "
    f"{math.log(2):.3f}"
)

# %%
fig, axes = plt.subplots(1, 6, figsize=(9, 1.9))
pictures(axes, part.pictures[:6], [cells.classes[k] for k in part.labels[:6]])
plt.show()

# %%
seed_everything(SEED)
f = load_backbone(BACKBONE, size=SIDE)
x = f.preprocess(part.pictures[:BATCH])  # (N, 3, H, W)
of_one = {
    "colour picture, uint8": 3 * SIDE * SIDE,
    "the same, float32": x[0].numel() * x.element_size(),
}
for name, count in of_one.items():
    print(f"{name:<24}{count:9,} bytes   a million of them: {count / 1e3:6,.0f} GB")
assert of_one["the same, float32"] == 4 * of_one["colour picture, uint8"]

# %% [markdown]
# So pictures wait as `uint8` and become `float32` batch by batch, where the network is. Whoever keeps a data set as
# floats needs four times the memory and sends four times the bytes to the GPU. (Grey pictures like these are even
# stored once and *shown* as three channels.) Data sets of a few gigabytes fit into a GPU's memory as `uint8`, and then
# nothing is sent at all: the loader reads, augments and preprocesses there.

# %%
mirror_and_turn = augment.Chain((augment.flip, augment.rotate))
on_device = to_device(part, where)  # where they fit


def batches(split, **settings):
    return loader(split, f.preprocess, batch_size=BATCH, **settings)


def build(on=where):
    """A new model, f pretrained and g new, on this machine's device unless told
    otherwise
    """
    seed_everything(SEED)
    f = load_backbone(BACKBONE, size=SIDE)
    if any(isinstance(m, nn.BatchNorm2d) for m in f.modules()):
        # the averages stay: pictures of a batch do not see each other
        eval_stats_train_affine(f)
    model = Model(f, LinearHead(f.feature_dim, 2)).to(on)
    groups = param_groups(f=(model.backbone, LR_F), g=(model.head, LR_G))
    return model, torch.optim.SGD(groups, momentum=0.9)


model, optimizer = build()
for name, half in (("f", model.backbone), ("g", model.head)):
    print(
        f"{name} can learn {short(sum(p.numel() for p in half.parameters()))} numbers"
    )

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


# %%
def synchronize():
    """Wait until the device has done all that was queued; on a CPU there is
    nothing to wait for.
    """
    if where.type == "cuda":
        torch.cuda.synchronize()
    if where.type == "mps":
        torch.mps.synchronize()


def seconds(work, times=3):
    """The fastest of a few calls of work(), in seconds"""
    spent = []
    for _ in range(times + 1):  # the first one warms up
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        spent.append(time.perf_counter() - start)
    return min(spent[1:])


print("synchronize() returns", synchronize())

# %% [markdown]
# **Predict.** What takes longest? (a) Preparing the batch. (b) Sending it to the device. (c) Forward. (d) Backward.
# (e) The update.

# %% tags=["varies"]
rows = torch.arange(BATCH)
draw = torch.Generator().manual_seed(SEED)
raw, y = part.pictures[rows], part.labels[rows].to(where)
x = f.preprocess(raw).to(where)
loss = F.cross_entropy(model(x), y)
pieces = {
    "read and augment (uint8)": lambda: mirror_and_turn(part.pictures[rows], draw),
    "preprocess to float32": lambda: f.preprocess(raw),
    "send to the device": lambda: (
        f.preprocess(raw[:1]).expand_as(x).contiguous().to(where)
    ),
    "forward": lambda: F.cross_entropy(model(x), y),
    "backward": lambda: loss.backward(retain_graph=True),
    "update": optimizer.step,
}
spent = {name: 1e3 * seconds(work) for name, work in pieces.items()}
fig, ax = plt.subplots(figsize=(8, 2.6))
bars = ax.barh(list(spent), list(spent.values()), color=COLOURS["blue"], height=0.6)
ax.bar_label(bars, [f" {s:.1f}" for s in spent.values()])
ax.set(
    xlabel=f"milliseconds for {BATCH} pictures of {SIDE} pixels",
    xlim=(0, 1.15 * max(spent.values())),
)
ax.invert_yaxis()
plt.show()
optimizer.zero_grad()
assert where.type != "cpu" or (
    spent["forward"] + spent["backward"] > 0.5 * sum(spent.values())
)

# %% [markdown]
# **Read.** On a CPU: (c) and (d), and all else hardly counts. One expects twice as much for (d) as for (c): backward
# there are two products for each one of forward, the gradient by the input and the one by the weights. If forward
# takes about as long on your machine, something in it is not a product; the profile below will find it. On a fast GPU
# the last three bars shrink by a hundred and the first three do not: then (a) or (b) is the answer, and only remedies
# for *those* help. That is why one measures first.

# %% [markdown]
# ## By hand 2: two clocks
#
# Host and device are two workers with a queue between them. The device starts a step when it is queued *and* the last
# one is done. Reading a number, `loss.item()`, makes the host wait until the device has come to it.


# %%
def timeline(host_s, device_s, steps, read_every=None):
    """-> for each step (host begins, host ends, device begins, device ends), in
    seconds
    """
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


host_s, device_s, steps = 0.004, 0.006, 8
always, never = (timeline(host_s, device_s, steps, read)[-1][-1] for read in (1, None))
print(
    f"read after every step {1e3 * always:.0f} ms, read at the end {1e3 * never:.0f} ms"
)
assert math.isclose(always, steps * (host_s + device_s))  # n (h + d)
# h + n max(h, d), as d > h here
assert math.isclose(never, host_s + steps * max(host_s, device_s))


# %% tags=["hide-input"]
def draw_timeline(ax, rows, title):
    for step, (h0, h1, d0, d1) in enumerate(rows, 1):
        for lane, start, end, colour in ((1, h0, h1, "orange"), (0, d0, d1, "blue")):
            ax.barh(
                lane,
                1e3 * (end - start),
                left=1e3 * start,
                color=COLOURS[colour],
                edgecolor="white",
                height=0.7,
            )
            ink = "white" if lane == 0 else "black"
            ax.text(
                500 * (start + end),
                lane,
                step,
                ha="center",
                va="center",
                fontsize=9,
                color=ink,
            )
    ax.set(yticks=(0, 1), yticklabels=("device", "host"), xlim=(0, 84), title=title)
    ax.grid(axis="y", visible=False)
    return ax


fig, (top, bottom) = plt.subplots(2, 1, figsize=(9, 3.2), sharex=True)
draw_timeline(top, timeline(host_s, device_s, steps, 1), "read after every step")
draw_timeline(bottom, timeline(host_s, device_s, steps), "read at the end")
bottom.set_xlabel("milliseconds; the numbers count the steps")
plt.show()

# %% [markdown]
# The same work, and a third less time: without reading, the host prepares step 3 while the device computes step 2.
# What can be gained is the *smaller* of *h* and *d*. This is why `fit` keeps losses as tensors, why a `Step` reads its
# `.loss` only when you ask, and why the panel asks a few times a second and not at every step.
#
# **Predict** for *your* machine: how much faster is a loop that never reads the loss? (a) Twice. (b) 5 to 50 %.
# (c) Not at all.


# %% tags=["varies"]
def loop(read, steps=3):
    for _ in range(steps):
        outcome = train_step(model, x, y, optimizer, task_loss=F.cross_entropy)
        if read:
            outcome.loss.item()


# the work without the learning
optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
reading, silent = (
    seconds(lambda read=read: loop(read), times=1) for read in (True, False)
)
print(
    f"{where}: {3 * BATCH / reading:.0f} images/s reading every loss, "
    f"{3 * BATCH / silent:.0f} reading none"
)
assert silent < 3 * reading and (where.type != "cpu" or reading < 3 * silent)

# %% [markdown]
# **Read.** On a CPU (c): host and device are the same processor, `.item()` has nothing to wait for, and what you see
# is noise. On a GPU it depends on *h* against *d*. Three projects that stopped reading at every step report: half of
# the time gone (jolibrain/joliGEN, pull request 374), 5 to 10 % (openvdb/fvdb-reality-capture, 144), and 4 %
# (lnccbrown/LANfactory, 120), whose author had hoped for more and then found the rule above: the smaller of the two.

# %% [markdown]
# ## The same from `sftlib`
#
# First the plain loop that everybody writes; then `fit`, on the same batches. If `fit` is to be trusted with the
# tricks below, it must compute the same update to begin with.


# %%
def ordered(split=part):
    return batches(
        split,
        shuffle=True,
        augment=mirror_and_turn,
        generator=torch.Generator().manual_seed(SEED),
    )


def plain_loop(model, optimizer, loader):
    model.train()
    for x, y in loader:
        x, y = x.to(where), y.to(where)
        optimizer.zero_grad()
        loss = F.cross_entropy(model.head(model.backbone(x)), y)
        loss.backward()
        optimizer.step()
        loss.item()  # for the progress bar


def largest_difference(a, b):
    return max(
        (p - q).abs().max().item()
        for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )


one, other = build(), build()
few = part.subset(torch.arange(3 * BATCH))
plain_loop(*one, ordered(few))
for _ in fit(other[0], ordered(few), other[1], epochs=1):
    pass
moved = largest_difference(one[0], build()[0])
same = largest_difference(one[0], other[0]) < 0.01 * moved
print(
    "plain loop and fit: parameters differ by less than 1 % of what they moved:", same
)
assert same

# %% [markdown]
# ## Under a panel
#
# `fit` yields records, `LiveRun` draws them. **Pause** lets the step finish and waits; the time left stands still too.
# **Stop** ends the run. The slider multiplies every learning rate from the next step on, by way of a `Controls` that
# `fit` looks at before each step. A ring (in the still picture a star) marks the best validation so far, a dotted line
# a change of yours.
#
# Since *Run All* has no hand to move the slider, a few lines stand in for it: in the middle of the run they multiply
# the rate by `JOLT`, for two steps. **Predict**: the loss (a) hardly moves, (b) jumps and comes back within the run,
# (c) becomes `nan`, and `fit` stops.

# %%
controls = Controls()


def train(precision=None, controls=controls):
    """A fresh model and the iterator of records that trains it"""
    model, optimizer = build()
    more = {} if precision is None else {"precision": precision}
    # a batch is made, or sent, while the device computes the one before
    ahead = prefetch(ordered(on_device), where)
    return fit(
        model,
        ahead,
        optimizer,
        epochs=EPOCHS,
        val_loader=batches(cells.val),
        controls=controls,
        **more,
    )


STEPS = EPOCHS * len(ordered())
JUMP = range(STEPS // 2, STEPS // 2 + 2)


def with_a_hand_on_the_slider():
    controls.rate = 1.0
    for record in train():
        controls.rate = JOLT if getattr(record, "step", None) in JUMP else 1.0
        yield record


print(f"{STEPS} steps; α × {JOLT:g} in steps {JUMP[0] + 1} and {JUMP[-1] + 1}")

# %% tags=["varies"]
panel = LiveRun(with_a_hand_on_the_slider, controls=controls)
display(panel)
history = panel.run()
assert [change[:2] for change in history["changes"]] == [
    (JUMP[0] + 1, "rate"),
    (JUMP[-1] + 2, "rate"),
]
assert math.isclose(history["lr"][JUMP[0]], JOLT * history["lr"][0], rel_tol=1e-6)

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
panel.plot(axes)
plt.show()
before = sum(history["loss"][JUMP[0] - 5 : JUMP[0]]) / 5
worst = max(history["loss"][JUMP[0] :])
print(
    f"mean loss of the five steps before {before:.2f}, largest loss after {worst:.2f}"
)
assert worst > before

# %% [markdown]
# **Read.** (b), or (c) for who drives faster still. The jump comes one step late: the loss of a step is that *before*
# its update. Then compare the validation accuracy with the trivial baseline above: *f* carried what a million
# photographs had taught it, and a few steps that long can spoil that for good, while the loss comes back and looks
# healthy. This is what Stop, the ring at the best epoch and a checkpoint are for. Had the curve gone on as before, the
# slider would not have reached the optimizer; `history["lr"]` says for every step what it really was.

# %% [markdown]
# ## Arithmetic: bf16 and channels_last
#
# `bfloat16` keeps float32's range with 8 bits of precision instead of 24. Products of such numbers are cheap where
# the hardware has them. But a parameter must not be kept in it:

# %%
weight = {
    dtype: torch.ones((), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
}
for _ in range(1000):
    for dtype in weight:
        # a thousand small updates: from 1 to 0
        weight[dtype] -= torch.tensor(1e-3, dtype=dtype)
for dtype, value in weight.items():
    print(
        f"{dtype!s:<16} 1 - 1000 · 0.001 = {value.item():.3f}   next number above 1: "
        f"{1 + torch.finfo(dtype).eps}"
    )

# %% [markdown]
# In bf16 each update is rounded away: 1 − 0.001 is nearer to 1 than to the next smaller number. Hence **autocast**:
# weights, gradients, optimizer and losses stay float32, and only the operands of convolutions and matrix products are
# rounded. (bf16 has the range of float32, so no gradient scaler is needed; float16 needs one.)
#
# `channels_last` changes no number, only where it lies: the channels of one pixel side by side, as convolution
# kernels like to read them.

# %%
near = x[:2, :, :3, :3].cpu().clone()
last = near.contiguous(memory_format=torch.channels_last)
print("shape  ", tuple(near.shape), tuple(last.shape))
print("strides", near.stride(), last.stride(), "  equal:", torch.equal(near, last))

# %% [markdown]
# **Predict** the order on your machine: the plain loop, `fit` in float32, `fit` in the fastest arithmetic. Which
# factor would you bet on? Whether bf16 helps depends on the processor: those with bf16 units (AMX, AVX512-bf16, any
# recent GPU) gain, others lose. So it is measured, not guessed.

# %% tags=["varies"]
some = part.subset(torch.arange(4 * BATCH))
resident = to_device(some, where)
choice = measure_precision(build()[0], x, y)
print(choice)


def rate_of(work):
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return len(some) / (time.perf_counter() - start)


def run_fit(precision):
    model, optimizer = build()
    ahead = prefetch(ordered(resident), where)
    return rate_of(
        lambda: list(fit(model, ahead, optimizer, epochs=1, precision=precision))
    )


plain = build()
rates = {"plain loop": rate_of(lambda: plain_loop(*plain, ordered(some)))}
for name, precision in (
    ("fit, float32", list(choice.rates)[0]),
    (f"fit, {choice.precision}", choice.precision),
):
    rates[name] = run_fit(precision)
for name, rate in rates.items():
    print(
        f"{name:<32}{rate:7.0f} images/s   {rate / rates['plain loop']:.2f} of the "
        "plain loop"
    )
assert rates[f"fit, {choice.precision}"] > 0.5 * rates["plain loop"]

# %% [markdown]
# **Read.** The gain of `fit` over the plain loop comes from pictures that lie where they are needed and from losses
# that nobody waits for: little on a CPU, much on a GPU. The gain of the arithmetic is the processor's. If the chosen
# one is plain float32, your processor has no faster one for this network, and that is an answer too.
# (`benchmarks/gpu.py` does this with care: against the tutorial, timm's step, and a loop without data.)

# %% [markdown]
# ## A whole run on a GPU
#
# What the cells above do in small, `python benchmarks/gpu.py --record` does in full: ResNet-50 on all solar cells, the
# pictures in the GPU's memory, validated after each epoch. A recorded run is shown here with its machine and its time.

# %% tags=["varies"]
path = cache_folder().parent / "results" / "gpu_run.csv"
recorded = (
    list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    if path.exists()
    else []
)
if recorded:
    last = recorded[-1]
    print(
        f"{last['model']}, {last['weights']} weights, batches of {last['batch']}, "
        f"{last['precision']}"
    )
    print(
        f"{last['machine']}: {len(recorded)} epochs in {float(last['seconds']):.0f} s "
        "with validation"
    )
    print(
        f"test accuracy {float(last['test_accuracy']):.3f}, loss "
        f"{float(last['test_loss']):.3f}"
    )
    column = {
        name: [float(row[name]) for row in recorded]
        for name in last
        if name.startswith(("train_", "val_"))
    }
    epoch, (_, axes) = (
        [int(row["epoch"]) for row in recorded],
        plt.subplots(1, 2, figsize=(9, 3)),
    )
    for ax, name, unit in zip(
        axes, ("loss", "accuracy"), (" (nats per example)", ""), strict=True
    ):
        lines = {
            "train": (epoch, column[f"train_{name}"]),
            "validation": (epoch, column[f"val_{name}"]),
        }
        curves(ax, lines, xlabel="epoch", ylabel=name + unit)
    plt.show()
else:
    print("none has been recorded yet: no GPU was at hand")
assert not recorded or column["train_loss"][-1] < column["train_loss"][0]

# %% [markdown]
# ## Compile, and when it pays
#
# `torch.compile` translates the network into code for this machine: the first call takes long, the others less time
# each. With *T* seconds to compile and *a*, *b* seconds a step without and with, it pays after *n* steps:
#
# $$T + n\,b < n\,a \quad\Longleftrightarrow\quad n > \frac{T}{a - b}\qquad(a > b\text{; else never})$$
#
# As an example, ResNet-50 answering at 224 pixels on two processor cores with AMX, measured once for this course: 48
# pictures a second without, 120 with, after 19 seconds of compiling.

# %%
T, a, b = 19.0, 1 / 48, 1 / 120  # seconds; a picture is a step here
pays_after = T / (a - b)
print(
    f"it pays after {pays_after:,.0f} pictures, {pays_after * a:.0f} seconds of work "
    "without it"
)
numbers = torch.arange(0, 3001, 100).double()
fig, ax = plt.subplots(figsize=(6.5, 3.0))
times = {"as it is": (numbers, numbers * a), "compiled": (numbers, T + numbers * b)}
curves(ax, times, xlabel="pictures", ylabel="seconds in all")
ax.axvline(pays_after, color=COLOURS["black"], linestyle=":", linewidth=1)
plt.show()
# the first number on the grid with which it is ahead
assert 0 <= numbers[T + numbers * b < numbers * a][0] - pays_after < 100

# %% [markdown]
# A quick notebook never gets there. Compiled *training* of SqueezeNet on the same machine was even half as fast as
# without. On a GPU it is the other way round: timm's published table for an RTX 4090 shows a median factor of 1.6 for
# answering (results/benchmark-*.csv of huggingface/pytorch-image-models). The full profile measures your own.

# %% tags=["varies"]
if size.name == "full":
    found = compile_pays(build()[0], x, y, steps=EPOCHS * len(ordered()))
    print(found)
else:
    found = None
    print(
        "measured in the full profile only: compiling would take longer than this "
        "notebook"
    )
assert found is None or found.pays == (found.steps > found.break_even)

# %% [markdown]
# ## By hand 3: where the memory goes
#
# With SGD and momentum each number that learns is stored three times: the parameter, its gradient, its velocity (AdamW:
# four times). On top come the **activations**: what the forward pass keeps for the backward pass. They are counted
# here by a hook that sees each tensor that autograd keeps.


# %%
def kept_for_backward(model, x, y):
    """-> bytes of the tensors that autograd keeps, each storage counted once,
    parameters left out
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        # kept alive until the count: a freed place may be used again
        loss = F.cross_entropy(model(x), y)
    return sum(n for place, n in kept.items() if place not in own), loss


print(
    "bytes kept for one picture:",
    "more than" if kept_for_backward(model, x[:1], y[:1])[0] > 1e6 else "less than",
    "a million",
)

# %% tags=["varies"]
fixed = 3 * sum(p.numel() * 4 for p in model.parameters())
counts = (1, 4, 8, 16)
activations = [kept_for_backward(model, x[:n], y[:n])[0] for n in counts]
print(f"parameters, gradients, velocities {fixed / 1e6:6.1f} MB whatever the batch")
for n, count in zip(counts, activations, strict=True):
    print(f"activations for {n:>2} picture(s)       {count / 1e6:6.1f} MB")
first, second = (
    (activations[3] - activations[2]) / 8,
    (activations[2] - activations[1]) / 4,
)
print(f"each further picture              {first / 1e6:6.2f} MB")
assert abs(first / second - 1) < 0.05  # it grows in a straight line

# %% [markdown]
# Activations grow with the batch, all else does not: with 16 pictures they are already most of it. When memory runs
# out, the batch is the lever. A smaller batch, though, is another training: noisier gradients, another best α. The
# way out is **micro-batches**: parts of the batch one after the other, their gradients added up, then *one* update.
# *L* is a mean over *N* pictures, so a part with *n* of them counts with *n/N* (notebook 04):
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
print(
    "gradient of 11 pictures, at once and as 4 + 4 + 3: relative difference < 1 %: "
    f"{bool(off < 0.01)}"
)
assert off < 0.01

# %% [markdown]
# ## When memory runs out
#
# `fit` does this by itself. When a batch does not fit, it halves the part, computes the *same batch* again from the
# same random numbers, and goes on; it says so once. Nobody's memory is filled here: the *f* below refuses more than 5
# pictures with the error that PyTorch raises on a GPU.
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
                f"no room for {len(x)} pictures: out of memory (simulated)"
            )
        self.seen.append(len(x))
        return self.f(x)


enough, small = build("cpu"), build("cpu")
small[0].backbone = SmallDevice(small[0].backbone)
three = part.subset(torch.arange(48))
sixteen = [
    (f.preprocess(three.pictures[i : i + 16]), three.labels[i : i + 16])
    for i in (0, 16, 32)
]
list(fit(enough[0], sixteen, enough[1], epochs=1))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    list(fit(small[0], sixteen, small[1], epochs=1))
print(*(str(warning.message) for warning in said), sep="\n")
print("pictures at once:", small[0].backbone.seen)
print(
    "(the first batch went through twice: once to see whether the loss allows the cut)"
)
off, moved = (
    largest_difference(enough[0], small[0]),
    largest_difference(enough[0], build("cpu")[0]),
)
print(f"parameters differ by less than 1 % of what they moved: {off < 0.01 * moved}")
assert len(said) == 1 and off < 0.01 * moved

# %% [markdown]
# **Read.** (b): sums in another order round differently. Were the batches smaller, three updates would have become
# twelve, and the parameters would lie elsewhere. What cannot be cut so: BatchNorm in `train` mode and losses that
# compare the pictures of a batch (notebook 03's contrastive one); `fit` refuses the latter instead of computing
# something else. Other ways to save memory: bf16 (half the activations), a frozen *f* (none below the cut), smaller
# pictures.

# %% [markdown]
# ## Killed, and resumed
#
# A checkpoint must hold everything that the next step depends on. Which of these can be left out?
#
# parameters · BatchNorm averages · velocities of the optimizer · place in the schedule · state of every random
# generator · place in the shuffled order · controls · precision · versions and number of threads
#
# **Predict** first. Then this small run saves itself after *every* step, and is killed without warning in the middle
# of an epoch.

# %%
SCRIPT = """
import sys
from pathlib import Path

import torch

from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import PictureSplit, augment, loader
from sftlib.model import LinearHead, Model
from sftlib.training import Step, fit, save_checkpoint

def parts(folder):
    torch.manual_seed(0)
    f = load_backbone("squeezenet1_1", size=64)
    model = Model(f, LinearHead(f.feature_dim, 2))
    groups = param_groups(f=(f, 1e-4), g=(model.head, 1e-3))
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    saved = torch.load(folder / "pictures.pt", weights_only=True)
    pictures, labels = saved["pictures"], saved["labels"]
    split = PictureSplit(pictures, labels, ("",) * len(labels))
    batches = loader(split, f.preprocess, batch_size=7, shuffle=True,
                     augment=augment.flip, generator=torch.Generator().manual_seed(0))
    return model, optimizer, batches

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model, optimizer, batches = parts(folder)
    for record in fit(model, batches, optimizer, epochs=3):
        if isinstance(record, Step):
            save_checkpoint(folder / "run.pt", model, optimizer, step=record)
            print(record.step, flush=True)
"""
kept = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
folder = Path(kept.name)
(folder / "small_run.py").write_text(SCRIPT, encoding="utf-8")
little = solar_cells.load(size=SMALL, seed=SEED).train.subset(chosen[:31])
torch.save(
    {"pictures": little.pictures.clone(), "labels": little.labels},
    folder / "pictures.pt",
)
print(
    f"{len(little)} pictures in batches of 7: {math.ceil(len(little) / 7)} steps an "
    "epoch, the last with 3 pictures"
)

# %% tags=["varies"]
command, errors = [sys.executable, folder / "small_run.py", folder], folder / "errors"
with open(errors, "w", encoding="utf-8") as stderr:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True
    )
reached = any(line.strip() == "7" for line in process.stdout)  # in the second epoch
process.kill()  # SIGKILL: it cannot tidy up
process.stdout.close()
status, left = process.wait(), sorted(p.name for p in folder.glob("run.pt*"))
print("its exit status:", status, "  it left:", left)
words = errors.read_text(encoding="utf-8", errors="replace")
assert reached and status != 0 and "run.pt" in left, words

# %% [markdown]
# Now the same run three times in this process: never interrupted; resumed from what the killed process left; and
# resumed by somebody who saved the model only.

# %%
sys.path.insert(0, str(folder))
from small_run import parts  # noqa: E402


def end_of(records, model):
    for _ in records:
        pass
    return torch.cat([p.detach().flatten() for p in model.parameters()])


model, optimizer, ordered_small = parts(folder)
never_stopped = end_of(fit(model, ordered_small, optimizer, epochs=3), model)

model, optimizer, ordered_small = parts(folder)
found = load_checkpoint(folder / "run.pt", model, optimizer)
resumed = end_of(fit(model, ordered_small, optimizer, epochs=3, resume=found), model)

forgetful, optimizer, ordered_small = parts(folder)
# the optimizer and the place are thrown away
load_checkpoint(folder / "run.pt", forgetful, parts(folder)[1])
model_only = end_of(
    fit(forgetful, ordered_small, optimizer, epochs=3, first_epoch=found.epoch + 1),
    forgetful,
)

print("resumed = never interrupted, bit for bit:", torch.equal(resumed, never_stopped))
print(
    "model only = never interrupted, bit for bit:",
    torch.equal(model_only, never_stopped),
)
assert torch.equal(resumed, never_stopped) and not torch.equal(
    model_only, never_stopped
)

# %% [markdown]
# **Read.** Nothing can be left out. Without the velocities and the place in the epoch the run goes on, its loss looks
# healthy, and it ends somewhere else: every comparison of two runs is then off by what the crash did. Bit for bit
# holds on a CPU, on the same machine, with the same versions and number of threads; the file knows them, and
# `load_checkpoint` refuses others unless told `exact=False`. GPUs add numbers in an order that may change, so there
# the run goes on, but not to the bit.

# %% [markdown]
# ## Where it breaks
#
# Half a file. It cannot come from `save_checkpoint`, which writes beside the old file and renames the new one only
# when it is complete; but copies break off, and disks fill up.

# %% tags=["raises-exception"]
whole_file = (folder / "run.pt").read_bytes()
(folder / "half.pt").write_bytes(whole_file[: len(whole_file) // 2])
model, optimizer, _ = parts(folder)
with contextlib.chdir(folder):
    load_checkpoint("half.pt", model, optimizer)

# %% [markdown]
# The message names the file, and the model was left as it was: all of a checkpoint is put in place, or nothing.
# Reading executes no code either (`weights_only=True`). A pickle from a stranger can do on your machine whatever the
# stranger likes, and most checkpoints on the web are pickles.

# %% [markdown]
# ## A profile, read together
#
# The clock told how long the pieces take. The **profiler** records every operation inside. Read its table from the
# top: which operation holds the time, how often it is called, and is that what *must* be computed?


# %% tags=["varies"]
# the profiler's own messages are for its developers
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def profiled(precision):
    """Two steps under the profiler"""
    model, optimizer = build()
    precision.place(model)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if where.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        for _ in range(2):
            with torch.profiler.record_function("batch"):
                pixels = precision.place(
                    f.preprocess(mirror_and_turn(part.pictures[:BATCH], draw)).to(where)
                )
            with (
                torch.profiler.record_function("forward"),
                precision.autocast(where.type),
            ):
                loss = F.cross_entropy(model(pixels), y)
            with torch.profiler.record_function("backward"):
                loss.backward()
            with torch.profiler.record_function("update"):
                optimizer.step()
                optimizer.zero_grad()
            synchronize()
    return recorded


def own_ms(row):
    return (
        row.self_device_time_total if where.type == "cuda" else row.self_cpu_time_total
    ) / 1e3


profiles = {str(precision): profiled(precision) for precision in list(choice.rates)[:2]}
on_host = [
    [row for row in p.key_averages() if "CPU" in str(row.device_type)]
    for p in profiles.values()
]
# with the kernels that each one queued
before, after = ({row.key: row for row in rows} for rows in on_host)
print(
    f"{'own time in milliseconds of':<42}{'calls':>6}"
    + "".join(f"{name:>24}" for name in profiles)
)
for row in sorted(before.values(), key=own_ms, reverse=True)[:8]:
    ms = [own_ms(t[row.key]) if row.key in t else 0.0 for t in (before, after)]
    print(f"{row.key[:41]:<42}{row.count:>6}" + "".join(f"{v:>24.1f}" for v in ms))
convolutions = sum(isinstance(m, nn.Conv2d) for m in build()[0].modules())
calls = before["aten::conv2d"].count, before["aten::convolution_backward"].count
print(
    f"{convolutions} convolutions, 2 steps: {calls[0]} calls forward, {calls[1]} "
    "backward"
)
assert calls == (2 * convolutions, 2 * convolutions)

# %% tags=["varies", "hide-input"]
KINDS = {
    "convolution": ("blue", ("aten::_convolution", "aten::convolution_backward")),
    "pooling": (
        "orange",
        ("aten::max_pool2d_with_indices", "aten::max_pool2d_with_indices_backward"),
    ),
    "ReLU": (
        "green",
        ("aten::relu_", "aten::relu", "aten::clamp_min_", "aten::threshold_backward"),
    ),
}


def spans_of(events, zero):
    """-> (start, length) of each, in milliseconds after zero"""
    return [
        (
            (e.time_range.start - zero) / 1e3,
            (e.time_range.end - e.time_range.start) / 1e3,
        )
        for e in events
    ]


def draw_profile(ax, recorded, title):
    events = [e for e in recorded.events() if "CPU" in str(e.device_type)]
    phases = [e for e in events if e.name in ("batch", "forward", "backward", "update")]
    zero = min(e.time_range.start for e in phases)
    for e, (start, length) in zip(phases, spans_of(phases, zero), strict=True):
        ax.barh(1, length, left=start, color="#EDEDED", edgecolor="black", height=0.6)
        if e.name in ("forward", "backward"):
            ax.text(start + length / 2, 1, e.name, ha="center", va="center", fontsize=9)
    for kind, (colour, names) in KINDS.items():
        own = spans_of([e for e in events if e.name in names], zero)
        ax.broken_barh(own, (-0.3, 0.6), color=COLOURS[colour], linewidth=0, label=kind)
    ax.set(
        yticks=(0, 1),
        yticklabels=("operations", "piece"),
        ylim=(-0.6, 1.5),
        title=title,
    )
    return phases


fig, axes = plt.subplots(2, 1, figsize=(9, 3.8), sharex=True)
drawn = [
    draw_profile(ax, recorded, name)
    for ax, (name, recorded) in zip(axes, profiles.items(), strict=True)
]
axes[1].set_xlabel("milliseconds since the first batch; two steps")
axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=4)
plt.show()
assert [len(phases) for phases in drawn] == [8, 8]

# %% [markdown]
# **Read.** Convolutions should be on top, backward more than forward, each called exactly as often as there are
# convolutions: that *is* the work. Now look for what is not. On the CPUs that we tried, `max_pool2d` stands among the
# first, though it multiplies nothing: it compares neighbours that lie far apart in memory. In the right column the
# channels lie side by side, and it takes a fraction of that. Much of what `channels_last` gave this network above
# is that. (A table from a busy machine is itself only half true: run it twice.)
#
# Other signs of waste: gaps in the row of operations (the device waits for the host), `aten::copy_` or `aten::to`
# near the top (data is moved or converted again and again), `aten::item` (somebody reads), and thousands of calls of
# tiny operations.

# %% [markdown]
# ## By hand 4: several devices
#
# Each of *W* workers holds a copy of the model, takes a *shard* of each batch, and computes its gradient. The
# gradients are averaged, everybody makes the same update, and the copies stay equal. DistributedDataParallel averages
# *over workers*. That is the gradient of the batch only if all shards have the same size:
#
# $$\nabla L = \sum_w \frac{n_w}{N}\,\nabla L_w = \frac1W\sum_w \Bigl(\frac{W n_w}{N}\Bigr)\nabla L_w$$
#
# So each worker's gradient must be weighted by $W n_w/N$ before the average. With 7 rows on 2 workers:

# %%
draw7 = torch.Generator().manual_seed(SEED)
rows7, labels7 = (
    torch.randn(7, 5, generator=draw7, dtype=torch.float64),
    torch.arange(7) % 3,
)
W7 = torch.randn(3, 5, generator=draw7, dtype=torch.float64, requires_grad=True)


def gradient_of(rows):
    return torch.autograd.grad(F.cross_entropy(rows7[rows] @ W7.T, labels7[rows]), W7)[
        0
    ]


shards = (torch.arange(4), torch.arange(4, 7))
batch = gradient_of(torch.arange(7))
mean = sum(gradient_of(rows) for rows in shards) / 2
weighted = sum(gradient_of(rows) * 2 * len(rows) / 7 for rows in shards) / 2
for name, result in (("mean over workers", mean), ("weighted by 2 n / 7", weighted)):
    print(
        f"{name:<22}off by {(result - batch).norm() / batch.norm():.4f} of the batch's "
        "gradient"
    )
assert torch.allclose(weighted, batch) and not torch.allclose(mean, batch)

# %% [markdown]
# ## Two processes
#
# `torchrun` starts the same script *W* times and tells each its number. The script below is the small run of above
# with three words more: `workers()`, `Parallel`, `Shards`. Two processes share every batch of 7 as 4 + 3 (the last
# one, of 3, as 2 + 1). **Predict**: after an epoch, are the parameters those of one process?
#
# (a) No: two models, two trainings. (b) Up to rounding. (c) Twice as far: two workers, twice the gradient.

# %%
WORKERS = """
import sys
from pathlib import Path

import torch
from small_run import parts

from sftlib.training import Epoch, Parallel, Shards, fit, workers

folder = Path(sys.argv[1])
with workers() as group:
    model, optimizer, batches = parts(folder)
    model = Parallel(model.to(group.device), group)
    for record in fit(model, Shards(batches, group), optimizer, epochs=1):
        if isinstance(record, Epoch) and group.leads:  # one of them writes
            print(f"{group.world} workers, {record.train['n']} pictures")
            found = {"model": model.state_dict(), "train": record.train}
            torch.save(found, folder / "together.pt")
"""
(folder / "two_workers.py").write_text(WORKERS, encoding="utf-8")
model, optimizer, ordered_small = parts(folder)
alone = list(fit(model, ordered_small, optimizer, epochs=1))[-1].train
print(f"one process: {alone['n']} pictures")

# %% tags=["varies"]
threads = str(max(1, torch.get_num_threads() // 2))  # two workers share the processor
# on the CPU everywhere
environment = os.environ | {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
meeting = ["--standalone"]
# PyTorch for Windows lacks libuv, through which torchrun's workers meet: there at a
# file instead
if os.name == "nt":
    meeting = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file"]
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
command = [
    "-m",
    "torch.distributed.run",
    *meeting,
    "--nproc-per-node=2",
    folder / "two_workers.py",
    folder,
]
done = subprocess.run(
    [sys.executable, *command], env=environment, capture_output=True, text=True
)
print(done.stdout)
assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"

# %%
together = torch.load(folder / "together.pt", weights_only=True)
start = parts(folder)[0].state_dict()
off = max(
    (together["model"][name] - value).abs().max().item()
    for name, value in model.state_dict().items()
)
moved = max(
    (start[name] - value).abs().max().item()
    for name, value in model.state_dict().items()
)
print(f"parameters differ by less than 1 % of what they moved: {off < 0.01 * moved}")
print(
    "the same number of right answers:",
    together["train"]["accuracy"] == alone["accuracy"],
)
assert off < 0.01 * moved and together["train"]["n"] == alone["n"]

# %% [markdown]
# **Read.** (b): up to rounding, sums in another order. So nothing need be tuned again when devices are added, as long
# as the *whole* batch stays what it was. Accuracy and loss are sums over both workers, divided once. It holds because
# every worker draws the augmentation of the whole batch and keeps its rows, and because SqueezeNet has neither
# BatchNorm nor, as we cut it, dropout.
#
# The course's script for this is `tools/train.py`, on one device or many:
#
# ```
# python tools/train.py PICTURES --out RUN
# torchrun --standalone --nproc-per-node=8 tools/train.py PICTURES --out RUN --resume
# torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 tools/train.py …
# ```

# %% [markdown]
# ## CPU, CUDA, MPS
#
# | | CPU | CUDA (NVIDIA) | MPS (Apple) |
# |---|---|---|---|
# | a step waits when you read | no, it is done | `.item()`, `.cpu()`, `print` | the same |
# | bf16 autocast | fast with AMX or AVX512-bf16 | fast since 2020 (Ampere) | measure |
# | `channels_last` | often | mostly with bf16 | measure |
# | non_blocking, pinned memory | no use | from pinned memory only | no use: shared memory |
# | float64 | yes | yes, slow on most | no |
# | several devices | gloo, for tests | NCCL, one process a GPU | no |
# | same bits again | yes | not promised | not promised |
# | memory in use | the system's monitor | `torch.cuda.memory_summary()` | `torch.mps.current_allocated_memory()` |

# %% [markdown]
# ## Play
#
# **The panel is yours.** Start it, pause it, move the rate while it runs, stop it, start it again. Does the curve
# answer at the step where you let go of the slider? What does a factor of 0.1 do to the jags? Can you save a run that
# you drove too fast?

# %% tags=["varies"]
yours = Controls()
playground = LiveRun(lambda: train(choice.precision, yours), controls=yours)
display(playground)
assert not playground.running and playground.history["step"] == []

# %% [markdown]
# **Does it pay to compile?** The crossing of the two lines, for any *T*, *a* and *b*.

# %% tags=["varies"]
sliders = {
    "T": w.FloatLogSlider(
        value=30, base=10, min=0, max=2.5, step=0.1, description="compiling T (s)"
    ),
    "a": w.FloatLogSlider(
        value=50, base=10, min=0, max=3, step=0.05, description="a step without, a (ms)"
    ),
    "share": w.FloatSlider(value=0.7, min=0.3, max=1.2, step=0.05, description="b / a"),
}


def compare(settings):
    T, a, b = (
        settings["T"],
        settings["a"] / 1e3,
        settings["share"] * settings["a"] / 1e3,
    )
    pays = T / (a - b) if a > b else math.inf
    steps = torch.linspace(0, 2 * pays if math.isfinite(pays) else 2 * T / a, 50)
    return {
        "times": {"as it is": (steps, steps * a), "compiled": (steps, T + steps * b)},
        "pays": pays,
        "a": a,
    }


def draw_comparison(ax, found):
    curves(ax, found["times"], xlabel="steps", ylabel="seconds in all")
    never = not math.isfinite(found["pays"])
    pays = (
        "never"
        if never
        else f"after {found['pays']:,.0f} steps, "
        f"{found['pays'] * found['a'] / 60:.1f} minutes of work"
    )
    ax.set_title(f"pays {pays}")


explorer = Explorer(sliders, compare, draw_comparison, figsize=(6.5, 3.0))
explorer

# %% tags=["varies"]
assert explorer.error is None
explorer.still()

# %% [markdown]
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: shards of different size
#
# Complete `combine`: the gradients of the workers' mean losses and the sizes of their shards give the gradient of the
# mean loss over the whole batch. A shard may be empty; its gradient is then made of `nan` (a mean over nothing).


# %% tags=["exercise"]
def combine(gradients, sizes):
    """gradients: list of tensors of one shape, sizes: list of whole numbers ->
    the gradient of the whole batch
    """
    # BEGIN SOLUTION
    # STUB: ...
    total = sum(sizes)
    return sum(
        gradient * (size / total)
        for gradient, size in zip(gradients, sizes, strict=True)
        if size > 0
    )
    # END SOLUTION


check("06.shards", combine)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A mean over 7 rows is (4 · mean of the first 4 + 3 · mean of the last 3) / 7. Gradients follow the same rule.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The weight of a shard is its size divided by the sum of the sizes.
#
# </details>
# <details><summary>Hint 3</summary>
#
# 0 · nan is nan: leave empty shards out instead of giving them the weight 0.
#
# </details>

# %% [markdown]
# ### ★ Exercise 2: a large batch in small parts
#
# Complete `accumulate`: leave in every `p.grad` the gradient of the mean loss over all rows of *x*, but never give
# the model more than `size` rows at once. The last part may be smaller. What was in `.grad` before is old.


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
# <details><summary>Hint 1</summary>
#
# `x.split(size)` gives the parts; `backward` adds to `.grad` by itself.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `F.cross_entropy` is the mean over the part. What must it be multiplied by so that the parts add up to the mean over
# all?
#
# </details>
# <details><summary>Hint 3</summary>
#
# The weight is `len(y_part) / len(y)`, and not one over the number of parts. Clear the gradients once, at the start.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: who makes the host wait?
#
# A loop on a GPU; `loss` and `logits` are tensors there, `hits` is too. Which of the lines make Python wait for the
# device? Answer with the set of their letters.
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

# %% tags=["exercise"]
# BEGIN SOLUTION
# STUB: waits = ...  # for example {"A", "B"}
waits = {"E", "F", "H"}
# END SOLUTION

check("06.waits", waits)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Python must wait where it needs a *value*: to decide, to print, to know a size.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Adding two tensors on the device, or putting a tensor into a list, needs no value.
#
# </details>
# <details><summary>Hint 3</summary>
#
# How many rows does a tensor have that was picked by a mask? Somebody must count before memory can be reserved.
#
# </details>

# %% [markdown]
# ### ★ Exercise 4: after how many steps does it pay?
#
# Complete `pays_after`: the smallest whole number of steps after which compiling has taken *less* time in all. If it
# never does, `math.inf`.


# %% tags=["exercise"]
def pays_after(compile_s, step_s, compiled_step_s):
    """seconds to compile, seconds a step without and with -> number of steps, or
    math.inf
    """
    # BEGIN SOLUTION
    # STUB: ...
    if compiled_step_s >= step_s:
        return math.inf
    return math.floor(compile_s / (step_s - compiled_step_s)) + 1
    # END SOLUTION


check("06.pays_after", pays_after)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write down both times after *n* steps. When is one smaller than the other?
#
# </details>
# <details><summary>Hint 2</summary>
#
# n > T / (a − b), and what if a − b is 0, or negative?
#
# </details>
# <details><summary>Hint 3</summary>
#
# *Less*, not equal: at n = T / (a − b) exactly they are level, so one more is needed.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 5: a slower host
#
# In `timeline`, let the host need 9 ms and the device 6 ms. **Predict** both times for 8 steps, and which worker
# waits. Which remedies of this notebook help now, and which do not? Then read the loss every 4 steps instead of every
# one: how much of the gain is left?
#
# ### ★★ Exercise 6: forget one thing
#
# In the small run, pass `optimizer=parts(folder)[1]` to `load_checkpoint` but keep `resume=found`, so that only the
# velocities are lost. **Predict**: is the end closer to the run that was never stopped than `model_only` is? Measure
# `(a - b).norm()` for both.

# %% [markdown] tags=["solution"]
# **Exercise 5.** With h = 9 and d = 6: reading every step 8 · 15 = 120 ms, reading at the end 8 · 9 + 6 = 78 ms, and
# the *device* waits. Faster arithmetic, compiling and a larger GPU change nothing; decoding ahead, batched
# augmentation and data in the device's memory do. Reading every 4 steps costs two waits of 6 ms instead of eight, 84
# ms in all: most of the gain is left.
#
# **Exercise 6.** The order of the pictures and all draws are then right, and only the velocities start from zero, so
# one expects it to be closer. In our run it was hardly so: at a momentum of 0.9 a velocity takes some ten steps to be
# rebuilt, and eight were left. With more steps to go the right order would count for more, but the end is never the
# same again.

# %% [markdown]
# ### ★★★ Exercise 7: a faster loop than ours
#
# Take the profile of *your* machine and name the largest thing that is not the work itself. Remove it, show with
# paired runs in turns (`benchmarks/` has examples) that it is gone and that the parameters are still the same. Send
# it to us.

# %% [markdown]
# ## Remember
#
# - Measure before you mend: what can be gained by overlapping is the smaller of *h* and *d*, and nothing on a CPU.
# - Reading a tensor waits. Keep losses as tensors, read them a few times a second.
# - Memory is mostly activations: they grow with the batch. Parts of a batch, weighted by *n/N*, give the same update,
#   one after the other (micro-batches) or side by side (workers).
# - A run that can be resumed holds *everything* the next step depends on, is written whole or not at all, and is
#   checked bit for bit.
# - **Limits**: times are of one machine and one run; on a laptop they say little about a GPU. The equalities hold for
#   losses that are means over pictures, without dropout, and with BatchNorm that does not look at the batch.
#
# **References.** Iandola et al. 2016, arXiv 1602.07360 (SqueezeNet). Li et al. 2020, arXiv 2006.15704 (PyTorch
# Distributed). Micikevicius et al. 2018, arXiv 1710.03740 (mixed precision). Goyal et al. 2017, arXiv 1706.02677 (large
# batches on many workers). Deitsch et al. 2019, arXiv 1807.02894 (solar cells). Next: **07 Which pretrained model?**
