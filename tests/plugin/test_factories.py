from __future__ import annotations

import pytest


def test_patterns_on_a_clock_that_sleeping_moves(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import time

        import pytest

        from pytest_resilience import BulkheadConfig, BulkheadType, BulkheadRejectedError
        from pytest_resilience import CircuitBreakerError, FeatureFlag, RetryConfig
        from pytest_resilience import RetryExhaustedError

        def broken():
            raise ConnectionError

        def test_a_minute_in_no_time(
            manual_clock, circuit_breaker, retry_handler, bulkhead_manager, degradation_manager
        ):
            started = time.monotonic()
            breaker = circuit_breaker(failure_threshold=1, timeout=60.0, name="prices")
            with pytest.raises(ConnectionError):
                breaker.call(broken)
            with pytest.raises(CircuitBreakerError, match="prices is OPEN: try again in 60 s"):
                breaker.call(int)
            retry = retry_handler(RetryConfig(max_attempts=3, base_delay=30.0, jitter=False))
            with pytest.raises(RetryExhaustedError):
                retry.execute(broken)
            assert manual_clock.sleeps == [30.0, 60.0]
            assert breaker.call(int) == 0

            config = BulkheadConfig(max_concurrent=1, bulkhead_type=BulkheadType.RATE_LIMIT)
            limit = bulkhead_manager.create_bulkhead("mail", config)
            limit.execute(int)
            with pytest.raises(BulkheadRejectedError):
                limit.execute(int)
            manual_clock.advance(60)
            limit.execute(int)

            degradation_manager.register_feature(FeatureFlag("prices"))
            ask = degradation_manager.execute_with_degradation
            assert ask("prices", broken, None, 0) == 0
            manual_clock.advance(30)
            assert ask("prices", lambda: 4, None, 0) == 4
            assert time.monotonic() - started < 25

        def test_on_the_machines_clock(circuit_breaker, retry_handler):
            assert circuit_breaker().call(int) == 0
            assert retry_handler().execute(int) == 0
    """)
    pytester.runpytest().assert_outcomes(passed=2)


def test_pools_end_with_the_test_that_made_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        from pytest_resilience import ShutdownError

        made = []

        def test_first(bulkhead_manager):
            made.append(bulkhead_manager.create_bulkhead("db"))
            assert made[0].execute(int) == 0

        def test_second():
            with pytest.raises(ShutdownError):
                made[0].execute(int)
    """)
    pytester.runpytest().assert_outcomes(passed=2)


def test_they_say_what_they_are(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--fixtures")
    result.stdout.fnmatch_lines_random(
        [
            "manual_clock -- *",
            "circuit_breaker -- *",
            "retry_handler -- *",
            "bulkhead_manager -- *",
            "degradation_manager -- *",
        ]
    )
