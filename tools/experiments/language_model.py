"""A language model learns to name the topic of news in one word, or in a fixed form: what pays, and what is forgotten?

SmolLM2-135M-Instruct reads at most 48 tokens of one of the BBC's news, after a system turn with the task, and answers.
Ways (`METHODS`), each at its own rate, chosen by the loss on validation rows in `language_model_rates`:

majority, TF-IDF        no language model: the commonest topic; logistic regression on counts of words
untouched, few-shot     no training: asked at once, or after one example of each topic as a conversation
linear probe            logistic regression on z, f's output where the answer begins; also of f with random weights
top 6, top 2            the upper layers, the rest frozen and computed once; E, the embedding and output matrix, frozen
top 6, prompt too       as top 6, but every token is a target
LoRA                    rank 16 on all linear layers
full                    everything, E as one matrix

64 rows, two passes, batches of 8, Adam, half a pass of warm-up, then a cosine. A seed draws the rows, their order,
and what is random. `constant rate`: judged after 1, 2, 4 and 8 passes over the same rows.

Scores on 100 test rows: `likelihood`, which of the five topics' first tokens is the most probable one; `exact`, the
answer is written word for word and ended; `form`, it is one of the five words, or such JSON, and ended, right or not.
Of JSON, `likelihood` is empty, and `exact` asks for the right topic and any word of the text as key. Of the constant
rate, `loss` is in nats per token of the right answers, `train_loss` that of the training rows during the pass. `nats`
and `bits`: general text, short texts of another source, per token and per byte.
"""

import json
import math
import re
import time
from functools import cache

import torch
from torch import nn

from sftlib import results
from sftlib.adaptation import freeze, param_groups, train_only, wrap_lora
from sftlib.backbones import as_transformers, load_model
from sftlib.datasets import NestSplit, chat, nest_loader, news, sentiment
from sftlib.datasets.texts import shortened
from sftlib.features import extract, linear_probe, upper_part
from sftlib.generation import read, written
from sftlib.metrics import Exact
from sftlib.runtime import Precision, seed_everything
from sftlib.schedules import warmup_cosine
from sftlib.training import Epoch, evaluate, fit

SEEDS = range(3)
TOKENS, ROWS, TEST, VAL, GENERAL = 48, 64, 100, 32, 40
BATCH, PASSES = 8, 2
PRECISION = Precision(torch.bfloat16)
ASKED = {
    "topic": "Which topic: business, entertainment, politics, sports or tech? Answer in one word.",
    "JSON": 'Answer {"topic": …, "key": …}: business, entertainment, politics, sports or tech, and a key word.',
}
MOST = {"topic": 6, "JSON": 32}  # tokens of an answer, at most
BASELINES = ("majority", "TF-IDF", "linear probe", "linear probe, random f", "untouched", "few-shot")
TUNED = ("top 6", "top 2", "top 6, prompt too", "LoRA", "full")
LAYERS = {"top 6": "layer24", "top 2": "layer28", "top 6, prompt too": "layer24"}  # frozen up to here
CURVE = (1, 2, 4, 8)
COLUMNS = ("lr", "likelihood", "exact", "form", "loss", "train_loss", "nats", "bits", "cpu_s")


def settings():
    """Both tasks x ways; then one way over more and more passes."""
    found = [{"task": "topic", "method": m, "passes": PASSES if m in TUNED else 0} for m in (*BASELINES, *TUNED)]
    found += [{"task": "topic", "method": "top 6, constant rate", "passes": p} for p in CURVE]
    return found + [
        {"task": "JSON", "method": m, "passes": PASSES if m in TUNED else 0} for m in ("untouched", "few-shot", "top 6")
    ]


def run(setting, seed):
    """One row: rate, scores in [0, 1], losses in nats, seconds of the processor for training."""
    task, method = setting["task"], setting["method"]
    if method == "top 6, constant rate":
        found = curve(seed)[setting["passes"]]
    elif method in ("majority", "TF-IDF"):
        found = {"exact": without_network(method, seed)}
    elif method.startswith("linear probe"):
        found = probe(seed, random="random" in method)
    elif method == "untouched":
        found = untouched(task)
    elif method == "few-shot":
        found = {**scores(start(), task, examples(task, seed)), "cpu_s": 0.0}
    else:
        lr = best_rate(method.removesuffix(", prompt too"))
        model, cpu_s = tuned(task, method, lr, seed)
        found = {"lr": lr, "cpu_s": cpu_s, **scores(model, task), **forgotten(model)}
    return {name: _short(found.get(name, "")) for name in COLUMNS}


def best_rate(method):
    """-> the rate at which the table of language_model_rates has the smallest loss"""
    losses = results.numbers(results.read("language_model_rates"), "loss", "method", "lr")
    mine = {lr: loss for (way, lr), loss in losses.items() if way == method}
    if not mine:
        raise ValueError(f"got no rates for {method!r}; expected some: run the experiment language_model_rates first")
    return float(min(mine, key=mine.get))


def _short(value):
    return round(value, 4) if isinstance(value, float) and value > 0.01 else value


# ------------------------------------------------------------------------------------------------------------- the task


@cache
def texts():
    """-> {part: [(shortened text, topic)]}, the parts of the news in one order"""
    tokenizer, parts, found = start().tokenizer, news.load(), {}
    order = torch.Generator().manual_seed(0)
    for part, n in {"train": None, "val": VAL, "test": TEST}.items():
        split = getattr(parts, part)
        chosen = torch.randperm(len(split), generator=order)[:n].tolist()
        found[part] = [(shortened(tokenizer, split.texts[i], TOKENS), news.CLASSES[split.labels[i]]) for i in chosen]
    return found


def of(part, rows=None):
    """-> [(text, topic)] of a part, or of some rows of it"""
    return texts()[part] if rows is None else [texts()[part][i] for i in rows]


def rows_of(seed):
    """-> the training rows that a seed draws: their places (ROWS,) in texts()["train"]"""
    return torch.randperm(len(texts()["train"]), generator=torch.Generator().manual_seed(seed))[:ROWS]


def question(task, text):
    """-> the messages that are answered"""
    return [{"role": "system", "content": ASKED[task]}, {"role": "user", "content": text}]


def answer(task, text, topic):
    """-> the words to be learnt"""
    return topic if task == "topic" else json.dumps({"topic": topic, "key": key_word(text)})


def words(text):
    """-> the words of a text that may be key words"""
    return re.findall(r"[A-Za-z][A-Za-z'-]{2,}", text)


@cache
def rarity():
    """-> {word: idf} over all training texts, whole"""
    documents = [{w.lower() for w in words(text)} for text in news.load().train.texts]
    counts: dict[str, int] = {}
    for document in documents:
        for word in document:
            counts[word] = counts.get(word, 0) + 1
    return {word: math.log(len(documents) / n) for word, n in counts.items()}


def key_word(text):
    """-> the word with the largest count x idf, the first of equal ones"""
    found, idf = words(text), rarity()
    low = [w.lower() for w in found]
    return max(found, key=lambda w: low.count(w.lower()) * idf.get(w.lower(), 0.0))


def encoded(task, part, *, rows=None, everything=False):
    """-> [(ids (T,), answer (T,))] of a part's rows; everything: all tokens but the first are targets"""
    found = []
    for text, topic in of(part, rows):
        said = {"role": "assistant", "content": answer(task, text, topic)}
        ids, marked = chat.encode(start().tokenizer, [*question(task, text), said])
        found.append((ids, torch.arange(len(ids)) > 0 if everything else marked))
    return found


# ------------------------------------------------------------------------------------------------------------- training


@cache
def start():
    """The untouched model, which nobody trains"""
    return freeze(load_model("smollm2_135m"))


def tuned(task, method, lr, seed, passes=PASSES):
    """-> model after training, seconds of the processor"""
    seed_everything(seed)
    began = time.process_time()
    model = load_model("smollm2_135m")
    learner, data = prepared(model, task, method, seed)
    order = torch.Generator().manual_seed(seed)
    batches = nest_loader(data, batch_size=BATCH, shuffle=True, generator=order)
    steps = passes * len(batches)
    how = {"schedule": warmup_cosine(steps, warmup=len(batches) // 2), **HOW}
    optimizer = torch.optim.Adam(param_groups(all=(learner, lr)), fused=True)
    for _ in fit(learner, batches, optimizer, epochs=passes, **how):
        pass
    return model, time.process_time() - began


HOW = {"terms": chat.counted, "metric": None, "precision": PRECISION}


def prepared(model, task, method, seed):
    """-> what is trained, with its split: the whole on tokens, or its upper layers on what the frozen ones gave"""
    rows = rows_of(seed).tolist()
    conversations = encoded(task, "train", rows=rows, everything=method == "top 6, prompt too")
    if method in LAYERS:
        freeze(model)
        learner = above(model, LAYERS[method])
        return learner, cached(model, LAYERS[method], conversations)
    if method == "LoRA":
        freeze(model)
        for name in model.backbone.stages[1:-1]:
            wrap_lora(getattr(model.backbone, name), rank=16, alpha=32.0)
    return model, chat.Conversations(conversations)


def above(model, stage):
    """-> the stages above one, which train, and E, which does not, as a model"""
    learner = upper_part(model, stage)
    train_only(learner, learner.backbone)
    return learner


def cached(model, stage, conversations):
    """-> what the frozen stages give, once, as a split of (h, y)"""
    loader = nest_loader(NestSplit(*chat.collate(conversations)), batch_size=16)
    return NestSplit(*extract(model.backbone, loader, stage=stage, precision=PRECISION))


@cache
def curve(seed):
    """-> {passes: scores} of one run at a constant rate"""
    seed_everything(seed)
    model, lr = load_model("smollm2_135m"), best_rate("top 6")
    learner, data = prepared(model, "topic", "top 6", seed)
    test = cached(model, "layer24", encoded("topic", "test"))
    batches = nest_loader(data, batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(param_groups(all=(learner, lr)), fused=True)
    found, began = {}, time.process_time()
    for record in fit(learner, batches, optimizer, epochs=max(CURVE), **HOW):
        if isinstance(record, Epoch) and record.epoch in CURVE:
            judged = evaluate(learner, nest_loader(test, batch_size=40), **HOW | {"metric": Exact})
            about = {"lr": lr, "train_loss": record.train["loss"], "cpu_s": time.process_time() - began}
            found[record.epoch] = {**about, "exact": judged["exact"], "loss": judged["loss"], **forgotten(model)}
    return found


# -------------------------------------------------------------------------------------------------------------- scores


def shared_and_own(task, part, before=()):
    """-> ids (S,) that begin every prompt of a part, and what follows of each; before: messages that come first"""
    tokenizer = start().tokenizer
    prompts = [chat.prompt(tokenizer, [*_with(question(task, text), before)]) for text, _ in texts()[part]]
    least = min(map(len, prompts)) - 1
    same = (torch.stack([p[:least] for p in prompts]) == prompts[0][:least]).all(0)
    S = int(same.long().cumprod(0).sum())
    return prompts[0][:S], [p[S:] for p in prompts]


def _with(messages, before):
    return [messages[0], *before, *messages[1:]]


def examples(task, seed):
    """-> one example of each topic, as turns of a conversation"""
    found, left = [], list(news.CLASSES)
    for i in rows_of(seed).tolist():
        [(text, topic)] = of("train", [i])
        if topic in left:
            left.remove(topic)
            found += [{"role": "user", "content": text}, {"role": "assistant", "content": answer(task, text, topic)}]
    return found


def scores(model, task, before=(), part="test"):
    """-> {"likelihood" for topics, "exact", "form"}, shares of the part's rows"""
    tokenizer, net = start().tokenizer, as_transformers(model)
    shared, own = shared_and_own(task, part, before)
    how = {"shared": shared, "precision": PRECISION}
    rows = texts()[part]
    found = {}
    if task == "topic":
        first = torch.tensor([tokenizer(topic, add_special_tokens=False).input_ids[0] for topic in news.CLASSES])
        best = read(net, own, **how).logits[:, first].argmax(1).tolist()
        found["likelihood"] = _share(news.CLASSES[b] == topic for b, (_, topic) in zip(best, rows, strict=True))
    ids = written(net, own, stop=tokenizer.eos_token_id, most=MOST[task], **how)
    judged = [judge(task, tokenizer.decode(said), text) for said, (text, _) in zip(ids, rows, strict=True)]
    right = (topic == said for said, (_, topic) in zip(judged, rows, strict=True))
    return {**found, "exact": _share(right), "form": _share(said is not None for said in judged)}


def judge(task, said, text):
    """What was written, its end included -> the topic it names; None where it has not the form"""
    if not said.endswith("<|im_end|>"):
        return None
    said = said.removesuffix("<|im_end|>")
    if task == "topic":
        return said if said in news.CLASSES else None
    try:
        given = json.loads(said)
    except ValueError:
        return None
    if not isinstance(given, dict) or list(given) != ["topic", "key"] or given["topic"] not in news.CLASSES:
        return None
    return given["topic"] if given["key"] in words(text) else None


def _share(hits):
    hits = list(hits)
    return sum(hits) / len(hits)


@cache
def general():
    """-> conversations without roles: short texts of another source, every token but the first a target; their bytes"""
    tokenizer = start().tokenizer
    chosen = [text for text in sentiment.load().test.texts if 60 <= len(text) <= 140][:GENERAL]
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False).input_ids) for text in chosen]
    known = sum(len(tokenizer.decode(some[:1]).encode()) for some in ids)  # the first token is given
    return [(some, torch.arange(len(some)) > 0) for some in ids], sum(len(t.encode()) for t in chosen) - known


def forgotten(model):
    """-> {"nats": per token, "bits": per byte} of the general text"""
    conversations, size = general()
    loader = nest_loader(chat.Conversations(conversations), batch_size=10)
    nats = evaluate(model, loader, metric=None, terms=chat.counted, precision=PRECISION)["loss"]
    tokens = sum(int(marked.sum()) for _, marked in conversations)
    return {"nats": nats, "bits": nats * tokens / size / math.log(2)}


@cache
def untouched(task):
    """The same whatever the seed"""
    return {**scores(start(), task), **forgotten(start()), "cpu_s": 0.0}


# ----------------------------------------------------------------------------------------------------------- baselines


def without_network(method, seed):
    """-> accuracy of the commonest topic of the training rows, or of TF-IDF with logistic regression"""
    rows = {"train": of("train", rows_of(seed).tolist()), "val": of("val"), "test": of("test")}
    x = {part: [text for text, _ in some] for part, some in rows.items()}
    y = {part: [topic for _, topic in some] for part, some in rows.items()}
    if method == "majority":
        return _share(topic == max(sorted(set(y["train"])), key=y["train"].count) for topic in y["test"])
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    models = [
        make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=n), LogisticRegression(C=C, max_iter=1000))
        for n in ((1, 1), (1, 2)) for C in (1, 10, 100, 1000)
    ]  # fmt: skip
    best = max(models, key=lambda m: m.fit(x["train"], y["train"]).score(x["val"], y["val"]))
    return best.score(x["test"], y["test"])


def probe(seed, *, random):
    """-> {"exact"}: logistic regression on z where the answer begins; l2 chosen on the validation rows"""
    rows = {"train": tuple(rows_of(seed).tolist()), "val": None, "test": None}
    z = {part: features(part, some, seed if random else None) for part, some in rows.items()}
    y = {part: torch.tensor([news.CLASSES.index(topic) for _, topic in of(part, some)]) for part, some in rows.items()}
    heads = [linear_probe(z["train"], y["train"], num_classes=5, l2=l2) for l2 in (0.01, 0.1, 1.0, 10.0)]
    best = max(heads, key=lambda g: (g(z["val"]).argmax(1) == y["val"]).double().mean())
    return {"exact": (best(z["test"]).argmax(1) == y["test"]).double().mean().item()}


@cache
def features(part, rows, random):
    """-> z (N, D) at the last token of each prompt, of f as published, or with random weights drawn by a seed"""
    if random is not None:
        seed_everything(random)
    model = start() if random is None else load_model("smollm2_135m", pretrained=False)
    prompts = [chat.prompt(start().tokenizer, question("topic", text)) for text, _ in of(part, rows)]
    z = torch.empty(len(prompts), model.backbone.feature_dim)
    for some in torch.tensor([len(p) for p in prompts]).argsort().split(16):  # of like length
        ids = nn.utils.rnn.pad_sequence([prompts[i] for i in some], batch_first=True)
        lengths = torch.tensor([len(prompts[i]) for i in some])
        x = {"ids": ids, "mask": torch.arange(ids.shape[1]) < lengths[:, None], "answer": lengths[:, None] - 1}
        with torch.no_grad(), PRECISION.autocast("cpu"):
            z[some] = model.backbone(x)[:, 0].float()
    return z
