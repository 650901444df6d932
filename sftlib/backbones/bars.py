"""The bars of progress that transformers draws while it reads and writes weights: off where they say nothing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """Within, transformers draws none; afterwards as before"""
    from transformers.utils import logging  # takes seconds

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
