"""The output of the frozen layers in tools/sft.py: computed once and kept, so that an epoch runs only what learns."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sftlib.backbones.smollm2 import LanguageModel
from sftlib.batches import to
from sftlib.datasets import chat
from sftlib.datasets.loading import Loader
from sftlib.model import Model, eval_mode
from sftlib.runtime import Group, Precision
from tools.sft_rows import Row

SHARE = 0.5  # of the memory that is free, which what is kept may take
SAME = 1e-3  # relative: what two ways of computing one thing may differ by
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container
NOT_CUT = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)  # of a network that hands on more than h

Parts = tuple[Sequence[Row], Sequence[Row]]


class Kept(chat.Conversations):
    """Conversations with h, what the frozen layers say of their tokens, n of (T, D): x has "h" (n, T, D) too

    Their fingerprint is that of the tokens, so a run goes on with h kept or not.
    """

    def __init__(self, conversations: chat.Conversations, h: Sequence[Tensor]):
        super().__init__(conversations.encoded)
        self.h = list(h)

    def batch(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """rows (n,) -> x {ids, mask (n, T), answer (n, A), h (n, T, D)}, y (n, A)"""
        x, y = super().batch(rows)
        return {**x, "h": nn.utils.rnn.pad_sequence([self.h[i] for i in rows.tolist()], batch_first=True)}, y


@dataclass(frozen=True)
class Cache:
    """f in two halves: ``lower`` computes h, once, and ``model`` = g ∘ the rest of f learns from it"""

    lower: Callable[[dict], Tensor]
    model: Model
    at_once: int  # rows

    def kept(self, loader: Loader, group: Group, precision: Precision) -> Loader:
        """Batches of conversations -> the same with h; workers share the computing, and each holds all of it

        Every worker calls it.
        """
        split = loader.split
        batches = split.lengths.argsort(stable=True).split(self.at_once)
        found: list[Tensor | None] = [None] * len(split)
        silent = None if group.leads else True
        with tqdm(total=len(split), desc="frozen layers", unit="row", leave=False, disable=silent) as bar:
            for first in range(0, len(batches), group.world):
                own = batches[first + group.rank] if first + group.rank < len(batches) else torch.tensor([], dtype=int)
                for i, h in [pair for part in group.gathered(self._of(split, own, group, precision)) for pair in part]:
                    found[i] = h
                    bar.update()
        return replace(loader, split=Kept(split, found))

    @torch.no_grad()
    def _of(self, split: chat.Conversations, rows: Tensor, group: Group, precision: Precision) -> list:
        """rows (n,) -> n of (row, h (T, D)), without padding, on the CPU"""
        if not len(rows):
            return []
        x, _ = split.batch(rows)
        with eval_mode(self.model), precision.autocast(group.device.type):
            h = self.lower(to(x, group.device)).float().cpu()
        return [(i, h[n, : len(split[i][0])].clone()) for n, i in enumerate(rows.tolist())]


def cache_of(
    options: argparse.Namespace, model: LanguageModel, parts: Parts, group: Group, say: Callable
) -> Cache | None:  # fmt: skip
    """What keeps the frozen layers' output, or None where that cannot be, with a word why; the same in every worker"""
    k, L = options.layers, len(model.layers)
    if options.strategy != "top-k" or k == L:
        return None
    lower, rest = model.halves(k)
    size, most = bytes_kept(model, parts), limit(options.cache_gb)
    found = Cache(lower, Model(rest, model.head), options.micro_batch or options.batch_size)
    why_not = _why_not(options, group, size, most) or _unlike(found, model, parts[0])
    why_not = next((why for why in group.gathered(why_not) if why), "")
    what = f"output of the frozen layers, {L - k} of {L}, of all rows: {size / 1e9:.3g} GB"
    if why_not:
        say(f"{what}, is not kept but computed in every epoch: {why_not}")
        return None
    say(f"{what}, is computed once and kept in memory{' by each worker' if group.world > 1 else ''}")
    return found


def bytes_kept(model: Model, parts: Parts) -> int:
    """tokens × width × 4 bytes, of both parts"""
    return 4 * model.backbone.feature_dim * sum(len(row.ids) for part in parts for row in part)


def limit(gigabytes: float | None) -> float:
    """Bytes that may be kept in this process: what was asked for, or a share of what is free, for each worker here"""
    if gigabytes is not None:
        return gigabytes * 1e9
    return SHARE * free_bytes() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def free_bytes() -> float:
    """Memory that is free on this machine, or in this container"""
    import psutil  # comes with accelerate, which reads the language model's file

    free = psutil.virtual_memory().available
    for path in LIMITS:
        if path.is_file() and (word := path.read_text().strip()).isdigit():
            free = min(free, int(word) - psutil.Process().memory_info().rss)
    return max(free, 0)


def _why_not(options: argparse.Namespace, group: Group, size: int, most: float) -> str:
    """What is said where nothing may be kept; else nothing"""
    if options.cache_gb == 0:
        return "--cache-gb 0"
    if options.shard and group.world > 1:
        return "with --shard a worker has a part of each layer only"
    if size > most:
        of = "--cache-gb" if options.cache_gb is not None else f"{SHARE:.0%} of the memory that is free for a worker"
        return f"more than {most / 1e9:.3g} GB, {of}; --cache-gb allows more"
    return ""


def _unlike(cache: Cache, model: LanguageModel, rows: Sequence[Row]) -> str:
    """What is said where both halves, one after the other, are not f on two short rows, or the lower one learns"""
    two = sorted(rows, key=lambda row: len(row.ids))[:2]
    x, _ = chat.collate([(row.ids, row.learned) for row in two])
    try:
        with eval_mode(model):
            h = cache.lower(x)
            if h.requires_grad:
                return "something that learns computes before the last layers"
            with torch.no_grad():
                whole, z = model.backbone(x), cache.model.backbone({**x, "h": h})
        same = torch.allclose(z, whole, rtol=SAME, atol=SAME * float(whole.abs().max()))
    except NOT_CUT:
        same = False
    return "" if same else "between its layers this network hands on more than one vector a token"
