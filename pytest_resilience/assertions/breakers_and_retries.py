"""Assertions about circuit breakers and retries, of this package or another. None changes one.

A breaker is given, or a function that one decorates.

Of retries the latest call is looked at that was tried again, or given up. One that succeeds at its
first attempt leaves no trace, nor does one that first raises what is not to be tried again. What
stands for a retry: a `RetryHandler` or a function it decorates; of tenacity a `Retrying`, a
decorated function or the `RetryError`; of urllib3 the response (of requests too); of stamina and
backoff, which keep nothing, a list that their hooks append to. What a library keeps no record of
raises TypeError.
"""

from __future__ import annotations

import itertools

from collections.abc import Callable
from collections.abc import Sequence
from typing import TypeVar

from pytest_resilience.assertions.readings import CircuitReading
from pytest_resilience.assertions.readings import RetryReading
from pytest_resilience.assertions.readings import read_circuit
from pytest_resilience.assertions.readings import read_retry
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.patterns.circuit_breaker.states import CircuitState


__all__ = [
    "assert_backoff", "assert_circuit_closed", "assert_circuit_half_open", "assert_circuit_open",
    "assert_circuit_state", "assert_circuit_transitions", "assert_fails_fast", "assert_retried",
    "assert_retry_exhausted",
]  # fmt: skip
_T = TypeVar("_T")
_EPSILON = 1e-9  # seconds: what adding up floats leaves
_SHOWN = 20  # lines of a timeline


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
            f"{_circuit_timeline(reading)}"
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
            f"{_path(reading.path)}\n{_circuit_timeline(reading)}"
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
            f"{_circuit_timeline(reading)}"
        )
    if taken > within:
        raise AssertionError(
            f"expected {reading.name} to refuse a call within {within:g} s, but it took "
            f"{taken:.3g} s\n{_circuit_timeline(reading)}"
        )


def _is_refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:  # each library has an error of its own for that
        return True
    return False


def _path(states: Sequence[str]) -> str:
    return " -> ".join(states) or "nowhere"


def _circuit_timeline(reading: CircuitReading) -> str:
    return "\n".join(f"  {line}" for line in reading.timeline)


def assert_retried(retry: object, *, attempts: int | None = None) -> None:
    """Raise AssertionError unless the latest call was tried again.

    Args:
        retry: whose latest call is looked at.
        attempts: the calls that must have been made, the first included; None: 2 or more.
    """
    __tracebackhide__ = True
    reading = read_retry(retry)
    made = _kept(reading, "attempts", reading.attempts)
    if made < 2 if attempts is None else made != attempts:
        wanted = "2 attempts or more" if attempts is None else _count(attempts)
        raise AssertionError(
            f"expected {reading.name} to make {wanted}, but {_made(reading)}\n"
            f"{_retry_timeline(reading)}"
        )


def assert_retry_exhausted(retry: object, *, attempts: int | None = None) -> None:
    """Raise AssertionError unless the latest call was given up.

    Args:
        retry: whose latest call is looked at.
        attempts: the calls that must have been made by then, the first included.
    """
    __tracebackhide__ = True
    reading = read_retry(retry)
    exhausted = _kept(reading, "end", reading.exhausted)
    if not exhausted or attempts not in (None, reading.attempts):
        after = "" if attempts is None else f" after {_count(attempts)}"
        gave_up = exhausted or not reading.attempts
        did = _made(reading) + ("" if gave_up else " and did not give up")
        raise AssertionError(
            f"expected {reading.name} to give up{after}, but {did}\n{_retry_timeline(reading)}"
        )


def assert_backoff(retry: object, waits: Sequence[float], *, tolerance: float = 0.1) -> None:
    """Raise AssertionError unless the waits of the latest call were these.

    Args:
        retry: whose latest call is looked at.
        waits: seconds before the second attempt, the third, …
        tolerance: by which share of it each may differ; 0.1 is what `jitter=True` does.

    Of a retry that keeps only the sum of its waits, as tenacity does, their number and their
    sum are compared.
    """
    __tracebackhide__ = True
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance!r}: give a share of at least 0, such as 0.1")
    reading = read_retry(retry)
    if reading.waits is None and reading.attempts is not None:
        _assert_sum(reading, waits, tolerance)
        return
    seen_waits = _kept(reading, "waits", reading.waits)
    wrong = [
        f"wait {number} is {'missing' if seen is None else f'{seen:.3g} s'}"
        for number, (seen, wanted) in enumerate(itertools.zip_longest(seen_waits, waits), 1)
        if seen is None or wanted is None or abs(seen - wanted) > wanted * tolerance + _EPSILON
    ]
    if wrong:
        raise AssertionError(
            f"expected {reading.name} to wait {_list(waits)} (within {tolerance:.0%}), but it "
            f"waited {_list(seen_waits)}: {', '.join(wrong)}\n{_retry_timeline(reading)}"
        )


def _assert_sum(reading: RetryReading, waits: Sequence[float], tolerance: float) -> None:
    __tracebackhide__ = True
    waited = _kept(reading, "waits", reading.waited)
    wanted = sum(waits)
    if reading.attempts != len(waits) + 1 or abs(waited - wanted) > wanted * tolerance + _EPSILON:
        raise AssertionError(
            f"expected {reading.name} to wait {_list(waits)}: {wanted:.3g} s in all, within "
            f"{tolerance:.0%}; but {_made(reading)} and waited {waited:.3g} s in all\n"
            f"{_retry_timeline(reading)}"
        )


def _kept(reading: RetryReading, what: str, value: _T | None) -> _T:
    if value is None:
        raise TypeError(
            f"{reading.name} keeps no record of the {what} of a call; assert what the called "
            "function saw, or use the fixture retry_handler, which keeps it"
        )
    return value


def _count(attempts: int) -> str:
    return f"{attempts} attempt{'' if attempts == 1 else 's'}"


def _list(waits: Sequence[float]) -> str:
    return ", ".join(f"{wait:.3g} s" for wait in waits) or "not at all"


def _made(reading: RetryReading) -> str:
    made = reading.attempts
    return f"it made {_count(made)}" if made else "it tried no call again"


def _retry_timeline(reading: RetryReading) -> str:
    if not reading.timeline:
        return "  (what succeeds at its first attempt, or may not be tried again, leaves no trace)"
    hidden = len(reading.timeline) - _SHOWN
    earlier = [f"  ({hidden} lines before)"] if hidden > 0 else []
    return "\n".join([*earlier, *(f"  {line}" for line in reading.timeline[-_SHOWN:])])
