"""A budget of retries that many callers share, so that together they cannot storm."""

from __future__ import annotations

import threading

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation


__all__ = ["RetryBudget"]


class RetryBudget:
    """A token bucket: each call puts a share of a token in, each retry takes a whole one out.

    With `ratio` 0.2, retries add at most a fifth to the calls there are, however many of
    them fail; `reserve` tokens a second come on top, so that a quiet caller can retry too.
    The idea is that of retry budgets in Finagle (Twitter, 2016). Share one between all
    handlers that call the same thing.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        *,
        reserve: float = 1.0,
        capacity: float = 100.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`capacity` is the most tokens it holds; it begins with `reserve` (at most that)."""
        self._ratio = validation.number("ratio", ratio)
        self._reserve = validation.number("reserve", reserve)
        self._capacity = validation.number("capacity", capacity, low=1.0)
        self._clock = clock
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._tokens = min(self._reserve, self._capacity)
        self._filled_at = clock.monotonic()

    @property
    def tokens(self) -> float:
        """Tokens there are now."""
        now = self._clock.monotonic()
        with self._lock:
            self._fill(now)
            return self._tokens

    def deposit(self) -> None:
        """A call is made for the first time."""
        # What flows in by itself can be added later: the bucket is full at the same point.
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Take a token for a retry; False, and nothing taken, if there is none."""
        now = self._clock.monotonic()
        with self._lock:
            self._fill(now)
            # Ten fifths are two, whatever floating point makes of them.
            enough = self._tokens >= 1.0 - 1e-9
            if enough:
                self._tokens = max(0.0, self._tokens - 1.0)
            return enough

    def _fill(self, now: float) -> None:
        # Who read the clock before another may come after it to the lock.
        if now > self._filled_at:
            grown = self._tokens + (now - self._filled_at) * self._reserve
            self._tokens = min(self._capacity, grown)
            self._filled_at = now

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:.3g} of {self._capacity:g} tokens>"
