"""Threads that members start, those that run work for them, and waits that are real.

Those are for other processes, for signals, and where the user says so.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import subprocess
import sys
import threading
import types
import weakref

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.stacks import is_library
from pytest_resilience.virtual_time.locks import VirtualLock
from pytest_resilience.virtual_time.members import module_of
from pytest_resilience.virtual_time.members import watches
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.scheduler import reader
from pytest_resilience.virtual_time.waiting import CallSite
from pytest_resilience.virtual_time.waiting import Ended
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = [
    "MULTIPROCESSING", "connecting", "install_executors", "install_processes", "install_threads",
    "outside",
]  # fmt: skip

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
        scheduler.starts(self)  # before it runs: time must not jump in between
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


_WAITING: dict[Any, tuple[str, ...]] = {
    subprocess.Popen: ("__init__", "wait", "communicate"),
    os: ("wait", "wait3", "wait4", "waitid", "waitpid"),
    signal: ("pause", "sigtimedwait", "sigwait", "sigwaitinfo"),
}
_IN_MULTIPROCESSING: dict[str, dict[str, tuple[str, ...]]] = {
    "multiprocessing.connection": {
        "_ConnectionBase": ("poll", "recv", "recv_bytes", "recv_bytes_into"),
        "": ("wait", "answer_challenge", "deliver_challenge"),
    },
    "multiprocessing.queues": {"Queue": ("get", "put"), "SimpleQueue": ("get", "put")},
    "multiprocessing.popen_fork": {"Popen": ("__init__", "wait")},
    "multiprocessing.synchronize": {"Condition": ("wait", "wait_for"), "Event": ("wait",)},
    "multiprocessing.managers": {"BaseManager": ("start", "connect", "shutdown")},
}


@contextmanager
def outside() -> Iterator[None]:
    """In the block this thread waits for real, and time goes on as the machine's.

    Of a thread that waits for real anyhow nothing changes.
    """
    scheduler = current()
    if scheduler is None:
        yield
        return
    scheduler.go_outside()
    try:
        yield
    finally:
        scheduler.come_back()


@contextmanager
def connecting() -> Iterator[None]:
    """In the block this thread connects to one of the test, which takes time only without room."""
    scheduler, ident = current(), _thread.get_ident()
    if scheduler is None:
        yield
        return
    scheduler.members.connecting.add(ident)
    try:
        yield
    finally:
        with scheduler.mutex:  # of the driver, which looks who connects still
            scheduler.members.connecting.discard(ident)
            had_to_wait = ident in scheduler.members.outside
        if had_to_wait:
            scheduler.come_back()


def install_processes(patches: Patches) -> None:
    """Let waits for other processes, and for signals, be real."""
    for owner, names in _WAITING.items():
        for name in names:
            if hasattr(owner, name):
                patches.set(owner, name, _real(getattr(owner, name)))


def _install_multiprocessing(module_name: str, patches: Patches) -> None:
    module = sys.modules[module_name]
    for owner_name, names in _IN_MULTIPROCESSING[module_name].items():
        owner = getattr(module, owner_name, None) if owner_name else module
        for name in names:
            if name in vars(owner or object):
                patches.set(owner, name, _real(getattr(owner, name)))


def _install_synchronize(patches: Patches) -> None:
    _install_multiprocessing("multiprocessing.synchronize", patches)
    locks: Any = sys.modules["multiprocessing.synchronize"].SemLock
    make_methods = locks._make_methods  # noqa: SLF001  # where each gets its `acquire`

    def _make_methods(self: Any) -> None:
        make_methods(self)
        self.acquire = _acquire(self._semlock.acquire)

    def __enter__(self: Any) -> bool:  # noqa: N807
        return _acquire(self._semlock.acquire)()

    patches.set(locks, "_make_methods", _make_methods)
    patches.set(locks, "__enter__", __enter__)
    registered: Any = sys.modules["multiprocessing.util"]._afterfork_registry  # noqa: SLF001
    for lock in [each for each in registered.values() if isinstance(each, locks)]:
        patches.set(lock, "acquire", _acquire(lock._semlock.acquire))  # noqa: SLF001


def _acquire(real: Callable[..., bool]) -> Callable[..., bool]:
    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        taken = real(False)
        if taken or not block:
            return taken
        with outside():  # somebody else has it, in whatever process
            return real(block, timeout)

    return acquire


MULTIPROCESSING: dict[str, Callable[[Patches], None]] = {
    **{name: functools.partial(_install_multiprocessing, name) for name in _IN_MULTIPROCESSING},
    "multiprocessing.synchronize": _install_synchronize,
}
"""By the module that is replaced in, once it has been imported."""


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wait_for_real(*args: Any, **options: Any) -> Any:
        with outside():
            return function(*args, **options)

    return wait_for_real
