"""Time as a dependency: whatever waits or measures is given a clock."""

from __future__ import annotations

import functools
import math
import sys
import threading
import time

from collections.abc import Callable
from collections.abc import Sized
from types import BuiltinFunctionType
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import final
from typing import runtime_checkable

from pytest_resilience.locks import fork_safe


if TYPE_CHECKING:
    import asyncio


__all__ = [
    "MACHINE_CLOCK", "SYSTEM_CLOCK", "Clock", "ExactSleep", "IdlingClock", "MachineClock",
    "ManualClock", "SilenceError", "SkippingClock", "SystemClock", "in_a_loop", "in_trio",
    "is_frozen", "readings", "running_loop",
]  # fmt: skip


def in_trio() -> bool:
    """Whether the current task is one of trio; no library is imported to find out."""
    if "trio" not in sys.modules:
        return False
    import sniffio  # which trio needs itself

    try:
        return sniffio.current_async_library() == "trio"
    except sniffio.AsyncLibraryNotFoundError:
        return False


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of asyncio that runs in this thread; nothing is imported to find out."""
    # Public, says its documentation. It is not there while asyncio is being loaded.
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return None if running is None else running()


def in_a_loop() -> bool:
    """Whether an event loop runs in this thread, so that to wait here would stop it."""
    trio = sys.modules.get("trio")
    return running_loop() is not None or (trio is not None and trio.lowlevel.in_trio_run())


@runtime_checkable
class Clock(Protocol):
    """A source of time, in seconds, that tests can replace."""

    def monotonic(self) -> float:
        """A reading that never goes back; only differences mean anything."""

    def time(self) -> float:
        """Seconds since 1970-01-01 UTC."""

    def sleep(self, seconds: float) -> None:
        """Block this thread."""

    async def asleep(self, seconds: float) -> None:
        """Suspend this task."""


@runtime_checkable
class IdlingClock(Clock, Protocol):
    """One that can shorten waits that others measure: event loops, and SQLite."""

    def idle_in(self, loop: Any, until: float) -> None:
        """Something is delayed in the loop by this clock. Called again and again meanwhile.

        `loop`: of asyncio, or what trio has in its place.
        `until`: in the loop's time; infinite for what never comes.
        """

    def locked(self, seconds: float) -> float:
        """How long to wait for a database that others have locked, instead of so many seconds."""


@final
class SystemClock:
    """The clock of the code under test.

    Every function is looked up in its module at each call, so a tool that
    replaces `time.monotonic` or `time.sleep` for a test is obeyed.
    """

    __slots__ = ()

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        if in_trio():
            import trio

            await trio.sleep(seconds)
            return
        import asyncio  # not paid by those who never wait in a task

        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"


# freezegun replaces what is found in modules, though not this, and time-machine no monotonic clock.
_read: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime")
    else time.monotonic
)


class ExactSleep(Protocol):
    """A sleep of one thread, which ends when it is due, or when another thread says so."""

    def sleep(self, seconds: float) -> None:
        """Block this thread so long, or until `wake`, which may have been called before."""

    def wake(self) -> None:
        """End the sleep of the thread; from any."""


@final
class MachineClock:
    """The clock of the machine, which goes on whatever a test freezes or replaces.

    Faults, pressure and what is measured go by it, as they would where they really happen.
    Only virtual time moves it (`virtual_time/time_functions.py`): for the threads of a test that
    has it, `monotonic` and `sleep` are those of the test, and so are the waits of faults. Those
    are exact.
    """

    __slots__ = ()
    _began = time.time() - _read()
    _sleep = staticmethod(time.sleep)

    monotonic = staticmethod(_read)

    # Tells how this thread sleeps in virtual time, if it does. None while there is no such time,
    # and an operating system wakes everybody late.
    exact_sleep: Callable[[], ExactSleep | None] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether this thread is in virtual time."""
        return self.exact_sleep is not None and self.exact_sleep() is not None

    def time(self) -> float:
        return self._began + self.monotonic()

    def sleep(self, seconds: float) -> None:
        now = time.sleep
        # With gevent's patches only gevent's own lets the other greenlets run.
        sleep = now if (now.__module__ or "").partition(".")[0] == "gevent" else self._sleep
        sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        import asyncio

        if is_frozen():
            await asyncio.to_thread(self.sleep, seconds)
        else:
            await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "MachineClock()"


@final
class ManualClock:
    """A clock that moves only when told to, or when somebody sleeps on it.

    Sleeping returns at once and advances the clock by the time asked, so a
    60-second timeout is tested in microseconds. Safe to share between threads.

    Attributes:
        sleeps: the seconds asked of each sleep so far, in order.
    """

    def __init__(self, start: float = 0.0, *, epoch: float = 0.0) -> None:
        """`start` is the first monotonic reading, `epoch` the first `time()`."""
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._now = float(start)
        self._offset = float(epoch) - float(start)
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now + self._offset

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises ValueError if negative or NaN."""
        if not seconds >= 0:
            raise ValueError(f"time cannot pass by {seconds!r} s; give 0 or more")
        with self._lock:
            self._now += seconds

    def sleep(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"cannot sleep {seconds!r} s; give 0 or more")
        with self._lock:
            self.sleeps.append(seconds)
            self._now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
        await SYSTEM_CLOCK.asleep(0)  # the other tasks get their turn, as in a real sleep

    def __repr__(self) -> str:
        return f"ManualClock(now={self._now!r})"


class SilenceError(BaseException):
    """It waits for what never comes.

    Not an Exception: code that survives anything would catch it.
    """


class SkippingClock:
    """Goes as the machine's does, and waits for nothing: what faults make callers wait is added.

    So a client that gives up after five seconds of silence does so at once, and one that never
    gives up is found out at once.
    """

    def __init__(
        self,
        patience: float,
        idle_in: Callable[[Any, float], None] = lambda *_: None,
        *,
        most_locked: float = math.inf,
        done: Sized = (),
    ) -> None:
        """Past `patience` seconds that were not waited for, SilenceError is raised.

        `done`: the operations so far, each of which may take as long: who tries again waits anew.
        `idle_in` is called again and again with an event loop in which something is delayed,
        and with the end of that in the time of the loop.
        `most_locked`: seconds that a database which is locked is waited for.
        """
        self.idle_in = idle_in
        self._most_locked = most_locked
        self._patience = patience
        self._skipped = 0.0
        self._done = done
        self._before = 0, 0.0  # how many operations were done, and what was skipped for them

    def monotonic(self) -> float:
        return MACHINE_CLOCK.monotonic() + self._skipped

    def time(self) -> float:
        return MACHINE_CLOCK.time() + self._skipped

    def sleep(self, seconds: float) -> None:
        if len(self._done) != self._before[0]:
            self._before = len(self._done), self._skipped
        self._skipped += seconds
        if self._skipped - self._before[1] > self._patience:
            raise SilenceError(
                f"it waits for what never comes, without a timeout: {self._patience:g} s at least"
            )
        MACHINE_CLOCK.sleep(0)  # other threads may end the wait

    def locked(self, seconds: float) -> float:
        return min(seconds, self._most_locked)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
        await MACHINE_CLOCK.asleep(0)


SYSTEM_CLOCK = SystemClock()
MACHINE_CLOCK = MachineClock()


def readings(clock: Clock) -> Clock:
    """What `monotonic` and `time` can be read from as from `clock`, at the least cost.

    For the system clock it is the module that it looks its functions up in: a call less.
    """
    return time if clock is SYSTEM_CLOCK else clock  # type: ignore[return-value]  # nobody sleeps


def is_frozen() -> bool:
    """Whether a test has stopped or moved the time that others read, and timers of loops too.

    That time is not read for it: whoever reads it may move it, as with freezegun's `auto_tick`.
    """
    now = time.monotonic
    if isinstance(now, BuiltinFunctionType):
        return False
    return not (now.__module__ or "").startswith(__name__.partition(".")[0])
