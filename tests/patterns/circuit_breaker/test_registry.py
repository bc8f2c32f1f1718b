from __future__ import annotations

import contextlib
import itertools
import threading

from concurrent.futures import ThreadPoolExecutor

import pytest

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_resilience import CircuitBreaker
from pytest_resilience import CircuitBreakerConfig
from pytest_resilience import CircuitBreakerRegistry
from pytest_resilience import DuplicateNameError
from pytest_resilience import UnknownNameError
from tests.patterns.meddling import Meddling


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


NAMES = st.sampled_from("abc")
THRESHOLDS = st.none() | st.integers(2, 9)


class RegistryMachine(RuleBasedStateMachine):
    """The registry against a dictionary."""

    @initialize(default=st.integers(2, 9))
    def begin(self, default: int) -> None:
        self.default = default
        self.registry = CircuitBreakerRegistry(CircuitBreakerConfig(failure_threshold=default))
        self.known: dict[str, CircuitBreaker] = {}
        self.failures: dict[str, int] = {}

    def created(self, breaker: CircuitBreaker, name: str, threshold: int | None) -> None:
        assert breaker.name == name
        assert breaker.config.failure_threshold == (threshold or self.default)
        assert breaker not in self.known.values()
        self.known[name], self.failures[name] = breaker, 0

    def config(self, threshold: int | None) -> CircuitBreakerConfig | None:
        return None if threshold is None else CircuitBreakerConfig(failure_threshold=threshold)

    @rule(name=NAMES, threshold=THRESHOLDS)
    def create(self, name: str, threshold: int | None) -> None:
        if name in self.known:
            with pytest.raises(DuplicateNameError, match=name):
                self.registry.create(name, self.config(threshold))
        else:
            self.created(self.registry.create(name, self.config(threshold)), name, threshold)

    @rule(name=NAMES, threshold=THRESHOLDS)
    def get_or_create(self, name: str, threshold: int | None) -> None:
        found = self.registry.get_or_create(name, self.config(threshold))
        if name in self.known:
            assert found is self.known[name]
        else:
            self.created(found, name, threshold)

    @rule(name=NAMES, threshold=THRESHOLDS)
    def replace(self, name: str, threshold: int | None) -> None:
        if name in self.known:
            found = self.registry.replace(name, self.config(threshold))
            assert found is not self.known.pop(name)
            self.created(found, name, threshold)
        else:
            with pytest.raises(UnknownNameError, match=name):
                self.registry.replace(name, self.config(threshold))

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if name in self.known:
            assert self.registry.remove(name) is self.known.pop(name)
        else:
            with pytest.raises(UnknownNameError, match=name):
                self.registry.remove(name)

    @rule(name=NAMES)
    def a_call_fails(self, name: str) -> None:
        if name not in self.known:
            with pytest.raises(UnknownNameError, match=name):
                self.registry.get(name)
        elif self.failures[name] == 0:  # one opens none of them
            self.failures[name] = 1
            with pytest.raises(ZeroDivisionError):
                self.registry.get(name).call(divmod, 1, 0)

    @invariant()
    def all_are_there(self) -> None:
        assert self.registry.names == tuple(sorted(self.known))
        stats = self.registry.get_all_stats()
        failures = {name: each["failure_count"] for name, each in stats.items()}
        assert failures == {name: self.failures[name] for name in self.known}


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
