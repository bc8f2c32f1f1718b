"""Threads that members start, and those that run work for them."""

from __future__ import annotations

import _thread
import sys
import threading
import types
import weakref

from collections.abc import Callable
from typing import Any

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.stacks import is_library
from pytest_resilience.virtual_time.locks import VirtualLock
from pytest_resilience.virtual_time.members import module_of
from pytest_resilience.virtual_time.members import watches
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.real_waits import outside
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.scheduler import reader
from pytest_resilience.virtual_time.waiting import CallSite
from pytest_resilience.virtual_time.waiting import Ended
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["install_executors", "install_threads"]

# Whose threads wait for other processes; what they bring is awaited in real time.
_OF_PROCESSES = ("multiprocessing", "concurrent.futures.process")


class _Started:
    """A member's thread, for those who wait for its end."""

    __slots__ = ("ended", "joiners", "scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.ended = False
        self.joiners: list[Waiter] = []


_started: weakref.WeakKeyDictionary[threading.Thread, _Started] = weakref.WeakKeyDictionary()


def install_threads(patches: Patches) -> None:
    """Let threads that members start be members, and the wait for their end a park."""
    patches.set(threading.Thread, "start", _start(threading.Thread.start))
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]  # noqa: SLF001
    patches.set(threading.Thread, "_bootstrap_inner", _bootstrap(bootstrap))
    patches.set(threading.Thread, "join", _join(threading.Thread.join))
    patches.set(_thread, "start_new_thread", _start_new_thread(_thread.start_new_thread))


def _start(real: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def start(self: threading.Thread) -> None:
        scheduler = current()
        is_for_processes = module_of(self).startswith(_OF_PROCESSES)
        if scheduler is None:
            real(self)
            return
        if is_for_processes or watches(self):
            # Until it runs, which takes no time.
            with scheduler.members.absence(_thread.get_ident()):
                real(self)
            if is_for_processes:
                with scheduler.mutex:
                    scheduler.members.external.append(self)
            return
        _started.setdefault(self, _Started(scheduler))
        scheduler.starts(self)
        try:
            real(self)
        except BaseException:
            with scheduler.mutex:
                scheduler.members.starts(self, False)
            raise

    return start


def _start_new_thread(real: Callable[..., int]) -> Callable[..., int]:
    def start_new_thread(
        function: Any, args: Any, kwargs: Any = types.MappingProxyType({}), /
    ) -> int:
        is_of_a_thread = isinstance(getattr(function, "__self__", None), threading.Thread)
        is_wrong = not callable(function) or not isinstance(args, tuple)  # which is raised here
        if current() is None or is_of_a_thread or is_wrong:
            return real(function, args, dict(kwargs))
        thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=True)
        thread.start()
        return thread.ident or 0

    return start_new_thread


def _bootstrap(real: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def _bootstrap_inner(self: threading.Thread) -> None:
        started = _started.get(self)
        if started is None:
            real(self)
            return
        scheduler = started.scheduler
        scheduler.enter(self)
        report: Any = self._invoke_excepthook  # type: ignore[attr-defined]

        def report_others(thread: threading.Thread) -> None:
            # An error of the clock is raised in the test as well.
            if not isinstance(sys.exc_info()[1], (Ended, ClockStalledError)):
                report(thread)

        self._invoke_excepthook = report_others  # type: ignore[attr-defined]
        try:
            scheduler.take_turn("start")
            _begin(scheduler, self)
            real(self)
        finally:
            with scheduler.mutex:
                started.ended = True
                scheduler.leave(started.joiners)

    return _bootstrap_inner


def _begin(scheduler: Scheduler, thread: threading.Thread) -> None:
    """Others may go first where a function of the project's begins."""
    code = getattr(getattr(thread, "_target", None), "__code__", None)
    if scheduler.run_queue.order is None or code is None:
        return
    if not is_library(code.co_filename):
        scheduler.run_queue.order.at("start", "thread", str(CallSite(code, code.co_firstlineno)))


def _join(real: Callable[..., None]) -> Callable[..., None]:
    def join(self: threading.Thread, timeout: float | None = None) -> None:
        __tracebackhide__ = True
        scheduler = current()
        if scheduler is None or self is threading.current_thread() or not self.is_alive():
            real(self, timeout)  # which raises where there is nothing to wait for
            return
        started = _started.get(self)
        if started is None or started.scheduler is not scheduler:
            with outside():
                real(self, timeout)
            return

        def enlist(waiter: Waiter) -> bool:
            if not started.ended:
                started.joiners.append(waiter)
            return not started.ended

        left = None if timeout is None else nanoseconds(timeout)
        scheduler.wait(Waiter("join"), left, enlist=enlist)
        if started.ended:
            real(self)  # it is just ending

    return join


def install_executors(shadows: weakref.WeakKeyDictionary[Any, Any], patches: Patches) -> None:
    """Let executors that are older than the clock work inside of it, once there are any.

    Their threads are no members, so that time would jump over what they do. Each gets a shadow of
    the same size, in `shadows`, which does the work that members give it.
    """
    module: Any = sys.modules["concurrent.futures.thread"]
    executor = module.ThreadPoolExecutor
    young: weakref.WeakSet[Any] = weakref.WeakSet()
    init, submit, shutdown = executor.__init__, executor.submit, executor.shutdown

    def new(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        if reader() is not None:
            young.add(self)

    def to_shadow(self: Any, function: Any, /, *args: Any, **options: Any) -> Any:
        if current() is None or self in young:
            return submit(self, function, *args, **options)
        if self not in shadows:
            shadows[self] = executor(
                self._max_workers,
                f"{self._thread_name_prefix or 'pool'} in virtual time",
                self._initializer,
                self._initargs,
            )
        return submit(shadows[self], function, *args, **options)

    def of_both(self: Any, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if current() is not None and self in shadows:
            shutdown(shadows[self], wait, cancel_futures=cancel_futures)
        shutdown(self, wait, cancel_futures=cancel_futures)

    patches.set(executor, "__init__", new)
    patches.set(executor, "submit", to_shadow)
    patches.set(executor, "shutdown", of_both)
    # Held while a thread starts, which is a park.
    patches.set(module, "_global_shutdown_lock", VirtualLock())
