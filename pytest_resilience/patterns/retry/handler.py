"""Trying again, with growing delays, what may succeed the next time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from types import AsyncGeneratorType
from types import CoroutineType
from types import GeneratorType
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.retry.attempts import RetryEvent
from pytest_resilience.patterns.retry.attempts import Series
from pytest_resilience.patterns.retry.attempts import Surroundings
from pytest_resilience.patterns.retry.blocks import AsyncAttempts
from pytest_resilience.patterns.retry.blocks import Attempt
from pytest_resilience.patterns.retry.blocks import attempts
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.delays import Uniform
from pytest_resilience.patterns.retry.wrappers import go_on
from pytest_resilience.patterns.retry.wrappers import repeat
from pytest_resilience.patterns.retry.wrappers import retrying


__all__ = ["RetryHandler"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# What may not be handed on as it is. To look at what comes takes less than to look at `func`.
_UNFINISHED = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


class RetryHandler:
    """Calls again what failed, as a decorator, by `execute`, or around a block.

    Nothing is shared between calls but the history, so one handler serves any number of
    threads and tasks. Waits go through the clock; those of coroutine functions suspend. A
    plain function that returns a coroutine is tried again when that is awaited.

    A call whose first attempt succeeds leaves no trace: that is why it costs next to nothing.

    Attributes:
        config: as given.
        name: what events and logs call it.
        listeners: told of every `RetryScheduled`, `RetrySucceeded`, `RetryAborted` and
            `RetryGaveUp`.

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
        return self._around.history

    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]:
        """Try a function again, as a decorator.

        Raises TypeError for a generator function: what it has yielded cannot be taken back.
        """
        return retrying(self._around, func)

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` until it succeeds; await the result of a coroutine function.

        Raises RetryExhaustedError, from the last error, when it has been tried enough, and
        what is not to be tried again as it is.
        """
        around = self._around
        started = around.begin() if around.begins else None
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            series = Series(around, started)
            if not series.raised(error):
                raise
        else:
            if around.config.retry_on_result is None and type(result) not in _UNFINISHED:
                return result
            return go_on(around, started, func, args, kwargs, result=result)  # type: ignore[no-any-return]
        return repeat(series, func, args, kwargs)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts for a block: `for attempt in handler: with attempt: …`."""
        return attempts(self._around, self._begin())

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Attempts for a block: `async for attempt in handler: with attempt: …`."""
        return AsyncAttempts(self._around, self._begin())

    def _begin(self) -> float | None:
        return self._around.begin() if self._around.begins else None

    def __repr__(self) -> str:
        return f"<RetryHandler {self.name!r} max_attempts={self.config.max_attempts}>"
