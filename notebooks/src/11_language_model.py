# %% [markdown]
# # 11 A language model: what does "SFT" mean today?
#
# Most people who say *supervised fine-tuning*, or SFT, mean this: a language model is shown conversations and learns to
# write the assistant's part. *f* is the body of a Transformer, *g* its output
# matrix, the classes are 49,152 tokens, and the label is the next token. Three things are new: which tokens count, a
# matrix that belongs to *f* and *g* at once, and a model that can forget what you did not ask about.
#
# Afterwards you can
#
# - say which tokens of a conversation are learned, and check it by eye;
# - tune a real language model on a hundred examples in half a minute, frozen layers computed once;
# - judge it: against baselines without a language model, by what it writes, and by what it forgot.
#
# **60 minutes** to read and try, 1½ minutes to run. Before: notebooks 00, 02, 05 and 10. Nothing is downloaded.

# %% tags=["setup"]
import html

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import HTML, display

from sftlib import adaptation, backbones, generation, results, runtime, widgets
from sftlib.checks import check
from sftlib.datasets import NestSplit, chat, nest_loader, news, texts
from sftlib.features import extract, upper_part
from sftlib.metrics import Exact, compare
from sftlib.plotting import COLOURS, LINES, idea, use_style
from sftlib.training import evaluate, fit

use_style()
size = runtime.profile()
SEED = 0
ROWS, TEST = 96, size.pick(quick=40, full=400)  # news to learn from, to judge by
TOKENS = 48  # of each, at most
LAST = "layer24"  # of 30: frozen up to here
BATCH, PASSES, LR = 8, 2, 3e-4
BF16 = runtime.Precision(torch.bfloat16)
TOPICS, PALETTE = news.CLASSES, list(COLOURS.values())
TASK = "Which topic: business, entertainment, politics, sports or tech? "
TASK += "Answer in one word."

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("f", "g"))
plt.show()

# %% [markdown]
# ## The model and the data
#
# SmolLM2-135M-Instruct (Allal et al. 2025) read two trillion tokens and was then tuned on conversations. A **token** is
# a whole number that stands for a word or a piece of one; f turns each into D = 576 numbers and passes them through 30
# layers, in which every token looks back at those before it.
#
# The task: name the topic of a report of the BBC in one word, from its first 48 tokens. A classifier can do that
# (notebook 10). Here the model has to *write* the word, nothing else, and stop.

# %%
model = backbones.load_model("smollm2_135m")
f, g, tokenizer = model.backbone, model.head, model.tokenizer
STOP = tokenizer.eos_token_id
for name, part in (("f", f), ("g", g), ("f and g", model)):
    print(f"{name:<8}{sum(p.numel() for p in part.parameters()):>12,} numbers")
print("one matrix in both:", g.weight is f.embedding.table.weight)
print("stages of f:", ", ".join((*f.stages[:3], "…", *f.stages[-2:])))


# %%
def draw(split, n):
    """-> n of (text, topic), drawn with the seed"""
    order = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(split), generator=order)[:n].tolist()
    labels = split.labels.tolist()
    short = [texts.shortened(tokenizer, split.texts[i], TOKENS) for i in rows]
    return [(text, TOPICS[labels[i]]) for text, i in zip(short, rows, strict=True)]


reports = news.load(seed=SEED)
train, test = draw(reports.train, ROWS), draw(reports.test, TEST)
for name, rows in (("train", train), ("test", test)):
    counts = {topic: sum(t == topic for _, t in rows) for topic in TOPICS}
    print(f"{name:<6}", ", ".join(f"{topic} {n}" for topic, n in counts.items()))
print(f"always one topic: at most {max(counts.values()) / TEST:.0%} right")

# %% [markdown]
# ## Which tokens count
#
# A **chat template** turns messages into one text. Special tokens, `<|im_start|>` and `<|im_end|>`, say where a
# **turn** begins and ends; before each stands its **role**: system (the task), user, assistant.


# %%
def ask(text, *, topic=None):
    """-> messages; with the answer where the topic is given"""
    asked = [
        {"role": "system", "content": TASK},
        {"role": "user", "content": text},
    ]
    answer = [{"role": "assistant", "content": topic}] if topic else []
    return asked + answer


lines = [("The keeper saved two penalties.", "sports")]
lines += [("Shares of a bank fell.", "business"), ("The singer won.", "entertainment")]
talk = ask(lines[0][0], topic=lines[0][1])
print(tokenizer.apply_chat_template(talk, tokenize=False))

# %% [markdown]
# The model should learn to write what the assistant says: **its words, and the token that ends its turn**. Not the
# user's words, which it will be given. Not the role, which the program writes. Not the line break behind the end:
# by then it has stopped. So a **mask** $m_t$ is 1 for the assistant's words and their end, else 0. By hand: what is
# longer with the answer than without, up to the first end.
#
# `chat.encode` does so for every assistant's turn and any template, and refuses what cannot be learned from. Always
# look at the mask: what counts is orange and underlined.

# %%
prompt = tokenizer.apply_chat_template(
    talk[:-1], add_generation_prompt=True, return_dict=True
)["input_ids"]
ids = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
assert ids[: len(prompt)] == prompt  # what is read in use is what was read in training
end = ids.index(STOP, len(prompt))
by_hand = [len(prompt) <= t <= end for t in range(len(ids))]

encoded, answer = chat.encode(tokenizer, talk)
print(f"{len(ids)} tokens, {sum(by_hand)} count")
assert encoded.tolist() == ids and answer.tolist() == by_hand


# %%
def coloured(ids, answer):
    """Tokens, one after the other, as HTML"""
    spans = []
    for i, counts in zip(ids.tolist(), answer.tolist(), strict=True):
        word = html.escape(tokenizer.decode([i])).replace(" ", "·")
        look = "color:#595959;background:#EDEDED"
        if counts:
            look = "color:black;background:#E69F00;text-decoration:underline"
        shown = f'<span style="{look};margin:1px;padding:1px">'
        spans.append(shown + word.replace("\n", "↵") + "</span>")
        spans.append("<br>" if "\n" in word else "")
    return HTML(f"<div style='font-family:monospace'>{''.join(spans)}</div>")


more = [{"role": "user", "content": "And shares of a bank?"}]
talk2 = [*talk, *more, {"role": "assistant", "content": "business"}]
coloured(*chat.encode(tokenizer, talk2))

# %% [markdown]
# ## The loss, by hand
#
# $$L_g = -\frac{\sum_t m_t \log p(x_t \mid x_{<t})}{\sum_t m_t}$$
#
# | symbol | in code | what it is |
# |---|---|---|
# | $x_t$ | `x["ids"]` | (N, T), the tokens |
# | $m_t$ | `y != -100` | (N, A), what counts; A answer tokens a row |
# | $p$ | `softmax` of `g(z)` | (N, V, A), over V = 49,152 tokens |
# | $z$ | `f(x)` | (N, A, D): only where an answer's token is predicted |
#
# The token at place $t$ is predicted from those before it, so its *z* stands at $t-1$. `chat.collate` does that shift,
# in which most hand-written losses go wrong, in `x["answer"]`.

# %% tags=["varies"]
pairs = [chat.encode(tokenizer, ask(a, topic=b)) for a, b in lines]
x, y = chat.collate(pairs)
z = f(x)  # (N, A, D)
log_p = g(z).log_softmax(1)  # (N, V, A)
by_hand = -log_p.gather(1, y.clamp(min=0)[:, None])[:, 0][y != -100].mean()

net = backbones.as_transformers(model)  # the same weights, Hugging Face's code
labels = [ids.where(counts, -100) for ids, counts in pairs]  # not shifted
labels = torch.nn.utils.rnn.pad_sequence(labels, True, -100)  # (N, T)
out = net(x["ids"], attention_mask=x["mask"].long(), labels=labels)
theirs = out.logits[torch.arange(3)[:, None], x["answer"]].transpose(1, 2)
print(f"by hand {by_hand:.4f}, transformers {out.loss:.4f} nats per token")
assert torch.isclose(by_hand, F.cross_entropy(g(z), y), rtol=1e-5)
# 49,152 exponentials are added up in another order
assert torch.isclose(out.loss, F.cross_entropy(theirs.double(), y).float(), rtol=1e-5)
assert torch.isclose(out.loss, by_hand, rtol=1e-3)

# %% [markdown]
# (*z* is taken at 4 places a row instead of 40, which spares the network's largest product.)
#
# ## The cut goes through a shared matrix
#
# $W_e$ (V, D), the table that turns tokens into numbers, is also *g*. So $\partial L/\partial W_e$ has two sources, and
# autograd adds them without a word. To see them apart, `untie`: give *g* a copy.

# %% tags=["varies"]
F.cross_entropy(model(x), y).backward()
both = g.weight.grad
apart = adaptation.untie(backbones.load_model("smollm2_135m"))
F.cross_entropy(apart(x), y).backward()
read, wrote = apart.backbone.embedding.table.weight.grad, apart.head.weight.grad
ledger = {"read, by f": read, "written, by g": wrote, "both: W_e": both}
for name, grad in ledger.items():
    rows = int((grad.norm(dim=1) > 0).sum())
    print(f"∂L/∂W_e as it is {name:<15} norm {grad.norm():6.2f}   rows {rows:>6,}")
assert torch.allclose(both, read + wrote, atol=1e-4 * both.abs().max())

# %%
fig, ax = plt.subplots(figsize=(7, 3))
for (name, grad), colour, line in zip(ledger.items(), PALETTE, LINES, strict=False):
    norms = grad.norm(dim=1).sort(descending=True).values
    norms = norms[norms > 0]
    ranks = range(1, len(norms) + 1)
    _ = ax.plot(ranks, norms, color=colour, ls=line, label=name)
ax.set(xscale="log", yscale="log", xlabel="rows of W_e, the largest gradient first")
ax.set_ylabel("norm of the row's gradient")
ax.legend()
plt.show()
del apart, read, wrote, both, ledger
model.zero_grad()

# %% [markdown]
# Reading touches the rows of the tokens read; writing touches all 49,152, for every token that was *not* the answer is
# pushed down a little. So "freeze f, train g" means nothing here: freeze $W_e$ in one, and it is frozen in the other.
# Either untie, or, as below, leave $W_e$ as it is.
#
# ## Before
#
# **Generation**: the most probable token is written down, read again with all before it, and so on until `<|im_end|>`
# or a limit. Two judges: is the answer one of the five words, and ended (**form**)? Is it the right one
# (**exact**)?


# %% tags=["varies"]
def write(net, rows, most=8):
    """-> what net answers to each (text, topic), special tokens kept"""
    prompts = [chat.prompt(tokenizer, ask(text)) for text, _ in rows]
    how = {"stop": STOP, "most": most, "precision": BF16}
    return [tokenizer.decode(i) for i in generation.written(net, prompts, **how)]


def judge(said, rows):
    """-> shares of rows: form, exact; both in [0, 1]"""
    form = [s in [f"{t}<|im_end|>" for t in TOPICS] for s in said]
    exact = [s == f"{t}<|im_end|>" for s, (_, t) in zip(said, rows, strict=True)]
    return sum(form) / len(rows), sum(exact) / len(rows)


said = write(net, test)
before = judge(said, test)
print("the first three:", said[:3])
print(f"form {before[0]:.0%}, exact {before[1]:.0%} of {len(test)}")
assert before[1] < 0.5

# %% [markdown]
# ## The experiment: a hundred examples
#
# Layers 1 to 24 are frozen, so what they give, *h*, is computed **once** and kept. Layers 25 to 30 learn.


# %%
def lower(rows):
    """-> h of (text, topic) rows and y, as a split"""
    pairs = [chat.encode(tokenizer, ask(a, topic=b)) for a, b in rows]
    x_and_y = NestSplit(*chat.collate(pairs))
    loader = nest_loader(x_and_y, batch_size=16)
    return NestSplit(*extract(f, loader, stage=LAST, precision=BF16))


adaptation.freeze(model)
h, h_test = lower(train), lower(test)
top = upper_part(model, LAST)  # the same modules as in model
adaptation.train_only(top, top.backbone)
start = {name: v.clone() for name, v in top.backbone.state_dict().items()}
print("h:", tuple(h.x["h"].shape))
share = sum(v.numel() for v in start.values())
share /= sum(p.numel() for p in model.parameters())
print(f"{share:.0%} of all numbers learn")

# %% [markdown]
# **Predict.** After two passes over 96 examples, how many of the new reports get exactly the right word and an end?
#
# (a) Hardly any: it could not do it before, and 96 is nothing. (b) Well over half. (c) It writes the words well, but
# which one is luck: about one in five.


# %% tags=["varies"]
def tune(split):
    """Train top, from the published weights, on (h, y) -> loss of each step"""
    top.backbone.load_state_dict(start)
    order = torch.Generator().manual_seed(SEED)
    batches = nest_loader(split, batch_size=BATCH, shuffle=True, generator=order)
    steps = PASSES * len(batches)
    optimizer = torch.optim.Adam(top.backbone.parameters(), lr=LR)
    how = {"terms": chat.counted, "metric": None, "precision": BF16}
    how["schedule"] = lambda i: min((i + 1) / 6, 1 - i / steps)  # up, then slowly down
    records = fit(top, batches, optimizer, epochs=PASSES, **how)
    return [r.task_loss for r in records if hasattr(r, "task_loss")]


steps = tune(h)
tuned = {name: v.clone() for name, v in top.backbone.state_dict().items()}
print(f"loss {steps[0]:.2f} -> {sum(steps[-5:]) / 5:.2f} nats per token")
assert sum(steps[-5:]) / 5 < 0.5 * steps[0]

# %% tags=["varies"]
said = write(net, test)  # net shares its weights with model, so it is tuned too
after = judge(said, test)
print(f"before: form {before[0]:.0%}, exact {before[1]:.0%}")
print(f"after:  form {after[0]:.0%}, exact {after[1]:.0%} of {len(test)}; {said[:3]}")
batches = nest_loader(h_test, batch_size=20)
forced = evaluate(top, batches, metric=Exact, terms=chat.counted, precision=BF16)
print(f"exact, without writing: {forced['exact']:.0%}")
assert after[0] > 0.9 and after[1] > 0.6 and abs(forced["exact"] - after[1]) < 0.15

# %% [markdown]
# **Read.** (b). Whether it learned the topics, or only how to answer, the table will tell. (The last line needs
# no writing: **greedy** writing gives an answer when each of its tokens, with the right ones before it, is
# the most probable. `Exact` counts that, but for ties.)
#
# ## The table: how to tune, and is it worth it?
#
# The same task with 64 rows and three seeds, which draw the rows, their order, and what is random; the same 100 test
# reports for all; each way at its own rate, the one with the smallest loss on 32 validation reports, on which probe and
# TF-IDF choose too (`tools/experiments/language_model.py` and `…_rates.py`). *LoRA* (notebook 10) is in every matrix of
# the layers; *full* moves all; *prompt too* counts every token. **Likelihood**: which of the five topics' first tokens
# is the most probable; it needs no form. (A crude judge: *sports* begins with the token *s*, as many words do, and in
# bfloat16 two logits are often equal.)
#
# A model that was taught one thing may lose another, and nothing in the task's score says so. So take unrelated text
# (40 short messages of another source) and compute the mean of $-\log p(x_t\mid x_{<t})$ over *all* its tokens: in
# **nats per token**, or, to compare models with other tokens, in **bits per byte**: nats × tokens / (log 2 × bytes).
# **Forgetting** is its rise over the untouched model. **Predict** which way forgets most: *full*, in which everything
# may move, *LoRA*, or *top 6*, in which four fifths of the layers are frozen.

# %%
stored = sorted(results.read("language_model"), key=lambda r: int(r["seed"]))


def column(method, name, task="topic"):
    """-> a number for each seed, in their order"""
    mine = [r for r in stored if (r["task"], r["method"]) == (task, method)]
    return [float(r[name]) for r in mine if r[name] != ""]


def mean(values, look="{:.2f}"):
    return look.format(sum(values) / len(values)) if values else "–"


# %%
rates = {}
for r in results.read("language_model_rates"):
    rates.setdefault(r["method"], {})[float(r["lr"])] = float(r["loss"])
for way, tried in rates.items():
    print(f"{way:<6}", ", ".join(f"{a:g}: {tried[a]:.2f}" for a in sorted(tried)))
    assert min(tried) < min(tried, key=tried.get) < max(tried)

# %% [markdown]
# Rate: loss. Each best one has a worse on either side; still, 32 reports and one seed are few.

# %%
ways = list(dict.fromkeys(r["method"] for r in stored if "constant" not in r["method"]))
heads = ("seeds", "likely", "form", "exact", "nats", "bits", "CPU s")
print(f"{'way':<24}" + "".join(f"{head:>8}" for head in heads))
for way in ways:
    cells = [str(len(column(way, "exact")))]
    cells += [mean(column(way, name)) for name in ("likelihood", "form", "exact")]
    cells += [mean(column(way, "nats")), mean(column(way, "bits"))]
    cells += [mean(column(way, "cpu_s"), "{:.0f}")]
    print(f"{way:<24}" + "".join(f"{cell:>8}" for cell in cells))

# %%
exact = {way: column(way, "exact") for way in ways}
fig, ax = plt.subplots(figsize=(7, 3.8))
for i, values in enumerate(exact.values()):
    _ = ax.plot(values, [-i] * len(values), "o", color=PALETTE[0], alpha=0.6)
    _ = ax.plot(sum(values) / len(values), -i, "|", color="black", ms=16, mew=2)
ax.set_yticks(range(0, -len(exact), -1), exact)
ax.set(
    xlabel="exact, share of 100 reports (dot: a seed, bar: the mean)", xlim=(-0.03, 1)
)
plt.show()
# %%
rivals = ("top 6", "full", "LoRA", "top 6, prompt too")
scored = {way: exact[way] for way in (*rivals, "linear probe")}
calm, seen = column("untouched", "nats")[0], compare(scored, against="top 6")
lost = compare({way: column(way, "nats") for way in rivals}, against="top 6")
print("exact:", *seen, "nats per token of other text:", *lost, sep="\n")
longer = [r for r in stored if "constant" in r["method"] and r["passes"] == "4"]
four = {name: [float(r[name]) for r in longer] for name in ("exact", "nats")}
print("top 6, four passes, rate constant:", {k: mean(v) for k, v in four.items()})
assert not any(d.visible for d in seen if d.first == "linear probe")
assert min(exact["full"] + exact["LoRA"] + four["exact"]) > max(exact["top 6"])
assert min(exact["top 6"]) > max(exact["untouched"]) + 0.4
assert min(column("few-shot", "form")) > 0.5
assert all(d.visible for d in lost if d.first in ("full", "LoRA"))
assert max(column("full", "nats") + column("LoRA", "nats")) < calm + 0.3

# %% [markdown]
# **Read.** Every trained way has the form. *Full* and *LoRA* lie above *top 6* in each seed, though three are too few
# for the course's rule to see it; and with four passes at a constant rate *top 6* catches up. What the rule sees is the
# forgetting: two nats per token in the six upper layers, over three then; next to none in *LoRA* and *full*, where
# everything may move. So frozen layers alone protect nothing; the others made the whole change, at ten times *full*'s
# rate. (Rate or depth? This table cannot tell.) *Prompt too*, at *top 6*'s rate, forgets less and answers worse, in
# each seed.
#
# Two ways train no layer. *Few-shot* shows the untouched model one example of each topic: most answers then have the
# form, and nearly half are right, depending on the examples. A *linear probe*, logistic regression on the
# untouched *z* where the answer would begin, names as many topics as the six tuned layers: no difference that we can
# see (on the *z* of a random *f*: the majority's). So *top 6* need not have learned more than to *say* what was in *z*.
# "0 % before" was in part a question of form: judged without it (*likely*), the untouched model has 0.35, the majority
# 0.22. The rest lay in *z*, but took labels or examples to be read. TF-IDF needs no minute, and belongs in every such
# table.
#
# ## Where it breaks
#
# Three mistakes that run without a word.
#
# **Padding that looks like the end.** Rows of a batch are filled up to one length with a padding token, which must not
# be learned. Who takes the end of turn for it (`pad_token = eos_token`) and then masks by number masks every end:

# %% tags=["varies"]
y_without_end = torch.where(h.y == STOP, -100, h.y)
_ = tune(NestSplit(h.x, y_without_end))
few = test[:12]
said = write(net, few, most=16)
ended = sum(s.endswith("<|im_end|>") for s in said) / len(few)
print(f"{ended:.0%} of the answers end; the first: {said[0]!r}")
top.backbone.load_state_dict(tuned)
sound = write(net, few, most=16)
assert ended < sum(s.endswith("<|im_end|>") for s in sound) / len(few)

# %% [markdown]
# **The prompt is trained too.** Forget the mask, and every token counts. What then pulls at the weights?


# %% tags=["varies"]
def loss_and_terms(pairs):
    x, y = chat.collate(pairs)
    return F.cross_entropy(model(x), y), int((y != -100).sum())


def gradient(loss):
    """-> ∂loss/∂(what trains), as one vector"""
    parts = torch.autograd.grad(loss, list(top.backbone.parameters()))
    return torch.cat([part.flatten() for part in parts])


every = [(ids, torch.arange(len(ids)) > 0) for ids, _ in pairs]
(masked, m), (whole, n) = loss_and_terms(pairs), loss_and_terms(every)
alike = F.cosine_similarity(gradient(masked), gradient(whole), dim=0)
print(f"loss: {masked:.2f} nats of {m} tokens, {whole:.2f} nats of {n} tokens")
print(f"{m / n:.0%} of the terms are answers; cosine of the two gradients {alike:.2f}")
assert m < 0.2 * n and alike < 0.7

# %% [markdown]
# Its loss is a mean over other tokens: the two cannot be compared. More than nine tenths of its terms are the prompt.
# (Shi et al. 2024 found that loss on the prompt too can help, most where prompts are long and answers brief, or rows
# few: as here. In our table it did not.)
#
# **The mean of means.** A batch that does not fit in memory is computed in parts, **micro-batches**, whose gradients
# are added (*accumulation*). Average the parts' mean losses, and a token of a short answer counts more than
# one of a long:

# %% tags=["varies"]
long = ask("Tell me all of it.", topic="sports, and then business, and politics " * 3)
parts = [pairs, [chat.encode(tokenizer, long)]]
whole, n = loss_and_terms(parts[0] + parts[1])
found = [loss_and_terms(part) for part in parts]
right = gradient(whole)
naive = sum(gradient(loss) for loss, _ in found) / len(found)
found = [loss_and_terms(part) for part in parts]
weighed = sum(gradient(loss * t / n) for loss, t in found)
for name, other in (("mean of means", naive), ("weighed by tokens", weighed)):
    print(f"{name:<18} off by {(other - right).norm() / right.norm():.1%}")
assert (naive - right).norm() > 0.1 * right.norm() > 100 * (weighed - right).norm()

# %% [markdown]
# Widely used trainers made this mistake until October 2024 (Hugging Face 2024). `fit` weighs parts by what `terms`
# counts.
#
# ## Play
#
# Talk to the model, before and after. Ask something else, empty the task, raise the temperature. What has *after*
# become bad at?


# %%
def talker(net):
    """-> a function of messages and temperature that gives pieces of the answer"""

    def answer(messages, temperature):
        ids = [chat.prompt(tokenizer, messages)]
        how = {"stop": STOP, "most": 80, "temperature": temperature, "precision": BF16}
        yield from generation.pieces(
            tokenizer, generation.generate(net, ids, **how), stop=STOP
        )

    return answer


untouched = backbones.as_transformers(backbones.load_model("smollm2_135m"))

# %% tags=["varies"]
talkers = {"after": talker(net), "before": talker(untouched)}
box = widgets.ChatBox(talkers, task=TASK, question="The bank raised its rates.")
for name, task, text in (
    ("before", TASK, "The bank raised its rates."),
    ("after", TASK, "The bank raised its rates."),
    ("before", "", "What is the capital of France?"),
    ("after", "", "What is the capital of France?"),
):
    box.clear()
    box.model.value, box.task.value = name, task
    print(f"{name}, {'with' if task else 'no'} task: {box.ask(text)}")
box.clear()
box.task.value, box.question.value = TASK, "The bank raised its rates."
display(box)

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: the loss of the answers
#
# Complete `answer_loss`: logits at *every* place (N, T, V), the tokens `ids` (N, T), and which of them count, `counts`
# (N, T), true or false. The mean of $-\log p$ over the tokens that count, in nats. The first token never counts.


# %% tags=["exercise"]
def answer_loss(logits, ids, counts):
    """logits (N, T, V), ids (N, T), counts (N, T) bool -> the loss, one number"""
    # BEGIN SOLUTION
    # STUB: ...
    log_p = logits[:, :-1].log_softmax(2)  # at t - 1 ...
    log_p = log_p.gather(2, ids[:, 1:, None])[..., 0]  # ... of the token at t
    return -(log_p * counts[:, 1:]).sum() / counts.sum()
    # END SOLUTION


check("11.answer_loss", answer_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which logits speak of the token at $t$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `logits[:, :-1]` and `ids[:, 1:]` belong together; `counts` belongs to `ids`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `log_softmax(2)`, `gather(2, …[..., None])`, one division.
#
# </details>

# %% [markdown]
# ### ★ Exercise 2: the loss of a step in parts
#
# The parts of a batch have the mean losses `means` (B,) over `counts` (B,) tokens. Complete `step_loss`, the mean over
# all tokens. A part may hold no token that counts; its mean is then 0/0, *not a number*.


# %% tags=["exercise"]
def step_loss(means, counts):
    """means (B,), counts (B,) -> the mean over all tokens"""
    # BEGIN SOLUTION
    # STUB: ...
    there = counts > 0
    return (means[there] * counts[there]).sum() / counts.sum()
    # END SOLUTION


check("11.step_loss", step_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A mean times its count is a sum.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Add sums, add counts, divide once.
#
# </details>
# <details><summary>Hint 3</summary>
#
# NaN times 0 is NaN: first choose `counts > 0`.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: temperature
#
# Complete `drawn_from`: the probabilities (V,) with which the next token is drawn at temperature τ: softmax of
# logits/τ; at τ = 0 the most probable token has 1 and all others 0.


# %% tags=["exercise"]
def drawn_from(logits, tau):
    """logits (V,), τ >= 0 -> probabilities (V,)"""
    # BEGIN SOLUTION
    # STUB: ...
    if tau == 0:
        return F.one_hot(logits.argmax(), len(logits)).double()
    return (logits / tau).softmax(0)
    # END SOLUTION


check("11.temperature", drawn_from)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What becomes of softmax when all logits shrink?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Divide first, softmax then.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Write τ = 0 apart, with `F.one_hot`.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 4: how deep?
#
# Set `LAST = "layer28"`, so that two layers learn, and run from *The experiment*. **Predict** form and exact. Then
# `"layer30"`: only the last normalisation is left. (Assertions there are for layer 24.)

# %% [markdown] tags=["solution"]
# **Exercise 4.** `"layer28"` leaves 5 % of the numbers to learn; `"layer30"` leaves 576, one factor for each feature of
# *z*, which can make features count more or less and no new ones. Whatever you found: a share of 80 % of 40 reports
# has a standard deviation of 6 points, the difference of two such up to 9, and the seed comes on top. Small differences
# say nothing. The loss says more, sooner.

# %% [markdown]
# ### ★★★ Exercise 5: your own task
#
# Give `draw`, `TASK` and `ask` a task of yours, such as the feeling of `sftlib.datasets.sentiment` in one word. Rows in
# a file: *Your own rows* in *Going deeper*, or `tools/sft.py`. How would a program judge what is written? Which
# model-free baseline has to be beaten?
#
# ## Remember
#
# - SFT of a language model is the course's one step, tokens being the classes, the assistant's words and end the
#   labels.
# - Look at the mask. A prompt that is trained, an end that is not, a mean of means: none of them raises an error.
# - Embedding and output matrix may be one tensor: what freezes it in *f* freezes it in *g*.
# - Judge what is written, against baselines without a language model, a prompt with examples and a probe of *z*; and
#   measure what was forgotten.
# - Limits: one model of 135 million parameters, its weights rounded to 4 bits, one easy task, 64 or 96 rows, three
#   seeds, three or four rates each.
#
# **References.** Allal et al. 2025, *SmolLM2*, arXiv 2502.02737. Hu et al. 2021, *LoRA*, arXiv 2106.09685. Biderman et
# al. 2024, *LoRA learns less and forgets less*, arXiv 2405.09673. Shi et al. 2024, *Instruction tuning with loss over
# instructions*, arXiv 2405.14394. Hugging Face 2024, *Fixing gradient accumulation*, blog, 16 October. Greene and
# Cunningham 2006, the news. **Going deeper**: [weights that do not move, padding, templates, averages, JSON, more
# passes, your own rows](11_language_model_deeper.ipynb). Next: **12 Speech**, where *f* is a recurrent network.
