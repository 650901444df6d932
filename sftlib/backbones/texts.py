"""Texts -> tokens, and which of them are real: what stands before a Transformer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """texts, a list of N str -> {"ids" int64 (N, T), "mask" bool (N, T)}, T the tokens of the longest

    Shorter texts are filled up on the right with padding, where mask is False. What is longer than `size` tokens, the
    special ones counted, is cut off. answers: with "answer" int64 (N, 1) too, the last token of each text, which
    predicts what follows.
    """

    load: Callable[[], object]  # -> tokenizer of transformers; kept by whoever defines it
    size: int
    most: int  # positions that the network knows
    answers: bool = False

    @property
    def tokenizer(self):
        """The tokenizer, of Hugging Face's transformers"""
        return self.load()

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"got {texts!r:.60}; expected a list of texts (str), one or more")
        rows = [torch.tensor(ids) for ids in self.tokenizer(list(texts)).input_ids]
        rows = [self._cut(row) for row in rows]
        if not all(len(row) for row in rows):
            raise ValueError("got an empty text; expected at least one token in each: leave it out")
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0)
        x = {"ids": ids, "mask": torch.arange(ids.shape[1]) < lengths[:, None]}
        return {**x, "answer": lengths[:, None] - 1} if self.answers else x

    def at(self, size: int | None) -> "Texts":
        """The same with another number of tokens at most. None: as published."""
        if size is None:
            return self
        if isinstance(size, bool) or not isinstance(size, int) or not 3 <= size <= self.most:
            raise ValueError(
                f"size={size!r}: expected the tokens of a text at most, a whole number from 3 to {self.most}, "
                "or None for the size that was published with the weights"
            )
        return replace(self, size=size)

    def _cut(self, row: Tensor) -> Tensor:
        """The first tokens of (T,); a special token at its end stays there"""
        if len(row) <= self.size:
            return row
        closed = int(row[-1]) in self.tokenizer.all_special_ids
        return torch.cat((row[: self.size - 1], row[-1:])) if closed else row[: self.size]


def require_tokens(x: object, longest: int, *names: str) -> None:
    """ValueError unless x is {"ids" (N, T), "mask" (N, T), …} with T from 1 to `longest`, and `names` beside them"""
    wanted = ("ids", "mask", *names)
    got = ", ".join(map(str, x)) if isinstance(x, Mapping) else type(x).__name__
    if not isinstance(x, Mapping) or not set(wanted) <= set(x):
        raise ValueError(f"got {got}; expected a dict with {', '.join(wanted)}: backbone.preprocess(texts) makes one")
    ids, mask = x["ids"], x["mask"]
    if ids.ndim != 2 or mask.shape != ids.shape or mask.dtype != torch.bool or ids.is_floating_point():
        raise ValueError(
            f"got ids {ids.dtype} {tuple(ids.shape)} and mask {mask.dtype} {tuple(mask.shape)}; expected whole numbers "
            "(N, T) and torch.bool (N, T)"
        )
    if not 0 < ids.shape[1] <= longest:
        raise ValueError(f"got {ids.shape[1]} tokens in a text; expected 1 to {longest}: cut the texts, or split them")


def require_answers(x: object, longest: int) -> None:
    """ValueError unless x is {"ids" (N, T), "mask" (N, T), "answer" (N, A)} with answer positions from 0 to T − 1"""
    require_tokens(x, longest, "answer")
    ids, answer = x["ids"], x["answer"]
    if answer.ndim != 2 or len(answer) != len(ids) or answer.is_floating_point():
        raise ValueError(
            f"got answer {answer.dtype} {tuple(answer.shape)} for ids {tuple(ids.shape)}; expected places, whole "
            f"numbers ({len(ids)}, A)"
        )
    if answer.device.type == "cpu" and answer.numel() and not 0 <= answer.min() <= answer.max() < ids.shape[1]:
        raise ValueError(
            f"got answer positions {answer.min()} to {answer.max()}; expected 0 to {ids.shape[1] - 1}: a position "
            "is that of the token before the one it predicts"
        )


def at_answers(h: Tensor, answer: Tensor) -> Tensor:
    """h (N, T, D), answer (N, A) positions -> (N, A, D)"""
    return h.gather(1, answer[..., None].expand(-1, -1, h.shape[2]))
