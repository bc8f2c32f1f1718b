"""When the other side says itself how long to wait: the `Retry-After` header."""

from __future__ import annotations

import math
import re

from datetime import UTC
from typing import Any
from typing import Final
from typing import Literal
from typing import Protocol


__all__ = [
    "JITTERS",
    "Jitter",
    "RandomSource",
    "backoff",
    "parse_retry_after",
    "retry_after_of",
    "with_jitter",
]

Jitter = Literal["full", "equal", "decorrelated"] | bool
JITTERS: Final = (True, False, "full", "equal", "decorrelated")

_PLAIN_SPREAD = 0.1  # jitter=True: 10 % either way


class RandomSource(Protocol):
    """The part of `random.Random` that jitter needs."""

    def uniform(self, a: float, b: float) -> float:
        """A number between `a` and `b`."""


def backoff(attempt: int, base: float, multiplier: float, cap: float) -> float:
    """Seconds after the failed `attempt` (1, 2, …), without jitter: `base * multiplier**n`."""
    try:
        return min(cap, base * multiplier ** (attempt - 1))
    except OverflowError:
        return cap


def with_jitter(
    jitter: Jitter, delay: float, *, base: float, cap: float, previous: float, source: RandomSource
) -> float:
    """`delay` with jitter, in seconds, never more than `cap`.

    Args:
        jitter: True spreads by 10 % either way, "full" over 0..delay, "equal" over
            delay/2..delay, "decorrelated" over base..3*previous; False adds none.
        delay: the seconds of plain backoff, at most `cap`.
        base: the shortest delay of "decorrelated".
        cap: the longest delay.
        previous: the delay before this one; `base` at first.
        source: of random numbers.
    """
    if jitter is False:
        return delay
    if jitter == "full":
        return source.uniform(0.0, delay)
    if jitter == "equal":
        return source.uniform(delay / 2, delay)
    if jitter == "decorrelated":
        return source.uniform(min(base, cap), min(cap, max(base, 3 * previous)))
    return source.uniform(delay * (1 - _PLAIN_SPREAD), min(cap, delay * (1 + _PLAIN_SPREAD)))


# RFC 9110 has whole seconds only, some servers send fractions. What else `float` reads
# ("1e9", "1_0", "nan") is no header's number.
_SECONDS = re.compile(r"[ \t]*-?[0-9]+(\.[0-9]+)?[ \t]*")


def parse_retry_after(value: str, now: float) -> float | None:
    """Seconds from a header's value: a number of them, or an HTTP date (RFC 9110, 10.2.3).

    `now` is in seconds since 1970. What has passed is 0; None for what is neither.
    """
    if _SECONDS.fullmatch(value):
        return max(0.0, float(value))
    from email.utils import parsedate_to_datetime  # 3 ms, for those who meet a date

    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # the zone "-0000", which is UTC too
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def retry_after_of(error_or_result: Any, now: float) -> float | None:
    """The seconds that a response, or an error or its response, asks for; None if it does not.

    Read from the headers of it or of its `response`, as requests, httpx, urllib3 and aiohttp
    have them, or from an attribute `retry_after`, as `CircuitBreakerError` has it.
    """
    for holder in (error_or_result, _attribute(error_or_result, "response")):
        value = _header(_attribute(holder, "headers"))
        seconds = parse_retry_after(value, now) if isinstance(value, str) else None
        if seconds is not None:
            return seconds
    after = _attribute(error_or_result, "retry_after")
    if isinstance(after, (int, float)) and not isinstance(after, bool) and math.isfinite(after):
        return max(0.0, float(after))
    return None


def _header(headers: Any) -> Any:
    get = _attribute(headers, "get")
    try:
        # The libraries' own mappings ignore case; a plain dict does not.
        return get("Retry-After", get("retry-after")) if callable(get) else None
    except Exception:
        return None


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property may raise anything: then it says nothing
        return None
