"""Assertions about circuit breakers. None of them changes the breaker it looks at."""

from __future__ import annotations

from pytest_resilience.patterns.breaker import CircuitBreaker
from pytest_resilience.patterns.breaker_events import CircuitState


__all__ = ["assert_circuit_closed", "assert_circuit_half_open", "assert_circuit_open"]

_SHOWN = 10  # transitions in a message


def assert_circuit_open(breaker: CircuitBreaker) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is OPEN."""
    __tracebackhide__ = True
    _assert_state(breaker, CircuitState.OPEN)


def assert_circuit_closed(breaker: CircuitBreaker) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is CLOSED."""
    __tracebackhide__ = True
    _assert_state(breaker, CircuitState.CLOSED)


def assert_circuit_half_open(breaker: CircuitBreaker) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is HALF_OPEN."""
    __tracebackhide__ = True
    _assert_state(breaker, CircuitState.HALF_OPEN)


def _assert_state(breaker: CircuitBreaker, expected: CircuitState) -> None:
    __tracebackhide__ = True
    if breaker.state is not expected:
        raise AssertionError(
            f"expected {breaker.name} to be {expected.value}, but it is {breaker.state.value}\n"
            f"{_story(breaker)}"
        )


def _story(breaker: CircuitBreaker) -> str:
    """The counts, and the last transitions with the seconds since the first of them."""
    stats, config = breaker.get_stats(), breaker.config
    lines = [
        f"  failures in a row: {stats['failure_count']} (opens at {config.failure_threshold})",
        f"  successes half open: {stats['success_count']} (closes at {config.success_threshold})",
    ]
    transitions = breaker.transitions[-_SHOWN:]
    lines += [
        f"  +{each.at - transitions[0].at:.3f}s {each.old.value} -> {each.new.value}: {each.reason}"
        for each in transitions
    ]
    return "\n".join(lines if transitions else [*lines, "  it has never changed its state"])
