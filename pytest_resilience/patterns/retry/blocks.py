"""Blocks of code that run again when they fail: `for attempt in handler: with attempt: …`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self
from typing import TypeVar

from pytest_resilience.patterns.retry.attempts import CallState
from pytest_resilience.patterns.retry.attempts import HandlerState


__all__ = ["AsyncAttempts", "Attempt", "attempts"]

_R = TypeVar("_R")


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
