"""Measures, as sums and counts that are divided once, and intervals for what is claimed of them."""

from sftlib.metrics.average_precision import AveragePrecision
from sftlib.metrics.boundary import BoundaryIoU, edge_band
from sftlib.metrics.calibration import (
    GroupReliability,
    Reliability,
    expected_calibration_error,
    reliability,
    reliability_by_group,
    temperature,
)
from sftlib.metrics.comparisons import Comparison, compare, hits_interval
from sftlib.metrics.counts import Mean, balanced_accuracy, confusion_matrix, correct
from sftlib.metrics.decoding import align, beam_decode
from sftlib.metrics.error_rate import ErrorRate, edit_distance, greedy_decode
from sftlib.metrics.intervals import Interval, bootstrap_interval, mean_interval, paired_interval, proportion_interval
from sftlib.metrics.measures import Accuracy, Exact, MeanIoU, Metric
from sftlib.metrics.tally import Tally

__all__ = [
    "Accuracy",
    "AveragePrecision",
    "BoundaryIoU",
    "Comparison",
    "ErrorRate",
    "Exact",
    "GroupReliability",
    "Interval",
    "Mean",
    "MeanIoU",
    "Metric",
    "Reliability",
    "Tally",
    "align",
    "balanced_accuracy",
    "beam_decode",
    "bootstrap_interval",
    "compare",
    "confusion_matrix",
    "correct",
    "edge_band",
    "edit_distance",
    "expected_calibration_error",
    "greedy_decode",
    "hits_interval",
    "mean_interval",
    "paired_interval",
    "proportion_interval",
    "reliability",
    "reliability_by_group",
    "temperature",
]
