"""Event loops of asyncio whose own timeouts nobody waits for while a fault holds something back.

A blocking client is told at once that its five seconds of silence are over. In a loop it is a
timer that tells it, so the time of the loop is moved to that. Something else may be awaited there
as well, of a server or a thread that works: nothing is moved before all tasks have waited, each for
the same, as long as the whole test takes without faults.
"""

from __future__ import annotations

import weakref

from collections.abc import Callable
from typing import Any

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import is_frozen
from pytest_resilience.plugin.matrix.loop_waits import awaited_in
from pytest_resilience.plugin.matrix.loop_waits import seconds_left


__all__ = ["IdleLoops"]

_LEAST_QUIET = 0.1  # seconds, in which a server of the test has answered
_REST = 0.002  # seconds that a loop waits by itself: timers so close to each other are one to it


class IdleLoops:
    """Those of one run.

    Attributes:
        silent: the loops that wait for what never comes, with no timer that they could wait for.
    """

    def __init__(
        self, quiet: float, patience: float, silent: weakref.WeakSet[Any] | None = None
    ) -> None:
        """`quiet`: seconds that the test takes without faults. `patience`: those that the timers
        of a loop may let it wait in all.
        """
        self.silent: weakref.WeakSet[Any] = weakref.WeakSet() if silent is None else silent
        self._quiet = max(quiet, _LEAST_QUIET)
        self._patience = patience
        self._since: weakref.WeakKeyDictionary[Any, tuple[frozenset[Any], float]] = (
            weakref.WeakKeyDictionary()
        )

    def look(self, loop: Any) -> None:
        """A fault holds something back in the loop. Move its time on if nobody does anything."""
        if not hasattr(loop, "_scheduled") or is_frozen():
            return  # its time is not that of Python's loops
        now, awaited = MACHINE_CLOCK.monotonic(), awaited_in(loop)
        known, since = self._since.get(loop, (None, now))
        if known != awaited or loop._ready:  # noqa: SLF001  # what the loop has to do
            self._since[loop] = awaited, now
            self.silent.discard(loop)
            return
        if now - since < self._quiet:
            return
        seconds = seconds_left(loop)
        if seconds > self._patience:
            self.silent.add(loop)
        elif seconds > _REST:
            seconds -= _REST
            self._patience -= seconds
            _moved_time(loop).moved += seconds


class _MovedTime:
    """Takes the place of a loop's method, for as long as there is the loop.

    Attributes:
        moved: seconds by which it is ahead.
    """

    def __init__(self, usual: Callable[[], float]) -> None:
        self.moved = 0.0
        self._usual = usual

    def __call__(self) -> float:
        return self._usual() + self.moved


def _moved_time(loop: Any) -> _MovedTime:
    if not isinstance(loop.time, _MovedTime):
        loop.time = _MovedTime(loop.time)
    found: _MovedTime = loop.time
    return found
