"""Holding something up in an event loop, which goes on meanwhile.

The other half of `waiting`. Nothing here imports asyncio: whoever has a loop has done so.
"""

from __future__ import annotations

import math

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_resilience.chaos.engine import Effect


if TYPE_CHECKING:
    import asyncio


__all__ = ["Wait", "pause"]

_SLICE = 0.05  # seconds: how soon it is noticed that an experiment is over
_FINE = 0.001  # seconds: selectors count in whole milliseconds, and round up


class Wait:
    """Calls `then` once, when `seconds` have passed or no experiment of `effect` is left.

    Time passes with the clock or with the loop, whichever is faster: a clock that stands
    still holds nobody up for ever, and in a loop whose time is virtual no real time is
    taken. The last millisecond is spent in turns with everything else that the loop has
    to do, for no timer of a loop is that exact. What is waited is booked as it passes.
    """

    __slots__ = ("_booked", "_effect", "_handle", "_last", "_loop", "_seconds", "_since", "_then")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        effect: Effect,
        seconds: float,
        then: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._effect = effect
        self._seconds = seconds
        self._then = then
        self._since = (effect.clock.monotonic(), loop.time())
        self._booked = effect.clock.monotonic()
        self._last = -math.inf
        self._handle: asyncio.Handle = loop.call_soon(self._look)

    def cancel(self) -> None:
        """Never call, if it has not."""
        if not self._handle.cancelled():
            self._handle.cancel()
            self._book()

    def _book(self) -> None:
        now = self._effect.clock.monotonic()
        self._effect.waited(now - self._booked)
        self._booked = now

    def _look(self) -> None:
        now = self._loop.time()
        passed = max(self._effect.clock.monotonic() - self._since[0], now - self._since[1])
        rest = min(self._seconds - passed, self._effect.left())
        if rest <= 0:
            self.cancel()
            self._then()
        elif rest > _FINE:
            self._book()
            self._handle = self._loop.call_later(min(rest - _FINE, _SLICE), self._look)
        elif now > self._last:
            self._handle = self._loop.call_soon(self._look)
        else:  # time stands still until the loop has nothing to do
            self._handle = self._loop.call_later(rest, self._look)
        self._last = now


async def pause(loop: asyncio.AbstractEventLoop, effect: Effect) -> None:
    """Suspend the task for the delay of `effect`. Can be cancelled."""
    over: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not over.done():  # cancelled just now
            over.set_result(None)

    wait = Wait(loop, effect, effect.delay, end)
    try:
        await over
    finally:
        wait.cancel()
