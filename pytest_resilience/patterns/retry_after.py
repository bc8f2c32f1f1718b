"""When the other side says itself how long to wait: the `Retry-After` header."""

from __future__ import annotations

import math

from typing import Any


__all__ = ["parse_retry_after", "retry_after_of"]


def parse_retry_after(value: str, now: float) -> float | None:
    """Seconds from a header's value: a number of them, or an HTTP date (RFC 9110, 10.2.3).

    `now` is in seconds since 1970. A date that has passed is 0; None for what is neither.
    """
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime  # 3 ms, for those who meet a date

        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def retry_after_of(error_or_result: Any, now: float) -> float | None:
    """Seconds that an error, its response, or a response asks for; None if it does not.

    Read from an attribute `retry_after` (as `CircuitBreakerError` has it), or from the
    headers of it or of its `response`, as requests, httpx, urllib3 and aiohttp have them.
    """
    told = getattr(error_or_result, "retry_after", None)
    if isinstance(told, (int, float)) and not isinstance(told, bool) and math.isfinite(told):
        return max(0.0, float(told))
    for holder in (error_or_result, getattr(error_or_result, "response", None)):
        get = getattr(getattr(holder, "headers", None), "get", None)
        value = get("Retry-After") if callable(get) else None
        if isinstance(value, str):
            return parse_retry_after(value, now)
    return None
