"""Reads the breakers of other libraries, and the functions they decorate.

None of the libraries keeps a record of a breaker's transitions.
"""

from __future__ import annotations

import time

from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from datetime import timedelta

from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.events import describe


__all__ = ["read_aiobreaker", "read_circuitbreaker", "read_purgatory", "read_pybreaker"]

_STATES = {
    "closed": "CLOSED",
    "open": "OPEN",
    "opened": "OPEN",
    "half-open": "HALF_OPEN",
    "half-opened": "HALF_OPEN",
}


def read_pybreaker(thing: object) -> CircuitReading | None:
    """Read a `pybreaker.CircuitBreaker`."""
    import pybreaker

    if not isinstance(thing, pybreaker.CircuitBreaker):
        return None
    state = _STATES.get(thing.current_state, thing.current_state)
    # Nothing public tells when it opened.
    opened = thing._state_storage.opened_at  # noqa: SLF001
    over = opened is None or _now() >= opened + timedelta(seconds=thing.reset_timeout)
    return _reading(
        thing.name or "the pybreaker.CircuitBreaker",
        state,
        f"failures in a row: {thing.fail_counter} (opens at {thing.fail_max})",
        f"successes half open: {thing.success_counter} (closes at {thing.success_threshold})",
        f"opened: {'never' if opened is None else _at(opened)}",
        refuses=state == "OPEN" and not over,
        ask=lambda: thing.call(lambda: None),
    )


def read_aiobreaker(thing: object) -> CircuitReading | None:
    """Read an `aiobreaker.CircuitBreaker`."""
    import aiobreaker  # type: ignore[import-untyped]

    if not isinstance(thing, aiobreaker.CircuitBreaker):
        return None
    state = thing.current_state.name
    # What it says itself is off by the offset of the local time zone; nothing public is not.
    opened = thing._state_storage.opened_at  # noqa: SLF001
    reopens = None if opened is None else opened.replace(tzinfo=UTC) + thing.timeout_duration
    if state != "OPEN" or (reopens is not None and reopens <= _now()):
        reopens = None
    return _reading(
        thing.name or "the aiobreaker.CircuitBreaker",
        state,
        f"failures in a row: {thing.fail_counter} (opens at {thing.fail_max})",
        *([f"open until {_at(reopens)}"] if reopens else []),
        refuses=reopens is not None,
        ask=lambda: thing.call(lambda: None),
    )


def read_circuitbreaker(thing: object) -> CircuitReading | None:
    """Read a `circuitbreaker.CircuitBreaker`.

    It cannot be asked for a call without one of its own functions to be called.
    """
    import circuitbreaker  # type: ignore[import-untyped]

    if not isinstance(thing, circuitbreaker.CircuitBreaker):
        return None
    error = thing.last_failure
    return _reading(
        thing.name or "the circuitbreaker.CircuitBreaker",
        thing.state.upper(),
        f"failures in a row: {thing.failure_count}",
        f"last error: {'none' if error is None else describe(error)}",
        *([f"open for {thing.open_remaining} s more"] if thing.opened else []),
        refuses=thing.opened,
    )


def read_purgatory(thing: object) -> CircuitReading | None:
    """Read what `get_breaker` of a sync or async factory gave, or its context."""
    from purgatory.domain.model import Context

    context = getattr(thing, "context", thing)
    if not isinstance(context, Context):
        return None
    opened_at = context.opened_at
    state = _STATES.get(context.state, context.state)
    left = 0.0 if opened_at is None else opened_at + context.ttl - time.time()
    return _reading(
        context.name,
        state,
        # Only a closed one counts.
        f"open for {left:.3f} s more"
        if left > 0
        else f"failures in a row: {context.failure_count or 0} (opens at {context.threshold})",
        refuses=state == "OPEN" and left > 0,
        ask=context.handle_new_request,
    )


def _reading(
    name: str,
    state: str,
    *timeline: str,
    refuses: bool,
    ask: Callable[[], object] | None = None,
) -> CircuitReading:
    return CircuitReading(
        name=name, state=state, path=None, timeline=timeline, refuses=refuses, ask=ask
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _at(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
