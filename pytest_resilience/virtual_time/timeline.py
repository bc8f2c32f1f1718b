"""What happened in a scheduler, in the order in which it did, and how far its time has come."""

from __future__ import annotations

import time

from collections import deque
from dataclasses import dataclass


__all__ = ["Elapsed", "Timeline", "Wake", "real_ns"]

_MOST = 10_000  # wakes that are remembered

# What a rebinding of names cannot reach: see `clocks.py`.
_REAL = {"monotonic_ns": time.monotonic_ns}


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
        self.wakes: deque[Wake] = deque(maxlen=_MOST)


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
