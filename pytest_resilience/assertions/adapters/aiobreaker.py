"""Reads the breakers of aiobreaker, and the functions they decorate."""

from __future__ import annotations

from pytest_resilience.assertions.readings import CircuitReading


__all__ = ["read"]


def read(thing: object) -> CircuitReading | None:
    """Read an `aiobreaker.CircuitBreaker`; it keeps no record of its transitions."""
    import aiobreaker

    if not isinstance(thing, aiobreaker.CircuitBreaker):
        return None
    state = thing.current_state.name
    # It cannot say when it opens again before it has been open.
    reopens = thing.opens_at if state == "OPEN" else None
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
