# %% [markdown]
# # 10 Text: when is a frozen Transformer enough?
#
# Until now *x* was a picture. Now it is a piece of text, and *f* a **Transformer** that was pretrained on a billion
# pairs of sentences. Two tasks: which topic is this news about, and is this remark positive or negative? You measure
# where frozen features are enough, against an *f* that learns and against two controls without any network.
#
# Afterwards you can
#
# - turn a batch of texts into one vector each, and find the padding bug in other people's code;
# - judge a Transformer by what is easily left out: counted words, and what the data give away without being read;
# - fine-tune it with the same `Model`, `freeze`, `fit` and panel as for pictures, and say what that brought.
#
# **65 minutes** to read and try, about 1 minute to run. Before: notebooks 00, 03 and 05. Nothing is downloaded.

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import torch
from sklearn import feature_extraction, linear_model

from sftlib import adaptation, doctor, metrics, plotting, results, runtime, training
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import nest_loader, news, sentiment
from sftlib.features import extract, linear_probe
from sftlib.model import LinearHead, Model
from sftlib.widgets import Explorer, LiveRun

plotting.use_style()
SEED, TOKENS = 0, 64  # tokens that f reads of a text; the rest is cut off
LABELS = 500  # labelled texts of the live runs, as in the table
BATCH, EPOCHS = 10, 2  # texts a step, passes over them, as in the table
RANK, ALPHA = 8, 16  # of LoRA, as in the table
PARTS = (0.5, 0.2, 0.3)  # train, validation, test; of the remarks

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("f", "g"))
plt.show()

# %% [markdown]
# ## Look at the data
#
# The **topics** are those of BBC reports of 2004 and 2005 (Greene and Cunningham 2006, ICML); the **sentiment** is what
# paid readers saw in short public messages (*remarks*) of 2011 to 2015. Both are cleaned: a copy of a text in training
# *and* test would be a present to every method. (Near copies stay; *Going deeper* counts them.)
#
# First the simplest explanation. The remarks are about five subjects, and `sentiment.subject` tells which by a few
# names: *coachella*, *nfl*, *iphone*. It knows no word of praise. **Predict.** A rule that sees the subject alone says
# the feeling that most training remarks on it have. How often is it right? (a) About 0.53, as the commoner feeling is.
# (b) About 0.6. (c) More than 0.7.


# %%
def by_subject(splits):
    """The feeling that most training texts of a subject have -> share of test right"""
    y, of = splits.train.labels, [sentiment.subject(t) for t in splits.train.texts]
    share = {s: y[[o == s for o in of]].double().mean().item() for s in set(of)}
    said = [share[sentiment.subject(text)] > 0.5 for text in splits.test.texts]
    return share, (torch.tensor(said) == splits.test.labels).double().mean().item()


came = sentiment.load(fractions=PARTS)
TASKS = {"topics": news.load()}
TASKS["sentiment"] = sentiment.load(fractions=PARTS, balanced=True)
(share, rule), (_, half) = by_subject(came), by_subject(TASKS["sentiment"])
print("positive:", ", ".join(f"{s} {v:.0%}" for s, v in sorted(share.items())))
print(f"the subject alone: {rule:.3f} right; balanced: {half:.3f}")
assert rule > 0.7 and half == 0.5

# %%
for name, task in TASKS.items():
    counts, K = task.test.labels.bincount(), torch.tensor(len(task.classes))
    print(f"{name}: {', '.join(task.classes)}; log K = {K.log():.3f}")
    print(f"  the most frequent class is {counts.max() / counts.sum():.3f} of the test")
    print(f"  train {len(task.train):,}, val {len(task.val)}, test {len(task.test)}")
    print("  " + "\n  ".join(task.notes))
    for k in range(2):
        text = task.train.texts[int((task.train.labels == k).nonzero()[1])]
        print(f"  {task.classes[k]}: {' '.join(text.split()[:4])} …")

# %% [markdown]
# **Read.** (c). A model that is right in 0.73 may know nothing of feelings. So from here on, each part holds as many
# negative as positive remarks *of each subject*; the rule then gets a half.
#
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
# text must not depend on the rest of its batch*. What does it cost? Below, each test text comes in small and in large
# batches, to a classifier that learned with the mask; and in large ones to one that learned with the same bug.
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
print(f"products in {choice.precision}")
assert max(choice.rates.values()) <= 1.05 * choice.rates[choice.precision]


# %%
def hits(logits, y):
    """-> 1 where right, 0 where wrong (N,)"""
    return (logits.argmax(1) == y).double()


def best_probe(z, K):
    """part -> (z, y) -> the head whose l2 is best on validation"""
    heads = [linear_probe(*z["train"], num_classes=K, l2=10.0**i) for i in range(-3, 3)]
    return max(heads, key=lambda g: hits(g(z["val"][0]), z["val"][1]).mean())


z, probes = {}, {}
for name, parts in mine.items():
    z[name] = {}
    for part, split in parts.items():
        loader = nest_loader(split, read)
        z[name][part] = extract(f, loader, precision=choice.precision)
    probes[name] = best_probe(z[name], len(TASKS[name].classes))
    print(name, {part: tuple(some[0].shape) for part, some in z[name].items()})


# %%
def in_batches(split, size, masked):
    """-> z (N, D), labels: the texts in batches of `size`, with or without the mask"""
    outputs = []
    for rows in torch.arange(len(split)).split(size):
        x = f.preprocess(split.batch(rows)[0])
        with torch.no_grad(), choice.precision.autocast("cpu"):
            outputs.append(pooled(x, attend=masked, average=masked).float())
    return torch.cat(outputs), split.labels


# %% tags=["varies"]
frozen = {name: hits(probes[name](p["test"][0]), p["test"][1]) for name, p in z.items()}
y, differ, bug = TASKS["sentiment"].test.labels, {}, {}
for masked in (True, False):
    said = []
    for size in (8, 64):
        bug["test"] = in_batches(TASKS["sentiment"].test, size, masked)
        said.append(probes["sentiment"](bug["test"][0]).argmax(1))
    differ[masked] = (said[0] != said[1]).double().mean().item()
    right = ", ".join(f"{(k == y).double().mean():.3f}" for k in said)
    print("with" if masked else "without", "the mask, batches of 8 against 64:")
    print(f"  right {right}; {differ[masked]:.1%} of the answers differ")
bug |= {p: in_batches(mine["sentiment"][p], size, masked) for p in ("train", "val")}
learned = hits(best_probe(bug, 2)(bug["test"][0]), y).mean()
print(f"learned with the bug too, batches of 64: {learned:.3f}")
assert differ[True] < 0.02 and differ[False] > differ[True] + 0.02

# %% [markdown]
# **Read.** Here the bug costs few points, which is why it lives long: no accuracy looks wrong, and yet more than one
# answer in ten hangs on who shares the batch. With the mask, rounding is all that could differ. Answers that depend on
# the batch size of the *evaluation* are a bug, never a finding.
#
# ## The control: counting words
#
# Before Transformers there was **TF-IDF**: one column a word, its count in the text (*term frequency*) times
# $\log\frac{1+N}{1+\mathrm{df}} + 1$, which is large for words that few of the N texts hold (df), each row then of
# length 1. Logistic regression on that is the control. It reads the same words as *f* and may choose as much: eight
# settings (C, the inverse of l2, and single words or pairs too) where l2 has six, on the same validation texts.
#
# **Predict.** With 500 labels, is *f* visibly ahead of words? (a) On both tasks. (b) On topics only. (c) On sentiment
# only. (d) On neither.


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
GRID = [(C, most) for C in (1, 10, 100, 1000) for most in (1, 2)]
words = {}
for name, parts in mine.items():
    texts_of = {
        part: [read_by_f(t) for t in split.texts] for part, split in parts.items()
    }
    y = {part: split.labels.numpy() for part, split in parts.items()}
    tried = [by_words(texts_of, y, *pair) for pair in GRID]
    words[name] = max(tried, key=lambda t: t["val"].mean())["test"]
    rows = {"frozen f": frozen[name].numpy(), "words": words[name]}
    print(f"{name}: frozen f {frozen[name].mean():.3f}, words {words[name].mean():.3f}")
    c = metrics.compare(rows, comparisons=2)[0]
    print(f"  difference {c.interval} over {c.n} texts")
assert frozen["topics"].mean() > frozen["sentiment"].mean() + 0.15

# %% [markdown]
# **Read.** (c), says one draw of 500 texts. The table below has five.
#
# ## Now f learns
#
# | way | of f learns | g starts |
# |---|---|---|
# | frozen | nothing: `freeze(f)` | logistic regression |
# | fine-tuned | layers 5 and 6 | at random, ten times f's rate |
# | LP-FT | layers 5 and 6 | as the probe |
# | LoRA | A (*r* rows) and B in layers 5, 6: $W + \frac{\alpha}{r}BA$, W stays | at random, at f's rate |
# | combined | as fine-tuned, plus λ times notebook 03's cosine loss | at random |
# | full | all | at random |
#
# All with the names that you know from pictures:


# %%
def build(way, task="sentiment"):
    """A model before training; "combined" is built as "fine-tuned" """
    f = load_backbone("minilm_l6", size=TOKENS)
    runtime.seed_everything(SEED)
    model = Model(f, LinearHead(f.feature_dim, len(TASKS[task].classes)))
    if way in ("frozen", "LP-FT"):
        model.head.load_state_dict(probes[task].state_dict())
    if way != "full":
        adaptation.freeze(f)
    for layer in (f.layer5, f.layer6) if way not in ("frozen", "full") else ():
        adaptation.unfreeze(layer)
        if way == "LoRA":
            adaptation.wrap_lora(layer, rank=RANK, alpha=ALPHA)
    return model


# %%
for way in ("frozen", "fine-tuned", "LP-FT", "LoRA", "full"):
    learn = sum(p.numel() for p in adaptation.trainable(build(way)))
    print(f"{way:<11}{learn:>11,} numbers learn")

# %% [markdown]
# ### Watch it learn
#
# All of f on 500 remarks. Batches are made of texts of like length (`lengths=`), so that little of them is
# padding. The doctor looks at the set-up first, as at any other. The panel appears, and the cell after it trains. Later
# **Start** and **Stop** are yours.


# %%
LR = 1e-4  # of f, as the table below chose for "full"


def batches(part, **how):
    """Of the sentiment texts, those of like length together"""
    split = mine["sentiment"][part]
    lengths = f.preprocess(split.texts)["mask"].sum(1)
    return nest_loader(split, read, lengths=lengths, **how)


def prepare(way):
    """-> model, optimizer and training batches"""
    model, order = build(way), torch.Generator().manual_seed(SEED)
    of_g = LR if way == "LoRA" else 10 * LR
    groups = adaptation.param_groups(f=(model.backbone, LR), g=(model.head, of_g))
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
for c in metrics.compare(rows):
    print(f"{c.first} − {c.second}: {c.interval}")
print(f"full: {full.mean():.3f} of {len(full)} test texts")
assert full.mean() > 0.65

# %% [markdown]
# One run on 500 texts, one test set, at the rate that the table below chose: hits are compared text by text, corrected
# for three comparisons. Do not build on it; the next section has five seeds.
#
# ## The experiment: how many labels?
#
# Frozen *f* against words, and against an *f* that learns, five seeds, each with its own labelled texts. The probe's l2
# (of ten) and the settings of the words (of twenty) are chosen on validation at each number of labels, f's rate (of
# three or four) at 100, with two seeds that are not used again; test is looked at once. `python
# tools/experiments/run.py text` makes the table. Differences are paired by seed; which ones are looked at, two
# questions, was written down before the rows were run, and each is corrected for its number. (1,000 labels are nearly
# all of the 1,072 balanced remarks: the seeds learn from almost the same texts, so their interval says little about
# others.) For 2,000 labels there are enough only *as they come*, 70 % of them (2,760) to learn from; what counts is
# the balanced part of their test.
#
# **Predict.** On sentiment, with how many labels is the *f* that learns visibly ahead of the frozen one? (a) From 25
# on. (b) With 1,000. (c) With none.

# %%
MORE = "as it comes, 70 %"  # sentiment, with more remarks to learn from
WAYS = {"topics": ("frozen", "TF-IDF", "TF-IDF, whole text", "fine-tuned")}
WAYS["sentiment"] = ("frozen", "TF-IDF", "fine-tuned", "full", "subject")
WAYS[MORE], table = WAYS["sentiment"], {}
for r in results.read("text"):  # (task, labels) -> way -> accuracy of each seed
    if r["way"] in WAYS.get(r["task"], ()):
        cell = table.setdefault((r["task"], int(r["labels"])), {})
        cell.setdefault(r["way"], []).append(float(r["balanced"]))
for (task, n), cell in table.items():
    means = (f"{way} {sum(v) / len(v):.3f}" for way, v in cell.items())
    print(f"{task}, {n} labels: {', '.join(means)}")
everyone = list(dict.fromkeys(way for ways in WAYS.values() for way in ways))

# %%
QUESTIONS, seen = {("TF-IDF", "TF-IDF, whole text"): 13, ("fine-tuned", "full"): 11}, {}
for ways, planned in QUESTIONS.items():
    print(f"against frozen, corrected for {planned} comparisons:")
    how = {"against": "frozen", "comparisons": planned}
    for at, cell in table.items():
        rows = {way: v for way, v in cell.items() if way in ("frozen", *ways)}
        for c in metrics.compare(rows, **how) if len(rows) > 1 else ():
            seen[(*at, c.first)] = c.interval
            print(" ", *at, f"{c.first} {c.interval}{', visible' if c.visible else ''}")
ahead = {at[:2] for at, v in seen.items() if at[2] == "fine-tuned" and v.low > 0}
assert seen[MORE, 2000, "full"].low > 0
assert ahead == {("topics", 100), ("sentiment", 1000), (MORE, 2000)}
level = {at[:2] for at, v in seen.items() if at[2] == "TF-IDF" and v.high >= 0}
assert level == {("topics", 500), ("topics", 1000), (MORE, 2000)}
assert all(seen["topics", n, "TF-IDF, whole text"].low > 0 for n in (500, 1000))

# %%
how = {"figsize": (9.6, 4), "width_ratios": (5, 5, 2.4), "layout": "constrained"}
fig, axes = plt.subplots(1, 3, **how)
for ax, task in zip(axes, WAYS, strict=True):
    budgets = [n for name, n in table if name == task]
    for i, way in enumerate(everyone):
        at = [n for n in budgets if way in table[task, n]]
        spans = [metrics.mean_interval(table[task, n][way]) for n in at]
        half = [s.high - s.mean for s in spans]
        look = {"marker": "osD^vP"[i], "color": list(plotting.COLOURS.values())[i]}
        _ = ax.errorbar(at, [s.mean for s in spans], half, label=way, **look)
    ax.set(title=task, xscale="log", xlabel="labels")
    _ = ax.set_xticks(budgets, budgets), ax.minorticks_off()
axes[0].set_ylabel("test accuracy")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
plt.show()

# %% [markdown]
# **Read.** (b), by eight points; by seven with 2,000 as they come, and by ten where all of *f* learns. With 500,
# *fine-tuned* is four points ahead on average, and five seeds are too few to call it: an interval with 0 in it is no
# proof of equality. On topics it is ahead with 100 labels, not visibly with 25 or 500 (with 25 a probe that may not
# choose a small l2 seems far behind: *Going deeper*). Words that read the same are behind frozen *f* in all cells but
# topics with 500 labels and more, and the 2,000. Words that may read the *whole* report are ahead with 500 and 1,000:
# *f* sees 64 tokens of it. As the remarks come words look far better, and are not (*Going deeper*).
#
# ## Play: which words did it?
#
# Type. The text is classified at every key, and each word shows what it adds: the log-odds of the answer,
# $\log\frac{p}{1-p}$, minus the log-odds without this word. (In *topics* f is frozen, in *sentiment* it is the one that
# you trained.) Try *not*, *but*, a name, a word twice. A bar says what *this model* did with *this text*; it is no
# explanation of the language.
#
# The box reads 16 words.


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
    # log p / (1 - p), which rounds nothing off
    odds = logits[:, k] - others.logsumexp(1)
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
# `sftlib.datasets.texts`): which of words, frozen f and tuned f wins, and what would refute it? Another f:
# `sftlib.backbones.load_encoder` takes any encoder's name on Hugging Face, or a folder.
#
# ## Remember
#
# - z is the mean over *real* tokens. A text's vector must not depend on its neighbours: one line tests that.
# - Ask what the data give away unread: the subject alone told the feeling in 73 of 100 remarks.
# - Then count words, tuned as carefully, and let them read all that there is.
# - Frozen f, 500 labels: topics 0.94, sentiment 0.70; words that read the same 0.92 and 0.62 (means of five seeds).
# - With 1,000 remarks an f that learns is at 0.80, a frozen one at 0.71.
# - Limits: two English data sets, one small encoder, 64 tokens, five seeds, one split of the data.
#
# **Going deeper**: [why padding does not count, where to cut, LoRA, the shortcut
# measured](10_text_deeper.ipynb).
#
# **References.** Vaswani et al. 2017, *Attention is all you need*, arXiv 1706.03762. Wang et al. 2020, *MiniLM*, arXiv
# 2002.10957. Reimers and Gurevych 2019, *Sentence-BERT* (mean pooling), arXiv 1908.10084. Hu et al. 2021, *LoRA*, arXiv
# 2106.09685, eq. (3). Kumar et al. 2022, LP-FT, arXiv 2202.10054. Spärck Jones 1972, *A statistical interpretation of
# term specificity* (idf), J. Documentation 28. Greene and Cunningham 2006, ICML (news). Next: **11 A language model**.
