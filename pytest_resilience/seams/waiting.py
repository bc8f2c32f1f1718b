"""Holding a caller up, for as long as there is a reason to."""

from __future__ import annotations

from collections.abc import Callable

from pytest_resilience.clock import Clock


__all__ = ["wait"]

_SLICE = 0.05  # seconds: how soon a waiting thread notices that its experiment is over


def wait(clock: Clock, seconds: float, over: Callable[[], bool]) -> float:
    """Sleep until `seconds` have passed or `over()`; returns the seconds it took.

    Ends after as many slices as fit into `seconds` even on a clock that stands still, as a
    frozen one does. `seconds` may be infinite.
    """
    __tracebackhide__ = True
    started = clock.monotonic()
    rest = seconds
    while rest > 0 and not over():
        step = min(rest, _SLICE)
        clock.sleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started
