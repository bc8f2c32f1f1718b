"""The threads of a scheduler, and whose turn it is where one of them runs at a time."""

from __future__ import annotations

import _thread
import os
import random
import re
import threading
import time

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.proc import number_of_thread
from pytest_resilience.proc import state_of
from pytest_resilience.proc import time_queued_by
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = [
    "MOST_JUMPS", "Limit", "Member", "Members", "Order", "RunQueue", "called_by", "module_of",
    "times_of_blocked", "watches",
]  # fmt: skip

# Names that are made from counters of the process.
_COUNTED = re.compile(r"^(Thread|ThreadPoolExecutor)-\d+")
_REAL = {"clock_gettime_ns": getattr(time, "clock_gettime_ns", None)}
# Whose threads are no members, though one started them: they watch over the test.
_WATCHERS = frozenset({"_pytest", "coverage", "execnet", "xdist"})

MOST_JUMPS = 100_000  # without the thread of the test, after which nobody will ever come back
_MOST_WAITS = 10_000  # of the thread of the test, where it has a limit
_MANY_READS = 20_000  # of the clock without a wait: somebody waits for it in a loop
_CREEP = 1_000  # nanoseconds, by which time then goes on; doubled after each so many reads


def module_of(thread: threading.Thread) -> str:
    """Where the function is defined that a thread runs."""
    module = getattr(_function_of(thread), "__module__", None) or type(thread).__module__
    return str(module)


def _function_of(thread: threading.Thread) -> object:
    return getattr(thread, "function", None) or getattr(thread, "_target", None)


def called_by(thread: threading.Thread) -> str:
    """The name of the function that a thread runs, with its module's."""
    function = _function_of(thread)
    return f"{module_of(thread)}.{getattr(function, '__qualname__', type(thread).__name__)}"


def watches(thread: threading.Thread) -> bool:
    """Whether a thread is one of pytest, of a plugin, or of the like."""
    package = module_of(thread).partition(".")[0]
    is_of_a_plugin = package.startswith("pytest_") and package != "pytest_resilience"
    return is_of_a_plugin or package in _WATCHERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A thread in the scheduler.

    Attributes:
        thread: None for one that `threading` did not start.
        name: the same in every run.
        is_test: whether it is the one that runs the test.
        cpu_clock: of the thread, where the machine has such clocks.
    """

    thread: threading.Thread
    name: str
    is_test: bool
    cpu_clock: int | None

    @classmethod
    def here(cls, thread: threading.Thread, number: int) -> Member:
        """Of `thread`, which runs this, the `number`-th that entered; the first is the test's."""
        name = _COUNTED.sub(rf"\1 {number}", thread.name)
        clock = getattr(time, "pthread_getcpuclockid", None)
        return cls(
            thread=thread,
            name=name if number else "test",
            is_test=number == 0,
            cpu_clock=clock and clock(_thread.get_ident()),
        )

    def time_ns(self) -> int | None:
        """Time for which it has had a processor, or waited for one; None if unknown."""
        clock = _REAL["clock_gettime_ns"]
        if self.cpu_clock is None or clock is None:
            return None
        try:
            return int(clock(self.cpu_clock)) + time_queued_by(number_of_thread(self.thread))
        except OSError:  # it has ended
            return None

    def is_blocked(self) -> bool:
        """Whether it sleeps in the kernel; True where nobody can tell."""
        return state_of(number_of_thread(self.thread)) in {"S", ""}


def times_of_blocked(members: Mapping[int, Member]) -> dict[int, int] | None:
    """The processor times of `members`, by ident; None if one of them runs, or there is none."""
    found = {}
    for ident, member in members.items():
        time_ns = member.time_ns() if member.is_blocked() else None
        if time_ns is None:
            return None
        found[ident] = time_ns
    return found or None


class Members:
    """Who is in the scheduler, and in which state. Needs the mutex of the scheduler.

    Attributes:
        inside: all, by ident.
        outside: those of them who wait for the real world, by ident, with how deep.
        waits: the last wait of each, until its thread has returned from it.
        external: threads of others that may be awaited.
        connecting: those who connect to a socket of the test, which may have no room for them.
        absent: those who do something that is none of the test's, for which time stands.
        folder: the working one, without which files are told.
    """

    def __init__(self) -> None:
        self.inside: dict[int, Member] = {}
        self.outside: dict[int, int] = {}
        self.waits: dict[int, Waiter] = {}
        self.external: list[threading.Thread] = []
        self.connecting: set[int] = set()
        self.absent: set[int] = set()
        self.folder = os.getcwd()
        self._starting: set[threading.Thread] = set()
        self._entered = 0
        self._untold = False

    def count(self) -> int:
        """How many there are, with those that are about to start."""
        return len(self.inside) + len(self._starting)

    def starts(self, thread: threading.Thread, yes: bool = True) -> None:
        """Count a thread before there is one, or no longer."""
        if yes:
            self._starting.add(thread)
        else:
            self._starting.discard(thread)

    @property
    def starting(self) -> bool:
        return bool(self._starting)

    def enter(self, thread: threading.Thread) -> None:
        """`thread`, which runs this, becomes a member."""
        self.inside[_thread.get_ident()] = Member.here(thread, self._entered)
        self._entered += 1
        self._starting.discard(thread)

    def leave(self, ident: int) -> None:
        self.inside.pop(ident, None)
        self.outside.pop(ident, None)
        self.waits.pop(ident, None)
        self.absent.discard(ident)

    def parks(self, ident: int) -> bool:
        """Whether its waits are parks."""
        return ident in self.inside and ident not in self.outside and ident not in self.absent

    @contextmanager
    def absence(self, ident: int) -> Iterator[None]:
        """In the block it waits for real, while time stands."""
        already = ident in self.absent
        self.absent.add(ident)
        try:
            yield
        finally:
            if not already:
                self.absent.discard(ident)

    def is_test(self, ident: int) -> bool:
        """Whether it is the thread that runs the test."""
        return ident in self.inside and self.inside[ident].is_test

    def go_outside(self, ident: int) -> None:
        self.outside[ident] = self.outside.get(ident, 0) + 1

    def come_back(self, ident: int) -> bool:
        """True if it is inside again."""
        depth = self.outside.pop(ident, 1) - 1
        if depth:
            self.outside[ident] = depth
        return not depth

    def awaits_external(self, parked: Iterable[Waiter]) -> bool:
        """Whether an external thread may be what somebody waits for."""
        self.external = [thread for thread in self.external if thread.is_alive()]
        return bool(self.external) and any(
            not waiter.polled and waiter.waits_in != "sleep" for waiter in parked
        )

    def has_strangers(self) -> bool:
        """Whether there are threads of others, who may wake a member."""
        ours = {member.thread for member in self.inside.values()} | self._starting
        return not all(map(watches, set(threading.enumerate()) - ours))

    def unparked(self) -> dict[int, Member]:
        """Those who run, or are blocked where nobody sees it; none if one is just about to run."""
        if self._starting or self.absent:
            return {}
        found = {}
        for ident, member in self.inside.items():
            wait = self.waits.get(ident)
            if wait is not None and wait.outcome is not None and not wait.lock.locked():
                return {}  # woken
            if ident not in self.outside and (wait is None or wait.let_go):
                found[ident] = member
        return found

    def fails(self) -> None:
        """An error is raised in those who wait; the test's thread has not seen it yet."""
        self._untold = True

    def told(self, ident: int) -> None:
        """The error was raised in this thread."""
        if self.is_test(ident):
            self._untold = False

    @property
    def untold(self) -> bool:
        """Whether an error was raised that the test's thread has not seen."""
        return self._untold


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
