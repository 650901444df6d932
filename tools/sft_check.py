"""tools/sft.py --check: what of the rows is learned, what is odd about them and about the set-up; trains nothing."""

import statistics
from collections import Counter

import torch.nn.functional as F
from torch.optim import Optimizer

from sftlib.datasets.loading import Loader
from sftlib.doctor import diagnose
from sftlib.model import Model
from tools.sft_rows import Row


def report(
    parts: tuple[list[Row], list[Row]], model: Model, optimizer: Optimizer, batches: Loader, val: Loader
) -> int:  # fmt: skip
    """Print what was found -> 1 where it makes numbers wrong, else 0"""
    train, held = parts
    for name, part in (("training", train), ("validation", held)):
        print(f"{name}: {sizes(part)}")
    copies = sum(n - 1 for n in Counter(row.messages for row in train).values())
    if copies:
        print(f"{copies} training row(s) say what another one says: they count twice or more")
    asked = {question(row) for row in train}
    known = [row.line for row in held if question(row) in asked]
    if known:
        print(f"validation, lines {', '.join(map(str, known))}: their question is in the training rows, with another "
              "answer")  # fmt: skip
    print(f"\nline {train[0].line}, what is learned in brackets:\n{shown(train[0], model.tokenizer)}\n")
    findings = diagnose(
        model, optimizer, train_loader=batches, val_loader=val, task_loss=F.cross_entropy, tokenizer=model.tokenizer
    )
    print(findings)
    return 1 if known or findings.mistakes else 0


def sizes(part: list[Row]) -> str:
    """Rows -> how many, how long, and how much of them is learned"""
    lengths = [len(row.ids) for row in part]
    learned = sum(int(row.learned.sum()) for row in part)
    return (
        f"{len(part):,} rows of {min(lengths)} to {max(lengths)} tokens (median {statistics.median(lengths):g}), "
        f"{learned:,} of {sum(lengths):,} tokens are learned ({learned / sum(lengths):.0%})"
    )


def question(row: Row) -> tuple:
    """What stands before the last answer"""
    last = max(i for i, (role, _) in enumerate(row.messages) if role == "assistant")
    return row.messages[:last]


def shown(row: Row, tokenizer) -> str:
    """The text of a row's tokens, what is learned between ⟦ and ⟧"""
    pieces, inside = [], False
    for token, learned in zip(row.ids.tolist(), row.learned.tolist(), strict=True):
        if learned != inside:
            pieces.append("⟦" if learned else "⟧")
            inside = learned
        pieces.append(tokenizer.decode([token]))
    return "".join(pieces) + ("⟧" if inside else "")
