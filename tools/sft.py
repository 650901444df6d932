"""Fine-tune a language model on conversations of one's own, in one process or in many.

    python tools/sft.py DATA.jsonl --out RUN                     one process, on the CPU or one GPU
    torchrun --standalone --nproc-per-node=8 tools/sft.py DATA.jsonl --out RUN                   eight GPUs, one each
    torchrun --standalone --nproc-per-node=8 tools/sft.py DATA.jsonl --out RUN --shard           a model in eight parts
(Several machines, workers on a CPU, workers that start again: as the first lines of tools/train.py say.)

DATA.jsonl has one conversation a line, in UTF-8, in one of two forms:
  {"messages": [{"role": "system", "content": …}, {"role": "user", "content": …}, {"role": "assistant", "content": …}]}
  {"prompt": …, "completion": …}         one question and its answer, both texts; without a system's message
The assistant's words and the end of its turns are learned, with --train-prompt everything. Rows that cannot be used (no
JSON, no or an empty answer, an answer that --max-tokens would cut, an unknown role) are refused all at once by their
line, before anything is written; --skip-broken leaves them out and names them.

--validation SHARE (0.1) holds that part of the rows back, equal rows together; --validation FILE takes other rows, and
refuses those that are trained on too. The epoch with the lowest loss there is kept. --strategy says what learns:
  top-k   the last layers (--layers, a fifth of them by default) and the normalisation behind them; the default
  lora    matrices of rank --rank beside every linear layer of all layers; α is twice the rank
  full    everything; the embedding too
--model is smollm2_135m, which needs no network, a name of Hugging Face's, or a folder that save_pretrained wrote.

RUN/model is then what AutoModelForCausalLM.from_pretrained loads (LoRA merged), with its tokenizer, its template and
a card; RUN/log.csv has a row for each epoch, RUN/metrics.json the best one beside the model as it came. RUN/last.pt is
written after every epoch, and within it after every STEPS steps of --checkpoint-every; --resume goes on from it: on
CPUs bit for bit with as many workers on the same machine, up to rounding with any other number, with --shard or
without. Options that are left out are then the run's; other rows or options are refused, but for --lr.
With top-k, the output of the frozen layers is computed once and kept in memory, if it takes at most half of what is
free (tokens × width × 4 bytes; the first lines say how much): an epoch then runs only the layers that learn, and gives
the same up to rounding. --cache-gb GB allows another amount, --cache-gb 0 computes all layers in every epoch.
--check looks at rows and set-up (what is learned, in the first row; questions in both parts), and trains nothing.

--batch-size counts the whole batch, --micro-batch what a worker computes at once: the updates stay those of the batch.
A last batch with fewer rows than there are workers is refused: --drop-last leaves it out.
Exit code 0: done. 1: --check found something. 2: what was asked for cannot be; the last lines say why. 130: Ctrl-C.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a script

from sftlib.adaptation import freeze, param_groups, train_only, wrap_lora  # noqa: E402
from sftlib.backbones import BACKBONES, export_model, load_language_model, load_model  # noqa: E402
from sftlib.backbones.decoders import tokenizer_of  # noqa: E402
from sftlib.datasets import chat, nest_loader  # noqa: E402
from sftlib.datasets.loading import Loader  # noqa: E402
from sftlib.metrics import Accuracy  # noqa: E402
from sftlib.model import Model  # noqa: E402
from sftlib.model.files import load_safely  # noqa: E402
from sftlib.runtime import FLOAT32, Group, Precision, seed_everything  # noqa: E402
from sftlib.schedules import warmup_cosine  # noqa: E402
from sftlib.training import Epoch, Parallel, Sharded, Shards, evaluate, fit, save_checkpoint, workers  # noqa: E402
from tools import sft_cache, sft_card, sft_check, sft_options, sft_rows  # noqa: E402
from tools.run_loop import ended, followed, printed, require_free, resumed, seconds_left, write, write_text  # noqa: E402
from tools.run_options import require_new_addresses  # noqa: E402
from tools.sft_rows import Row  # noqa: E402

OWN = "smollm2_135m"
COLUMNS = ("epoch", "train_loss", "train_accuracy", "train_n", "val_loss", "val_accuracy", "val_n")
TokenAccuracy = partial(Accuracy, ignore_index=chat.IGNORED)
HOW = {"metric": TokenAccuracy, "terms": chat.counted}
CLIP, WARMUP = 1.0, 0.1  # the longest gradient; the part of the steps in which the rate rises
Parts = tuple[list[Row], list[Row]]


def rows(options: argparse.Namespace, *, leads: bool = True) -> Parts:
    """-> rows to train on and to validate on; ValueError that names every line that cannot be used"""
    tokenizer = BACKBONES[OWN].preprocess.tokenizer if options.model == OWN else tokenizer_of(options.model)
    encode = sft_rows.Encoder(tokenizer, max_tokens=options.max_tokens, train_prompt=options.train_prompt)
    train, faults = sft_rows.read(options.data, encode, silent=not leads)
    lines = sft_rows.refused(options.data, faults)
    val = []
    if isinstance(options.validation, Path):
        val, faults = sft_rows.read(options.validation, encode, silent=not leads)
        doubles = sft_rows.overlap(train, val)
        lines += sft_rows.refused(options.validation, [*faults, *doubles])
        val = [row for row in val if row.line not in dict(doubles)]
    if lines and not options.skip_broken:
        raise ValueError(
            "rows that cannot be used; mend them, or leave them out with --skip-broken\n" + "\n".join(lines)
        )
    for line in lines if leads else ():
        printed(f"left out: {line}")
    for part, path in ((train, options.data), (val, options.validation)):
        if not part and isinstance(path, Path):
            raise ValueError(f"no row of {path} is left; expected one or more")
    return (train, val) if val else sft_rows.parted(train, options.validation, options.seed)


def build(options: argparse.Namespace) -> Model:
    """The language model g ∘ f, on the CPU; what the strategy does not train is frozen"""
    model = (load_model if options.model == OWN else load_language_model)(options.model)
    most = model.backbone.preprocess.most
    if options.max_tokens > most:
        raise ValueError(f"got --max-tokens {options.max_tokens}; expected at most {most}, which {options.model} reads")
    if options.strategy == "full":
        return model
    if options.strategy == "lora":
        freeze(model)
        for layer in model.layers:
            wrap_lora(layer, rank=options.rank, alpha=2.0 * options.rank)
        return model
    options.layers = options.layers or max(1, round(len(model.layers) / 5))
    if options.layers > len(model.layers):
        raise ValueError(
            f"got --layers {options.layers}; expected at most {len(model.layers)}, all that {options.model} has"
        )
    return train_only(model, *model.layers[-options.layers :], *model.closing)


def adam(options: argparse.Namespace, model: Model) -> torch.optim.Optimizer:
    """Over what trains; for a Sharded over its shards"""
    return torch.optim.Adam(param_groups(all=(model, options.lr)), fused=True)


def loaders(options: argparse.Namespace, parts: Parts, world: int = 1) -> tuple[Loader, Loader]:
    """-> batches of the training rows, those of like length together, and of the validation rows"""
    train, val = (chat.Conversations([(row.ids, row.learned) for row in part]) for part in parts)
    batches = nest_loader(
        train, batch_size=options.batch_size, shuffle=True, lengths=train.lengths, drop_last=options.drop_last
    )
    # Each worker needs a row of every batch where the model is in shards.
    sizes = range(options.batch_size, options.batch_size + len(val) + 1)
    size = next(n for n in sizes if len(val) % n == 0 or len(val) % n >= world)
    return batches, nest_loader(val, batch_size=size, lengths=val.lengths)


def schedule(options: argparse.Namespace, batches: int):
    """What multiplies the rate: a rise, then half a cosine"""
    steps = options.epochs * batches
    return warmup_cosine(steps, warmup=min(round(WARMUP * steps), steps - 1))


def described(options: argparse.Namespace, parts: Parts, batches: Loader, val: Loader) -> dict:
    """What RUN keeps beside the weights: the options, what tells the rows from others, the token that ends an answer"""
    data = {"train": batches.split.fingerprint, "validation": val.split.fingerprint}
    stops = sorted({row.stop for row in parts[0]})
    return {"options": sft_options.kept(options), "rows": data, "stops": stops, "log": [], "before": None}


def train(options: argparse.Namespace, group: Group, parts: Parts) -> dict:
    """Train in this worker, from the start or from OUT/last.pt -> what the run keeps beside the weights"""
    seed_everything(options.seed)  # the same order in every worker
    say = printed if group.leads else (lambda _: None)
    options.precision = group.gathered(sft_options.arithmetic(options.precision, group.device))[0]
    precision = Precision(torch.bfloat16) if options.precision == "bfloat16" else FLOAT32
    model = build(options)
    cache = sft_cache.cache_of(options, model, parts, group, say)
    model = joined(options, cache.model if cache else model, group, precision)
    optimizer, (batches, val) = adam(options, model), loaders(options, parts, group.world)
    settings = described(options, parts, batches, val)
    found = resumed(options, model, optimizer, settings, {"all": options.lr}, sft_options.require_same_run)
    log, first = settings["log"], found.epoch if found else 0
    if cache and first < options.epochs:  # after the checkpoint, whose frozen layers count
        batches, val = (cache.kept(loader, group, precision) for loader in (batches, val))
    if found is None:
        settings["before"] = evaluate(model, Shards(val, group), precision=precision, **HOW)
        say("before  val loss {loss:.4f} accuracy {accuracy:.4f} (n {n})".format(**settings["before"]))
    else:
        settings["before"] = found.settings["before"]
        say(f"goes on after epoch {found.epoch} and {found.progress['batch']} of {len(batches)} batches")
        write(options.out / "log.csv", log, group, COLUMNS)
    began = time.perf_counter()
    if first < options.epochs:
        records = epochs(options, group, model, optimizer, batches, val, precision, found, settings)
        options.out.mkdir(parents=True, exist_ok=True)  # here, where nothing is refused any more
        for record in records:
            log.append([record.epoch, *record.train.values(), *record.val.values()])
            for name in ("best.pt", "last.pt") if log[-1] == best(log) else ("last.pt",):
                save_checkpoint(options.out / name, model, optimizer, epoch=record, settings=settings)
            write(options.out / "log.csv", log, group, COLUMNS)
            left = seconds_left(began, record.epoch - first, options.epochs - record.epoch)
            say(
                "epoch {}/{epochs}  train loss {:.4f} accuracy {:.4f} (n {})  val loss {:.4f} accuracy {:.4f} (n {})  "
                "{left} left".format(*log[-1], epochs=options.epochs, left=left)
            )  # fmt: skip
    return settings


def joined(options: argparse.Namespace, model: Model, group: Group, precision: Precision) -> Parallel:
    """The model of this worker, joined to those of the others"""
    if options.shard and group.world > 1:
        return Sharded(model, group, precision=precision)
    return Parallel(model.to(group.device), group, precision=precision)


def epochs(options, group, model, optimizer, batches, val, precision, found, settings) -> Iterator[Epoch]:
    """The records of the epochs that remain; checkpoints within them on the way, and a bar with the time left"""
    records = fit(
        model, Shards(batches, group), optimizer, epochs=options.epochs, val_loader=Shards(val, group), clip=CLIP,
        schedule=schedule(options, len(batches)), precision=precision, resume=found, micro_batch=options.micro_batch,
        **HOW,
    )  # fmt: skip
    return followed(
        records, found, epochs=options.epochs, batches=len(batches), leads=group.leads, every=options.checkpoint_every,
        keep=lambda step: save_checkpoint(options.out / "last.pt", model, optimizer, step=step, settings=settings),
    )  # fmt: skip


def best(log: list[list]) -> list:
    """The row of the lowest loss on the validation rows, the first of equal ones"""
    return min(log, key=lambda row: row[4])


def export(options: argparse.Namespace, settings: dict, parts: Parts) -> None:
    """OUT/metrics.json and OUT/model, whole or not at all: the best epoch, on the CPU, LoRA merged, and a card"""
    row = dict(zip(COLUMNS, best(settings["log"]), strict=True))
    counts = {name: len(part) for name, part in zip(("train", "validation"), parts, strict=True)}
    tokens = {"train": sum(len(r.ids) for r in parts[0]), "learned": sum(int(r.learned.sum()) for r in parts[0])}
    metrics = {"best": row, "before": settings["before"], "rows": counts, "tokens": tokens} | {
        "options": settings["options"]
    }
    write_text(options.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    target, partial_ = options.out / "model", options.out / "model.partial"
    if target.exists():
        printed(f"{target} is there already")
        return
    shutil.rmtree(partial_, ignore_errors=True)
    model = build(options)
    model.load_state_dict(load_safely(options.out / "best.pt")["model"])
    export_model(model, partial_)
    sft_card.let_stop(partial_, settings["stops"])
    write_text(partial_ / "README.md", sft_card.card(metrics))
    os.replace(partial_, target)
    better = "" if row["val_loss"] < settings["before"]["loss"] else "; no epoch was better than the model as it came"
    printed(f"{target}: epoch {row['epoch']}, val loss {row['val_loss']:.4f}{better}")


def check(options: argparse.Namespace, parts: Parts) -> int:
    """Say what is odd about the rows and the set-up -> the exit code, 1 where something is"""
    seed_everything(options.seed)
    model = build(options)
    optimizer, (batches, val) = adam(options, model), loaders(options, parts)
    return sft_check.report(parts, model, optimizer, batches, val)


def require_folder(out: Path) -> None:
    """ValueError unless OUT is a folder that can be written in, or can be made"""
    out = out.absolute()
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"got --out {out}, and {there} is no folder that can be written in; expected another --out")


def main(words: list[str] | None = None) -> int:
    """Run the script with these words, by default those of the command line; returns the exit code"""
    options = sft_options.arguments(words, __doc__)
    require_new_addresses()
    require_folder(options.out)
    if not options.check:
        require_free(options.out, resume=options.resume, at_the_end="model")
    leads = int(os.environ.get("RANK", 0)) == 0  # of the workers that torchrun starts
    parts = rows(options, leads=leads)
    if options.check:
        return check(options, parts)
    with workers(timeout_s=options.timeout) as group:
        if group.leads:
            print(f"{group.world} worker(s), {group.device.type}", flush=True)
        try:
            settings = train(options, group, parts)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} {options.out / 'last.pt'} is of before that: go on from it with the same command and --resume"
                f" --lr {options.lr / 10:g}, or, where there is none yet, start again with that rate"
            ) from None
    if leads:
        export(options, settings, parts)
    return 0


if __name__ == "__main__":
    ended("sft.py", main)
