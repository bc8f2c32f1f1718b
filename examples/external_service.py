"""A client whose circuit breakers stop calling a service that keeps failing.

Each endpoint has a breaker of its own: that payments fail is no reason to ask for no users.
"""

from __future__ import annotations

from typing import Any

import requests

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import Clock
from pytest_resilience import SystemClock


class ExternalServiceClient:
    """Users and payments of another system, over HTTP."""

    def __init__(self, base_url: str, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.base_url = base_url
        self.session = requests.Session()
        failures = (requests.RequestException,)
        self.circuit_breakers = {
            "payment": CircuitBreaker(
                CircuitBreakerConfig(3, 2, 30.0, failures), name="payment", clock=clock
            ),
            "user": CircuitBreaker(
                CircuitBreakerConfig(5, 3, 60.0, failures), name="user", clock=clock
            ),
        }

    def get_user(self, user_id: str) -> Any:
        """One user. Raises CircuitBreakerError without a call while users keep failing."""
        return self.circuit_breakers["user"].call(self._get, f"users/{user_id}")

    def process_payment(self, payment_data: dict[str, Any]) -> Any:
        """Pay. Raises CircuitBreakerError without a call while payments keep failing."""
        return self.circuit_breakers["payment"].call(self._post, "payments", payment_data)

    def get_health_status(self) -> dict[str, dict[str, Any]]:
        """What each breaker knows, by endpoint."""
        return {name: each.get_stats() for name, each in self.circuit_breakers.items()}

    def _get(self, path: str) -> Any:
        response = self.session.get(f"{self.base_url}/{path}", timeout=5)
        response.raise_for_status()
        return response.json()

    def _post(self, path: str, data: dict[str, Any]) -> Any:
        response = self.session.post(f"{self.base_url}/{path}", json=data, timeout=10)
        response.raise_for_status()
        return response.json()
