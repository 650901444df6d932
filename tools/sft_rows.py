"""The rows of tools/sft.py: read, refused by line number, turned into tokens, and split without a row in both parts."""

import codecs
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sftlib.datasets import chat

ROLES = ("system", "user", "assistant")
MOST_LINES = 50  # of a refusal: what a thousand rows have in common the first few show
MOST_NUMBERS = 20  # of rows with one fault
TO_LINES = "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"


@dataclass(frozen=True, eq=False)
class Row:
    """A conversation of a file: its line, counted from 1, its messages, its tokens (T,), which are learned (T,)"""

    line: int
    messages: tuple[tuple[str, str], ...]
    ids: Tensor
    learned: Tensor
    stop: int  # the token that ends the last answer


class Encoder:
    """messages -> tokens and which of them are learned; ValueError for a conversation that cannot be used"""

    def __init__(self, tokenizer, *, max_tokens: int, train_prompt: bool = False):
        if not tokenizer.chat_template:
            raise ValueError(
                "the tokenizer of this model has no chat template, so nothing says how messages are written; expected "
                "a model that was made to talk (its name often ends in Instruct), or a folder with chat_template.jinja"
            )
        self.tokenizer, self.max_tokens, self.train_prompt = tokenizer, max_tokens, train_prompt

    def __call__(self, line: int, messages: list[dict]) -> Row:
        """The messages of a line -> its row"""
        ids, answer = chat.encode(self.tokenizer, messages)
        if answer[self.max_tokens :].any():
            raise ValueError(
                f"has an answer that ends beyond token {self.max_tokens}, which would be cut: shorten it or what is "
                "before it, allow more (--max-tokens), or leave the row out"
            )
        ids, answer = ids[: self.max_tokens], answer[: self.max_tokens]
        if answer[0]:
            raise ValueError("its first token is one of an answer, which nothing predicts; begin with a user's message")
        stop, pairs = int(ids[answer][-1]), tuple((m["role"], m["content"]) for m in messages)
        return Row(line, pairs, ids, torch.arange(len(ids)) > 0 if self.train_prompt else answer, stop)


def read(
    path: Path, encode: Callable[[int, list[dict]], Row], *, silent: bool = True
) -> tuple[list[Row], list[tuple[int, str]]]:  # fmt: skip
    """A file of JSON lines -> its rows, and (line, what is wrong with it) of those that cannot be used

    Empty lines are passed over. Unless ``silent``, a bar says how far it is. ValueError for a file that is not there.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file that is there; expected a file of JSON lines, one conversation a line")
    rows, faults = [], []
    whole = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if whole.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16, as its first bytes say; expected UTF-8: save the file as UTF-8")
    if whole.lstrip().startswith(b"[") and _is_one_list(whole):
        raise ValueError(
            f"{path} is one JSON list; expected one object a line, which this writes: "
            f'python -c "{TO_LINES}" < {path.name} > {path.stem}.jsonl'
        )
    lines = whole.split(b"\n")
    if not whole.strip():
        raise ValueError(f"{path} is empty; expected a file of JSON lines, one conversation a line")
    shown = tqdm(lines, desc=path.name, unit="row", leave=False, disable=True if silent else None)
    for line, text in enumerate(shown, 1):
        if not text.strip():
            continue
        try:
            rows.append(encode(line, messages_of(text)))
        except ValueError as error:
            faults.append((line, str(error)))
    return rows, faults


def _is_one_list(text: bytes) -> bool:
    """Whether a whole file is one JSON value, over several lines or of several objects"""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and (b"\n" in text.strip() or all(isinstance(row, dict) for row in value))


def messages_of(text: bytes) -> list[dict]:
    """A line -> its messages; ValueError, with what to do, for one that is no conversation with an answer"""
    try:
        row = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 from byte {error.start} on: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg}, column {error.colno}): write one object on one line") from None
    except RecursionError:
        raise ValueError("is nested too deeply: write one object with messages") from None
    messages = _listed(row)
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(f'message {i} is no {{"role": …, "content": …}} with two texts: write each message so')
        if message["role"] not in ROLES:
            raise ValueError(f"has the role {message['role']!r}: use {', '.join(ROLES)}, or leave the row out")
        if any("\ud800" <= letter <= "\udfff" for letter in message["content"]):
            raise ValueError(f"has half a character in message {i}, \\ud800 to \\udfff alone: write it whole, as 😀 is")
        if message["role"] == "assistant" and not message["content"].strip():
            raise ValueError("has an empty answer: write one, or leave the row out")
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("has no assistant's message, so nothing to learn: add the answer, or leave the row out")
    return messages


def _listed(row) -> list:
    """What a line holds -> its messages, unchecked"""
    if not isinstance(row, dict):
        raise ValueError(f'is a {type(row).__name__}: write an object with "messages"')
    if "messages" in row and ("prompt" in row or "completion" in row):
        raise ValueError('has "messages" and "prompt" or "completion": keep one of the two forms')
    if "prompt" in row and "completion" in row:
        if not isinstance(row["prompt"], str) or not isinstance(row["completion"], str):
            raise ValueError('has a "prompt" or "completion" that is no text: write two texts, or "messages"')
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    if "messages" not in row:
        got = ", ".join(map(repr, sorted(row)[:8])) or "nothing"
        raise ValueError(f'has {got}, not "messages", nor "prompt" and "completion": write a list of messages')
    if not isinstance(row["messages"], list) or not row["messages"]:
        raise ValueError('has "messages" that are no list, or an empty one: write a list of messages')
    return row["messages"]


def refused(path: Path, faults: Sequence[tuple[int, str]]) -> list[str]:
    """(line, what is wrong) -> a line of text for each kind of fault, with the lines of the file that have it"""
    kinds: dict[str, list[int]] = {}
    for line, what in faults:
        kinds.setdefault(what, []).append(line)
    found = [
        f"{path}, {'lines' if len(lines) > 1 else 'line'} {_numbers(lines)}: {what}" for what, lines in kinds.items()
    ]
    more = len(found) - MOST_LINES
    return found if more <= 0 else [*found[:MOST_LINES], f"{path}: and {more:,} more kinds of fault"]


def _numbers(lines: Sequence[int]) -> str:
    """Lines -> their numbers, of many the first"""
    more = len(lines) - MOST_NUMBERS
    return ", ".join(map(str, lines[:MOST_NUMBERS])) + (f" and {more:,} more" if more > 0 else "")


def parted(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """rows -> those to train on, and about ``share`` of them to validate on; equal conversations stay together

    ValueError where all are equal, or only one is there.
    """
    kinds: dict[tuple, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.messages, []).append(row)
    if len(kinds) < 2:
        lines = ", ".join(str(row.line) for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise ValueError(
            f"got {len(kinds)} different row(s) (line {lines}); expected two or more, one of them to validate on: add "
            "rows, or give --validation a file of others"
        )
    held, count = set(), 0
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(seed)).tolist()
    keys = list(kinds)
    for i in order[:-1]:  # one kind at least is left to train on
        if count and count >= share * len(rows):
            break
        held.add(keys[i])
        count += len(kinds[keys[i]])
    return [r for r in rows if r.messages not in held], [r for r in rows if r.messages in held]


def overlap(train: Sequence[Row], val: Sequence[Row]) -> list[tuple[int, str]]:
    """Validation rows that are trained on too -> (their line, what is wrong)"""
    first = {row.messages: row.line for row in reversed(train)}
    return [
        (row.line, f"is line {first[row.messages]} of the training rows too, so it would be known by heart: leave it "
         "out of one of them")
        for row in val if row.messages in first
    ]  # fmt: skip
