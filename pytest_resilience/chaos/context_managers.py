"""Context managers for `with` and `async with` alike."""

from __future__ import annotations

import contextvars
import functools
import sys

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from contextlib import AbstractContextManager
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from pytest_resilience.chaos.shared_settings import limits_lifted


__all__ = ["DualContext", "dual_context", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class DualContext(AbstractContextManager[T], AbstractAsyncContextManager[T]):
    """A context manager that can be entered by `with` and by `async with`.

    Both do the same. What would block the event loop for long is done in a thread by
    `async with`.
    """

    def __init__(self, manager: AbstractContextManager[T], *, blocks: bool) -> None:
        """`blocks`: `manager` takes long, so `async with` enters and leaves it in a thread."""
        self._manager = manager
        self._blocks = blocks

    def __enter__(self) -> T:
        return self._manager.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._manager.__exit__(kind, error, traceback)

    async def __aenter__(self) -> T:
        if self._blocks:
            return await in_thread(self._manager.__enter__)
        return self._manager.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        leave = functools.partial(self._manager.__exit__, kind, error, traceback)
        return await in_thread(leave) if self._blocks else leave()


def dual_context(
    function: Callable[P, Iterator[T]], *, blocks: bool = False
) -> Callable[P, DualContext[T]]:
    """`contextlib.contextmanager`, for `with` and `async with`."""
    make = contextmanager(function)

    @functools.wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> DualContext[T]:
        return DualContext(make(*args, **kwargs), blocks=blocks)

    return made


def in_thread(function: Callable[[], R]) -> Awaitable[R]:
    """Call `function` in a thread, under asyncio or trio."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        found: Awaitable[R] = trio.to_thread.run_sync(function)
        return found
    import asyncio

    carried = functools.partial(contextvars.copy_context().run, function)
    with limits_lifted():  # an experiment may leave no thread to be had, and this may end it
        return asyncio.get_running_loop().run_in_executor(None, carried)
