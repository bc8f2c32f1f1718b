"""What every bulkhead has."""

from __future__ import annotations

import threading

from abc import ABC
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import Clock
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns.bulkhead.config import BulkheadConfig


__all__ = ["Bulkhead", "BulkheadRejection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadRejection(Event):
    """A bulkhead had no room for a call.

    Attributes:
        in_use: calls inside, or in the window of a rate limit.
        capacity: how many there may be.
        retry_after: seconds until there may be room; None when nobody can tell.
    """

    in_use: int
    capacity: int
    retry_after: float | None = None


_P = ParamSpec("_P")
_R = TypeVar("_R")

_HISTORY = 100  # rejections that are remembered


class Bulkhead(ABC):
    """Limits how much of something is used, and rejects the rest.

    Attributes:
        config: as given.
        name: what errors and events call it.
        listeners: told of every `BulkheadRejection`.
    """

    def __init__(self, config: BulkheadConfig | None, name: str, clock: Clock) -> None:
        self.config = config or BulkheadConfig()
        self.name = name
        self.listeners = Listeners()
        self._limit = self.config.max_concurrent
        self._monotonic = clock.monotonic
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._rejected = 0
        # When, in use, capacity, until when: who is full rejects by the thousand, so an event
        # is made of them when somebody looks or listens.
        self._recent: deque[tuple[float, int, int, float | None]] = deque(maxlen=_HISTORY)

    @property
    def rejections(self) -> tuple[BulkheadRejection, ...]:
        """The latest rejections, at most 100, oldest first."""
        return tuple(self._event(*each) for each in self._recent.copy())

    @abstractmethod
    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if there is room for it. Raises BulkheadRejectedError if there is none."""

    @abstractmethod
    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Limit a function, as a decorator."""

    @abstractmethod
    def get_stats(self) -> dict[str, Any]:
        """The counts now."""

    def _reject(
        self,
        why: str,
        *,
        in_use: int,
        capacity: int,
        at: float | None = None,
        retry_after: float | None = None,
    ) -> BulkheadRejectedError:
        """Remember a rejection and tell of it; the error is for the caller to raise."""
        what = (self._monotonic() if at is None else at, in_use, capacity, retry_after)
        self._recent.append(what)
        if self.listeners.listened:
            self.listeners.emit(self._event(*what))
        return BulkheadRejectedError(
            f"{self.name} {why}",
            name=self.name,
            in_use=in_use,
            capacity=capacity,
            retry_after=retry_after,
        )

    def _event(
        self, at: float, in_use: int, capacity: int, retry_after: float | None
    ) -> BulkheadRejection:
        return BulkheadRejection(
            at=at, source=self.name, in_use=in_use, capacity=capacity, retry_after=retry_after
        )
