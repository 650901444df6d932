"""Checks of a language model's batches: tokens (N, T), labels (N, T) with −100 where none is a target."""

import torch
from torch import Tensor

from sftlib.doctor.case import Case, Found

NONE = -100


def batch_without_target(case: Case) -> Found:
    """No label of a batch counts"""
    ignored = getattr(case.losses.get("task_loss"), "ignore_index", NONE)
    given = [y for _, y in case.train.batches if isinstance(y, Tensor) and not y.is_floating_point() and y.numel()]
    empty = sum(bool((y == ignored).all()) for y in given)
    if empty:
        yield (
            f"{empty} of {len(given)} batches that were read",
            f"every label is {ignored}: the mean over no target is 0/0 = NaN, which goes into every weight",
            "leave such examples out; longer inputs, for truncation may have cut the answers off",
            "certain",
        )


def prompt_in_the_loss(case: Case) -> Found:
    """Every token is a target, those of the prompt too"""
    if not case.ids:
        return
    pads = _special(case, "pad_token_id")
    counted = [((y != NONE) & ~torch.isin(ids, pads), ~torch.isin(ids, pads)) for ids, y in case.ids]
    share = sum(int(a.sum()) for a, _ in counted) / max(1, sum(int(b.sum()) for _, b in counted))
    if share > 0.95:
        yield (
            f"{share:.0%} of the tokens are targets",
            "the prompt is learned as much as the answer: the loss is mostly "
            "of text that the model will never have to write",
            "labels of −100 for all but the answer and its end",
            "likely",
        )


def end_of_turn_never_a_target(case: Case) -> Found:
    """The token that ends an answer is in the text, and never in the labels"""
    ends = _special(case, "eos_token_id")
    if not case.ids or not ends.numel():
        return
    there = any(torch.isin(ids, ends).any() for ids, _ in case.ids)
    learned = any((torch.isin(ids, ends) & (y != NONE)).any() or torch.isin(y, ends).any() for ids, y in case.ids)
    if not learned:
        how = "is masked, as padding that has its number is" if there else "is not in the tokens at all"
        yield (
            f"end of turn, token {ends.tolist()}",
            f"{how}, so it is never a target: the model does not learn to stop",
            "a padding token of its own, or labels by length and not by number",
            "certain",
        )


def double_begin_token(case: Case) -> Found:
    """The template writes a begin token, and the tokenizer writes another"""
    begins = _special(case, "bos_token_id")
    if not case.ids or not begins.numel():
        return
    twice = sum(int((torch.isin(i[:, 1:], begins) & (i[:, 1:] == i[:, :-1])).any(1).sum()) for i, _ in _unpadded(case))
    if twice:
        yield (
            f"{twice} examples",
            f"begin with token {begins.tolist()} twice: the model has never seen that",
            "add_special_tokens=False for text that a template has made",
            "certain",
        )


def labels_shifted_twice(case: Case) -> Found:
    """The labels are shifted, and so does the model"""
    if not case.ids or not hasattr(case.model, "config"):
        return
    straight, shifted = 0, 0
    for ids, y in case.ids:
        counted = y != NONE
        straight += int((counted & (y == ids)).sum())
        shifted += int((counted[:, :-1] & (y[:, :-1] == ids[:, 1:])).sum())
    total = sum(int((y != NONE).sum()) for _, y in case.ids)
    if shifted > 0.9 * total > 0 and straight < 0.5 * total:
        yield (
            "labels",
            "are shifted by one, and a language model of transformers shifts them itself: each position "
            "learns the token after the next",
            "labels = input_ids, −100 where none counts",
            "certain",
        )


def _special(case: Case, name: str) -> Tensor:
    """The numbers of a special token, as tokenizer or model say; end of turn may have several"""
    for holder in (case.tokenizer, getattr(case.model, "generation_config", None), getattr(case.model, "config", None)):
        value = getattr(holder, name, None)
        if value is not None:
            return torch.tensor(value).flatten()
    return torch.zeros(0, dtype=torch.long)


def _unpadded(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Batches in which padding by the begin token itself cannot be taken for two of them"""
    pads, begins = _special(case, "pad_token_id"), _special(case, "bos_token_id")
    return [] if torch.isin(begins, pads).any() else case.ids
