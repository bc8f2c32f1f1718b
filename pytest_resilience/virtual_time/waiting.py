"""Waits: one of a thread, the deadlines of all, those that ended, and how far time has come."""

from __future__ import annotations

import _thread
import heapq
import itertools
import os
import queue
import select
import sys
import threading
import time
import weakref

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import CodeType
from types import FrameType
from typing import Any
from typing import Protocol


__all__ = [
    "LARGEST", "CallSite", "Elapsed", "Ended", "Held", "Outcome", "Timeline", "Timers", "Waiter",
    "Wake", "is_machinery", "locks_of_tasks", "nanoseconds", "poll", "real_ns",
]  # fmt: skip

_HERE = os.path.dirname(__file__) + os.sep
_MACHINERY = frozenset({threading.__file__, queue.__file__, _thread.__name__})
# As it is without virtual time, whose own it is replaced by for others.
_POLL = {"poll": getattr(select, "poll", None)}
LARGEST = 2**62  # nanoseconds; timeouts beyond 146 years end then
_MOST_WAKES = 10_000  # that are remembered
# What a rebinding of names cannot reach: see `time_functions.py`.
_REAL = {"monotonic_ns": time.monotonic_ns}


@dataclass(frozen=True, slots=True)
class CallSite:
    """A line, which keeps nothing alive but its code."""

    code: CodeType
    line: int

    @classmethod
    def of(cls, frame: FrameType) -> CallSite:
        return cls(frame.f_code, frame.f_lineno)

    @classmethod
    def here(cls) -> CallSite:
        """Where what waits was called from: not in this package, nor where locks are made of."""
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # inspect is 100 times slower
        outermost = frame
        while frame is not None and is_machinery(frame.f_code.co_filename):
            outermost, frame = frame, frame.f_back
        found = frame or outermost
        assert found is not None
        return cls(found.f_code, found.f_lineno)

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line} in {self.code.co_name}"


locks_of_tasks: weakref.WeakKeyDictionary[Any, tuple[CallSite, Any, CallSite | None]] = (
    weakref.WeakKeyDictionary()
)
"""Of each lock of asyncio where it was made, the task that holds it, and where that took it."""


@lru_cache(maxsize=4096)
def is_machinery(file: str) -> bool:
    """Whether a file is one of those that waits are made of."""
    return file in _MACHINERY or file.startswith(_HERE) or f"{os.sep}asyncio{os.sep}" in file


class Outcome(Enum):
    """How a wait ended."""

    WOKEN = "woken"
    TIMED_OUT = "timed out"
    FAILED = "failed"
    EXPIRED = "expired"
    ENDED = "ended"
    INTERRUPTED = "interrupted"


class Ended(SystemExit):
    """Ends a thread that was left over when its clock ended."""


class Held(Protocol):
    """A lock that somebody may have.

    Attributes:
        made: where; None for one that nobody holds, which a condition makes for who waits.
        holder: the ident of the thread that has it, and where it was taken; None for nobody.
    """

    made: CallSite | None
    holder: tuple[int, CallSite] | None


class Waiter:
    """One wait of one thread.

    Attributes:
        ident: of the thread.
        waits_in: "sleep", "lock", …; shown in timelines and reports.
        deadline: virtual nanoseconds; None if only somebody can end it.
        polled: descriptors that end the wait, each with its events.
        watched: the descriptors behind those, where one is an epoll.
        awaited: the lock that it waits for; None for anything else.
        outcome: None while it waits.
        let_go: whether its thread handles a signal before it waits on.
    """

    __slots__ = (
        "awaited", "deadline", "ident", "let_go", "lock", "outcome", "polled", "waits_in",
        "watched",
    )  # fmt: skip

    def __init__(
        self,
        waits_in: str,
        polled: tuple[tuple[int, int], ...] = (),
        watched: tuple[int, ...] | None = None,
    ) -> None:
        self.ident = _thread.get_ident()
        self.waits_in = waits_in
        self.deadline: int | None = None
        self.polled = polled
        self.watched = tuple(fd for fd, _ in polled) if watched is None else watched
        self.awaited: Held | None = None
        self.outcome: Outcome | None = None
        self.let_go = False
        self.lock = _thread.allocate_lock()
        self.lock.acquire()


class Timers:
    """Deadlines, nearest first; of equal ones the first that was armed."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Waiter]] = []
        self._last: deque[Waiter] = deque()
        self._count = itertools.count()

    def add(self, waiter: Waiter, deadline: int, *, last: bool) -> None:
        """`last`: after all others, for who waits for no time to pass."""
        waiter.deadline = deadline
        if last:
            self._last.append(waiter)
            return
        if len(self._heap) > 1000 and len(self._heap) > 2 * sum(map(_waits, self._heap)):
            self._heap = list(filter(_waits, self._heap))
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (deadline, next(self._count), waiter))

    @property
    def has_last(self) -> bool:
        """Whether somebody lets all others go first."""
        while self._last and self._last[0].outcome is not None:
            self._last.popleft()
        return bool(self._last)

    def nearest(self, patience: int = 0) -> int | None:
        """`patience`: nanoseconds that the last ones wait longer."""
        while self._heap and not _waits(self._heap[0]):
            heapq.heappop(self._heap)
        found = [self._heap[0][0]] if self._heap else []
        if self.has_last:
            found.append((self._last[0].deadline or 0) + patience)
        return min(found, default=None)

    def take_due(self, now: int) -> Waiter | None:
        """One whose deadline has come, but for the last ones; None if there is none."""
        while self._heap and (self._heap[0][0] <= now or not _waits(self._heap[0])):
            waiter = heapq.heappop(self._heap)[2]
            if waiter.outcome is None:
                return waiter
        return None

    def take_last(self, now: int) -> Waiter | None:
        """The first of those that let all others go first; None if its deadline is later."""
        if self.has_last and (self._last[0].deadline or 0) <= now:
            return self._last.popleft()
        return None


def _waits(entry: tuple[int, int, Waiter]) -> bool:
    return entry[2].outcome is None


def nanoseconds(seconds: float) -> int:
    """The nearest number of them, and at least one if any time is to pass."""
    if seconds <= 0:
        return 0
    return max(1, round(min(seconds, LARGEST / 1e9) * 1e9))


def poll(waiters: Iterable[Waiter], milliseconds: int) -> dict[int, int]:
    """The events of the descriptors that `waiters` wait for."""
    masks: dict[int, int] = {}
    for waiter in waiters:
        for fd, mask in waiter.polled:
            masks[fd] = masks.get(fd, 0) | mask
    make = _POLL["poll"]
    if not masks or make is None:
        return {}
    poller = make()
    for fd, mask in masks.items():
        poller.register(fd, mask)
    return dict(poller.poll(milliseconds))


def real_ns() -> int:
    """The machine's monotonic clock."""
    return _REAL["monotonic_ns"]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """A thread of the test goes on after a wait.

    Attributes:
        at: virtual seconds since the clock began.
        thread: its name; without the counters of the process, the same in every run.
        waited: what it waited in: "sleep", "lock", "join", "select", …
        timed_out: whether time ended the wait, and not somebody.
    """

    at: float
    thread: str
    waited: str
    timed_out: bool

    def __str__(self) -> str:
        how = "timed out" if self.timed_out else "woken"
        return f"{self.at:.9g} s: {self.thread}, {self.waited}, {how}"


class Timeline:
    """The latest wakes, and how often time has jumped."""

    def __init__(self) -> None:
        self.jumps = 0
        self.wakes: deque[Wake] = deque(maxlen=_MOST_WAKES)


class Elapsed:
    """Virtual nanoseconds since the beginning; they flow while something real is awaited."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        # Both together, so that a reader without the lock never sees one of them alone.
        self._state: tuple[int, int | None] = (0, None)

    def read(self) -> int:
        """Nanoseconds; never less than before."""
        passed, since = self._state
        return passed if since is None else passed + real_ns() - since

    def jump(self, to: int) -> bool:
        """Go to `to`; False if that has passed."""
        if to <= self.read():
            return False
        self._state = (to, None if self._state[1] is None else real_ns())
        return True

    def flow(self, on: bool) -> None:
        """Let time go on as the machine's, or stand."""
        if on != (self._state[1] is not None):
            self._state = (self.read(), real_ns() if on else None)
