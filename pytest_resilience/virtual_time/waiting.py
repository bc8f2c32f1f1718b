"""One wait of one thread, and the deadlines of all."""

from __future__ import annotations

import _thread
import heapq
import itertools
import select

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from pytest_resilience.virtual_time.call_sites import CallSite


__all__ = ["LARGEST", "Ended", "Held", "Outcome", "Timers", "Waiter", "nanoseconds", "poll"]

# As it is without virtual time, whose own it is replaced by for others.
_POLL = {"poll": getattr(select, "poll", None)}

LARGEST = 2**62  # nanoseconds; timeouts beyond 146 years end then


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
