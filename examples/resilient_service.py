"""A client that tries again, and stops trying when trying again does not help.

The breaker stands inside of the retry: it sees every attempt, opens when enough of them have
failed, and then ends the retry at once, whose further attempts would only add to the load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import Clock
from pytest_resilience import Pipeline
from pytest_resilience import RetryConfig
from pytest_resilience import RetryHandler
from pytest_resilience import SystemClock


class ResilientServiceClient:
    """Data that some cannot do without, and preferences that all can."""

    def __init__(self, base_url: str, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.base_url = base_url
        self.session = requests.Session()
        lost = (requests.ConnectionError, requests.Timeout)
        self.retry_handlers = {
            "critical": RetryHandler(
                RetryConfig(5, 0.5, 30.0, retryable_exceptions=(*lost, requests.HTTPError)),
                name="critical data",
                clock=clock,
            ),
            "normal": RetryHandler(
                RetryConfig(3, 1.0, 10.0, retryable_exceptions=lost),
                name="preferences",
                clock=clock,
            ),
        }
        self.circuit_breaker = CircuitBreaker(
            CircuitBreakerConfig(
                failure_threshold=5,
                success_threshold=3,
                timeout=60.0,
                expected_exception=(requests.RequestException,),
            ),
            name="service",
            clock=clock,
        )

    def get_critical_data(self, data_id: str) -> Any:
        """Data worth five attempts; server errors are tried again too."""
        return self._call("critical", f"critical-data/{data_id}")

    def get_user_preferences(self, user_id: str) -> Any:
        """Preferences, worth three attempts."""
        return self._call("normal", f"users/{user_id}/preferences")

    def _call(self, urgency: str, path: str) -> Any:
        protected: Callable[[str], Any] = Pipeline(
            self.retry_handlers[urgency], self.circuit_breaker
        )(self._get)
        return protected(path)

    def _get(self, path: str) -> Any:
        response = self.session.get(f"{self.base_url}/{path}", timeout=3)
        response.raise_for_status()
        return response.json()
