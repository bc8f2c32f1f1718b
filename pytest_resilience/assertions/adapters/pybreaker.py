"""Reads the breakers of pybreaker, and the functions they decorate."""

from __future__ import annotations

from datetime import UTC
from datetime import datetime
from datetime import timedelta

from pytest_resilience.assertions.readings import CircuitReading


__all__ = ["read"]

_STATES = {"closed": "CLOSED", "open": "OPEN", "half-open": "HALF_OPEN"}


def read(thing: object) -> CircuitReading | None:
    """Read a `pybreaker.CircuitBreaker`; it keeps no record of its transitions."""
    import pybreaker

    if not isinstance(thing, pybreaker.CircuitBreaker):
        return None
    state = _STATES.get(thing.current_state, thing.current_state)
    # Nothing public tells when it opened.
    opened = thing._state_storage.opened_at  # noqa: SLF001
    over = opened is None or _now() >= opened + timedelta(seconds=thing.reset_timeout)
    return CircuitReading(
        name=thing.name or "the pybreaker.CircuitBreaker",
        state=state,
        path=None,
        timeline=(
            f"failures in a row: {thing.fail_counter} (opens at {thing.fail_max})",
            f"successes half open: {thing.success_counter} (closes at {thing.success_threshold})",
            f"opened: {'never' if opened is None else opened.isoformat(timespec='milliseconds')}",
        ),
        refuses=state == "OPEN" and not over,
        ask=lambda: thing.call(lambda: None),
    )


def _now() -> datetime:
    return datetime.now(UTC)
