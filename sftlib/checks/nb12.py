"""Checkers of notebook 12."""

import torch

from sftlib.checks import Wrong, checker, expect, numeric, pair, require

# N, T, D, lengths: a whole row, a row of one frame, rows in between; N != T
STATES = ((3, 7, 5, (7, 1, 4)), (2, 5, 3, (2, 5)), (1, 4, 2, (3,)), (5, 2, 3, (1, 2, 1, 2, 1)))
GRADIENTS = (  # shapes, their norm, the longest that is allowed
    (((3, 5), (5,), (2, 7)), 9.0, 3.0), (((7,), (2, 3)), 0.5, 3.0), (((5, 2),), 4.0, 0.5), (((4, 3), (6,)), 0.2, 0.1),
    (((11,), (3,), (1,)), 2.0, 2.0),
)  # fmt: skip
BANDS = (  # low, peak, high, and the distance of the frequencies in Hz: the corners are among them, but in the last
    (300.0, 500.0, 900.0, 5), (0.0, 40.0, 120.0, 5), (4100.0, 4700.0, 5000.0, 5), (313.0, 531.0, 907.0, 40),
)  # fmt: skip


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
    for low, peak, high, apart in BANDS:
        hertz = torch.arange(0, 8001, apart, dtype=torch.float64)
        want = torch.tensor([_height(x, low, peak, high) for x in hertz.tolist()], dtype=torch.float64)
        got = 1000 * numeric("weights", answer(hertz.clone(), low, peak, high))  # tells mistakes from rounding
        known = [(1000 * v, why) for v, why in _of_filters(hertz, low, peak, high)]
        what = f"triangle {low:g}, {peak:g}, {high:g} Hz, in units of 1 / kHz"
        expect(what, got, 1000 * want, tolerance=4e-5 * apart, known=known)  # a sum over the given ones is near enough


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
        (triangle / triangle.max() / area, "no frequency need lie at `peak`: the largest weight is not the height"),
        (triangle / (peak - low), "divide by half of high − low, the whole width"),
    ]


@checker("12.clipped")
def _clipped(answer):
    """gradients, a list of tensors, and a longest norm -> the list, scaled to it where it is longer"""
    for seed, (sizes, size, longest) in enumerate(GRADIENTS):
        draw = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in sizes]
        norm = sum(v * v for g in drawn for v in g.flatten().tolist()) ** 0.5
        gradients = [g * (size / norm) for g in drawn]  # their norm is `size` now
        want = [g * min(1.0, longest / size) for g in gradients]
        what = f"norm {size:g}, longest {longest:g}"
        got = answer([g.clone() for g in gradients], longest)
        if isinstance(got, torch.Tensor) and len(gradients) > 1 or not isinstance(got, list | tuple | torch.Tensor):
            raise Wrong(f"{what}: got a {type(got).__name__}; expected a list of as many tensors")
        require(len(got) == len(want), f"{what}: got {len(got)} tensors; expected {len(want)}, one for each gradient")
        known = [(_flat(v), why) for v, why in _of_gradients(gradients, longest)]
        shapes = [tuple(numeric(what, g).shape) for g in got]
        require(shapes == list(sizes), f"{what}: got shapes {shapes}; expected {list(sizes)}")
        expect(what, _flat([numeric(what, g) for g in got]), _flat(want), tolerance=1e-4, known=known)
    zero = answer([torch.zeros(3), torch.zeros(2, 2)], 1.0)
    expect("gradients that are 0", _flat([numeric("gradients", g) for g in zero]), torch.zeros(7))


def _flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def _of_gradients(gradients, longest):
    norms = [g.norm() for g in gradients]
    together = _flat(gradients).norm()

    def scaled(norm):
        return [g * min(1.0, float(longest / norm)) for g in gradients]

    return [
        ([g * min(1.0, float(longest / n)) for g, n in zip(gradients, norms, strict=True)],
         "each tensor was clipped on its own, which turns the gradient; one norm is taken over all of them"),
        ([g.clamp(-longest, longest) for g in gradients], "each number was clipped, which turns the gradient: scale"),
        ([g * longest / together for g in gradients], "a gradient that is shorter stays as it is"),
        ([g / together for g in gradients], "this makes the norm 1; it should be `longest`, where it was longer"),
        (gradients, "nothing is scaled where the norm is longer"),
        (scaled(sum(norms)), "this adds up the norms; the norm over all is the root of the sum of their squares"),
        (scaled(max(norms)), "this is the longest tensor's norm; take it over all of them"),
        (scaled(together**2), "this is the square of the norm: the root is missing"),
        (scaled(_flat(gradients).abs().sum()), "this norm adds up sizes; the Euclidean one squares them"),
        (scaled(_flat(gradients).abs().max()), "this is the largest entry, not the Euclidean norm"),
        (scaled(_flat(gradients).square().mean().sqrt()), "this is the root of the mean square, not of the sum"),
        ([g * max(1.0, float(longest / together)) for g in gradients], "this lengthens short ones; clip long ones"),
        ([g * float(together / longest) if together > longest else g for g in gradients],
         "this is upside down: it makes long gradients longer"),
    ]  # fmt: skip


@checker("12.range")
def _range(answer):
    """accuracies (P, S) of P people, S draws each -> (lowest, highest) of the means over the draws"""
    for p, s, seed in ((4, 5, 1), (3, 7, 2), (2, 3, 3)):
        draw = torch.Generator().manual_seed(seed)
        table = torch.rand(p, s, generator=draw, dtype=torch.float64)
        means = [sum(row) / s for row in table.tolist()]
        got = pair(answer(table.clone()), "two numbers: (lowest, highest)")
        known = [(torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in some]), why)
                 for some, why in _of_ranges(table)]  # fmt: skip
        got = torch.stack([numeric("lowest and highest", v) for v in got])
        expect(f"{p} people, {s} draws each", got, [min(means), max(means)], known=known)


def _of_ranges(table):
    means, draws, every = table.mean(1), table.mean(0), table.flatten()
    deviation = "this is mean and deviation; a range is lowest and highest"
    return [
        ((every.min(), every.max()), "this is the range over all rows: the draws of one voice are averaged first"),
        ((draws.min(), draws.max()), "this averages over the voices and takes the range over the draws: turn it round"),
        ((means.max(), means.min()), "the lowest comes first"),
        ((means.mean() - means.std(), means.mean() + means.std()), deviation),
        ((means.mean(), means.std()), deviation),
        ((means.argmin(), means.argmax()), "these are places, not accuracies"),
        ((means[0], means[-1]), "these are the first and the last person, not the lowest and the highest"),
        ((table.median(1).values.min(), table.median(1).values.max()), "these are medians over the draws, not means"),
        ((table.min(1).values.min(), table.min(1).values.max()), "this takes each one's worst draw, not the mean"),
        ((table.max(1).values.min(), table.max(1).values.max()), "this takes each one's best draw, not the mean"),
        ((table.min(1).values.mean(), table.max(1).values.mean()), "this averages their own ranges: average first"),
        ((table.sum(1).min(), table.sum(1).max()), "these are sums over the draws, not means"),
        ((means.min(), means.max() - means.min()), "the second is the highest, not how far it is from the lowest"),
    ]  # fmt: skip


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
