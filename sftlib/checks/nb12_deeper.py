"""Checkers of notebook 12, going deeper."""

import itertools

import numpy as np
import torch

from sftlib.checks import Wrong, checker, expect, require

PATHS = (
    ((3, 1, 1, 0, 1, 2, 2, 0, 2), 4), ((0, 0, 0), 2), ((2, 2, 2), 4), ((1, 0, 2, 0, 0, 1, 1), 3),
    ((0, 3, 3, 0, 3, 1, 3), 5), ((4,), 5), ((1, 2, 1, 2), 3),
)  # fmt: skip
BLANKS = "-_–—−·∅øε0 ."
TRANSCRIPTS = ((1,), (1, 1), (1, 2, 1), (3, 3, 3), (2, 1, 1, 2, 2, 4), (5, 5, 1, 5, 5), (1, 2, 3, 4, 5, 6, 7))


@checker("12.greedy")
def _greedy(answer):
    """log p (T, K) -> the classes of the best path, repeats merged, then blanks left out"""
    for seed, (path, k) in enumerate(PATHS):
        draw = torch.Generator().manual_seed(seed)
        noise = torch.rand(len(path), k, generator=draw)
        ahead = (3.0, 1.0)[seed % 2]  # by 1 the likeliest class has mostly less than one half
        log_p = (noise + ahead * torch.nn.functional.one_hot(torch.tensor(path), k)).log_softmax(-1)
        want = _merged(path)
        got = _units(answer(log_p))
        if got != want:
            made = "; or: ".join(why for wrong, why in _of_paths(path, k) if got == wrong and wrong != want)
            shown = f"the path {list(path)}: got {got}, expected {want}"
            raise Wrong(f"{made} ({shown})" if made else shown)


def _merged(path):
    return [k for k, group in itertools.groupby(path) if k != 0]


def _units(value):
    """What was written as a list of whole numbers; Wrong for anything else"""
    try:
        units = torch.as_tensor(value).flatten().tolist() if len(value) else []
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"got {type(value).__name__}; expected a list of classes") from None
    if any(u != int(u) for u in units):
        raise Wrong(f"got {units}; expected classes, whole numbers")
    return [int(u) for u in units]


def _of_paths(path, k):
    dropped = [u for u in path if u != 0]
    merged = [u for u, _ in itertools.groupby(path)]
    return [
        ([u for u, _ in itertools.groupby(dropped)], "blanks were dropped before repeats were merged: 1 – 1 is two"),
        (dropped, "repeats were not merged"),
        (merged, "blanks were not dropped: class 0 writes nothing"),
        (
            [u for t, u in enumerate(path) if u != path[t - 1] and u != 0],
            "the first frame has none before it, but `path[-1]` is the last one",
        ),
        (list(path), "this is the path itself: merge repeats, then drop blanks"),
        (list(dict.fromkeys(dropped)), "each class is written once at most; only neighbours merge"),
        (sorted(set(dropped)), "each class is written once, in the order of its number; only neighbours merge"),
        ([u - 1 for u in _merged(path)], "classes are counted from 0, and blank is one of them: nothing to subtract"),
        ([u for u in merged if u != k - 1], "blank is class 0, not the last one"),
        (_merged(path)[::-1], "this is backwards"),
        ([v for u, v in itertools.pairwise(path) if v not in (0, u)], "the first frame is missing: it repeats none"),
        (_merged(path[:-1]), "the last frame is missing"),
    ]


@checker("12.paths")
def _paths(answer):
    """all paths of four frames that read "aa", as texts"""
    answer = answer() if callable(answer) else answer
    answer = answer.tolist() if isinstance(answer, np.ndarray) else answer
    if isinstance(answer, str) or not isinstance(answer, list | tuple | set | frozenset):
        raise Wrong(f"got a {type(answer).__name__}; expected a list of texts such as ['a--a']")
    if not all(isinstance(path, str) for path in answer):
        raise Wrong("expected texts of four characters, a for the unit and - for the blank")
    given = ["".join("-" if c in BLANKS else c for c in path.strip().lower()) for path in answer]
    for path in given:
        require(len(path) == 4, f"{path!r} has {len(path)} characters; a path has one for each of four frames")
        require(set(path) <= {"a", "-"}, f"{path!r} holds something else than a and -")
        read = "".join(c for c, _ in itertools.groupby(path) if c != "-")
        require(read == "aa", f"{path!r} reads {read!r}, for repeats merge before blanks are dropped")
    if twice := [path for path in set(given) if given.count(path) > 1]:
        raise Wrong(f"{twice[0]!r} stands there twice")
    every = {"".join(p) for p in itertools.product("a-", repeat=4)}
    missing = sum("".join(c for c, _ in itertools.groupby(p) if c != "-") == "aa" for p in every) - len(given)
    require(missing == 0, f"each of these {len(given)} reads 'aa', but {missing} more do: some begin or end in a blank")


@checker("12.frames_needed")
def _frames_needed(answer):
    """y, a list of units -> the fewest frames with which a path reads it"""
    for y in TRANSCRIPTS:
        got = answer(list(y))
        expect(f"y = {list(y)}", got, _fewest(y), known=_of_needs(y))


def _fewest(y):
    """The shortest path there is: a blank is put only where the next unit would merge with the one before"""
    path = []
    for unit in y:
        path += [0, unit] if path[-1:] == [unit] else [unit]
    return len(path)


def _of_needs(y):
    n, twice = len(y), sum(a == b for a, b in itertools.pairwise(y))
    return [
        (n, "two equal neighbours need a blank between them, or they merge"),
        (twice, "these are the blanks alone; each unit needs a frame too"),
        (2 * n + 1, "blanks *may* stand around every unit; only equal neighbours need one"),
        (2 * n - 1, "a blank between different neighbours may be left out"),
        (n + n - len(set(y)), "only equal *neighbours* merge: 1 2 1 needs three frames"),
        (len(set(y)), "each unit needs a frame each time it is said"),
        (n - twice, "this merges equal neighbours; they need more frames, not fewer"),
        (n + 2 * twice, "one blank is enough between two equal neighbours"),
        (n + (twice > 0), "each pair of equal neighbours needs its own blank"),
        (n + twice + 1, "no blank is needed at the end or at the beginning"),
        (n + twice + 2, "no blanks are needed at the ends"),
        (n + twice - 1, "one frame too few: three units with a blank between two of them are four"),
    ]
