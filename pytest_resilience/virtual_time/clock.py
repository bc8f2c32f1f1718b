"""The clock of one test: its beginning and its end, and what members read of it, and `sleep`.

The wall clock, and all of `datetime`, is time-machine's: it replaces them in C, and asks a
traveller for the time, which is ours. The others are replaced in `time`.
"""

from __future__ import annotations

import datetime
import functools
import gc
import math
import operator
import random
import threading
import time
import weakref

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from typing import Self

from pytest_resilience.clock import MachineClock
from pytest_resilience.clock import running_loop
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import LeakedThreadsError
from pytest_resilience.patching import ImportHook
from pytest_resilience.virtual_time.locks import install_locks
from pytest_resilience.virtual_time.members import Order
from pytest_resilience.virtual_time.members import RunQueue
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.real_world import Driver
from pytest_resilience.virtual_time.real_world import Signals
from pytest_resilience.virtual_time.refusals import REFUSALS
from pytest_resilience.virtual_time.refusals import check_surroundings
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import activate
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.scheduler import reader
from pytest_resilience.virtual_time.socket_calls import install_polls
from pytest_resilience.virtual_time.socket_calls import install_socket_calls
from pytest_resilience.virtual_time.socket_calls import install_tls
from pytest_resilience.virtual_time.sockets import Sockets
from pytest_resilience.virtual_time.sockets import install_selectors
from pytest_resilience.virtual_time.stalls import where
from pytest_resilience.virtual_time.tasks import install_tasks
from pytest_resilience.virtual_time.threads import MULTIPROCESSING
from pytest_resilience.virtual_time.threads import install_executors
from pytest_resilience.virtual_time.threads import install_processes
from pytest_resilience.virtual_time.threads import install_threads
from pytest_resilience.virtual_time.threads import outside
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import Wake
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["VirtualClock", "start_of"]

# What threads have to end in after their test, in nanoseconds.
_LAST = 60_000_000_000  # virtual
_LAST_REAL = 10_000_000_000  # for those who compute, or wait for what is real


class VirtualClock:
    """Virtual time for this thread and all that it starts, while used as a context manager.

    Every wait is over at once: time jumps to the next deadline when nobody in the test has anything
    to do. Other threads keep real time.
    """

    def __init__(
        self,
        start: int | None = None,
        *,
        chance: random.Random | None = None,
        order: Order | None = None,
    ) -> None:
        """`start`: of the date, as `start_of` gives it; None for now.

        `chance`: chooses which thread runs next, one at a time. `order`: says where all others go
        first, one at a time as well. Without either all who can run do.
        """
        self._start = start
        self._driver = Driver()
        self._patches = Patches()
        self._sockets = Sockets()
        self._shadows: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._imports = self._when_imported()
        self._scheduler = Scheduler(
            network=self._sockets, run_queue=RunQueue(chance, order), kick=self._driver.kick
        )
        self._signals = Signals(self._scheduler, self._driver.kick)
        self._wall: _WallClock | None = None
        self._zero = _Zero(0)

    # What users call.

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return self._scheduler.elapsed.read() / 1e9

    def now(self) -> datetime.datetime:
        """The virtual date, in UTC."""
        seconds, rest = divmod(self._zero.wall + self._scheduler.elapsed.read(), 1_000_000_000)
        begin = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return begin + datetime.timedelta(seconds=seconds, microseconds=rest // 1000)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, as if the test slept."""
        __tracebackhide__ = True
        if not 0 <= seconds < math.inf:
            raise ValueError(f"time cannot pass by {seconds!r} s; give 0 or more")
        if running_loop() is not None:
            raise ConfigurationError(
                f"advance({seconds!r}) would stop the event loop; write "
                f"`await asyncio.sleep({seconds!r})`"
            )
        self._check_member("advance").wait(Waiter("sleep"), nanoseconds(seconds))

    def wait_idle(self) -> None:
        """Return when all other threads of the test wait; time stands still."""
        __tracebackhide__ = True
        self._check_member("wait_idle").wait(Waiter("sleep"), 0, last=True)

    @property
    def jumps(self) -> int:
        """How often time has jumped."""
        return self._scheduler.timeline.jumps

    def timeline(self) -> tuple[Wake, ...]:
        """The latest waits that ended, at most 10 000, oldest first."""
        with self._scheduler.mutex:
            return tuple(self._scheduler.timeline.wakes)

    def real(self) -> AbstractContextManager[None]:
        """In the block this thread waits for real, and time goes on as the machine's."""
        return outside()

    def external(self, thread: threading.Thread) -> None:
        """`thread`, which is none of the test's, may be what the test waits for.

        While it lives, and somebody waits for more than time, time goes on as the machine's.
        """
        if not isinstance(thread, threading.Thread):
            raise ConfigurationError(f"external({thread!r}): give a threading.Thread")
        with self._scheduler.mutex:
            self._scheduler.members.external.append(thread)

    def absent(self) -> AbstractContextManager[None]:
        """In the block this thread waits for real, while time stands; it starts no members.

        For what is none of the test's, but happens in its thread.
        """
        return self._scheduler.members.absence(threading.get_ident())

    def _check_member(self, called: str) -> Scheduler:
        if current() is not self._scheduler:
            raise ConfigurationError(
                f"{called} was called where time is real: in a thread that is none of the test's, "
                "or inside of real(); call it from the test, outside of that"
            )
        return self._scheduler

    # The beginning and the end.

    def __enter__(self) -> Self:
        if reader() is not None:
            raise ConfigurationError("there is a virtual clock already; a test has one")
        check_surroundings()
        self._wall = _WallClock()
        self._zero = _Zero(self._start)
        try:
            self._wall.install(self._zero)
            _install_clocks(self._patches, self._zero)
            install_locks(self._patches)
            install_threads(self._patches)
            self._signals.install(self._patches)
            install_selectors(self._patches)
            install_polls(self._patches)
            install_socket_calls(self._patches, self._sockets)
            install_processes(self._patches)
            self._imports.install()
            self._patches.rebind()
            self._scheduler.enter(threading.current_thread())
            self._driver.serve(self._scheduler, self._signals)
            activate(self._scheduler)
        except BaseException:
            self._remove()
            raise
        return self

    def _when_imported(self) -> ImportHook:
        """What is replaced in modules that the test may be the first to import."""
        executors = functools.partial(install_executors, self._shadows)
        every: dict[str, Callable[[Patches], None]] = {
            "asyncio": install_tasks,
            "ssl": install_tls,
            "concurrent.futures.thread": executors,
            **MULTIPROCESSING,
            **REFUSALS,
        }
        return ImportHook({n: functools.partial(each, self._patches) for n, each in every.items()})

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the threads of the test end, and put everything back.

        Raises LeakedThreadsError for those that do not end, and ClockStalledError where an error of
        the clock has not reached the test.
        """
        left: list[str] = []
        try:
            if kind is None or not issubclass(kind, KeyboardInterrupt):
                left = self._end_threads()
        finally:
            self._remove()
        failure = self._scheduler.failure
        if kind is None and failure is not None and self._scheduler.members.untold:
            raise ClockStalledError(str(failure)) from failure.__cause__
        if kind is None and left:
            raise LeakedThreadsError(tuple(left))

    def _end_threads(self) -> list[str]:
        """Wait for all other threads of the test; those that stay, each with where it is."""
        for shadow in [*self._shadows.values()]:
            shadow.shutdown(wait=False)
        others = self._others()
        if others:
            del others
            gc.collect()  # an executor that nobody has any more lets its threads go
            self._driver.end_by(_LAST_REAL)
        for thread in self._others().values():
            try:
                thread.join(_LAST / 1e9)
            except ClockStalledError:
                break  # nothing can happen any more
        return [f"{thread.name}, {where(thread)}" for thread in self._others().values()]

    def _others(self) -> dict[int, threading.Thread]:
        with self._scheduler.mutex:
            members = self._scheduler.members.inside.items()
            return {ident: each.thread for ident, each in members if not each.is_test}

    def _remove(self) -> None:
        undo: list[Callable[[], None]] = [lambda: activate(None), self._scheduler.end]
        undo += [self._driver.stop, self._signals.remove, self._imports.remove]
        undo += [self._patches.remove]
        if self._wall is not None:
            undo.append(self._wall.remove)
        for step in undo:
            step()


def start_of(start: object) -> int:
    """Nanoseconds since 1970 of a date: an ISO text, a datetime, or a timestamp.

    One without a time zone is in UTC. Raises ConfigurationError.
    """
    try:
        if isinstance(start, str):
            start = datetime.datetime.fromisoformat(start)
        if isinstance(start, datetime.datetime):
            zone = start if start.tzinfo is not None else start.replace(tzinfo=datetime.UTC)
            begin = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
            return (zone - begin) // datetime.timedelta(microseconds=1) * 1000
        if isinstance(start, (int, float)) and not isinstance(start, bool):
            return round(start * 1e9)
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(
        f"start={start!r} is no date; write start='2030-01-01T00:00Z', a datetime or a timestamp"
    )


_GRAIN = 15_625_000
"""Nanoseconds, 1/64 s. Clocks begin at a multiple of it, so that sums of seconds are exact."""

_REAL: dict[str, Any] = {
    name: getattr(time, name)
    for name in (
        "sleep", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "clock_gettime",
        "clock_gettime_ns", "ctime", "asctime",
    )
    if hasattr(time, name)
}  # fmt: skip
_TOO_LONG = 2**63 / 1e9  # seconds, which `time.sleep` refuses
_MONOTONIC = {
    getattr(time, name)
    for name in ("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME")
    if hasattr(time, name)
}


class _Zero:
    """What each clock shows when virtual time begins, in nanoseconds."""

    def __init__(self, start: int | None) -> None:
        """`start`: of the wall clock; None for now."""
        self.monotonic = _grain(time.monotonic_ns())
        self.perf_counter = _grain(time.perf_counter_ns())
        self.wall = _grain(time.time_ns()) if start is None else start


def _grain(now: int) -> int:
    return -(-now // _GRAIN) * _GRAIN


def _sleep(seconds: float, /) -> None:
    __tracebackhide__ = True
    scheduler = current()
    _faults_sleep(seconds)
    if scheduler is not None and scheduler.run_queue.order is not None:
        scheduler.run_queue.order.at("sleep", "thread")


def _faults_sleep(seconds: float, /) -> None:
    """As `_sleep`; but what a fault makes a test wait for is no operation of the test's."""
    __tracebackhide__ = True
    scheduler = current()
    if not isinstance(seconds, float):
        seconds = operator.index(seconds)
    if scheduler is None or not 0 <= seconds < _TOO_LONG:
        _REAL["sleep"](seconds)  # which raises for what is no time
    else:
        # Who waits for somebody by many sleeps of no time lets those go who let others go first.
        last = scheduler.run_queue.order is not None and not seconds
        scheduler.wait(Waiter("sleep"), nanoseconds(seconds), last=last)
        if not seconds and scheduler.run_queue.read_too_often():
            scheduler.creep()


class _Sleep:
    """See `ExactSleep`."""

    __slots__ = ("_scheduler", "_waiter", "_woken")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiter: Waiter | None = None
        self._woken = False

    def sleep(self, seconds: float) -> None:
        __tracebackhide__ = True
        timeout = None if seconds == math.inf else nanoseconds(seconds)
        self._scheduler.wait(Waiter("sleep"), timeout, enlist=self._enlist)

    def _enlist(self, waiter: Waiter) -> bool:
        goes_on, self._woken, self._waiter = not self._woken, False, waiter
        return goes_on

    def wake(self) -> None:
        with self._scheduler.mutex:
            self._woken = self._waiter is None or not self._scheduler.wake(self._waiter)


def _exact_sleep() -> _Sleep | None:
    scheduler = current()
    return None if scheduler is None else _Sleep(scheduler)


def _reading(real: Callable[[], Any], zero: int, *, in_seconds: bool) -> Callable[[], Any]:
    def read() -> Any:
        scheduler = reader()
        if scheduler is None:
            return real()
        now = zero + now_ns(scheduler)
        return now / 1e9 if in_seconds else now

    return read


def now_ns(scheduler: Scheduler) -> int:
    """The virtual time that this thread reads, which goes on for who does nothing but read it."""
    if scheduler.run_queue.read_too_often():
        scheduler.creep()
    return scheduler.elapsed.read()


def _clock_gettime(name: str, zero: int) -> Callable[[int], Any]:
    read = _reading(lambda: None, zero, in_seconds=not name.endswith("_ns"))

    def clock_gettime(clk_id: int, /) -> Any:
        now = read() if clk_id in _MONOTONIC else None
        return _REAL[name](clk_id) if now is None else now

    return clock_gettime


# Without an argument they would ask the machine, and not time-machine.


def _ctime(seconds: float | None = None, /) -> str:
    return str(_REAL["ctime"](time.time() if seconds is None else seconds))


def _asctime(*at: Any) -> str:
    return str(_REAL["asctime"](*(at or (time.localtime(),))))


def _install_clocks(patches: Patches, zero: _Zero) -> None:
    """Let members read virtual time, by whatever name they call the clocks."""
    found: dict[str, Callable[..., Any]] = {"sleep": _sleep, "ctime": _ctime, "asctime": _asctime}
    for name in ("monotonic", "perf_counter"):
        begin = getattr(zero, name)
        found[name] = _reading(_REAL[name], begin, in_seconds=True)
        found[f"{name}_ns"] = _reading(_REAL[f"{name}_ns"], begin, in_seconds=False)
    for name in ("clock_gettime", "clock_gettime_ns"):
        if name in _REAL:
            found[name] = _clock_gettime(name, zero.monotonic)
    for name, function in found.items():
        function.__name__ = function.__qualname__ = name
        patches.set(time, name, function)
    # Of this package too: its faults take virtual time.
    patches.set(MachineClock, "monotonic", staticmethod(_faults_clock(found["monotonic"])))
    patches.set(MachineClock, "_sleep", staticmethod(_faults_sleep))
    patches.set(MachineClock, "exact_sleep", staticmethod(_exact_sleep))


def _faults_clock(monotonic: Callable[[], float]) -> Callable[[], float]:
    real = MachineClock.monotonic

    def read() -> float:
        return real() if reader() is None else monotonic()

    return read


class _WallClock:
    """The date, by time-machine."""

    def __init__(self) -> None:
        # Before anything in `time` is replaced, or it would crash.
        import time_machine

        self._machine = time_machine
        self._travel: Any = None

    def install(self, zero: _Zero) -> None:
        """Let members read the virtual date, and everybody else the real one."""
        real = self._machine.escape_hatch.time.time_ns

        def time_ns() -> int:
            scheduler = reader()
            return real() if scheduler is None else zero.wall + now_ns(scheduler)

        self._travel = self._machine.travel(zero.wall / 1e9, tick=False)
        traveller = self._travel.start()
        traveller.time_ns = time_ns
        traveller.time = lambda: time_ns() / 1e9  # of older ones

    def remove(self) -> None:
        if self._travel is not None:
            self._travel.stop()
            self._travel = None
