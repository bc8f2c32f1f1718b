"""Reads the breakers of circuitbreaker, and the functions they decorate."""

from __future__ import annotations

from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.events import describe


__all__ = ["read"]


def read(thing: object) -> CircuitReading | None:
    """Read a `circuitbreaker.CircuitBreaker`; it keeps no record of its transitions.

    It cannot be asked for a call without one of its own functions to be called.
    """
    import circuitbreaker  # type: ignore[import-untyped]

    if not isinstance(thing, circuitbreaker.CircuitBreaker):
        return None
    error = thing.last_failure
    return CircuitReading(
        name=thing.name or "the circuitbreaker.CircuitBreaker",
        state=thing.state.upper(),
        path=None,
        timeline=(
            f"failures in a row: {thing.failure_count}",
            f"last error: {'none' if error is None else describe(error)}",
            *((f"open for {thing.open_remaining} s more",) if thing.opened else ()),
        ),
        refuses=thing.opened,
    )
