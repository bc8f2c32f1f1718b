"""A budget of retries that many callers share, so that together they cause no retry storm."""

from __future__ import annotations

import threading

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.locks import OfThisProcess
from pytest_resilience.locks import fork_safe
from pytest_resilience.patterns import validation


__all__ = ["RetryBudget"]


class RetryBudget(OfThisProcess):
    """A token bucket: each call adds a fraction of a token, each retry takes a whole one.

    With `ratio` 0.2, retries add at most a fifth to the calls there are, however many of
    them fail. `reserve` tokens a second are added as well, so that a caller with few calls
    can retry too. This is the retry budget of Finagle (Twitter, 2016). Share one between all
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
        """`capacity`: the most tokens it holds; it starts with `reserve` of them, at most that."""
        self._ratio = validation.number("ratio", ratio)
        self._reserve = validation.number("reserve", reserve)
        self._capacity = validation.number("capacity", capacity, low=1.0)
        self._clock: Clock = validation.clock(clock)
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._tokens = min(self._reserve, self._capacity)
        self._refilled_at = clock.monotonic()

    @property
    def tokens(self) -> float:
        """The tokens in the bucket now."""
        now = self._clock.monotonic()
        with self._lock:
            self._refill(now)
            return self._tokens

    def deposit(self) -> None:
        """Add the tokens of a call, as its first attempt begins."""
        # The reserve can be added later: the bucket is full at the same moment.
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Take a token for a retry. False, and none taken, if there is less than one."""
        now = self._clock.monotonic()
        with self._lock:
            self._refill(now)
            # Five deposits of 0.2 are one token, whatever floating point makes of them.
            enough = self._tokens >= 1.0 - 1e-9
            if enough:
                self._tokens = max(0.0, self._tokens - 1.0)
            return enough

    def _refill(self, now: float) -> None:
        # A thread that read the clock first may come to the lock later.
        if now > self._refilled_at:
            grown = self._tokens + (now - self._refilled_at) * self._reserve
            self._tokens = min(self._capacity, grown)
            self._refilled_at = now

    def __repr__(self) -> str:
        return f"<RetryBudget {self.tokens:.3g} of {self._capacity:g} tokens>"
