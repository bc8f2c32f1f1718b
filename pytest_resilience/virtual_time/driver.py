"""The thread that waits for what only the real world can bring: data, time, the end of patience."""

from __future__ import annotations

import _thread
import contextlib

from collections.abc import Iterable

from pytest_resilience.virtual_time.c_locks import frame_of
from pytest_resilience.virtual_time.c_locks import is_in_a_lock_of_c
from pytest_resilience.virtual_time.scheduler import Outlook
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.stalls import DEADLOCK
from pytest_resilience.virtual_time.stalls import is_deadlock
from pytest_resilience.virtual_time.timeline import real_ns
from pytest_resilience.virtual_time.waiting import poll


__all__ = ["Driver"]

# As it is now: with a clock what it starts is a member.
_start_new_thread = _thread.start_new_thread

TICK = 0.02  # seconds
PATIENCE = 1_000_000_000  # nanoseconds of the machine, in which nothing happens
_OVERTAKEN = 40_000_000  # nanoseconds, for which others go first who are blocked or wait outside
_SOON = 1  # millisecond, after which data on its way has mostly come
_STEP = 5  # milliseconds at most, for which descriptors are looked at while time flows


class Driver:
    """Serves one scheduler, from a thread that is no member and that `threading` does not know."""

    def __init__(self) -> None:
        self._kicked = _thread.allocate_lock()
        self._kicked.acquire()
        self._ended: _thread.LockType | None = None
        self._stopped = False
        self._seen: object = None
        self._since = 0
        self._over: int | None = None

    def serve(self, scheduler: Scheduler) -> None:
        """Serve `scheduler`, with a thread from the first kick on: most tests need none."""
        self._scheduler = scheduler

    def kick(self) -> None:
        """Look now."""
        if self._ended is None:
            self._ended = _thread.allocate_lock()
            self._ended.acquire()
            _start_new_thread(self._run, (self._ended,))
        with contextlib.suppress(RuntimeError):  # two at once
            if self._kicked.locked():
                self._kicked.release()

    def end_by(self, nanoseconds: int) -> None:
        """The test is over; raise in who still waits when so much real time has passed."""
        self._over = real_ns() + nanoseconds
        self.kick()

    def stop(self) -> None:
        """End, and wait for that."""
        self._stopped = True
        if self._ended is not None:
            self.kick()
            self._ended.acquire()

    def _run(self, ended: _thread.LockType) -> None:
        try:
            pause = TICK
            while not self._stopped:
                self._kicked.acquire(timeout=pause)
                if not self._stopped:
                    pause = self._turn()
        finally:
            ended.release()

    def _turn(self) -> float:
        """Look once. Returns after how many seconds to look again, if nobody kicks."""
        scheduler = self._scheduler
        with scheduler.mutex:
            if not scheduler.members.inside:
                return TICK
            if self._over is not None and real_ns() > self._over:
                self._over = None
                scheduler.fail("threads of the test go on when it is over")
            if scheduler.running() > 0 and not scheduler.members.outside:
                return self._watch()
            before, outlook = scheduler.run_queue.changes, scheduler.outlook()
            scheduler.elapsed.flow(outlook is Outlook.OUTSIDE)
            waiters = [*scheduler.parked.values()]
            milliseconds = self._milliseconds(outlook)
        events = poll(waiters, milliseconds)
        with scheduler.mutex:
            scheduler.wake_readable(events)
            if outlook is Outlook.OUTSIDE:
                scheduler.wake_due(scheduler.elapsed.read(), patience=_OVERTAKEN)
                return self._until_due()
            if outlook is Outlook.FLYING and scheduler.run_queue.changes == before:
                return 0.0
            if scheduler.run_queue.changes != before or scheduler.jump():
                scheduler.settle()
                return TICK
            return self._waits_for_ever()

    def _milliseconds(self, outlook: Outlook) -> int:
        if outlook is Outlook.OUTSIDE:
            return min(_STEP, round(self._until_due() * 1e3))
        return _SOON if outlook is Outlook.FLYING else self._scheduler.network.patience

    def _until_due(self) -> float:
        nearest = self._scheduler.timers.nearest(patience=_OVERTAKEN)
        if nearest is None:
            return TICK
        return min(TICK, max(0.0, (nearest - self._scheduler.elapsed.read()) / 1e9))

    def _watch(self) -> float:
        """Somebody runs. Who is blocked in a way that the scheduler does not see holds up time."""
        scheduler = self._scheduler
        blocked = scheduler.members.blocked()
        if blocked is None:
            return TICK
        overtaken = scheduler.timers.has_last
        held_up = scheduler.run_queue.ready or scheduler.timers.nearest() is not None
        if not held_up and not self._are_in_locks(blocked):
            return TICK  # what is real is awaited, and takes its time
        patience = _OVERTAKEN if overtaken else PATIENCE
        # Who is overtaken may hold what others wait for in C, looking for it again and again.
        seen = frozenset(blocked) if overtaken else blocked
        if not self._lasts(("blocked", seen), patience):
            return TICK
        if overtaken and not scheduler.run_queue.ready:
            scheduler.wake_due(scheduler.elapsed.read())
        if scheduler.run_queue.ready:  # one at a time: somebody else may be able to help
            scheduler.hand_over()
        elif not overtaken:
            scheduler.fail("a thread of the test is blocked where virtual time cannot see it")
        return TICK

    def _are_in_locks(self, blocked: Iterable[int]) -> bool:
        """Whether all wait for locks in C, which only a thread of this process can release."""
        if any(thread.is_alive() for thread in self._scheduler.members.external):
            return False
        frames = [frame for frame in map(frame_of, blocked) if frame is not None]
        return bool(frames) and all(map(is_in_a_lock_of_c, frames))

    def _waits_for_ever(self) -> float:
        """All wait, without a deadline. Only somebody from outside can end that."""
        if is_deadlock(self._scheduler.parked):
            self._scheduler.fail(DEADLOCK)
        elif self._lasts("for ever"):
            self._scheduler.fail(
                "every thread of the test waits, without a deadline, and nobody woke one"
            )
        return TICK

    def _lasts(self, what: object, patience: int = PATIENCE) -> bool:
        """Whether nothing but `what` has been seen for as long as is patience."""
        seen, now = (self._scheduler.run_queue.changes, what), real_ns()
        if seen != self._seen:
            self._seen, self._since = seen, now
            return False
        return now - self._since > patience
