"""What the fixtures of the patterns give a test: factories on the test's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_resilience.clock import Clock
from pytest_resilience.patterns.breaker import CircuitBreaker
from pytest_resilience.patterns.breaker_config import CircuitBreakerConfig
from pytest_resilience.patterns.bulkhead_manager import BulkheadManager
from pytest_resilience.patterns.degradation import DegradationManager
from pytest_resilience.patterns.retry import RetryHandler
from pytest_resilience.patterns.retry_config import RetryConfig


__all__ = ["BreakerFactory", "RetryFactory", "bulkheads", "degradation"]


class BreakerFactory:
    """Makes circuit breakers: `circuit_breaker(failure_threshold=3, name="prices")`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(
        self,
        config: CircuitBreakerConfig | None = None,
        *,
        name: str = "circuit breaker",
        **fields: Any,
    ) -> CircuitBreaker:
        """A breaker from a configuration, or from its fields."""
        config = config or CircuitBreakerConfig(**fields)
        return CircuitBreaker(config, name=name, clock=self._clock)


class RetryFactory:
    """Makes retry handlers: `retry_handler(max_attempts=5, jitter=False)`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(
        self, config: RetryConfig | None = None, *, name: str = "retry", **fields: Any
    ) -> RetryHandler:
        """A handler from a configuration, or from its fields."""
        return RetryHandler(config or RetryConfig(**fields), name=name, clock=self._clock)


@contextmanager
def bulkheads(clock: Clock) -> Iterator[BulkheadManager]:
    """A manager whose pools end with the test; a call that hangs holds nobody up."""
    manager = BulkheadManager(clock=clock)
    try:
        yield manager
    finally:
        manager.shutdown_all(wait=False)


def degradation(clock: Clock) -> DegradationManager:
    """A manager without services."""
    return DegradationManager(clock=clock)
