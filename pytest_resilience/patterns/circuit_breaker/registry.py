"""Circuit breakers by name, so that all callers of one service share one breaker."""

from __future__ import annotations

import threading

from typing import Any

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.circuit_breaker.breaker import CircuitBreaker
from pytest_resilience.patterns.circuit_breaker.config import CircuitBreakerConfig
from pytest_resilience.patterns.circuit_breaker.store import RedisStore


__all__ = ["CircuitBreakerRegistry"]

_KIND = "circuit breaker"


class CircuitBreakerRegistry(OfThisProcess):
    """Holds circuit breakers by name.

    Attributes:
        default: the configuration of breakers that are created without one.
    """

    def __init__(
        self,
        default: CircuitBreakerConfig | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        store: RedisStore | None = None,
    ) -> None:
        """`store`: where all of them share their states with those of the same name elsewhere."""
        self.default = validation.config(default, CircuitBreakerConfig)
        self._clock: Clock = validation.clock(clock)
        self._store = store
        self._breakers: dict[str, CircuitBreaker] = {}
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def create(self, name: str, config: CircuitBreakerConfig | None = None) -> CircuitBreaker:
        """A new breaker. Raises DuplicateNameError if there is one of that name."""
        with self._lock:
            if name in self._breakers:
                raise DuplicateNameError(_KIND, name)
            return self._add(name, config)

    def get(self, name: str) -> CircuitBreaker:
        """The breaker of that name. Raises UnknownNameError, a KeyError, naming the known."""
        try:
            return self._breakers[name]
        except KeyError:
            raise UnknownNameError(_KIND, name, tuple(self._breakers)) from None

    def get_or_create(
        self, name: str, config: CircuitBreakerConfig | None = None
    ) -> CircuitBreaker:
        """The breaker of that name, created if there is none; else `config` changes nothing."""
        known = self._breakers.get(name)
        if known is not None:
            return known
        with self._lock:  # and look again: another thread may have created it
            return self._breakers.get(name) or self._add(name, config)

    def _add(self, name: str, config: CircuitBreakerConfig | None) -> CircuitBreaker:
        breaker = CircuitBreaker(
            config or self.default, name=name, clock=self._clock, store=self._store
        )
        self._breakers[name] = breaker
        return breaker

    def replace(self, name: str, config: CircuitBreakerConfig | None = None) -> CircuitBreaker:
        """A new breaker in the place of the one of that name. Raises UnknownNameError.

        Whoever has the old one, as a function that it decorates, goes on with that.
        """
        with self._lock:
            self.get(name)
            return self._add(name, config)

    def remove(self, name: str) -> CircuitBreaker:
        """Forget the breaker of that name, which is returned. Raises UnknownNameError."""
        with self._lock:
            breaker = self.get(name)
            del self._breakers[name]
            return breaker

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are, sorted."""
        return tuple(sorted(self._breakers))

    def get_all_stats(self) -> dict[str, dict[str, Any]]:
        """The stats of every breaker, by name."""
        breakers = self._breakers.copy()  # others may add and remove meanwhile
        return {name: breakers[name].get_stats() for name in sorted(breakers)}
