"""How far an exploration goes, as flags, marks and profiles say it in texts and numbers."""

from __future__ import annotations

import re

from typing import Any
from typing import Final
from typing import NamedTuple

from pytest_resilience.chaos.parsing import quantities
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.errors import ConfigurationError


__all__ = ["Budget", "MaxCalls", "read_budget", "read_depth", "read_max_calls"]

_MOST_DEPTH: Final = 4
_TIMES = re.compile(r"(\d{1,6})x")
_BUDGET: Final = "give runs such as 200, seconds such as '30s', or one of each"


class Budget(NamedTuple):
    """How much may be spent on a test.

    Attributes:
        runs: at most; None for any number.
        seconds: at most; None for any time.
    """

    runs: int | None
    seconds: float | None


class MaxCalls(NamedTuple):
    """How many operations of one kind on one target are no storm.

    Attributes:
        times: as many times the most that there are of any without faults; None for a number.
        number: that one; 0 where there is none.
    """

    times: int | None
    number: int


def read_depth(name: str, value: Any) -> int:
    """How many faults at once. Raises ConfigurationError."""
    depth = quantities.count(name, value, least=0)
    if not depth:
        raise ConfigurationError(
            f"{name}={shortened(value)}: without a fault there is nothing to explore; give 1 or "
            "more"
        )
    if depth > _MOST_DEPTH:
        raise ConfigurationError(
            f"{name}={shortened(value)}: {_MOST_DEPTH} faults at once at most; what fails with "
            "more mostly fails with two"
        )
    return depth


def read_budget(name: str, value: Any) -> Budget:
    """Runs as a whole number, seconds as a text such as "30s"; or one of each, in a list.

    Where only seconds are given, they are the only limit. Raises ConfigurationError.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    read = [_read_limit(name, each) for each in values]
    runs = [each for each in read if isinstance(each, int)]
    seconds = [each for each in read if isinstance(each, float)]
    if not read or runs[1:] or seconds[1:]:
        raise ConfigurationError(f"{name}={shortened(value)}: {_BUDGET}")
    return Budget(runs[0] if runs else None, seconds[0] if seconds else None)


def _read_limit(name: str, value: Any) -> int | float:
    """Runs as an int, seconds as a float."""
    given = value
    if isinstance(value, str) and value.strip().isdigit() and not value.isascii():
        given = None  # the digits of other scripts
    try:
        if isinstance(given, int) or (isinstance(given, str) and given.strip().isdigit()):
            limit: int | float = quantities.count(name, given, least=0)
        else:
            limit = quantities.seconds(name, given)
    except ConfigurationError:
        raise ConfigurationError(f"{name}={shortened(value)} is no budget; {_BUDGET}") from None
    if not limit:
        raise ConfigurationError(
            f"{name}={shortened(value)}: a budget of nothing explores nothing; {_BUDGET}"
        )
    return limit


def read_max_calls(name: str, value: Any) -> MaxCalls:
    """A number, or "4x" for four times as many as without faults. Raises ConfigurationError."""
    times = _TIMES.fullmatch(value) if isinstance(value, str) else None
    if times is not None and int(times[1]):
        return MaxCalls(int(times[1]), 0)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return MaxCalls(None, value)
    raise ConfigurationError(
        f"{name}={shortened(value)}: give a number from 1 of operations of one kind on one "
        "target, or '4x' for four times those that the test does without faults"
    )
