"""Locks and queues that a member waits for by a park.

Everything in `threading` waits for a lock from `threading._allocate_lock`: conditions, and so
events, semaphores, barriers, queues, futures and timers, also those that are older than the clock,
for a condition makes the lock when somebody waits.
"""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading

from collections import deque
from types import FrameType
from typing import Any

from pytest_resilience.stacks import is_library
from pytest_resilience.virtual_time.members import Order
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.waiting import CallSite
from pytest_resilience.virtual_time.waiting import Outcome
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import is_machinery
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["VirtualLock", "install_locks"]

_WAIT = threading.Condition.wait.__code__
# What takes locks of its own, in the middle of something.
_WITHIN = frozenset(
    each.__code__
    for each in (
        threading.Condition.wait,
        threading.Thread.start,
        threading.Thread.join,
        threading.Thread._bootstrap_inner,  # type: ignore[attr-defined]  # noqa: SLF001
    )
)


class VirtualLock:
    """`threading.Lock`; it outlives the clock, and threads that are no members can use it too.

    Attributes:
        made: where.
        holder: the thread that has it, and where it was taken; None where nobody has.
    """

    __slots__ = ("__weakref__", "_inner", "_scheduler", "_waiters", "holder", "made")

    def __init__(self) -> None:
        self._inner = _thread.allocate_lock()
        self._waiters: deque[Waiter] = deque()
        self._scheduler: Scheduler | None = None  # of the last who had to wait
        self.made = None if sys._getframe(1).f_code is _WAIT else CallSite.here()  # noqa: SLF001
        self.holder: tuple[int, CallSite] | None = None

    @property
    def is_signal(self) -> bool:
        """Whether it is none that somebody holds: a condition makes one for each who waits."""
        return self.made is None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        __tracebackhide__ = True
        if not self.is_signal:
            ordered = current() if blocking else None
            if ordered is not None and ordered.run_queue.order is not None:
                self._let_others_go_first(ordered.run_queue.order)
        taken = self._acquire(blocking, timeout)
        if taken and not self.is_signal:
            self.holder = _thread.get_ident(), CallSite.here()
        return taken

    def _let_others_go_first(self, order: Order) -> None:
        """If the project's own code takes a lock, or what is made of one."""
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # inspect is 100 times slower
        while frame is not None and is_machinery(frame.f_code.co_filename):
            if frame.f_code in _WITHIN:
                return
            frame = frame.f_back
        if frame is None or self.made is None or is_library(frame.f_code.co_filename):
            return
        module = os.path.basename(self.made.code.co_filename).removesuffix(".py")
        order.at("lock", f"{module}.{self.made.code.co_name}", str(CallSite.of(frame)))

    def _acquire(self, blocking: bool, timeout: float) -> bool:
        __tracebackhide__ = True
        if self._inner.acquire(False):
            return True
        scheduler = current() if blocking else None
        if scheduler is None or scheduler.is_held_here:
            return self._inner.acquire(blocking, timeout)
        if timeout != -1 and not 0 <= timeout <= threading.TIMEOUT_MAX:
            return self._inner.acquire(blocking, timeout)  # which raises
        return self._wait(scheduler, None if timeout == -1 else nanoseconds(timeout))

    def _wait(self, scheduler: Scheduler, timeout: int | None) -> bool:
        __tracebackhide__ = True
        deadline = None if timeout is None else scheduler.elapsed.read() + timeout
        taken = False

        def enlist(waiter: Waiter) -> bool:
            nonlocal taken
            taken = self._inner.acquire(False)
            if not taken:
                self._waiters.append(waiter)
            return not taken

        self._scheduler = scheduler  # before the last try, so that who releases after it knows
        while True:
            left = None if deadline is None else max(0, deadline - scheduler.elapsed.read())
            try:
                waiter = Waiter("lock")
                waiter.awaited = self
                outcome = scheduler.wait(waiter, left, enlist=enlist)
            except BaseException:
                self._pass_on(scheduler)
                raise
            if taken:
                return True
            if outcome is Outcome.TIMED_OUT:
                return self._inner.acquire(False)

    def _pass_on(self, scheduler: Scheduler) -> None:
        """The wake of somebody who gave up is for the next."""
        with scheduler.mutex:
            if not self._inner.locked():
                self._wake_one(scheduler)

    def _wake_one(self, scheduler: Scheduler) -> None:
        while self._waiters:
            if scheduler.wake(self._waiters.popleft()):
                return

    def release(self) -> None:
        self.holder = None
        # Before anybody is woken, who then tries to take it: a thread that is no member may, too.
        self._inner.release()
        scheduler = self._scheduler
        if scheduler is not None:
            with scheduler.mutex:
                self._wake_one(scheduler)

    def locked(self) -> bool:
        return self._inner.locked()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self.__init__()  # type: ignore[misc]  # nobody waits in the child

    def __repr__(self) -> str:
        state = "locked" if self._inner.locked() else "unlocked"
        return f"<{state} {type(self).__module__}.{type(self).__name__} at {id(self):#x}>"


def install_locks(patches: Patches) -> None:
    """Let locks, and queues without one in Python, be those that park."""
    py_rlock: Any = threading._PyRLock  # type: ignore[attr-defined]  # noqa: SLF001
    py_queue: Any = queue._PySimpleQueue  # type: ignore[attr-defined]  # noqa: SLF001
    patches.set(threading, "_allocate_lock", VirtualLock)
    patches.set(threading, "Lock", VirtualLock)
    patches.set(threading, "RLock", py_rlock)
    patches.set(queue, "SimpleQueue", py_queue)
