"""A clock on which nobody waits for what faults make callers wait for."""

from __future__ import annotations

import math

from collections.abc import Callable
from collections.abc import Sized
from typing import Any

from pytest_resilience.clock import MACHINE_CLOCK


__all__ = ["SilenceError", "SkippingClock"]


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
