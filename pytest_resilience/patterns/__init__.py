"""Patterns that protect code from what fails around it. Usable in production.

Nothing in here, nor below it, imports pytest, requests, responses or psutil.
"""

from __future__ import annotations

from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.patterns.breaker import CircuitBreaker
from pytest_resilience.patterns.breaker import CircuitBreakerConfig
from pytest_resilience.patterns.breaker_events import CircuitState
from pytest_resilience.patterns.breaker_events import CircuitTransition


__all__ = [
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "CircuitState",
    "CircuitTransition",
]
