"""What members call instead of the functions of `time`: the clocks that they read, and `sleep`.

The wall clock, and all of `datetime`, is time-machine's: it replaces them in C, and asks a
traveller for the time, which is ours. The others are replaced in `time`.
"""

from __future__ import annotations

import math
import operator
import time

from collections.abc import Callable
from typing import Any

from pytest_resilience.clock import MachineClock
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.scheduler import reader
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["WallClock", "Zero", "install_time_functions"]

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


class Zero:
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


def install_time_functions(patches: Patches, zero: Zero) -> None:
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


class WallClock:
    """The date, by time-machine."""

    def __init__(self) -> None:
        # Before anything in `time` is replaced, or it would crash.
        import time_machine

        self._machine = time_machine
        self._travel: Any = None

    def install(self, zero: Zero) -> None:
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
