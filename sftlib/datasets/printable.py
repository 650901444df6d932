"""Names of files as text that may be printed: whatever bytes they hold, no line ends and no terminal obeys."""

import os
from pathlib import PurePath

_JOINERS = "\u200c\u200d"  # part of Persian and Indic spelling and of emoji


def printable(name: str) -> str:
    """name -> the same; bytes that are no text, control characters, marks of direction as escapes (\\x1b, \\u202e)"""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(path: PurePath) -> str:
    """the path, printable, with / between folders"""
    return printable(path.as_posix())
