"""Texts: features against sentence-transformers' loop, tuning against a Trainer, few labels against SetFit's recipe.

    python benchmarks/text.py [--texts 1600] [--rounds 5] [--labels 100] [--seeds 3] [--tasks sentiment topics]

All of it with MiniLM-L6, the same weights and the same texts, on as many threads as PyTorch takes; ours computes in the
arithmetic that is measured to be the fastest (bfloat16 where the processor has it), theirs as published, float32.

1. Features. Theirs: the loop of sentence-transformers' `encode`, written plainly here (that package is not needed):
   texts sorted by their number of characters, the longest first, batches of 32, at most 256 tokens, each batch padded
   to its longest, masked mean, unit length. Ours: `extract` on batches of like length. Rounds take turns.
2. Fine-tuning all of f on 500 remarks, as many of each feeling on each subject. Theirs: Hugging Face's Trainer on the
   same Model, with the same optimizer, rates, batch and number of updates, batches padded to their longest, in float32
   and in our arithmetic. Ours: `fit`, first with batches as they come, then with texts of like length together.
3. Few labels. Theirs: SetFit's recipe (Tunstall et al. 2022, arXiv 2209.11055) written plainly, with the same network:
   for each labelled text 20 pairs of one class and 20 of two, batches of 16 pairs, the squared error of their cosine to
   1 and 0, AdamW at 2e-5 with a warm-up of a tenth, one pass; then logistic regression on the new features. Ours:
   layers 4 to 6 from the probe's g (LP-FT of notebook 10), layers 1 to 3 computed once, that time counted. Accuracy on
   the test texts, over seeds that each draw their own labelled texts.

Prints what each gave, how like features and accuracies are, and, last, the ratios ours / theirs. Run it on a quiet
machine.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, nest_loader, news, sentiment
from sftlib.features import extract, linear_probe, upper_part
from sftlib.metrics import compare
from sftlib.model import LinearHead, Model
from sftlib.runtime import FLOAT32, seed_everything
from sftlib.training import evaluate, fit, measure_precision

TASKS = {"sentiment": partial(sentiment.load, balanced=True), "topics": news.load}
TOKENS, LABELS, EPOCHS, BATCH, RATE = 64, 500, 2, 16, 1e-4  # of part 2
PAIRS, PAIR_RATE, PAIR_BATCH = 20, 2e-5, 16  # SetFit's
CUT, OUR_RATE, OUR_EPOCHS, OUR_BATCH = "layer3", 1e-4, 4, 10  # of part 3


def main() -> None:
    """All three parts; ratios last"""
    options = _options()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    f = load_backbone("minilm_l6", size=TOKENS)
    some = TASKS["sentiment"]().train.subset(torch.arange(32))
    precision = measure_precision(Model(f, LinearHead(f.feature_dim, 2)), f.preprocess(some.texts), some.labels)
    print(f"ours in {precision.precision}")
    ratios = features(options, precision.precision) | training(options, precision.precision)
    for task in options.tasks:
        ratios |= few_labels(task, options, precision.precision)
    print("\nratios, ours / theirs")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")


def timed(function) -> tuple[object, float]:
    """-> what it gives, seconds"""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


# ------------------------------------------------------------------------------------------------------- 1 features


@torch.inference_mode()
def encode(f, texts: list[str]) -> torch.Tensor:
    """sentence-transformers' loop: texts -> unit vectors (N, D)"""
    order = np.argsort([-len(text) for text in texts])
    parts = []
    for start in range(0, len(texts), 32):
        tokens = f.tokenizer([texts[i] for i in order[start : start + 32]], padding=True, truncation=True,
                             max_length=256, return_tensors="pt")  # fmt: skip
        h = f.lower({"ids": tokens["input_ids"], "mask": tokens["attention_mask"].bool()}, "layer6")["h"]
        real = tokens["attention_mask"].unsqueeze(-1).expand(h.size()).float()
        z = (h * real).sum(1) / real.sum(1).clamp(min=1e-9)
        parts.extend(F.normalize(z, p=2, dim=1).cpu())
    return torch.stack([parts[i] for i in np.argsort(order)])


def ours(f, texts: list[str], precision) -> torch.Tensor:
    """texts -> unit vectors (N, D), in the order that is given"""
    x = f.preprocess(texts)
    lengths = x["mask"].sum(1)
    order = lengths.argsort()
    given = nest_loader(NestSplit(x, torch.arange(len(texts))).subset(order), cut_batch)
    z, rows = extract(f, given, precision=precision)
    return F.normalize(torch.empty_like(z).index_copy_(0, rows, z))


def features(options, precision) -> dict[str, float]:
    """Both loops, in turns -> name -> ratio of the rates"""
    f = load_backbone("minilm_l6", size=256)
    texts = {"remarks": list(TASKS["sentiment"]().train.texts), "news": list(news.load().train.texts)}
    found = {}
    for name, given in texts.items():
        given = given[: options.texts]
        ways = {"theirs": lambda g: encode(f, g), "ours": lambda g: ours(f, g, precision),
                "ours, float32": lambda g: ours(f, g, FLOAT32)}  # fmt: skip
        z = {way: function(given[:64]) for way, function in ways.items()}  # warm
        like = {way: (z["theirs"] * some).sum(1).min().item() for way, some in z.items()}
        seconds = {way: [] for way in ways}
        for _, (way, function) in itertools.product(range(options.rounds), ways.items()):
            seconds[way].append(timed(lambda function=function, given=given: function(given))[1])
        for way, took in seconds.items():
            rate = len(given) / statistics.median(took)
            print(f"features of {len(given)} {name}, {way}: {rate:.0f} texts/s, cosine with theirs >= {like[way]:.4f}")
        for way in ("ours", "ours, float32"):
            ratio = [t / o for t, o in zip(seconds["theirs"], seconds[way], strict=True)]
            found[f"features of {name}, rate, {way}"] = statistics.median(ratio)
    return found


def cut_batch(batch, _):
    """(x, y) -> (x cut to its longest text, y)"""
    x, y = batch
    longest = int(x["mask"].sum(1).max())
    return {name: t[:, :longest] for name, t in x.items()}, y


# -------------------------------------------------------------------------------------------------- 2 fine-tuning


class WithLoss(nn.Module):
    """What a Trainer wants of a model: it returns its loss"""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, labels=None):
        """ids, mask (N, T), labels (N,) -> loss and logits"""
        logits = self.model({"ids": ids, "mask": mask})
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def start(seed: int):
    """-> model, optimizer"""
    f = load_backbone("minilm_l6", size=TOKENS)
    seed_everything(seed)
    model = Model(f, LinearHead(f.feature_dim, 2))
    return model, torch.optim.AdamW(param_groups(f=(f, RATE), g=(model.head, 10 * RATE)), weight_decay=0.01)


def trainer(split, seed: int, precision) -> tuple[Model, float]:
    """Trained by Hugging Face's Trainer -> model, seconds"""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    model, optimizer = start(seed)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, falling(split))

    def collate(rows):
        texts, labels = zip(*rows, strict=True)
        x = model.backbone.preprocess(texts)
        return {**x, "labels": torch.tensor(labels)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, seed=seed, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, use_cpu=True,
            bf16=precision.dtype is torch.bfloat16, remove_unused_columns=False, max_grad_norm=0.0,
        )  # fmt: skip
        job = Trainer(model=WithLoss(model), args=arguments, train_dataset=split, data_collator=collate,
                      optimizers=(optimizer, decay))  # fmt: skip
        job.remove_callback(PrinterCallback)
        _, seconds = timed(job.train)
    return model, seconds


def by_fit(split, seed: int, precision, *, by_length: bool) -> tuple[Model, float]:
    """Trained by `fit` -> model, seconds"""
    model, optimizer = start(seed)

    def train():
        lengths = model.backbone.preprocess(split.texts)["mask"].sum(1) if by_length else None
        given = nest_loader(split, reader(model.backbone), batch_size=BATCH, shuffle=True, lengths=lengths,
                            generator=torch.Generator().manual_seed(seed))  # fmt: skip
        list(fit(model, given, optimizer, epochs=EPOCHS, schedule=falling(split), precision=precision))

    return model, timed(train)[1]


def reader(f):
    """-> (texts, labels) -> (tokens, labels)"""
    return lambda batch, _: (f.preprocess(batch[0]), batch[1])


def falling(split):
    """-> step -> factor: from 1 to 0 along a line"""
    steps = EPOCHS * -(-len(split) // BATCH)
    return lambda step: max(0.0, 1 - step / steps)


def training(options, precision) -> dict[str, float]:
    """Each way on the same rows of each seed, in turns -> name -> ratio of the seconds"""
    task = TASKS["sentiment"]()
    ways = {
        "Trainer, float32": lambda split, seed: trainer(split, seed, FLOAT32),
        f"Trainer, {precision}": lambda split, seed: trainer(split, seed, precision),
        "fit": lambda split, seed: by_fit(split, seed, precision, by_length=False),
        "fit, by length": lambda split, seed: by_fit(split, seed, precision, by_length=True),
    }
    seconds, scores = {way: [] for way in ways}, {way: [] for way in ways}
    for seed in range(-1, options.seeds):  # the first round warms up
        split = task.train.subset(drawn(task, LABELS, max(seed, 0)))
        for way, train in ways.items():
            model, took = train(split, max(seed, 0))
            if seed >= 0:
                given = nest_loader(task.test, reader(model.backbone))
                seconds[way].append(took)
                scores[way].append(evaluate(model, given, precision=precision)["accuracy"])
    for way in ways:
        rate = EPOCHS * LABELS / statistics.median(seconds[way])
        print(f"fine-tuning, {way}: {rate:.0f} texts/s, test accuracy {statistics.mean(scores[way]):.3f}")
    if options.seeds >= 3:
        print(*compare(scores, against="Trainer, float32"), sep="\n")
    pairs = itertools.product(("fit", "fit, by length"), list(ways)[:2])
    return {
        f"fine-tuning, rate, {own} against {other}": statistics.median(
            [t / o for t, o in zip(seconds[other], seconds[own], strict=True)]
        )
        for own, other in pairs
    }


def drawn(task, n: int, seed: int) -> torch.Tensor:
    """-> n rows of the training part"""
    return torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:n]


# --------------------------------------------------------------------------------------------------- 3 few labels


def pairs_of(labels: torch.Tensor, seed: int) -> list[tuple[int, int, float]]:
    """labels (N,) -> (i, j, 1 or 0): PAIRS of one class and PAIRS of two for each text that has such others"""
    draw, pairs = torch.Generator().manual_seed(seed), []
    for i, label in enumerate(labels.tolist()):
        same, other = (torch.nonzero(labels == label).flatten(), torch.nonzero(labels != label).flatten())
        same = same[same != i]
        for target, rows in ((1.0, same), (0.0, other)):
            if len(rows):
                picks = torch.randint(len(rows), (PAIRS,), generator=draw)
                pairs += [(i, int(rows[k]), target) for k in picks]
    return [pairs[k] for k in torch.randperm(len(pairs), generator=draw)]


def setfit(task, rows: torch.Tensor, seed: int):
    """-> accuracy function of texts, seconds"""
    f = load_backbone("minilm_l6", size=256)
    seed_everything(seed)
    split = task.train.subset(rows)
    pairs = pairs_of(split.labels, seed)
    optimizer = torch.optim.AdamW(f.parameters(), lr=PAIR_RATE, weight_decay=0.01)
    steps = -(-len(pairs) // PAIR_BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (0.1 * steps), (steps - s) / (0.9 * steps))
    )

    def train():
        f.train()
        for start in range(0, len(pairs), PAIR_BATCH):
            i, j, target = zip(*pairs[start : start + PAIR_BATCH], strict=True)
            z_i, z_j = (f(f.preprocess([split.texts[k] for k in side])) for side in (i, j))
            loss = F.mse_loss(F.cosine_similarity(z_i, z_j), torch.tensor(target))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(f.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        f.eval()
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=1000).fit(encode(f, list(split.texts)).numpy(), split.labels.numpy())

    head, seconds = timed(train)
    right = head.score(encode(f, list(task.test.texts)).numpy(), task.test.labels.numpy())
    return right, seconds


def lp_ft(task, rows: torch.Tensor, seed: int, precision):
    """-> test accuracy, seconds, those for the frozen layers counted"""
    f = load_backbone("minilm_l6", size=TOKENS)
    seed_everything(seed)
    split, K = task.train.subset(rows), len(task.classes)
    model = Model(f, LinearHead(f.feature_dim, K))

    def train():
        h, y = extract(f, nest_loader(split, reader(f)), stage=CUT, precision=precision)
        z, _ = extract(upper_part(model, CUT).backbone, [(h, y)], precision=precision)
        model.head = linear_probe(z, y, num_classes=K, l2=1.0)
        upper = upper_part(model, CUT)
        groups = param_groups(f=(upper.backbone, OUR_RATE), g=(upper.head, 10 * OUR_RATE))
        given = nest_loader(NestSplit(h, y), cut_batch, batch_size=OUR_BATCH, shuffle=True, lengths=h["mask"].sum(1),
                            generator=torch.Generator().manual_seed(seed))  # fmt: skip
        steps, optimizer = OUR_EPOCHS * len(given), torch.optim.AdamW(groups, weight_decay=0.01)
        schedule = lambda step: min((step + 1) / (0.1 * steps), 1 - step / steps)  # noqa: E731
        list(fit(upper, given, optimizer, epochs=OUR_EPOCHS, schedule=schedule, precision=precision))

    _, seconds = timed(train)
    return evaluate(model, nest_loader(task.test, reader(f)), precision=precision)["accuracy"], seconds


def few_labels(name: str, options, precision) -> dict[str, float]:
    """Both ways on the same rows of each seed -> name -> ratio of the seconds"""
    task = TASKS[name]()
    scores, seconds = {"ours": [], "SetFit's recipe": []}, {"ours": [], "SetFit's recipe": []}
    for seed in range(options.seeds):
        rows = drawn(task, options.labels, seed)
        for way, found in (
            ("SetFit's recipe", setfit(task, rows, seed)),
            ("ours", lp_ft(task, rows, seed, precision)),
        ):
            scores[way].append(found[0])
            seconds[way].append(found[1])
            print(
                f"{name}, {options.labels} labels, seed {seed}, {way}: {found[0]:.3f} in {found[1]:.1f} s", flush=True
            )
    if options.seeds >= 3:
        print(*compare(scores), sep="\n")
    ratio = statistics.median([t / o for t, o in zip(seconds["SetFit's recipe"], seconds["ours"], strict=True)])
    return {f"{name}, {options.labels} labels, speed of LP-FT against SetFit's recipe": ratio}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
