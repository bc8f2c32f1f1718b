"""What all bulkheads share: their limits, and the memory of what they rejected."""

from __future__ import annotations

import threading

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from typing import ClassVar
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import Decorator


__all__ = ["Bulkhead", "BulkheadConfig", "BulkheadRejection", "BulkheadType"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_HISTORY = 100  # rejections that are remembered

# `__init__` would set the same `args` again, and take three times as long.
_new_error = BulkheadRejectedError.__new__


class BulkheadType(Enum):
    """The kinds of bulkheads."""

    THREAD_POOL = "thread_pool"
    SEMAPHORE = "semaphore"
    RATE_LIMIT = "rate_limit"


@dataclass(frozen=True, slots=True)
class BulkheadConfig:
    """The limits of a bulkhead.

    Attributes:
        max_concurrent: calls at once; for a rate limit, calls in any window.
        queue_size: calls that may wait for a thread of the pool; 0 for none.
        timeout: seconds a caller waits for its result from the pool.
        bulkhead_type: its kind, for `BulkheadManager`.
        max_wait: seconds a caller waits for a slot of a semaphore, or until a rate limit lets it
            begin; 0: it is rejected at once.
        window_size: seconds of a rate limit's window.
        burst: calls of a rate limit that may begin at once; the others of a window are spread
            over it. None: all may.

    Raises ConfigurationError or TypeError for a value that makes no sense.
    """

    max_concurrent: int = 10
    queue_size: int = 100
    timeout: float = 30.0
    bulkhead_type: BulkheadType = BulkheadType.THREAD_POOL
    max_wait: float = 0.0
    window_size: float = 60.0
    burst: int | None = None

    def __post_init__(self) -> None:
        validation.integer("max_concurrent", self.max_concurrent, low=1)
        validation.integer("queue_size", self.queue_size)
        validation.number("timeout", self.timeout, above_low=True, infinite=True)
        if not isinstance(self.bulkhead_type, BulkheadType):
            raise TypeError(f"bulkhead_type must be a BulkheadType, not {self.bulkhead_type!r}")
        validation.number("max_wait", self.max_wait, infinite=True)
        validation.number("window_size", self.window_size, above_low=True)
        if self.burst is not None:
            validation.integer("burst", self.burst, low=1)
            if self.burst > self.max_concurrent:
                raise ConfigurationError(
                    f"burst={self.burst!r}: no more than max_concurrent={self.max_concurrent!r} "
                    "calls ever follow one another; give that or less"
                )


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


class Bulkhead(Decorator):
    """Limits how much of something is used, and rejects the rest.

    Attributes:
        config: as given.
        name: what errors and events call it.
        listeners: are given every `BulkheadRejection`.
    """

    _default_name: ClassVar[str]
    _kind: ClassVar[BulkheadType]

    def __init__(
        self,
        config: BulkheadConfig | None = None,
        *,
        name: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`name`: by default what kind of bulkhead it is, e.g. ``"semaphore"``."""
        self.config = validation.config(config, BulkheadConfig)
        if self.config.bulkhead_type not in (self._kind, BulkheadType.THREAD_POOL):  # the default
            raise ConfigurationError(
                f"bulkhead_type={self.config.bulkhead_type}: a {type(self).__name__} needs "
                f"{self._kind}"
            )
        self._clock = validation.clock(clock)
        self.name = self._default_name if name is None else validation.text("name", name)
        self.listeners = Listeners(may_await=True, changed=self._listeners_changed)
        self._limit = self.config.max_concurrent
        self._monotonic = clock.monotonic
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._rejected = 0
        # The fields of each event. Who is full rejects by the thousand, so events and the texts
        # of errors are made when somebody looks at them.
        self._recent: deque[tuple[float, int, int, float | None]] = deque(maxlen=_HISTORY)
        self._set_up()

    @abstractmethod
    def _set_up(self) -> None:
        """Make what this kind of bulkhead counts with."""

    @property
    def rejections(self) -> tuple[BulkheadRejection, ...]:
        """The latest rejections, at most 100, oldest first."""
        return tuple(self._event(*each) for each in self._recent.copy())

    @abstractmethod
    def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if there is room for it. Raises BulkheadRejectedError if there is none."""

    @abstractmethod
    def get_stats(self) -> dict[str, Any]:
        """The counts now."""

    def _listeners_changed(self) -> None:
        """Do what has to be done when a listener has come or gone: nothing."""

    def _check_plain(self) -> None:
        """Raise TypeError if a coroutine function listens, which a plain call cannot await."""
        if self.listeners.awaits:
            raise self.listeners.refusal(repr(self.name))

    def _rejection(
        self, in_use: int, capacity: int, unit: str, retry_after: float | None = None
    ) -> BulkheadRejectedError:
        """Remember and announce a rejection; the error is for the caller to raise."""
        at = self._monotonic()
        self._recent.append((at, in_use, capacity, retry_after))
        if self.listeners.listened:
            self.listeners.emit(self._event(at, in_use, capacity, retry_after))
        return _new_error(BulkheadRejectedError, self.name, in_use, capacity, unit, retry_after)

    def _event(
        self, at: float, in_use: int, capacity: int, retry_after: float | None
    ) -> BulkheadRejection:
        return BulkheadRejection(
            at=at, source=self.name, in_use=in_use, capacity=capacity, retry_after=retry_after
        )
