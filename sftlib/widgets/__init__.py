"""Widgets: a figure redrawn in place, an explorer of a pure function, a panel around a training run, a box to talk in.

They hold no mathematics. None of them prints, uses pyplot or captures output: an error in a callback is shown in the
widget, kept in ``.error`` and raised, so that a person, a test and pytest --nbval all see it.
"""

from sftlib.widgets.chat import ChatBox
from sftlib.widgets.figure import Explorer, FigureView
from sftlib.widgets.live import LiveRun

__all__ = ["ChatBox", "Explorer", "FigureView", "LiveRun"]
