# %% [markdown]
# # 10 Text: when is a frozen Transformer enough?
#
# Until now *x* was a picture. Now it is a piece of text, and *f* a **Transformer** that was pretrained on a billion
# pairs of sentences. Two tasks: which topic is this news about, and is this remark positive or negative? You measure
# where frozen features are enough, against an *f* that learns and against a control without any network.
#
# Afterwards you can
#
# - turn a batch of texts into one vector each, and find the padding bug in other people's code;
# - judge a Transformer by a control that is easily left out: counting words;
# - fine-tune it in four ways with the same `Model`, `freeze`, `fit` and panel as for pictures.
#
# **60 minutes** to read and try, about 1 minute to run. Before: notebooks 00, 03 and 05. Nothing is downloaded.

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import peft
import torch
from sklearn import feature_extraction, linear_model

from sftlib import adaptation, doctor, metrics, plotting, results, runtime, training
from sftlib.backbones import BACKBONES, load_backbone, load_encoder
from sftlib.checks import check
from sftlib.datasets import nest_loader, news, sentiment
from sftlib.features import extract, linear_probe
from sftlib.model import LinearHead, Model
from sftlib.widgets import Explorer, LiveRun

plotting.use_style()
size = runtime.profile()
SEED, TOKENS = 0, 64  # tokens that f reads of a text; the rest is cut off
LABELS = 500  # labelled texts of the live runs, as in the table
BATCH, EPOCHS = 10, 2  # texts a step, passes over them, as in the table
RANK, ALPHA = 8, 16  # of LoRA, as in the table
# another f to try: with the full profile any encoder, by its name on Hugging Face
OTHER = size.pick(quick="minilm_l6", full="sentence-transformers/all-mpnet-base-v2")

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("f", "g"))
plt.show()

# %% [markdown]
# ## Look at the data
#
# The **topics** are those of BBC reports of 2004 and 2005 (Greene and Cunningham 2006, ICML); the **sentiment** is what
# paid readers saw in short public messages of 2011 to 2015. Both are cleaned: a copy of a text in training *and* test
# would be a present to every method.

# %%
TASKS = {"topics": news.load(), "sentiment": sentiment.load()}
for name, task in TASKS.items():
    counts, K = task.test.labels.bincount(), torch.tensor(len(task.classes))
    print(f"{name}: {', '.join(task.classes)}; log K = {K.log():.3f}")
    print(f"  the most frequent class is {counts.max() / counts.sum():.3f} of the test")
    print(f"  train {len(task.train):,}, val {len(task.val)}, test {len(task.test)}")
    print("  " + "\n  ".join(task.notes))
    for k in range(2):
        text = task.train.texts[int((task.train.labels == k).nonzero()[5])]
        print(f"  {task.classes[k]}: {' '.join(text.split()[:4])} …")

# %% [markdown]
# ## By hand: from a text to z
#
# The **tokenizer** cuts a text into **tokens**, words or pieces of words, each a whole number. A batch is a rectangle,
# so shorter texts are filled up with **padding**, and a **mask** says which tokens are real.

# %%
f = load_backbone("minilm_l6", size=TOKENS)
texts = ["The goalkeeper unbelievably saved a penalty.", "Shares fell."]
x = f.preprocess(texts)
for ids, mask in zip(x["ids"], x["mask"], strict=True):
    pieces = f.tokenizer.convert_ids_to_tokens(ids)
    print(" ".join(pieces), "| real:", int(mask.sum()))
print({name: (tuple(t.shape), t.dtype) for name, t in x.items()})
print(f"stages of f: {', '.join(f.stages)}; D = {f.feature_dim}")

# %% [markdown]
# In six layers, every token looks at every other one (**attention**) and changes its own vector $h_t$ (D = 384 numbers)
# by what it sees. For one vector a text, take the mean of the *real* tokens (**masked mean pooling**; `layer6` gives
# *h*, $m_t$ is the mask):
#
# $$z = f(x) = \frac{\sum_t m_t\,h_t}{\sum_t m_t}\qquad\text{logits} = g(z) = Wz + b$$

# %%
with torch.no_grad():
    h = f.lower(x, "layer6")["h"]  # (N, T, D)
    z = f(x)  # (N, D)
by_hand = torch.stack([h[i, x["mask"][i]].mean(0) for i in range(len(texts))])
print(f"h {tuple(h.shape)} -> z {tuple(z.shape)}")
print(
    "the mean over each text's own tokens is z:", torch.allclose(by_hand, z, atol=1e-5)
)
assert torch.allclose(by_hand, z, atol=1e-5)

# %% [markdown]
# ## Where it breaks: the padding bug
#
# Leave the mask out, and nothing fails: shapes fit, the loss falls. But now padding takes part, in attention, in the
# mean, or in both. So a text's vector depends on *who shares its batch*. Here is one short text beside ever longer
# ones; how like is its vector to the one that it gets alone?


# %%
def pooled(x, *, attend, average):
    """z with or without the mask in attention and in the mean"""
    everything = torch.ones_like(x["mask"])
    h = f.lower({**x, "mask": x["mask"] if attend else everything}, "layer6")["h"]
    real = (x["mask"] if average else everything)[..., None].float()
    return (h * real).sum(1) / real.sum(1)


BUGS = {"mask in both": (True, True), "none in the mean": (True, False)}
BUGS |= {"none in attention": (False, True), "none at all": (False, False)}


# %%
def like_alone(more, attend, average):
    """cosine of a short text's z beside a text `more` tokens longer, and alone"""
    x = f.preprocess([texts[1], "word " * (3 + more)])
    with torch.no_grad():
        z = pooled(x, attend=attend, average=average)[:1]
        return torch.cosine_similarity(z, f(f.preprocess(texts[1:]))).item()


more, fig = list(range(0, 57, 7)), plt.figure(figsize=(8, 3.2))
series = {bug: (more, [like_alone(n, *how) for n in more]) for bug, how in BUGS.items()}
label = {"xlabel": "padding tokens in the short text", "ylabel": "cosine with z alone"}
_ = plotting.curves(fig.subplots(), series, **label)
plt.show()
assert min(series["mask in both"][1]) > 0.9999 and min(series["none at all"][1]) < 0.9

# %% [markdown]
# With the mask in both places a neighbour changes nothing. The test that finds the bug is one line: *the vector of a
# text must not depend on the rest of its batch*. What does it cost? Below, a classifier meets each test text in small
# and in large batches.
#
# **Frozen features** first: as in notebook 00, `extract` computes *z* once, and *g* is logistic regression with its
# `l2` chosen on validation.

# %% tags=["varies"]
mine = {}  # task -> part -> texts; the labelled ones are those of seed 0 in the table
for name, task in TASKS.items():
    order = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(task.train), generator=order)[:LABELS]
    mine[name] = {"train": task.train.subset(rows), "val": task.val, "test": task.test}


def read(batch, _):
    """texts, labels -> tokens, labels"""
    return f.preprocess(batch[0]), batch[1]


batch = next(iter(nest_loader(mine["sentiment"]["train"], read, batch_size=16)))
choice = training.measure_precision(Model(f, LinearHead(f.feature_dim, 2)), *batch)
print(choice)
assert max(choice.rates.values()) <= 1.05 * choice.rates[choice.precision]


# %%
def hits(logits, y):
    """-> 1 where right, 0 where wrong (N,)"""
    return (logits.argmax(1) == y).double()


def best_probe(z, K):
    """part -> (z, y) -> the head whose l2 is best on validation"""
    heads = [linear_probe(*z["train"], num_classes=K, l2=10.0**i) for i in range(-2, 2)]
    return max(heads, key=lambda g: hits(g(z["val"][0]), z["val"][1]).mean())


z, probes = {}, {}
for name, parts in mine.items():
    given = {part: nest_loader(split, read) for part, split in parts.items()}
    z[name] = {p: extract(f, g, precision=choice.precision) for p, g in given.items()}
    probes[name] = best_probe(z[name], len(TASKS[name].classes))
    print(name, {part: tuple(some[0].shape) for part, some in z[name].items()})

# %% tags=["varies"]
frozen = {name: hits(probes[name](p["test"][0]), p["test"][1]) for name, p in z.items()}
right, test, said = frozen["sentiment"].mean(), TASKS["sentiment"].test, {}
for n in (1, 8, 64):
    outputs = []
    for start in range(0, len(test), n):
        x = f.preprocess(test.texts[start : start + n])
        with torch.no_grad(), choice.precision.autocast("cpu"):
            outputs.append(pooled(x, attend=False, average=False))
    said[n] = probes["sentiment"](torch.cat(outputs).float()).argmax(1)
    bug, other = ((said[n] == y).double().mean() for y in (test.labels, said[1]))
    print(f"batches of {n:2}: with the mask {right:.3f}, without {bug:.3f};", end="")
    print(f" without it, {1 - other:.0%} of the answers are others than alone")
assert (said[64] != said[1]).double().mean() > 0.02

# %% [markdown]
# Answers that depend on the batch size of the *evaluation* are a bug, never a finding.
#
# ## The control: counting words
#
# Before Transformers there was **TF-IDF**: one column a word, its count in the text (*term frequency*) times
# $\log\frac{1+N}{1+\mathrm{df}} + 1$, which is large for words that few of the N texts hold (df), each row then of
# length 1. Logistic regression on that is the control. It reads the same words as *f* and may choose as much: C, single
# words or pairs too, on the same validation texts.
#
# **Predict.** With 500 labels, who is ahead? (a) *f*, on both tasks. (b) *f* on topics, words on sentiment. (c) Neither
# by much, on either.


# %%
def read_by_f(text):
    """text -> what its first 64 tokens say; the first and the last are special"""
    places = f.tokenizer(text, return_offsets_mapping=True).offset_mapping[1:-1]
    return text[: places[: TOKENS - 2][-1][1]]


def by_words(texts, y, C, most):
    """-> part -> hits of logistic regression on TF-IDF of 1 to `most` words in a row"""
    counter = feature_extraction.text.TfidfVectorizer(ngram_range=(1, most))
    x = counter.fit_transform(texts["train"])
    g = linear_model.LogisticRegression(C=C, max_iter=2000).fit(x, y["train"])
    return {
        part: g.predict(counter.transform(t)) == y[part] for part, t in texts.items()
    }


print(len(read_by_f(TASKS["topics"].test.texts[0]).split()), "words are 64 tokens")

# %% tags=["varies"]
words = {}
for name, parts in mine.items():
    texts_of = {
        part: [read_by_f(t) for t in split.texts] for part, split in parts.items()
    }
    y = {part: split.labels.numpy() for part, split in parts.items()}
    tried = [by_words(texts_of, y, C, most) for C in (1, 10, 100) for most in (1, 2)]
    words[name] = max(tried, key=lambda t: t["val"].mean())["test"]
    rows = {"frozen f": frozen[name].numpy(), "words": words[name]}
    print(f"{name}: frozen f {frozen[name].mean():.3f}, words {words[name].mean():.3f}")
    print(f"  {metrics.compare(rows, comparisons=2)[0]}")
    assert min(frozen[name].mean(), words[name].mean()) > 0.65

# %% [markdown]
# **Read.** One draw of 500 texts: look at the intervals before you name a winner. The table below has five.
#
# ## Now f learns
#
# | way | f | g starts |
# |---|---|---|
# | frozen | `freeze(f)` | – |
# | full | all of it learns | at random, at ten times f's rate |
# | LP-FT | the same | from the probe |
# | LoRA | $W + \frac{\alpha}{r}BA$: W stays, A and B learn | at random |
# | combined | as full, plus λ times notebook 03's cosine loss; in the experiment's script only | at random |
#
# All with the names that you know from pictures:


# %%
def build(way, task="sentiment"):
    """A model before training, in one of four ways"""
    f = load_backbone("minilm_l6", size=TOKENS)
    runtime.seed_everything(SEED)
    model = Model(f, LinearHead(f.feature_dim, len(TASKS[task].classes)))
    if way == "frozen":
        adaptation.freeze(f)
    if way in ("frozen", "LP-FT"):
        model.head.load_state_dict(probes[task].state_dict())
    if way == "LoRA":
        adaptation.wrap_lora(f, rank=RANK, alpha=ALPHA)
    return model


for way in ("frozen", "full", "LP-FT", "LoRA"):
    learn = sum(p.numel() for p in adaptation.trainable(build(way)))
    print(f"{way:<7}{learn:>11,} numbers learn")

# %% [markdown]
# ### LoRA twice: peft's and ours
#
# `peft` is the library that most people use. With the same A and B it must compute what `wrap_lora` does. B starts at
# zero, so at **step 0** the network is the pretrained one; and after training, W and BA can be **merged** into one
# matrix that costs nothing extra.

# %%
layers = ["query", "key", "value", "dense"]  # every linear layer of f
config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers)
theirs = peft.get_peft_model(build("full").backbone, config).eval()
ours, x = build("LoRA").backbone, f.preprocess(texts)
with torch.no_grad():
    step_0 = [torch.allclose(net(x), f(x), atol=1e-5) for net in (ours, theirs)]
print(f"at step 0 it is f: ours {step_0[0]}, peft's {step_0[1]}")
assert all(step_0)

# %%
other, gen = dict(theirs.named_parameters()), torch.Generator().manual_seed(SEED)
with torch.no_grad():
    for name, p in ours.named_parameters():
        if name.endswith((".A", ".B")):
            p.copy_(0.05 * torch.randn(p.shape, generator=gen))  # as if trained
            name = f"base_model.model.{name[:-2]}.lora_{name[-1]}.default.weight"
            other[name].copy_(p)
    z_ours, moved = ours(x), (ours(x) - f(x)).norm() / f(x).norm()
    same = torch.allclose(z_ours, theirs(x), atol=1e-4)
    merged = torch.allclose(adaptation.merge_lora(ours)(x), z_ours, atol=1e-4)
print(f"far from f: {bool(moved > 0.1)}; ours is peft's: {same}; merged too: {merged}")
assert moved > 0.1 and same and merged

# %% [markdown]
# ### Watch it learn
#
# Full fine-tuning on 500 remarks. Batches are made of texts of like length (`lengths=`), so that little of them is
# padding. The doctor looks at the set-up first, as at any other. The panel appears, and the cell after it trains. Later
# **Start** and **Stop** are yours.


# %%
LR = 1e-4  # of f, not tuned here; g's is ten times that


def batches(part, **how):
    """Of the sentiment texts, those of like length together"""
    split = mine["sentiment"][part]
    lengths = f.preprocess(split.texts)["mask"].sum(1)
    return nest_loader(split, read, lengths=lengths, **how)


def prepare(way):
    """-> model, optimizer and training batches"""
    model, order = build(way), torch.Generator().manual_seed(SEED)
    groups = adaptation.param_groups(f=(model.backbone, LR), g=(model.head, 10 * LR))
    train = batches("train", batch_size=BATCH, shuffle=True, generator=order)
    return model, torch.optim.AdamW(groups, weight_decay=0.01), train


# %%
model, optimizer, given = prepare("full")
loaders = {"train_loader": given, "val_loader": batches("val")}
loss = torch.nn.functional.cross_entropy
found = doctor.diagnose(model, optimizer, **loaders, task_loss=loss)
print("mistakes that the doctor finds:", [finding.code for finding in found.mistakes])
assert not found.mistakes

# %% tags=["varies"]
trained = []  # the models of all runs, the newest last


def train():
    """-> records; the rate goes up for a tenth of the steps, then down to 0"""
    model, optimizer, given = prepare("full")
    trained.append(model)
    steps = EPOCHS * len(given)
    how = {
        "epochs": EPOCHS,
        "val_loader": batches("val"),
        "precision": choice.precision,
    }
    how["schedule"] = lambda step: min((step + 1) / (0.1 * steps), 1 - step / steps)
    return training.fit(model, given, optimizer, **how)


panel = LiveRun(train)
panel

# %% tags=["varies"]
history = panel.run()
assert min(history["loss"][-20:]) < history["loss"][0]

# %% tags=["varies"]
test = nest_loader(TASKS["sentiment"].test, read)
answers = training.predict(trained[-1], test, precision=choice.precision)
full = torch.cat([hits(*pair) for pair in answers]).numpy()
rows = {"full": full, "frozen": frozen["sentiment"].numpy()}
rows["words"] = words["sentiment"]
for comparison in metrics.compare(rows):
    print(comparison)
print(f"full: {full.mean():.3f} of {len(full)} test texts")
assert full.mean() > 0.65

# %% [markdown]
# One run on 500 texts, one test set, a rate that nobody tuned: hits are compared text by text, corrected for three
# comparisons. Do not build on it; the next section has five seeds, but of frozen *f* and words only.
#
# ## The experiment: how many labels?
#
# Frozen *f* against words on sentiment, 25 to 2,000 labels, five seeds, each with its own labelled texts. The probe's
# l2 (of four) and the settings of the words (of twelve) are chosen on validation, at each number of labels, with a seed
# that is not used again; test is looked at once. `python tools/experiments/run.py text` makes the table. Differences
# are paired by seed, and corrected for the number of comparisons.
#
# **Predict.** With how many labels is frozen *f* visibly ahead of words: (a) with few only; (b) with many only; (c) in
# the middle, or not at all?

# %%
stored = results.read("text")
table = {}  # (task, labels) -> way -> test accuracy of each seed
for r in stored:
    cell = table.setdefault((r["task"], int(r["labels"])), {})
    cell.setdefault(r["way"], []).append(float(r["test"]))
WAYS = list(dict.fromkeys(r["way"] for r in stored))
K = sum(len(cell) - 1 for cell in table.values())
print(f"{len(stored)} rows, {K} comparisons with the frozen probe, corrected together")
for (task, n), cell in table.items():
    print(f"{task}, {n} labels: frozen {sum(cell['frozen']) / len(cell['frozen']):.3f}")
    for c in metrics.compare(cell, against="frozen", comparisons=K):
        if c.visible:
            print(f"    {c.first}: {c.interval}")

# %%
names = list(dict.fromkeys(name for name, _ in table))
fig, axes = plt.subplots(1, len(names), figsize=(4.7 * len(names), 4), squeeze=False)
looks = list(zip(WAYS, plotting.COLOURS.values(), "o^sDvPX*", strict=False))
for ax, name in zip(axes[0], names, strict=True):
    for way, colour, mark in looks:
        cells = {n: c[way] for (t, n), c in table.items() if t == name and way in c}
        if cells:
            spans = [metrics.mean_interval(v) for v in cells.values()]
            y, half = [s.mean for s in spans], [s.high - s.mean for s in spans]
            _ = ax.errorbar(list(cells), y, half, marker=mark, color=colour, label=way)
    ax.set(title=name, xscale="log", xlabel="labels", ylabel="test accuracy")
    ax.set_xticks(*[[n for t, n in table if t == name]] * 2)
    _ = ax.minorticks_off(), ax.legend(loc="lower right", fontsize=9)
plt.show()

# %% [markdown]
# **Read.** The mean of frozen *f* is above that of words at each number of labels, but only at 500 is it a difference
# that we can see: with few labels the draw of the labelled texts decides, with 2,000 words have nearly caught up. An
# interval with 0 in it is no proof of equality. What training *f* adds is one run, above; the script has those ways.
#
# ## Play: which words did it?
#
# Type. The text is classified at every key, and each word shows what it adds: the log-odds of the answer,
# $\log\frac{p}{1-p}$, minus the log-odds without this word. (In *topics* f is frozen, in *sentiment* it is the one that
# you trained.) Try *not*, *but*, a name, a word twice. A bar says what *this model* did with *this text*; it is no
# explanation of the language.
#
# **Any other encoder.** `load_encoder` takes any encoder by its name on Hugging Face, cuts it into *f* with masked
# mean pooling, and needs a network the first time. With `SFT_PROFILE=full`, `OTHER` names one; without a network it
# says so. All above works with it: only `f` changes.


# %%
def weigh(settings):
    """text, task -> words, what each adds, the answer and its probability"""
    models = {"topics": Model(f, probes["topics"]), "sentiment": trained[-1]}
    said = settings["text"].split()[:16] or ["…"]
    without = [" ".join(said[:i] + said[i + 1 :]) for i in range(len(said))]
    with torch.no_grad():
        tokens = f.preprocess([" ".join(said), *without])
        logits = models[settings["task"]].eval()(tokens).double()
    k = int(logits[0].argmax())
    others = logits[:, torch.arange(logits.shape[1]) != k]
    odds = logits[:, k] - others.logsumexp(
        1
    )  # log p / (1 - p), which rounds nothing off
    answer = TASKS[settings["task"]].classes[k]
    return said, odds[0] - odds[1:], answer, odds[0].sigmoid()


# %%
def draw(ax, found):
    """words, weights, answer, its probability -> ax with a bar a word"""
    said, weights, answer, p = found
    colours = [plotting.COLOURS["blue" if v > 0 else "vermillion"] for v in weights]
    _ = ax.barh(range(len(said)), weights, color=colours)
    ax.set_yticks(range(len(said)), said)
    ax.invert_yaxis()
    ax.set(title=f"{answer}: {p:.0%}", xlabel=f"adds to the log-odds of '{answer}'")


# %% tags=["varies"]
text = w.Text("I did not expect to love this car but I do", description="your text")
task = w.Dropdown(options=["sentiment", "topics"], description="task")
box = Explorer({"text": text, "task": task}, weigh, draw, figsize=(7, 4))
assert box.error is None
box

# %% tags=["varies"]
box.still()

# %% tags=["varies"]
take = load_backbone if OTHER in BACKBONES else load_encoder
other = take(OTHER, size=TOKENS)


def read_other(batch, _):
    return other.preprocess(batch[0]), batch[1]


parts = mine["sentiment"].items()
z_other = {p: extract(other, nest_loader(split, read_other)) for p, split in parts}
z_test, y_test = z_other["test"]
accuracy = hits(best_probe(z_other, 2)(z_test), y_test).mean().item()
print(f"{OTHER}: D = {other.feature_dim}, frozen, sentiment {accuracy:.3f}")
assert accuracy > 0.65

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: masked mean pooling
#
# Complete `masked_mean`: for each text the mean of its real tokens' vectors, and of no others.
#
# <details><summary>Hint 1</summary>
#
# `mask[..., None]` has shape (N, T, 1), so it multiplies every number of a token's vector.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Multiplied by 0, padding adds nothing to the sum over axis 1.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Divide by how many are real in *each* text: `mask.sum(1)`, with an axis for D.
#
# </details>


# %% tags=["exercise"]
def masked_mean(h, mask):
    """h (N, T, D), mask (N, T) True where a token is real -> z (N, D)"""
    # BEGIN SOLUTION
    # STUB: ...
    real = mask[..., None].to(h.dtype)  # (N, T, 1)
    return (h * real).sum(1) / real.sum(1)
    # END SOLUTION


check("10.masked_mean", masked_mean)

# %% [markdown]
# ### ★ Exercise 2: TF-IDF
#
# Complete `tfidf`: count × (log((1 + N) / (1 + df)) + 1), df the number of texts that hold the word; then each row is
# divided by its length $\sqrt{\sum_v w_v^2}$. No text is empty.
#
# <details><summary>Hint 1</summary>
#
# `counts > 0` says which texts hold a word; its sum over the texts is df, one number a word.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The natural logarithm; the + 1 stands outside of it.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `norm(dim=1, keepdim=True)` is one length a text.
#
# </details>


# %% tags=["exercise"]
def tfidf(counts):
    """counts (N, V) of V words in N texts -> weights (N, V)"""
    # BEGIN SOLUTION
    # STUB: ...
    N, df = len(counts), (counts > 0).sum(0)
    weights = counts * (torch.log((1 + N) / (1 + df)) + 1)
    return weights / weights.norm(dim=1, keepdim=True)
    # END SOLUTION


check("10.tfidf", tfidf)

# %% [markdown]
# ### ★ Exercise 3: merging LoRA
#
# Complete `merge`: the one matrix that does what W and the two small ones do together, $W + \frac{\alpha}{r}BA$. The
# rank r is in the shapes. W must stay as it is.
#
# <details><summary>Hint 1</summary>
#
# A comes first: it takes Q inputs to r numbers, B takes these to P outputs.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `@` is the product of matrices.
#
# </details>
# <details><summary>Hint 3</summary>
#
# r is the number of rows of A.
#
# </details>


# %% tags=["exercise"]
def merge(W, A, B, alpha):
    """W (P, Q), A (r, Q), B (P, r), alpha -> (P, Q)"""
    # BEGIN SOLUTION
    # STUB: ...
    r = A.shape[0]
    return W + alpha / r * B @ A
    # END SOLUTION


check("10.merge", merge)

# %% [markdown]
# ### ★ Exercise 4: which words mattered
#
# Complete `word_weights`: for each place i, the score of the whole text minus that of the text without the word at
# place i. `score` takes a text, so join words by spaces. Words may occur twice.
#
# <details><summary>Hint 1</summary>
#
# `words[:i] + words[i + 1:]` is all but the word at place i.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `words.remove(word)` takes the first copy, and changes the list.
#
# </details>
# <details><summary>Hint 3</summary>
#
# If leaving a word out lowers the score, its weight is positive.
#
# </details>


# %% tags=["exercise"]
def word_weights(words, score):
    """words, a list of n; score(text) -> number; -> n numbers"""
    # BEGIN SOLUTION
    # STUB: ...
    without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    return [score(" ".join(words)) - score(text) for text in without]
    # END SOLUTION


check("10.word_weights", word_weights)

# %% [markdown]
# ### ★★ Exercise 5: what padding costs
#
# Complete `padding`: texts of these lengths are put into batches in the order given, each batch is padded to *its*
# longest text. Which share of all positions is padding?
#
# <details><summary>Hint 1</summary>
#
# `lengths.split(batch_size)` gives the batches; the last one may be smaller.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A batch of n texts takes n × its longest positions.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Add up the positions of all batches, and divide once.
#
# </details>


# %% tags=["exercise"]
def padding(lengths, batch_size):
    """lengths (N,) in tokens, in the order given -> share in [0, 1)"""
    # BEGIN SOLUTION
    # STUB: ...
    batches = lengths.split(batch_size)
    places = sum(len(batch) * batch.max() for batch in batches)
    return 1 - lengths.sum() / places
    # END SOLUTION


check("10.padding", padding)

# %% [markdown]
# **Go on.** In `train`, replace `prepare("full")` by `prepare("LoRA")`; predict the loss of the last steps, run the
# panel, then give `LR` ten times its value. Or take texts with labels of your own (`TextSplit` in
# `sftlib.datasets.texts`): which of words, frozen f and tuned f wins, and what would refute it?
#
# ## Remember
#
# - z is the mean over *real* tokens. A text's vector must not depend on its neighbours: one line tests that.
# - Count words first. A control that is tuned as carefully is the bar for any network.
# - Frozen f on sentiment: 0.63 with 25 labels, 0.78 with 2,000; counted words 0.56 and 0.76 (means of five seeds).
# - `wrap_lora`, `peft`: the same matrix. At step 0 it is the pretrained network; merged it costs nothing.
# - Limits: two English data sets, one small encoder, 64 tokens, five seeds on one of them, one split of the data.
#
# **References.** Vaswani et al. 2017, *Attention is all you need*, arXiv 1706.03762. Wang et al. 2020, *MiniLM*, arXiv
# 2002.10957. Reimers and Gurevych 2019, *Sentence-BERT* (mean pooling), arXiv 1908.10084. Hu et al. 2021, *LoRA*, arXiv
# 2106.09685, eq. (3). Kumar et al. 2022, LP-FT, arXiv 2202.10054. Spärck Jones 1972, *A statistical interpretation of
# term specificity* (idf), J. Documentation 28. Greene and Cunningham 2006, ICML (news). Next: **11 A language model**.
