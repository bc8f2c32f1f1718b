"""Blocks of code, run again when they fail."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from typing import TypeVar

from pytest_resilience.patterns.retry_series import Series


__all__ = ["AsyncAttempts", "Attempt", "Attempts"]

_R = TypeVar("_R")


class Attempt:
    """One attempt at a block, to be entered once.

    Attributes:
        number: 1, 2, …
        delay: seconds to wait for the next; None if none follows, or before it is known.
    """

    __slots__ = ("_entered", "_result", "_series", "delay", "number")

    def __init__(self, series: Series, number: int) -> None:
        self.number = number
        self.delay: float | None = None
        self._series = series
        self._entered = False
        self._result: tuple[object] | None = None

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
        again = False
        if error is not None:
            again = series.raised(error)
        elif self._result is not None:
            series.returned(self._result[0])
        else:
            series.succeeded()
        self.delay = series.delay
        return again


class _Attempts:
    """The attempts at one block, but for the waits between them."""

    __slots__ = ("_last", "_series")

    def __init__(self, series: Series) -> None:
        self._series = series
        self._last: Attempt | None = None

    def _another(self) -> bool:
        last = self._last
        if last is not None and not last.entered:
            raise RuntimeError(f"attempt {last.number} was not used; put `with attempt:` around it")
        return last is None or last.delay is not None

    def _begin(self) -> Attempt:
        number = 1 if self._last is None else self._last.number + 1
        self._last = Attempt(self._series, number)
        return self._last


class Attempts(_Attempts):
    """The attempts at one block, with waits that block the thread."""

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Attempt:
        if not self._another():
            raise StopIteration
        self._series.pause()
        return self._begin()


class AsyncAttempts(_Attempts):
    """The attempts at one block, with waits that suspend the task."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        if not self._another():
            raise StopAsyncIteration
        await self._series.apause()
        return self._begin()
