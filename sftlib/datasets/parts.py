"""Parts of what was loaded: a test part where the folder has none, and fewer pictures where time is short."""

from dataclasses import replace

import torch

from sftlib.datasets.splits import Splits, check_seed, stratified_split
from sftlib.inputs import whole


def with_test(data: Splits, *, seed: int = 0) -> Splits:
    """The same; where the test part is empty, half of the validation pictures become it, drawn by class

    ValueError where there are fewer than two of them.
    """
    check_seed(seed)
    if len(data.test):
        return data
    if len(data.val) < 2:
        raise ValueError(f"got {len(data.val)} validation pictures and no test pictures; expected two at least")
    generator = torch.Generator().manual_seed(seed)
    val, test = stratified_split(data.val.labels, (0.5, 0.5), generator)
    return replace(data, val=data.val.subset(val), test=data.val.subset(test))


def at_most(data: Splits, count: int, *, seed: int = 0) -> Splits:
    """The same, or of more pictures than ``count`` about so many, drawn by class in each part"""
    count = whole("count", count)
    check_seed(seed)
    parts = {name: getattr(data, name) for name in ("train", "val", "test")}
    share = count / sum(map(len, parts.values()))
    if share >= 1:
        return data
    generator = torch.Generator().manual_seed(seed)
    return replace(data, **{
        name: part.subset(stratified_split(part.labels, (share, 1 - share), generator)[0]) if len(part) else part
        for name, part in parts.items()
    })  # fmt: skip
