"""Features that can do with less, and how much less they do with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from typing import Final

from pytest_resilience.patterns import validation


__all__ = ["NOTHING", "FeatureFlag", "ServiceLevel"]


class ServiceLevel(Enum):
    """How much of a service there is.

    FULL: all of it. DEGRADED: it fails, or says that it is unwell. MINIMAL: it cannot even
    say. UNAVAILABLE: it is switched off.
    """

    FULL = "full"
    DEGRADED = "degraded"
    MINIMAL = "minimal"
    UNAVAILABLE = "unavailable"


class _Nothing(Enum):
    NOTHING = "nothing"

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing.NOTHING
"""Stands where no value was given; None, 0, "" and [] are values."""


@dataclass(frozen=True, slots=True)
class FeatureFlag:
    """A service that the application can do without, more or less.

    Attributes:
        name: of the service.
        enabled: a disabled one is UNAVAILABLE and never called.
        service_level: what it is taken for at first.
        fallback_value: used when the call gives no default of its own; NOTHING for none.
        health_check: whether the service is well, or a ServiceLevel; plain or async.
    """

    name: str
    enabled: bool = True
    service_level: ServiceLevel = ServiceLevel.FULL
    fallback_value: Any = NOTHING
    health_check: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise TypeError(f"name must be a text, not {self.name!r}")
        validation.boolean("enabled", self.enabled)
        if not isinstance(self.service_level, ServiceLevel):
            raise TypeError(f"service_level must be a ServiceLevel, not {self.service_level!r}")
        validation.function("health_check", self.health_check)
