from __future__ import annotations

import contextlib
import itertools
import threading

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_resilience import CircuitBreaker
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


def test_all_who_ask_at_once_are_given_the_same_breaker() -> None:
    registry, together = CircuitBreakerRegistry(), threading.Barrier(8, timeout=30)

    def ask(_: int) -> list[CircuitBreaker]:
        together.wait()
        return [registry.get_or_create(str(number)) for number in range(200)]

    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(ask, range(8))
    assert all(each == first for each in others)


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


class Meddling:
    """A clock in whose every reading somebody else does something."""

    def __init__(self) -> None:
        self.meddle: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        self.meddle()
        return 0.0


def test_statistics_while_others_add_and_remove() -> None:
    clock = Meddling()
    registry = CircuitBreakerRegistry(clock=clock)  # type: ignore[arg-type]
    for name in ("a", "b", "c"):
        registry.create(name)
    numbers = itertools.count()

    def meddle() -> None:
        for name in registry.names:
            registry.remove(name)
        registry.create(f"z{next(numbers)}")

    clock.meddle = meddle
    assert list(registry.get_all_stats()) == ["a", "b", "c"]
    assert list(registry.get_all_stats()) == ["z2"]


def test_replacing_and_retiring() -> None:
    registry = CircuitBreakerRegistry()
    old = registry.get_or_create("prices", CircuitBreakerConfig(failure_threshold=2))
    assert old.config.failure_threshold == 2
    new = registry.replace("prices", CircuitBreakerConfig(failure_threshold=7))
    assert registry.get("prices") is new is not old
    assert new.config.failure_threshold == 7
    assert registry.remove("prices") is new
    for change in (registry.replace, registry.remove):
        with pytest.raises(UnknownNameError, match="no circuit breaker is named 'prices'"):
            change("prices")
    assert registry.names == ()


def test_all_who_remove_at_once_get_it_once() -> None:
    registry, together = CircuitBreakerRegistry(), threading.Barrier(8, timeout=30)
    for number in range(100):
        registry.create(str(number))

    def remove(_: int) -> int:
        together.wait()
        removed = 0
        for number in range(100):
            with contextlib.suppress(UnknownNameError):
                registry.remove(str(number))
                removed += 1
        return removed

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(remove, range(8))) == 100
