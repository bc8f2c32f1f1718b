"""Whose turn it is, where one thread of a test runs at a time."""

from __future__ import annotations

import random

from collections import deque
from collections.abc import Callable
from typing import Protocol

from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["MOST_JUMPS", "Limit", "Order", "RunQueue"]

MOST_JUMPS = 100_000  # without the thread of the test, after which nobody will ever come back
_MOST_WAITS = 10_000  # of the thread of the test, where it has a limit
_MANY_READS = 20_000  # of the clock without a wait: somebody waits for it in a loop
_CREEP = 1_000  # nanoseconds, by which time then goes on; doubled after each so many reads


class Order(Protocol):
    """Decides where a thread or task lets all others go first. Without it nobody does.

    Called by members, without the mutex.
    """

    def at(self, kind: str, target: str, place: str = "") -> None:
        """This thread is about to do something at which others could go first.

        `place`: `file:line in function`, where the stack does not tell.
        """


class Limit:
    """How far the test's thread may go; beyond that its waits raise.

    Attributes:
        error: what they raise, of a text that says when.
        due: virtual nanoseconds; None if only an endless loop counts.
    """

    def __init__(self, seconds: float | None, error: Callable[[str], BaseException]) -> None:
        """`seconds`: virtual ones; None for as many as it likes, though not in an endless loop."""
        self.error = error
        self.due: int | None = None
        self._seconds = seconds
        self._most = 0

    def begin(self, now: int, waits: int) -> None:
        if self._seconds is not None:
            self.due = now + nanoseconds(self._seconds)
        self._most = waits + _MOST_WAITS

    def is_over(self, now: int, waits: int) -> bool:
        """`waits`: of the test's thread so far."""
        return waits >= self._most or (self.due is not None and now > self.due)


class RunQueue:
    """Whose turn it is, and what came of the turns so far.

    Attributes:
        one_at_a_time: whether one runs at a time, until it waits; else all who can do.
        order: where others go first; None where nobody asks for that.
        ready: those who were woken and have not yet got their turn.
        changes: counts them, so that who looked without the mutex knows that nothing happened.
        reads: of the clock since somebody last waited.
        resumed: how often somebody has gone on after a wait.
        of_test: how often the test's thread has.
        limit: of the test's thread; None where it has none.
    """

    def __init__(self, chance: random.Random | None, order: Order | None) -> None:
        """`chance` chooses who runs next; without it, where there is an order, who came first."""
        self.one_at_a_time = chance is not None or order is not None
        self.order = order
        self.ready: deque[Waiter] = deque()
        self.changes = 0
        self.reads = 0
        self.resumed = 0
        self.of_test = 0
        self.limit: Limit | None = None
        self._chance = chance
        self._jumps_without_test = 0

    def parks(self, timeout: int | None) -> None:
        self.changes += 1
        self.reads = self.reads + 1 if timeout == 0 else 0

    def resumes(self, is_test: bool) -> None:
        self.resumed += 1
        if is_test:
            self.of_test += 1
            self._jumps_without_test = 0

    def jumped_too_often(self) -> bool:
        self._jumps_without_test += 1
        if self._jumps_without_test <= MOST_JUMPS:
            return False
        self._jumps_without_test = 0
        return True

    def read_too_often(self) -> bool:
        self.reads += 1
        return self.reads >= _MANY_READS

    def creeping(self) -> int:
        """Nanoseconds to go on by: few for who measures a lot, many for who waits long."""
        return _CREEP << min(self.reads // _MANY_READS - 1, 30)

    def choose(self) -> Waiter:
        index = 0 if self._chance is None else self._chance.randrange(len(self.ready))
        chosen = self.ready[index]
        del self.ready[index]
        return chosen

    def find(self, ident: int) -> Waiter | None:
        """The wait of a thread that has been woken, and waits for its turn; None if it does not."""
        waits = (each for each in self.ready if each.ident == ident and not each.let_go)
        return next(waits, None)

    def withdraw(self, waiter: Waiter) -> None:
        if waiter in self.ready:
            self.ready.remove(waiter)
