"""Reads the retries of tenacity: what decorates a function, the function, or its RetryError.

Statistics are of the thread that made the call, as tenacity keeps them. It keeps the sum
of the waits, not each of them, and of a call that ended only its `RetryError` tells how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.events import describe


__all__ = ["read"]


def read(thing: object) -> RetryReading | None:
    """Read a `Retrying`, an `AsyncRetrying`, a decorated function or a `RetryError`."""
    import tenacity

    if isinstance(thing, tenacity.RetryError):
        return _given_up(thing.last_attempt)
    retrying = thing if isinstance(thing, tenacity.BaseRetrying) else getattr(thing, "retry", None)
    if not isinstance(retrying, tenacity.BaseRetrying):
        return None
    # A decorated function counts for itself; what decorates it may decorate others.
    statistics = getattr(thing, "statistics", retrying.statistics)
    name = getattr(thing, "__qualname__", f"tenacity's {type(retrying).__name__}")
    return _counted(name, statistics)


def _counted(name: str, statistics: Mapping[str, Any]) -> RetryReading:
    made = statistics.get("attempt_number", 0)
    # One that succeeded at once leaves the trace of no retry, as with all the others.
    attempts = made if made > 1 else 0
    waited = float(statistics.get("idle_for", 0))
    waits = {0: (), 2: (waited,)}.get(attempts)
    return RetryReading(
        name=name,
        attempts=attempts,
        waits=waits,
        waited=waited,
        exhausted=None if attempts else False,
        timeline=(f"{attempts} attempts, {waited:.3g} s of waiting in all",) if attempts else (),
    )


def _given_up(last: Any) -> RetryReading:
    error = last.exception()
    failure = f"result {describe(last.result())}" if error is None else describe(error)
    return RetryReading(
        name="tenacity",
        attempts=last.attempt_number,
        waits=None,
        waited=None,
        exhausted=True,
        timeline=(f"attempt {last.attempt_number} failed, {failure}; gave up",),
    )
