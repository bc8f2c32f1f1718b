"""A clock that a test puts forward."""

from __future__ import annotations

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import SYSTEM_CLOCK


__all__ = ["MovableClock"]


class MovableClock:
    """The machine's, put forward by a test when it is time for what it is about.

    So a window is not over before a busy machine has come to what is to be hit in it.
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def monotonic(self) -> float:
        return MACHINE_CLOCK.monotonic() + self._ahead

    def time(self) -> float:
        return MACHINE_CLOCK.time() + self._ahead

    def sleep(self, seconds: float) -> None:
        MACHINE_CLOCK.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await SYSTEM_CLOCK.asleep(seconds)
