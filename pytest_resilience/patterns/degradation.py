"""Graceful degradation: fallbacks and defaults for services that fail."""

from __future__ import annotations

import inspect
import logging
import threading

from collections.abc import Awaitable
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import in_a_loop
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ServiceFailureError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.events import Event
from pytest_resilience.events import Journal
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.features import NOTHING
from pytest_resilience.patterns.features import FeatureFlag
from pytest_resilience.patterns.features import HealthCheck
from pytest_resilience.patterns.features import ServiceLevel


__all__ = ["DegradationManager", "FellBack", "LevelChanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChanged(Event):
    """A service is better or worse than it was; `source` is its name.

    Attributes:
        old: the level before.
        new: the level after.
        reason: why, in words.
    """

    old: ServiceLevel
    new: ServiceLevel
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """A call got its result from something less than the service; `source` is its name.

    Attributes:
        used: "fallback", "default" or "fallback_value".
        reason: why not from the service itself, in words.
    """

    used: str
    reason: str


_HISTORY = 1000  # events that are remembered
_COROUTINE = CallKind.COROUTINE
_FULL, _UNAVAILABLE = ServiceLevel.FULL, ServiceLevel.UNAVAILABLE
_logger = logging.getLogger("pytest_resilience.degradation")

# Why a service gave no result: in words, and what is raised if there is nothing else.
_Failure = tuple[str, Exception]


class _Service:
    """A feature, and what is known of it."""

    __slots__ = (
        "async_primaries", "check", "failures", "fallbacks", "feature", "generation", "level",
        "retry_at",
    )  # fmt: skip

    def __init__(self, feature: FeatureFlag, check: HealthCheck | None) -> None:
        self.feature = feature
        self.check = check
        self.level = feature.service_level
        self.retry_at: float | None = None  # monotonic seconds, after a failure
        self.failures = self.fallbacks = 0
        # Counts the changes of the level, and the calls that try the service again. How a call, or
        # a check, ends says nothing about a level that it did not begin in.
        self.generation = 0
        # The code of plain functions that turned out to return an awaitable: who calls one
        # awaits what it gets, whether or not it was called.
        self.async_primaries: set[object] = set()

    def is_awaited(self, primary: object) -> bool:
        """Whether a plain function is known to return an awaitable."""
        return bool(self.async_primaries) and _code_of(primary) in self.async_primaries


class DegradationManager(OfThisProcess):
    """Calls services while they are FULL, and falls back to less while they are not.

    A service whose primary fails is DEGRADED. With a health check it is FULL again when the
    check says so; without one it is tried again after `recovery_time`, by one call while the
    others fall back. How a call ends that began before the level changed says nothing, nor does
    an error that is not among the service's `expected_exception`. Health checks are
    limited in time and cached. No lock is held while one, or anything else of the user's,
    runs.

    Attributes:
        listeners: are given every `LevelChanged` and `FellBack`.
    """

    def __init__(
        self,
        *,
        health_check_timeout: float = 5.0,
        health_check_cache: float = 1.0,
        recovery_time: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """All in seconds: the limit of a check, how long its result is used, see the class."""
        self._limit = validation.number(
            "health_check_timeout", health_check_timeout, above_low=True
        )
        self._cache = validation.number("health_check_cache", health_check_cache)
        self._recovery_time = validation.number("recovery_time", recovery_time)
        self._clock: Clock = validation.clock(clock)
        self._services: dict[str, _Service] = {}
        self.listeners = Listeners(may_await=True)
        self._journal: Journal[Event] = Journal(self.listeners, _HISTORY)
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def events(self) -> tuple[Event, ...]:
        """The latest events, at most 1000, oldest first."""
        return tuple(self._journal.latest.copy())

    @property
    def features(self) -> dict[str, FeatureFlag]:
        """The features that were registered, by name."""
        return {name: each.feature for name, each in self._services.copy().items()}

    @property
    def service_health(self) -> dict[str, ServiceLevel]:
        """The last known levels, by name; no health check is run."""
        return {name: each.level for name, each in self._services.copy().items()}

    def register_feature(self, feature: FeatureFlag) -> None:
        """Add a service. Raises DuplicateNameError if there is one of that name."""
        service = self._new_service(feature)
        with self._lock:
            if feature.name in self._services:
                raise DuplicateNameError("service", feature.name)
            self._services[feature.name] = service

    def replace_feature(self, feature: FeatureFlag) -> None:
        """Put a service in the place of the one of its name, of which nothing is remembered.

        How a call ends that began before says nothing about it. Raises UnknownNameError.
        """
        service = self._new_service(feature)
        with self._lock:
            self._service(feature.name)
            self._services[feature.name] = service

    def remove_feature(self, service_name: str) -> FeatureFlag:
        """Forget a service; calls of it that have begun end as before. Raises UnknownNameError."""
        with self._lock:
            service = self._service(service_name)
            del self._services[service_name]
            return service.feature

    def _new_service(self, feature: FeatureFlag) -> _Service:
        if not isinstance(feature, FeatureFlag):
            raise TypeError(f"feature must be a FeatureFlag, not {feature!r}")
        check = feature.health_check and HealthCheck(
            feature.health_check, feature.name,
            limit=self._limit, cache=self._cache, clock=self._clock,
        )  # fmt: skip
        return _Service(feature, check)

    def check_service_health(self, service_name: str) -> ServiceLevel:
        """The level of a service now, by its health check if the cached result is too old.

        An async check cannot run here: the last known level is returned. Raises
        UnknownNameError, a KeyError, naming the known services.
        """
        return self._check(self._service(service_name))

    def _check(self, service: _Service) -> ServiceLevel:
        check = service.check
        if check is not None and service.feature.enabled and not check.is_async and check.begin():
            generation, health = service.generation, check.run()
            if health is not None:
                return self._set_level(service, generation, *health)
        return self._known_level(service)

    async def check_service_health_async(self, service_name: str) -> ServiceLevel:
        """As `check_service_health`, without blocking the loop; runs async checks too."""
        return await self._check_async(self._service(service_name))

    async def _check_async(self, service: _Service) -> ServiceLevel:
        check = service.check
        if check is not None and service.feature.enabled and check.begin():
            generation = service.generation
            level = self._set_level(service, generation, *await check.run_async())
            await self.listeners.notify_async()
            return level
        return self._known_level(service)

    def _service(self, name: str) -> _Service:
        try:
            return self._services[name]
        except KeyError:
            raise UnknownNameError("service", name, tuple(self._services)) from None

    def _known_level(self, service: _Service) -> ServiceLevel:
        if not service.feature.enabled:
            return _UNAVAILABLE
        due = service.retry_at
        if due is not None and service.check is None and self._clock.monotonic() >= due:
            return _FULL  # to be tried again; how it ends decides
        return service.level

    def execute_with_degradation(
        self,
        service_name: str,
        primary_func: Callable[[], Any],
        fallback_func: Callable[..., Any] | None = None,
        default_value: Any = NOTHING,
    ) -> Any:
        """Call the service, or else the fallback, or else return a default.

        Where primary or fallback is async (or returns an awaitable) the result is to be awaited.
        A fallback that takes an argument is given the error. When nothing is left, that of the
        last thing tried is raised, or ServiceFailureError if nothing was.
        """
        if kind_of(primary_func) is _COROUTINE:
            return self._execute_async(service_name, primary_func, fallback_func, default_value)
        if self.listeners.awaits:
            raise self.listeners.refusal(primary_func)
        service = self._service(service_name)
        less = fallback_func, default_value
        if service.check is not None and service.is_awaited(primary_func) and in_a_loop():
            return self._execute_async(service_name, partial(_call_and_await, primary_func), *less)
        level = self._check(service)
        if level is not _FULL or not (service.level is _FULL or self._may_probe(service)):
            return self._not_called(level, primary_func, service, *less)
        generation = service.generation
        try:
            result = primary_func()
        except BaseException as error:
            failed = self._primary_failed(service, generation, error)
            if failed is None:
                raise
            failure = failed
        else:
            if type(result) not in FINISHED and is_awaitable(result):
                service.async_primaries.add(_code_of(primary_func))
                return self._await_primary(service, generation, result, *less)
            if service.level is not _FULL:
                self._recovered(service, generation)
            return result
        return self._fall_back_for(primary_func, service, *less, failure)

    async def _execute_async(
        self, name: str, primary: Callable[[], Any], fallback: Any, default: Any
    ) -> Any:
        try:
            service = self._service(name)
            level = await self._check_async(service)
            if level is _FULL and (service.level is _FULL or self._may_probe(service)):
                result = await self._await_primary(
                    service, service.generation, primary(), fallback, default
                )
            else:
                level = service.level if level is _FULL else level
                fallback = None if level is _UNAVAILABLE else fallback
                failure = _not_tried(name, level)
                result = await self._fall_back_async(service, fallback, default, failure)
        except BaseException as error:
            await self.listeners.notify_async(error)
            raise
        if self.listeners.awaits:
            await self.listeners.notify_async()
        return result

    async def _await_primary(
        self,
        service: _Service,
        generation: int,
        call: Awaitable[Any],
        fallback: Any,
        default: Any,
    ) -> Any:
        try:
            result = await call
        except BaseException as error:
            failure = self._primary_failed(service, generation, error)
            if failure is None:
                raise
        else:
            if service.level is not _FULL:
                self._recovered(service, generation)
            return result
        return await self._fall_back_async(service, fallback, default, failure)

    def _not_called(
        self, level: ServiceLevel, primary: object, service: _Service, fallback: Any, default: Any
    ) -> Any:
        level = service.level if level is _FULL else level
        fallback = None if level is _UNAVAILABLE else fallback
        failure = _not_tried(service.feature.name, level)
        return self._fall_back_for(primary, service, fallback, default, failure)

    def _fall_back_for(
        self, primary: object, service: _Service, fallback: Any, default: Any, failure: _Failure
    ) -> Any:
        fall_back = self._fall_back_async if service.is_awaited(primary) else self._fall_back
        return fall_back(service, fallback, default, failure)

    def _fall_back(self, service: _Service, fallback: Any, default: Any, failure: _Failure) -> Any:
        if fallback is not None:
            try:
                result = fallback(failure[1]) if _takes_error(fallback) else fallback()
            except Exception as error:
                failure = _fallback_failed(failure, error)
            else:
                if is_awaitable(result):
                    return self._await_fallback(service, result, default, failure)
                self._fell_back(service, "fallback", failure)
                return result
        return self._default(service, default, failure)

    async def _fall_back_async(
        self, service: _Service, fallback: Any, default: Any, failure: _Failure
    ) -> Any:
        result = self._fall_back(service, fallback, default, failure)
        return await result if is_awaitable(result) else result

    async def _await_fallback(
        self, service: _Service, call: Awaitable[Any], default: Any, failure: _Failure
    ) -> Any:
        try:
            result = await call
        except Exception as error:
            return self._default(service, default, _fallback_failed(failure, error))
        self._fell_back(service, "fallback", failure)
        return result

    def _may_probe(self, service: _Service) -> bool:
        """Whether this call is the one that tries a service again that is not FULL."""
        now = self._clock.monotonic()
        with self._lock:
            due = service.retry_at is not None and now >= service.retry_at
            if due:  # and the next one later, should this one never end
                service.retry_at = now + self._recovery_time
                service.generation += 1  # how an earlier one ends says nothing any more
            return due

    def _primary_failed(
        self, service: _Service, generation: int, error: BaseException
    ) -> _Failure | None:
        """Why, and what to raise; None if the error says nothing about the service."""
        feature = service.feature
        counts = isinstance(error, Exception) and isinstance(error, feature.expected_exception)
        with self._lock:
            service.failures += counts
            current = generation == service.generation
            if current:
                now = self._clock.monotonic()
                service.retry_at = now + self._recovery_time if counts else now
        if not counts or not isinstance(error, Exception):
            return None
        reason = describe(error)
        self._set_level(service, generation, ServiceLevel.DEGRADED, f"it failed with {reason}")
        return reason, error

    def _recovered(self, service: _Service, generation: int) -> None:
        self._set_level(service, generation, _FULL, "it was tried again and answered")

    def _default(self, service: _Service, default: Any, failure: _Failure) -> Any:
        used, value = "default", default
        if value is NOTHING:
            used, value = "fallback_value", service.feature.fallback_value
        if value is NOTHING:
            raise failure[1]
        self._fell_back(service, used, failure)
        return value

    def _set_level(
        self, service: _Service, generation: int, new: ServiceLevel, reason: str
    ) -> ServiceLevel:
        """The level now: `new`, unless it has changed since `generation`."""
        with self._lock:
            if generation != service.generation:
                return service.level
            old, service.level = service.level, new
            if old is new:
                return new
            service.generation += 1
            if new is _FULL:  # not before: a child that is forked here must be able to try again
                service.retry_at = None
            at, name = self._clock.monotonic(), service.feature.name
            self._journal.add(LevelChanged(at=at, source=name, old=old, new=new, reason=reason))
        _logger.warning("%s: %s -> %s, %s", name, old.value, new.value, reason)
        self._journal.tell()
        return new

    def _fell_back(self, service: _Service, used: str, failure: _Failure) -> None:
        with self._lock:
            service.fallbacks += 1
        at, name = self._clock.monotonic(), service.feature.name
        self._journal.add(FellBack(at=at, source=name, used=used, reason=failure[0]))
        self._journal.tell()

    def get_service_status(self) -> dict[str, Any]:
        """All services and the whole, as `overall_status`.

        "healthy": every enabled service is FULL. "degraded": an enabled one is UNAVAILABLE, or
        none is FULL. "partial": anything between. Services that are switched off on purpose do
        not count. `timestamp` is in seconds since 1970.
        """
        services = {
            name: {
                "health": self._check(service).value,
                "enabled": service.feature.enabled,
                "failures": service.failures,
                "fallbacks": service.fallbacks,
            }
            for name, service in self._services.copy().items()
        }
        levels = [each["health"] for each in services.values() if each["enabled"]]
        full = levels.count(_FULL.value)
        if full == len(levels):
            overall = "healthy"
        elif full == 0 or _UNAVAILABLE.value in levels:
            overall = "degraded"
        else:
            overall = "partial"
        return {"overall_status": overall, "services": services, "timestamp": self._clock.time()}


def _takes_error(fallback: Callable[..., Any]) -> bool:
    """Whether a fallback wants to know the error: whether it needs an argument."""
    try:
        parameters = inspect.signature(fallback).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none to show
        return False
    return any(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )


async def _call_and_await(primary: Callable[[], Any]) -> Any:
    result = primary()
    return await result if is_awaitable(result) else result


def _code_of(func: Any) -> object:
    """What lambdas have in common that are made anew for each call."""
    return getattr(getattr(func, "func", func), "__code__", type(func))


def _not_tried(name: str, level: ServiceLevel) -> _Failure:
    error = ServiceFailureError(name, f"service {name!r} is {level.value}")
    return f"it is {level.value}", error


def _fallback_failed(failure: _Failure, error: Exception) -> _Failure:
    return f"{failure[0]}; its fallback: {describe(error)}", error
