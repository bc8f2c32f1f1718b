from __future__ import annotations

import pytest

from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import DuplicateNameError
from pytest_resilience import UnknownNameError


def test_breakers_by_name_with_defaults() -> None:
    registry = CircuitBreakerRegistry(CircuitBreakerConfig(failure_threshold=7))
    prices = registry.get_or_create("prices")
    assert prices.name == "prices"
    assert prices.config.failure_threshold == 7
    assert registry.get_or_create("prices") is registry.get("prices") is prices
    stock = registry.create("stock", CircuitBreakerConfig(failure_threshold=2))
    assert stock.config.failure_threshold == 2
    assert set(registry.names) == {"prices", "stock"}
    assert registry.get_all_stats()["stock"]["state"] == "CLOSED"
    registry.remove("stock")
    assert "stock" not in registry.names


def test_a_name_is_given_once() -> None:
    registry = CircuitBreakerRegistry()
    registry.create("prices")
    with pytest.raises(DuplicateNameError, match="a circuit breaker named 'prices' exists"):
        registry.create("prices")


def test_an_unknown_name_is_told_the_known() -> None:
    registry = CircuitBreakerRegistry()
    registry.create("prices")
    with pytest.raises(UnknownNameError, match="no circuit breaker is named 'prizes'; known: 'pri"):
        registry.get("prizes")
    with pytest.raises(KeyError):
        registry.remove("prizes")
