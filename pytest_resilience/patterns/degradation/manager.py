"""Doing with less: fallbacks and defaults for services that fail."""

from __future__ import annotations

import logging
import threading

from collections import Counter
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ServiceFailureError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.degradation.features import NOTHING
from pytest_resilience.patterns.degradation.features import FeatureFlag
from pytest_resilience.patterns.degradation.features import HealthCheck
from pytest_resilience.patterns.degradation.features import ServiceLevel


__all__ = ["DegradationManager", "FellBack", "LevelChanged"]


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


_HISTORY = 1000  # events that are remembered
_COROUTINE = CallKind.COROUTINE
_FULL, _UNAVAILABLE = ServiceLevel.FULL, ServiceLevel.UNAVAILABLE

# Why a service did not answer: in words, and what is raised if nothing else does.
_Trouble = tuple[str, Exception]
_logger = logging.getLogger("pytest_resilience.degradation")


class DegradationManager:
    """Answers for services: with them while they are FULL, with less when they are not.

    A service whose primary fails is DEGRADED. With a health check it is FULL again when the
    check says so, without one it is tried again after `recovery_time`. Health checks are
    limited in time and remembered; no lock is held while one, or anything else of the user's,
    runs.

    Attributes:
        features: what was registered, by name.
        service_health: the levels as they are known, by name.
        listeners: told of every `LevelChanged` and `FellBack`.
    """

    def __init__(
        self,
        *,
        health_check_timeout: float = 5.0,
        health_check_cache: float = 1.0,
        recovery_time: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """All in seconds: what a check may take, how long its verdict holds, see the class."""
        self._limit = validation.number(
            "health_check_timeout", health_check_timeout, above_low=True
        )
        self._cache = validation.number("health_check_cache", health_check_cache)
        self._recovery = validation.number("recovery_time", recovery_time)
        self._clock = clock
        self.features: dict[str, FeatureFlag] = {}
        self.service_health: dict[str, ServiceLevel] = {}
        self.listeners = Listeners()
        self._checks: dict[str, HealthCheck] = {}
        self._retry_at: dict[str, float] = {}
        self._fallbacks: Counter[str] = Counter()
        self._history: deque[Event] = deque(maxlen=_HISTORY)
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def events(self) -> tuple[Event, ...]:
        """The latest events, at most 1000, oldest first."""
        return tuple(self._history)

    def register_feature(self, feature: FeatureFlag) -> None:
        """Take a service over. Raises DuplicateNameError if there is one of that name."""
        with self._lock:
            if feature.name in self.features:
                raise DuplicateNameError("service", feature.name)
            self.service_health[feature.name] = feature.service_level
            if feature.health_check is not None:
                self._checks[feature.name] = HealthCheck(
                    feature.health_check, limit=self._limit, cache=self._cache, clock=self._clock
                )
            self.features[feature.name] = feature

    def check_service_health(self, service_name: str) -> ServiceLevel:
        """The level of a service now, asking its health check if need be.

        An async check cannot be asked from here: what is known is given. Raises
        UnknownNameError, a KeyError, naming the known services.
        """
        known, check = self._known(service_name)
        if check is not None and not check.is_async and check.begin():
            return self._set(service_name, *check.ask())
        return known

    async def check_service_health_async(self, service_name: str) -> ServiceLevel:
        """As `check_service_health`, without blocking the loop; asks async checks too."""
        known, check = self._known(service_name)
        if check is not None and check.begin():
            return self._set(service_name, *await check.ask_async())
        return known

    def _known(self, name: str) -> tuple[ServiceLevel, HealthCheck | None]:
        """What is known, and the check that may know better."""
        feature = self._feature(name)
        if not feature.enabled:
            return _UNAVAILABLE, None
        check = self._checks.get(name)
        due = self._retry_at.get(name)
        if check is None and due is not None and self._clock.monotonic() >= due:
            return _FULL, None  # to be tried again; how it ends decides
        return self.service_health[name], check

    def _feature(self, name: str) -> FeatureFlag:
        try:
            return self.features[name]
        except KeyError:
            raise UnknownNameError("service", name, tuple(self.features)) from None

    def execute_with_degradation(
        self,
        service_name: str,
        primary_func: Callable[[], Any],
        fallback_func: Callable[[], Any] | None = None,
        default_value: Any = NOTHING,
    ) -> Any:
        """Call the service, or else the fallback, or else give a default.

        With a coroutine function as primary the result is to be awaited; its fallback may
        be of either kind. When there is nothing left (no fallback that works, no default,
        no `fallback_value`) the error of the last thing tried is raised; a service that was
        not tried raises ServiceFailureError.
        """
        if kind_of(primary_func) is _COROUTINE:
            return self._execute_async(service_name, primary_func, fallback_func, default_value)
        level = self.check_service_health(service_name)
        if level is _FULL:
            try:
                result = primary_func()
            except Exception as failure:
                trouble = self._failed(service_name, failure)
            else:
                if self.service_health[service_name] is not _FULL:
                    self._recovered(service_name)
                return result
        else:
            trouble = _not_tried(service_name, level)
        if fallback_func is not None and level is not _UNAVAILABLE:
            try:
                result = fallback_func()
            except Exception as failure:
                trouble = _fallback_failed(trouble, failure)
            else:
                self._fell_back(service_name, "fallback", trouble)
                return result
        return self._default(service_name, default_value, trouble)

    async def _execute_async(
        self, name: str, primary: Callable[[], Any], fallback: Any, default: Any
    ) -> Any:
        level = await self.check_service_health_async(name)
        if level is _FULL:
            try:
                result = await primary()
            except Exception as failure:
                trouble = self._failed(name, failure)
            else:
                if self.service_health[name] is not _FULL:
                    self._recovered(name)
                return result
        else:
            trouble = _not_tried(name, level)
        if fallback is not None and level is not _UNAVAILABLE:
            try:
                result = fallback()
                if kind_of(fallback) is _COROUTINE:
                    result = await result
            except Exception as failure:
                trouble = _fallback_failed(trouble, failure)
            else:
                self._fell_back(name, "fallback", trouble)
                return result
        return self._default(name, default, trouble)

    def _failed(self, name: str, error: Exception) -> _Trouble:
        reason = describe(error)
        with self._lock:
            self._retry_at[name] = self._clock.monotonic() + self._recovery
        self._set(name, ServiceLevel.DEGRADED, f"it failed with {reason}")
        return reason, error

    def _recovered(self, name: str) -> None:
        with self._lock:
            self._retry_at.pop(name, None)
        self._set(name, _FULL, "it was tried again and answered")

    def _default(self, name: str, default: Any, trouble: _Trouble) -> Any:
        used, value = "default", default
        if value is NOTHING:
            used, value = "fallback_value", self.features[name].fallback_value
        if value is NOTHING:
            raise trouble[1]
        self._fell_back(name, used, trouble)
        return value

    def _set(self, name: str, new: ServiceLevel, reason: str) -> ServiceLevel:
        with self._lock:
            old, self.service_health[name] = self.service_health[name], new
        if old is not new:
            _logger.warning("%s: %s -> %s, %s", name, old.value, new.value, reason)
            at = self._clock.monotonic()
            self._tell(LevelChanged(at=at, source=name, old=old, new=new, reason=reason))
        return new

    def _fell_back(self, name: str, used: str, trouble: _Trouble) -> None:
        with self._lock:
            self._fallbacks[name] += 1
        at = self._clock.monotonic()
        self._tell(FellBack(at=at, source=name, used=used, reason=trouble[0]))

    def _tell(self, event: Event) -> None:
        self._history.append(event)
        self.listeners.emit(event)

    def get_service_status(self) -> dict[str, Any]:
        """All services and the whole, as `overall_status`.

        "healthy": every enabled service is FULL. "degraded": an enabled one is UNAVAILABLE, or
        none is FULL. "partial": anything between. Services that are switched off on purpose do
        not count. `timestamp` is in seconds since 1970.
        """
        services = {
            name: {
                "health": self.check_service_health(name).value,
                "enabled": feature.enabled,
                "fallbacks": self._fallbacks[name],
            }
            for name, feature in list(self.features.items())
        }
        levels = [each["health"] for each in services.values() if each["enabled"]]
        full = levels.count(ServiceLevel.FULL.value)
        if full == len(levels):
            overall = "healthy"
        elif full == 0 or ServiceLevel.UNAVAILABLE.value in levels:
            overall = "degraded"
        else:
            overall = "partial"
        return {"overall_status": overall, "services": services, "timestamp": self._clock.time()}


def _not_tried(name: str, level: ServiceLevel) -> _Trouble:
    error = ServiceFailureError(name, f"service {name!r} is {level.value}")
    return f"it is {level.value}", error


def _fallback_failed(trouble: _Trouble, error: Exception) -> _Trouble:
    return f"{trouble[0]}; its fallback: {describe(error)}", error
