"""Who runs, who waits, and when time moves.

A member is the thread of the test and every thread that a member starts. Each wait of a member is
a park: it says until when, and sleeps on a lock of its own. Time jumps to the nearest deadline
when no member runs, and wakes one waiter. Who wakes somebody counts him as running at once, before
he does: so nothing is ever guessed from how long something has been quiet.

Three more states hold time back. A member outside waits for the real world, as for a child
process: until it returns time flows as the machine's. Data may be on its way between two sockets
of this process (`sockets.py`). And a thread that was declared external may be what is awaited.

Everything here needs `mutex`, unless it says otherwise. It can be taken twice, for the collection
of garbage may release locks of members in the middle of anything.
"""

from __future__ import annotations

import _thread
import functools
import os
import select
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Protocol

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.locks import fork_safe
from pytest_resilience.virtual_time.members import MOST_JUMPS
from pytest_resilience.virtual_time.members import Limit
from pytest_resilience.virtual_time.members import Members
from pytest_resilience.virtual_time.members import RunQueue
from pytest_resilience.virtual_time.stalls import DEADLOCK
from pytest_resilience.virtual_time.stalls import is_deadlock
from pytest_resilience.virtual_time.stalls import report
from pytest_resilience.virtual_time.waiting import LARGEST
from pytest_resilience.virtual_time.waiting import Elapsed
from pytest_resilience.virtual_time.waiting import Ended
from pytest_resilience.virtual_time.waiting import Outcome
from pytest_resilience.virtual_time.waiting import Timeline
from pytest_resilience.virtual_time.waiting import Timers
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import Wake
from pytest_resilience.virtual_time.waiting import poll


__all__ = ["Network", "Outlook", "Scheduler", "activate", "current", "reader"]

# As it is now: a tool that looks for what blocks a loop would take the loop's own wait for that.
_acquire = _thread.LockType.acquire


class Outlook(Enum):
    """What the parked sockets mean for time.

    QUIET: nothing is on its way, time may jump. FLYING: bytes are; look again soon.
    OUTSIDE: who is awaited lives outside of the scheduler; time flows as the machine's.
    """

    QUIET = "quiet"
    FLYING = "flying"
    OUTSIDE = "outside"


class Network(Protocol):
    """What is known of sockets; `sockets.py` is the one that there is."""

    patience: int
    """Milliseconds for which sockets are looked at before time may jump; 0 if at once."""

    def outlook(self, watched: Iterable[int]) -> Outlook:
        """Of the descriptors that members wait for. Asked before they are polled."""


class Scheduler:
    """The members and the time of one test."""

    def __init__(self, *, network: Network, run_queue: RunQueue, kick: Callable[[], None]) -> None:
        """`kick`: wakes the driver."""
        self.mutex = fork_safe(self, "mutex", _thread.RLock)
        self.members = Members()
        self.parked: dict[int, Waiter] = {}
        self.elapsed = Elapsed()
        self.timeline = Timeline()
        self.timers = Timers()
        self.run_queue = run_queue
        self.network = network
        self.failure: ClockStalledError | None = None
        self._kick = kick

    # Members. These take the mutex themselves.

    def starts(self, thread: threading.Thread) -> None:
        """Count `thread` before there is one. From now on one may hold up another."""
        with self.mutex:
            self.members.starts(thread)
            self._kick()

    def enter(self, thread: threading.Thread) -> None:
        """`thread`, which runs this, is a member from now on."""
        with self.mutex:
            self.members.enter(thread)

    def leave(self, wake: Iterable[Waiter] = ()) -> None:
        """This thread is a member no longer; those who waited for that go on."""
        with self.mutex:
            self.members.leave(_thread.get_ident())
            for waiter in wake:
                self.wake(waiter)
            self.settle()

    def go_outside(self) -> None:
        """This thread waits for the real world from now on."""
        with self.mutex:
            self.members.go_outside(_thread.get_ident())
            self.elapsed.flow(True)
            self.settle()

    def come_back(self) -> None:
        """This thread waits for the real world no longer."""
        ident = _thread.get_ident()
        with self.mutex:
            if self.members.come_back(ident):
                self.elapsed.flow(bool(self.members.outside))
                self.run_queue.changes += 1
            here = ident in self.members.inside and ident not in self.members.outside
        if here:
            self.take_turn("return")

    def take_turn(self, waits_in: str) -> None:
        """One at a time: go on when it is this thread's turn. Takes the mutex."""
        if not self.run_queue.one_at_a_time:
            return
        waiter = Waiter(waits_in)
        try:
            with self.mutex:
                waiter.outcome = Outcome.WOKEN  # it waits for its turn, and for nothing else
                self.members.waits[waiter.ident] = waiter
                self.run_queue.ready.append(waiter)
                self.settle()
            _acquire(waiter.lock)
            while waiter.let_go and self._waits_still(waiter):
                _acquire(waiter.lock)
        except BaseException:
            self._withdraw(waiter)
            raise
        self.members.waits.pop(waiter.ident, None)

    # Orders.

    @property
    def is_held_here(self) -> bool:
        """Whether this thread has the mutex: it is a finaliser, in the middle of a wait."""
        return bool(self.mutex._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001

    def others_can_go(self) -> bool:
        """Whether anybody else of the test could go on now. Takes the mutex.

        Not who waits for time to pass, or for what only this thread can bring.
        """
        with self.mutex:
            if self.run_queue.ready or self.running() > 1 or self.members.outside:
                return True
            now = self.elapsed.read()
            return any(
                waiter.polled or (waiter.deadline is not None and waiter.deadline <= now)
                for waiter in self.parked.values()
            )

    def give_way(self) -> bool:
        """Go on when all others have done what they can do without that time passes.

        False if none of them has done anything.
        """
        __tracebackhide__ = True
        before = self.run_queue.resumed
        self.wait(Waiter("turn"), 0, last=True)
        return self.run_queue.resumed > before + 1 or bool(self.members.outside)  # but for its own

    @contextmanager
    def limited(self, limit: Limit) -> Iterator[None]:
        """In the block the test's thread has `limit`. Takes the mutex."""
        with self.mutex:
            limit.begin(self.elapsed.read(), self.run_queue.of_test)
            self.run_queue.limit = limit
        try:
            yield
        finally:
            self.run_queue.limit = None

    # Waits.

    def wait(
        self,
        waiter: Waiter,
        timeout: int | None,
        *,
        enlist: Callable[[Waiter], bool] | None = None,
        last: bool = False,
    ) -> Outcome:
        """Park this thread until it is woken or `timeout` nanoseconds have passed.

        Takes the mutex. With it `enlist` makes the waiter known to who wakes it; it returns False
        if there is nothing to wait for any more.
        """
        __tracebackhide__ = True
        try:
            with self.mutex:
                if waiter.ident not in self.members.inside:  # since a moment ago
                    raise Ended
                self.let_go(waiter.ident)  # this is the handler of a signal, in another wait
                if enlist is not None and not enlist(waiter):
                    waiter.outcome = Outcome.WOKEN
                    return Outcome.WOKEN
                if timeout is not None:
                    due = min(self.elapsed.read() + timeout, LARGEST)
                    self.timers.add(waiter, due, last=last)
                self.run_queue.parks(timeout)
                self._park(waiter)
            # Without the mutex, which whoever ends this wait needs. It may be let go for a signal
            # first: what handles that has run when this goes on.
            _acquire(waiter.lock)
            while waiter.let_go and self._waits_still(waiter):
                _acquire(waiter.lock)
        except BaseException:  # of a signal's handler
            self._withdraw(waiter)
            raise
        self.members.waits.pop(waiter.ident, None)
        return self._outcome_of(waiter)

    def _park(self, waiter: Waiter) -> None:
        self.members.waits[waiter.ident] = waiter
        self.parked[waiter.ident] = waiter
        self.settle()

    def let_go(self, ident: int) -> None:
        """Let a thread that waits run, until it waits on, for a signal that it has to handle."""
        waiter = self.parked.pop(ident, None) or self.run_queue.find(ident)
        if waiter is not None:
            waiter.let_go = True
            waiter.lock.release()
            self.run_queue.changes += 1

    def _waits_still(self, waiter: Waiter) -> bool:
        """This thread has handled what it was let go for. Takes the mutex."""
        with self.mutex:
            waiter.let_go = False
            if waiter.outcome is None:
                if waiter.ident not in self.members.inside:  # since it was let go
                    raise Ended
                self._park(waiter)
                return True
            if waiter not in self.run_queue.ready:
                return False
            self.settle()
            return True

    def _outcome_of(self, waiter: Waiter) -> Outcome:
        __tracebackhide__ = True
        if waiter.outcome is Outcome.FAILED:
            assert self.failure is not None
            self.members.told(waiter.ident)
            raise ClockStalledError(str(self.failure)) from self.failure.__cause__
        if waiter.outcome is Outcome.ENDED:
            raise Ended
        if waiter.outcome is Outcome.EXPIRED and self.run_queue.limit is not None:
            raise self.run_queue.limit.error(f"{self.elapsed.read() / 1e9:g} virtual seconds")
        assert waiter.outcome is not None
        return waiter.outcome

    def _withdraw(self, waiter: Waiter) -> None:
        with self.mutex:
            if waiter.outcome is None:
                waiter.outcome = Outcome.INTERRUPTED
                if self.parked.get(waiter.ident) is waiter:
                    del self.parked[waiter.ident]
            self.members.waits.pop(waiter.ident, None)
            self.run_queue.withdraw(waiter)
            self.run_queue.changes += 1

    def wake(self, waiter: Waiter, outcome: Outcome = Outcome.WOKEN) -> bool:
        """End a wait, and count its thread as running. False if it had ended already."""
        if waiter.outcome is not None:
            return False
        waiter.outcome = outcome
        if self.parked.get(waiter.ident) is waiter:
            del self.parked[waiter.ident]
        self.run_queue.changes += 1
        self.elapsed.flow(bool(self.members.outside))
        if not self.run_queue.one_at_a_time or outcome in (Outcome.FAILED, Outcome.ENDED):
            self._resume(waiter)
        else:
            self.run_queue.ready.append(waiter)
            self.settle()
        return True

    def _resume(self, waiter: Waiter) -> None:
        member = self.members.inside.get(waiter.ident)
        if member is not None:
            wake = Wake(
                at=self.elapsed.read() / 1e9,
                thread=member.name,
                waited=waiter.waits_in,
                timed_out=waiter.outcome is Outcome.TIMED_OUT,
            )
            self.timeline.wakes.append(wake)
            self.run_queue.resumes(member.is_test)
        if not waiter.let_go:  # else its thread runs already, for a signal
            waiter.lock.release()

    def hand_over(self) -> bool:
        """Let one of those who were woken run. False if it handles a signal, and may wait there."""
        waiter = self.run_queue.choose()
        self._resume(waiter)
        return not waiter.let_go

    # Time.

    def running(self) -> int:
        """How many members run, or are about to."""
        count = self.members.count() - len(self.parked) - len(self.members.outside)
        return count - sum(not waiter.let_go for waiter in self.run_queue.ready)

    def settle(self) -> None:
        """If nobody runs, let somebody: who was woken, whose data has come, or is due next."""
        while self.running() <= 0 and self.members.inside:
            if self.run_queue.ready:
                if self.hand_over():
                    return
                continue
            # Before the poll: what arrives after this question is seen by the poll.
            outlook = self.outlook()
            if self.wake_readable(poll(self.parked.values(), 0)):
                continue
            polled = any(waiter.polled for waiter in self.parked.values())
            if outlook is not Outlook.QUIET or (polled and self.network.patience):
                self._kick()
                return
            if not self.jump():
                self._find_no_end(polled)
                return

    def outlook(self) -> Outlook:
        """What time has to wait for."""
        if self.members.outside or self.members.awaits_external(self.parked.values()):
            return Outlook.OUTSIDE
        watched = [fd for waiter in self.parked.values() for fd in waiter.watched]
        return self.network.outlook(watched) if watched else Outlook.QUIET

    def wake_readable(self, events: dict[int, int]) -> bool:
        """Wake those whose descriptors have `events`."""
        always = select.POLLERR | select.POLLHUP | select.POLLNVAL
        woken = False
        for waiter in list(self.parked.values()) if events else ():
            if any(events.get(fd, 0) & (mask | always) for fd, mask in waiter.polled):
                woken |= self.wake(waiter)
        return woken

    def jump(self) -> bool:
        """Go to the nearest deadline and wake who waits for it. False if there is none."""
        nearest = self.timers.nearest()
        if nearest is None:
            return False
        if nearest >= LARGEST:
            self.fail(f"every thread of the test waits for more than {LARGEST / 1e9:.2g} s")
            return True
        limit = self.run_queue.limit
        if limit is not None and limit.is_over(nearest, self.run_queue.of_test):
            waiting = [each for each in self.parked.values() if self.members.is_test(each.ident)]
            if waiting:
                self.elapsed.jump(min(nearest, limit.due or nearest))
                limit.begin(self.elapsed.read(), self.run_queue.of_test)  # it may go on
                return self.wake(waiting[0], Outcome.EXPIRED)
        if self.elapsed.jump(nearest):
            self.timeline.jumps += 1
        if self.run_queue.jumped_too_often():
            self.fail(
                f"time ran away: {MOST_JUMPS} jumps in which the test's own thread never ran, "
                "for threads that wake each other for ever"
            )
            return True
        self.wake_due(nearest, only_one=not self.run_queue.one_at_a_time)
        return True

    def wake_due(self, now: int, *, only_one: bool = False, patience: int = 0) -> None:
        """Wake whose deadline has come.

        `patience`: nanoseconds for which those who let others go first still do so.
        """
        due: list[Waiter] = []
        while (waiter := self.timers.take_due(now)) is not None:
            if only_one:
                self.wake(waiter, Outcome.TIMED_OUT)
                return
            waiter.outcome = Outcome.TIMED_OUT
            if self.parked.get(waiter.ident) is waiter:
                del self.parked[waiter.ident]
            due.append(waiter)
        if not due and (waiter := self.timers.take_last(now - patience)) is not None:
            self.wake(waiter, Outcome.TIMED_OUT)
        for waiter in due:  # all are candidates before one of them runs
            if self.run_queue.one_at_a_time:
                self.run_queue.ready.append(waiter)
            else:
                self._resume(waiter)
        self.run_queue.changes += len(due)

    def creep(self) -> None:
        """Let a little time pass for somebody who reads the clock in a loop. Takes the mutex."""
        with self.mutex:
            now = self.elapsed.read() + self.run_queue.creeping()
            nearest = self.timers.nearest()
            if nearest is not None:
                now = min(now, nearest)
            self.elapsed.jump(now)
            self.wake_due(now)

    # Ends.

    def _find_no_end(self, polled: bool) -> None:
        """Nobody runs, and no deadline is set: say so, unless somebody else can end it."""
        if not is_deadlock(self.parked) and (polled or self.members.has_strangers()):
            self._kick()
        else:
            self.fail(DEADLOCK)

    def fail(self, what: str, error: BaseException | None = None) -> None:
        """Raise ClockStalledError in everybody who waits.

        `error`: of virtual time itself, which can say nothing of others then.
        """
        when = f"{what} (at {self.elapsed.read() / 1e9:.9g} virtual seconds)"
        told = report(self.members, self.parked, when) if error is None else when
        self.failure = ClockStalledError(told)
        self.failure.__cause__ = error
        self.members.fails()
        self.run_queue.changes += 1
        for waiter in [*self.parked.values()]:
            self.wake(waiter, Outcome.FAILED)

    def end(self) -> None:
        """Let go of everybody who still waits. Takes the mutex."""
        with self.mutex:
            # Not only who is parked: an interrupt may have come between a wake and its effect.
            for waiter in [*self.members.waits.values()]:
                if waiter.lock.locked():
                    waiter.outcome = Outcome.ENDED
                    waiter.lock.release()
            self.parked.clear()
            self.run_queue.ready.clear()
            self.members.inside.clear()
            self.members.outside.clear()


class _Active:
    """The scheduler of this process; one attribute, which is read at once."""

    scheduler: Scheduler | None = None


def activate(scheduler: Scheduler | None) -> None:
    """Make waits of its members parks; with None nobody's."""
    _Active.scheduler = scheduler


def current() -> Scheduler | None:
    """The scheduler in which a wait of this thread is a park; None if it waits for real."""
    scheduler = _Active.scheduler
    if scheduler is None or not scheduler.members.parks(_thread.get_ident()):
        return None
    return scheduler


def reader() -> Scheduler | None:
    """The scheduler whose time this thread reads; None if it reads the machine's."""
    scheduler = _Active.scheduler
    if scheduler is None or _thread.get_ident() not in scheduler.members.inside:
        return None
    return scheduler


if hasattr(os, "register_at_fork"):  # a child has real time
    os.register_at_fork(after_in_child=functools.partial(activate, None))
