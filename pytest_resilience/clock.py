"""Time as a dependency: whatever waits or measures is given a clock."""

from __future__ import annotations

import sys
import threading
import time

from typing import Protocol
from typing import final
from typing import runtime_checkable

from pytest_resilience.locks import fork_safe


__all__ = ["SYSTEM_CLOCK", "Clock", "ManualClock", "SystemClock", "in_a_loop"]


def in_a_loop() -> bool:
    """Whether an event loop runs in this thread, so that to wait here would stop it."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    return (asyncio is not None and asyncio._get_running_loop() is not None) or (  # noqa: SLF001  # public, says its documentation
        trio is not None and trio.lowlevel.in_trio_run()
    )


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


@final
class SystemClock:
    """The machine's clock.

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
        import asyncio  # not paid by those who never wait in a task

        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"


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
        import asyncio

        self.sleep(seconds)
        await asyncio.sleep(0)  # the other tasks get their turn, as in a real sleep

    def __repr__(self) -> str:
        return f"ManualClock(now={self._now!r})"


SYSTEM_CLOCK = SystemClock()
