"""Tasks of asyncio that others wake: who waits for a slot of a pool, a lock, an item of a queue.

Whoever is woken goes on in the next turn of the loop. Who is cancelled before that, by a timeout or
by its caller, has been given what it waited for, and has to give it to the next one. Such a task is
known where its step is about to be scheduled: the future that it waits for is done.

It is woken by a task, or by the callback in which an operation was done that a task awaits; not by
what the loop does itself, at the end of a sleep or when there is something to read. Who awaits the
operation is no other: `cancel` is for that. In trio there is no such turn, for who was woken cannot
be cancelled.
"""

from __future__ import annotations

import sys
import weakref

from collections.abc import Callable
from types import FrameType
from typing import Any

from pytest_resilience.chaos.call_site import current_task
from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.exploration.operation_log import OperationLog


__all__ = ["Wakeups"]

_BY_LOOP = "_set_result_unless_cancelled"  # of asyncio, which ends sleeps and steps of connecting


class Wakeups:
    """Those of one run."""

    def __init__(self) -> None:
        self._cancels: Callable[[], bool]
        self._awaiting: Callable[[], Any] = _nothing  # the task that awaits the last operation
        self._handle: Callable[[], Any] = _nothing  # in which that was done, where no task did it

    def watch(self, log: OperationLog, operation: Operation, number: int) -> None:
        """See `exploration.operation_log.Others`."""
        found = cancellation_of(operation.call_site.loop_objects)
        if found is None or not hasattr(found.task, "get_loop"):
            return
        self._cancels = lambda: log.cancels_woken(number)
        self._awaiting, loop = weakref.ref(found.task), found.task.get_loop()
        handle = _handle_of(sys._getframe())  # noqa: SLF001  # nothing public leads to it
        self._handle = _nothing if handle is None else weakref.ref(handle)
        if not isinstance(loop.call_soon, _CallSoon):
            loop.call_soon = _CallSoon(loop.call_soon)
        loop.call_soon.woken = self._woken

    def _woken(self, task: Any, frame: FrameType) -> None:
        """A task is about to go on, for a future is done as a frame says."""
        if task is self._awaiting() or frame.f_code.co_name == _BY_LOOP or not user_frames(task):
            return
        if current_task() is None:
            handle = _handle_of(frame)
            if handle is None or handle is not self._handle():
                return
        if self._cancels():
            task.cancel()


class _CallSoon:
    """Takes the place of a loop's method, for as long as there is the loop.

    Attributes:
        woken: is told of each task that goes on, and of the frame that has let it.
    """

    def __init__(self, usual: Callable[..., Any]) -> None:
        self.woken: Callable[[Any, FrameType], None]
        self._usual = usual

    def __call__(self, callback: Callable[..., object], *args: Any, **options: Any) -> Any:
        task = getattr(callback, "__self__", None)
        future: Any = getattr(task, "_fut_waiter", None)
        is_plain = type(future) is sys.modules["asyncio"].Future
        if is_plain and args and args[0] is future and not future.cancelled():
            self.woken(task, sys._getframe(1))  # noqa: SLF001  # nothing public tells it
        return self._usual(callback, *args, **options)


def _nothing() -> Any:
    """In the place of a reference."""


def _handle_of(frame: FrameType | None) -> Any:
    """What the loop runs, in which a frame is; None where it runs nothing."""
    code = sys.modules["asyncio"].Handle._run.__code__  # noqa: SLF001  # nothing public leads to it
    while frame is not None:
        if frame.f_code is code:
            return frame.f_locals["self"]
        frame = frame.f_back
    return None
