"""What a circuit breaker records of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pytest_resilience.events import Event


__all__ = ["CircuitState", "CircuitTransition"]


class CircuitState(Enum):
    """What a circuit breaker does with calls: lets them through, refuses them, or tries a few."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitTransition(Event):
    """A breaker has changed its state.

    Attributes:
        old: the state before.
        new: the state since.
        reason: why, in words.
    """

    old: CircuitState
    new: CircuitState
    reason: str
