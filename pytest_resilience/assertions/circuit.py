"""Assertions about circuit breakers. None of them changes the breaker it looks at."""

from __future__ import annotations

import time

from collections.abc import Sequence

from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.patterns.breaker import CircuitBreaker
from pytest_resilience.patterns.breaker_events import CircuitState


__all__ = [
    "assert_circuit_closed",
    "assert_circuit_half_open",
    "assert_circuit_open",
    "assert_circuit_transitions",
    "assert_fails_fast",
]

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


def assert_circuit_transitions(
    breaker: CircuitBreaker, states: Sequence[CircuitState | str]
) -> None:
    """Raise AssertionError unless the breaker went through just these states.

    Args:
        breaker: whose transitions are read.
        states: the states in order, the first one included, as members or by name:
            `["CLOSED", "OPEN", "HALF_OPEN"]`.
    """
    __tracebackhide__ = True
    expected = [each.value if isinstance(each, CircuitState) else each for each in states]
    transitions = breaker.transitions
    first = transitions[0].old if transitions else breaker.state
    seen = [first.value, *(each.new.value for each in transitions)]
    if seen != expected:
        raise AssertionError(
            f"expected {breaker.name} to go {_path(expected)}, but it went {_path(seen)}\n"
            f"{_story(breaker)}"
        )


def assert_fails_fast(breaker: CircuitBreaker, *, within: float = 0.1) -> None:
    """Raise AssertionError unless the breaker refuses a call, in `within` seconds of real time.

    A call is asked for and, should it be let through, given back as one that says nothing. Only
    a breaker whose time was over is changed by that: it turns half open, as by any call.
    """
    __tracebackhide__ = True
    started = time.perf_counter()
    try:
        permit = breaker.acquire()
    except CircuitBreakerError:
        taken = time.perf_counter() - started
    else:
        permit.release()
        raise AssertionError(
            f"expected {breaker.name} to refuse a call, but it let one through\n{_story(breaker)}"
        )
    if taken > within:
        raise AssertionError(
            f"expected {breaker.name} to refuse a call within {within:g} s, but it took "
            f"{taken:.3g} s\n{_story(breaker)}"
        )


def _path(states: Sequence[str]) -> str:
    return " -> ".join(states) or "nowhere"


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
