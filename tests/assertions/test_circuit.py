from __future__ import annotations

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitState
from pytest_resilience import ManualClock
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_half_open
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_fails_fast


def broken() -> None:
    raise ConnectionError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> CircuitBreaker:
    config = CircuitBreakerConfig(failure_threshold=2, success_threshold=2, timeout=30.0)
    return CircuitBreaker(config, name="prices", clock=clock)


def test_each_holds_in_its_state_alone(breaker: CircuitBreaker, clock: ManualClock) -> None:
    def check(holds: str) -> None:
        for name, check_state in {
            "closed": assert_circuit_closed,
            "open": assert_circuit_open,
            "half open": assert_circuit_half_open,
        }.items():
            if name == holds:
                check_state(breaker)
            else:
                with pytest.raises(AssertionError, match="expected prices to be"):
                    check_state(breaker)

    check("closed")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(broken)
    check("open")
    clock.advance(30)
    check("open")  # asking does not let the breaker go on
    breaker.call(int)
    check("half open")


def test_a_failure_tells_the_counts_and_the_last_transitions(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(broken)
    clock.advance(31.5)
    breaker.call(int)
    with pytest.raises(AssertionError) as caught:
        assert_circuit_closed(breaker)
    assert str(caught.value).splitlines() == [
        "expected prices to be CLOSED, but it is HALF_OPEN",
        "  failures in a row: 0 (opens at 2)",
        "  successes half open: 1 (closes at 2)",
        "  +0.000s CLOSED -> OPEN: 2 failures in a row, with ConnectionError",
        "  +31.500s OPEN -> HALF_OPEN: its timeout was over",
    ]


def test_a_breaker_that_never_changed_says_so(breaker: CircuitBreaker) -> None:
    with pytest.raises(AssertionError, match="it has never changed its state"):
        assert_circuit_open(breaker)


def test_the_states_it_went_through(breaker: CircuitBreaker, clock: ManualClock) -> None:
    assert_circuit_transitions(breaker, ["CLOSED"])
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(broken)
    clock.advance(30)
    breaker.call(int)
    assert_circuit_transitions(breaker, [CircuitState.CLOSED, "OPEN", "HALF_OPEN"])
    with pytest.raises(AssertionError) as caught:
        assert_circuit_transitions(breaker, ["CLOSED", "OPEN", "CLOSED"])
    assert str(caught.value).startswith(
        "expected prices to go CLOSED -> OPEN -> CLOSED, but it went CLOSED -> OPEN -> HALF_OPEN\n"
        "  failures in a row: 0"
    )


def test_an_open_breaker_fails_fast(breaker: CircuitBreaker) -> None:
    with pytest.raises(AssertionError, match="to refuse a call, but it lets one through"):
        assert_fails_fast(breaker)
    breaker.force_open()
    before = breaker.get_stats()
    assert_fails_fast(breaker, within=5)
    assert breaker.get_stats() == {**before, "total_rejected": 1}  # as it was asked, and counts
    with pytest.raises(AssertionError, match=r"within -1 s, but it took"):
        assert_fails_fast(breaker, within=-1)


def test_one_whose_time_is_over_lets_a_call_through_and_stays_as_it_is(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(broken)
    assert_fails_fast(breaker)
    clock.advance(30)
    before = breaker.get_stats()
    with pytest.raises(AssertionError, match="to refuse a call"):
        assert_fails_fast(breaker)
    assert breaker.get_stats() == before


def test_half_open_it_fails_fast_while_its_trial_calls_are_in_progress(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(broken)
    clock.advance(30)
    trials = [breaker.acquire(), breaker.acquire()]
    assert_fails_fast(breaker)
    trials[0].release()
    with pytest.raises(AssertionError, match="to refuse a call"):
        assert_fails_fast(breaker)


def test_a_decorated_function_stands_for_its_breaker(breaker: CircuitBreaker) -> None:
    protected = breaker(broken)
    assert_circuit_closed(protected)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            protected()
    assert_circuit_open(protected)
    assert_fails_fast(protected)


def test_a_window_is_told_with_its_calls() -> None:
    config = CircuitBreakerConfig(failure_rate_threshold=0.5, window_size=4, minimum_calls=4)
    breaker = CircuitBreaker(config, name="prices", clock=ManualClock())
    breaker.call(int)
    with pytest.raises(AssertionError, match="failures: 0 of 1 calls in its window"):
        assert_circuit_open(breaker)
