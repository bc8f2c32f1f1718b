"""What a circuit breaker records of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pytest_resilience.events import Event


__all__ = ["CircuitRejection", "CircuitState", "CircuitTransition"]


class CircuitState(Enum):
    """What a circuit breaker does with calls.

    CLOSED lets them through, OPEN refuses them, HALF_OPEN lets a few through to see.
    FORCED_OPEN refuses until somebody decides otherwise; DISABLED lets everything through
    and counts nothing; METRICS_ONLY lets everything through and counts.
    """

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"
    FORCED_OPEN = "FORCED_OPEN"
    DISABLED = "DISABLED"
    METRICS_ONLY = "METRICS_ONLY"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRejection(Event):
    """A breaker has refused a call; told to listeners, not kept.

    Attributes:
        state: the state that refused.
    """

    state: CircuitState
