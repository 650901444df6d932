"""Which pictures must stay in one split: copies of one file, and what the user says belongs together."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sftlib.datasets.folder_walk import Found, Problems
from sftlib.datasets.printable import printable


def number_groups(
    found: list[Found], groups: Callable[[Path], Hashable] | None, problems: Problems
) -> list[Hashable] | None:
    """What groups says of each picture's path below root; in two given splits the same group is a problem"""
    if groups is None:
        return None
    keys = [_key(groups, f.path.relative_to(problems.root)) for f in found]
    first: dict[Hashable, Found] = {}
    for f, key in zip(found, keys, strict=True):
        other = first.setdefault(key, f)
        if other.split != f.split:
            problems.add(f.path, f"group {printable(repr(key))} is in {other.split} too, with {other.name}")
    return keys


def _key(groups: Callable[[Path], Hashable], path: Path) -> Hashable:
    try:
        key = groups(path)
        hash(key)
    except Exception as error:  # whatever a user's function does
        raise ValueError(
            f"groups={groups!r:.80} failed for {printable(str(path))!r}: {type(error).__name__}: {error}; expected a "
            "function of a picture's path below the folder that returns the name or number of its group"
        ) from error
    if key is None:
        raise ValueError(
            f"groups gave None for {printable(str(path))!r}; expected the name or number of its group, and for one "
            "that has none the path itself"
        )
    return key


def rows_kept_together(digests: Sequence[bytes], keys: Sequence[Hashable] | None) -> Tensor:
    """digests (M), keys (M) -> numbers (M,): the same for rows with a common digest or key, also by way of others"""
    n = len(digests)
    if n == 0:
        return torch.zeros(0, dtype=torch.long)
    links = [(i, j) for names in (digests, keys or ()) for i, j in enumerate(_first_with_same(names))]
    i, j = np.array(links).T
    _, numbers = connected_components(coo_matrix((np.ones(len(links)), (i, j)), shape=(n, n)), directed=False)
    return torch.from_numpy(numbers).long()


def _first_with_same(names: Sequence[Hashable]) -> list[int]:
    first: dict[Hashable, int] = {}
    return [first.setdefault(name, i) for i, name in enumerate(names)]
