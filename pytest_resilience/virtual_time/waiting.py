"""One wait of one thread, and the deadlines of all."""

from __future__ import annotations

import _thread
import heapq
import itertools
import select

from collections.abc import Iterable
from enum import Enum


__all__ = ["LARGEST", "Ended", "Outcome", "Timers", "Waiter", "nanoseconds", "poll"]

# As it is without virtual time, whose own it is replaced by for others.
_POLL = {"poll": getattr(select, "poll", None)}

LARGEST = 2**62  # nanoseconds; timeouts beyond 146 years end then


class Outcome(Enum):
    """How a wait ended."""

    WOKEN = "woken"
    TIMED_OUT = "timed out"
    FAILED = "failed"
    ENDED = "ended"
    INTERRUPTED = "interrupted"


class Ended(SystemExit):
    """Ends a thread that was left over when its clock ended."""


class Waiter:
    """One wait of one thread.

    Attributes:
        ident: of the thread.
        waits_in: "sleep", "lock", …; shown in timelines and reports.
        deadline: virtual nanoseconds; None if only somebody can end it.
        polled: descriptors that end the wait, each with its events.
        watched: the descriptors behind those, where one is an epoll.
        outcome: None while it waits.
    """

    __slots__ = ("deadline", "ident", "lock", "outcome", "polled", "waits_in", "watched")

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
        self.outcome: Outcome | None = None
        self.lock = _thread.allocate_lock()
        self.lock.acquire()


class Timers:
    """Deadlines, nearest first; of equal ones the first that was armed."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, bool, int, Waiter]] = []
        self._count = itertools.count()

    def add(self, waiter: Waiter, deadline: int, *, last: bool) -> None:
        """`last`: after all others of the same moment."""
        waiter.deadline = deadline
        if len(self._heap) > 1000 and len(self._heap) > 2 * sum(map(_waits, self._heap)):
            self._heap = list(filter(_waits, self._heap))
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (deadline, last, next(self._count), waiter))

    def nearest(self) -> int | None:
        while self._heap and not _waits(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self) -> Waiter:
        return heapq.heappop(self._heap)[3]


def _waits(entry: tuple[int, bool, int, Waiter]) -> bool:
    return entry[3].outcome is None


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
