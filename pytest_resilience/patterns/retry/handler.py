"""A retry handler: calls again, with growing delays, what may succeed the next time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import not_callable
from pytest_resilience.patterns.retry.attempts import CallState
from pytest_resilience.patterns.retry.attempts import HandlerState
from pytest_resilience.patterns.retry.attempts import RetryEvent
from pytest_resilience.patterns.retry.blocks import AsyncAttempts
from pytest_resilience.patterns.retry.blocks import Attempt
from pytest_resilience.patterns.retry.blocks import attempts
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.delays import RandomSource
from pytest_resilience.patterns.retry.wrappers import after_first_result
from pytest_resilience.patterns.retry.wrappers import retry
from pytest_resilience.patterns.retry.wrappers import wrap


__all__ = ["RetryHandler"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class RetryHandler(Decorator):
    """Retries what failed: as a decorator, by `execute`, or around a block.

    Calls share nothing but the history and the budget, so one handler serves any number of
    threads and tasks. Delays go through the clock; those of coroutine functions suspend. A
    plain function that returns an awaitable is retried when that is awaited. Generator functions
    are refused: what they have yielded cannot be taken back.

    A call whose first attempt succeeds leaves no event, so it costs next to nothing.

    Attributes:
        config: as given.
        name: what events and logs call it.
        listeners: are given every `RetryScheduled`, `RetrySucceeded`, `RetryAborted` and
            `RetryGaveUp`.

    Examples:
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
        random: RandomSource | None = None,
    ) -> None:
        """`random`: draws the jitter, e.g. a seeded `random.Random`."""
        self.config = validation.config(config, RetryConfig)
        validation.clock(clock)
        self.name = validation.text("name", name)
        self._state = HandlerState(self.config, name, clock, random)
        self.listeners = self._state.listeners

    @property
    def events(self) -> tuple[RetryEvent, ...]:
        """The latest events, at most 1000, oldest first."""
        return self._state.history

    def _decorate(self, func: Any) -> Any:
        return wrap(self._state, func)

    @calls_first_argument
    def execute(self, func: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call `func` until it succeeds; await the result of a coroutine function.

        Raises RetryExhaustedError, from the last error, when no attempt is left. An error that
        is not retried passes as it is.
        """
        state = self._state
        started = state.start_call(func, args) if state.needs_start else None
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)  # type: ignore[call-arg]
        except Exception as error:
            if not callable(func):
                raise not_callable(func) from None
            call = CallState(state, started)
            if not call.raised(error):
                raise
        else:
            if state.config.retry_on_result is None and type(result) in FINISHED:
                return result
            return after_first_result(state, started, func, args, kwargs, result=result)  # type: ignore[no-any-return]
        return retry(call, func, args, kwargs)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts for a block: `for attempt in handler: with attempt: …`."""
        if self._state.awaits:
            raise self._state.refusal("a block")
        return attempts(self._state, self._state.start())

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Attempts for a block: `async for attempt in handler: with attempt: …`.

        With `async with attempt:` listeners that are coroutine functions are told at once that a
        call has failed for good, else by the next async call.
        """
        return AsyncAttempts(self._state, self._state.start())

    def get_stats(self) -> dict[str, Any]:
        """How many calls, and retries, there have been.

        `total_calls` is None unless `count_calls` is configured: a call whose first attempt
        succeeds leaves no trace. The others: `retried_calls` had an attempt that failed and could
        be retried; `retries` are the attempts that followed; of the calls `succeeded_calls`
        succeeded in the end, `exhausted_calls` had no attempt left, and `aborted_calls` were
        ended by what is not retried.
        """
        totals = self._state.totals
        ended = totals.succeeded, totals.exhausted, totals.aborted
        names = "succeeded_calls", "exhausted_calls", "aborted_calls"
        return {
            "total_calls": totals.calls if self.config.count_calls else None,
            "retried_calls": totals.retried,
            "retries": totals.retries,
            **dict(zip(names, ended, strict=True)),
        }

    def __repr__(self) -> str:
        return f"<RetryHandler {self.name!r} max_attempts={self.config.max_attempts}>"
