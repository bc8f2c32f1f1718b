"""Holding a caller up, for as long as there is a reason to."""

from __future__ import annotations

from collections.abc import Callable

from pytest_resilience.clock import Clock


__all__ = ["wait", "wait_async"]

_SLICE = 0.05  # seconds: how soon a waiting thread notices that its experiment is over


def wait(clock: Clock, seconds: float, left: Callable[[], float]) -> float:
    """Sleep until `seconds` have passed or none are `left()`; returns the seconds it took.

    Ends after as many slices as fit even on a clock that stands still, as a frozen one
    does. Either may be infinite.
    """
    __tracebackhide__ = True
    started = clock.monotonic()
    rest = min(seconds, left())
    while rest > 0 and left() > 0:
        step = min(rest, _SLICE)
        clock.sleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started


async def wait_async(clock: Clock, seconds: float, left: Callable[[], float]) -> float:
    """As `wait`, without blocking the loop."""
    started = clock.monotonic()
    rest = min(seconds, left())
    while rest > 0 and left() > 0:
        step = min(rest, _SLICE)
        await clock.asleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started
