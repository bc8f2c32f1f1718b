"""The threads of a scheduler."""

from __future__ import annotations

import _thread
import os
import re
import threading
import time

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_resilience.proc import number_of_thread
from pytest_resilience.proc import state_of
from pytest_resilience.proc import time_queued_by
from pytest_resilience.virtual_time.waiting import Waiter


__all__ = ["Member", "Members", "called_by", "module_of", "times_of_blocked", "watches"]

# Names that are made from counters of the process.
_COUNTED = re.compile(r"^(Thread|ThreadPoolExecutor)-\d+")
_REAL = {"clock_gettime_ns": getattr(time, "clock_gettime_ns", None)}


# Whose threads are no members, though one started them: they watch over the test.
_WATCHERS = frozenset({"_pytest", "coverage", "execnet", "xdist"})


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
