"""The readers of breakers and retries: those added, our own, and one for each library.

A reader is asked only when its library is loaded: else no object can be of it.
"""

from __future__ import annotations

import sys

from collections.abc import Callable
from types import CellType
from typing import TypeVar

from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.assertions.readings import Reader
from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.assertions.readings import read_aiobreaker
from pytest_resilience.assertions.readings import read_circuitbreaker
from pytest_resilience.assertions.readings import read_hook_events
from pytest_resilience.assertions.readings import read_purgatory
from pytest_resilience.assertions.readings import read_pybreaker
from pytest_resilience.assertions.readings import read_tenacity
from pytest_resilience.assertions.readings import read_urllib3
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.circuit import Circuit
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit
from pytest_resilience.patterns.retry.attempts import HandlerState
from pytest_resilience.patterns.retry.attempts import RetryAborted
from pytest_resilience.patterns.retry.attempts import RetryEvent
from pytest_resilience.patterns.retry.attempts import RetryGaveUp
from pytest_resilience.patterns.retry.attempts import RetryScheduled
from pytest_resilience.patterns.retry.handler import RetryHandler


__all__ = ["add_reader", "read_circuit", "read_retry"]

_SHOWN = 10  # transitions in a timeline
_Reading = TypeVar("_Reading", CircuitReading, RetryReading)

_LIBRARIES: dict[str, Reader] = {
    "pybreaker": read_pybreaker,
    "circuitbreaker": read_circuitbreaker,
    "aiobreaker": read_aiobreaker,
    "purgatory": read_purgatory,
    "tenacity": read_tenacity,
    "urllib3": read_urllib3,
}
_added: list[Reader] = []


def add_reader(reader: Reader) -> Callable[[], None]:
    """Ask `reader` too, before all others. Returns a function that removes it."""
    _added.append(reader)
    return lambda: _added.remove(reader)


def read_circuit(breaker: object) -> CircuitReading:
    """Read a breaker, or a function it decorates. Raises TypeError if no reader knows it."""
    __tracebackhide__ = True
    return _read(breaker, CircuitReading, "a circuit breaker")


def read_retry(retry: object) -> RetryReading:
    """Read a retry, or a function it decorates. Raises TypeError if no reader knows it."""
    __tracebackhide__ = True
    return _read(retry, RetryReading, "a retry")


def _read(thing: object, kind: type[_Reading], what: str) -> _Reading:
    __tracebackhide__ = True
    readers = _readers()
    for each in _candidates(thing):
        for reader in readers:
            reading = reader(each)
            if isinstance(reading, kind):
                return reading
    raise TypeError(
        f"{thing!r} cannot be read as {what}; for one of a library that is not known, add a "
        "reader with the hook pytest_resilience_adapters, or with add_reader"
    )


def _candidates(thing: object) -> list[object]:
    """The object, and what a function's closure holds: there its decorator is."""
    # Decorators of most libraries keep themselves in a variable of the function they return.
    cells: tuple[CellType, ...] = getattr(thing, "__closure__", None) or ()
    return [thing, *(each.cell_contents for each in cells if _is_filled(each))]


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # the only way to ask
    except ValueError:
        return False
    return True


def _readers() -> list[Reader]:
    loaded = [read for library, read in _LIBRARIES.items() if library in sys.modules]
    return [*reversed(_added), _read_own_patterns, *loaded, read_hook_events]


def _read_own_patterns(thing: object) -> CircuitReading | RetryReading | None:
    """Read a `CircuitBreaker`, a `RetryHandler`, or what they leave in a decorated function."""
    if isinstance(thing, CircuitBreaker):
        return _read_circuit(thing._circuit)  # noqa: SLF001  # asking `acquire` would change it
    if isinstance(thing, Circuit):
        return _read_circuit(thing)
    if isinstance(thing, RetryHandler):
        return _read_retry(thing.name, thing.events)
    if isinstance(thing, HandlerState):
        return _read_retry(thing.name, thing.history)
    return None


def _read_circuit(circuit: Circuit) -> CircuitReading:
    history = circuit.history()
    first = history[0].old if history else circuit.state
    return CircuitReading(
        name=circuit.name,
        state=circuit.state.value,
        path=(first.value, *(each.new.value for each in history)),
        timeline=_circuit_timeline(circuit),
        refuses=circuit.rejects(),
        ask=lambda: Permit(circuit, circuit.acquire_permit()),
    )


def _circuit_timeline(circuit: Circuit) -> tuple[str, ...]:
    """The counts, and the last transitions with the seconds since the first of them."""
    numbers, config = circuit.statistics(), circuit.counts.config
    counts = (
        f"failures in a row: {numbers['failure_count']} (opens at {config.failure_threshold})"
        if circuit.counts.window is None
        else f"failures: {numbers['failure_count']} of {numbers['window_calls']} calls in its "
        f"window (opens at {config.failure_rate_threshold:.0%})",
        f"successes half open: {numbers['success_count']} (closes at {config.success_threshold})",
    )
    history = circuit.history()[-_SHOWN:]
    changes = tuple(
        f"+{each.at - history[0].at:.3f}s {each.old.value} -> {each.new.value}: {each.reason}"
        for each in history
    )
    return (*counts, *(changes or ("it has never changed its state",)))


def _read_retry(name: str, events: tuple[RetryEvent, ...]) -> RetryReading:
    call = max((each.call for each in events), default=0)
    latest = [each for each in events if each.call == call]
    waits = tuple(each.delay for each in latest if isinstance(each, RetryScheduled))
    return RetryReading(
        name=name,
        attempts=latest[-1].attempt if latest else 0,
        waits=waits,
        waited=sum(waits),
        exhausted=bool(latest) and isinstance(latest[-1], RetryGaveUp),
        timeline=tuple(f"+{each.at - latest[0].at:.3f}s {_told(each)}" for each in latest),
    )


def _told(event: RetryEvent) -> str:
    attempt = f"attempt {event.attempt}"
    if isinstance(event, RetryScheduled):
        return f"{attempt} failed, {event.failure}; the next in {event.delay:.3g} s"
    if isinstance(event, RetryGaveUp):
        return f"{attempt} failed, {event.failure}; gave up: {event.reason}"
    if isinstance(event, RetryAborted):
        return f"{attempt} ended it, {event.failure}"
    return f"{attempt} succeeded"
