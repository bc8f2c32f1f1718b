"""Patterns that protect code from what fails around it. Usable in production.

Nothing in here, nor below it, imports pytest, requests, responses or psutil.
"""

from __future__ import annotations

from pytest_resilience.errors import CircuitBreakerError
from pytest_resilience.patterns.breaker import CircuitBreaker
from pytest_resilience.patterns.breaker_calls import Permit
from pytest_resilience.patterns.breaker_config import CircuitBreakerConfig
from pytest_resilience.patterns.breaker_config import Outcome
from pytest_resilience.patterns.breaker_events import CircuitRejection
from pytest_resilience.patterns.breaker_events import CircuitState
from pytest_resilience.patterns.breaker_events import CircuitTransition
from pytest_resilience.patterns.registry import CircuitBreakerRegistry


__all__ = [
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "CircuitBreakerRegistry",
    "CircuitRejection",
    "CircuitState",
    "CircuitTransition",
    "Outcome",
    "Permit",
]
