"""The doctor finds the common mistakes of a training set-up and says how to mend each, without changing anything."""

from sftlib.doctor.examine import CODES, diagnose
from sftlib.doctor.report import Finding, Findings

__all__ = ["CODES", "Finding", "Findings", "diagnose"]
