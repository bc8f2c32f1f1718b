"""Features that can do with less, and the health checks that say how well they are."""

from __future__ import annotations

import contextvars
import threading

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from typing import Final

from pytest_resilience.clock import Clock
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of


__all__ = ["NOTHING", "FeatureFlag", "HealthCheck", "ServiceLevel"]


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


_Verdict = tuple[ServiceLevel, str]


class HealthCheck:
    """One service's health check.

    While one caller asks, the others are given what was known before. A plain check runs in
    a thread, because nothing else could be stopped waiting for.
    """

    def __init__(
        self, check: Callable[[], Any], *, limit: float, cache: float, clock: Clock
    ) -> None:
        """`limit`: seconds of real time it may take; `cache`: seconds its verdict holds."""
        self._check = check
        self._limit = limit
        self._cache = cache
        self._clock = clock
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._asking = False
        self._until = float("-inf")
        self.is_async = kind_of(check) is CallKind.COROUTINE

    def begin(self) -> bool:
        """Whether the caller has to ask; then it must call `ask` or `ask_async`."""
        if self._clock.monotonic() < self._until:
            return False
        with self._lock:
            if self._asking or self._clock.monotonic() < self._until:
                return False
            self._asking = True
            return True

    def _end(self) -> None:
        with self._lock:
            self._asking = False
            self._until = self._clock.monotonic() + self._cache

    def ask(self) -> _Verdict:
        """The verdict of a plain check, and the reason."""
        answers: list[Any] = []
        done = threading.Event()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                answers.append(context.run(self._check))
            except Exception as error:
                answers.append(error)
            finally:
                done.set()

        try:
            threading.Thread(target=run, daemon=True, name="health check").start()
            return _judge(answers[0]) if done.wait(self._limit) else self._late()
        finally:
            self._end()

    async def ask_async(self) -> _Verdict:
        """The verdict of either kind of check, without blocking the loop."""
        import asyncio

        try:
            async with asyncio.timeout(self._limit):
                if self.is_async:
                    return _judge(await self._check())
                return _judge(await asyncio.to_thread(self._check))
        except TimeoutError:
            return self._late()
        except Exception as error:
            return _judge(error)
        finally:
            self._end()

    def _late(self) -> _Verdict:
        return ServiceLevel.MINIMAL, f"its health check took longer than {self._limit:g} s"


def _judge(answer: Any) -> _Verdict:
    if isinstance(answer, Exception):
        return ServiceLevel.MINIMAL, f"its health check failed with {type(answer).__name__}"
    if isinstance(answer, ServiceLevel):
        return answer, "its health check says so"
    if answer:
        return ServiceLevel.FULL, "its health check is well"
    return ServiceLevel.DEGRADED, "its health check is not well"
