"""Tasks of asyncio: who lets the others of its loop go first, and who holds its locks.

A task that is woken is a callback among those that are ready in its loop. To let others go first,
that callback is put aside until the loop has nothing to do and nobody else in the test has, so
that time would have to pass. Nothing but the steps of tasks is put aside, and only where something
outside of the loop has woken them: what a loop runs in order stays in order.
"""

from __future__ import annotations

import functools
import sys

from collections import deque
from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any

from pytest_resilience.clock import running_loop
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.waiting import CallSite
from pytest_resilience.virtual_time.waiting import locks_of_tasks


__all__ = ["aside", "install_tasks", "let_others_go_first"]

_MOST_PASSED = 1000  # callbacks that go first: a loop may be kept busy by who waits for the task


class _Ready(deque[Any]):
    """The callbacks of a loop that are ready, but for those that are put aside."""

    def __init__(self, handles: deque[Any], nothing: Any) -> None:
        super().__init__(handles)
        self.aside: list[tuple[Any, Callable[[], None]]] = []
        self._nothing = nothing
        self._waiting: dict[Any, Callable[[], None]] = {}
        self._passed = 0

    def put_aside(self, task: Any, in_vain: Callable[[], None]) -> None:
        """The next step of a task, when it is ready. `in_vain` is called if nobody goes first."""
        self._waiting[task] = in_vain

    def popleft(self) -> Any:
        handle = super().popleft()
        if self._waiting:
            task = getattr(handle._callback, "__self__", None)  # noqa: SLF001  # as asyncio finds it
            if task in self._waiting:
                if not self.aside:
                    self._passed = 0
                self.aside.append((handle, self._waiting.pop(task)))
                return self._nothing
        if self.aside:
            self._passed += 1
            if self._passed > _MOST_PASSED:
                self.let_go()
        return handle

    def let_go(self) -> None:
        """One of those that were put aside, the first, is ready."""
        handle, in_vain = self.aside.pop(0)
        if not self._passed:
            in_vain()
        self._passed = 0
        self.append(handle)


def let_others_go_first(task: Any, in_vain: Callable[[], None]) -> None:
    """Let a task go on, after what it awaits, when all others have done what they can.

    `in_vain` is called if none of them has done anything.
    """
    import asyncio

    loop = task.get_loop()
    if not isinstance(loop._ready, _Ready):  # noqa: SLF001  # nothing public leads to it
        nothing = asyncio.Handle(_do_nothing, (), loop)
        loop._ready = _Ready(loop._ready, nothing)  # noqa: SLF001  # as above
    loop._ready.put_aside(task, in_vain)  # noqa: SLF001  # as above


def _do_nothing() -> None:
    pass


def aside(selector: object) -> _Ready | None:
    """The callbacks of the loop that waits in `selector`; None where it has put none aside."""
    loop = running_loop()
    ready = getattr(loop, "_ready", None)
    if getattr(loop, "_selector", None) is selector and isinstance(ready, _Ready) and ready.aside:
        return ready
    return None


def install_tasks(patches: Patches) -> None:
    """Know who holds a lock of asyncio, and when a task sleeps."""
    asyncio = sys.modules["asyncio"]
    lock = asyncio.Lock
    patches.set(lock, "__init__", _init(lock.__init__))
    patches.set(lock, "acquire", _acquire(lock.acquire))
    patches.set(lock, "release", _release(lock.release))
    sleep = _sleep(asyncio.sleep)
    patches.set(asyncio, "sleep", sleep)
    patches.set(asyncio.tasks, "sleep", sleep)


def _sleep(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(real)
    async def sleep(delay: float, result: Any = None) -> Any:
        scheduler = current()
        if scheduler is not None and scheduler.run_queue.order is not None:
            scheduler.run_queue.order.at("sleep", "task")
        return await real(delay, result)

    return sleep


def _init(real: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(real)
    def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807
        real(self, *args, **options)
        locks_of_tasks[self] = CallSite.here(), None, None

    return __init__


def _acquire(real: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    @functools.wraps(real)
    async def acquire(self: Any) -> bool:
        taken = await real(self)
        taken_at = CallSite.here()
        made = locks_of_tasks.get(self, (taken_at,))[0]
        locks_of_tasks[self] = made, sys.modules["asyncio"].current_task(), taken_at
        return taken

    return acquire


def _release(real: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(real)
    def release(self: Any) -> None:
        real(self)
        if self in locks_of_tasks:
            locks_of_tasks[self] = locks_of_tasks[self][0], None, None

    return release
