"""Texts in messages: short, safe to show, and with what somebody may have meant."""

from __future__ import annotations

import difflib
import itertools
import re

from collections.abc import Iterable
from typing import Any


__all__ = ["counted", "inline", "nearest", "printable", "shortened"]

_LONGEST = 200  # characters of a value
# Of a name that may be meant: comparing takes the square of the length.
_LONGEST_MEANT = 100
_LEAST_PART = 4  # letters of a name that somebody has remembered
_MOST_MEANT = 1000  # names
# A line of a CI log that begins so is a command: of GitHub Actions, and of Azure Pipelines.
_COMMAND = re.compile(r"(?m)^(\s*)(::|##\[|##vso\[)")


def shortened(value: Any) -> str:
    """`repr(value)` for a message: at most 200 characters, and never an exception."""
    try:
        text = repr(value)
    except Exception:  # an int of more digits than Python writes; an object that cannot say
        return f"<{type(value).__name__} that cannot be shown>"
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}…{text[-half:]}"


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`: of what has a plural with an s."""
    return f"{number} {what}{'s' * (number != 1)}"


def inline(text: str) -> str:
    """`text` as it is, or its `repr` if it is long or has more than one line."""
    return text if text.isprintable() and len(text) <= _LONGEST else shortened(text)


def nearest(name: object, known: Iterable[str]) -> str:
    """What somebody may have meant by a name that is none: ' (did you mean …?)', or nothing."""
    if not isinstance(name, str) or len(name) > _LONGEST_MEANT:
        return ""
    short = (each for each in known if len(each) <= _LONGEST_MEANT)
    among = list(itertools.islice(short, _MOST_MEANT))
    close = difflib.get_close_matches(name, among, n=1)
    if not close and len(name) >= _LEAST_PART:
        close = [each for each in among if name in each]
    return f" (did you mean {close[0]!r}?)" if close else ""


def printable(text: str) -> str:
    """`text` in lines of a terminal or a log, where it can do nothing but be read.

    What is not printable is written as Python writes it, and what a CI system would take for a
    command is taken apart.
    """
    if not text.isprintable():
        shown = (each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)
        text = "".join(shown)
    return _COMMAND.sub(r"\1·\2", text)
