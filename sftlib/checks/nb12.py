"""Checkers of notebook 12."""

import itertools

import numpy as np
import torch

from sftlib.checks import Wrong, checker, expect, numeric, require

# N, T, D, lengths: a whole row, a row of one frame, rows in between; N != T
STATES = ((3, 7, 5, (7, 1, 4)), (2, 5, 3, (2, 5)), (1, 4, 2, (3,)), (5, 2, 3, (1, 2, 1, 2, 1)))
BANDS = ((300.0, 500.0, 900.0), (0.0, 40.0, 120.0), (4100.0, 4700.0, 5000.0))  # low, peak, high
PATHS = (
    ((1, 1, 0, 1, 2, 2, 0), 3), ((0, 0, 0), 2), ((2, 2, 2), 4), ((1, 0, 2, 0, 0, 1, 1), 3), ((0, 3, 3, 0, 3, 1, 3), 5),
    ((4,), 5), ((1, 2, 1, 2), 3),
)  # fmt: skip
BLANKS = "-_–—−·∅øε0 ."


@checker("12.last_state")
def _last_state(answer):
    """h (N, T, D), lengths (N,) -> (N, D), the state at the last frame of each"""
    for seed, (n, t, d, lengths) in enumerate(STATES):
        h = torch.randn(n, t, d, generator=torch.Generator().manual_seed(seed))
        own = torch.tensor(lengths)
        want = torch.stack([h[i, k - 1] for i, k in enumerate(lengths)])
        try:
            got = answer(h.clone(), own.clone())
        except IndexError as error:
            why = f"frames count from 0: a sound of {t} frames has its last at {t - 1}"
            raise Wrong(f"{why} ({type(error).__name__}: {error})") from None
        expect(f"{n} sounds of {t} frames, lengths {list(lengths)}", got, want, known=_of_states(h, own))


def _of_states(h, lengths):
    n, t, _ = h.shape
    rows, inside = torch.arange(n), torch.arange(t)[None, :] < lengths[:, None]
    mean = (h * inside[..., None]).sum(1) / lengths[:, None]
    return [
        (h[:, -1], "this is the state behind the padding, which is that of no sound but the longest"),
        (h[:, 0], "this is the first state, which has heard one frame"),
        (h[rows, lengths % t], "a sound of n frames has its last at n − 1, counted from 0"),
        (h[rows, (lengths - 2) % t], "this is the last state but one: n − 1, not n − 2"),
        (h[rows, lengths.max() - 1], "this takes the longest one's end for all; each sound has its own"),
        (h[rows, lengths.min() - 1], "this takes the shortest one's end for all; each sound has its own"),
        (mean, "this is the mean over the sound's frames, not its last state"),
        (h.mean(1), "this is the mean over all frames, padding among them"),
        ((h * inside[..., None]).sum(1), "this is the sum over the sound's frames"),
        (h.amax(1), "this is the largest over all frames"),
        (h[:, int(lengths[0]) - 1], "this takes the first sound's end for all; each has its own"),
    ]


@checker("12.mel_filter")
def _mel_filter(answer):
    """hertz (F,), low, peak, high -> weights (F,) of a triangle of area 1"""
    for low, peak, high in BANDS:
        hertz = torch.linspace(0, 8000, 1601, dtype=torch.float64)  # every 5 Hz: the corners are among them
        want = torch.tensor([_height(x, low, peak, high) for x in hertz.tolist()], dtype=torch.float64)
        got = 1000 * numeric("weights", answer(hertz.clone(), low, peak, high))  # tells mistakes from rounding
        expect(f"triangle {low:g}, {peak:g}, {high:g} Hz, in units of 1 / kHz", got, 1000 * want,
               tolerance=2e-4, known=[(1000 * v, why) for v, why in _of_filters(hertz, low, peak, high)])  # fmt: skip
        area = torch.trapezoid(got, hertz).item() / 1000
        require(abs(area - 1) < 1e-3, f"the area of triangle {low:g}, {peak:g}, {high:g} is {area:.4g}; expected 1")


def _height(x, low, peak, high):
    side = (x - low) / (peak - low) if x <= peak else (high - x) / (high - peak)
    return max(0.0, side) * 2 / (high - low)


def _of_filters(hertz, low, peak, high):
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    triangle, area = torch.minimum(rising, falling).clamp(min=0), (high - low) / 2
    inside = ((hertz >= low) & (hertz <= high)).double()
    middle = (low + high) / 2
    even = (1 - (hertz - middle).abs() / area).clamp(min=0)
    return [
        (triangle, "its height is 1; its area must be: divide by (high − low) / 2"),
        (triangle / (high - low), "the area of a triangle of height 1 is half of high − low"),
        (triangle * area, "divide by the area, do not multiply"),
        (triangle / triangle.sum(), "the weights add up to 1, but the area counts Hz: divide by (high − low) / 2"),
        (torch.minimum(rising, falling) / area, "outside the triangle the weights are negative; nothing lies below 0"),
        (torch.maximum(rising, falling).clamp(min=0) / area, "of the two sides the smaller one counts, not the larger"),
        (rising.clamp(min=0) / area, "this rises for ever; behind the peak the other side counts"),
        (rising.clamp(0, 1) / area, "this rises and stays; behind the peak the other side counts"),
        (falling.clamp(0, 1) / area, "before the peak the rising side counts"),
        (inside / (high - low), "this is a box: the sides rise and fall"),
        (even / area, "this peaks in the middle between low and high, not at `peak`"),
        (triangle.sqrt() / area, "the sides are straight; this takes the root"),
        (triangle**2 / area, "the sides are straight; this squares them"),
        (triangle / (peak - low), "divide by half of high − low, the whole width"),
    ]


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
        (_merged(path[1:]), "the first frame is missing"),
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


@checker("12.likeness")
def _likeness(answer):
    """z (N, D) -> mean cosine over pairs of different rows"""
    for n, d, seed in ((5, 3, 1), (7, 11, 2), (2, 5, 3)):
        draw = torch.Generator().manual_seed(seed)
        z = (torch.randn(n, d, generator=draw) + 0.5) * torch.logspace(-1, 1, n)[:, None]
        rows = z.double().tolist()
        pairs = [_cosine(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
        expect(f"{n} rows of {d}", answer(z.clone()), sum(pairs) / len(pairs), tolerance=1e-4, known=_of_cosines(z))
    same = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]])
    expect("three rows in one direction", answer(same.clone()), 1.0, tolerance=1e-4)


def _cosine(a, b):
    def length(v):
        return sum(x * x for x in v) ** 0.5

    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def _of_cosines(z):
    z, n = z.double(), len(z)
    unit = z / z.norm(dim=1, keepdim=True)
    cosines, raw, columns = unit @ unit.T, z @ z.T, z / z.norm(dim=0)
    apart = n * (n - 1)
    centred = (z - z.mean(0)) / (z - z.mean(0)).norm(dim=1, keepdim=True)
    return [
        (cosines.mean(), "each row is compared with itself too: that is 1, and no pair of different ones"),
        ((cosines.sum() - n) / n**2, "without the diagonal there are N (N − 1) entries, not N²"),
        ((cosines.sum() - n) / 2, "this is the sum over the pairs, not their mean"),
        (cosines.sum() - n, "this is a sum, not a mean"),
        ((cosines.sum() - n) / apart / 2, "each pair stands twice in the sum and twice in the count: no half"),
        ((cosines.sum() - n) / (apart / 2), "each pair stands twice: divide by N (N − 1), or take one half of them"),
        ((raw.sum() - raw.trace()) / apart, "these are products, not cosines: divide by the lengths of the rows"),
        (raw.mean(), "these are products, not cosines: divide by the lengths of the rows"),
        (
            ((columns @ columns.T).sum() - (columns @ columns.T).trace()) / apart,
            "the columns were scaled, not the rows",
        ),
        (1 - (cosines.sum() - n) / apart, "this is one minus the cosine, a distance"),
        (((cosines.abs()).sum() - n) / apart, "a cosine may be negative; this takes its size"),
        ((cosines**2).sum().sub(n) / apart, "these are squares of cosines"),
        ((centred @ centred.T).sum().sub(n) / apart, "the mean was taken off first: that is a correlation"),
        (cosines[0, 1], "this is one pair; there are more"),
        (torch.arccos(cosines.clamp(-1, 1)).fill_diagonal_(0).sum() / apart, "these are angles, not cosines"),
    ]
