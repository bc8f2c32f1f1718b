"""Bulkheads by name, one for each service that must not exhaust the others."""

from __future__ import annotations

import threading

from typing import Any
from typing import Self

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import UnknownNameError
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.bulkhead.base import BulkheadConfig
from pytest_resilience.patterns.bulkhead.base import BulkheadType
from pytest_resilience.patterns.bulkhead.rate_limit import RateLimitBulkhead
from pytest_resilience.patterns.bulkhead.semaphore import SemaphoreBulkhead
from pytest_resilience.patterns.bulkhead.thread_pool import ThreadPoolBulkhead


__all__ = ["Bulkhead", "BulkheadManager"]

_KINDS: dict[BulkheadType, type[Bulkhead]] = {
    BulkheadType.THREAD_POOL: ThreadPoolBulkhead,
    BulkheadType.SEMAPHORE: SemaphoreBulkhead,
    BulkheadType.RATE_LIMIT: RateLimitBulkhead,
}


class BulkheadManager(OfThisProcess):
    """Creates bulkheads, finds them by name, and shuts them down together.

    Attributes:
        bulkheads: all of them, by name.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.bulkheads: dict[str, Bulkhead] = {}
        self._clock: Clock = validation.clock(clock)
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._closed = False

    def create_bulkhead(self, name: str, config: BulkheadConfig | None = None) -> Bulkhead:
        """A new bulkhead of the type that `config` names.

        Raises DuplicateNameError for a name that is taken, ShutdownError after `shutdown_all`.
        """
        config = validation.config(config, BulkheadConfig)
        with self._lock:
            if name in self.bulkheads:
                raise DuplicateNameError("bulkhead", name)
            return self._add(name, config)

    def get_or_create_bulkhead(self, name: str, config: BulkheadConfig | None = None) -> Bulkhead:
        """The bulkhead of that name, created if there is none; else `config` changes nothing.

        Raises ShutdownError after `shutdown_all` if there is none.
        """
        known = self.bulkheads.get(name)
        if known is not None and config is None:
            return known
        config = validation.config(config, BulkheadConfig)
        with self._lock:  # and look again: another thread may have created it
            return self.bulkheads.get(name) or self._add(name, config)

    def replace_bulkhead(self, name: str, config: BulkheadConfig | None = None) -> Bulkhead:
        """A new bulkhead in the place of the one of that name, which is retired.

        Calls that are in the old one, or wait for it, end there. As a pool it takes no other
        (ShutdownError), else it goes on for those who have it. Raises UnknownNameError, and
        ShutdownError after `shutdown_all`.
        """
        config = validation.config(config, BulkheadConfig)
        with self._lock:
            old = self.get_bulkhead(name)
            bulkhead = self._add(name, config)
        _retire(old)
        return bulkhead

    def remove_bulkhead(self, name: str) -> Bulkhead:
        """Forget the bulkhead of that name, and retire it. Raises UnknownNameError."""
        with self._lock:
            bulkhead = self.get_bulkhead(name)
            del self.bulkheads[name]
        _retire(bulkhead)
        return bulkhead

    def _add(self, name: str, config: BulkheadConfig) -> Bulkhead:
        if self._closed:
            raise ShutdownError("this bulkhead manager has been shut down; make a new one")
        bulkhead = _KINDS[config.bulkhead_type](config, name=name, clock=self._clock)
        self.bulkheads[name] = bulkhead
        return bulkhead

    def get_bulkhead(self, name: str) -> Bulkhead:
        """The bulkhead of that name. Raises UnknownNameError, a KeyError, naming the known."""
        try:
            return self.bulkheads[name]
        except KeyError:
            raise UnknownNameError("bulkhead", name, tuple(self.bulkheads)) from None

    def get_all_stats(self) -> dict[str, dict[str, Any]]:
        """The stats of every bulkhead, by name."""
        return {name: bulkhead.get_stats() for name, bulkhead in self.bulkheads.copy().items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.shutdown_all()

    def shutdown_all(self, *, wait: bool = True) -> None:
        """Shut down every bulkhead that has threads; harmless when done again."""
        with self._lock:
            self._closed = True
        for bulkhead in self.bulkheads.copy().values():
            if isinstance(bulkhead, ThreadPoolBulkhead):
                bulkhead.shutdown(wait=wait)


def _retire(bulkhead: Bulkhead) -> None:
    if isinstance(bulkhead, ThreadPoolBulkhead):
        bulkhead.retire()
