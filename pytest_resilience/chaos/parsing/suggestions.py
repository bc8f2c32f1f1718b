"""What somebody may have meant by a name that is none: "did you mean"."""

from __future__ import annotations

import difflib
import itertools

from collections.abc import Iterable


__all__ = ["nearest"]

_LONGEST_NAME = 100
_LEAST_PART = 4  # letters of a name that somebody has remembered
_MOST_NAMES = 1000


def nearest(name: object, known: Iterable[str]) -> str:
    """' (did you mean …?)' or nothing."""
    # Comparing takes the square of the length.
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return ""
    short = (each for each in known if len(each) <= _LONGEST_NAME)
    among = list(itertools.islice(short, _MOST_NAMES))
    close = difflib.get_close_matches(name, among, n=1)
    if not close and len(name) >= _LEAST_PART:
        close = [each for each in among if name in each]
    return f" (did you mean {close[0]!r}?)" if close else ""
