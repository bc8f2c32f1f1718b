"""Reads our own `CircuitBreaker` and `RetryHandler`, and the functions they decorate."""

from __future__ import annotations

from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.state_machine import Circuit
from pytest_resilience.patterns.circuit_breaker.wrappers import Permit
from pytest_resilience.patterns.retry.attempts import HandlerState
from pytest_resilience.patterns.retry.attempts import RetryAborted
from pytest_resilience.patterns.retry.attempts import RetryEvent
from pytest_resilience.patterns.retry.attempts import RetryGaveUp
from pytest_resilience.patterns.retry.attempts import RetryScheduled
from pytest_resilience.patterns.retry.handler import RetryHandler


__all__ = ["read_own_patterns"]

_SHOWN = 10  # transitions in a timeline


def read_own_patterns(thing: object) -> CircuitReading | RetryReading | None:
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
