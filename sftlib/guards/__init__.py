"""What keeps a run from a wrong number: a call, a first batch, a state that cannot be meant are refused."""

from sftlib.guards.call import (
    batch_sizes,
    check_call,
    check_functions,
    check_loop,
    check_metric,
    largest_rate,
    validated,
    warn_of_freezing,
    warn_of_rate_0,
    warn_of_redrawing,
)
from sftlib.guards.first_batch import Trial, require_means
from sftlib.guards.watch import Watch

__all__ = [
    "Trial",
    "Watch",
    "batch_sizes",
    "check_call",
    "check_functions",
    "check_loop",
    "check_metric",
    "largest_rate",
    "require_means",
    "validated",
    "warn_of_freezing",
    "warn_of_rate_0",
    "warn_of_redrawing",
]
