"""Assertions about degradation. None of them changes the manager, nor asks a health check."""

from __future__ import annotations

from pytest_resilience.errors import UnknownNameError
from pytest_resilience.events import Event
from pytest_resilience.patterns.degradation.features import ServiceLevel
from pytest_resilience.patterns.degradation.manager import DegradationManager
from pytest_resilience.patterns.degradation.manager import FellBack
from pytest_resilience.patterns.degradation.manager import LevelChanged


__all__ = ["assert_degraded", "assert_fallback_used"]

_SHOWN = 10  # events in a message


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
    events = [event for event in manager.events if event.source == service][-_SHOWN:]
    lines = [f"  +{event.at - events[0].at:.3f}s {_told(event)}" for event in events]
    return "\n".join(lines) or "  nothing has happened to it"


def _told(event: Event) -> str:
    if isinstance(event, LevelChanged):
        return f"{event.old.value} -> {event.new.value}: {event.reason}"
    assert isinstance(event, FellBack)
    return f"answered by its {event.used}: {event.reason}"
