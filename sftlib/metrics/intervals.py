"""Intervals for what is claimed of seeds and of examples."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference of zero lies outside the interval; if not: no difference that we can see."""
        return not self.low <= 0 <= self.high


def mean_interval(values, *, confidence: float = 0.95) -> Interval:
    """values (n,), one per seed -> mean ± t · s/√n (Student's t, n − 1 degrees of freedom)

    ValueError for fewer than two values: one run has no spread.
    """
    from scipy.stats import t as student  # imported late: SciPy takes a second

    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) < 2:
        raise ValueError(f"got values of shape {v.shape}; expected one number per seed, at least two")
    half = student.ppf((1 + confidence) / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return Interval(v.mean().item(), (v.mean() - half).item(), (v.mean() + half).item())


def paired_interval(a, b, *, confidence: float = 0.95) -> Interval:
    """a (n,), b (n,) of the same seeds -> interval of the mean difference a − b

    Pairing removes what the seeds have in common (the split, the first weights), which is most of the noise.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"got {a.shape} and {b.shape}; expected one value per seed in both, in the same order")
    return mean_interval(a - b, confidence=confidence)


def bootstrap_interval(values, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """values (n,), one per example -> percentile interval of their mean over resampled examples"""
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"got values of shape {v.shape}; expected one number per example, at least one")
    index = np.random.default_rng(seed).integers(len(v), size=(draws, len(v)))
    low, high = np.quantile(v[index].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(v.mean().item(), low.item(), high.item())
