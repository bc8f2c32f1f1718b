"""Tasks of asyncio that others wake: who waits for a slot of a pool, a lock, an item of a queue.

Whoever is woken goes on in the next turn of the loop. Who is cancelled before that, by a timeout or
by its caller, has been given what it waited for, and has to give it to the next one. Such a task is
known where its step is about to be scheduled: the future that it waits for is done.

Not what the loop itself wakes, at the end of a sleep or of another task; nor who awaits the
operation, which `cancel` is for. In trio there is no such turn: who was woken is not cancelled.
"""

from __future__ import annotations

import sys

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.exploration.operation_log import OperationLog


__all__ = ["Wakeups"]

_BY_LOOP = "_set_result_unless_cancelled"  # of asyncio, which ends sleeps and steps of connecting


class Wakeups:
    """Those of one run.

    Attributes:
        log: of the run.
    """

    def __init__(self) -> None:
        self.log: OperationLog | None = None
        self._awaiting: Any = None  # the task that awaits the last operation

    def watch(self, operation: Operation) -> None:
        """See `exploration.operation_log.Wakeups`."""
        found = cancellation_of(operation.call_site.loop_objects)
        if found is None or not hasattr(found.task, "get_loop"):
            return
        self._awaiting, loop = found.task, found.task.get_loop()
        if not isinstance(loop.call_soon, _CallSoon):
            loop.call_soon = _CallSoon(loop.call_soon)
        loop.call_soon.woken = self.woken

    def woken(self, task: Any) -> None:
        """Another one has woken a task, which is about to go on."""
        assert self.log is not None  # of the operation that is watched
        if task is not self._awaiting and user_frames(task) and self.log.cancels_woken():
            task.cancel()


class _CallSoon:
    """Takes the place of a loop's method, for as long as there is the loop.

    Attributes:
        woken: is told of each task that another one wakes.
    """

    def __init__(self, usual: Callable[..., Any]) -> None:
        self.woken: Callable[[Any], None]
        self._usual = usual

    def __call__(self, callback: Callable[..., object], *args: Any, **options: Any) -> Any:
        task = getattr(callback, "__self__", None)
        future: Any = getattr(task, "_fut_waiter", None)
        if type(future) is sys.modules["asyncio"].Future and args and args[0] is future:
            waker = sys._getframe(1).f_code.co_name  # noqa: SLF001  # nothing public tells it
            if waker != _BY_LOOP and not future.cancelled():
                self.woken(task)
        return self._usual(callback, *args, **options)
