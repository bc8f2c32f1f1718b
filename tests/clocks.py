"""A clock that a test puts forward."""

from __future__ import annotations

import threading

from pytest_resilience import Event
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import ManualClock
from tests.waiting import until_all_wait


__all__ = ["HOUR", "MovableClock", "leap_when_struck"]

HOUR = 3600.0  # seconds


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


def leap_when_struck(engine: Engine, clock: MovableClock | ManualClock, left: float = 0.2) -> None:
    """What lasts an hour lasts but so many seconds more, once it has happened for the first time.

    `clock`: of the engine. Unless it is moved by whoever waits, nobody is late who has to be there
    before the end: it leaps when all wait.
    """
    leaps = iter([HOUR - left])

    def leap_when_all_wait(seconds: float) -> None:
        until_all_wait()
        clock.advance(seconds)

    def leap(_event: Event) -> None:
        for seconds in leaps:
            if isinstance(clock, ManualClock):
                clock.advance(seconds)
            else:
                threading.Thread(target=leap_when_all_wait, args=[seconds], daemon=True).start()

    engine.listeners.add(leap)
