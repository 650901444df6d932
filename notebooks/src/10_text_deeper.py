# %% [markdown]
# # 10 Text, going deeper: proofs, layers, and a shortcut
#
# Notebook 10 asked when a frozen Transformer is enough. Here is what it took for granted: why a mask makes padding
# harmless, whether *f* is best read at its last layer, what LoRA's first step moves, what the cosine loss does to *z*,
# and what a model learns from remarks whose subject gives the feeling away.
#
# Afterwards you can
#
# - prove that padding changes nothing, and name the step of the proof that a bug breaks;
# - choose by measurement where to cut, with random weights as control, and say when it cannot be told;
# - say what LoRA's first step moves, and when merging changes a model;
# - read a table of ways, budgets and seeds without finding more than it holds.
#
# **75 minutes** to read and try, about 1 minute to run. You need notebook 10.

# %% tags=["setup"]
import re
import tempfile
import textwrap
from functools import partial
from unittest import mock

import matplotlib.pyplot as plt
import peft
import torch
import torch.nn.functional as F
import transformers
from sklearn.feature_extraction.text import TfidfVectorizer

from sftlib import adaptation, losses, metrics, plotting, results, runtime, training
from sftlib.backbones import load_backbone, load_encoder, minilm
from sftlib.checks import check
from sftlib.datasets import NestSplit, nest_loader, news, sentiment
from sftlib.features import extract, linear_probe, upper_part
from sftlib.model import LinearHead, Model

plotting.use_style()
SEED, TOKENS, HEADS = 0, 64, 12
LABELS, SOME = 500, 300  # labelled texts; test texts of each task, in the live runs
FEW, RATE, CUT = 100, 3e-4, "layer4"  # of the cosine loss: labels, f's rate, the cut
MORE = "as it comes, 70 %"  # the task with 2,000 labels
BF16 = runtime.Precision(torch.bfloat16)  # the loops over many texts
# Any encoder by its name on Hugging Face, or a folder; None makes a folder here
ENCODER = runtime.profile().pick(
    quick=None, full="sentence-transformers/all-mpnet-base-v2"
)

# %% [markdown]
# ## Attention with a mask
#
# Each of the twelve **heads** of a layer turns every token's vector into a query $q_t$, a key $k_t$ and a value $v_t$
# of $d_h$ = 32 numbers. Token *t* looks at token *s* with a weight, and takes the weighted mean of the values:
#
# $$a_{ts} = \frac{m_s\,e^{q_t\cdot k_s/\sqrt{d_h}}}{\sum_{u} m_u\,e^{q_t\cdot k_u/\sqrt{d_h}}}\qquad
# \mathrm{out}_t = \sum_s a_{ts}\,v_s$$
#
# In code, $m_s = 0$ is a score of −∞: its exponential is exactly 0.

# %%
f = load_backbone("minilm_l6", size=TOKENS)
texts = ["Shares fell.", "The goalkeeper unbelievably saved a penalty."]
x = f.preprocess(texts)


def by_hand(attention, h, mask):
    """h (N, T, D), mask (N, T) -> out (N, T, D), weights a (N, heads, T, T)"""
    layers = (attention.query, attention.key, attention.value)
    q, k, v = (layer(h).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in layers)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    a = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    return (a @ v).transpose(1, 2).flatten(2), a


# %%
with torch.no_grad():
    h, layer = f.embeddings(x)["h"], f.layer1.layer.attention.self
    ours, a = by_hand(layer, h, x["mask"])
    theirs = layer(h, attention_mask=x["mask"][:, None, None])[0]
print("by hand it is the layer's:", torch.allclose(ours, theirs, atol=1e-5))
assert torch.allclose(ours, theirs, atol=1e-5)

# %%
words = f.tokenizer.convert_ids_to_tokens(x["ids"][0])
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, head in zip(axes, (0, 5), strict=True):
    picture = ax.imshow(a[0, head], vmin=0, vmax=1, cmap="cividis")
    ax.grid(visible=False)
    ax.set_xticks(range(len(words)), words, rotation=90, fontsize=9)
    ax.set_yticks(range(len(words)), words, fontsize=9)
    ax.set(xlabel="is looked at", ylabel="looks", title=f"layer 1, head {head}")
fig.colorbar(picture, ax=axes, label="weight")
plt.show()
assert (a[0, :, :, 5:] == 0).all() and torch.allclose(a.sum(-1), torch.ones(()))

# %% [markdown]
# The columns of [PAD] are 0. Its *rows* are not: padding looks at the real tokens, and nobody reads what it sees.
#
# **Claim.** Whatever stands at the padding, and however much of it, *z* is the same.
#
# **Proof.** By induction over the layers: let $h_s$ of all *real* tokens be the same with and without padding. Then so
# are $q_t, k_s, v_s$ of real *t, s*, and every term with $m_s = 0$ is exactly 0 in both sums, so $\mathrm{out}_t$ is
# the same. All else in a layer (linear maps, layer norm, GELU) treats each token by itself. It begins with the
# embeddings, where $h_t$ = word *t* + position *t*: padding must not *move* a real token. It ends with the mean,
# which leaves padding out. ∎
#
# Each step can be broken. **Predict** which of these changes *z* of "Shares fell.": (a) random words at the padding;
# (b) padding on the left; (c) a score of −10,000 instead of −∞; (d) of −1.


# %%
def padded(ids, more, *, left=False, words=None):
    """ids (T,) -> x of one text, with `more` tokens of padding (or of `words`)"""
    extra = torch.zeros(more, dtype=torch.long) if words is None else words
    real = torch.ones(len(ids), dtype=torch.bool)
    both = [(ids, real), (extra, torch.zeros(more, dtype=torch.bool))]
    parts = zip(*(reversed(both) if left else both), strict=True)
    return dict(zip(("ids", "mask"), (torch.cat(p)[None] for p in parts), strict=True))


def with_score(x, score):
    """z where padding gets `score` added in each layer, instead of −∞"""
    h = f.embeddings(x)["h"]
    bias = (~x["mask"]).float()[:, None, None] * score
    for i in range(1, 7):
        h = getattr(f, f"layer{i}").layer(h, attention_mask=bias)
    return f.pool({"h": h, "mask": x["mask"]})


# %%
ids, draw = f.preprocess(texts[:1])["ids"][0], torch.Generator().manual_seed(SEED)
some = torch.randint(1000, 30_000, (41,), generator=draw)
with torch.no_grad():
    alone = f(padded(ids, 0))
    far = {
        "padding on the right": f(padded(ids, 41)),
        "random words there": f(padded(ids, 41, words=some)),
        "padding on the left": f(padded(ids, 41, left=True)),
        "a score of -10,000": with_score(padded(ids, 41), -1e4),
        "a score of -1": with_score(padded(ids, 41), -1.0),
    }

# %%
far = {name: ((z - alone).norm() / alone.norm()).item() for name, z in far.items()}
for name, moved in far.items():
    print(f"{name:<21} moves z by {moved:.6f} of its length")
exact = [far[k] for k in list(far)[:2]] + [far["a score of -10,000"]]
assert (
    max(exact) < 1e-4 and min(far["padding on the left"], far["a score of -1"]) > 0.02
)

# %% [markdown]
# **Read.** (b) and (d). On the left, each real token gets the position of a later one: this *f* has learned a vector
# for each position. (Models with *relative* positions do not mind; for generation, language models are padded there.)
# −10,000 is −∞ in practice, for $e^{-10000}$ is 0 even in float64.
#
# ## Where to cut?
#
# *z* is the mean over the last layer. Is that the best layer to read? A probe on the masked mean of *each* layer, for
# both tasks; as control the same network with random weights. (Counted words, with 500 labels, stand in notebook 10's
# table: 0.92 and 0.62.)
#
# **Predict.** Which layer is best for sentiment? (a) the last; (b) one in the middle; (c) we cannot tell the upper
# ones apart. And are layers with *random* weights better than chance?

# %%
HALVES = partial(sentiment.load, fractions=(0.5, 0.2, 0.3))
TASKS = {"topics": news.load(), "sentiment": HALVES(balanced=True)}
STAGES = f.stages[:-1]
mine = {}  # task -> part -> texts; the labelled ones are those of seed 0 in the table
for name, task in TASKS.items():
    order = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(task.train), generator=order)[:LABELS]
    few = torch.randperm(len(task.test), generator=order)[:SOME]
    mine[name] = {"train": task.train.subset(rows), "test": task.test.subset(few)}


# %%
def by_layer(net, split):
    """texts -> stage -> masked mean of its tokens (N, D), in the order of the texts"""
    x = net.preprocess(split.texts)
    order, found = x["mask"].sum(1).argsort(), {stage: [] for stage in STAGES}
    for rows in order.split(32):
        part = {"ids": x["ids"][rows], "mask": x["mask"][rows]}
        T = int(part["mask"].sum(1).max())
        part = {name: t[:, :T] for name, t in part.items()}
        with torch.no_grad(), BF16.autocast("cpu"):
            for stage in STAGES:
                part = getattr(net, stage)(part)
                found[stage].append(net.pool(part).float())
    return {stage: torch.cat(z)[order.argsort()] for stage, z in found.items()}


# %% tags=["varies"]
runtime.seed_everything(SEED)
untaught = load_backbone("minilm_l6", pretrained=False, size=TOKENS)
NETS = {"pretrained": f, "random": untaught}
layers, Z = {}, {}  # (task, net) -> stage -> hits; and -> part -> stage -> z
for name, parts in mine.items():
    y, K = {p: split.labels for p, split in parts.items()}, len(TASKS[name].classes)
    for kind, net in NETS.items():
        z = {part: by_layer(net.eval(), split) for part, split in parts.items()}
        Z[name, kind] = z
        for stage in STAGES:
            g = linear_probe(z["train"][stage], y["train"], num_classes=K, l2=1.0)
            hit = g(z["test"][stage]).argmax(1) == y["test"]
            layers.setdefault((name, kind), {})[stage] = hit.numpy()
        print(name, kind, *(f"{v.mean():.3f}" for v in layers[name, kind].values()))

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), sharex=True, layout="constrained")
for ax, name in zip(axes, TASKS, strict=True):
    for kind, mark in zip(NETS, "os", strict=True):
        y = [hit.mean() for hit in layers[name, kind].values()]
        half = [1.96 * (v * (1 - v) / SOME) ** 0.5 for v in y]
        colour = plotting.COLOURS["blue" if kind == "pretrained" else "orange"]
        _ = ax.errorbar(range(7), y, half, marker=mark, color=colour, label=kind)
    chance = TASKS[name].test.labels.bincount().max() / len(TASKS[name].test)
    ax.axhline(chance, color="black", ls=":", label="the most frequent class")
    ax.set(title=name, xlabel="layer (0: the words alone)", ylabel="test accuracy")
axes[1].legend(fontsize=9)
plt.show()

# %% tags=["varies"]
for name in TASKS:
    rows = {"last": layers[name, "pretrained"]["layer6"]}
    rows |= {stage: layers[name, "pretrained"][stage] for stage in STAGES[:-1]}
    rows["random weights, last"] = layers[name, "random"]["layer6"]
    seen = metrics.compare(rows, against="last", comparisons=14)
    shown = [f"{c.first} {c.interval}" for c in seen if c.visible]
    print(f"{name}, visible against the last layer: {'; '.join(shown) or 'none'}")
    if name == "topics":
        assert seen[-1].first.startswith("random") and seen[-1].interval.high < -0.1

# %% [markdown]
# **Read.** (c): what is visible of fourteen differences is printed above, and no layer of the pretrained network is
# among it; 300 texts do not tell its layers apart. That is no proof that they are alike. And a network that learned
# nothing is far above chance on both tasks: a mean of random word vectors still counts words. Without that control one
# would credit the training with it. On topics the pretrained network is visibly ahead of the random one. Where *random
# weights* is missing in the line of sentiment, as in the stored run, 300 texts do not show that there.
#
# ## LoRA: the first step, two libraries, and merging
#
# $W' = W + \frac\alpha r BA$. By the chain rule, with $G = \partial L/\partial W'$,
#
# $$\frac{\partial L}{\partial A} = \frac\alpha r\,B^\top G \qquad
# \frac{\partial L}{\partial B} = \frac\alpha r\,G A^\top$$
#
# B is 0 at the start. So the first gradient of A is exactly 0, and the first step moves B alone. (If both began at 0,
# neither would ever move.)

# %%
RANK, ALPHA = 8, 16


def with_lora():
    """-> model with LoRA in every linear layer of f, in eval mode: no dropout"""
    runtime.seed_everything(SEED)
    model = Model(load_backbone("minilm_l6", size=TOKENS), LinearHead(f.feature_dim, 2))
    adaptation.wrap_lora(model.backbone, rank=RANK, alpha=ALPHA)
    return model.eval()


# %%
model, y = with_lora(), torch.tensor([0, 1])
matrices = dict(model.backbone.named_parameters())
learn = {n: p for n, p in matrices.items() if p.requires_grad}
optimizer = torch.optim.SGD(learn.values(), lr=1.0)
for step in range(2):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    of_A, of_B = (
        max(p.grad.norm() for name, p in learn.items() if name[-1] == letter)
        for letter in "AB"
    )
    print(f"step {step}: largest gradient of an A {of_A:.1e}, a B {of_B:.1e}")
    assert (of_A == 0) == (step == 0) and of_B > 0
    optimizer.step()

# %% [markdown]
# Now fill A and B as if trained, and compare: **peft**, the library that most people use, with the same matrices; and
# ours **merged**, where each layer multiplies once, by $W'$.

# %%
with torch.no_grad():
    draw = torch.Generator().manual_seed(SEED)
    for p in learn.values():
        p.copy_(0.05 * torch.randn(p.shape, generator=draw))

# %%
names = ["query", "key", "value", "dense"]  # every linear layer of f
config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names)
theirs = peft.get_peft_model(load_backbone("minilm_l6", size=TOKENS), config).eval()
other, ours = dict(theirs.named_parameters()), model.backbone
with torch.no_grad():
    at_start = torch.allclose(theirs(x), f(x), atol=1e-5)  # peft's B is 0 too
    for name, p in learn.items():
        other[f"base_model.model.{name[:-2]}.lora_{name[-1]}.default.weight"].copy_(p)
    z = ours(x)
    moved, apart = (z - f(x)).norm() / f(x).norm(), (z - theirs(x)).abs().max()
print(f"peft's is f at the start: {at_start}; now both moved z by {moved:.0%}")
print(f"largest difference between ours and peft's: {apart:.1e}")
assert at_start and moved > 0.1 and apart < 1e-4

# %% [markdown]
# Merging is exact on paper: $W x + \frac\alpha r B(Ax) = (W + \frac\alpha r BA)\,x$. In a computer it is as exact as
# its numbers. **Predict**: by how much does merging change *z*, in float64, in float32, and when $W'$ is stored in
# bfloat16 (8 bits of precision)?


# %%
def merged_change(dtype):
    """-> largest |Δz| / |z| when the matrices are merged and stored in `dtype`"""
    net = with_lora().backbone
    net.load_state_dict(ours.state_dict())
    net = net.double() if dtype == torch.float64 else net
    with torch.no_grad():
        before = net(x)
        for module in adaptation.merge_lora(net).modules():
            if isinstance(module, adaptation.LoRA) and dtype == torch.bfloat16:
                module.merged = module.merged.to(dtype).to(before.dtype)
        after = net(x)
    return ((after - before).norm() / before.norm()).item()


# %%
dtypes = (torch.float64, torch.float32, torch.bfloat16)
change = {dtype: merged_change(dtype) for dtype in dtypes}
for dtype, value in change.items():
    print(f"{str(dtype)[6:]:<9} merging changes z by {value:.1e} of its length")
deltas = [v.delta() for v in ours.modules() if isinstance(v, adaptation.LoRA)]
ranks = {int(torch.linalg.matrix_rank(delta.detach())) for delta in deltas}
print("ranks of ΔW:", ranks)
assert change[torch.float64] < 1e-12 and change[torch.float32] < 1e-5
assert change[torch.bfloat16] > 100 * change[torch.float32] and ranks == {RANK}

# %% [markdown]
# **Read.** Rounding in float64 and float32, and some thousand times the latter in bfloat16: keep merged weights
# in the precision that you tested. ΔW has rank 8 in each layer, and whatever A and B are, it is never more than r: that
# is LoRA's limit.
#
# ## Where it breaks: a probe that must not move
#
# LP-FT starts *g* from a probe, and a probe works on *standardised* features: weight $w_d/\sigma_d$ on feature *d*
# with deviation $\sigma_d$. MiniLM's last layer norm multiplies three of its 384 features by nearly nothing:

# %%
z, y = (
    Z["sentiment", "pretrained"]["train"]["layer6"],
    mine["sentiment"]["train"].labels,
)
spread = z.std(0)
order = spread.argsort()
print("smallest deviations:", *(f"{v:.1e}" for v in spread[order[:4]]))
print(f"median of all: {spread.median():.2f}")
head, d = linear_probe(z, y, l2=1.0), int(order[2])
typical = (head.weight * spread).abs().median() / spread[d]
print(f"a weight as large as others, on feature {d}: {typical.item():,.0f}")
print("linear_probe's:", head.weight[:, d].tolist())
assert typical > 1e5 and (head.weight[:, d] == 0).all()

# %% [markdown]
# As long as *f* stands still, such a weight does no harm. **Predict** the accuracy when the offset of that one feature
# moves by 0.0003, a single step of Adam at that rate.

# %%
centre, naive = z[:, d].mean(), LinearHead(len(spread), 2)
naive.load_state_dict(head.state_dict())
with torch.no_grad():
    naive.weight[:, d] = torch.tensor([-1.0, 1.0]) * typical
    naive.bias -= naive.weight[:, d] * centre  # as standardised: 0 on average
z, y = Z["sentiment", "pretrained"]["test"]["layer6"], mine["sentiment"]["test"].labels
step = torch.zeros(len(spread)).index_fill(0, torch.tensor([d]), 3e-4)
share = {}
for name, g in (("linear_probe's", head), ("with that weight", naive)):
    share[name] = [(g(v).argmax(1) == y).double().mean().item() for v in (z, z + step)]
    print(
        f"{name:<17} before {share[name][0]:.3f}, one step later {share[name][1]:.3f}"
    )

# %%
print(
    "answers one step later:", naive(z + step).argmax(1).bincount(minlength=2).tolist()
)
assert len(naive(z + step).argmax(1).unique()) == 1
before, after = share["linear_probe's"]
assert before == after > share["with that weight"][1]

# %% [markdown]
# **Read.** All answers are one class: after one step LP-FT would be no better than chance. So `linear_probe` leaves out
# what varies by less than float32 rounds off the other features.
#
# ## The cosine loss on text
#
# Notebook 03's $L_f$ pulls *z* to a fixed direction $\mu_y$. With two classes the simplex is two opposite
# directions, μ and −μ, chosen without a look at the data: *f* must turn. Layers 5 and 6 and *g* learn from 100
# remarks; what leaves layer 4 is computed once. λ = 0 is the control.
#
# **Predict.** With λ = 1, do the classes part along μ? And are more answers right?


# %%
def at_cut(split):
    """-> NestSplit of what leaves CUT, of texts in their order"""
    given = nest_loader(split, lambda b, _: (f.preprocess(b[0]), b[1]))
    return NestSplit(*extract(f, given, stage=CUT, precision=BF16))


# %%
def trained(weight, steps=40):
    """λ -> model after `steps` of ten texts at a rate that falls to 0"""
    runtime.seed_everything(SEED)
    whole = Model(load_backbone("minilm_l6", size=TOKENS), LinearHead(f.feature_dim, 2))
    model, order = upper_part(whole, CUT), torch.Generator().manual_seed(SEED)
    given = nest_loader(few, batch_size=10, shuffle=True, generator=order)
    groups = adaptation.param_groups(
        f=(model.backbone, RATE), g=(model.head, 10 * RATE)
    )
    terms = {"feature_loss": toward_mu, "feature_weight": weight} if weight else {}
    how = {"schedule": lambda step: 1 - step / steps, "precision": BF16}
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    for _ in training.fit(model, given, optimizer, epochs=4, **how, **terms):
        pass
    return model.eval()


# %%
mu = losses.simplex_prototypes(2, f.feature_dim)  # (2, D)
toward_mu = partial(losses.cosine_prototype, prototypes=mu)
few = at_cut(mine["sentiment"]["train"].subset(torch.arange(FEW)))
seen, y = at_cut(mine["sentiment"]["test"]).batch(torch.arange(SOME))
print("cosine of the two directions:", round(float(mu[0] @ mu[1]), 3))
assert torch.allclose(mu[0], -mu[1], atol=1e-6)

# %% tags=["varies"]
gaps, right, cosines = {}, {}, {}
untouched = upper_part(Model(f, LinearHead(f.feature_dim, 2)), CUT)

# %% tags=["varies"]
for weight in (None, 0, 1):
    model = untouched if weight is None else trained(weight)
    with torch.no_grad(), BF16.autocast("cpu"):
        z, logits = model.cut(seen)
    cosines[weight] = cosine = F.cosine_similarity(z.float(), mu[1:], dim=1)
    gaps[weight] = (cosine[y == 1].mean() - cosine[y == 0].mean()).item()
    right[weight] = (logits.argmax(1) == y).numpy()

# %% tags=["varies"]
fig, axes = plt.subplots(1, 3, figsize=(9.4, 3), sharey=True, layout="constrained")
for ax, (weight, cosine) in zip(axes, cosines.items(), strict=True):
    for k, colour in ((0, "vermillion"), (1, "blue")):
        how = {"color": plotting.COLOURS[colour], "hatch": ("//", "")[k], "alpha": 0.6}
        how |= {"bins": 24, "range": (-1, 1), "label": TASKS["sentiment"].classes[k]}
        _ = ax.hist(cosine[y == k].numpy(), **how)
    ax.set(title="before" if weight is None else f"λ = {weight}", xlabel="cos(z, μ)")
axes[0].set_ylabel("test texts")
axes[0].legend(fontsize=9)
plt.show()

# %% tags=["varies"]
for weight in (0, 1):
    print(f"λ = {weight}: the classes' mean cosines are {gaps[weight]:.3f} apart")
rows = {f"λ = {k}": right[k] for k in (1, 0)}
for c in metrics.compare(rows):
    print(f"accuracy, {c.first} − {c.second}: {c.interval} over {c.n} texts")
assert gaps[1] > gaps[0] + 0.1

# %% [markdown]
# **Read.** The classes part along μ as $L_f$ asks, and without it they do not. More answers are right? No difference
# that we can see, of one run; the table below has five seeds.
#
# ## The other ways to learn
#
# Four ways that train layers 5 and 6, and *full*, which trains all of *f*, five seeds (`tools/experiments/text.py`):
# what was chosen on validation (a rate of f; for *combined* λ), what training costs, and how each stands to
# *fine-tuned*, which has no trick at all. That these would be compared, and corrected for 24, was written down before
# the rows were run.
#
# **Predict.** Which trick is visibly better than plain fine-tuning? (a) *g* from the probe (LP-FT). (b) A and B instead
# of W (LoRA). (c) The cosine loss (combined). (d) None.

# %%
stored, cells, chosen, seconds = results.read("text"), {}, {}, {}
ways = ("fine-tuned", "LP-FT", "LoRA", "combined", "full")
for r in stored:  # (task, labels) -> way -> accuracy of each seed
    if r["way"] in ways:
        cell = cells.setdefault((r["task"], int(r["labels"])), {})
        cell.setdefault(r["way"], []).append(float(r["balanced"]))
        chosen.setdefault(r["way"], {})[r["task"]] = r["chosen"]
        if (r["task"], r["labels"]) == ("sentiment", "500"):
            seconds.setdefault(r["way"], []).append(float(r["cpu_s"]))
for way, values in chosen.items():
    cost = sum(seconds[way]) / len(seconds[way])
    tasks = ", ".join(f"{task} {value}" for task, value in values.items())
    print(f"{way:<11}{cost:4.1f} s of one core for 500 labels; chosen: {tasks}")

# %%
how = {"against": "fine-tuned", "comparisons": 24}  # as many as were planned
gains = {}  # (task, labels) -> way -> interval
for at, cell in ((at, cell) for at, cell in cells.items() if len(cell) > 1):
    gains[at] = {c.first: c.interval for c in metrics.compare(cell, **how)}
    print(*at, "; ".join(f"{way} {v}" for way, v in gains[at].items()))
print(f"corrected for {how['comparisons']} comparisons with fine-tuned")

# %%
fig, ax = plt.subplots(figsize=(9.4, 3.8), layout="constrained")
for i, way in enumerate(ways[1:]):
    at = {n: cell[way] for n, cell in enumerate(gains.values()) if way in cell}
    places = [n + 0.18 * (i - 1.5) for n in at]
    y, half = zip(*((v.mean, v.high - v.mean) for v in at.values()), strict=True)
    look = {"marker": "os^D"[i], "color": list(plotting.COLOURS.values())[i]}
    _ = ax.errorbar(places, y, half, ls="", label=way, **look)
ax.axhline(0, color="black", lw=0.8)
ax.set_xticks(range(len(gains)), [f"{task}\n{n:,}" for task, n in gains], fontsize=9)
_ = ax.set(xlabel="labels", ylabel="accuracy − fine-tuned")
_ = ax.legend(fontsize=9, loc="lower right")
plt.show()

# %% [markdown]
# **Read.** (d). No trick is visibly better or worse than none. That is no proof of equality where the intervals are
# wide: LP-FT's and LoRA's reach beyond 0.1 in places. *Combined* chose the smallest λ of four on remarks, so hardly
# another loss, and with 100 labels and more lies within 0.02 of plain fine-tuning there. Two rates lie at an end of
# their grids: LP-FT's on topics is the lowest of four, *fine-tuned*'s on remarks as they come the highest.
#
# ### Where does a grid end?
#
# On topics with 25 labels validation took an l2 of 10⁻⁷, the least of ten values. An earlier form of this table offered
# six, down to 0.001. Its best was the last one, and *fine-tuned* was "visibly" ten points ahead on topics: of a
# baseline that had not been allowed to be good. Twelve draws of 25 of the 500 labelled texts, five l2:

# %% tags=["varies"]
z, y = Z["topics", "pretrained"], {p: v.labels for p, v in mine["topics"].items()}
draw = torch.Generator().manual_seed(SEED)
of = {l2: [] for l2 in (0.1, 1e-3, 1e-5, 1e-7, 1e-9)}
for _ in range(12):
    rows = torch.randperm(LABELS, generator=draw)[:25]
    few_z, few_y = z["train"]["layer6"][rows], y["train"][rows]
    for l2, accuracies in of.items():
        probe = linear_probe(few_z, few_y, num_classes=5, l2=l2)
        right = probe(z["test"]["layer6"]).argmax(1) == y["test"]
        accuracies.append(right.double().mean().item())
print(*(f"l2 {l2:g}: {sum(v) / 12:.3f}" for l2, v in of.items()), sep="\n")
pair = {"1e-7": of[1e-7], "1e-3": of[1e-3]}
c = metrics.compare(pair, against="1e-3", unit="draws")[0]
print(c)
assert c.visible and c.interval.mean > 0.02

# %% [markdown]
# **Read.** From 0.001 down to 10⁻⁷ the probe gains several points, and beyond that hardly moves: 25 texts are easily
# separated in 384 dimensions, and without a penalty what is left is the widest margin between them. So this grid ends
# where little changes any more. A baseline is tuned only as well as what it could choose from; where the best value is
# the last one, try further before you compare.
#
# ## What the shortcut does
#
# Of the remarks on a football scandal three in four are negative, on a festival three in four positive. Here are models
# that learned from the remarks *as they come*, judged on all test texts, and on the balanced ones among them, where
# the subject is worth nothing. And models that learned from balanced remarks, judged on the same balanced ones.
#
# **Predict.** With 1,000 labels, frozen *f* is right in about 0.8 as they come. On the balanced ones: (a) as many; (b)
# some points fewer; (c) a half, like the rule?

# %%
KINDS = {"as it comes": {"all": "test", "fair": "balanced"}}
KINDS |= {"sentiment": {"learned fair": "test"}, MORE: KINDS["as it comes"]}
WIDE = {"all": 12, "fair": 10, "learned fair": 20}
came = {}  # (way, labels) -> "all", "fair", "learned fair" -> accuracy of each seed
for r in stored:
    for kind, column in KINDS.get(r["task"], {}).items():
        cell = came.setdefault((r["way"], int(r["labels"])), {})
        cell.setdefault(kind, []).append(float(r[column]))
means = {k: {kind: sum(v) / len(v) for kind, v in c.items()} for k, c in came.items()}
means = {k: mean for k, mean in means.items() if "all" in mean}
print(f"{'':>10}  as they come: all  balanced   learned balanced: balanced")
for (way, n), mean in means.items():
    numbers = "".join(f"{mean[k]:>{wide}.3f}" for k, wide in WIDE.items() if k in mean)
    print(f"{way:>10} {n:>5} {numbers}")

# %%
looks = {"all": ("-", "as they come, all texts"), "fair": ("--", "balanced texts")}
looks["learned fair"] = (":", "balanced, learned so")
fig, ax = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
for way, colour, mark in (("frozen", "blue", "o"), ("TF-IDF", "orange", "s")):
    budgets = [n for w, n in means if w == way and "learned fair" in means[w, n]]
    for kind, (line, words) in looks.items():
        y = [means[way, n][kind] for n in budgets]
        look = {"ls": line, "marker": mark, "color": plotting.COLOURS[colour]}
        _ = ax.plot(budgets, y, label=f"{way}: {words}", **look)
ax.set(xscale="log", xlabel="labels", ylabel="accuracy, mean of five seeds")
ax.set_xticks(budgets, budgets)
ax.minorticks_off()
ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
for (way, n), mean in means.items():
    if way != "subject":
        assert mean["all"] > mean["fair"] + 0.02 * (n > 25)
        assert mean.get("learned fair", 1) > mean["fair"]
seen = []
for way, n in (key for key, mean in means.items() if "learned fair" in mean):
    rows = {kind: came[way, n][kind] for kind in ("learned fair", "fair")}
    c = metrics.compare(rows, against="fair", comparisons=8)[0]
    if way != "subject" and c.visible:
        seen.append((way, n))
        print(f"learning from balanced remarks, {way}, {n} labels: {c.interval}")
assert seen == [("frozen", 500)]

# %% [markdown]
# **Read.** (b). Of 0.79 as the remarks come, 0.68 is left where the subject is worth nothing. Words are the extreme
# case: with 500 labels they are right in 0.73, which is what the subject alone gets, and in 0.57 of the balanced ones.
# Who had looked at the first column alone would have said that words nearly keep up with *f*. And learning from
# balanced remarks is better for balanced ones, on average at every budget: some two to five points. Compared by seed,
# and corrected for the eight, that is visible once, for *f* with 500 labels; the fall from the first column to the
# second is what shows that a model which can take the shortcut does. So does an *f* that learns: of 0.820 with
# 2,000 labels, 0.735 is left.
#
# ### And copies?
#
# Exact copies are out. A retweet with one word changed, or a report with another headline, is not. Two texts count as
# near copies here if their TF-IDF vectors (words and pairs of words, first 600 characters, no links) have a cosine
# above 0.8.


# %%
def near_copies(splits):
    """-> for each test text, whether a training text is a near copy of it (n,)"""
    how = {"ngram_range": (1, 2), "sublinear_tf": True, "token_pattern": r"\w+"}
    counter = TfidfVectorizer(preprocessor=plain, **how)
    x = counter.fit_transform(splits.train.texts)
    likeness = counter.transform(splits.test.texts) @ x.T
    return torch.from_numpy(likeness.max(1).toarray().ravel() > 0.8)


def plain(text):
    """Small letters, without links"""
    return re.sub(r"https?://\S+", "", text.lower())[:600]


for name, task in TASKS.items():
    share = near_copies(task).double().mean().item()
    print(f"{name}: {share:.1%} of the test texts have a near copy in training")
    assert 0 < share < 0.05

# %% [markdown]
# **Read.** If every one of them were right only because of its copy, and *all* training texts were labelled, accuracies
# would be too high by that share at most, and so would a difference of two ways, where one of them remembers better.
#
# ## Any encoder
#
# `load_encoder` takes a text encoder of Hugging Face's by its name, or a folder that its `save_pretrained` wrote, and
# cuts it into *f* with masked mean pooling. Here MiniLM goes into a folder and comes back: the same *z*. A name needs a
# network the first time; without one, the error says what to do.

# %%
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
with tempfile.TemporaryDirectory() as folder:
    net = minilm.build()
    minilm.fill(net)
    net.save_pretrained(folder)
    f.tokenizer.save_pretrained(folder)
    back = load_encoder(ENCODER or folder, size=TOKENS)
with torch.no_grad():
    z, again = f(x), back(back.preprocess(texts))
print(f"stages {', '.join(back.stages)}; D = {back.feature_dim}")
print("the same z:", z.shape == again.shape and torch.allclose(z, again, atol=1e-5))
assert ENCODER or torch.allclose(z, again, atol=1e-5)

# %%
with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):  # as if unplugged
    try:
        load_encoder("nobody-has-made/this-encoder")
    except ConnectionError as error:
        print("\n".join(textwrap.wrap(str(error).partition("; ")[2], 88)))

# %% [markdown]
# With `SFT_PROFILE=full`, `ENCODER` names one with 768 features instead: 420 MB, once. Frozen, full and LoRA work with
# it as in notebook 10; what names a layer does not, for all of it is one stage.
#
# ## Exercises
#
# ### ★ Exercise 1: attention with a mask
#
# Complete `attend`: scores (N, T, T), mask (N, T) → the weights. Row *t* says at whom token *t* looks: a softmax over
# the *real* tokens. What stands in the rows of padding does not matter.
#
# <details><summary>Hint 1</summary>
#
# `mask[:, None]` has shape (N, 1, T): it masks columns, the ones that are looked at.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `masked_fill(where, value)` makes a copy in which `value` stands where `where` is True.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Which score has an exponential of exactly 0? And `softmax(-1)` goes along a row.
#
# </details>


# %% tags=["exercise"]
def attend(scores, mask):
    """scores (N, T, T), mask (N, T) True where a token is real -> weights (N, T, T)"""
    # BEGIN SOLUTION
    # STUB: ...
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    # END SOLUTION


check("10.attend", attend)

# %% [markdown]
# ### ★ Exercise 2: LoRA's gradients
#
# Complete `lora_gradients`: of $W' = W + \frac\alpha r BA$ you know $G = \partial L/\partial W'$. Give ∂L/∂A and
# ∂L/∂B.
#
# <details><summary>Hint 1</summary>
#
# A gradient has the shape of what it belongs to: that leaves one order of the factors.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $W'_{pq} = W_{pq} + \frac\alpha r\sum_k B_{pk}A_{kq}$. Derive it by one $A_{kq}$, and sum over all p.
#
# </details>
# <details><summary>Hint 3</summary>
#
# r is `len(A)`; each product has one transposed factor, `.T`.
#
# </details>


# %% tags=["exercise"]
def lora_gradients(G, A, B, alpha):
    """G (P, Q), A (r, Q), B (P, r), alpha -> dL/dA (r, Q), dL/dB (P, r)"""
    # BEGIN SOLUTION
    # STUB: of_A, of_B = ..., ...
    # STUB: return of_A, of_B
    scale = alpha / len(A)
    return scale * B.T @ G, scale * G @ A.T
    # END SOLUTION


check("10.lora_gradients", lora_gradients)

# %% [markdown]
# ### ★★ Exercise 3: accuracy that the subject cannot raise
#
# Instead of leaving texts out one can weigh them. Complete `within`: for each subject take the accuracy on its negative
# and on its positive texts, and the mean of both; then the mean over the subjects, each weighed by its number of texts.
# **Predict** what the rule that sees the subject alone gets.
#
# <details><summary>Hint 1</summary>
#
# For a subject s: `torch.tensor([name == s for name in subjects])` says which texts are its own.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `right[own & (y == 0)].double().mean()` is the accuracy on its negative texts.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Weighed mean: add up mean × number of texts, divide by all texts.
#
# </details>


# %% tags=["exercise"]
def within(right, y, subjects):
    """right (n,) bool, y (n,) 0 or 1, subjects (n names) -> number in [0, 1]"""
    # BEGIN SOLUTION
    # STUB: ...
    total = 0.0
    for s in set(subjects):
        own = torch.tensor([name == s for name in subjects])
        both = [right[own & (y == k)].double().mean() for k in (0, 1)]
        total += own.sum() * sum(both) / 2
    return total / len(right)
    # END SOLUTION


check("10.within", within)

# %% [markdown]
# ### ★★ Exercise 4: five directions
#
# In "The cosine loss on text", make `mu` for the five topics, `simplex_prototypes(5, …)`. **Predict** the cosine of any
# two of its rows, then look. In how few dimensions could they stand so?

# %% [markdown] tags=["solution"]
# **Exercise 4.** The rows add up to 0 and all pairs are alike: 0 = |Σμ|² = K + K(K − 1)·c, so c = −1/(K − 1) = −1/4,
# an angle of 104.5°. K corners of a simplex need K − 1 = 4 dimensions; z has 384.

# %% [markdown]
# ### ★★★ Exercise 5: another shortcut
#
# The subject is balanced now. Find what else tells the feeling without reading it: the length of a remark, its links,
# its capitals, its exclamation marks. Write the rule, measure it on validation, then on test, and say what a model that
# beats it by two points has shown.
#
# ## Remember
#
# - Padding changes nothing: weights of exactly 0, positions from the left, all else token by token, the mean of the
#   real ones. A bug breaks one of these four.
# - LoRA's first step moves B alone; merged it is the same matrix, in the precision that it is stored in.
# - A probe's weight on a feature without variance is a trap for whoever lets *f* move.
# - A model that can take a shortcut takes it, and a control that may take it too looks nearly as good.
#
# **Limits.** One encoder, 64 tokens, one split; layers probed with one seed, 300 test texts and one l2; five seeds
# of the ways that train.
#
# **References.** Vaswani et al. 2017, *Attention is all you need*, arXiv 1706.03762, eq. (1). Hu et al. 2021, *LoRA*,
# arXiv 2106.09685, eq. (3). Barz and Denzler 2020, *Deep learning on small datasets without pre-training using cosine
# loss*, arXiv 1901.09054. Kumar et al. 2022, LP-FT, arXiv 2202.10054. Geirhos et al. 2020, *Shortcut learning in deep
# neural networks*, arXiv 2004.07780. Next: **11 A language model**.
