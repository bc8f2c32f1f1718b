"""Defects of other libraries, and of the first draft of this one, that concern several patterns.

Those of one pattern are tested beside it, by the same names.
"""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
import time

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import BulkheadRejectedError
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerError
from pytest_resilience import DegradationManager
from pytest_resilience import Event
from pytest_resilience import FeatureFlag
from pytest_resilience import Hedging
from pytest_resilience import HedgingConfig
from pytest_resilience import ManualClock
from pytest_resilience import RetryBudget
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience.patterns import RateLimitBulkhead
from pytest_resilience.patterns import SemaphoreBulkhead


def broken() -> None:
    raise OSError


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="time zones cannot be set on this system")
def test_p5_time_zones_change_nothing(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=60.0))
        with pytest.raises(OSError):
            breaker.call(broken)
        with pytest.raises(CircuitBreakerError) as caught:
            breaker.call(int)
        assert caught.value.retry_after == pytest.approx(60, abs=30)
    time.tzset()


def test_seed_defect_wall_clock() -> None:
    """Somebody sets the machine's clock; nothing here notices."""
    clock = ManualClock(epoch=1_000_000.0)
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1, timeout=60.0), clock=clock)
    limit = RateLimitBulkhead(BulkheadConfig(max_concurrent=1, window_size=60.0), clock=clock)
    limit.acquire()
    with pytest.raises(OSError):
        breaker.call(broken)
    clock._offset += 86_400
    with pytest.raises(CircuitBreakerError) as refused:
        breaker.call(int)
    with pytest.raises(BulkheadRejectedError) as rejected:
        limit.acquire()
    assert refused.value.retry_after == rejected.value.retry_after == 60.0


def test_p15_nothing_runs_in_the_background() -> None:
    before = threading.enumerate()
    limit, slots = RateLimitBulkhead(), SemaphoreBulkhead()
    retry = RetryHandler(RetryConfig(budget=RetryBudget()))
    for guard in (limit, slots, retry, CircuitBreaker()):
        assert guard(int)() == 0
    assert DegradationManager().get_service_status()["overall_status"] == "healthy"
    assert threading.enumerate() == before


def test_the_patterns_need_neither_pytest_nor_http_libraries() -> None:
    code = "import sys, pytest_resilience.patterns as p; p.CircuitBreaker; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in shown.stdout.split()}
    assert "pytest_resilience" in loaded
    assert not loaded & {"pytest", "_pytest", "pluggy", "requests", "responses", "psutil"}


def fails_at_length() -> None:
    raise OSError("<" + "x" * 3_000_000 + ">")


def test_the_texts_of_errors_are_cut_wherever_they_are_kept_or_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """100 events of 3 MB each were 300 MB."""
    clock = ManualClock()
    retry = RetryHandler(RetryConfig(max_attempts=2), clock=clock)
    hedging = Hedging(HedgingConfig(delay=math.inf), clock=clock)
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=1), clock=clock)
    manager = DegradationManager(clock=clock)
    manager.register_feature(FeatureFlag("prices", fallback_value=0))
    told: list[Event] = []
    for listeners in (retry.listeners, hedging.listeners, manager.listeners, breaker.listeners,
                      breaker.call_listeners):  # fmt: skip
        listeners.add(told.append)
    with caplog.at_level(logging.DEBUG, "pytest_resilience"):
        with pytest.raises(RetryExhaustedError) as exhausted:
            retry.execute(fails_at_length)
        for call in (hedging.execute, breaker.call):
            with pytest.raises(OSError):
                call(fails_at_length)
        assert manager.execute_with_degradation("prices", fails_at_length, fails_at_length) == 0
    events = [*told, *retry.events, *manager.events, *breaker.transitions]
    assert len(told) == 7
    texts = [repr(event) for event in events] + caplog.messages + [str(exhausted.value)]
    assert max(map(len, texts)) < 1000
    assert sum("<xxx" in text for text in texts) > 5
