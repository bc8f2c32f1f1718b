"""A bulkhead that limits how many calls begin in any stretch of time."""

from __future__ import annotations

import itertools
import operator

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.errors import BulkheadRejectedError
from pytest_resilience.locks import renew_in_child
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.bulkhead.base import Bulkhead
from pytest_resilience.patterns.bulkhead.base import BulkheadType
from pytest_resilience.patterns.callables import AwaitableMakers
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import async_generator_around
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.callables import wrap


__all__ = ["RateLimitBulkhead", "WeighedRateLimit"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE


class RateLimitBulkhead(Bulkhead):
    """Lets at most `max_concurrent` calls begin in any `window_size` seconds.

    The algorithm is a sliding window log: the time of each call is remembered until it is
    older than the window. So no stretch of that length ever holds more calls, as fixed
    windows, token buckets and GCRA allow. With `burst`, no more than that many begin in the
    stretch that is their share of the window, `window_size * burst / max_concurrent`. Each
    call costs O(1), amortised.

    A call may have a weight: it counts as so many, all of which begin at once.

    A call that is let through runs in the caller; a coroutine function's begins when it is
    awaited, a generator's when it is iterated. Safe among threads and tasks, which share one limit.
    """

    _default_name = "rate limit"
    _kind = BulkheadType.RATE_LIMIT

    def _set_up(self) -> None:
        self._window = self.config.window_size
        self._burst = self.config.burst
        share = (self._burst or self._limit) / self._limit
        self._burst_window = self._window * share
        self._unit = f"calls began in the last {self._window:g} s"
        if self._burst is not None:
            self._unit += f", at most {self._burst} in {self._burst_window:g} s"
        self._started: deque[float] = deque()  # when each call of the window began
        # A call takes one without the lock: `next` of a C iterator is one step of the
        # interpreter. With a burst none is left to take, for each call has to be looked at.
        self._issued = self._limit if self._burst is None else 0
        self._permits = itertools.repeat(True, self._issued)
        self._expired = 0  # calls that began and are older than the window
        self._makers = AwaitableMakers()
        self._usual: type | None = None  # of results; one that is no awaitable
        renew_in_child(self, "_renew")

    def _renew(self) -> None:
        # Another thread may have been about to note a call, or in the middle of issuing.
        self._issued = self._expired + len(self._started)
        self._permits = itertools.repeat(True, 0)

    def _listeners_changed(self) -> None:
        with self._lock:
            self._issued -= sum(self._permits)  # so that the next call is looked at

    def acquire(self, weight: int = 1) -> None:
        """Count a call that begins now, or up to `max_wait` seconds later.

        `weight`: how many calls it counts as; no more than may ever begin at once.
        Raises BulkheadRejectedError with `retry_after`, at once where that is longer.
        """
        if weight == 1 and next(self._permits, False):
            self._started.append(self._monotonic())
            return
        if self.listeners.awaits:
            self._check_plain()
        if weight != 1:
            self._check_weight(weight)
        waited = 0.0
        while (seconds := self._try(waited, weight)) is not None:
            self._clock.sleep(seconds)
            waited += seconds

    async def acquire_async(self, weight: int = 1) -> None:
        """Do as `acquire` does, without blocking the loop."""
        if weight == 1 and next(self._permits, False):
            self._started.append(self._monotonic())
            return
        self._check_weight(weight)
        waited = 0.0
        try:
            while (seconds := self._try(waited, weight)) is not None:
                await self._clock.asleep(seconds)
                waited += seconds
        except BulkheadRejectedError:
            await self.listeners.notify_async()
            raise

    def has_room(self, weight: int = 1) -> bool:
        """Whether a call could begin now; nothing is counted."""
        self._check_weight(weight)
        with self._lock:
            now = self._monotonic()
            self._expire(now)
            return self._in_use() + weight <= self._limit and self._burst_allows(now, weight)

    def weighing(self, weight: int | Callable[..., int]) -> WeighedRateLimit:
        """The same limit, for calls that each count as several.

        `weight`: how many, or a function that is given the arguments of each call and says so.
        """
        if not callable(weight):
            self._check_weight(weight)
        return WeighedRateLimit(self, weight)

    def _check_weight(self, weight: int) -> None:
        if weight != 1:
            validation.integer("weight", weight, low=1, high=self._burst or self._limit)

    def _try(self, waited: float, weight: int) -> float | None:
        """Seconds to wait before the next attempt; None if the call is counted."""
        with self._lock:
            now = self._monotonic()
            if self._take(now, weight):
                return None
            in_use = self._in_use()
            retry_after = max(0.0, self._free_at(now, in_use, weight) - now)
            most = self.config.max_wait
            if most and retry_after <= most - waited:
                return retry_after or self._window * 1e-6  # a rounding error: not for ever
            self._rejected += 1
        raise self._rejection(in_use, self._limit, self._unit, retry_after)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Nothing: only the beginning of a call counts."""

    async def __aenter__(self) -> Self:
        if next(self._permits, False):  # `acquire_async`, written out: a coroutine less
            self._started.append(self._monotonic())
        else:
            await self.acquire_async()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        """Nothing, as in `__exit__`."""

    def _take(self, now: float, weight: int) -> bool:
        """Count a call; False if there is no room. Issues what has left the window."""
        if weight == 1:
            taken = 1 if next(self._permits, False) else 0  # another thread has been here
        else:
            taken = sum(itertools.islice(self._permits, weight))
        if taken < weight:
            self._issued -= taken
            self._expire(now)
            free = self._limit - self._issued + self._expired
            taken = weight if free >= weight and self._burst_allows(now, weight) else 0
            # With none left each call is looked at: by a burst, or if a plain one is refused.
            left = 0 if self._burst is not None or self.listeners.awaits else free - taken
            if taken or left:
                self._issued += taken + left
                self._permits = itertools.repeat(True, left)
        if taken == 1:
            self._started.append(now)
        elif taken:
            self._started.extend(itertools.repeat(now, taken))
        return taken == weight

    def _in_use(self) -> int:
        """Calls of the window; some may be about to note their time."""
        return self._issued - self._expired - operator.length_hint(self._permits)

    def _expire(self, now: float) -> None:
        """Forget calls that are older than the window."""
        started, horizon = self._started, now - self._window
        while started and started[0] <= horizon:
            started.popleft()
            self._expired += 1

    def _burst_allows(self, now: float, weight: int) -> bool:
        """Whether no share would hold more than `burst` of the latest calls."""
        if self._burst is None:
            return True
        started, last = self._started, self._burst - weight + 1
        return len(started) < last or started[-last] <= now - self._burst_window

    def _free_at(self, now: float, in_use: int, weight: int) -> float:
        """When the next call may begin, if none does before."""
        started, free, leaving = self._started, now, in_use + weight - self._limit
        if leaving > 0:
            free = (started[min(leaving, len(started)) - 1] if started else now) + self._window
        if self._burst is not None and not self._burst_allows(now, weight):
            free = max(free, started[weight - 1 - self._burst] + self._burst_window)
        return free

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if the limit allows; await the result of a coroutine function.

        Raises BulkheadRejectedError if it does not.
        """
        kind = kind_of(func, args)
        if kind is _COROUTINE:
            return self._await(func, args, kwargs)  # type: ignore[return-value]
        if kind is not _PLAIN:
            return self._wrapped(func)(*args, **kwargs)  # type: ignore[no-any-return]
        if next(self._permits, False):
            self._started.append(self._monotonic())
            result = func(*args, **kwargs) if kwargs else func(*args)  # type: ignore[call-arg]
            return result if type(result) is self._usual else self._learn(func, result)
        return self._call_later(func, args, kwargs)  # type: ignore[no-any-return]

    def _call_later(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a plain function that may have to wait: in a task, if it is known for that."""
        begun = self.config.max_wait and self._makers.begin(func, self._await, args, kwargs)
        if begun:
            return begun
        self.acquire()
        return self._learn(func, func(*args, **kwargs))

    def _learn(self, func: Callable[..., Any], result: Any) -> Any:
        if is_awaitable(result):
            self._makers.note(func, result)
        else:
            self._usual = type(result)
        return result

    async def _await(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if next(self._permits, False):
            self._started.append(self._monotonic())
        else:
            await self.acquire_async()
        return await (func(*args, **kwargs) if kwargs else func(*args))

    def _decorate(self, func: Any) -> Any:
        return wrap(func, self._wrapped, self._await)

    def _wrapped(self, func: Callable[..., Any]) -> Callable[..., Any]:
        kind = kind_of(func)
        if kind is CallKind.ASYNC_GENERATOR:
            return async_generator_around(func, self._begin_iteration, _nothing, _nothing)
        self.listeners.expect_plain(func)
        if kind is not CallKind.GENERATOR:
            return self._wrap_plain(func)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.acquire()
            return (yield from func(*args, **kwargs))

        return wrapper

    async def _begin_iteration(self, args: object, kwargs: object) -> None:  # noqa: ARG002
        await self.acquire_async()

    def _wrap_plain(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        call_later, append, monotonic = self._call_later, self._started.append, self._monotonic
        first = True

        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            nonlocal first
            # `acquire`, written out for when a permit is left: one call less.
            if next(self._permits, False):
                append(monotonic())
                if first:
                    first = False
                    return self._learn(func, func(*args, **kwargs))  # type: ignore[no-any-return]
                return func(*args, **kwargs) if kwargs else func(*args)  # type: ignore[call-arg]
            return call_later(func, args, kwargs)  # type: ignore[no-any-return]

        return wrapper

    def get_stats(self) -> dict[str, Any]:
        """The counts now."""
        with self._lock:
            self._expire(self._monotonic())
            current = len(self._started)
            return {
                "max_rate": self._limit,
                "current_rate": current,
                "window_size": self._window,
                "total_requests": self._expired + current,
                "rejected_requests": self._rejected,
                "available_requests": self._limit - current,
                "utilization": current / self._limit,
            }


class WeighedRateLimit(Decorator):
    """A rate limit whose calls each count as several: see `RateLimitBulkhead.weighing`.

    As a decorator, by `execute`, or around a block if the weight is a number.
    """

    def __init__(self, limit: RateLimitBulkhead, weight: int | Callable[..., int]) -> None:
        self._limit = limit
        self._weight = weight

    def _weigh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        weight = self._weight
        if not callable(weight):
            return weight
        return weight(*args, **kwargs)

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` if the limit allows; await the result of a coroutine function."""
        if kind_of(func, args) is _COROUTINE:
            return self._await(func, args, kwargs)  # type: ignore[return-value]
        return self._wrapped(func)(*args, **kwargs)  # type: ignore[no-any-return]

    def _decorate(self, func: Any) -> Any:
        if kind_of(func) in {_PLAIN, CallKind.GENERATOR}:
            self._limit.listeners.expect_plain(func)
        return wrap(func, self._wrapped, self._await)

    async def _await(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        await self._limit.acquire_async(self._weigh(args, kwargs))
        return await func(*args, **kwargs)

    def _wrapped(self, func: Callable[..., Any]) -> Callable[..., Any]:
        kind, limit = kind_of(func), self._limit

        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            await limit.acquire_async(self._weigh(args, kwargs))

        def iterating(*args: Any, **kwargs: Any) -> Any:
            limit.acquire(self._weigh(args, kwargs))
            return (yield from func(*args, **kwargs))

        def calling(*args: Any, **kwargs: Any) -> Any:
            limit.acquire(self._weigh(args, kwargs))
            return func(*args, **kwargs)

        if kind is CallKind.ASYNC_GENERATOR:
            return async_generator_around(func, begin, _nothing, _nothing)
        return iterating if kind is CallKind.GENERATOR else calling

    def __enter__(self) -> Self:
        self._limit.acquire(self._weigh((), {}))
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Nothing: only the beginning of a call counts."""

    async def __aenter__(self) -> Self:
        await self._limit.acquire_async(self._weigh((), {}))
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        """Nothing, as in `__exit__`."""


async def _nothing(*_: object) -> None:
    """How a call ends is nothing to a rate limit."""
