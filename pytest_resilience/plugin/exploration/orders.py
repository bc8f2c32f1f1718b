"""What others do meanwhile: other threads and tasks go first, or a task is cancelled as it wakes.

In virtual time one thread runs at a time, until it waits; who was woken first goes on first. From
that order a schedule deviates where it says `later`: who does that operation goes on after all
others have done what they can, without that time passes. An operation that is done by a task,
which awaits it, delays the task; any other the thread. Both can really happen: whatever is asked
for may take long.

Where it says `cancel_woken`, a task is cancelled that another has woken: who waits for a slot of a
pool, a lock, an item of a queue, and goes on in the next turn of the loop. Cancelled before that,
by a timeout or by its caller, it has been given what it waited for, and has to give it to the next
one. Such a task is known where its step is about to be scheduled: the future that it waits for is
done.

It is woken by a task, or by the callback in which an operation was done that a task awaits; not by
what the loop does itself, at the end of a sleep or when there is something to read. Who awaits the
operation is no other: `cancel` is for that. In trio there is no such turn, for who was woken
cannot be cancelled.

Where it says `cancel_waiting`, a task of asyncio is cancelled that waits for others as the
operation begins: for a lock, a queue, or a future that no connection of asyncio's own has. It
leaves before its turn has come, and nobody must wait for it. The oldest of them is taken. Where a
callback of the loop does the operation, as it receives, it is cancelled in the next turn, as by a
timeout: right before who awaits the operation goes on, and before it has left itself.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref

from collections.abc import Callable
from types import FrameType
from typing import Any

from pytest_resilience.chaos.call_site import current_task
from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.chaos.cancelling import awaiting
from pytest_resilience.chaos.cancelling import cancel_with_groups
from pytest_resilience.chaos.operation import SLEEP
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.possible_faults import CANCEL_WAITING
from pytest_resilience.chaos.possible_faults import CANCEL_WOKEN
from pytest_resilience.clock import running_loop
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.stacks import suspended_frames
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.tasks import let_others_go_first


__all__ = ["Orders"]

_OF_OTHERS = frozenset({"locks.py", "queues.py"})  # of asyncio: what tasks have to wait for others
_BLOCK_ENDS = "__aexit__"  # where a group waits for its own tasks
_BY_LOOP = "_set_result_unless_cancelled"  # of asyncio, which ends sleeps and steps of connecting


class _Wakeups:
    """The tasks of one run that others wake."""

    def __init__(self) -> None:
        self._cancels: Callable[[], bool]
        self._awaiting: Callable[[], Any] = _nothing  # the task that awaits the last operation
        self._handle: Callable[[], Any] = _nothing  # in which that was done, where no task did it

    def watch(self, log: OperationLog, operation: Operation, number: int) -> None:
        """See `exploration.operation_log.Others`."""
        found = awaiting(operation.call_site.loop_objects)
        if found is None or not hasattr(found.task, "get_loop"):
            return
        self._cancels = lambda: log.cancels(CANCEL_WOKEN, number)
        self._awaiting, loop = weakref.ref(found.task), found.task.get_loop()
        waiting = _waiting(found.task, loop) if running_loop() is loop else None
        if waiting is not None and log.cancels(CANCEL_WAITING, number):
            if current_task() is None:
                loop.call_soon(cancel_with_groups, waiting)
            else:
                cancel_with_groups(waiting)
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
            cancel_with_groups(task)


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


def _waiting(but: Any, loop: Any) -> Any:
    """The oldest task that waits for others, and is not `but`; None if none does."""
    tasks = sys.modules["asyncio"].all_tasks(loop)
    found = (each for each in tasks if each is not but and _waits_for_others(each))
    return min(found, key=_age, default=None) if len(tasks) > 1 else None


def _waits_for_others(task: Any) -> bool:
    """Whether nothing of asyncio's own, a connection or a sleep, lets it go on."""
    asyncio: Any = sys.modules["asyncio"]
    future: Any = getattr(task, "_fut_waiter", None)
    if type(future) is not asyncio.Future or future.done() or not user_frames(task):
        return False
    *_, innermost = suspended_frames(task)
    code = innermost.f_code
    folder, file = os.path.split(code.co_filename)
    if folder == os.path.dirname(asyncio.__file__ or ""):
        return file in _OF_OTHERS or code.co_name == "wait_for"
    return code.co_name != _BLOCK_ENDS


def _age(task: Any) -> tuple[bool, int, str]:
    """For an order that is the same in every run: that of the numbers that asyncio gives."""
    name, _, number = task.get_name().rpartition("-")
    is_given = name == "Task" and number.isdecimal()
    return (not is_given, int(number) if is_given else 0, task.get_name())


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


class Orders:
    """The others of one run: lets them go first in virtual time, and tells a log what they do.

    Attributes:
        log: of the run.
        in_vain: see `exploration.operation_log.Others`.
    """

    may_go_first = staticmethod(current)

    def __init__(self) -> None:
        self.log: OperationLog | None = None
        self.in_vain: set[Step] = set()
        self._wakeups = _Wakeups()

    def at(self, kind: str, target: str, place: str = "") -> None:
        """See `virtual_time.members.Order`."""
        if self.log is not None and self.log.is_open:
            site = CallSite(place=place)
            operation = Operation(
                kind=f"thread.{kind}", target=target, names=(target,), call_site=site
            )
            self.log.observe(operation)

    def is_possible(self, operation: Operation) -> bool:
        """See `exploration.operation_log.Others`."""
        scheduler = current()
        if scheduler is None or scheduler.run_queue.order is not self or scheduler.is_held_here:
            return False
        if scheduler.others_can_go():
            return True
        task = _task_of(operation)
        return task is not None and len(sys.modules["asyncio"].all_tasks(task.get_loop())) > 1

    def begin(self, operation: Operation, step: Step) -> None:
        """See `exploration.operation_log.Others`."""
        scheduler = current()
        if scheduler is None or scheduler.is_held_here:
            return
        task = _task_of(operation)
        if task is not None:
            let_others_go_first(task, functools.partial(self.in_vain.add, step))
        elif not scheduler.give_way():
            self.in_vain.add(step)

    def watch(self, operation: Operation, number: int) -> None:
        """See `exploration.operation_log.Others`."""
        if self.log is not None:
            self._wakeups.watch(self.log, operation, number)


def _task_of(operation: Operation) -> Any:
    """The task of this thread's loop that awaits an operation; None if it is the thread's."""
    loop = running_loop()
    if loop is None or (operation.kind == SLEEP and operation.target == "thread"):
        return None
    found = awaiting(operation.call_site.loop_objects)
    if found is None or not hasattr(found.task, "get_loop"):
        return None
    return found.task if found.task.get_loop() is loop else None
