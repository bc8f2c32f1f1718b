"""State of a breaker and of a retry, in one form for all libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


__all__ = ["CircuitReading", "Reader", "RetryReading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitReading:
    """A circuit breaker as it is now.

    Attributes:
        name: what messages call the breaker.
        state: "CLOSED", "OPEN", "HALF_OPEN", or what its library calls another state.
        path: the states it went through, the first one included; None if it keeps no record.
        timeline: its counts and how it came to its state, one line each.
        refuses: whether a call would be refused now.
        ask: asks for a call, made only while it refuses; it raises then. None if there is no
            way to ask that leaves no trace.
    """

    name: str
    state: str
    path: tuple[str, ...] | None
    timeline: tuple[str, ...]
    refuses: bool
    ask: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReading:
    """The latest call that a retry tried again, or gave up.

    Attributes:
        name: what messages call the retry.
        attempts: how many attempts the call made; 0 if there was no such call, None if no
            record is kept of it.
        waits: seconds before the second of them, the third, …; None if they are not kept.
        waited: seconds of all waits together; None if they are not kept.
        exhausted: whether it ended because it had been tried enough; None if nobody can tell.
        timeline: what happened, one line each.
    """

    name: str
    attempts: int | None
    waits: tuple[float, ...] | None
    waited: float | None
    exhausted: bool | None
    timeline: tuple[str, ...]


Reader = Callable[[object], CircuitReading | RetryReading | None]
"""Reads an object, without changing it; None if it is none that it knows."""
