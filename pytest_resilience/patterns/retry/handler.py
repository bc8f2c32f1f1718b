"""A retry handler: does again, with growing delays, what may succeed the next time.

A call, by `execute` or as a decorator, or a block: `for attempt in handler: with attempt: …`.
"""

from __future__ import annotations

import functools

from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from types import AsyncGeneratorType
from types import GeneratorType
from typing import Any
from typing import ParamSpec
from typing import Self
from typing import TypeVar

from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.patterns import validation
from pytest_resilience.patterns.callables import FINISHED
from pytest_resilience.patterns.callables import CallKind
from pytest_resilience.patterns.callables import Decorator
from pytest_resilience.patterns.callables import calls_first_argument
from pytest_resilience.patterns.callables import generator_error
from pytest_resilience.patterns.callables import is_awaitable
from pytest_resilience.patterns.callables import kind_of
from pytest_resilience.patterns.callables import not_callable
from pytest_resilience.patterns.retry.attempts import CallState
from pytest_resilience.patterns.retry.attempts import HandlerState
from pytest_resilience.patterns.retry.attempts import RetryEvent
from pytest_resilience.patterns.retry.config import RetryConfig
from pytest_resilience.patterns.retry.delays import RandomSource


__all__ = ["AsyncAttempts", "Attempt", "RetryHandler", "attempts"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_GENERATORS = frozenset({CallKind.GENERATOR, CallKind.ASYNC_GENERATOR})
_NO_GENERATORS = (
    "what it has yielded before it fails cannot be taken back: put the retry around what "
    "consumes it"
)


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
        return _wrap(self._state, func)

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
            return _after_first_result(state, started, func, args, kwargs, result=result)  # type: ignore[no-any-return]
        return _retry(call, func, args, kwargs)  # type: ignore[no-any-return]

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


def _wrap(handler: HandlerState, func: Callable[..., Any]) -> Any:
    """`func` with retries; a coroutine function stays one.

    Raises TypeError for a generator function: what it has yielded cannot be taken back.
    """
    kind = kind_of(func)
    if kind in _GENERATORS:
        raise generator_error(func, kind, _NO_GENERATORS)
    make = _coroutine
    if kind is not CallKind.COROUTINE:
        handler.listeners.expect_plain(func)
        if handler.awaits:
            raise handler.refusal(func)
        make = _plain
    return functools.update_wrapper(make(handler, func), func)


# A first attempt that succeeds makes no object and reads no clock. That is why it is written out,
# before `_retry`, in each of these and in `RetryHandler.execute`.


def _plain(handler: HandlerState, func: Callable[..., Any]) -> Callable[..., Any]:
    start = handler.start if handler.needs_start else None
    usual: type | None = None  # of its results; one that can be returned as it is

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal usual
        started = None if start is None else start()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except Exception as error:
            call = CallState(handler, started)
            if not call.raised(error):
                raise
        else:
            if type(result) is usual:
                return result
            if type(result) in FINISHED and handler.config.retry_on_result is None:
                usual = type(result)
                return result
            if is_awaitable(result):
                handler.makers.note(func, result)
            return _after_first_result(handler, started, func, args, kwargs, result=result)
        return _retry(call, func, args, kwargs)

    return wrapper


def _coroutine(handler: HandlerState, func: Callable[..., Any]) -> Callable[..., Any]:
    start = handler.start if handler.needs_start else None
    unwanted = handler.config.retry_on_result

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = None if start is None else start()
        try:
            result = await (func(*args, **kwargs) if kwargs else func(*args))
        except Exception as error:
            call = CallState(handler, started)
            if not await call.raised_async(error):
                raise
        else:
            if unwanted is None:
                return result
            call = CallState(handler, started)
            if await call.returned_async(result):
                return result
        return await _retry_async(handler, started, func, args, kwargs, call=call)

    return wrapper


def _after_first_result(
    handler: HandlerState,
    started: float | None,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    result: Any,
) -> Any:
    """Go on from a first attempt that returned, where that may not be the end of the call."""
    if is_awaitable(result):
        return _retry_async(handler, started, func, args, kwargs, call=None, begun=result)
    if isinstance(result, (GeneratorType, AsyncGeneratorType)):
        kind = kind_of(func, args)
        if kind in _GENERATORS:  # nothing in it has run by now
            raise generator_error(func, kind, _NO_GENERATORS)
    call = CallState(handler, started)
    return result if call.returned(result) else _retry(call, func, args, kwargs)


def _retry(
    call: CallState, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wait and call `func`, until it succeeds or is not to be retried."""
    begun = call.handler.makers.begin(
        func, functools.partial(_retry_async, call.handler, None, call=call), args, kwargs
    )
    if begun is not None:
        return begun  # which waits without blocking the loop
    while True:
        call.wait()
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            if not call.raised(error):
                raise
        else:
            # A plain function that returns an awaitable, as a lambda does.
            if is_awaitable(result):
                return _retry_async(call.handler, None, func, args, kwargs, call=call, begun=result)
            if call.returned(result):
                return result


async def _retry_async(
    handler: HandlerState,
    started: float | None,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    call: CallState | None,
    begun: Awaitable[Any] | None = None,
) -> Any:
    """Do as `_retry` does, starting with `begun`, if `func` has returned that already.

    `call` is None until an attempt has failed.
    """
    while True:
        if call is not None:
            await call.wait_async()
        try:
            attempt, begun = func(*args, **kwargs) if begun is None else begun, None
            result = await attempt
        except BaseException as error:
            call = call or CallState(handler, started)
            if not await call.raised_async(error):
                raise
        else:
            if call is None and handler.config.retry_on_result is None:
                return result
            call = call or CallState(handler, started)
            if await call.returned_async(result):
                return result


class Attempt:
    """One attempt at a block, to be entered once.

    Attributes:
        number: 1, 2, …
        delay: seconds until the next attempt; None if none follows, or before it is known.
    """

    # What most attempts never set is a class attribute: to make an attempt is most of what a
    # block costs.
    delay: float | None = None
    _entered = False
    _result: tuple[object] | None = None

    def __init__(
        self, handler: HandlerState, started: float | None, number: int, call: CallState | None
    ) -> None:
        """`call`: None for a first attempt, which leaves no trace if it succeeds."""
        self.number = number
        self._handler = handler
        self._started = started
        self._call = call

    @property
    def entered(self) -> bool:
        """Whether `with attempt:` was reached."""
        return self._entered

    def returned(self, result: _R) -> _R:
        """Give the block's result to `retry_on_result`; returns it."""
        self._result = (result,)
        return result

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"attempt {self.number} was entered before; each is for one `with`")
        self._entered = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        call = self._call
        if call is None:
            if error is None and self._result is None:
                return False
            call = self._call = CallState(self._handler, self._started)
        again = False
        if error is not None:
            again = call.raised(error)
        elif self._result is not None:
            call.returned(self._result[0])
        else:
            call.succeeded()
        self.delay = call.delay
        return again

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is None and self._call is None and self._result is None:
            return False  # as in `__exit__`: there is nothing to tell
        try:
            return self.__exit__(kind, error, traceback)
        finally:
            await self._handler.listeners.notify_async(error)

    def next_call(self) -> CallState | None:
        """The state to wait with before the next attempt; None if none follows."""
        if not self._entered:
            raise RuntimeError(f"attempt {self.number} was not used; put `with attempt:` around it")
        return None if self.delay is None else self._call


def attempts(handler: HandlerState, started: float | None) -> Iterator[Attempt]:
    """The attempts at one block, with waits that block the thread."""
    attempt = Attempt(handler, started, 1, None)
    yield attempt
    while (call := attempt.next_call()) is not None:
        call.wait()
        attempt = Attempt(handler, started, call.failed + 1, call)
        yield attempt


class AsyncAttempts:
    """The attempts at one block, with waits that suspend the task.

    A class, not an async generator: one that a loop leaves early must be closed by somebody.
    """

    __slots__ = ("_handler", "_last", "_started")

    def __init__(self, handler: HandlerState, started: float | None) -> None:
        self._handler = handler
        self._started = started
        self._last: Attempt | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        last, call, number = self._last, None, 1
        if last is not None:
            call = last.next_call()
            if self._handler.awaits:
                await self._handler.listeners.notify_async()
            if call is None:
                raise StopAsyncIteration
            await call.wait_async()
            number = call.failed + 1
        self._last = Attempt(self._handler, self._started, number, call)
        return self._last
