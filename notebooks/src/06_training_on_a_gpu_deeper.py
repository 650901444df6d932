# %% [markdown]
# # 06 Training on a GPU, going deeper: 16 bits, compiling, a profile, several devices
#
# Four ways to make the step of notebook 06 faster, and what each has to be measured against: arithmetic in 16 bits, a
# compiled network, a profile that says where the time goes, and a second process.
#
# Afterwards you can
#
# - say what bfloat16 may round and what it must not, and measure whether it pays on your machine;
# - count what lies in memory for the backward pass, and after how many steps compiling pays;
# - weight the gradients of unequal shards so that several workers make one update.
#
# **55 minutes** to read and try, 1 minute to run. You need notebook 06; what it defined stands again in the first
# cells. What is said of GPUs is a rule or a citation, and no result: none was at hand.

# %% tags=["setup"]
import math
import os
import subprocess
import sys
import tempfile
from time import perf_counter

import ipywidgets as w
import matplotlib.pyplot as plt
import torch

import sftlib.model as models
import sftlib.results as tables
from sftlib import adaptation, backbones, datasets, plotting, runtime, training, widgets
from sftlib.checks import check
from sftlib.datasets import augment, on_device, solar_cells

F, nn, COLOURS = torch.nn.functional, torch.nn, plotting.COLOURS
plotting.use_style()

# %% [markdown]
# ## The same set-up

# %% tags=["varies", "setup"]
size, where, SEED = runtime.profile(), runtime.device(), 0
# with a network also resnet50
BACKBONE = size.pick(quick="squeezenet1_1", full="efficientnet_lite0")
SIDE = size.pick(quick=96, full=224)  # pixels
PICTURES = size.pick(quick=320, full=1667)  # training pictures
BATCH = size.pick(quick=16, full=128)  # pictures a step
EPOCHS = size.pick(quick=3, full=10)
LR_F, LR_G = 5e-4, 1e-3  # α of f and of g
print(f"this machine computes on: {where}, with {torch.get_num_threads()} CPU threads")
assert torch.ones(2, 3, device=where).sum().item() == 6  # and it does

# %%
cells = solar_cells.load(size=SIDE, seed=SEED)
chosen = torch.randperm(
    len(cells.train), generator=torch.Generator().manual_seed(SEED)
)[:PICTURES]
part = cells.train.subset(chosen)
turn = augment.Chain((augment.flip, augment.rotate))
f = backbones.load_backbone(BACKBONE, size=SIDE)
x = f.preprocess(part.pictures[:BATCH]).to(where)
y = part.labels[:BATCH].to(where)
print(f"{len(part):,} pictures {tuple(part.pictures.shape[1:])}")


# %%
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


def synchronize():
    if where.type in ("cuda", "mps"):
        getattr(torch, where.type).synchronize()


model, optimizer = build()
print(f"{sum(p.numel() for p in model.parameters()):,} numbers can learn")


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


print(len(ordered()), "batches")

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
# weights, gradients, optimizer and losses stay float32; the operands of convolutions and matrix products are rounded to
# bf16, and so are their results. (bf16 has the range of float32, so no gradient scaler is needed; float16 needs one.)
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
def rate_of(work):
    """-> pictures a second: slowest, median, fastest of three calls, after a first"""
    spent = []
    for _ in range(4):
        synchronize()
        start = perf_counter()
        work()
        synchronize()
        spent.append(perf_counter() - start)
    return [len(some) / s for s in sorted(spent[1:], reverse=True)]


some = part.subset(torch.arange(4 * BATCH))
choice = training.measure_precision(build()[0], x, y)
print(choice)
assert choice.rates[choice.precision] > 0


# %% tags=["varies"]
def run_fit(precision):
    model, optimizer = build()
    resident = on_device.to_device(some, where)
    ahead = on_device.prefetch(ordered(resident), where)
    how = {"epochs": 1, "precision": precision}
    return rate_of(lambda: list(training.fit(model, ahead, optimizer, **how)))


plain = build()
rates = {"plain loop": rate_of(lambda: plain_loop(*plain, ordered(some)))}
for precision in dict.fromkeys((runtime.FLOAT32, choice.precision)):
    rates[f"fit, {precision}"] = run_fit(precision)
for name, (slow, rate, fast) in rates.items():
    print(f"{name:<31}{rate:4.0f} pictures/s ({slow:.0f} to {fast:.0f})", end=", ")
    print(f"{rate / rates['plain loop'][1]:.2f} times")
assert rates[f"fit, {choice.precision}"][1] > 0.5 * rates["plain loop"][1]

# %% [markdown]
# **Read.** The median of three runs over four batches, after one that warms up; brackets: the slowest and the fastest.
# Factors within that spread show nothing. What `fit` saves, sending and waiting for losses, hardly exists on a CPU; on
# a GPU it must be measured. For the arithmetic compare the three lines of `measure_precision`, one cell earlier: the
# first two differ by the layout only, the last two by bf16. They are single numbers without a spread: trust large
# differences only. If plain float32 is chosen, none of them is faster on your processor for this network: an answer
# too. (`benchmarks/gpu.py` does this with care: against the tutorial, timm's step, and a loop without data.)

# %% [markdown]
# ## A whole run on a GPU
#
# What the cells above do in small, `python benchmarks/gpu.py --record` does in full: ResNet-50 on all solar cells, the
# pictures in the GPU's memory, validated after each epoch. Once one is recorded, it is shown here with its machine.

# %%
recorded = tables.read("gpu_run")
for row in recorded:
    print(*(f"{name} {row[name]}" for name in ("machine", "epoch", "val_accuracy")))
print(f"{len(recorded)} epochs recorded", "" if recorded else "yet: no GPU was at hand")
losses = [float(row["train_loss"]) for row in recorded]
assert not recorded or losses[-1] < losses[0]

# %% [markdown]
# ## Compile, and when it pays
#
# `torch.compile` translates the network into code for this machine: the first call takes long, the others, if it
# succeeds, less time each. With *T* seconds to compile and *a*, *b* seconds a step without and with, it pays after
# so many steps:
#
# $$T + \text{steps}\cdot b < \text{steps}\cdot a \quad\Longleftrightarrow\quad
# \text{steps} > \frac{T}{a - b}\qquad(a > b\text{; else never})$$
#
# As an example, ResNet-50 answering at 224 pixels on two processor cores with AMX: 48 pictures a second without, 120
# with, after 19 seconds of compiling. (A note of one run; no table holds it.)

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
plotting.curves(ax, times, xlabel="pictures", ylabel="seconds in all")
ax.axvline(pays_after, color=COLOURS["black"], linestyle=":", linewidth=1)
plt.show()
# the first number on the grid with which it is ahead
assert 0 <= numbers[T + numbers * b < numbers * a][0] - pays_after < 100

# %% [markdown]
# A quick notebook never gets there. What compiling brings for *answering* on an RTX 4090 is in two tables of
# timm (github.com/huggingface/pytorch-image-models, folder results: benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv
# and …-rtx4090-dynamo.csv); *training* may gain less, or lose. The full profile measures your own.

# %%
if size.name == "full":
    found = training.compile_pays(build()[0], x, y, steps=EPOCHS * len(ordered()))
    print(found)
else:
    found = None
    print(
        "measured in the full profile only: compiling would take longer than this "
        "notebook"
    )
assert found is None or found.pays == (found.steps > found.break_even)

# %% [markdown]
# ## By hand: where the memory goes
#
# With SGD and momentum each number that learns is stored three times: the parameter, its gradient, its velocity (AdamW:
# four times). On top come the **activations**: what the forward pass keeps for the backward pass. They are counted
# here by a hook that sees each tensor that autograd keeps.


# %%
def kept_for_backward(model, x, y):
    """-> bytes that autograd keeps, each storage once, parameters left out; the loss"""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        # alive until the count: a freed place may be used again
        loss = F.cross_entropy(model(x), y)
    return sum(n for place, n in kept.items() if place not in own), loss


print("more than a million bytes:", kept_for_backward(model, x[:1], y[:1])[0] > 1e6)

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
# Activations grow with the batch, all else does not: with 16 pictures they are already most of it. This is why parts of
# a batch (notebook 06) save memory, and why freezing does: below the cut of a frozen *f* nothing is kept.

# %% [markdown]
# ## A profile, read together
#
# The clock told how long the pieces take. The **profiler** records every operation inside. Read its table from the
# top: which operation holds the time, how often it is called, and is that what *must* be computed?


# %%
# the profiler's own messages are for its developers
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
draw, phase = torch.Generator().manual_seed(SEED), torch.profiler.record_function


def two_steps(model, optimizer, precision):
    for _ in range(2):
        with phase("batch"):
            pixels = f.preprocess(turn(part.pictures[:BATCH], draw)).to(where)
        with phase("forward"), precision.autocast(where.type):
            loss = F.cross_entropy(model(precision.place(pixels)), y)
        with phase("backward"):
            loss.backward()
        with phase("update"):
            optimizer.step()
        synchronize()


# %% tags=["varies"]
def profiled(precision):
    """Two steps under the profiler"""
    model, optimizer = build()
    precision.place(model)
    two_steps(model, optimizer, precision)  # warms up
    with torch.profiler.profile() as recorded:  # of the device too, where there is one
        two_steps(model, optimizer, precision)
    return recorded


def own_ms(row):
    on_gpu = where.type == "cuda"
    return (row.self_device_time_total if on_gpu else row.self_cpu_time_total) / 1e3


profiles = {str(precision): profiled(precision) for precision in list(choice.rates)[:2]}

# %% tags=["varies"]
averages = [p.key_averages() for p in profiles.values()]
# what the host did, with the kernels that it queued
before, after = ({r.key: r for r in a if "CPU" in str(r.device_type)} for a in averages)
print(f"{'own milliseconds of':<34}{'calls':>6}", *(f"{n:>23}" for n in profiles))
for row in sorted(before.values(), key=own_ms, reverse=True)[:8]:
    ms = [own_ms(t[row.key]) if row.key in t else 0.0 for t in (before, after)]
    print(f"{row.key[:33]:<34}{row.count:>6}", *(f"{v:>23.1f}" for v in ms))
n = sum(isinstance(m, nn.Conv2d) for m in build()[0].modules())
calls = before["aten::conv2d"].count, before["aten::convolution_backward"].count
print(f"{n} convolutions, 2 steps: {calls[0]} calls forward, {calls[1]} backward")
assert calls == (2 * n, 2 * n)

# %% tags=["hide-input"]
# greys
PIECES = {"batch": "1.0", "forward": "0.9", "backward": "0.65", "update": "0.0"}
KINDS = {
    "convolution": ("blue", "conv"),
    "pooling": ("orange", "max_pool2d_with"),
    "ReLU": ("green", "relu clamp_min_ threshold_backward"),
}


def spans_of(events, zero):
    """-> (start, length) of each, in milliseconds after zero"""
    spans = [(e.time_range.start - zero, e.time_range.end) for e in events]
    return [(start / 1e3, (end - zero - start) / 1e3) for start, end in spans]


def is_of(event, names):
    own = event.name.removeprefix("aten::")
    return event.name != own and any(
        own.lstrip("_").startswith(n) for n in names.split()
    )


# %% tags=["hide-input"]
def draw_profile(ax, recorded, title):
    events = [e for e in recorded.events() if "CPU" in str(e.device_type)]
    phases = [e for e in events if e.name in PIECES]
    zero = min(e.time_range.start for e in phases)
    for piece, colour in PIECES.items():
        own = spans_of([e for e in phases if e.name == piece], zero)
        how = {"facecolor": colour, "edgecolor": "black", "label": piece}
        ax.broken_barh(own, (0.7, 0.6), **how)
    for kind, (colour, names) in KINDS.items():
        own = spans_of([e for e in events if is_of(e, names)], zero)
        ax.broken_barh(own, (-0.3, 0.6), color=COLOURS[colour], linewidth=0, label=kind)
    ax.set(yticks=(0, 1), yticklabels=("operations", "piece"), title=title)
    ax.set_ylim(-0.6, 1.5)
    ax.margins(x=0)
    return phases


# %% tags=["varies", "hide-input"]
fig, axes = plt.subplots(2, 1, figsize=(9, 4.2), sharex=True)
pairs = zip(axes, profiles.items(), strict=True)
drawn = [draw_profile(ax, recorded, name) for ax, (name, recorded) in pairs]
axes[1].set_xlabel("milliseconds since the first batch; two steps")
axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=4)
plt.show()
assert [len(phases) for phases in drawn] == [8, 8]
# %% [markdown]
# **Read.** Convolutions should be on top, backward more than forward, each called exactly as often as there are
# convolutions: that *is* the work. Now look for what is not. On the CPUs that we tried, `max_pool2d` stands among the
# first, though it multiplies nothing: in this layout PyTorch's code compares one number after the other. In the right
# column the channels lie side by side; there it compares many at once, and takes a fraction of that. (A table from a
# busy machine is itself only half true: run it twice. In the drawing white stands for operations of other kinds, not
# for waiting.)
#
# Signs of waste: `aten::copy_` or `aten::to` near the top (data is moved or converted again and again), `aten::item`
# (somebody reads), thousands of calls of tiny operations, and on a GPU gaps in the row of its kernels.

# %% [markdown]
# ## By hand: several devices
#
# Each of *W* workers holds a copy of the model, takes a *shard* of each batch, and computes its gradient. The
# gradients are averaged, everybody makes the same update, and the copies stay equal. DistributedDataParallel averages
# *over workers*. That is the gradient of the batch only if all shards have the same size:
#
# $$\nabla L = \sum_w \frac{n_w}{N}\,\nabla L_w = \frac1W\sum_w \Bigl(\frac{W n_w}{N}\Bigr)\nabla L_w$$
#
# So each worker's gradient must be weighted by $W n_w/N$ before the average. With 7 rows on 2 workers:

# %%
draw7, double = torch.Generator().manual_seed(SEED), torch.float64
rows7, labels7 = torch.randn(7, 5, generator=draw7, dtype=double), torch.arange(7) % 3
W7 = torch.randn(3, 5, generator=draw7, dtype=double, requires_grad=True)


def gradient_of(rows):
    loss = F.cross_entropy(rows7[rows] @ W7.T, labels7[rows])
    return torch.autograd.grad(loss, W7)[0]


batch, shards = gradient_of(torch.arange(7)), (torch.arange(4), torch.arange(4, 7))
mean = sum(gradient_of(rows) for rows in shards) / 2
weighted = sum(gradient_of(rows) * 2 * len(rows) / 7 for rows in shards) / 2
for name, result in (("mean over workers", mean), ("weighted by 2 n / 7", weighted)):
    print(f"{name:<22}off by {(result - batch).norm() / batch.norm():.4f}")
assert torch.allclose(weighted, batch) and not torch.allclose(mean, batch)

# %% [markdown]
# ## Two processes
#
# `torchrun` starts the same script *W* times and tells each its number. Only the lines with `group` are new to one that
# knows a single process. Two processes share every batch of 7 as 4 + 3 (the last one, of 3, as 2 + 1). **Predict**:
# after an epoch, are the parameters those of one process?
#
# (a) No: two models, two trainings. (b) Up to rounding. (c) Twice as far: two workers, twice the gradient.

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
WORKERS = """
import pathlib, sys, time, torch
from small_run import parts
from sftlib.training import Parallel, Shards, fit, workers

folder, spent = pathlib.Path(sys.argv[1]), []
with workers() as group:
    for _ in range(4):  # four times the same, for the clock; the first warms up
        model, optimizer, batches = parts(folder)
        model, began = Parallel(model.to(group.device), group), time.perf_counter()
        *_, epoch = fit(model, Shards(batches, group), optimizer, epochs=1)
        spent.append(time.perf_counter() - began)
    if group.leads:  # one of them writes
        found = (model.state_dict(), epoch.train, sorted(spent[1:])[1])
        torch.save(found, folder / f"{group.world}.pt")
"""

# %%
kept = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
folder = runtime.cache_folder() / kept.name  # which is a whole path
(folder / "small_run.py").write_text(PARTS, encoding="utf-8")
(folder / "workers.py").write_text(WORKERS, encoding="utf-8")
little = solar_cells.load(size=64, seed=SEED).train.subset(chosen[:31])
torch.save((little.pictures.clone(), little.labels), folder / "pictures.pt")


def run(*how, threads):
    """The script, as one process or under torchrun, on the CPU everywhere"""
    own = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *how, folder / "workers.py", folder]
    done = subprocess.run(command, env=os.environ | own | MEETING, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


# PyTorch for Windows lacks libuv, through which workers meet: there at a file
at_a_file = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file"]

# %% tags=["varies"]
MEETING = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if os.name == "nt" else {}
meet = at_a_file if os.name == "nt" else ["--standalone"]
threads = torch.get_num_threads()
run(threads=threads)
# two workers share the processor
two = ["-m", "torch.distributed.run", *meet, "--nproc-per-node=2"]
run(*two, threads=max(1, threads // 2))
ends = [torch.load(folder / f"{n}.pt", weights_only=True) for n in (1, 2)]
(one, alone, s1), (both, together, s2) = ends
print(f"one process {s1:.2f} s an epoch, two on the same processor {s2:.2f} s")
assert alone["n"] == together["n"] == 31

# %%
exec(PARTS, space := {})
start = space["parts"](folder)[0].state_dict()
off = max((both[name] - value).abs().max().item() for name, value in one.items())
moved = max((start[name] - value).abs().max().item() for name, value in one.items())
print(f"parameters differ by less than 1 % of what they moved: {off < 0.01 * moved}")
print("as many right answers:", together["accuracy"] == alone["accuracy"])
assert off < 0.01 * moved

# %% [markdown]
# **Read.** (b): up to rounding, sums in another order. So nothing need be tuned again when devices are added, as long
# as the *whole* batch stays what it was. (On one processor they share its cores.)
# Accuracy and loss are sums over both workers, divided once. It holds because
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
# From the documentation of PyTorch, not from measurements of ours.
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
# **Does it pay to compile?** The crossing of the two lines, for any *T*, *a* and *b*.


# %%
T = w.FloatLogSlider(value=30, min=0, max=2.5, step=0.1, description="compiling T (s)")
a = w.FloatLogSlider(value=50, min=0, max=3, step=0.05, description="a step, a (ms)")
share = w.FloatSlider(value=0.7, min=0.3, max=1.2, step=0.05, description="b / a")


def compare(s):
    a, b, T = s["a"] / 1e3, s["share"] * s["a"] / 1e3, s["T"]
    pays = T / (a - b) if a > b else None
    steps = torch.linspace(0, 2 * (pays or T / a), 50)
    times = {"as it is": (steps, steps * a), "compiled": (steps, T + steps * b)}
    return {"times": times, "pays": pays, "a": a}


def draw_comparison(ax, found):
    plotting.curves(ax, found["times"], xlabel="steps", ylabel="seconds in all")
    pays, a = found["pays"], found["a"]
    words = f"after {pays:,.0f} steps, {pays * a / 60:.1f} minutes" if pays else "never"
    ax.set_title(f"pays {words}")


# %% tags=["varies"]
sliders = {"T": T, "a": a, "share": share}
explorer = widgets.Explorer(sliders, compare, draw_comparison, figsize=(6.5, 3.0))
explorer

# %% tags=["varies"]
assert explorer.error is None
explorer.still()
# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: shards of different size
#
# Complete `combine`: the gradients of the workers' mean losses and the sizes of their shards give the gradient of the
# mean loss over the whole batch. A shard may be empty; its gradient is then made of `nan` (a mean over nothing).
#
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
# ### ★ Exercise 2: after how many steps does it pay?
#
# Complete `pays_after`: the smallest whole number of steps after which compiling has taken *less* time in all. If it
# never does, `math.inf`.
#
# <details><summary>Hint 1</summary>
#
# Write down both times after so many steps. When is one smaller than the other?
#
# </details>
# <details><summary>Hint 2</summary>
#
# steps > T / (a − b), and what if a − b is 0, or negative?
#
# </details>
# <details><summary>Hint 3</summary>
#
# *Less*, not equal: at T / (a − b) steps exactly they are level, so one more is needed.
#
# </details>


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
# ### ★★ Exercise 3: too small to be seen
#
# A weight of 1 is kept in bfloat16 and 0.001 is taken from it a thousand times. **Predict** the smallest update that
# moves it at all: 0.01, 0.004 or 0.002? Try powers of two. And a weight of 0.1: which is the smallest there, and why
# does a network's *bias at 0* learn in bfloat16 while its large weights stand still?

# %% [markdown] tags=["solution"]
# **Exercise 3.** Below 1 the next bfloat16 number is 1 − 2⁻⁸ = 0.99609: what takes off less than half of that gap, 2⁻⁹
# = 0.00195, is rounded back, so 0.002 moves it and 0.001 does not. Near 0.1 the numbers lie 2⁻¹¹ apart, and 2⁻¹² =
# 0.00024 suffices. The gap is in proportion to the number; near 0 it is tiny, so a bias at 0 takes every update.

# %% [markdown]
# ## Remember
#
# - In 16 bits operands and results are rounded, never what is added up over many steps.
# - Compiling pays after *T / (a − b)* steps, or never: measure *a* and *b*.
# - Activations grow with the batch, and are soon most of the memory.
# - Workers' gradients are weighted by their share of the batch; then the update is that of one process.
# - **Limits**: times are of one machine and one run. The equality of workers holds for losses that are means over
#   pictures, without dropout, and with BatchNorm that does not look at the batch.
#
# **References.** Micikevicius et al. 2018, arXiv 1710.03740 (mixed precision). Li et al. 2020, arXiv 2006.15704
# (PyTorch Distributed). Goyal et al. 2017, arXiv 1706.02677 (large batches on many workers). Next: **07 Which
# pretrained model?**
