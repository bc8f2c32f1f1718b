"""Calls that are begun now and ended later, in any order, whatever the way in.

Plain functions run in a greenlet each, coroutines are sent on by hand: nothing here waits, and
each call has context variables of its own, as threads and tasks have.
"""

from __future__ import annotations

import contextvars

from collections.abc import AsyncGenerator
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Generator
from typing import Any
from typing import Protocol

from greenlet import getcurrent
from greenlet import greenlet


__all__ = ["InAsyncGenerator", "InGenerator", "InGreenlet", "InTask", "Ongoing", "PoorListener"]

_BEGUN = object()


class Ongoing(Protocol):
    """A call that has begun: what it is made from raises if it is not let in."""

    def end(self, outcome: Any) -> Any:
        """Let it return `outcome`, or raise it; what the caller sees is returned, or raised."""


class InGreenlet:
    """A way into which a plain function goes."""

    def __init__(self, way: Callable[[Callable[[], Any]], Any]) -> None:
        outside = getcurrent()

        def work() -> Any:
            outcome = outside.switch(_BEGUN)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        self._greenlet = greenlet(lambda: way(work))
        assert self._greenlet.switch() is _BEGUN

    def end(self, outcome: Any) -> Any:
        result = self._greenlet.switch(outcome)
        assert self._greenlet.dead
        return result


class _Told:
    def __await__(self) -> Generator[None, Any, Any]:
        return (yield)


async def _work() -> Any:
    outcome = await _Told()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class InTask:
    """A way into which a coroutine function goes."""

    def __init__(
        self,
        way: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]],
    ) -> None:
        self._context = contextvars.copy_context()
        self._coroutine = way(_work)
        self._context.run(self._coroutine.send, None)

    def end(self, outcome: Any) -> Any:
        try:
            self._context.run(self._coroutine.send, outcome)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it goes on")


def _items() -> Generator[None, Any, Any]:
    outcome = yield
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class InGenerator:
    """A way into which a generator function goes."""

    def __init__(
        self, way: Callable[[Callable[[], Generator[None, Any, Any]]], Generator[None, Any, Any]]
    ) -> None:
        self._generator = way(_items)
        next(self._generator)

    def end(self, outcome: Any) -> Any:
        try:
            self._generator.send(outcome)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it goes on")


async def _aitems() -> AsyncGenerator[None, Any]:
    outcome = yield
    if isinstance(outcome, BaseException):
        raise outcome


class InAsyncGenerator:
    """A way into which an async generator function goes; it has no result."""

    def __init__(
        self, way: Callable[[Callable[[], AsyncGenerator[None, Any]]], AsyncGenerator[None, Any]]
    ) -> None:
        self._generator = way(_aitems)
        self._send(None)

    def _send(self, value: Any) -> None:
        try:
            self._generator.asend(value).__await__().__next__()
        except StopIteration:  # it has yielded
            return
        raise AssertionError("it waits")

    def end(self, outcome: Any) -> Any:
        try:
            self._send(outcome)
        except StopAsyncIteration:
            return None
        raise AssertionError("it goes on")


class PoorListener:
    """Fails on every tenth event, and not on each: what it raises is logged, which takes long."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, _: object) -> None:
        self._told += 1
        if self._told % 10 == 1:
            raise OSError
