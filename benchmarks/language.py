"""Fine-tuning a language model: `fit` against Hugging Face's Trainer and TRL's SFTTrainer, and what caching is worth.

    python benchmarks/language.py [--parts training rates task] [--rounds 3] [--rows 64] [--task-rows 200]
                                  [--precisions float32 bfloat16] [--what full LoRA]

SmolLM2-135M-Instruct learns to name the topic of BBC news in one word (tools/experiments/language_model.py). TRL 1.16.0
and `datasets` are installed apart, into a temporary folder (a network is needed), never into the course's environment.
Every measurement is a process of its own, so that its peak memory is its own; the ways of a round take turns, and each
round draws other rows.

1. training. The same weights, rows in the same order, batches of 8, updates, AdamW and rates (a straight line to 0) for
   all: `full`, and LoRA of rank 16 on every linear layer (theirs peft's, α twice the rank, as ours), on the CPU. Theirs
   get rows as tokens with labels of −100 but on the answer, padded to the longest of a batch, and keep all activations,
   which TRL by itself would compute again (gradient checkpointing). The Trainer computes all logits, TRL and ours those
   of answers. `ours, by length` batches rows of like length, in another order, so it is reported apart. Tokens (padding
   is none) a second from the first update's end to the last's; seconds of the whole call; loss on validation rows, in
   nats per token of the answers, by one function for all; peak memory of the process. Where the losses agree, the ratio
   of the seconds is that of the seconds to the same validation loss.
2. task. What the course teaches against TRL's LoRA recipe: top 6 of 30 layers, what the frozen ones give computed once
   (that time counted), batches of 4 and a warm-up, against SFTTrainer with LoRA of rank 16 on all linear layers and
   batches of 8; each one pass over the same rows in bfloat16, at its best rate. `exact`: share of 100 test reports
   whose answer is right word for word and ended, each token the likeliest after the right ones, as greedy writing
   gives.
3. rates. Three for each way, on rows of a seed that is used nowhere else, by the loss on validation reports: is CHOSEN,
   which part 2 takes, the best of them?

Prints what each gave, from three rounds on the differences of the losses with their intervals, and, last, medians of
the ratios over the rounds. Run it on a quiet machine.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["datasets"], ["--no-deps", "trl==1.16.0"]
BATCH, RANK, ALPHA, DECAY = 8, 16, 32.0, 0.01
SMALL, WARM = 4, 0.1  # of our way in part 2: its batch, and the share of the updates in which the rate rises
RATES = {"full": 5e-5, "LoRA": 5e-4}  # of part 1
TOP, TUNING_SEED = "layer24", 1001  # of part 2: frozen up to here
TRIED = {"top 6, cached": (2e-4, 6e-4, 2e-3), "TRL's LoRA recipe": (6e-4, 2e-3, 6e-3)}
CHOSEN = {"top 6, cached": 6e-4, "TRL's LoRA recipe": 2e-3}
OURS, THEIRS = ("ours", "ours, by length"), ("Trainer", "TRL")
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which the system counts memory


# --- the parent ------------------------------------------------------------------------------------------------------


def main(options: argparse.Namespace) -> None:
    """Install TRL apart, start every measurement, print"""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        for packages in PACKAGES:
            install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *packages]
            subprocess.run(install, check=True)

        def measured(**job) -> dict:
            line = [python, "-W", "ignore::FutureWarning", __file__, "--behind", sysconfig.get_path("purelib")]
            line += ["--job", json.dumps(job)]
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
            return json.loads(done.stdout.splitlines()[-1])

        ratios = {}
        for part in options.parts:
            ratios |= {"training": training, "rates": rates, "task": task}[part](options, measured)
    print("\nratios, medians over the rounds")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")


def training(options: argparse.Namespace, measured: Callable) -> dict[str, float]:
    """All ways, in turns -> name -> ratio"""
    from sftlib.metrics import compare

    found = {}
    for dtype in options.precisions:
        for what in options.what:
            runs = {way: [] for way in (*OURS, *THEIRS)}
            for seed in range(options.rounds):
                for way, results in runs.items():
                    result = measured(part="training", way=way, what=what, dtype=dtype, rows=options.rows, seed=seed)
                    results.append(result)
                    print(f"{what}, {dtype}, {way}: " + "{tokens_s:.0f} tokens/s, {seconds:.1f} s, validation loss "
                          "{loss:.4f}, peak {peak_mb:.0f} MB".format(**result), flush=True)  # fmt: skip
            found |= compared(f"{what}, {dtype}", runs)
            if options.rounds >= 3:
                losses = {way: [run["loss"] for run in results] for way, results in runs.items()}
                print(f"{what}, {dtype}, validation loss:", *compare(losses, against="ours"), sep="\n  ")
    return found


def compared(name: str, runs: dict[str, list[dict]]) -> dict[str, float]:
    """The runs of each way -> ours against each of theirs: rate, seconds, memory, and how far the losses are apart"""
    found = {}
    for own in OURS:
        for other in THEIRS:
            pairs = list(zip(runs[own], runs[other], strict=True))
            label = f"{name}: {own} against {other}"
            found[f"{label}, tokens/s"] = statistics.median(o["tokens_s"] / t["tokens_s"] for o, t in pairs)
            found[f"{label}, speed to the end"] = statistics.median(t["seconds"] / o["seconds"] for o, t in pairs)
            found[f"{label}, peak memory"] = statistics.median(o["peak_mb"] / t["peak_mb"] for o, t in pairs)
            found[f"{label}, validation loss"] = statistics.median(o["loss"] / t["loss"] for o, t in pairs)
    return found


def task(options: argparse.Namespace, measured: Callable) -> dict[str, float]:
    """Our way and TRL's recipe in turns -> ratio of the seconds"""
    runs = {way: [] for way in CHOSEN}
    for seed in range(options.rounds):
        for way, rate in CHOSEN.items():
            result = measured(part="task", rows=options.task_rows, judged_on="test", way=way, rate=rate, seed=seed)
            runs[way].append(result)
            print(f"{options.task_rows} rows, seed {seed}, {way}: " + "exact {exact:.2f} in {seconds:.1f} s, peak "
                  "{peak_mb:.0f} MB".format(**result), flush=True)  # fmt: skip
    pairs = list(zip(*runs.values(), strict=True))
    ahead = ", ".join(f"{own['exact'] - other['exact']:+.2f}" for own, other in pairs)
    print(f"exact, ours minus theirs: {ahead}")
    ratio = statistics.median(other["seconds"] / own["seconds"] for own, other in pairs)
    return {"task, speed of top 6 cached against TRL's LoRA recipe": ratio}


def rates(options: argparse.Namespace, measured: Callable) -> dict[str, float]:
    """Both ways at each of their rates -> no ratio; prints"""
    for way, tried in TRIED.items():
        for rate in tried:
            result = measured(
                part="task", rows=options.task_rows, judged_on="val", way=way, rate=rate, seed=TUNING_SEED
            )
            print(
                f"{way}, rate {rate:g}: validation loss {result['loss']:.4f}, exact {result['exact']:.2f}", flush=True
            )
    return {}


# --- a measurement, in a process of its own -------------------------------------------------------------------------


def child(job: dict) -> None:
    """Do a job and print what it gave as the last line"""
    import torch

    from sftlib.runtime import FLOAT32, Precision, seed_everything

    seed_everything(job["seed"])
    conversations = drawn(job["rows"], job["seed"])
    if job["part"] == "task":
        result = recipe(job, conversations)
    else:
        precision = Precision(torch.bfloat16) if job["dtype"] == "bfloat16" else FLOAT32
        way = by_fit if job["way"] in OURS else by_trainer
        result = way(conversations, precision, what=job["what"], rate=RATES[job["what"]], way=job["way"])
    net = result.pop("net")
    result |= judged(net, job.get("judged_on", "val"))
    print("\n" + json.dumps(result))


def drawn(n: int, seed: int) -> list[tuple]:
    """-> n of (ids (T,), answer (T,)), rows of the training part in an order drawn by the seed"""
    import torch

    from tools.experiments import language_model as bbc

    rows = torch.randperm(len(bbc.texts()["train"]), generator=torch.Generator().manual_seed(seed))[:n]
    return bbc.encoded("topic", "train", rows=rows.tolist())


def peak_mb() -> float:
    """The most memory that this process has had so far"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6


def falling(steps: int, rising: float = 0.0) -> Callable[[int], float]:
    """step -> factor, from 1 to 0 along a line, which it reaches along another in a share of the steps"""
    return lambda step: min((step + 1) / max(1, rising * steps), max(0.0, 1 - step / steps))


def result_of(finish: Callable, trained, ends: list[float], began: float, tokens: list[int]) -> dict:
    """When each update ended, and the tokens of each batch -> the numbers of a run, and the network that came out"""
    seconds, peak = time.perf_counter() - began, peak_mb()
    rate = sum(tokens[1:]) / (ends[-1] - ends[0])
    return {"seconds": seconds, "peak_mb": peak, "tokens_s": rate, "net": finish(trained)}


def by_fit(conversations: list[tuple], precision, *, what: str, rate: float, way: str) -> dict:
    """Trained by `fit`"""
    import torch

    from sftlib.adaptation import freeze, trainable, wrap_lora
    from sftlib.backbones import as_transformers, load_model
    from sftlib.datasets import chat, nest_loader
    from sftlib.training import Step, fit

    model = load_model("smollm2_135m")
    if what == "LoRA":
        freeze(model)
        for layer in model.layers:
            wrap_lora(layer, rank=RANK, alpha=ALPHA)
    data, by_length = chat.Conversations(conversations), way == "ours, by length"

    def batches():
        lengths, draw = (data.lengths if by_length else None), torch.Generator().manual_seed(0)
        return nest_loader(data, batch_size=BATCH, shuffle=by_length, lengths=lengths, generator=draw)

    tokens, ends = [int(x["mask"].sum()) for x, _ in batches()], []
    began = time.perf_counter()
    optimizer = torch.optim.AdamW(trainable(model), lr=rate, weight_decay=DECAY, fused=True)
    how = {"terms": chat.counted, "metric": None, "precision": precision, "schedule": falling(len(tokens))}
    for record in fit(model, batches(), optimizer, epochs=1, **how):
        if isinstance(record, Step):
            ends.append(time.perf_counter())
    return result_of(as_transformers, model, ends, began, tokens)


def by_trainer(conversations: list[tuple], precision, *, what: str, rate: float, way: str) -> dict:
    """Trained by Hugging Face's Trainer, or TRL's"""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, TrainerCallback

    from sftlib.backbones import as_transformers, load_model

    net = as_transformers(load_model("smollm2_135m")).requires_grad_(True)
    net.tie_weights()  # one Parameter, as it is in the model
    if what == "LoRA":
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        net = get_peft_model(net, config)
    data = Dataset.from_list([
        {"input_ids": ids.tolist(), "labels": ids.where(answer, -100).tolist()} for ids, answer in conversations
    ])  # fmt: skip
    parameters, steps = [p for p in net.parameters() if p.requires_grad], -(-len(data) // BATCH)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY, fused=True)
    decay, ends = torch.optim.lr_scheduler.LambdaLR(optimizer, falling(steps)), []

    class Clock(TrainerCallback):
        """Notes when each update ends"""

        def on_step_end(self, *_, **__):
            """After an update"""
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        job = trainer(way, net, data, folder, precision, (optimizer, decay))
        job.remove_callback(PrinterCallback)
        job.add_callback(Clock())
        began = time.perf_counter()
        job.train()
        tokens = [sum(len(ids) for ids, _ in conversations[i : i + BATCH]) for i in range(0, len(data), BATCH)]
        return result_of(merged, net, ends, began, tokens)


def trainer(way: str, net, data, folder: str, precision, optimizers: tuple):
    """-> the Trainer, or TRL's, set up on the same rows in their order"""
    import torch

    from sftlib.backbones import BACKBONES

    common = {
        "output_dir": folder, "num_train_epochs": 1, "per_device_train_batch_size": BATCH, "report_to": "none",
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
        "use_cpu": True, "bf16": precision.dtype is torch.bfloat16, "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential", "activation_checkpointing": False,
    }  # fmt: skip
    if way == "TRL":
        from trl import SFTConfig, SFTTrainer

        tokenizer = BACKBONES["smollm2_135m"].preprocess.tokenizer
        arguments = SFTConfig(**common, gradient_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True})
        return SFTTrainer(net, arguments, train_dataset=data, processing_class=tokenizer, optimizers=optimizers)
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(**common)
    return Trainer(net, arguments, train_dataset=data, data_collator=padded, optimizers=optimizers)


def padded(rows: list[dict]) -> dict:
    """Rows of tokens and labels -> a batch, filled up on the right"""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    mask = pad_sequence([torch.ones_like(some) for some in ids], batch_first=True)
    return {
        "input_ids": pad_sequence(ids, batch_first=True), "attention_mask": mask,
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }  # fmt: skip


def merged(net):
    """What a trainer trained -> a fresh network with its weights, peft's LoRA merged"""
    from sftlib.backbones import as_transformers, load_model

    if hasattr(net, "merge_and_unload"):
        net = net.merge_and_unload()
    fresh = as_transformers(load_model("smollm2_135m"))
    fresh.load_state_dict(net.state_dict())
    return fresh.eval()


def recipe(job: dict, conversations: list[tuple]) -> dict:
    """Part 2: top 6 layers on what the frozen ones gave, or TRL's LoRA recipe"""
    import torch

    from sftlib.adaptation import freeze, train_only, trainable
    from sftlib.backbones import as_transformers, load_model
    from sftlib.datasets import NestSplit, chat, nest_loader
    from sftlib.features import extract, upper_part
    from sftlib.runtime import Precision
    from sftlib.training import fit

    precision = Precision(torch.bfloat16)
    if job["way"] != "top 6, cached":
        return by_trainer(conversations, precision, what="LoRA", rate=job["rate"], way="TRL")
    model = freeze(load_model("smollm2_135m"))
    began = time.perf_counter()
    given = nest_loader(NestSplit(*chat.collate(conversations)), batch_size=16)
    h = NestSplit(*extract(model.backbone, given, stage=TOP, precision=precision))
    top = upper_part(model, TOP)
    train_only(top, top.backbone)
    batches = nest_loader(h, batch_size=SMALL)
    optimizer = torch.optim.AdamW(trainable(top), lr=job["rate"], weight_decay=DECAY, fused=True)
    how = {"terms": chat.counted, "metric": None, "precision": precision, "schedule": falling(len(batches), WARM)}
    for _ in fit(top, batches, optimizer, epochs=1, **how):
        pass
    seconds, peak = time.perf_counter() - began, peak_mb()
    return {"seconds": seconds, "peak_mb": peak, "net": as_transformers(model)}


def judged(net, part: str) -> dict:
    """A network on rows of a part of the news, by teacher forcing -> loss in nats per answer token, exact in [0, 1]"""
    import torch
    import torch.nn.functional as F

    from sftlib.datasets import chat
    from tools.experiments import language_model as bbc

    rows, total, count, right = bbc.encoded("topic", part), 0.0, 0, 0
    for start in range(0, len(rows), 16):
        x, y = chat.collate(rows[start : start + 16])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            h = net.model(input_ids=x["ids"], attention_mask=x["mask"].long()).last_hidden_state
            z = h.gather(1, x["answer"][..., None].expand(-1, -1, h.shape[2]))
            logits = net.lm_head(z).float().transpose(1, 2)  # (n, V, A)
        counts = y != -100
        total += F.cross_entropy(logits, y, reduction="sum").item()
        count += int(counts.sum())
        right += int(((logits.argmax(1) == y) | ~counts).all(1).sum())
    return {"loss": total / count, "exact": right / len(rows)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("training", "rates", "task"), default=["training", "task"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--task-rows", type=int, default=200)
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--what", nargs="+", choices=tuple(RATES), default=list(RATES))
    parser.add_argument("--behind", help=argparse.SUPPRESS)  # where torch is, in the folder apart
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    if behind := _options().behind:
        sys.path += [behind, str(ROOT)]
        child(_options().job)
    else:
        sys.path.insert(0, str(ROOT))
        main(_options())
