"""What a degradation manager records."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_resilience.events import Event
from pytest_resilience.patterns.degradation.config import ServiceLevel


__all__ = ["FellBack", "LevelChanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChanged(Event):
    """A service is better or worse than it was; `source` is its name.

    Attributes:
        old: the level before.
        new: the level since.
        reason: why, in words.
    """

    old: ServiceLevel
    new: ServiceLevel
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """A call was answered by something less than the service; `source` is its name.

    Attributes:
        used: "fallback", "default" or "fallback_value".
        reason: why the service itself did not answer, in words.
    """

    used: str
    reason: str
