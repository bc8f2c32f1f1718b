"""Who awaits an operation, and how to cancel that as the code under test would.

In asyncio it is a task, and `task.cancel()`. In trio it is a cancel scope, and `scope.cancel()`:
the innermost one that the code under test has entered itself, for a library may turn the
cancellation of its own scope into something else. Where there is none, it is that of the nursery in
which the task was started.

A task that a library has started for itself, with no code of the project in it, and for which
nobody waits who started its loop, or has such code, is cancelled by that library alone. Nobody else
does it, and so nothing here: whoever relies on what it is there for would wait for ever.

Groups of tasks go on, as if nothing had been asked of them, where one of their tasks is cancelled,
and a nursery whose scope is cancelled ends so. Nobody does that to them but their own code. So who
waits for the group is cancelled with the task, and the scopes of nurseries are passed over.

Nothing here waits for anything. Neither asyncio nor trio is imported: who awaits has done so.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import weakref

from collections.abc import Awaitable
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from types import FunctionType
from typing import Any

from pytest_resilience.chaos.call_site import LOOP
from pytest_resilience.chaos.call_site import control_role
from pytest_resilience.chaos.call_site import current_task
from pytest_resilience.chaos.call_site import running_steps
from pytest_resilience.chaos.call_site import tasks_behind
from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import is_frozen
from pytest_resilience.clock import running_loop
from pytest_resilience.stacks import is_library


__all__ = [
    "Cancelling",
    "awaiting",
    "cancel_with_groups",
    "cancellation_of",
    "in_own_scope",
    "note_nursery",
    "note_scope",
]

_LONGEST_JOB = 1.0  # seconds; it may never end
_AWAITED = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR

_scopes_of_user: weakref.WeakSet[Any] = weakref.WeakSet()
_nurseries_of_user: weakref.WeakSet[Any] = weakref.WeakSet()  # their scopes


def note_scope(scope: object) -> None:
    """The code under test has entered a cancel scope of trio itself."""
    _scopes_of_user.add(scope)


def note_nursery(scope: object) -> None:
    """The code under test has opened a nursery of trio, which has this cancel scope."""
    _nurseries_of_user.add(scope)


def in_own_scope(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`function`, with a cancel scope of its own around it where trio runs it.

    For tests: the scopes beyond are those of who runs them. A cancellation leaves it as what it is.
    """

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not hasattr(current_task(), "parent_nursery"):
            return await function(*args, **kwargs)
        left_by: BaseException | None = None
        with sys.modules["trio"].CancelScope() as scope:
            _scopes_of_user.add(scope)
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                left_by = error
                raise
        assert left_by is not None  # or it would have returned
        raise left_by

    return call


@dataclass(frozen=True, slots=True)
class Cancelling:
    """How to cancel who awaits something.

    Attributes:
        cancel: does it.
        task: that awaits.
        is_here: it is done in that task, or in one that it awaits, and not in a callback.
    """

    cancel: Callable[[], object]
    task: Any
    is_here: bool


@dataclass(frozen=True, slots=True)
class Awaiting:
    """A task that awaits something.

    Attributes:
        task: itself.
        is_here: as of `Cancelling`.
        is_own: whether it has code of the project in it, or is all that a loop was started for.
    """

    task: Any
    is_here: bool
    is_own: bool


def cancellation_of(loop_objects: tuple[object, ...] = ()) -> Cancelling | None:
    """Of whoever of the project awaits what is done here; None where nobody does.

    `loop_objects` as of `awaiting`.
    """
    found = awaiting(loop_objects)
    if found is None or not found.is_own:
        return None
    return _cancelling(found.task, is_here=found.is_here)


def awaiting(loop_objects: tuple[object, ...] = ()) -> Awaiting | None:
    """Who awaits what is done here; None where nobody does.

    `loop_objects` may lead to the task that does. What a coroutine does without awaiting it is
    awaited by nobody.
    """
    current = current_task()
    if current is None and not loop_objects:
        return _task_of_worker()
    if current is None and all(each is None for each in loop_objects):
        return None
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # as in call_site
    called: FrameType | None = None
    while frame is not None and control_role(frame.f_code) != LOOP:
        if not is_library(frame.f_code.co_filename):
            awaited = called is not None and called.f_code.co_flags & _AWAITED
            if current is None or not awaited:
                return None
            return Awaiting(current, is_here=True, is_own=True)
        frame, called = frame.f_back, frame
    return _nearest((*loop_objects, current), is_here=current is not None)


def _task_of_worker() -> Awaiting | None:
    """The task that waits for the job of this thread; None where nobody does.

    One of the futures that the thread's frames have is that of its job.
    """
    if threading.get_ident() == threading.main_thread().ident:
        return None  # it does nobody's job
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # as above
    futures: list[object] = []
    while frame is not None:
        for value in frame.f_locals.values():
            future = getattr(value, "future", value)
            if hasattr(type(future), "add_done_callback"):
                futures.append(future)
        frame = frame.f_back
    found = _nearest(tuple(futures))
    if found is None and any(map(_is_new, futures)):
        # The thread may have begun before the task waits: until then the loop runs that.
        steps = [step for step, _ in running_steps()]
        found = _nearest(tuple(steps)) if len(steps) == 1 else None
    return found


def _is_new(future: Any) -> bool:
    """Whether nobody has waited for it yet: who waits no more, for it was cancelled, has."""
    callbacks = getattr(future, "_done_callbacks", None) or getattr(future, "_callbacks", None)
    return not callbacks and not future.done()


def _nearest(objects: tuple[object, ...], *, is_here: bool = False) -> Awaiting | None:
    """The first task with code of the user's that one of the objects leads to.

    Where none has any, it is the last of them, which no other waits for; None if there is none.
    That is the user's too where `asyncio.run` or `trio.run` was called for it.
    """
    task = main = None
    for each in objects:
        for task in tasks_behind(each):
            if user_frames(task):
                return Awaiting(task, is_here, is_own=True)
            main = main or (task if _is_main(task) else None)
    task = main or task
    return None if task is None else Awaiting(task, is_here, is_own=main is not None)


def _is_main(task: Any) -> bool:
    """Whether a loop runs until it is done, for which whoever started the loop waits."""
    if hasattr(task, "parent_nursery"):
        module: Any = sys.modules["trio._core._run"]
        return bool(task is module.GLOBAL_RUN_CONTEXT.runner.main_task)
    callbacks = [each for each, _ in task._callbacks or ()]  # noqa: SLF001  # nothing public tells
    names = [getattr(each, "__qualname__", "") for each in callbacks]
    return any("run_until_complete" in name for name in names)  # of asyncio, or in uvloop's


def _cancelling(task: Any, *, is_here: bool) -> Cancelling | None:
    if not hasattr(task, "parent_nursery"):  # of asyncio
        loop = task.get_loop()
        cancel = functools.partial(cancel_with_groups, task)
        if running_loop() is not loop:
            cancel = functools.partial(_cancel_from_thread, loop, cancel)
        return Cancelling(cancel, task, is_here)
    if current_task() is None:
        return None  # a thread of trio's cannot be abandoned
    scope = _scope_of(task)
    return None if scope is None else Cancelling(scope.cancel, task, is_here)


def _cancel_from_thread(loop: Any, cancel: Callable[[], object]) -> None:
    """Let a loop cancel a task, and hear from this thread what comes of its job."""
    tell = loop.call_soon_threadsafe
    with contextlib.suppress(AttributeError):  # a loop that is written in C
        if not is_frozen():  # else virtual time says who goes on, and when
            tell = _Hearing.of(loop).expect(threading.current_thread())
    tell(cancel)


class _Hearing:
    """Has a loop of asyncio stay open until threads whose tasks were cancelled have told it so.

    The loop of a program goes on after that. The one of a test may be closed at once, and it would
    be chance whether a thread finds it open, or an error is raised in that thread.
    """

    def __init__(self, loop: Any) -> None:
        self._busy: set[threading.Thread] = set()
        self._tell: Callable[..., object] = loop.call_soon_threadsafe
        self._close: Callable[[], object] = loop.close

    @classmethod
    def of(cls, loop: Any) -> _Hearing:
        """The one of a loop, for as long as there is the loop."""
        found = getattr(loop.close, "__self__", None)
        if not isinstance(found, cls):
            found = cls(loop)
            loop.call_soon_threadsafe, loop.close = found.tell, found.close
        return found

    def expect(self, thread: threading.Thread) -> Callable[..., object]:
        """Expect it of a thread. Gives what tells the loop something else."""
        self._busy.add(thread)
        return self._tell

    def tell(self, *args: Any, **options: Any) -> object:
        """As `loop.call_soon_threadsafe`."""
        try:
            return self._tell(*args, **options)
        finally:
            self._busy.discard(threading.current_thread())

    def close(self) -> None:
        """As `loop.close`."""
        end = MACHINE_CLOCK.monotonic() + _LONGEST_JOB
        while any(each.is_alive() for each in [*self._busy]) and MACHINE_CLOCK.monotonic() < end:
            MACHINE_CLOCK.sleep(0.001)
        self._close()


def cancel_with_groups(task: Any) -> None:
    """Cancel a task of asyncio, and who waits for the groups that it is in."""
    seen = []
    while task is not None and task not in seen:
        seen.append(task)
        task.cancel()
        hosts = (_host(callback) for callback, _ in task._callbacks or ())  # noqa: SLF001  # as below
        task = next((each for each in hosts if each is not None), None)


def _host(callback: Any) -> Any:
    """The task of the user's that waits for the end of the group whose callback it is.

    None if there is none: who still does something else in the block of the group, such as a server
    that accepts connections, gives nobody up. `asyncio.gather` tells who waits of the cancelled.
    """
    group = getattr(callback, "__self__", None)
    if group is None and isinstance(callback, FunctionType):  # of anyio
        named = zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True)
        with contextlib.suppress(KeyError, ValueError):  # ValueError: it has no value yet
            group = dict(named)["self"].cell_contents
    if getattr(group, "_on_completed_fut", None) is None:
        return None
    host = getattr(getattr(group, "cancel_scope", group), "_host_task", None)
    host = host or getattr(group, "_parent_task", None)
    return host if host is not None and user_frames(host) else None


def _scope_of(task: Any) -> Any:
    """The cancel scope of trio to cancel; None where there is none that would be heeded."""
    status = task._cancel_status  # noqa: SLF001  # nothing public leads to it
    while status is not None:
        scope = status._scope  # noqa: SLF001  # as above
        if scope in _scopes_of_user:
            return scope
        if scope.shield:
            return None
        status = status._parent  # noqa: SLF001  # as above
    nursery = task.parent_nursery
    while nursery is not None and nursery.cancel_scope in _nurseries_of_user:
        nursery = nursery.parent_task.parent_nursery
    return None if nursery is None else nursery.cancel_scope
