"""The course's one rule for comparisons: paired, and corrected for how many of them a table makes.

1. Paired. Two classifiers that saw the same pictures are compared picture by picture: of the rows d_i = a_i − b_i, hits
   minus hits, each −1, 0 or 1. Otherwise seed by seed, a row each. What all have in common (hard pictures, a lucky
   split) leaves the difference.
2. Corrected. Of k intervals of 95 % some k/20 exclude a difference that is not there. So each of the k is one of
   1 − 0.05/k: then the chance that *any* of them errs is at most k · 0.05/k, however they depend on one another
   (Bonferroni's inequality; Dunn 1961, Multiple comparisons among means, JASA 56, 52–64). Pairs share their models and
   their pictures, so nothing that asks for independence would do.
3. An interval with 0 in it: no difference that we can see. That is no proof that there is none.

Seeds: Student's t of the differences (paired_interval). Where they are all the same there is no spread to judge by, and
nothing is called visible. Hits: two pictures are added first, one that only a gets right and one that only b does; this
keeps the interval honest where they differ on few (Bonett and Price 2012, Adjusted Wald confidence interval for a
difference of binomial proportions based on paired data, J. Educ. Behav. Stat. 37, 479–488). It agrees with McNemar's
exact test but for borderline cases; Dietterich 1998, Approximate statistical tests for comparing supervised
classification learning algorithms, is why the pairs are needed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sftlib.inputs import finite, numbers, tensor, whole
from sftlib.metrics.intervals import Interval, paired_interval

FEWEST = {"pictures": 10, "seeds": 3}  # two seeds agree by chance, and t with one degree of freedom sees nothing


@dataclass(frozen=True)
class Comparison:
    """Mean difference first − second, with an interval that holds together with all others of its table."""

    first: str
    second: str
    interval: Interval
    n: int
    unit: str  # what was paired: "pictures" or "seeds", or what was given

    @property
    def visible(self) -> bool:
        """Whether there is a difference that we can see: 0 lies outside the interval."""
        return self.interval.excludes_zero

    def __str__(self) -> str:
        seen = "" if self.visible else "no difference that we can see, "
        return f"{self.first} − {self.second}: {seen}{self.interval} over {self.n} {self.unit}"


def compare(
    table: Mapping[str, object], *, against: str | None = None, comparisons: int | None = None,
    confidence: float = 0.95, unit: str | None = None,
) -> list[Comparison]:  # fmt: skip
    """table name -> values (n,) -> the difference of every pair of rows, or of each one and `against`

    values: hits (0 or 1, or True and False), one per picture of the same test set in the same order; or one accuracy
    in [0, 1] per seed, the same seeds in the same order (any other measure too). Intervals are simultaneous: with the
    probability `confidence` all of them hold. comparisons: how many a larger table makes, of which this is a part;
    without it, those that are returned. unit: what the n values are of, where that is neither pictures nor seeds,
    such as "texts" or "sounds"; it is a name alone, hits are told from other values by what they are. ValueError for
    the classes that were said, in place of hits.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"got a {type(table).__name__}; expected a table, name -> values, as in {{'probe': hits, …}}")
    if len(table) < 2 or (against is not None and against not in table):
        names = ", ".join(map(str, table))
        raise ValueError(f"got rows {names or 'none'} and against={against!r}; expected two at least, and one of these")
    rows = {name: numbers(values, f"values of {name!r}") for name, values in table.items()}
    kind = _unit(rows)
    if kind == "seeds" and unit is None:
        _refuse_class_numbers(table, rows)
    pairs = [(name, against) for name in rows if name != against] if against is not None else combinations(rows, 2)
    pairs = list(pairs)
    k = len(pairs) if comparisons is None else whole("comparisons", comparisons, least=len(pairs))
    each = 1 - (1 - finite("confidence", confidence, above=0, below=1)) / k
    interval = hits_interval if kind == "pictures" else _seeds_interval
    n = len(next(iter(rows.values())))
    return [Comparison(a, b, interval(rows[a], rows[b], confidence=each), n, unit or kind) for a, b in pairs]


def _refuse_class_numbers(table: Mapping[str, object], rows: Mapping[str, np.ndarray]) -> None:
    """ValueError where all values are whole numbers, as many as there could be pictures: predictions, not hits"""
    n = len(next(iter(rows.values())))
    if n >= FEWEST["pictures"] and not any(tensor(values).is_floating_point() for values in table.values()):
        raise ValueError(
            f"got whole numbers up to {max(v.max() for v in rows.values()):g}, such as the numbers of classes; "
            "expected hits, whether each answer is right: said == y. Counts that are meant as they are need a unit=…"
        )


def hits_interval(a, b, *, confidence: float = 0.95) -> Interval:
    """a (n,), b (n,) hits on the same pictures, 0 or 1 -> interval of the difference of the two accuracies

    d̄ ± z √((Σ d² + 2) / m − d̄²) / √m  with d = a − b, m = n + 2 and d̄ = Σ d / m: the two added pictures, +1 and −1.
    """
    from scipy.stats import norm  # imported late: SciPy takes a second

    z = norm.ppf((1 + finite("confidence", confidence, above=0, below=1)) / 2)
    a, b = numbers(a, "a"), numbers(b, "b")
    if a.shape != b.shape or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError(f"got {a.shape} and {b.shape}; expected hits, 0 or 1, on the same pictures in the same order")
    d = np.concatenate([a - b, [1.0, -1.0]])
    half = z * d.std() / math.sqrt(len(d))
    low, high = np.clip([d.mean() - half, d.mean() + half], -1, 1).tolist()
    return Interval((a - b).mean().item(), low, high)


def _seeds_interval(a: np.ndarray, b: np.ndarray, *, confidence: float) -> Interval:
    d = a - b
    if np.ptp(d) <= 1e-9 * np.abs(d).max():  # equal but for rounding: no spread
        return Interval(d.mean().item(), min(d.mean().item(), 0.0), max(d.mean().item(), 0.0))
    return paired_interval(a, b, confidence=confidence)


def _unit(rows: Mapping[str, np.ndarray]) -> str:
    """What the values stand for; ValueError where rows differ in length, in kind, or are too short"""
    lengths = {name: len(v) for name, v in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"got values of lengths {lengths}; expected the same pictures, or the same seeds, in all rows")
    hits = {name: bool(np.isin(v, (0, 1)).all()) for name, v in rows.items()}
    n = next(iter(lengths.values()))
    unit = "pictures" if all(hits.values()) and n >= FEWEST["pictures"] else "seeds"
    if n < FEWEST[unit]:
        raise ValueError(f"got {n} values a row; expected at least {FEWEST[unit]} {unit}: run more seeds")
    return unit
