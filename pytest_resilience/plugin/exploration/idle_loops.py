"""Event loops whose own timeouts nobody waits for while a fault holds something back.

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
import weakref

from collections.abc import Container
from typing import Any
from typing import TypeAlias

from pytest_resilience.chaos.call_site import user_frames
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import is_frozen
from pytest_resilience.plugin.exploration.loop_times import LoopTime
from pytest_resilience.plugin.exploration.loop_times import Timer
from pytest_resilience.plugin.exploration.loop_times import loop_time


__all__ = ["IdleLoops"]

_Since: TypeAlias = weakref.WeakKeyDictionary[Any, tuple[frozenset[Any], float]]

_LEAST_QUIET = 0.1  # seconds, in which a server of the test has answered
_LEAST_REST = 0.5  # the same, where no fault is known to hold anything back
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
        time = loop_time(loop)
        if time is None or self._quiet_for(time, self._since) < self._quiet:
            return
        due = min((each.when for each in time.timers()), default=math.inf)
        seconds = min(due, until) - time.now()
        if seconds > self._patience:
            self.silent.add(loop)
        elif seconds > _REST:
            seconds -= _REST
            self._patience -= seconds
            time.move(seconds)

    def look_at_rest(self, loop: Any) -> None:
        """The loop waits, and a fault has happened before. Move its time to its next timeout."""
        time = loop_time(loop)
        if time is None:
            return
        timers = time.timers()
        asleep = {each.sleeper: each for each in timers if _is_library_asleep(each)}
        if self._quiet_for(time, self._at_rest, asleep) < self._rest:
            return
        others = [each for each in timers if each.sleeper not in asleep]
        timer = min(others or timers, key=lambda each: each.when, default=None)
        if timer is None or timer.is_of_fault:
            return
        seconds = timer.when - time.now() - _REST
        may_end = timer.sleeper in asleep or not timer.is_sleep
        if may_end and 0 < seconds <= min(self._longest, self._most):
            self._most -= seconds
            time.move(seconds)
            time.wake()  # its selector would wait as long as before

    def _quiet_for(self, time: LoopTime, since: _Since, but: Container[Any] = ()) -> float:
        """Seconds that all of its tasks have waited for; less than none where that is not known.

        `but`: the tasks that do not matter.
        """
        if is_frozen():
            return -1.0  # its time is not that of the machine
        now, awaited = MACHINE_CLOCK.monotonic(), time.awaited(but)
        if awaited is None:
            return -1.0
        known, began = since.get(time.loop, (None, now))
        if known != awaited:
            since[time.loop] = awaited, now
            self.silent.discard(time.loop)
            return -1.0
        return now - began


def _is_library_asleep(timer: Timer) -> bool:
    """Whether it ends a sleep of a task that has no code of the user's."""
    return timer.sleeper is not None and not user_frames(timer.sleeper)
