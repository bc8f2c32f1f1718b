"""Features that can do with less, and the health checks that say how well they are."""

from __future__ import annotations

import threading

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from typing import Final

from pytest_resilience.clock import Clock
from pytest_resilience.errors import TimeLimitExceededError
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import close_unawaited
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.timeout import TimeLimiter


__all__ = ["NOTHING", "FeatureFlag", "HealthCheck", "ServiceLevel"]


class ServiceLevel(Enum):
    """How well a service works.

    FULL: without failures. DEGRADED: it fails, or its health check says so. MINIMAL: its
    health check fails or takes too long. UNAVAILABLE: it is switched off.
    """

    FULL = "full"
    DEGRADED = "degraded"
    MINIMAL = "minimal"
    UNAVAILABLE = "unavailable"


class _NoValue(Enum):
    NOTHING = "nothing"

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _NoValue.NOTHING
"""Stands for a value that was not given; None, 0, "" and [] are values."""


@dataclass(frozen=True, slots=True)
class FeatureFlag:
    """A service that the application can do without.

    Attributes:
        name: of the service.
        enabled: a disabled one is UNAVAILABLE and never called.
        service_level: its level at first.
        fallback_value: the result when a call has no default of its own; NOTHING for none.
        health_check: returns whether the service is well, or a ServiceLevel; plain or async.
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
        if self.health_check is not None and not callable(self.health_check):
            raise TypeError(f"health_check must be a function or None, not {self.health_check!r}")


# The level of a service, and why, in words.
_Health = tuple[ServiceLevel, str]

# A check that exits has failed; KeyboardInterrupt is of the caller.
_FAILURES = (Exception, SystemExit)


class HealthCheck:
    """A health check with a time limit and a cache, run by one caller at a time.

    While it runs, other callers take the level that was known before.
    """

    def __init__(
        self, check: Callable[[], Any], name: str, *, limit: float, cache: float, clock: Clock
    ) -> None:
        """`name`: of the service; `limit`: seconds it may take; `cache`: seconds it is used."""
        self._check = check
        self._limiter = TimeLimiter(limit, name=f"health check of {name}", clock=clock)
        self._cache = cache
        self._clock = clock
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._running = False
        self._cached_until = float("-inf")
        self.is_async = kind_of(self._check) is CallKind.COROUTINE  # or found to be

    def begin(self) -> bool:
        """Whether the caller has to run the check; it must then call `run` or `run_async`."""
        if self._clock.monotonic() < self._cached_until:
            return False
        with self._lock:
            if self._running or self._clock.monotonic() < self._cached_until:
                return False
            self._running = True
            return True

    def _end(self, *, found_async: bool = False) -> None:
        with self._lock:
            self._running = False
            if not found_async:
                self._cached_until = self._clock.monotonic() + self._cache

    def run(self) -> _Health | None:
        """Run a plain check; None if it turns out to be an async one."""
        try:
            # In a tuple: the limiter would await what is awaitable, and there may be no loop.
            (answer,) = self._limiter.execute(lambda: (self._check(),))
            if is_awaitable(answer):
                close_unawaited(answer)
                self.is_async = True
                return None
            return _health(answer)
        except _FAILURES as error:
            return _failed(error)
        finally:
            self._end(found_async=self.is_async)

    async def run_async(self) -> _Health:
        """Run a check of either kind, without blocking the loop."""
        import asyncio

        try:
            async with self._limiter:
                answer = self._check() if self.is_async else await asyncio.to_thread(self._check)
                return _health(await answer if is_awaitable(answer) else answer)
        except _FAILURES as error:
            return _failed(error)
        finally:
            self._end()


def _health(answer: Any) -> _Health:
    if isinstance(answer, ServiceLevel):
        return answer, "its health check says so"
    if answer:
        return ServiceLevel.FULL, "its health check is well"
    return ServiceLevel.DEGRADED, "its health check is not well"


def _failed(error: BaseException) -> _Health:
    if isinstance(error, TimeLimitExceededError):
        return ServiceLevel.MINIMAL, f"its health check took longer than {error.limit:g} s"
    return ServiceLevel.MINIMAL, f"its health check failed with {type(error).__name__}"
