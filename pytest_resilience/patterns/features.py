"""Features that can do with less, and the health checks that say how well they are."""

from __future__ import annotations

import threading

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait
from dataclasses import dataclass
from enum import Enum
from typing import Any
from typing import Final

from pytest_resilience.clock import Clock
from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import renew_in_child
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import close_unawaited
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.event_loops import is_of_caller
from pytest_resilience.patterns.event_loops import timeout
from pytest_resilience.patterns.event_loops import wait_for
from pytest_resilience.patterns.timeout import in_thread


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
        expected_exception: exceptions that are failures of the service. Others pass to the
            caller as they are: no fallback is called, and the service is as well as before.
    """

    name: str
    enabled: bool = True
    service_level: ServiceLevel = ServiceLevel.FULL
    fallback_value: Any = NOTHING
    health_check: Callable[[], Any] | None = None
    expected_exception: validation.ExceptionTypes = (Exception,)

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise TypeError(f"name must be a text, not {self.name!r}")
        validation.boolean("enabled", self.enabled)
        if not isinstance(self.service_level, ServiceLevel):
            raise TypeError(f"service_level must be a ServiceLevel, not {self.service_level!r}")
        types = validation.exception_types("expected_exception", self.expected_exception)
        object.__setattr__(self, "expected_exception", types)
        if self.health_check is not None and not callable(self.health_check):
            raise TypeError(f"health_check must be a function or None, not {self.health_check!r}")


# The level of a service, and why, in words.
_Health = tuple[ServiceLevel, str]


class HealthCheck:
    """A health check with a time limit and a cache; no more than one runs at a time.

    Who asks while it runs gets the level that was known before. One that takes longer than its
    limit has failed, runs on, and is not begun again before it has ended.
    """

    def __init__(
        self, check: Callable[[], Any], name: str, *, limit: float, cache: float, clock: Clock
    ) -> None:
        """`name`: of the service; `limit`: seconds it may take; `cache`: seconds it is used."""
        self._check = check
        self._name = f"health check of {name}"
        self._limit = limit
        self._cache = cache
        self._clock = clock
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._running = False
        self._cached_until = float("-inf")
        self.is_async = kind_of(self._check) is CallKind.COROUTINE  # or found to be
        renew_in_child(self, "_end")

    def begin(self) -> bool:
        """Whether the caller has to run the check; it must then call `run` or `run_async`."""
        if self._clock.monotonic() < self._cached_until:
            return False
        with self._lock:  # and look again: another caller may have run it meanwhile
            if self._running or self._clock.monotonic() < self._cached_until:
                return False
            self._running = True
            return True

    def _end(self) -> None:
        with self._lock:
            self._running = False

    def _keep(self, health: _Health) -> _Health:
        with self._lock:
            self._cached_until = self._clock.monotonic() + self._cache
        return health

    def _start(self) -> Future[Any]:
        """Begin a plain check, in a thread that holds nobody up."""
        try:
            future = in_thread(self._check, self._name)
        except BaseException:
            self._end()
            raise
        future.add_done_callback(lambda _: self._end())
        return future

    def run(self) -> _Health | None:
        """Run a plain check; None if it turns out to be an async one."""
        began = self._clock.monotonic()
        try:
            future = self._start()
        except RuntimeError as error:  # no thread can be had
            return self._keep(_failed(error))
        done, _ = wait((future,), self._limit)
        return self._judge(future if done else None, began)

    async def run_async(self) -> _Health:
        """Run a check of either kind, without blocking the loop."""
        began = self._clock.monotonic()
        if not self.is_async:
            try:
                future = self._start()
            except RuntimeError as error:
                return self._keep(_failed(error))
            done = await wait_for(future, self._limit)
            health = self._judge(future if done else None, began, awaits=True)
            if health is not None:
                return health
            answer = future.result()
        else:
            answer = None
        return self._keep(await self._await_check(answer, began))

    async def _await_check(self, begun: Any, started: float) -> _Health:
        """`begun`: what a plain function has returned that has to be awaited; or None."""
        limit = timeout(self._limit)
        try:
            async with limit:
                answer = _health(await (self._check() if begun is None else begun))
            return self._in_time(answer, started)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                return self._late()
            if is_of_caller(error):
                raise
            return _failed(error)
        finally:
            self._end()

    def _judge(
        self, future: Future[Any] | None, began: float, *, awaits: bool = False
    ) -> _Health | None:
        """What a plain check says that has ended, or has not: None where it is to be awaited."""
        if future is None:
            return self._keep(self._late())
        error = future.exception()
        if error is not None:
            return self._keep(_failed(error))
        answer = future.result()
        if not is_awaitable(answer):
            return self._keep(self._in_time(_health(answer), began))
        self.is_async = True
        if not awaits:
            close_unawaited(answer)
        return None

    def _in_time(self, health: _Health, began: float) -> _Health:
        return self._late() if self._clock.monotonic() - began > self._limit else health

    def _late(self) -> _Health:
        return ServiceLevel.MINIMAL, f"its health check took longer than {self._limit:g} s"


def _health(answer: Any) -> _Health:
    if isinstance(answer, ServiceLevel):
        return answer, "its health check says so"
    if answer:
        return ServiceLevel.FULL, "its health check is well"
    return ServiceLevel.DEGRADED, "its health check is not well"


def _failed(error: BaseException) -> _Health:
    return ServiceLevel.MINIMAL, f"its health check failed with {type(error).__name__}"
