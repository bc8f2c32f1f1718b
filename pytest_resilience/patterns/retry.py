"""Trying again, with growing delays, what may succeed the next time."""

from __future__ import annotations

import functools

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.patterns.calls import CallKind
from pytest_resilience.patterns.calls import kind_of
from pytest_resilience.patterns.delays import Uniform
from pytest_resilience.patterns.retry_config import RetryConfig
from pytest_resilience.patterns.retry_events import RetryEvent
from pytest_resilience.patterns.retry_series import Series
from pytest_resilience.patterns.retry_series import Surroundings


__all__ = ["Attempt", "RetryHandler"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class RetryHandler:
    """Calls again what failed, as a decorator, by `execute`, or around a block.

    Nothing is shared between calls but the history, so one handler serves any number of
    threads and tasks. Waits go through the clock; those of coroutine functions suspend.

    Attributes:
        config: as given.
        name: what events call it.
        listeners: told of every `RetryScheduled`, `RetrySucceeded` and `RetryGaveUp`.

    Example:
        >>> handler = RetryHandler(RetryConfig(max_attempts=2, base_delay=0))
        >>> for attempt in handler:
        ...     with attempt:
        ...         print("attempt", attempt.number)
        attempt 1
    """

    def __init__(
        self,
        config: RetryConfig | None = None,
        *,
        name: str = "retry",
        clock: Clock = SYSTEM_CLOCK,
        random: Uniform | None = None,
    ) -> None:
        """`random` is what jitter is drawn from, such as a seeded `random.Random`."""
        self.config = config or RetryConfig()
        self.name = name
        self._around = Surroundings(self.config, name, clock, random)
        self.listeners = self._around.listeners

    @property
    def events(self) -> tuple[RetryEvent, ...]:
        """The latest events, at most 1000, oldest first."""
        return tuple(self._around.history)

    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` until it succeeds; await the result of a coroutine function.

        Raises RetryExhaustedError, from the last error, when it has been tried enough, and
        what is not to be tried again as it is.
        """
        return self(func)(*args, **kwargs)

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Try a function again, as a decorator.

        Raises TypeError for a generator function: what it has yielded cannot be taken back.
        """
        kind = kind_of(func)
        if kind in (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR):
            raise TypeError(
                f"{func!r} is a {kind.value} function; what it has yielded before it fails cannot "
                "be taken back: put the retry around what consumes it"
            )
        return self._awaiting(func) if kind is CallKind.COROUTINE else self._calling(func)

    def _calling(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        begin, unwanted, again = self._begin, self.config.retry_on_result, self._again

        @functools.wraps(func)
        def retried(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            started = begin() if begin is not None else None
            try:
                result = func(*args, **kwargs)
            except Exception as error:
                return again(functools.partial(func, *args, **kwargs), started, error, None)  # type: ignore[no-any-return]
            if unwanted is not None and unwanted(result):
                return again(functools.partial(func, *args, **kwargs), started, None, result)  # type: ignore[no-any-return]
            return result

        return retried

    def _awaiting(self, func: Callable[_P, Any]) -> Callable[_P, Any]:
        begin, unwanted, again = self._begin, self.config.retry_on_result, self._again_async

        @functools.wraps(func)
        async def retried(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            started = begin() if begin is not None else None
            try:
                result = await func(*args, **kwargs)
            except Exception as error:
                return await again(functools.partial(func, *args, **kwargs), started, error, None)
            if unwanted is not None and unwanted(result):
                return await again(functools.partial(func, *args, **kwargs), started, None, result)
            return result

        return retried

    @property
    def _begin(self) -> Callable[[], float] | None:
        """What has to be done before a first attempt; nearly always nothing."""
        budget, clock = self.config.budget, self._around.clock
        if budget is None and self.config.max_elapsed is None:
            return None

        def begin() -> float:
            if budget is not None:
                budget.deposit()
            return clock.monotonic()

        return begin

    def _again(
        self, call: Callable[[], Any], started: float | None, error: Exception | None, result: Any
    ) -> Any:
        """Go on after the first attempt."""
        series = Series(self._around, started)
        try:
            while True:
                if error is not None and not self.config.tries_again(error):
                    raise error
                delay = series.failed(error, result)
                error = None
                self._around.clock.sleep(delay)
                try:
                    result = call()
                except Exception as failure:
                    error = failure
                else:
                    if not self._unwanted(result):
                        series.succeeded()
                        return result
        finally:
            # Its traceback holds this frame: kept here, the two would keep each other.
            del error

    async def _again_async(
        self, call: Callable[[], Any], started: float | None, error: Exception | None, result: Any
    ) -> Any:
        series = Series(self._around, started)
        try:
            while True:
                if error is not None and not self.config.tries_again(error):
                    raise error
                delay = series.failed(error, result)
                error = None
                await self._around.clock.asleep(delay)
                try:
                    result = await call()
                except Exception as failure:
                    error = failure
                else:
                    if not self._unwanted(result):
                        series.succeeded()
                        return result
        finally:
            del error

    def _unwanted(self, result: Any) -> bool:
        unwanted = self.config.retry_on_result
        return unwanted is not None and unwanted(result)

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts for a block: `for attempt in handler: with attempt: …`."""
        series = self._block()
        for attempt in self._attempts(series):
            yield attempt
            if attempt.delay is None:
                return
            self._around.clock.sleep(attempt.delay)

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        """Attempts for a block: `async for attempt in handler: with attempt: …`."""
        series = self._block()
        for attempt in self._attempts(series):
            yield attempt
            if attempt.delay is None:
                return
            await self._around.clock.asleep(attempt.delay)

    def _block(self) -> Series:
        begin = self._begin
        return Series(self._around, begin() if begin is not None else None)

    def _attempts(self, series: Series) -> Iterator[Attempt]:
        return (Attempt(self.config, series, number) for number in range(1, 1 << 62))


class Attempt:
    """One attempt at a block.

    Attributes:
        number: 1, 2, …
        delay: seconds to wait for the next; None if none follows.
    """

    def __init__(self, config: RetryConfig, series: Series, number: int) -> None:
        self.number = number
        self.delay: float | None = None
        self._config = config
        self._series = series

    def __enter__(self) -> Attempt:  # noqa: PYI034  # nobody derives from it
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            self._series.succeeded()
            return False
        if not isinstance(error, Exception) or not self._config.tries_again(error):
            return False
        self.delay = self._series.failed(error)
        return True
