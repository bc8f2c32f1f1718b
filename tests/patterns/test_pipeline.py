from __future__ import annotations

import asyncio

from collections.abc import Callable
from typing import Any

import pytest

from pytest_resilience import BulkheadConfig
from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import ManualClock
from pytest_resilience import RateLimitBulkhead
from pytest_resilience import RetryConfig
from pytest_resilience import RetryExhaustedError
from pytest_resilience import RetryHandler
from pytest_resilience import SemaphoreBulkhead
from pytest_resilience.patterns.pipeline import Pipeline
from pytest_resilience.patterns.pipeline import PipelineOrderWarning
from pytest_resilience.patterns.pipeline import Step


def test_the_first_is_outermost() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def pattern(func: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any) -> Any:
                order.append(name)
                return func(*args)

            return noted

        return pattern

    assert Pipeline(note("a"), note("b"), note("c")).call(len, "xy") == 2
    assert order == ["a", "b", "c"]
    assert Pipeline()(len)("xy") == 2


def make() -> tuple[Pipeline, CircuitBreaker, RetryHandler]:
    clock = ManualClock()
    retry = RetryHandler(RetryConfig(max_attempts=3), name="again", clock=clock)
    breaker = CircuitBreaker(CircuitBreakerConfig(failure_threshold=2), name="db", clock=clock)
    return Pipeline(retry, breaker, SemaphoreBulkhead(name="places")), breaker, retry


def test_a_test_can_compare_what_it_is_made_of() -> None:
    pipeline, breaker, retry = make()
    assert pipeline.describe() == (
        Step(kind="RetryHandler", name="again", config=retry.config),
        Step(kind="CircuitBreaker", name="db", config=breaker.config),
        Step(kind="SemaphoreBulkhead", name="places", config=BulkheadConfig()),
    )


def test_patterns_work_together_for_sync_and_async() -> None:
    def broken() -> None:
        raise ConnectionError

    async def broken_later() -> None:
        raise ConnectionError

    pipeline, breaker, _ = make()
    with pytest.raises(RetryExhaustedError):
        pipeline.call(broken)
    assert breaker.transitions[0].new.value == "OPEN"
    pipeline, breaker, _ = make()
    with pytest.raises(RetryExhaustedError):
        asyncio.run(pipeline(broken_later)())
    assert breaker.transitions[0].new.value == "OPEN"


@pytest.mark.parametrize(
    ("outer", "text"),
    [
        (CircuitBreaker(), "CircuitBreaker outside RetryHandler: the breaker sees one failure"),
        (RateLimitBulkhead(), "RateLimitBulkhead outside RetryHandler: the retry's calls"),
    ],
)
def test_orders_known_to_be_wrong(outer: Any, text: str) -> None:
    with pytest.warns(PipelineOrderWarning, match=text):
        Pipeline(outer, SemaphoreBulkhead(), RetryHandler())


def test_what_is_no_decorator_is_refused() -> None:
    with pytest.raises(TypeError, match="3 cannot be put around a function"):
        Pipeline(3)  # type: ignore[arg-type]
