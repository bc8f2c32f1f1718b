from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitState
from pytest_resilience import ManualClock
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.assertions import assert_backoff
from pytest_resilience.assertions import assert_circuit_closed
from pytest_resilience.assertions import assert_circuit_half_open
from pytest_resilience.assertions import assert_circuit_open
from pytest_resilience.assertions import assert_circuit_transitions
from pytest_resilience.assertions import assert_fails_fast
from pytest_resilience.assertions import assert_retried
from pytest_resilience.assertions import assert_retry_exhausted


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


def make(**config: Any) -> RetryHandler:
    settings = {"max_attempts": 4, "jitter": False, **config}
    return RetryHandler(RetryConfig(**settings), name="prices", clock=ManualClock())


def fail(handler: RetryHandler, times: int) -> RetryHandler:
    """One call that fails so many times."""
    errors = [ConnectionError(f"failure {number + 1}") for number in range(times)]

    def call() -> None:
        if errors:
            raise errors.pop(0)

    try:
        handler.execute(call)
    except RetryExhaustedError:
        assert times >= handler.config.max_attempts
    return handler


def complaint(check: Callable[[], None]) -> str:
    with pytest.raises(AssertionError) as caught:
        check()
    return str(caught.value)


def test_retried() -> None:
    handler = fail(make(), 2)
    assert_retried(handler)
    assert_retried(handler, attempts=3)
    assert complaint(lambda: assert_retried(handler, attempts=2)) == (
        "expected prices to make 2 attempts, but it made 3 attempts\n"
        "  +0.000s attempt 1 failed, ConnectionError: failure 1; the next in 1 s\n"
        "  +1.000s attempt 2 failed, ConnectionError: failure 2; the next in 2 s\n"
        "  +3.000s attempt 3 succeeded"
    )


def test_not_retried() -> None:
    assert complaint(lambda: assert_retried(fail(make(), 0))) == (
        "expected prices to make 2 attempts or more, but it tried no call again\n"
        "  (what succeeds at its first attempt, or may not be tried again, leaves no trace)"
    )
    given_up = fail(make(max_attempts=1), 1)
    assert_retried(given_up, attempts=1)
    assert "but it made 1 attempt\n" in complaint(lambda: assert_retried(given_up))


def test_the_latest_call_counts() -> None:
    handler = fail(fail(make(), 1), 2)
    assert_retried(handler, attempts=3)
    assert_backoff(handler, [1, 2])


def test_exhausted() -> None:
    handler = fail(make(), 4)
    assert_retry_exhausted(handler)
    assert_retry_exhausted(handler, attempts=4)
    text = complaint(lambda: assert_retry_exhausted(handler, attempts=3))
    assert text.startswith("expected prices to give up after 3 attempts, but it made 4 attempts\n")
    assert text.endswith(
        "\n  +7.000s attempt 4 failed, ConnectionError: failure 4; gave up: max_attempts=4"
    )


def test_not_exhausted() -> None:
    text = complaint(lambda: assert_retry_exhausted(fail(make(), 2)))
    assert text.startswith(
        "expected prices to give up, but it made 3 attempts and did not give up\n"
    )
    text = complaint(lambda: assert_retry_exhausted(fail(make(), 0)))
    assert text.startswith("expected prices to give up, but it tried no call again\n")


def test_a_call_that_something_else_ended() -> None:
    handler = make(retryable_exceptions=(ConnectionError,))
    errors = [ConnectionError(), KeyError("price")]

    def call() -> None:
        raise errors.pop(0)

    with pytest.raises(KeyError):
        handler.execute(call)
    assert_retried(handler, attempts=2)
    text = complaint(lambda: assert_retry_exhausted(handler))
    assert text.endswith("\n  +1.000s attempt 2 ended it, KeyError: 'price'")


def test_backoff() -> None:
    handler = fail(make(), 4)
    assert_backoff(handler, [1, 2, 4])
    assert_backoff(handler, [1.05, 1.9, 4.3])
    assert_backoff(handler, [1, 2, 4], tolerance=0)
    assert_backoff(fail(make(), 0), [])
    text = complaint(lambda: assert_backoff(handler, [1, 3, 4]))
    assert text.startswith(
        "expected prices to wait 1 s, 3 s, 4 s (within 10%), but it waited 1 s, 2 s, 4 s: "
        "wait 2 is 2 s\n  +0.000s attempt 1 failed"
    )
    assert "but it waited 1 s, 2 s, 4 s: wait 4 is missing\n" in complaint(
        lambda: assert_backoff(handler, [1, 2, 4, 8])
    )
    assert "to wait 1 s, 2 s (within 10%), but it waited 1 s, 2 s, 4 s: wait 3 is 4 s\n" in (
        complaint(lambda: assert_backoff(handler, [1, 2]))
    )
    assert "but it waited not at all: wait 1 is missing\n" in complaint(
        lambda: assert_backoff(make(), [1])
    )


@pytest.mark.parametrize("seed", range(20))
def test_backoff_with_the_jitter_of_the_default(seed: int) -> None:
    assert_backoff(fail(make(jitter=True), 4), [1, 2, 4])


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_a_tolerance_that_means_nothing(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"tolerance=.*: give a share of at least 0"):
        assert_backoff(make(), [], tolerance=tolerance)


def test_a_long_story_is_told_from_its_end() -> None:
    handler = fail(make(max_attempts=50), 50)
    lines = complaint(lambda: assert_retried(handler, attempts=1)).splitlines()
    assert lines[1] == "  (30 lines before)"
    assert len(lines) == 22
    assert "attempt 50 failed" in lines[-1]


def test_looking_changes_nothing() -> None:
    handler = fail(make(), 4)
    before = handler.events
    assert_retried(handler)
    assert_backoff(handler, [1, 2, 4])
    assert_retry_exhausted(handler)
    assert handler.events == before
