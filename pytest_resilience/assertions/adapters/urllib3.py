"""Reads `urllib3.Retry`: from a response of urllib3 or requests, or the object itself.

A `Retry` never changes: the one given to a session or an adapter knows no call. Each
response carries the one that its own call ended with.
"""

from __future__ import annotations

from typing import Any

from pytest_resilience.assertions.readings import RetryReading


__all__ = ["read"]


def read(thing: object) -> RetryReading | None:
    """Read a `Retry`, or the one that a response, or its `raw`, carries."""
    import urllib3

    response = getattr(thing, "raw", thing)
    retry = response if isinstance(response, urllib3.Retry) else getattr(response, "retries", None)
    if not isinstance(retry, urllib3.Retry):
        return None
    tries = [entry for entry in retry.history if not entry.redirect_location]
    waits = _waits(retry)
    return RetryReading(
        name="urllib3.Retry",
        attempts=len(tries) + 1 if tries else 0,
        waits=waits,
        waited=None if waits is None else sum(waits),
        exhausted=retry.is_exhausted() or _unacceptable(retry, response),
        timeline=tuple(
            f"attempt {number} failed, {entry.error or entry.status}: {entry.method} {entry.url}"
            for number, entry in enumerate(tries, 1)
        ),
    )


def _waits(retry: Any) -> tuple[float, ...] | None:
    """What the history makes of the backoff; None where something else had a say in it."""
    told_how_long = retry.respect_retry_after_header and any(
        entry.status in retry.RETRY_AFTER_STATUS_CODES for entry in retry.history
    )
    redirected = any(entry.redirect_location for entry in retry.history)
    if retry.backoff_jitter or told_how_long or redirected:
        return None
    history = retry.history
    return tuple(
        float(retry.new(history=history[: number + 1]).get_backoff_time())
        for number in range(len(history))
    )


def _unacceptable(retry: Any, response: object) -> bool:
    """Whether a response came back that would have been tried again if it could."""
    status = getattr(response, "status", None)
    return bool(retry.history) and status in (retry.status_forcelist or ())
