"""Which way to train a sentence Transformer, for how many labels, on topics and on sentiment? With TF-IDF as control.

f is MiniLM-L6 on the first 64 tokens of a text. Up to CUT it stays as it came in all ways but "full", so what leaves it
is computed once; "fine-tuned", "LP-FT", "combined" and "LoRA" train the layers above it, two of six, and g. "full"
trains all of f, the table of its words too, and is the control for that. "frozen" is logistic regression on z. "TF-IDF"
is logistic regression on the words that f reads as well, those of the first 64 tokens; "TF-IDF, whole text" may read
on. "subject" sees nothing but which of five subjects a remark is about, and gives the feeling that most labelled
remarks on it have.

Sentiment is balanced: of each subject as many texts of one feeling as of the other, so that "subject" gets a half. "as
it comes" is the same split without that, for the ways that cost next to nothing. "as it comes, 70 %" learns from 70 %
of the remarks instead of half, for 2,000 labels: the balanced ones are 1,072, the news 1,484. `test` is the accuracy on
all test texts of the task, `balanced` the one on those of them that the balanced test part holds (elsewhere the same).

What each way may choose is in WAYS: three or four rates of f, g's beside it; four weights λ of the cosine loss for
"combined", at the rate of "fine-tuned"; ten or twenty settings for those that cost next to nothing. Chosen by accuracy
on the validation texts, the mean of two seeds that are not used again: those that cost nothing at each number of
labels, here; the others at 100 labels, once for all: the experiment text_choices, which is run first. Then each seed
(its own labelled texts, first weights of g, order of the batches, dropout) trains once, and the test texts are looked
at once. One split serves all seeds. Products are in bfloat16; weights, losses and updates in float32. `cpu_s`: seconds
of training, without what is computed once.

What is compared was written down before these rows were run: three questions on topics, sentiment and 70 %, at each
number of labels where the table has both, by the column `balanced`, each corrected for its number of comparisons.
1. Words against "frozen": "TF-IDF" everywhere, "TF-IDF, whole text" on topics (13 comparisons).
2. An f that learns against "frozen": "fine-tuned" and "full" (11).
3. The other ways that train f against "fine-tuned": "LP-FT", "LoRA", "combined" and "full" (24).
"""

import copy
import itertools
import time
from functools import cache, partial

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn

from sftlib.adaptation import param_groups, wrap_lora
from sftlib.backbones import load_backbone
from sftlib.batches import each
from sftlib.datasets import NestSplit, nest_loader, news, sentiment
from sftlib.features import extract, linear_probe, upper_part
from sftlib.losses import cosine_prototype, simplex_prototypes
from sftlib.model import LinearHead, Model
from sftlib.results import read
from sftlib.runtime import Precision, seed_everything
from sftlib.training import fit, predict

SEEDS = range(5)
TOKENS, CUT = 64, "layer4"
HALVES = partial(sentiment.load, fractions=(0.5, 0.2, 0.3))
MORE = "as it comes, 70 %"
TASKS = {"topics": news.load, "sentiment": partial(HALVES, balanced=True), "as it comes": HALVES, MORE: sentiment.load}
BALANCED = {"as it comes": TASKS["sentiment"], MORE: partial(sentiment.load, balanced=True)}  # of the same splits
LABELS = {**dict.fromkeys(("topics", "sentiment", "as it comes"), (25, 100, 500, 1000)), MORE: (2000,)}
EPOCHS = {25: 8, 100: 4, 500: 2, 1000: 2, 2000: 2}
BATCH = {25: 5, 100: 10, 500: 10, 1000: 10, 2000: 10}  # texts a step: 40, 40, 100, 200 and 400 steps
TUNED_AT = 100  # labels, for ways that train f
TUNING_SEEDS = (1001, 1002)
RANK, ALPHA = 8, 16
PARTS = ("train", "val", "test")
PRECISION = Precision(torch.bfloat16)
L2 = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0)
C = (1.0, 10.0, 100.0, 1000.0, 10000.0)
WORDS = tuple(itertools.product(C, (1, 2), (False, True)))  # C, words in a row, logarithm of counts
WAYS = {  # way -> what is tried
    "subject": ((),),
    "TF-IDF": WORDS,
    "TF-IDF, whole text": WORDS,
    "frozen": L2,
    "fine-tuned": (3e-5, 1e-4, 3e-4, 1e-3),
    "LP-FT": (3e-5, 1e-4, 3e-4, 1e-3),
    "LoRA": (3e-4, 1e-3, 3e-3, 1e-2),
    "combined": (0.1, 0.3, 1.0, 3.0),  # λ
    "full": (3e-5, 1e-4, 3e-4),
}
CHEAP = ("subject", "TF-IDF", "TF-IDF, whole text", "frozen")
TRAINED = tuple(way for way in WAYS if way not in CHEAP)
LEFT_OUT = {  # (task, labels, way): of no use, or too long for two cores
    *itertools.product(("topics",), LABELS["topics"], ("subject", "full")),
    *itertools.product(("as it comes",), LABELS["as it comes"], ("TF-IDF, whole text", *TRAINED)),
    *itertools.product((MORE,), (2000,), ("TF-IDF, whole text", "LP-FT", "LoRA", "combined")),
    *itertools.product(("topics",), (1000,), TRAINED),
    *itertools.product(("sentiment",), (25, 1000), ("full",)),
}


def settings():
    """Tasks x labels x ways."""
    return [{"task": t, "labels": n, "way": w} for t in TASKS for n in LABELS[t] for w in WAYS
            if (t, n, w) not in LEFT_OUT]  # fmt: skip


def run(setting, seed):
    """One row: accuracies in [0, 1] at what was chosen, and the seconds of one thread that training took."""
    task, labels, way = setting["task"], setting["labels"], setting["way"]
    chosen = choose(task, labels if way in CHEAP else TUNED_AT, way)
    prepare(task, way)  # before the clock runs
    started = time.process_time()
    score = train(task, labels, way, chosen, seed)
    cpu_s = time.process_time() - started
    hits = {part: score(part).double() for part in ("val", "test")}
    found = {**hits, "balanced": hits["test"][balanced(task)]}
    means = {name: round(values.mean().item(), 4) for name, values in found.items()}
    return {"chosen": written(chosen), **means, "cpu_s": round(cpu_s, 2)}


def written(value):
    """A rate, a weight, or settings of TF-IDF -> as the table holds it"""
    return " ".join(f"{float(v):g}" for v in (value if isinstance(value, tuple) else (value,)))


@cache
def choose(task, labels, way):
    """-> what has the best mean validation accuracy; the first of equals"""
    if way in CHEAP:
        return max(WAYS[way], key=lambda value: tried(task, labels, way, value))
    found = {r["value"]: float(r["val"]) for r in read("text_choices") if (r["task"], r["way"]) == (task, way)}
    if missing := [written(value) for value in WAYS[way] if written(value) not in found]:
        raise ValueError(f"no row for {way} at {missing[0]} on {task}: run the experiment text_choices first")
    return max(WAYS[way], key=lambda value: found[written(value)])


def tried(task, labels, way, value):
    """-> accuracy on the validation texts, the mean of the tuning seeds"""
    scores = [train(task, labels, way, value, seed)("val").double().mean() for seed in TUNING_SEEDS]
    return sum(scores).item() / len(scores)


def train(task, labels, way, value, seed):
    """-> score(part), which says of each text (n,) whether what was trained is right"""
    rows = labelled(task, labels, seed)
    if way == "subject":
        return train_subject(task, rows)
    if way.startswith("TF-IDF"):
        return train_words(task, way, rows, *value)
    if way == "frozen":
        z, y = features(task)["train"]
        head = linear_probe(z[rows], y[rows], num_classes=classes(task), l2=value)
        return lambda part: right(head(features(task)[part][0]), features(task)[part][1])
    model = tune(task, labels, way, value, seed, rows)
    return lambda part: hits_of(model, split_of(task, way, part))


def labelled(task, labels, seed):
    """-> rows (n,) of the training part that are labelled; those of fewer labels are among those of more"""
    order = torch.randperm(len(splits(task).train), generator=torch.Generator().manual_seed(seed))
    return order[:labels]


@cache
def balanced(task):
    """-> rows (n,) of the test part that its balanced one holds; all of them where the task is balanced, or has none"""
    kept = set(BALANCED.get(task, TASKS[task])().test.names)
    return torch.tensor([i for i, name in enumerate(splits(task).test.names) if name in kept])


def train_subject(task, rows):
    """The feeling that most labelled texts on a subject have -> score(part); of an unknown subject, that of all"""
    subjects = {part: [sentiment.subject(text) for text in getattr(splits(task), part).texts] for part in PARTS}
    y, seen = splits(task).train.labels[rows].double(), [subjects["train"][i] for i in rows.tolist()]
    share = {name: y[[s == name for s in seen]].mean().item() for name in set(seen)}
    said = {part: torch.tensor([share.get(s, y.mean().item()) > 0.5 for s in subjects[part]]) for part in PARTS}
    return lambda part: said[part] == getattr(splits(task), part).labels


# --- words -----------------------------------------------------------------------------------------------------


def train_words(task, way, rows, C, most, logarithm):
    """Logistic regression on TF-IDF of single words, or of two in a row as well -> score(part)"""
    texts, y = texts_of(task, way), {part: getattr(splits(task), part).labels for part in PARTS}
    vectoriser = TfidfVectorizer(ngram_range=(1, most), sublinear_tf=logarithm)
    x = vectoriser.fit_transform([texts["train"][i] for i in rows.tolist()])
    regression = LogisticRegression(C=C, max_iter=2000).fit(x, y["train"][rows].numpy())
    return lambda part: torch.from_numpy(regression.predict(vectoriser.transform(texts[part]))) == y[part]


@cache
def texts_of(task, way):
    """-> part -> its texts; as far as f reads, unless `way` says the whole"""
    parts = {part: getattr(splits(task), part).texts for part in PARTS}
    if way == "TF-IDF, whole text":
        return parts
    return {part: [read_by_f(text) for text in texts] for part, texts in parts.items()}


def read_by_f(text):
    """text -> its beginning, as far as its first 64 tokens (two of them special) go"""
    ends = pretrained().tokenizer(text, return_offsets_mapping=True).offset_mapping[1:-1]
    return text[: ends[: TOKENS - 2][-1][1]]


# --- the Transformer -------------------------------------------------------------------------------------------


def tune(task, labels, way, value, seed, rows):
    """-> model after all epochs: of token features where its lower half is frozen, of tokens where all of f trains"""
    seed_everything(seed)
    f = copy.deepcopy(pretrained())
    model = Model(f, LinearHead(f.feature_dim, classes(task)))
    if way == "LP-FT":
        z, y = features(task)["train"]
        l2 = choose(task, labels, "frozen")
        model.head = linear_probe(z[rows], y[rows], num_classes=classes(task), l2=l2)
    model = model if way == "full" else upper_part(model, CUT)
    rate, ratio, terms = value, 10, {}
    if way == "combined":
        rate = choose(task, TUNED_AT, "fine-tuned")
        loss = partial(cosine_prototype, prototypes=simplex_prototypes(classes(task), f.feature_dim))
        terms = {"feature_loss": loss, "feature_weight": value}
    if way == "LoRA":
        wrap_lora(model.backbone, rank=RANK, alpha=ALPHA)
        ratio = 1
    groups = param_groups(f=(model.backbone, rate), g=(model.head, ratio * rate))
    mine, order = split_of(task, way, "train").subset(rows), torch.Generator().manual_seed(seed)
    given = nest_loader(mine, cut_batch, batch_size=BATCH[labels], shuffle=True, lengths=lengths(mine), generator=order)
    steps = len(given) * EPOCHS[labels]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    how = {"epochs": EPOCHS[labels], "schedule": partial(up_and_down, steps=steps), "precision": PRECISION}
    for _ in fit(model, given, optimizer, **how, **terms):
        pass
    return model


def up_and_down(step, steps):
    """step -> factor of the rates: up for a tenth of the steps, then down to 0, along straight lines"""
    return min((step + 1) / (0.1 * steps), 1 - step / steps)


def split_of(task, way, part):
    """-> what the trained part of the model reads, and labels"""
    return NestSplit(*(tokens(task) if way == "full" else token_features(task))[part])


def cut_batch(batch, _):
    """(x, y), a generator that is not used -> (x cut, y)"""
    return cut(batch[0]), batch[1]


def cut(x):
    """Nest of (N, T, …) -> the same, T now the tokens of its longest text"""
    longest = int(x["mask"].sum(1).max())
    return each(lambda t: t[:, :longest], x)


@cache
def splits(task):
    """-> the splits of a task"""
    return TASKS[task]()


def classes(task):
    """-> K"""
    return len(splits(task).classes)


@cache
def pretrained():
    """-> f as it came"""
    return load_backbone("minilm_l6", size=TOKENS)


@cache
def tokens(task):
    """-> part -> (tokens {ids, mask} (N, T), labels)"""
    parts = {part: getattr(splits(task), part) for part in PARTS}
    return {part: (pretrained().preprocess(list(split.texts)), split.labels) for part, split in parts.items()}


@cache
def token_features(task):
    """-> part -> (what leaves CUT {h (N, T, D), mask (N, T)}, labels)"""
    given = {part: nest_loader(NestSplit(*xy), cut_batch) for part, xy in tokens(task).items()}
    return {part: extract(pretrained(), loader, stage=CUT, precision=PRECISION) for part, loader in given.items()}


@cache
def features(task):
    """-> part -> (z (N, D), labels), from the token features"""
    upper = upper_part(Model(pretrained(), nn.Identity()), CUT).backbone
    given = {part: nest_loader(NestSplit(*hy), cut_batch) for part, hy in token_features(task).items()}
    return {part: extract(upper, loader, precision=PRECISION) for part, loader in given.items()}


def prepare(task, way):
    """Compute what is computed once"""
    if way == "subject":
        splits(task)
    elif way.startswith("TF-IDF"):
        texts_of(task, way)
    elif way == "full":
        tokens(task)
    else:
        features(task)


def lengths(split):
    """-> tokens (N,) of each text"""
    return split.x["mask"].sum(1)


def hits_of(model, split):
    """-> whether each text (n,) is answered rightly; texts of like length share a batch"""
    order = lengths(split).argsort()
    pairs = predict(model, nest_loader(split.subset(order), cut_batch), precision=PRECISION)
    return torch.cat([right(output, y) for output, y in pairs])[order.argsort()]


def right(logits, y):
    """logits (n, K), y (n,) -> where the largest logit is that of the label (n,)"""
    return logits.argmax(1) == y
