"""Event loops of asyncio whose own timeouts nobody waits for while a fault holds something back.

A blocking client is told at once that its five seconds of silence are over. In a loop it is a
timer that tells it, so the time of the loop is moved to that. Something else may be awaited there
as well, of a server or a thread that works: nothing is moved before all tasks have waited, each for
the same, as long as the whole test takes without faults.

After a fault a client may wait as well for what no fault holds back: for the rest of an answer that
was damaged, or for one to what was never sent. No one tells of that, so loops are looked at from
outside now and then, and have twice that time. A sleep is none of these waits: who sleeps may have
to, for a time that other clocks tell. But what a library does again and again after a sleep keeps
nobody from giving up, as a sign of life for a server that is silent.
"""

from __future__ import annotations

import functools
import math
import sys
import weakref

from collections.abc import Callable
from collections.abc import Container
from typing import Any
from typing import TypeAlias

from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import is_frozen
from pytest_resilience.plugin.matrix.loop_waits import awaited_in
from pytest_resilience.plugin.matrix.loop_waits import next_timer
from pytest_resilience.plugin.matrix.loop_waits import seconds_left


__all__ = ["IdleLoops"]

_Since: TypeAlias = weakref.WeakKeyDictionary[Any, tuple[frozenset[Any], float]]

_LEAST_QUIET = 0.1  # seconds, in which a server of the test has answered
_LEAST_REST = 0.5  # the same, where no fault is known to hold anything back
_SLEEP = "_set_result_unless_cancelled"  # what asyncio's timers of sleeps call
_REST = 0.002  # seconds that a loop waits by itself: timers so close to each other are one to it


class IdleLoops:
    """Those of one run.

    Attributes:
        silent: the loops that wait for what never comes, with no timer that they could wait for.
    """

    def __init__(
        self,
        quiet: float,
        patience: float,
        silent: weakref.WeakSet[Any] | None = None,
        *,
        most: float = math.inf,
    ) -> None:
        """`quiet`: seconds that the test takes without faults. `patience`: those that the timers
        of a loop may let it wait in all; at rest each of them, and all of them `most`.
        """
        self.silent: weakref.WeakSet[Any] = weakref.WeakSet() if silent is None else silent
        self._quiet = max(quiet, _LEAST_QUIET)
        self._rest = max(2 * quiet, _LEAST_REST)
        self._longest = patience
        self._patience = patience
        self._most = most

    @functools.cached_property  # as below: most runs have no loop
    def _since(self) -> _Since:
        return weakref.WeakKeyDictionary()

    @functools.cached_property
    def _at_rest(self) -> _Since:
        return weakref.WeakKeyDictionary()

    def look(self, loop: Any, until: float = math.inf) -> None:
        """A fault holds something back in the loop `until` then, which no timer tells just now.

        Move the loop's time on if nobody does anything.
        """
        if self._quiet_for(loop, self._since) < self._quiet:
            return
        seconds = min(seconds_left(loop), until - loop.time())
        if seconds > self._patience:
            self.silent.add(loop)
        elif seconds > _REST:
            seconds -= _REST
            self._patience -= seconds
            _moved_time(loop).moved += seconds

    def look_at_rest(self, loop: Any) -> None:
        """The loop waits, and a fault has happened before. Move its time to its next timeout."""
        asleep = _asleep_in_libraries(loop)
        if self._quiet_for(loop, self._at_rest, asleep) < self._rest:
            return
        timer = next_timer(loop, but=asleep.values()) or next_timer(loop)
        if timer is None or hasattr(getattr(timer._callback, "__self__", None), "resilience_due"):  # noqa: SLF001
            return
        seconds = timer.when() - loop.time() - _REST
        of_library = any(timer is each for each in asleep.values())
        if (of_library or not _is_sleep(timer)) and 0 < seconds <= min(self._longest, self._most):
            self._most -= seconds
            _moved_time(loop).moved += seconds
            loop.call_soon_threadsafe(_nothing)  # its selector would wait as long as before

    def _quiet_for(self, loop: Any, since: _Since, but: Container[Any] = ()) -> float:
        """Seconds that all of its tasks have waited for; less than none where that is not known.

        `but`: the tasks that do not matter.
        """
        if not hasattr(loop, "_scheduled") or is_frozen():
            return -1.0  # its time is not that of Python's loops
        now, awaited = MACHINE_CLOCK.monotonic(), awaited_in(loop, but)
        known, began = since.get(loop, (None, now))
        if known != awaited or loop._ready:  # noqa: SLF001  # what the loop has to do
            since[loop] = awaited, now
            self.silent.discard(loop)
            return -1.0
        return now - began


def _asleep_in_libraries(loop: Any) -> dict[Any, Any]:
    """The tasks that do so, and have no code of the user's; each with the timer that ends it."""
    timers = (each for each in getattr(loop, "_scheduled", ()) if not each.cancelled())
    sleeps = {each._args[0]: each for each in timers if _is_sleep(each)}  # noqa: SLF001
    tasks = sys.modules["asyncio"].all_tasks(loop) if sleeps else ()
    waiting = ((each, getattr(each, "_fut_waiter", None)) for each in tasks)
    return {
        task: sleeps[future]
        for task, future in waiting
        if future in sleeps and not user_frames(task)
    }


def _is_sleep(timer: Any) -> bool:
    return getattr(timer._callback, "__name__", "") == _SLEEP  # noqa: SLF001  # nothing public tells


def _nothing() -> None:
    """For a loop that is only to look at its timers."""


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
