# %% [markdown]
# # 11 A language model, going deeper: what goes wrong without a word?
#
# Notebook 11 made three mistakes on purpose. Here are three more that raise no error, and one of those again, each
# beside the number that gives it away; two tables in full: answers in a fixed form, and more and more passes over the
# same rows; and a place for rows of your own.
#
# Afterwards you can
#
# - say from a rate and the weights how many of them a step in bfloat16 can move at all;
# - write for many prompts at once, and test that each gets what it would get alone;
# - tell three averages apart by the weight that each gives to a token;
# - say when to stop, and by which score;
# - tune on rows of your own, judge what is written, and prove that nothing moved that should not.
#
# **75 minutes** to read and try, 1½ minutes to run. You need notebook 11.

# %% tags=["setup"]
import copy
import json
import math
import re
import tempfile
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import transformers
from sklearn.feature_extraction.text import TfidfVectorizer

from sftlib import adaptation, backbones, generation, results, runtime
from sftlib.checks import check
from sftlib.datasets import NestSplit, chat, nest_loader, news, texts
from sftlib.features import extract, upper_part
from sftlib.metrics import compare
from sftlib.plotting import COLOURS, LINES, MARKERS, use_style
from sftlib.training import Step, fit

use_style()
size = runtime.profile()
SEED = 0
ROWS, TEST, TOKENS = 64, size.pick(quick=16, full=100), 48  # news; tokens of each
LAST = "layer28"  # of 30: frozen up to here
BATCH = 8
BF16 = runtime.Precision(torch.bfloat16)
TOPICS, PALETTE = news.CLASSES, list(COLOURS.values())
TASK = "Which topic: business, entertainment, politics, sports or tech? "
TASK += "Answer in one word."
# another model to look at: with the full profile, by its name on Hugging Face
OTHER = size.pick(quick=None, full="HuggingFaceTB/SmolLM2-360M-Instruct")

# %% [markdown]
# ## What is there: two layers that learn
#
# The task of notebook 11: the topic of a report in one word. Layers 1 to 28 are frozen and computed once; 29 and 30
# learn.

# %%
model = backbones.load_model("smollm2_135m")
tokenizer, net = model.tokenizer, backbones.as_transformers(model)  # one set of weights
STOP, PAD = tokenizer.eos_token_id, tokenizer.pad_token_id


def draw(split, n):
    """-> n of (text, topic), drawn with the seed"""
    order = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(split), generator=order)[:n].tolist()
    short = [texts.shortened(tokenizer, split.texts[i], TOKENS) for i in rows]
    return [(t, TOPICS[split.labels[i]]) for t, i in zip(short, rows, strict=True)]


def ask(text, task=TASK):
    system = [{"role": "system", "content": task}] if task else []
    return [*system, {"role": "user", "content": text}]


# %% tags=["varies"]
reports = news.load(seed=SEED)
train, test = draw(reports.train, ROWS), draw(reports.test, TEST)
talks = [[*ask(a), {"role": "assistant", "content": b}] for a, b in train]
pairs = [chat.encode(tokenizer, talk) for talk in talks]
adaptation.freeze(model)
loader = nest_loader(NestSplit(*chat.collate(pairs)), batch_size=16)
h = NestSplit(*extract(model.backbone, loader, stage=LAST, precision=BF16))
top = upper_part(model, LAST)  # the same modules as in model
adaptation.train_only(top, top.backbone)
weights = torch.cat([p.detach().flatten() for p in top.backbone.parameters()])
print(f"h {tuple(h.x['h'].shape)}; {len(weights):,} weights learn, of size")
print(f"{weights.abs().median():.3f} in the middle, {weights.abs().max():.1f} at most")
assert len(weights) > 1e6

# %% [markdown]
# ## Weights that do not move
#
# Notebook 06, going deeper, took one weight of 1. How is it with a whole model? To halve the memory, one stores the
# weights themselves in bfloat16: 8 digits of a binary number, so that between $2^e$ and $2^{e+1}$ lie only 128 numbers,
# each $2^{e-7}$ from the next. A step of less than *half* of that is rounded back to where it started. And Adam's step
# is about as long as the rate α, however large the gradient is; the first one is $\alpha\, g / (|g| + 10^{-8})$
# exactly, *g* here being the weight's gradient. So a weight *w* can move only if
#
# $$\alpha \;\ge\; \tfrac12\, 2^{\lfloor\log_2|w|\rfloor - 7}$$
#
# (A power of two can move towards 0 at half of that: below it the numbers lie closer.)
#
# TRL, a widely used trainer, takes α = 2·10⁻⁵ by default when all weights learn. **Predict**: which share of these
# weights can that move in bfloat16? (a) Nearly all. (b) About half. (c) Less than a tenth.


# %%
def spacing(w):
    """w, not 0 -> distance of the bfloat16 numbers around it"""
    return 2.0 ** (torch.frexp(w).exponent - 8)  # |w| = m * 2^exponent, 1/2 <= m < 1


one = torch.tensor([1.0, 1.5, 0.9, 0.02, -0.02])
up = torch.nextafter(one.bfloat16(), torch.tensor(9.0).bfloat16())
for w, gap, other in zip(one, spacing(one), up.float(), strict=True):
    print(f"after {w:5.2f} comes {other:8.5f}, spacing {gap:.5f}")
bf = weights[weights != 0].bfloat16().float()
assert torch.equal((one.bfloat16().float() + spacing(one)), up.float())


# %% tags=["varies"]
x, y = h.batch(torch.arange(16))
loss = F.cross_entropy(top(x), y)
parts = torch.autograd.grad(loss, list(top.backbone.parameters()))
g = torch.cat([part.flatten() for part in parts])  # as `weights`


def moved(dtype, lr):
    """-> share of the weights that one step of Adam changes"""
    w = torch.nn.Parameter(weights.to(dtype))
    w.grad, before = g.to(dtype), w.detach().clone()
    torch.optim.Adam([w], lr=lr).step()
    return (w != before).double().mean().item()


# %% tags=["varies"]
RATES = (1e-6, 2e-5, 1e-4, 1e-3, 1e-2)
found = {"float32": [moved(torch.float32, lr) for lr in RATES]}
found["bfloat16"] = [moved(torch.bfloat16, lr) for lr in RATES]
predicted = [(lr >= spacing(bf) / 2).double().mean().item() for lr in RATES]
print("share moved  float32  bfloat16  predicted for it")
for lr, a, b, c in zip(RATES, *found.values(), predicted, strict=True):
    print(f"α = {lr:.0e} {a:9.1%} {b:9.1%} {c:11.1%}")
off = [abs(b - c) for b, c in zip(found["bfloat16"], predicted, strict=True)]
assert max(off) < 0.05 and min(found["float32"]) > 0.9
assert found["bfloat16"][1] < 0.1

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
rates = torch.logspace(-6.3, -1.7, 60).tolist()
share = [100 * (lr >= spacing(bf) / 2).double().mean().item() for lr in rates]
_ = ax.plot(rates, share, color=PALETTE[0], label="bfloat16, by the formula")
for i, (name, values) in enumerate(found.items()):
    how = {"color": PALETTE[1 - i], "label": f"{name}, one step of Adam"}
    _ = ax.plot(RATES, [100 * v for v in values], MARKERS[i], ls="", **how)
ax.axvline(2e-5, color="black", ls=":", label="TRL's default")
ax.set(xscale="log", xlabel="rate α", ylabel="weights that move (%)", ylim=(-4, 104))
ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
plt.show()

# %% [markdown]
# **Read.** (c). And no message: the loss still falls a little, for small weights do move. Does it matter? The same
# batches, once with weights in bfloat16, once with weights in float32 whose *products* are computed in bfloat16
# (**autocast**, as everywhere in this course). Only what is stored differs: weights, with their gradients and Adam's
# moments, and the numbers between the layers.


# %%
def learn(dtype, lr, steps=24):
    """Train a copy of top, weights of a type -> loss of each step, share moved"""
    mine = copy.deepcopy(top).to(dtype)
    first = torch.cat([p.detach().flatten() for p in mine.backbone.parameters()])
    optimizer, losses = torch.optim.Adam(mine.backbone.parameters(), lr=lr), []
    for i in range(steps):
        x, y = h.batch(torch.arange(BATCH) + BATCH * i % ROWS)
        with BF16.autocast("cpu"):
            loss = F.cross_entropy(mine({**x, "h": x["h"].to(dtype)}).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    last = torch.cat([p.detach().flatten() for p in mine.backbone.parameters()])
    return losses, (last != first).double().mean().item()


# %% tags=["varies"]
ends = {}
for lr in (2e-5, 1e-3):
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        steps, share = learn(dtype, lr)
        ends[name, lr] = sum(steps[-8:]) / 8
        print(f"α = {lr:.0e}, weights in {name:<8}: {share:6.1%} moved, ", end="")
        print(f"loss {sum(steps[:8]) / 8:.2f} -> {ends[name, lr]:.2f}")
assert ends["float32", 2e-5] < ends["bfloat16", 2e-5] - 0.05

# %% [markdown]
# At TRL's rate it matters: hardly anything was learned. At 0.001 bfloat16 came nearly as far. Still, keep the weights
# that learn in float32: then no rate needs this check. Where memory forbids it, round up or down by chance, so that the
# *mean* is right (**stochastic rounding**): exercise 1.
#
# ## Padding on the wrong side
#
# Prompts of unequal length share a batch when the shorter ones are filled up. In training the side does not matter,
# for the loss looks only at the answers. In writing it does: the next token is read at the *last* place.
#
# Position enters this network by rotation (RoPE, Su et al. 2021): a query *q* at place *m* and a key *k* at *n*, turned
# by the angles $m\theta$ and $n\theta$, have the product
# $q^\top R_{m\theta}^\top R_{n\theta}\, k = q^\top R_{(n-m)\theta}\, k$, in which only the difference is left.
# **Predict** which of the four gives every prompt the text that it would get alone: padding (a) left; (b) left, with
# the padding counted as places; (c) left, without a mask; (d) right.


# %%
def batch(prompts, side):
    """N of (T_i,) -> ids (N, T), mask (N, T), filled up on a side"""
    T = max(map(len, prompts))
    missing = [T - len(p) for p in prompts]
    fill = [(n, 0) if side == "left" else (0, n) for n in missing]
    ids = [F.pad(p, n, value=PAD) for p, n in zip(prompts, fill, strict=True)]
    mask = [F.pad(torch.ones_like(p), n) for p, n in zip(prompts, fill, strict=True)]
    return torch.stack(ids), torch.stack(mask)


# %%
@torch.inference_mode()
def write(prompts, side="left", *, real=True, masked=True, most=6):
    """-> tokens (N, most), each the most probable one; logits (N, V) of the first"""
    (ids, mask), found = batch(prompts, side), []
    for _ in range(most):
        ones = torch.ones_like(mask)
        places = ((mask if real else ones).cumsum(1) - 1).clamp(min=0)
        how = {"attention_mask": mask if masked else ones, "position_ids": places}
        found.append(net(ids, logits_to_keep=1, **how).logits[:, -1])
        ids = torch.cat((ids, found[-1].argmax(1, keepdim=True)), 1)
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
    return ids[:, -most:], found[0]


lines = ["The capital of France is", "Water boils at", "Once"]
lines += ["Two and two make four, and", "The bank raised its rates, and shares"]

# %% tags=["varies"]
prompts = [torch.tensor(tokenizer(text).input_ids) for text in lines]
single = [write([p]) for p in prompts]
alone, logits = (torch.cat(parts) for parts in zip(*single, strict=True))
ways = {"left": {}, "left, padding counted": {"real": False}}
ways |= {"left, no mask": {"masked": False}, "right": {"side": "right"}}
same = {}
for name, how in ways.items():
    ids, first = write(prompts, **how)
    same[name] = int((ids == alone).all(1).sum())
    off = (first - logits).abs().max()
    print(f"{name:<22}{same[name]} of {len(lines)} as alone; logits off by {off:.4f}")
    print(" " * 8, repr(lines[2] + tokenizer.decode(ids[2])))
assert min(same["left"], same["left, padding counted"]) >= 4
assert max(same["left, no mask"], same["right"]) <= 3

# %% [markdown]
# **Read.** (a) and (b): with RoPE a shift of all places changes nothing but rounding. (A network with a learned vector
# for each place needs (a).) On the right, the shorter prompts go on from a padding token; the longest, which has none,
# is always fine, so one test prompt tells nothing. The test that does: the batch writes what each writes alone.
# `generation.generate` fills up on the left, and a test holds it to that.
#
# ## Another template in use than in training
#
# Train the two layers, then ask in four ways. What is measured is the same for all: nats per token of the right word
# and its end, and **exact**: each of these tokens is the most probable one. **Predict**: what does forgetting the role
# `assistant` cost, (a) nothing, (b) some answers, (c) all?

# %% tags=["varies"]
order = torch.Generator().manual_seed(SEED)
batches = nest_loader(h, batch_size=BATCH, shuffle=True, generator=order)
optimizer = torch.optim.Adam(top.backbone.parameters(), lr=1e-3)
HOW = {"terms": chat.counted, "metric": None, "precision": BF16}
records = fit(top, batches, optimizer, epochs=3, **HOW)
steps = [r.task_loss for r in records if isinstance(r, Step)]
print(f"loss {sum(steps[:4]) / 4:.2f} -> {sum(steps[-4:]) / 4:.2f} nats per token")
assert sum(steps[-4:]) < 0.5 * sum(steps[:4])


# %%
def rendered(messages, *, role=True):
    """-> the text that the model reads; role: the assistant's stands at its end"""
    how = {"tokenize": False, "add_generation_prompt": role}
    return tokenizer.apply_chat_template(messages, **how)


FORMS = {
    "as in training": lambda t: rendered(ask(t)),
    "no system turn": lambda t: rendered(ask(t, None)),
    "no role for the answer": lambda t: rendered(ask(t), role=False),
    "another template": lambda t: f"### {TASK}\n### User: {t}\n### Assistant: ",
}
print(FORMS["no system turn"]("A report.")[:70].replace("\n", "↵"), "…")

# %% [markdown]
# (Leave out the system turn, and SmolLM2's template writes one of its own. Print what you send.)


# %%
def answered(form, rows):
    """-> (ids (T,), which of them are the answer) of each (text, topic)"""
    for text, topic in rows:
        before = tokenizer(form(text), add_special_tokens=False).input_ids
        said = [*tokenizer(topic, add_special_tokens=False).input_ids, STOP]
        ids = torch.tensor(before + said)
        yield ids, torch.arange(len(ids)) >= len(before)


# %% tags=["varies"]
costs, exact_of = {}, {}
for name, form in FORMS.items():
    x, y = chat.collate(list(answered(form, test)))
    with torch.inference_mode(), BF16.autocast("cpu"):
        logits = model(x).float()
    costs[name] = F.cross_entropy(logits, y).item()
    exact = ((logits.argmax(1) == y) | (y == -100)).all(1)
    exact_of[name] = exact.double().mean().item()
    print(f"{name:<24}{costs[name]:6.2f} nats per token, ", end="")
    print(f"exact {exact_of[name]:.0%} of {TEST}")
wrong = ("no role for the answer", "another template")
assert costs["as in training"] < min(costs[name] for name in wrong) - 0.3
assert exact_of["no role for the answer"] < 0.2 < exact_of["as in training"] - 0.2

# %% [markdown]
# **Read.** (c). It learned to answer in *this* frame. In another the right word is many times less probable, though
# "another template" puts the task in the same words. (Without a system turn the task is missing too.) Without the role,
# the role would have to be written first. So in use, build the prompt with the function that built it in training
# (`chat.prompt`), and compare the two, token by token, once.
#
# ## Three averages
#
# A step sees N answers of $n_i$ tokens in B parts. Its loss is a mean of $-\log p$, but which? The mean over
# **tokens**; the mean of each **answer's** mean; or the mean of each **part's** mean, which is what one gets without
# thinking. All are weighted sums, and the weight of one token is the derivative of the mean by that token's loss.

# %% tags=["varies"]
said = ["sports", "It is about sports.", "Sports, and more: " + "goals, " * 9, "tech"]
report = ask("The keeper saved two penalties.")
talks = [[*report, {"role": "assistant", "content": text}] for text in said]
x, y = chat.collate([chat.encode(tokenizer, talk) for talk in talks])
with torch.no_grad():
    each = F.cross_entropy(model(x), y, reduction="none")  # (N, A), 0 where y is -100
each.requires_grad_()
n = (y != -100).sum(1)  # (N,)
print("tokens of each answer:", n.tolist())
assert each[y == -100].abs().max() == 0


# %%
def mean_of_means(parts):
    """parts, lists of rows -> the mean of the parts' means over their tokens"""
    return sum(each[rows].sum() / n[rows].sum() for rows in parts) / len(parts)


AVERAGES = {"tokens": [[0, 1, 2, 3]], "answers": [[0], [1], [2], [3]]}
AVERAGES |= {"parts 01 23": [[0, 1], [2, 3]], "parts 02 13": [[0, 2], [1, 3]]}
AVERAGES |= {"parts 03 12": [[0, 3], [1, 2]]}

# %% tags=["varies"]
by_token = {}
for name, parts in AVERAGES.items():
    loss = mean_of_means(parts)
    (by_token[name],) = torch.autograd.grad(loss, each)
    total = by_token[name][y != -100].sum()
    print(
        f"{name:<12} loss {loss:.3f}; the weights of all tokens add up to {total:.3f}"
    )
    assert abs(total - 1) < 1e-5

# %%
HATCHES = ("", "//", "..", "xx", "\\\\")
fig, ax = plt.subplots(figsize=(7.5, 3.2))
for i, (name, w) in enumerate(by_token.items()):
    at = torch.arange(4) + 0.16 * (i - 2)
    look = {"color": PALETTE[i], "hatch": HATCHES[i], "edgecolor": "white"}
    _ = ax.bar(at, 100 * w[:, 0], 0.15, label=name, **look)
ax.set_xticks(range(4), [f"answer {i}:\n{k} tokens" for i, k in enumerate(n.tolist())])
ax.set_ylabel("weight of one token (%)")
ax.legend(ncols=2)
plt.show()
mine = [w[:, 0] for name, w in by_token.items() if name.startswith("parts")]
assert not torch.allclose(mine[0], mine[1], rtol=0.1)

# %% [markdown]
# **Read.** Tokens weigh alike, or answers do: that is a choice, and both are made. The third is none: the same four
# answers, and which of them counts for what depends on who shares a part with whom. All three agree just when all
# answers are equally long and every part holds equally many. `fit` weighs parts by `terms`, so the size of a part
# changes nothing.
#
# ## A fixed form, and a parser as the judge
#
# Where a program reads the answer, a program should judge it. Asked for JSON with a topic and a key word that stands in
# the text:


# %%
def judge(said, text):
    """-> the topic that is named; None where the answer has not the form"""
    try:
        given = json.loads(said)
    except ValueError:
        return None
    if not isinstance(given, dict) or list(given) != ["topic", "key"]:
        return None
    words = text.replace(".", " ").replace(",", " ").split()
    fits = given["topic"] in TOPICS and given["key"] in words
    return given["topic"] if fits else None


tries = ['{"topic": "sports", "key": "keeper"}', "{'topic': 'sports', 'key': 'keeper'}"]
tries += ['Sure! {"topic": "sports", "key": "keeper"}']
tries += ['{"topic": "sport", "key": "keeper"}', '{"topic": "sports", "key": "goal"}']
tries += ['{"topic": "tech", "key": "keeper"}']

# %%
judged = [judge(text, "The keeper saved two penalties.") for text in tries]
for text, topic in zip(tries, judged, strict=True):
    print(f"{text:<46}{topic or 'not the form'}")
assert judged == ["sports", None, None, None, None, "tech"]

# %% [markdown]
# The last is a form without a truth: the parser judges the form, the label the topic. The stored table
# (`tools/experiments/language_model.py`: 64 rows, 100 test reports, seeds draw the rows):

# %%
stored = sorted(results.read("language_model"), key=lambda r: int(r["seed"]))
fixed = [r for r in stored if r["task"] == "JSON"]
for way in dict.fromkeys(r["method"] for r in fixed):
    mine = [r for r in fixed if r["method"] == way]
    for name in ("form", "exact"):
        found = ", ".join(f"{float(r[name]):.2f}" for r in mine)
        print(f"{way:<12}{name:<6}{found}")
ways = ("few-shot", "top 6")
form = {w: [float(r["form"]) for r in fixed if r["method"] == w] for w in ways}
print("form:", *compare(form))
assert max(float(r["form"]) for r in fixed if r["method"] == "untouched") < 0.1
assert max(map(max, form.values())) < 0.6
spread = {w: max(v) - min(v) for w, v in form.items()}
assert spread["few-shot"] > 0.2 > 0.1 > spread["top 6"]

# %% [markdown]
# **Read.** (A number for each seed.) Untouched, the model never has the form. Five examples in the prompt bring it to
# some answers, how many depends on the examples; two passes over 64 rows, at the rate of the other task, to four in
# ten, whatever the rows. Between the two there is no difference that we can see, and neither is good enough for a
# program to rely on: some twenty tokens have to fit, quotes, braces and a word of this text.
#
# ## More and more passes
#
# The six upper layers, the rate held constant, judged after 1, 2, 4 and 8 passes over the same 64 rows, three seeds. At
# the end the loss on new reports rises: it **overfits**. **Predict** what the share of right answers does then: (a) it
# falls with it, by a quarter or more; (b) less than that, if at all.

# %%
PASSES = (1, 2, 4, 8)
curve = [r for r in stored if "constant" in r["method"]]
seeds = sorted({r["seed"] for r in curve})


def over_passes(name):
    """-> passes -> a value for each seed"""
    values = results.numbers(curve, name, "passes", "seed")
    return {p: [values[str(p), s] for s in seeds] for p in PASSES}


print("passes        " + "".join(f"{p:8}" for p in PASSES))
for name in ("train_loss", "loss", "exact", "nats"):
    means = [sum(v) / len(v) for v in over_passes(name).values()]
    print(f"{name:<14}" + "".join(f"{v:8.3f}" for v in means))


# %%
def draw_curve(ax, column, *, i=0, label=None):
    """A dot for each seed, a line through the means"""
    found = over_passes(column)
    for values in zip(*found.values(), strict=True):
        _ = ax.plot(PASSES, values, MARKERS[i], alpha=0.5, color=PALETTE[i])
    means = [sum(v) / len(v) for v in found.values()]
    _ = ax.plot(PASSES, means, LINES[i], color=PALETTE[i], label=label)
    ax.set(xscale="log", xlabel="passes over 64 rows")
    ax.set_xticks(PASSES, PASSES)
    ax.minorticks_off()


# %%
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3), layout="constrained")
draw_curve(axes[0], "exact", label="new reports")
draw_curve(axes[1], "loss", label="new reports")
draw_curve(axes[1], "train_loss", i=1, label="the 64 rows")
draw_curve(axes[2], "nats", label="tuned")
calm = next(float(r["nats"]) for r in stored if r["method"] == "untouched")
axes[2].axhline(calm, color="black", ls=":", label="untouched")
axes[0].set_ylabel("exact, share of 100 reports")
axes[1].set_ylabel("nats per token, answers")
axes[2].set_ylabel("nats per token, other text")
for ax, most in zip(axes, (1, 1.6, 10), strict=True):
    ax.set_ylim(0, most)
    ax.legend(*ax.get_legend_handles_labels(), loc="best")
plt.show()

# %%
loss, exact = over_passes("loss"), over_passes("exact")
seen = [
    compare({"8 passes": exact[8], f"{p} passes": exact[p]}, comparisons=2)[0]
    for p in (2, 4)
]
print("exact:", *seen, sep="\n")
assert all(b > a for a, b in zip(loss[4], loss[8], strict=True))
assert not any(d.visible for d in seen) and min(over_passes("nats")[1]) > 6
assert seen[1].interval.low > -sum(exact[4]) / 3 / 4

# %% [markdown]
# **Read.** (b). From four passes to eight the loss on new reports rises in each seed; the share of right answers falls
# by less than a quarter, if at all: no difference that we can see. Nor does it show one from two passes to eight, which
# says more of three seeds than of passes. (The loss also counts how sure a wrong answer is.) Who looks
# at the training rows never stops, and neither score sees the third picture: what was forgotten. Choose on held-out
# rows, by the score that you want, and look at the others.
#
# ## Your own rows
#
# A task of yours is a file, one conversation a line, and a judge. Here both are made on the spot: a shop's orders, and
# the code of the thing that is ordered, which nobody outside the shop can know. The orders at the end are held out:
# they come from other towns. For rows of yours, name the file in `OWN`, put those of other people, times or places at
# its end, and write `fits` anew.


# %%
OWN = None  # or your file: one {"messages": [{"role": …, "content": …}, …]} a line
HELD = 12  # rows at its end, to judge by
CODES = {"lamp": "KX7", "chair": "BM2", "desk": "QT9", "clock": "HF4", "shelf": "ZR5"}
ASKED = ("Please send {} {}s to {}.", "Hi, {2} here. We lack {0} {1}s. Please help.")
TOWNS = ("Oslo", "Lima", "Cairo", "Kyoto", "Rome"), ("Turin", "Boston", "Delhi")


def talk_of(i):
    """i -> messages: an order and its code; the last HELD of 60 are of other towns"""
    g = torch.Generator().manual_seed(i)
    some = ("2345679", list(CODES), TOWNS[i >= 60 - HELD], ASKED)
    *fields, text = [s[int(torch.randint(len(s), (), generator=g))] for s in some]
    task = {"role": "system", "content": "Name the code of what is ordered."}
    answer = {"role": "assistant", "content": CODES[fields[1]]}
    return [task, {"role": "user", "content": text.format(*fields)}, answer]


# %%
def fits(answer):
    """Whether what was written has the form"""
    return re.fullmatch(r"[A-Z][A-Z]\d", answer) is not None


with tempfile.TemporaryDirectory() as folder:
    file = Path(OWN or f"{folder}/orders.jsonl")
    if not OWN:
        made = [json.dumps({"messages": talk_of(i)}) for i in range(60)]
        file.write_text("\n".join(made), encoding="utf-8")
    lines = file.read_text(encoding="utf-8-sig").splitlines()
rows = [json.loads(line)["messages"] for line in lines if line.strip()]
own, held = rows[:-HELD], rows[-HELD:]
print(f"{len(own)} to learn from, {HELD} to judge by, such as", *held[0][-2:], sep="\n")
assert not {m[-2]["content"] for m in own} & {m[-2]["content"] for m in held}

# %% [markdown]
# Two judges. What is **written**: did it end, has it the form, is it exact? And **likelihood**: is the right answer
# more probable than three others of the held rows (fewer, where there are not so many)? And a rival without a language
# model: the answer of the learned row whose words are most alike (TF-IDF, notebook 10).


# %%
def written(model, examples=()):
    """-> what it answers to each held row; examples: rows that are shown before"""
    shown = [turn for m in examples for turn in m if turn["role"] != "system"]
    asked = [[*m[:-2], *shown, m[-2]] for m in held]
    asked = [chat.prompt(tokenizer, m) for m in asked]
    net, how = backbones.as_transformers(model), {"stop": STOP, "precision": BF16}
    ids = generation.written(net, asked, most=8, **how)
    return [tokenizer.decode(i) for i in ids]


assert OWN or {m[-1]["content"] for m in own[:12]} == {*CODES.values()}


def judged(said):
    """-> shares of held rows that ended, have the form, are exact"""
    ended = [s.removesuffix("<|im_end|>") for s in said if s.endswith("<|im_end|>")]
    whole = [f"{m[-1]['content']}<|im_end|>" for m in held]
    right = [s == w for s, w in zip(said, whole, strict=True)]
    return [n / HELD for n in (len(ended), sum(map(fits, ended)), sum(right))]


# %%
def likelihood(model):
    """-> share of held rows whose answer is more probable than three others"""
    tried = []
    for *asked, right in held:
        others = {m[-1]["content"]: m[-1] for m in held if m[-1] != right}
        tried += [[*asked, answer] for answer in [right, *others.values()][:4]]
    x, y = chat.collate([chat.encode(tokenizer, talk) for talk in tried])
    with torch.inference_mode(), BF16.autocast("cpu"):
        nats = F.cross_entropy(model(x).float(), y, reduction="none").sum(1)  # of each
    return (nats.view(HELD, -1).argmin(1) == 0).double().mean().item()


# %%
def most_alike():
    """-> for each held row the answer of the most alike learned one, as if written"""
    asked = [[m[-2]["content"] for m in some] for some in (own, held)]
    words = TfidfVectorizer().fit(asked[0])
    alike = words.transform(asked[1]) @ words.transform(asked[0]).T  # cosines
    chosen = alike.toarray().argmax(1)
    return [f"{own[i][-1]['content']}<|im_end|>" for i in chosen]


# %% [markdown]
# **Predict**: shown twelve orders with their codes in its prompt, every code among them, the untouched model (a) writes
# the right code of most orders; (b) writes some code, often a wrong one; (c) writes none.
#
# Then LoRA in every matrix of the six upper layers, on what the 24 below gave once. Three proofs stand beside it: at
# step 0, with B = 0, it is the untouched model to the bit; what is frozen stays the same to the bit; and merged, W +
# ΔW, it gives what A and B give apart.


# %% tags=["varies"]
mine = backbones.load_model("smollm2_135m")
table = {"untouched": [*judged(written(mine)), likelihood(mine)]}
table["twelve rows shown"] = judged(shown := written(mine, own[:12]))
adaptation.freeze(mine)
pairs = [chat.encode(tokenizer, m) for m in own]
loader = nest_loader(NestSplit(*chat.collate(pairs)), batch_size=16)
h = NestSplit(*extract(mine.backbone, loader, stage="layer24", precision=BF16))
top = upper_part(mine, "layer24")
x, y = h.batch(torch.arange(8))
with torch.no_grad():
    as_it_came = top(x)
    torch.manual_seed(SEED)  # A is drawn
    adaptation.wrap_lora(top.backbone, rank=16, alpha=32.0)
    assert torch.equal(top(x), as_it_came)


# %% tags=["varies"]
def checksums():
    """-> name -> checksum of every tensor that is frozen"""
    fixed = {n: p for n, p in mine.named_parameters() if not p.requires_grad}
    return {n: zlib.crc32(p.detach().numpy()) for n, p in fixed.items()}


frozen, learns = checksums(), [p for p in mine.parameters() if p.requires_grad]
order = torch.Generator().manual_seed(SEED)
batches = nest_loader(h, batch_size=BATCH, shuffle=True, generator=order)
optimizer = torch.optim.Adam(learns, lr=5e-3)
records = fit(top, batches, optimizer, epochs=6, clip=1.0, **HOW)
steps = [r.task_loss for r in records if isinstance(r, Step)]
print(f"{sum(p.numel() for p in learns):,} numbers learned; ", end="")
print(f"loss {sum(steps[:4]) / 4:.2f} -> {sum(steps[-4:]) / 4:.2f} nats per token")
assert checksums() == frozen and len(frozen) > 200

# %% tags=["varies"]
top.eval()
with torch.no_grad():
    apart = top(x)
    adaptation.merge_lora(top.backbone)
    assert torch.allclose(top(x), apart, atol=1e-3 * apart.abs().max())
    assert (apart - as_it_came).abs().max() > 0.1 * apart.abs().max()
table["LoRA, merged"] = [*judged(written(mine)), likelihood(mine)]
table["TF-IDF, no model"] = judged(most_alike())

# %% tags=["varies"]
answers = {m[-1]["content"] for m in held}
often = max(sum(m[-1] == n[-1] for m in held) for n in held) / HELD
print(f"{'of the held rows':<18}   ended    form   exact  likelihood")
for way, shares in table.items():
    print(f"{way:<18}" + "".join(f"{v:8.0%}" for v in shares))
print(f"always the commonest answer: {often:.0%} exact")
print(f"likelihood at random: {1 / min(4, len(answers)):.0%}")
print(f"with twelve rows shown, the {HELD} answers are {sorted({*shown})}")
print(f"{HELD} of {HELD} right: the true share may still be {0.05 ** (1 / HELD):.0%}")
assert OWN or table["LoRA, merged"][2] > max(often, table["twelve rows shown"][2]) + 0.2

# %% [markdown]
# **Read.** (b). Twelve rows in the prompt give the form at once, but hardly what to look at: see how few codes it
# writes. (With `own[:3]`, or one of each code, it did no better; a larger model may.) Tuned on 48 rows, the model knows
# the codes, in orders from towns that it never met. That is no hard test: one word of an order decides, and TF-IDF,
# with no model, knows them too. Held rows are few: the last line says how low the true share may be even if all of them
# are right (at 95 %).
#
# From a file to a folder that others load, the best epoch kept: `python tools/sft.py FILE --out RUN`, then
# `AutoModelForCausalLM.from_pretrained("RUN/model")`. Of `mine`, `backbones.export_model(mine, FOLDER)` writes one.
#
# ## Any model by its name
#
# What has to be looked at before a model from elsewhere is tuned: does the template leave its answers a mask, is
# padding the end, are embedding and output matrix one? `chat.encode` takes any template, `load_language_model` any
# causal model of Hugging Face's. With `SFT_PROFILE=full`, `OTHER` is looked at, by its name; without a network it says
# what it needs. Here is a tiny one with random weights, read from a folder in the same way: its loss has to be near log
# V.


# %%
def look_at(name):
    """name on Hugging Face, or a folder -> prints what matters for tuning; nats"""
    other = backbones.load_language_model(name)
    words = other.tokenizer
    tied = bool(adaptation.shared_parameters(other.backbone, other.head))
    print(f"{sum(p.numel() for p in other.parameters()):,} numbers; one matrix: {tied}")
    ids, counts = chat.encode(words, talks[0])
    print("learned:", repr(words.decode(ids[counts])), end="; ")
    print("padding is the end:", words.pad_token_id == words.eos_token_id)
    x, y = chat.collate([(ids, counts)])
    with torch.inference_mode():
        return F.cross_entropy(other(x), y).item()


# %% tags=["varies"]
tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
tiny |= {"intermediate_size": 64, "vocab_size": len(tokenizer)}
config = transformers.LlamaConfig(**tiny)
transformers.logging.disable_progress_bar()
with tempfile.TemporaryDirectory() as folder:
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    at_random = look_at(folder)
print(f"{at_random:.2f} nats per token; log V = {math.log(len(tokenizer)):.2f}")
assert abs(at_random - math.log(len(tokenizer))) < 0.5
if OTHER:
    print(f"{OTHER}: {look_at(OTHER):.2f} nats per token")

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: round at random
#
# Complete `round_at_random`: of the two bfloat16 numbers around each *w* (P,), the one below or the one above, chosen
# by `u` (P,), uniform between 0 and 1, so that the mean over *u* is *w* itself. What is a bfloat16 number stays.
# `spacing` from above may help.


# %% tags=["exercise"]
def round_at_random(w, u):
    """w (P,) not 0, u (P,) uniform in [0, 1) -> (P,), bfloat16 numbers"""
    # BEGIN SOLUTION
    # STUB: ...
    gap = 2.0 ** (torch.frexp(w).exponent - 8)
    return (w / gap + u).floor() * gap
    # END SOLUTION


check("11.round_at_random", round_at_random)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In units of the spacing, the neighbours are whole numbers.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A quarter of the way up, it should be the upper one in a quarter of the cases.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `floor` goes down for negative numbers too; casting to `int` goes towards 0.
#
# </details>

# %% [markdown] tags=["solution"]
# **Exercise 1.** With it, a step of a hundredth of the spacing moves one weight in a hundred, by a whole spacing: the
# mean is right, at the price of noise. Some optimizers for bfloat16 weights do this.

# %% [markdown]
# ### ★ Exercise 2: where the last token stands
#
# Complete `last_real`: for each row of a mask (N, T), true where a token is real, the place of the last real one,
# wherever the padding stands: before, behind, or between, as where a row filled up on the right is written on. Who
# reads the logits there instead of in the last column may fill up on any side.


# %% tags=["exercise"]
def last_real(mask):
    """mask (N, T) bool, one true at least in each row -> places (N,)"""
    # BEGIN SOLUTION
    # STUB: ...
    return torch.where(mask, torch.arange(mask.shape[1]), -1).amax(1)
    # END SOLUTION


check("11.last_real", last_real)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Counting the real tokens is enough only where the padding is on the right.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.arange(T)` holds the places. Which of them do not matter?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Put −1 where there is padding, and take the largest of each row.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: what a token weighs
#
# Answer *i* has `counts[i]` tokens and is in part `parts[i]`, one of 0 … B − 1. Complete `token_weights`: what one
# token of each answer weighs in the mean of the parts' means.


# %% tags=["exercise"]
def token_weights(counts, parts):
    """counts (N,), parts (N,) whole numbers -> (N,), the weight of one token of each"""
    # BEGIN SOLUTION
    # STUB: ...
    B = int(parts.max()) + 1
    in_part = torch.zeros(B).index_add(0, parts, counts.float())
    return 1 / (B * in_part[parts])
    # END SOLUTION


check("11.token_weights", token_weights)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# In its part, a token has the weight 1/(tokens of the part). And each part?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `counts[parts == b].sum()` is what part b holds.
#
# </details>
# <details><summary>Hint 3</summary>
#
# All weights of all tokens must add up to 1: `(weights * counts).sum()`.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 4: freeze one half
#
# Load the model anew and `adaptation.freeze(model.head)`. **Predict** which numbers of *f* still learn, and how many;
# then count. What changes if you `adaptation.untie` it first, and what does the model weigh then?

# %% tags=["solution"]
for apart in (False, True):
    fresh = backbones.load_model("smollm2_135m")
    fresh = adaptation.untie(fresh) if apart else fresh
    adaptation.freeze(fresh.head)
    table = fresh.backbone.embedding.table.weight
    learns = sum(p.numel() for p in fresh.parameters() if p.requires_grad)
    total = sum(p.numel() for p in fresh.parameters())
    print(f"untied {apart}: {learns:,} of {total:,} learn, the table too: ", end="")
    print(table.requires_grad)

# %% [markdown] tags=["solution"]
# **Exercise 4.** Tied, the embedding table is frozen with *g*, for it is *g*. Untied, *f* keeps a table of its own that
# learns, and the model weighs 49,152 × 576 numbers more.

# %% [markdown]
# ### ★★★ Exercise 5: a form of your own
#
# Choose a form that a program could read, write its judge first, and try it on ten answers that look right and are not.
# Then tune, in *Your own rows*. Which errors are left: of the form, or of what it says?
#
# ## Remember
#
# - Weights that learn are kept in float32, or most of them may never move.
# - To write in batches, fill up on the left; the test is that each prompt gets what it gets alone.
# - In use, the same template as in training, to the letter.
# - Decide which average you mean; the size of a part must not.
# - Before you tune, try a prompt with examples; after it, prove that what is frozen stayed.
# - Judge a form by a program. Loss and share of right answers need not move alike: say which one you stop by.
#
# **Limits.** One small model, its weights rounded to 4 bits before; two layers, one task; a few prompts and 16 reports
# live, three seeds at most in the tables.
#
# **References.** Su et al. 2021, *RoFormer* (RoPE), arXiv 2104.09864, eq. 16. Kingma and Ba 2014, *Adam*, arXiv
# 1412.6980. Gupta et al. 2015, *Deep learning with limited numerical precision* (rounding at random), arXiv 1502.02551.
# Zhou et al. 2023, *LIMA*, arXiv 2305.11206 (the loss on held-out text rises while answers improve). TRL's
# documentation, *SFT Trainer*. Next: **12 Speech**.
