"""Writing with a language model: one token after the other, each read again, until the one that ends a turn."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sftlib.inputs import finite, whole
from sftlib.runtime import FLOAT32, Precision, device_of


class Reading(NamedTuple):
    """What a network made of N texts so far: ``logits`` (N, V) of the next token, and what it need not read again."""

    logits: Tensor
    cache: object  # keys and values of all that was read
    mask: Tensor  # (N, T), 1 where a token is real
    places: Tensor  # (N, 1), of the last token, counted from 0


@torch.inference_mode()
def generate(
    net: nn.Module, prompts: Sequence[Tensor], *, stop: int, most: int, temperature: float = 0.0,
    generator: torch.Generator | None = None, shared: Tensor | None = None, precision: Precision = FLOAT32,
) -> Iterator[Tensor]:  # fmt: skip
    """N prompts, each ids (T_i,) -> the next token of each, (N,) on the CPU, again and again

    Ends when all have given ``stop``, the token that ends a turn, or after ``most`` tokens; who has stopped goes on
    giving ``stop``. net: a causal language model of Hugging Face's transformers, `as_transformers(model)` for one.
    temperature 0 takes the most probable token, τ > 0 draws from softmax(logits / τ), with ``generator``. ``shared``:
    ids (S,) that stand before every prompt; they are read once.
    """
    temperature, most = finite("temperature", temperature, least=0), whole("most", most)
    reading = read(net, prompts, shared=shared, precision=precision)
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for n in range(1, most + 1):
        token = chosen(reading.logits, temperature, generator).masked_fill(done, stop)
        yield token
        done |= token == stop
        if done.all() or n == most:
            return
        mask = torch.cat((reading.mask, torch.ones(len(token), 1, dtype=torch.long)), 1)
        reading = _read(net, token[:, None], mask, reading.places + 1, reading.cache, precision)


def pieces(tokenizer, tokens: Iterator[Tensor], *, stop: int) -> Iterator[str]:
    """What `generate` gives for one prompt -> its text, piece by piece, without the stop token

    A character of several tokens comes when it is whole.
    """
    ids, shown = [], ""
    for token in tokens:
        if int(token) == stop:
            break
        ids.append(int(token))
        text = tokenizer.decode(ids)
        if not text.endswith("\ufffd"):  # what stands for half a character
            yield text[len(shown) :]
            shown = text


def chosen(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """logits (N, V) -> a token of each row, (N,): the most probable at temperature 0, else drawn from softmax(l / τ)"""
    if temperature == 0:
        return logits.argmax(1)
    return torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]


def written(
    net: nn.Module, prompts: Sequence[Tensor], *, stop: int, most: int, temperature: float = 0.0,
    generator: torch.Generator | None = None, shared: Tensor | None = None, precision: Precision = FLOAT32,
) -> list[list[int]]:  # fmt: skip
    """As `generate` -> the tokens that each of N prompts was given, ``stop`` the last one unless ``most`` came first"""
    steps = generate(net, prompts, stop=stop, most=most, temperature=temperature, generator=generator, shared=shared,
                     precision=precision)  # fmt: skip
    rows = torch.stack(list(steps), 1).tolist()
    return [row[: row.index(stop) + 1] if stop in row else row for row in rows]


@torch.inference_mode()
def read(
    net: nn.Module, prompts: Sequence[Tensor], *, shared: Tensor | None = None, precision: Precision = FLOAT32
) -> Reading:
    """N prompts, each ids (T_i,), behind ``shared`` (S,) -> logits (N, V) of what comes next, and what was read"""
    if net.training:
        raise ValueError("got a network in training mode, in which dropout may draw; expected net.eval()")
    ids, mask = _padded_on_the_left(prompts)
    cache = None
    if shared is not None:
        ones = torch.ones(1, len(shared), dtype=torch.long)
        cache = _read(net, shared[None], ones, ones.cumsum(1) - 1, None, precision).cache
        cache.batch_repeat_interleave(len(ids))
        mask = torch.cat((ones.expand(len(ids), -1), mask), 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return _read(net, ids, mask, places, cache, precision)


def _read(net: nn.Module, ids: Tensor, mask: Tensor, places: Tensor, cache, precision: Precision) -> Reading:
    """ids (N, t), their places (N, t), the mask (N, T) of them and of all before them -> what comes next"""
    device = device_of(net)
    with precision.autocast(device.type):
        out = net(
            input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=places.to(device), cache=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
    return Reading(out.logits[:, -1].float().cpu(), out.cache, mask, places[:, -1:])


def _padded_on_the_left(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """N of (T_i,) -> ids (N, T), mask (N, T) of 0 and 1, so that what is written stands behind every prompt"""
    if isinstance(prompts, Tensor) or not len(prompts):
        raise ValueError("got no list of prompts; expected a list of one or more, each ids (T,)")
    for i, ids in enumerate(prompts):
        if not isinstance(ids, Tensor) or ids.ndim != 1 or not len(ids) or ids.dtype != torch.int64:
            got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"got {got} as prompt {i}; expected ids int64 (T,), one or more: chat.prompt makes them")
    longest = max(map(len, prompts))
    ids = torch.stack([nn.functional.pad(some, (longest - len(some), 0)) for some in prompts])
    lengths = torch.tensor([len(some) for some in prompts])
    return ids, (torch.arange(longest) >= longest - lengths[:, None]).long()
