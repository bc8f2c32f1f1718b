"""Delaying a caller for a time, or until its experiments have ended."""

from __future__ import annotations

import contextlib
import math
import threading

from collections.abc import Callable

from pytest_resilience.chaos import experiment_ends
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import ExactSleep
from pytest_resilience.clock import MachineClock
from pytest_resilience.clock import in_trio


__all__ = ["SLICE", "head_start", "wait", "wait_async", "wait_for_change"]

SLICE = 0.05  # seconds: how soon a wait notices that its experiment is over
_LATE = 0.0005  # seconds by which the operating system may wake a thread up late
_SPIN = 0.0001  # seconds: even `sleep(0)` takes that long, so the rest is spun
_HEAD_START = 0.0002  # seconds
_MOST_YIELDS, _MOST_SPINS = 20, 5_000  # on a clock that may stand still


def head_start() -> float:
    """Seconds that who polls needs to come, once told: for what is left of that it is held up.

    In virtual time it takes none.
    """
    return _HEAD_START if MACHINE_CLOCK.exact_sleep() is None else 0.0


def wait_for_change(changed: threading.Condition, rest: float) -> None:
    """Wait until it is notified, `rest` seconds have passed, or an experiment may have ended.

    It is notified when one has ended in this process; in children it is time to look. In virtual
    time there are none. The lock is held, and given back; at the end nobody needs to notify.
    """
    if MACHINE_CLOCK.exact_sleep() is not None:
        changed.wait(None if rest == math.inf else rest)
    elif rest > _LATE:
        changed.wait(min(rest - _LATE, SLICE))
    else:
        changed.release()
        try:
            due = MACHINE_CLOCK.monotonic() + rest
            _sleep_exactly(MACHINE_CLOCK, MACHINE_CLOCK.sleep, due, rest)
        finally:
            changed.acquire()


def wait(
    clock: Clock,
    seconds: float,
    left: Callable[[], float],
    ended: threading.Event | None = None,
) -> float:
    """Sleep until `seconds` have passed or none are `left()`; returns the seconds it took.

    Either may be infinite. Another thread can end it early: it sets `ended`, and tells of that by
    `experiment_ends`. On a clock that stands still, as a frozen one does, it ends after as many
    slices as fit. In virtual time it is one sleep.
    """
    __tracebackhide__ = True
    started = clock.monotonic()
    rest = min(seconds, left())
    is_machine = isinstance(clock, MachineClock)
    exact = clock.exact_sleep() if isinstance(clock, MachineClock) else None
    if exact is not None:
        _sleep_in_one(exact, lambda: min(started + seconds - clock.monotonic(), left()), ended)
        return clock.monotonic() - started
    sleep = clock.sleep if ended is None or not is_machine else ended.wait
    while rest > 0 and left() > 0 and not (ended is not None and ended.is_set()):
        step = min(rest, SLICE)
        if is_machine and step == rest:
            _sleep_exactly(clock, sleep, started + seconds, rest)
        else:
            sleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started


def _sleep_in_one(
    exact: ExactSleep, rest: Callable[[], float], ended: threading.Event | None
) -> None:
    with experiment_ends.watched(exact.wake):
        while (seconds := rest()) > 0 and not (ended is not None and ended.is_set()):
            exact.sleep(seconds)


def _sleep_exactly(clock: Clock, sleep: Callable[[float], object], due: float, rest: float) -> None:
    """Sleep for nearly the `rest`, then yield to other threads, then spin until it is `due`."""
    if rest > _LATE:
        sleep(rest - _LATE)
    for _ in range(_MOST_YIELDS):
        if due - clock.monotonic() <= _SPIN:
            break
        clock.sleep(0)
    for _ in range(_MOST_SPINS):
        if clock.monotonic() >= due:
            return


async def wait_async(clock: Clock, seconds: float, left: Callable[[], float]) -> float:
    """As `wait`, without blocking the loop."""
    started = clock.monotonic()
    rest = min(seconds, left())
    if isinstance(clock, MachineClock) and clock.exact_sleep() is not None and not in_trio():
        await _sleep_in_one_task(lambda: min(started + seconds - clock.monotonic(), left()))
        return clock.monotonic() - started
    while rest > 0 and left() > 0:
        step = min(rest, SLICE)
        await clock.asleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started


async def _sleep_in_one_task(rest: Callable[[], float]) -> None:
    import asyncio  # whose task this is

    loop, looks = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        loop.call_soon_threadsafe(looks.set)

    with experiment_ends.watched(look):
        while (seconds := rest()) > 0:
            looks.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(looks.wait(), None if seconds == math.inf else seconds)
