"""How long to wait before the next attempt: backoff and jitter, or what a server asks for."""

from __future__ import annotations

import math
import re

from datetime import UTC
from datetime import datetime
from datetime import timedelta
from typing import Any
from typing import Final
from typing import Literal
from typing import Protocol


__all__ = [
    "JITTERS", "Jitter", "RandomSource", "backoff", "parse_retry_after", "retry_after_of",
    "who_asks", "with_jitter",
]  # fmt: skip

Jitter = Literal["full", "equal", "decorrelated"] | bool
JITTERS: Final = (True, False, "full", "equal", "decorrelated")

_RATE_LIMIT = re.compile("rate-?limit")
_A_DATE = 10**8  # seconds: a rate limit that is over then says since 1970, not from now
_LONGEST_CHAIN = 5  # of errors that caused one another

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

    Read from the headers of it or of its `response`, as requests, httpx, urllib3, aiohttp and
    botocore have them, from an attribute `retry_after`, or from the error that caused it.
    `now` is in seconds since 1970.
    """
    asked = who_asks(error_or_result, now)
    return None if asked is None else asked[0]


def who_asks(error_or_result: Any, now: float) -> tuple[float, Any] | None:
    """The seconds that it asks for, and who does: it itself, or one of the errors that caused it.

    See `retry_after_of`.
    """
    holder, left = error_or_result, _LONGEST_CHAIN
    while holder is not None and left:
        response = _attribute(holder, "response")
        for each in (holder, response):
            seconds = _of_headers(_headers(each), now)
            if seconds is not None:
                return seconds, holder
        seconds = _seconds(_attribute(holder, "retry_after"), now)
        if seconds is not None:
            return seconds, holder
        holder = _attribute(holder, "__cause__")
        left -= 1
    return None


def _headers(holder: Any) -> dict[str, Any]:
    """With names in small letters: a mapping need not ignore their case, nor be one."""
    found: Any
    if isinstance(holder, dict):  # as a ClientError of botocore has it
        metadata = holder.get("ResponseMetadata")
        found = metadata.get("HTTPHeaders") if isinstance(metadata, dict) else None
    else:
        found = _attribute(holder, "headers")
    try:
        pairs = found if isinstance(found, (list, tuple)) else found.items()
        return {_text(name).lower(): value for name, value in pairs}
    except Exception:
        return {}


def _of_headers(headers: dict[str, Any], now: float) -> float | None:
    """What the first of the headers says that asks for a wait."""
    milliseconds = _seconds(headers.get("retry-after-ms"), now)
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = _seconds(headers.get("retry-after"), now)
    if seconds is not None or not any(_RATE_LIMIT.search(name) for name in headers):
        return seconds
    # The drafts of the IETF, the last ones first; then what came before them.
    spent = _of_rate_limit(_text(headers.get("ratelimit", "")))
    if spent is not None:
        return spent
    for prefix in ("ratelimit", "x-ratelimit", "x-rate-limit"):
        reset_at = _seconds(headers.get(f"{prefix}-reset"), now)
        if reset_at is not None and _text(headers.get(f"{prefix}-remaining", "0")).strip() == "0":
            reset_at /= 1000 if reset_at > _A_DATE * 1000 else 1  # some say it in milliseconds
            return max(0.0, reset_at - now) if reset_at > _A_DATE else reset_at
    return None


def _of_rate_limit(header: str) -> float | None:
    """When the last of the quotas is renewed of which nothing remains."""
    quotas = header.split(",") if ";" in header else [header]  # one quota, in the older drafts
    resets = [
        float(reset[2])
        for quota in quotas
        if re.search(r"\b(r|remaining)=0\b", quota)
        and (reset := re.search(r"\b(t|reset)=(\d+)", quota))
    ]
    return max(resets, default=None)


def _seconds(value: Any, now: float) -> float | None:
    """A number, a time span, a moment, or the text of a header, in seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return max(0.0, float(value)) if math.isfinite(value) else None
    if isinstance(value, timedelta):
        return max(0.0, value.total_seconds())
    if isinstance(value, datetime):
        return max(0.0, value.timestamp() - now)
    return parse_retry_after(_text(value), now) if isinstance(value, (str, bytes)) else None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property may raise anything: then it says nothing
        return None
