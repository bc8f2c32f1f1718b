"""How many calls a bulkhead lets run at once, or begin in a window."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.patterns import validation


__all__ = ["BulkheadConfig", "BulkheadType"]


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
                    "calls ever follow one another"
                )
