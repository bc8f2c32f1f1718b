"""What a blocked event loop of asyncio or trio waits for, and whether that can still come.

In a guest run of trio a thread waits in its place, and the thread of its host for that: in asyncio,
or in a queue, as the tests of anyio do.
"""

from __future__ import annotations

import _socket
import functools
import gc
import math
import os
import select
import selectors
import signal
import socket
import sys
import threading
import weakref

from collections import deque
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from types import CodeType
from types import FrameType
from typing import Any
from typing import TypeAlias

from pytest_resilience.chaos.descriptors import below
from pytest_resilience.clock import running_loop
from pytest_resilience.stacks import is_library
from pytest_resilience.stacks import suspended_frames
from pytest_resilience.virtual_time.stalls import is_in_a_lock_of_c


__all__ = [
    "LoopWait", "Place", "awaited_in", "awaited_in_trio", "deadlines_in_trio", "delay_in_trio",
    "due", "guest_of_trio", "other_threads", "raise_in_trio", "running_loop_in_c",
    "runs_project",
]  # fmt: skip

Place = tuple[tuple[CodeType, int | None], ...]
"""The lines of a stack, innermost first."""

_Watched: TypeAlias = dict[int, int]
_MOST_FRAMES = 8  # between a selector's `select` and the loop, with what is put around it


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopWait:
    """All tasks of an event loop wait, and for a time nothing is to be done.

    Attributes:
        loop: the event loop, or what trio has in its place.
        awaited: each task with the future that it waits for, or with the number of its steps:
            after a step it is another one.
        tasks: the frames of each task, outermost first.
        watched: gives the descriptors through which something may come, each with what is polled
            for, but for those by which threads wake the loop; None where a signal may let it do
            something.
    """

    loop: Any
    awaited: frozenset[tuple[Any, ...]]
    tasks: tuple[tuple[FrameType, ...], ...]
    watched: Callable[[], _Watched | None]

    @classmethod
    def of(cls, frame: FrameType | None, seconds: float) -> LoopWait | None:
        """Of the innermost frame of the thread that runs the loop.

        None if it does not wait, or if a timer lets it do something within so many `seconds`.
        """
        asyncio: Any = sys.modules.get("asyncio")
        guest = guest_of_trio()
        if asyncio is not None:
            code = asyncio.base_events.BaseEventLoop._run_once.__code__  # noqa: SLF001
            turn = _turn(frame, code, waits_in="select")
            if turn is not None:
                host = cls._of_asyncio(turn, seconds)
                return host if guest is None or host is None else host.beside(guest, seconds)
            if (loop := running_loop_in_c()) is not None:
                return cls._of_loop_in_c(loop, seconds)
        if guest is not None:
            waits = frame is not None and is_in_a_lock_of_c(frame)
            return cls._of_guest(guest, seconds) if waits else None
        turn = _turn_of_trio(frame)
        if turn is None or turn.f_locals["timeout"] == 0:
            return None
        return cls._of_trio(turn.f_locals["runner"], seconds)

    @classmethod
    def _of_asyncio(cls, turn: FrameType, seconds: float) -> LoopWait | None:
        loop = turn.f_locals["self"]
        if turn.f_locals["timeout"] == 0 or _seconds_left(loop) < seconds:
            return None
        return cls(
            loop=loop,
            awaited=awaited_in(loop),
            tasks=_frames_of(sys.modules["asyncio"].all_tasks(loop)),
            watched=functools.partial(_watched_by_asyncio, loop),
        )

    @classmethod
    def _of_loop_in_c(cls, loop: Any, seconds: float) -> LoopWait | None:
        """As far as what it refers to tells: sets of timers, and a queue of what is to be done."""
        parts = gc.get_referents(loop)
        timers = (each for part in parts if isinstance(part, set) for each in part)
        due = (each.when() for each in timers if hasattr(each, "when"))
        has_work = any(part for part in parts if isinstance(part, deque))
        if has_work or min(due, default=math.inf) - loop.time() < seconds:
            return None
        return cls(
            loop=loop,
            awaited=awaited_in(loop),
            tasks=_frames_of(sys.modules["asyncio"].all_tasks(loop)),
            watched=lambda: None,
        )

    @classmethod
    def _of_trio(cls, runner: Any, seconds: float) -> LoopWait | None:
        jumps = runner.waiting_for_idle or runner.clock_autojump_threshold < math.inf
        due = min((when for when, _ in deadlines_in_trio(runner)), default=math.inf)
        if jumps or due - runner.clock.current_time() < seconds:
            return None
        return cls(
            loop=runner,
            awaited=awaited_in_trio(runner),
            tasks=_frames_of(runner.tasks),
            watched=functools.partial(_watched_by_trio, runner),
        )

    @classmethod
    def _of_guest(cls, runner: Any, seconds: float) -> LoopWait | None:
        asked = runner.entry_queue.size()  # by threads
        has_work = runner.guest_tick_scheduled or runner.runq or asked
        return None if has_work else cls._of_trio(runner, seconds)

    def beside(self, guest: Any, seconds: float) -> LoopWait | None:
        """Both, where its loop is the host of a guest run of trio."""
        found = self._of_guest(guest, seconds)
        if found is None:
            return None
        watched = (self.watched, found.watched)
        return replace(
            found,
            awaited=self.awaited | found.awaited,
            tasks=self.tasks + found.tasks,
            watched=functools.partial(_watched_by_all, watched),
        )

    @property
    def places(self) -> frozenset[Place]:
        """Where its tasks wait."""
        return frozenset(
            tuple((each.f_code, each.f_lineno) for each in reversed(frames))
            for frames in self.tasks
        )

    @property
    def is_for_nothing(self) -> bool:
        """Whether nobody is left who could end it: no other thread, process, connection or signal.

        What the loop's own sockets say to each other, and listeners of its own, end nothing: none
        of its tasks goes on to say anything.
        """
        watched = self.watched() if _all_other_threads_wait(self.loop) else None
        if watched is None or _has_come(watched):
            return False
        pairs = [*map(_pair, watched)]
        here = {each for each in pairs if each is not None}
        listens = any(each[1] is None for each in here)
        is_closed = all(
            each is not None and (each[1] is None or each[::-1] in here) for each in pairs
        )
        return is_closed and not (listens and _has_children())


def running_loop_in_c() -> Any:
    """The event loop of this thread, where it is none of asyncio's own, as uvloop's; else None."""
    loop = running_loop()
    is_of_asyncio = loop is None or isinstance(loop, sys.modules["asyncio"].BaseEventLoop)
    return None if is_of_asyncio else loop


def guest_of_trio() -> Any:
    """What runs trio as the guest of another loop in this thread; None if nothing does."""
    module = sys.modules.get("trio._core._run")
    runner = getattr(getattr(module, "GLOBAL_RUN_CONTEXT", None), "runner", None)
    return runner if getattr(runner, "is_guest", False) else None


def raise_in_trio(error: BaseException, frame: FrameType | None) -> bool:
    """Let a run of trio end with an error, where its main task waits; returns whether there is one.

    An error of what waits in its place would leave the run behind, and a thread has only one.
    """
    turn = _turn_of_trio(frame)
    runner = guest_of_trio() if turn is None else turn.f_locals["runner"]
    task = getattr(runner, "main_task", None)
    if task is None:
        return False

    def rise() -> None:
        raise error

    def interrupt() -> None:
        if task._abort_func is not None:  # noqa: SLF001  # as trio does for KeyboardInterrupt
            task._attempt_abort(rise)  # noqa: SLF001

    runner.entry_queue.run_sync_soon(interrupt)
    return True


def _waits_for(runner: Any, frame: FrameType | None) -> bool:
    """Whether a thread waits in the place of a guest run of trio, or brings it what has come."""
    while frame is not None:
        if frame.f_code.co_name in {"get_events", "deliver"}:
            state = frame.f_locals.get("self")
            if getattr(state, "runner", None) is runner:
                return True
        frame = frame.f_back
    return False


def _watched_by_all(watched: Iterable[Callable[[], _Watched | None]]) -> _Watched | None:
    found = [each() for each in watched]
    return (
        None if None in found else {fd: way for each in found for fd, way in (each or {}).items()}
    )


def _watched_by_asyncio(loop: Any) -> _Watched | None:
    if getattr(loop, "_signal_handlers", True):
        return None
    own = loop._ssock.fileno()  # noqa: SLF001  # by which threads and signals wake it
    keys = loop._selector.get_map()  # noqa: SLF001
    return {fd: _polled(*_ways(key.events)) for fd, key in keys.items() if fd != own}


def _ways(events: int) -> tuple[bool, bool]:
    return bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE)


def _polled(reads: object, writes: object) -> int:
    return (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0)


def _has_come(watched: _Watched) -> bool:
    """Whether something has, which the loop is about to be told: its own tasks talk, for one."""
    poll = below(select.poll)()
    for fd, way in watched.items():
        poll.register(fd, way)
    return bool(poll.poll(0))


def _watched_by_trio(runner: Any) -> _Watched | None:
    handlers = map(signal.getsignal, signal.valid_signals())
    registered = getattr(runner.io_manager, "_registered", None)  # of epoll
    if registered is None or any(map(_is_receiver_of_trio, handlers)):
        return None
    wakes = (runner.io_manager._force_wakeup, runner.entry_queue.wakeup)  # noqa: SLF001
    own = [each.wakeup_sock.fileno() for each in wakes]
    return {
        fd: _polled(each.read_task, each.write_task)
        for fd, each in registered.items()
        if fd not in own
    }


def _is_receiver_of_trio(handler: object) -> bool:
    return getattr(handler, "__module__", None) == "trio._signals"


def _frames_of(tasks: Iterable[Any]) -> tuple[tuple[FrameType, ...], ...]:
    return tuple(filter(None, (tuple(suspended_frames(task)) for task in tasks)))


def _turn(frame: FrameType | None, code: CodeType, *, waits_in: str) -> FrameType | None:
    """The frame of the loop's turn that waits in a selector."""
    inner = None
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return None
        if frame.f_code is code:
            return frame if inner is not None and inner.f_code.co_name == waits_in else None
        inner, frame = frame, frame.f_back
    return None


def _turn_of_trio(frame: FrameType | None) -> FrameType | None:
    run = getattr(sys.modules.get("trio"), "run", None)
    return None if run is None else _turn(frame, run.__code__, waits_in="get_events")


def awaited_in(loop: Any, but: Container[Any] = ()) -> frozenset[tuple[Any, ...]]:
    """Each task of a loop with the future that it waits for, which after a step is another one."""
    tasks = sys.modules["asyncio"].all_tasks(loop)
    return frozenset(_step_of(each) for each in tasks if each not in but)


def _step_of(task: Any) -> tuple[Any, ...]:
    """Of references that keep nothing open."""
    future = getattr(task, "_fut_waiter", None)
    return weakref.ref(task), None if future is None else weakref.ref(future)


def awaited_in_trio(runner: Any, but: Container[Any] = ()) -> frozenset[tuple[Any, ...]]:
    """Each task with the number of its steps; one that a fault delays with that delay."""
    woken = type(runner.entry_queue).task.__code__  # goes a step by every signal, as of a look
    tasks = (each for each in runner.tasks if each.coro.cr_code is not woken and each not in but)
    return frozenset(_step_in_trio(each) for each in tasks)


def _step_in_trio(task: Any) -> tuple[Any, ...]:
    delay = delay_in_trio(task)
    step = task._schedule_points if delay is None else weakref.ref(delay)  # noqa: SLF001
    return weakref.ref(task), step


def delay_in_trio(task: Any) -> Any:
    """The delay by a fault in which a task waits, if it is in one; else None.

    It has `resilience_due`, and `resilience_scope` by which it wakes the task now and then.
    """
    data = task.custom_sleep_data
    return data if hasattr(data, "resilience_due") else None


def deadlines_in_trio(runner: Any) -> list[tuple[float, Any]]:
    """When each cancel scope is cancelled, and the scope. That of a delay tells when it is over."""
    delays = filter(None, map(delay_in_trio, runner.tasks))
    due = {id(each.resilience_scope): each.resilience_due for each in delays}
    return [
        (due.get(id(scope), when), scope)
        for when, _, scope in runner.deadlines._heap  # noqa: SLF001  # nothing public tells
        if when == scope._registered_deadline  # noqa: SLF001  # it has no other by now
    ]


def _seconds_left(loop: Any) -> float:
    """Until a timer lets a loop do something."""
    timers = (each for each in loop._scheduled if not each.cancelled())  # noqa: SLF001
    return min(map(due, timers), default=math.inf) - float(loop.time())


def due(timer: Any) -> float:
    """When a timer of asyncio is to do something. What those of faults poll for tells that."""
    owner = getattr(timer._callback, "__self__", None)  # noqa: SLF001
    return float(getattr(owner, "resilience_due", timer.when()))


def _all_other_threads_wait(loop: Any) -> bool:
    """Whether each waits for a lock or a queue, which somebody else would have to release.

    Or in the place of the loop, if that is a guest run of trio.
    """
    frames = other_threads().values()
    return all(is_in_a_lock_of_c(each) or _waits_for(loop, each) for each in frames)


def other_threads() -> dict[int, FrameType]:
    """The innermost frame of every thread but this one, by its identity.

    Those that `threading` has not started are left out where they run nothing of the project's:
    they are of the tools that run the test, as that by which a worker of xdist is told what to run.
    """
    known = {each.ident for each in threading.enumerate()}
    frames = sys._current_frames()  # noqa: SLF001  # there is no other way
    del frames[threading.get_ident()]
    return {
        ident: frame for ident, frame in frames.items() if ident in known or runs_project(frame)
    }


def runs_project(frame: FrameType | None) -> bool:
    """Whether a thread runs the project's own code, or an event loop."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not is_library(file) or "asyncio" in Path(file).parts:
            return True
        frame = frame.f_back
    return False


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # which leaves all as it is
    except ChildProcessError:
        return False
    return True


def _pair(fd: int) -> tuple[Any, Any] | None:
    """Both addresses of a socket, the second None for a listener; None for what has none."""
    try:
        found = _socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        own = found.getsockname()
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return own, None
        return (own, found.getpeername()) if own else None
    except OSError:
        return None
    finally:
        found.detach()
