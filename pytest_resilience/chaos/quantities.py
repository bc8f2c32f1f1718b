"""Physical quantities as people write them: '200ms', '30%', 3."""

from __future__ import annotations

import math
import re

from typing import Any

from pytest_resilience.errors import ConfigurationError


__all__ = ["count", "format_seconds", "interval", "seconds", "share"]

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?nan|[+-]?inf)\s*(\S*)", re.IGNORECASE
)


def _split(name: str, value: Any, allowed: str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigurationError(f"{name}={value!r} is no quantity; {allowed}")
    if not isinstance(value, str):
        try:
            return float(value), ""
        except OverflowError:  # an int of more than 308 digits
            return math.inf, ""
    found = _QUANTITY.fullmatch(value.strip())
    if found is None:
        raise ConfigurationError(f"{name}={value!r} is no quantity; {allowed}")
    return float(found[1]), found[2]


def seconds(name: str, value: Any) -> float:
    """A duration: a number of seconds, or a text with a unit of us, ms, s, m or h."""
    allowed = "give seconds, or a text with us, ms, s, m or h, such as '200ms'"
    number, unit = _split(name, value, allowed)
    if unit and unit not in _SECONDS:
        raise ConfigurationError(f"{name}={value!r}: {unit!r} is no unit of time; {allowed}")
    duration = number * _SECONDS[unit or "s"]
    if not 0 <= duration < math.inf:
        raise ConfigurationError(f"{name}={value!r}: a duration is finite and not negative")
    return duration


def share(name: str, value: Any) -> float:
    """A part of a whole: 0 to 1, or a text such as '30%'."""
    allowed = "give a number from 0 to 1, or a percentage such as '30%'"
    number, unit = _split(name, value, allowed)
    if unit not in ("", "%"):
        raise ConfigurationError(f"{name}={value!r}: {unit!r} is no unit of a share; {allowed}")
    part = number / 100 if unit else number
    if not 0 <= part <= 1:
        raise ConfigurationError(f"{name}={value!r} is outside 0..1; {allowed}")
    return part


def count(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    number, unit = _split(name, value, "give a whole number of at least 1")
    if unit or number < 1 or number != number // 1 or math.isinf(number):
        raise ConfigurationError(f"{name}={value!r}: give a whole number of at least 1")
    return int(number)


def interval(name: str, value: Any) -> tuple[float, float]:
    """Two durations: a pair, or a text such as '1s..3s'."""
    ends = value.split("..") if isinstance(value, str) else value
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise ConfigurationError(f"{name}={value!r}: give a start and an end, such as '1s..3s'")
    start, end = seconds(name, ends[0]), seconds(name, ends[1])
    if not start < end:
        raise ConfigurationError(f"{name}={value!r}: the end must come after the start")
    return start, end


def format_seconds(value: float) -> str:
    """A duration for people: '200ms', '1.5s', '0s'."""
    if 0 < value < 1e-3:
        return f"{value * 1e6:.3g}us"
    if 0 < value < 1:
        return f"{value * 1e3:.4g}ms"
    return f"{value:.6g}s"
