"""Assertions about circuit breakers, of this package or another. None of them changes one.

A breaker is given, or a function that one decorates.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

from pytest_resilience.assertions.readers import read_circuit
from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.patterns.circuit_breaker.states import CircuitState


__all__ = [
    "assert_circuit_closed",
    "assert_circuit_half_open",
    "assert_circuit_open",
    "assert_circuit_state",
    "assert_circuit_transitions",
    "assert_fails_fast",
]


def assert_circuit_open(breaker: object) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is OPEN."""
    __tracebackhide__ = True
    assert_circuit_state(breaker, CircuitState.OPEN)


def assert_circuit_closed(breaker: object) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is CLOSED."""
    __tracebackhide__ = True
    assert_circuit_state(breaker, CircuitState.CLOSED)


def assert_circuit_half_open(breaker: object) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is HALF_OPEN."""
    __tracebackhide__ = True
    assert_circuit_state(breaker, CircuitState.HALF_OPEN)


def assert_circuit_state(breaker: object, state: CircuitState | str) -> None:
    """Raise AssertionError, telling how it came to that, unless the breaker is in this state.

    Args:
        breaker: of this package or another.
        state: a member, or its name: `"FORCED_OPEN"`, `"METRICS_ONLY"`, …
    """
    __tracebackhide__ = True
    expected = state.value if isinstance(state, CircuitState) else state
    reading = read_circuit(breaker)
    if reading.state != expected:
        raise AssertionError(
            f"expected {reading.name} to be {expected}, but it is {reading.state}\n"
            f"{_timeline(reading)}"
        )


def assert_circuit_transitions(breaker: object, states: Sequence[CircuitState | str]) -> None:
    """Raise AssertionError unless the breaker went through just these states.

    Args:
        breaker: whose transitions are read. Raises TypeError for one that keeps no record.
        states: the states in order, the first one included, as members or by name:
            `["CLOSED", "OPEN", "HALF_OPEN"]`.
    """
    __tracebackhide__ = True
    expected = tuple(each.value if isinstance(each, CircuitState) else each for each in states)
    reading = read_circuit(breaker)
    if reading.path is None:
        raise TypeError(
            f"{reading.name} keeps no record of its transitions; assert its state between the "
            "calls, or collect them with a listener of its library"
        )
    if reading.path != expected:
        raise AssertionError(
            f"expected {reading.name} to go {_path(expected)}, but it went "
            f"{_path(reading.path)}\n{_timeline(reading)}"
        )


def assert_fails_fast(breaker: object, *, within: float = 0.1) -> None:
    """Raise AssertionError unless the breaker refuses a call, in `within` seconds of real time.

    A call is asked for only if it will be refused: a breaker whose time is over stays as it is.
    It counts among the rejected ones.
    """
    __tracebackhide__ = True
    started = MACHINE_CLOCK.monotonic()
    reading = read_circuit(breaker)
    # A breaker whose time is over would let the call through, and change its state by that.
    refused = reading.refuses and (reading.ask is None or _is_refused(reading.ask))
    taken = MACHINE_CLOCK.monotonic() - started
    if not refused:
        raise AssertionError(
            f"expected {reading.name} to refuse a call, but it lets one through\n"
            f"{_timeline(reading)}"
        )
    if taken > within:
        raise AssertionError(
            f"expected {reading.name} to refuse a call within {within:g} s, but it took "
            f"{taken:.3g} s\n{_timeline(reading)}"
        )


def _is_refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:  # each library has an error of its own for that
        return True
    return False


def _path(states: Sequence[str]) -> str:
    return " -> ".join(states) or "nowhere"


def _timeline(reading: CircuitReading) -> str:
    return "\n".join(f"  {line}" for line in reading.timeline)
