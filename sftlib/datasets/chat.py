"""Conversations -> tokens, and which of them an assistant has to learn: its words and the end of its turn."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os.path import commonprefix

import torch
from torch import Tensor

from sftlib.datasets.splits import Split, checksum, row_numbers

IGNORED = -100  # a label that cross_entropy leaves out
Messages = Sequence[Mapping[str, str]]


def encode(tokenizer, messages: Messages, *, max_length: int | None = None) -> tuple[Tensor, Tensor]:
    """messages, each {"role", "content"} -> (ids int64 (T,), answer bool (T,))

    answer is true for every token of an assistant's words and for the token that ends its turn, the first special one
    after the words; for nothing else: no role, no system or user text, nothing behind the end. tokenizer: of Hugging
    Face's transformers, with any chat template whose rendering of i messages begins that of i + 1.

    max_length keeps the first tokens. ValueError when that would cut an answer, without an assistant's message, for a
    template that changes what it has rendered or ends no turn, and for special tokens within a message.
    """
    _check_messages(tokenizer, messages)
    whole = _rendered(tokenizer, messages)
    ids = _tokens(tokenizer, whole)
    answer = torch.zeros(len(ids), dtype=torch.bool)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            start, end = _words(tokenizer, messages[: i + 1], whole)
            first, last = _first_token(tokenizer, whole, start, ids), _end_token(tokenizer, whole, start, end, ids)
            turn = _tokens(tokenizer, _rendered(tokenizer, messages[: i + 1]))
            answer[first:last] = True
            answer[_stop(tokenizer, ids, last, len(turn), i)] = True
    if max_length is not None and answer[max_length:].any():
        raise ValueError(
            f"got a conversation of {len(ids)} tokens and max_length={max_length}, which cuts an answer; expected all "
            f"answers, up to token {int(answer.nonzero()[-1]) + 1}: shorten its messages, or leave it out"
        )
    return torch.tensor(ids)[:max_length], answer[:max_length]


def collate(encoded: Sequence[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """N of (ids (T,), answer (T,)) -> x {ids (N, T), mask (N, T), answer (N, A)}, y (N, A)

    x's answer holds positions: those of the tokens before an answer's, which predict it. y holds the answers' tokens.
    Shorter ones are filled up on the right: ids and positions with 0, mask with False, y with -100.
    """
    for i, (ids, answer) in enumerate(encoded):
        _require_answer(i, ids, answer)
    places = [answer.nonzero().flatten() for _, answer in encoded]
    x = {
        "ids": _padded([ids for ids, _ in encoded], 0),
        "mask": _padded([torch.ones_like(answer) for _, answer in encoded], False),
        "answer": _padded([place - 1 for place in places], 0),
    }
    return x, _padded([ids[answer] for ids, answer in encoded], IGNORED)


def prompt(tokenizer, messages: Messages) -> Tensor:
    """messages, the last one not an assistant's -> ids (T,) of all that stands before the assistant's next words

    The same tokens that `encode` gives before such an answer: what a model reads in training and in use is one thing.
    """
    asked = [*messages, {"role": "assistant", "content": "Qx"}]
    _check_messages(tokenizer, asked)
    if not messages or messages[-1]["role"] == "assistant":
        raise ValueError("got no message to answer; expected messages of which the last is not an assistant's")
    whole = _rendered(tokenizer, asked)
    start, _ = _words(tokenizer, asked, whole)
    return torch.tensor(_tokens(tokenizer, whole[:start]))


class Conversations(Split):
    """N of what `encode` gives, as a split: batches of `collate`, each as long as its longest conversation.

    ``nest_loader(split, batch_size=8, shuffle=True, lengths=split.lengths)`` puts those of like length together.
    """

    def __init__(self, encoded: Sequence[tuple[Tensor, Tensor]]):
        self.encoded = list(encoded)
        if not self.encoded:
            raise ValueError("got no conversation; expected one or more, each (ids (T,), answer (T,)) of `encode`")
        for i, conversation in enumerate(self.encoded):
            _require_answer(i, *conversation)

    def __len__(self) -> int:
        return len(self.encoded)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each conversation, (N,)"""
        return torch.tensor([len(ids) for ids, _ in self.encoded])

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """i -> ids (T,), answer (T,)"""
        return self.encoded[i]

    def batch(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """rows (n,) -> x {ids (n, T), mask (n, T), answer (n, A)}, y (n, A)"""
        return collate([self.encoded[i] for i in rows.tolist()])

    def subset(self, rows: Tensor | Sequence[int]) -> "Conversations":
        """rows (M,) -> these M conversations, in this order"""
        return Conversations([self.encoded[i] for i in row_numbers(rows, len(self)).tolist()])

    @cached_property
    def fingerprint(self) -> int:
        """A checksum of all tokens, and of which are answers"""
        ids, answer = (torch.cat(parts) for parts in zip(*self.encoded, strict=True))
        return checksum(answer, checksum(ids, checksum(self.lengths, 0)))

    def __repr__(self) -> str:
        return f"Conversations({len(self):,} of {int(self.lengths.sum()):,} tokens)"


def counted(y: Tensor) -> Tensor:
    """y (N, A) -> () how many of the targets count: the ``terms`` of `fit` and `evaluate` for `collate`'s batches"""
    return (y != IGNORED).sum()


def _require_answer(i: int, ids: Tensor, answer: Tensor) -> None:
    if ids.shape != answer.shape or answer.dtype != torch.bool or not answer.any() or answer[0]:
        raise ValueError(
            f"got ids {tuple(ids.shape)} and answer {answer.dtype} {tuple(answer.shape)} as conversation {i}; "
            "expected (T,) and torch.bool (T,), some of it true, not the first, which nothing predicts"
        )


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _check_messages(tokenizer, messages: Messages) -> None:
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(f'got {message!r:.60} as message {i}; expected {{"role": …, "content": …}}, both texts')
        found = [token for token in _special(tokenizer).values() if token in message["content"]]
        if found:
            raise ValueError(
                f"got {found[0]!r} in message {i}; expected no special token in a text, where it would end a turn"
            )
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("got no message with the role 'assistant'; expected one or more: only they are learnt")


def _rendered(tokenizer, messages: Messages) -> str:
    """messages -> the text that the chat template makes of them; "" of none"""
    import jinja2

    if not messages:
        return ""
    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"got the roles {roles}; expected others, since the chat template says: {error}") from None


def _tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids  # the template has written its own


def _words(tokenizer, messages: Messages, whole: str) -> tuple[int, int]:
    """messages up to an assistant's -> where its words begin and end in the whole text, as the template writes them"""
    before = _rendered(tokenizer, messages[:-1])
    turn = _rendered(tokenizer, messages)
    # What stands before and behind the words: what two answers that have no letter in common share.
    others = [_rendered(tokenizer, [*messages[:-1], {**messages[-1], "content": c}]) for c in ("Qx", "Jv")]
    head, tail = commonprefix(others), commonprefix([other[::-1] for other in others])[::-1]
    nested = whole.startswith(turn) and turn.startswith(before) and head.startswith(before)
    if not nested or not turn.startswith(head) or not turn.endswith(tail) or len(turn) < len(head) + len(tail):
        raise ValueError(
            f"the chat template writes the first {len(messages) - 1} messages otherwise when another one follows; "
            "expected a rendering that only grows: choose another template, or one turn a conversation"
        )
    return len(head), len(turn) - len(tail)


def _first_token(tokenizer, whole: str, start: int, ids: list[int]) -> int:
    """The first token that holds something of the words: where the tokens of what stands before them no longer agree"""
    return len(commonprefix([_tokens(tokenizer, whole[:start]), ids]))


def _end_token(tokenizer, whole: str, start: int, end: int, ids: list[int]) -> int:
    """The first token behind the words"""
    upto = _tokens(tokenizer, whole[:end])
    if ids[: len(upto)] == upto:
        return len(upto)
    # The last token holds what follows the words too.
    places = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    agreed = len(commonprefix([upto, ids]))
    return 1 + max((i for i, (a, b) in enumerate(places) if a < end and b > start), default=agreed - 1)


def _stop(tokenizer, ids: list[int], start: int, end: int, message: int) -> int:
    """The first special token among start … end - 1"""
    special = _special(tokenizer)
    found = [i for i in range(start, end) if ids[i] in special]
    if not found:
        raise ValueError(
            f"the chat template writes no special token behind message {message}, so a model could not learn to stop; "
            "expected one, such as tokenizer.eos_token, at the end of an assistant's turn"
        )
    return found[0]


def _special(tokenizer) -> dict[int, str]:
    """number -> text of each special token"""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
