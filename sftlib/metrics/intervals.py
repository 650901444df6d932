"""Intervals for what is claimed of seeds and of examples."""

import math
from dataclasses import dataclass

import numpy as np

from sftlib.inputs import finite, numbers, whole

AT_ONCE = 2**24  # drawn indices in memory: 128 MiB


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; ValueError for NaN, and for ends in the wrong order."""

    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if math.isnan(self.mean) or not self.low <= self.high:
            raise ValueError(f"got {self.mean} in [{self.low}, {self.high}]; expected numbers, the lower end first")

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference of zero lies outside the interval; if not: no difference that we can see."""
        return self.low > 0 or self.high < 0


def mean_interval(values, *, confidence: float = 0.95) -> Interval:
    """values (n,), one per seed -> mean ± t · s/√n (Student's t, n − 1 degrees of freedom)

    ValueError for fewer than two values (one run has no spread) and for NaN (a failed run has no result).
    """
    from scipy.stats import t as student  # imported late: SciPy takes a second

    confidence = finite("confidence", confidence, above=0, below=1)
    v = _seeds(values, "values")
    half = student.ppf((1 + confidence) / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return Interval(v.mean().item(), (v.mean() - half).item(), (v.mean() + half).item())


def paired_interval(a, b, *, confidence: float = 0.95) -> Interval:
    """a (n,), b (n,) of the same seeds -> interval of the mean difference a − b

    Pairing removes what the seeds have in common (the split, the first weights), which is most of the noise.
    """
    a, b = numbers(a, "a"), numbers(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"got {a.shape} and {b.shape}; expected one value per seed in both, in the same order")
    return mean_interval(a - b, confidence=confidence)


def bootstrap_interval(values, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """values (n,), one per example -> percentile interval of their mean over resampled examples"""
    confidence, draws = finite("confidence", confidence, above=0, below=1), whole("draws", draws, least=100)
    v = numbers(values, "values", least=2)
    rng, rows = np.random.default_rng(whole("seed", seed, least=0)), max(1, AT_ONCE // len(v))
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    means = np.concatenate([v[rng.integers(len(v), size=(n, len(v)))].mean(axis=1) for n in sizes])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(v.mean().item(), low.item(), high.item())


def proportion_interval(hits: int, n: int, *, confidence: float = 0.95) -> Interval:
    """hits of n -> Wilson's interval of a proportion (1927, JASA 22, 209–212): honest near 0 and 1, and for few

    The p with |hits/n − p| ≤ z √(p (1 − p) / n).
    """
    from scipy.stats import binomtest  # imported late: SciPy takes a second

    n = whole("n", n)
    hits, level = whole("hits", hits, least=0, most=n), finite("confidence", confidence, above=0, below=1)
    found = binomtest(hits, n).proportion_ci(level, method="wilson")
    return Interval(hits / n, float(found.low), float(found.high))


def _seeds(values, name: str) -> np.ndarray:
    v = numbers(values, name)
    if len(v) < 2:
        raise ValueError(f"got values of shape {v.shape}; expected one number per seed, at least two")
    return v
