"""Reads the breakers of aiobreaker, and the functions they decorate."""

from __future__ import annotations

from datetime import UTC
from datetime import datetime

from pytest_resilience.assertions.readings import CircuitReading


__all__ = ["read"]


def read(thing: object) -> CircuitReading | None:
    """Read an `aiobreaker.CircuitBreaker`; it keeps no record of its transitions."""
    import aiobreaker  # type: ignore[import-untyped]

    if not isinstance(thing, aiobreaker.CircuitBreaker):
        return None
    state = thing.current_state.name
    # What it says itself is off by the offset of the local time zone; nothing public is not.
    opened = thing._state_storage.opened_at  # noqa: SLF001
    reopens = None if opened is None else opened.replace(tzinfo=UTC) + thing.timeout_duration
    if state != "OPEN" or (reopens is not None and reopens <= datetime.now(UTC)):
        reopens = None
    return CircuitReading(
        name=thing.name or "the aiobreaker.CircuitBreaker",
        state=state,
        path=None,
        timeline=(
            f"failures in a row: {thing.fail_counter} (opens at {thing.fail_max})",
            *((f"open until {reopens.isoformat(timespec='milliseconds')}",) if reopens else ()),
        ),
        refuses=reopens is not None,
        ask=lambda: thing.call(lambda: None),
    )
