"""Measures of a classifier, as sums and counts that are divided once, and intervals for what is claimed of them."""

from sftlib.metrics.calibration import expected_calibration_error
from sftlib.metrics.comparisons import Comparison, compare, hits_interval
from sftlib.metrics.counts import Mean, balanced_accuracy, confusion_matrix, correct
from sftlib.metrics.intervals import Interval, bootstrap_interval, mean_interval, paired_interval

__all__ = [
    "Comparison",
    "Interval",
    "Mean",
    "balanced_accuracy",
    "bootstrap_interval",
    "compare",
    "confusion_matrix",
    "correct",
    "expected_calibration_error",
    "hits_interval",
    "mean_interval",
    "paired_interval",
]
