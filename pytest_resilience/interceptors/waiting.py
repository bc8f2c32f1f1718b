"""Holding a caller up, for as long as there is a reason to."""

from __future__ import annotations

from collections.abc import Callable

from pytest_resilience.clock import Clock
from pytest_resilience.clock import SystemClock


__all__ = ["SLICE", "wait", "wait_async"]

SLICE = 0.05  # seconds: how soon whoever waits notices that its experiment is over
_FINE = 0.0005  # seconds by which the machine may wake up late
_FINEST = 0.0001  # seconds: even to sleep not at all takes the machine that long
_MOST_NAPS, _MOST_LOOKS = 20, 5_000  # on a clock that may stand still


def wait(clock: Clock, seconds: float, left: Callable[[], float]) -> float:
    """Sleep until `seconds` have passed or none are `left()`; returns the seconds it took.

    Ends after as many slices as fit even on a clock that stands still, as a frozen one
    does. Either may be infinite.
    """
    __tracebackhide__ = True
    started = clock.monotonic()
    rest = min(seconds, left())
    exact = isinstance(clock, SystemClock)
    while rest > 0 and left() > 0:
        step = min(rest, SLICE)
        if exact and step == rest:
            _sleep_exactly(clock, started + seconds, rest)
        else:
            clock.sleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started


def _sleep_exactly(clock: Clock, due: float, rest: float) -> None:
    """Sleep nearly for `rest`, let others take turns, and look at the clock until it is `due`."""
    if rest > _FINE:
        clock.sleep(rest - _FINE)
    for _ in range(_MOST_NAPS):
        if due - clock.monotonic() <= _FINEST:
            break
        clock.sleep(0)
    for _ in range(_MOST_LOOKS):
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
