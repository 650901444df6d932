"""Measures of a classifier, as sums and counts that are divided once, and intervals for what is claimed of them."""

from sftlib.metrics.calibration import expected_calibration_error
from sftlib.metrics.counts import Mean, balanced_accuracy, confusion_matrix, correct
from sftlib.metrics.intervals import Interval, bootstrap_interval, mean_interval, paired_interval

__all__ = [
    "Interval",
    "Mean",
    "balanced_accuracy",
    "bootstrap_interval",
    "confusion_matrix",
    "correct",
    "expected_calibration_error",
    "mean_interval",
    "paired_interval",
]
