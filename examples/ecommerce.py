"""A shop that does with less when one of its services fails, and with all when it is back."""

from __future__ import annotations

from typing import Any

import requests

from pytest_resilience import Clock
from pytest_resilience import DegradationManager
from pytest_resilience import FeatureFlag
from pytest_resilience import SystemClock


POPULAR = [{"id": "pop1", "title": "Popular item", "score": 0.6}]


class ECommerceService:
    """Recommendations, payments, stock and search, each from a service of its own."""

    def __init__(self, base_url: str, *, clock: Clock | None = None) -> None:
        self.base_url = base_url
        self.cache: dict[str, Any] = {}
        self.queue: list[dict[str, Any]] = []
        self.degradation_manager = DegradationManager(
            recovery_time=30.0, clock=clock or SystemClock()
        )
        for name in ("recommendations", "payment", "inventory", "search"):
            self.degradation_manager.register_feature(FeatureFlag(name))

    def get_product_recommendations(self, user_id: str, product_id: str) -> list[Any]:
        """What else may please; what pleases everybody if nobody can say."""
        result: list[Any] = self.degradation_manager.execute_with_degradation(
            "recommendations",
            lambda: [self._get(f"recommendations/{user_id}/{product_id}")],
            lambda: POPULAR,
        )
        return result

    def process_payment(self, payment_data: dict[str, Any]) -> dict[str, Any]:
        """Pay now; or later, once, when payments work again."""
        result: dict[str, Any] = self.degradation_manager.execute_with_degradation(
            "payment",
            lambda: self._post("payments", payment_data),
            lambda: self._queue(payment_data),
        )
        return result

    def check_inventory(self, product_id: str) -> dict[str, Any]:
        """The stock; as it was when it was last known, if need be."""
        result: dict[str, Any] = self.degradation_manager.execute_with_degradation(
            "inventory",
            lambda: self._inventory(product_id),
            lambda: self.cache[product_id] | {"source": "cache"},
            {"stock": 0, "source": "unavailable"},
        )
        return result

    def search_products(self, query: str) -> list[Any]:
        """What was searched for; nothing, rather than an error."""
        result: list[Any] = self.degradation_manager.execute_with_degradation(
            "search", lambda: [self._get(f"search?q={query}")], default_value=[]
        )
        return result

    def get_service_status(self) -> dict[str, Any]:
        """Every service, and the whole."""
        return self.degradation_manager.get_service_status()

    def _inventory(self, product_id: str) -> dict[str, Any]:
        self.cache[product_id] = self._get(f"inventory/{product_id}")
        known: dict[str, Any] = self.cache[product_id]
        return known

    def _queue(self, payment_data: dict[str, Any]) -> dict[str, Any]:
        self.queue.append(payment_data)
        return {"status": "queued", "position": len(self.queue)}

    def _get(self, path: str) -> Any:
        response = requests.get(f"{self.base_url}/{path}", timeout=2)
        response.raise_for_status()
        return response.json()

    def _post(self, path: str, data: dict[str, Any]) -> Any:
        response = requests.post(f"{self.base_url}/{path}", json=data, timeout=2)
        response.raise_for_status()
        return response.json()
