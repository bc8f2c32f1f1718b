"""Assertions about services that make do with less, and about calls that work again in time.

None of those about degradation changes the manager, nor asks a health check.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any
from typing import TypeVar
from typing import overload

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.events import Event
from pytest_resilience.events import describe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.degradation import DegradationManager
from pytest_resilience.patterns.degradation import FellBack
from pytest_resilience.patterns.degradation import LevelChanged
from pytest_resilience.patterns.features import ServiceLevel


__all__ = ["assert_degraded", "assert_fallback_used", "assert_recovers"]

_EVENTS_SHOWN = 10  # events in a message
_R = TypeVar("_R")
_FAILURES_SHOWN = 20  # failures in a message


def assert_degraded(
    manager: DegradationManager, service: str, *, level: ServiceLevel | str | None = None
) -> None:
    """Raise AssertionError unless a service is degraded, as far as is known.

    Args:
        manager: who knows.
        service: its name. Raises UnknownNameError, a KeyError, naming the known.
        level: a `ServiceLevel` or its value, e.g. `"minimal"`; None: any but FULL. Raises
            ValueError for one that there is not.
    """
    __tracebackhide__ = True
    seen = _level(manager, service)
    wanted = None if level is None else ServiceLevel(level)
    if seen is ServiceLevel.FULL if wanted is None else seen is not wanted:
        expected = "degraded" if wanted is None else wanted.value
        raise AssertionError(
            f"expected {service} to be {expected}, but it is {seen.value}\n"
            f"{_timeline(manager, service)}"
        )


def assert_fallback_used(
    manager: DegradationManager, service: str, *, times: int | None = None, used: str | None = None
) -> None:
    """Raise AssertionError unless calls were answered by something less than the service.

    Args:
        manager: who gave the answers.
        service: its name. Raises UnknownNameError, a KeyError, naming the known.
        times: how often, among the latest 1000 events; None: once or more.
        used: only by this: "fallback", "default" or "fallback_value"; None: by any.
    """
    __tracebackhide__ = True
    _level(manager, service)
    fallbacks = [
        event
        for event in manager.events
        if isinstance(event, FellBack) and event.source == service and used in (None, event.used)
    ]
    seen = len(fallbacks)
    if seen < 1 if times is None else seen != times:
        what = used or "anything less"
        often = "" if times is None else f" {times} times"
        raise AssertionError(
            f"expected {service} to be replaced by {what}{often}, but it was {seen or 'never'}"
            f"{' times' if seen > 1 else ''}\n{_timeline(manager, service)}"
        )


def _level(manager: DegradationManager, service: str) -> ServiceLevel:
    try:
        feature = manager.features[service]
    except KeyError:
        raise UnknownNameError("service", service, tuple(manager.features)) from None
    return manager.service_health[service] if feature.enabled else ServiceLevel.UNAVAILABLE


def _timeline(manager: DegradationManager, service: str) -> str:
    events = [event for event in manager.events if event.source == service][-_EVENTS_SHOWN:]
    lines = [f"  +{event.at - events[0].at:.3f}s {_told(event)}" for event in events]
    return "\n".join(lines) or "  nothing has happened to it"


def _told(event: Event) -> str:
    if isinstance(event, LevelChanged):
        return f"{event.old.value} -> {event.new.value}: {event.reason}"
    assert isinstance(event, FellBack)
    return f"answered by its {event.used}: {event.reason}"


@overload
def assert_recovers(
    call: Callable[[], Awaitable[_R]], *, within: float, every: float = ..., clock: Clock = ...
) -> Awaitable[_R]: ...


@overload
def assert_recovers(
    call: Callable[[], _R], *, within: float, every: float = ..., clock: Clock = ...
) -> _R: ...


def assert_recovers(
    call: Callable[[], Any],
    *,
    within: float,
    every: float = 0.1,
    clock: Clock = MACHINE_CLOCK,
) -> Any:
    """Raise AssertionError unless `call` succeeds in time, tried again and again.

    Args:
        call: what is expected to work again, and may raise any `Exception` until then; for a
            coroutine function, await the assertion. One that never returns is waited for.
        within: seconds from now by which it has to have returned.
        every: seconds between the end of one call and the next.
        clock: what measures and waits; a `ManualClock` is moved by it.

    Returns:
        What `call` returned in the end.
    """
    __tracebackhide__ = True
    attempts = _Attempts(call, within, every, clock)
    if kind_of(call) is CallKind.COROUTINE:
        return attempts.run_async()
    return attempts.run()


class _Attempts:
    """The calls of one assertion."""

    def __init__(self, call: Callable[[], Any], within: float, every: float, clock: Clock) -> None:
        self._call = call
        self._within = validation.number("within", within, above_low=True)
        self._every = validation.number("every", every, above_low=True)
        self._clock = clock
        self._began = clock.monotonic()
        self._failures: list[tuple[float, Exception]] = []

    def run(self) -> Any:
        __tracebackhide__ = True
        while True:
            try:
                result = self._call()
            except Exception as error:
                self._failed(error)
            else:
                return self._succeeded(result)
            self._clock.sleep(self._every)

    async def run_async(self) -> Any:
        __tracebackhide__ = True
        while True:
            try:
                result = await self._call()
            except Exception as error:
                self._failed(error)
            else:
                return self._succeeded(result)
            await self._clock.asleep(self._every)

    def _failed(self, error: Exception) -> None:
        """Record a failure; raise if there is no time for another call."""
        __tracebackhide__ = True
        elapsed = self._clock.monotonic() - self._began
        self._failures.append((elapsed, error))
        if elapsed + self._every > self._within:
            times = len(self._failures)
            count = "once" if times == 1 else f"{times} times"
            raise AssertionError(self._message(f"failed {count}")) from error

    def _succeeded(self, result: Any) -> Any:
        __tracebackhide__ = True
        elapsed = self._clock.monotonic() - self._began
        if elapsed > self._within:  # it had begun in time
            raise AssertionError(self._message(f"took {elapsed:.3g} s"))
        return result

    def _message(self, what: str) -> str:
        name = getattr(self._call, "__qualname__", repr(self._call))
        hidden = len(self._failures) - _FAILURES_SHOWN
        lines = [f"({hidden} failures before)"] if hidden > 0 else []
        lines += [
            f"+{at:.3f}s {describe(error)}" for at, error in self._failures[-_FAILURES_SHOWN:]
        ]
        timeline = "".join(f"\n  {line}" for line in lines)
        return f"expected {name} to recover within {self._within:g} s, but it {what}{timeline}"
