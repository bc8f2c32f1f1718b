"""Blocks of code, run again when they fail."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self
from typing import TypeVar

from pytest_resilience.patterns.retry.attempts import Series
from pytest_resilience.patterns.retry.attempts import Surroundings


__all__ = ["AsyncAttempts", "Attempt", "attempts"]

_R = TypeVar("_R")


class Attempt:
    """One attempt at a block, to be entered once.

    Attributes:
        number: 1, 2, …
        delay: seconds to wait for the next; None if none follows, or before it is known.
    """

    # What most attempts never set stands here: to make one is most of what a block costs.
    delay: float | None = None
    _entered = False
    _result: tuple[object] | None = None

    def __init__(
        self, around: Surroundings, started: float | None, number: int, series: Series | None
    ) -> None:
        """`series`: None for a first attempt, which leaves no trace if it succeeds."""
        self.number = number
        self._around = around
        self._started = started
        self._series = series

    @property
    def entered(self) -> bool:
        """Whether there was a `with`."""
        return self._entered

    def returned(self, result: _R) -> _R:
        """Say what the block has come to, so that `retry_on_result` can judge it; hands it back."""
        self._result = (result,)
        return result

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"attempt {self.number} was entered before; each is for one `with`")
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        series = self._series
        if series is None:
            if error is None and self._result is None:
                return False
            series = self._series = Series(self._around, self._started)
        again = False
        if error is not None:
            again = series.raised(error)
        elif self._result is not None:
            series.returned(self._result[0])
        else:
            series.succeeded()
        self.delay = series.delay
        return again

    def next_after(self) -> Series | None:
        """What is waited by before the next attempt; None if none follows."""
        if not self._entered:
            raise RuntimeError(f"attempt {self.number} was not used; put `with attempt:` around it")
        return None if self.delay is None else self._series


def attempts(around: Surroundings, started: float | None) -> Iterator[Attempt]:
    """The attempts at one block, with waits that block the thread."""
    attempt = Attempt(around, started, 1, None)
    yield attempt
    while (series := attempt.next_after()) is not None:
        series.pause()
        attempt = Attempt(around, started, attempt.number + 1, series)
        yield attempt


class AsyncAttempts:
    """The attempts at one block, with waits that suspend the task.

    No generator as `attempts` is: a loop that is left early would leave it to be closed.
    """

    __slots__ = ("_around", "_last", "_started")

    def __init__(self, around: Surroundings, started: float | None) -> None:
        self._around = around
        self._started = started
        self._last: Attempt | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        last, series, number = self._last, None, 1
        if last is not None:
            series = last.next_after()
            if series is None:
                raise StopAsyncIteration
            await series.apause()
            number = last.number + 1
        self._last = Attempt(self._around, self._started, number, series)
        return self._last
