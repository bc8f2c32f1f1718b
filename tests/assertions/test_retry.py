from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience import ManualClock
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.assertions import assert_backoff
from pytest_resilience.assertions import assert_retried
from pytest_resilience.assertions import assert_retry_exhausted


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
