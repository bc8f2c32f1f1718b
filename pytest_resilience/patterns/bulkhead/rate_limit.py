"""A bulkhead that limits how many calls begin in any stretch of time."""

from __future__ import annotations

import functools
import itertools

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.bulkhead.config import BulkheadConfig
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import kind_of


__all__ = ["RateLimitBulkhead"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_COROUTINE = CallKind.COROUTINE


class RateLimitBulkhead(Bulkhead):
    """Lets at most `max_concurrent` calls begin in any `window_size` seconds.

    The window slides with every call: each is remembered until it is older than the window,
    so no stretch of that length ever holds more, as fixed windows allow at their borders.
    With `burst`, no more than that many begin in the stretch that is their share of the
    window, `window_size * burst / max_concurrent`. Each call costs O(1), amortised.

    A call that is admitted runs in the caller; a coroutine function's begins when it is
    awaited. Safe among threads and tasks, which share one limit.
    """

    def __init__(
        self,
        config: BulkheadConfig | None = None,
        *,
        name: str = "rate limit",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(config, name, clock)
        self._window = self.config.window_size
        self._burst = self.config.burst
        share = (self._burst or self._limit) / self._limit
        self._burst_window = self._window * share
        self._begun: deque[float] = deque()
        # Taken without the lock, one a call, until there is none; a burst leaves none to take.
        self._issued = self._limit if self._burst is None else 0
        self._permits = itertools.repeat(True, self._issued)
        self._forgotten = 0  # calls that have begun and are older than the window

    def acquire(self) -> None:
        """Count a call that begins now. Raises BulkheadRejectedError with `retry_after`."""
        if next(self._permits, False):
            self._begun.append(self._monotonic())
            return
        with self._lock:
            now = self._monotonic()
            if self._renew_permits(now):
                self._begun.append(now)
                return
            self._rejected += 1
            in_use, free_at = self._in_use(), self._free_at(now)
            retry_after = max(0.0, free_at - now)
        raise self._reject(
            f"has let {in_use} of {self._limit} calls begin in the last {self._window:g} s; "
            f"try again in {retry_after:.3g} s",
            in_use=in_use,
            capacity=self._limit,
            at=now,
            retry_after=retry_after,
        )

    def _renew_permits(self, now: float) -> bool:
        """Issue a permit for each place that has become free; False if there is none."""
        if next(self._permits, False):  # another thread has been here
            return True
        self._let_go(now)
        free = self._limit - self._in_use()
        if free <= 0 or not self._unhurried(now):
            return False
        issued = free if self._burst is None else 1
        self._issued += issued
        self._permits = itertools.repeat(True, issued - 1)  # one is the caller's
        return True

    def _in_use(self) -> int:
        """Calls of the window, once no permit is left; some may be about to note their time."""
        return self._issued - self._forgotten

    def _let_go(self, now: float) -> None:
        """Forget calls that are older than the window."""
        begun, horizon = self._begun, now - self._window
        while begun and begun[0] <= horizon:
            begun.popleft()
            self._forgotten += 1

    def _unhurried(self, now: float) -> bool:
        """Whether the last `burst` calls did not all begin within their share."""
        begun, burst = self._begun, self._burst
        return burst is None or len(begun) < burst or begun[-burst] <= now - self._burst_window

    def _free_at(self, now: float) -> float:
        """When the next call may begin, if none does before."""
        begun = self._begun
        full = self._in_use() >= self._limit
        free = (begun[0] if begun else now) + self._window if full else now
        if self._burst is not None and not self._unhurried(now):
            free = max(free, begun[-self._burst] + self._burst_window)
        return free

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if the limit allows; await the result of a coroutine function.

        Raises BulkheadRejectedError if it does not.
        """
        if kind_of(func, args) is _COROUTINE:
            return self._await(func, args, kwargs)  # type: ignore[return-value]
        if next(self._permits, False):
            self._begun.append(self._monotonic())
        else:
            self.acquire()
        return func(*args, **kwargs)

    async def _await(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.acquire()
        return await func(*args, **kwargs)

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Limit a function of any kind, as a decorator; a coroutine function stays one."""
        acquire, append, monotonic = self.acquire, self._begun.append, self._monotonic
        if kind_of(func) is _COROUTINE:

            @functools.wraps(func)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                acquire()
                return await func(*args, **kwargs)  # type: ignore[misc]

            return awaited  # type: ignore[return-value]

        # `acquire`, written out for when a permit is left: one call less.
        @functools.wraps(func)
        def limited(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if next(self._permits, False):
                append(monotonic())
            else:
                acquire()
            return func(*args, **kwargs)

        return limited

    def get_stats(self) -> dict[str, Any]:
        """The counts now."""
        with self._lock:
            self._let_go(self._monotonic())
            current = len(self._begun)
            return {
                "max_rate": self._limit,
                "current_rate": current,
                "window_size": self._window,
                "total_requests": self._forgotten + current,
                "rejected_requests": self._rejected,
                "utilization": current / self._limit,
            }
