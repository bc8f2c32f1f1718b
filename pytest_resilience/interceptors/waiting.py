"""Delaying a caller for a time, or until its experiments have ended."""

from __future__ import annotations

import threading

from collections.abc import Callable

from pytest_resilience.clock import Clock
from pytest_resilience.clock import MachineClock


__all__ = ["SLICE", "wait", "wait_async"]

SLICE = 0.05  # seconds: how soon a wait notices that its experiment is over
_LATE = 0.0005  # seconds by which the operating system may wake a thread up late
_SPIN = 0.0001  # seconds: even `sleep(0)` takes that long, so the rest is spun
_MOST_YIELDS, _MOST_SPINS = 20, 5_000  # on a clock that may stand still


def wait(
    clock: Clock,
    seconds: float,
    left: Callable[[], float],
    ended: threading.Event | None = None,
) -> float:
    """Sleep until `seconds` have passed or none are `left()`; returns the seconds it took.

    Either may be infinite. Another thread can end it early: it sets `ended`. On a clock that
    stands still, as a frozen one does, it ends after as many slices as fit.
    """
    __tracebackhide__ = True
    started = clock.monotonic()
    rest = min(seconds, left())
    is_machine = isinstance(clock, MachineClock)
    sleep = clock.sleep if ended is None or not is_machine else ended.wait
    late = isinstance(clock, MachineClock) and clock.wakes_late()
    while rest > 0 and left() > 0 and not (ended is not None and ended.is_set()):
        step = min(rest, SLICE)
        if late and step == rest:
            _sleep_exactly(clock, sleep, started + seconds, rest)
        else:
            sleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started


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
    while rest > 0 and left() > 0:
        step = min(rest, SLICE)
        await clock.asleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started
