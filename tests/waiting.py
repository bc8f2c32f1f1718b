"""Waiting until threads wait, and until something has happened."""

from __future__ import annotations

import contextlib
import threading
import time

from collections.abc import Callable
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic
from typing import TypeVar


__all__ = ["PATIENCE", "InAThread", "asleep", "eventually", "side_by_side", "until_all_wait"]

T = TypeVar("T")

PATIENCE = 20  # seconds
_looking: set[threading.Thread] = set()


def asleep(thread: threading.Thread) -> bool:
    """Whether it waits just now, or has ended: one of C is alive to Python for ever."""
    threading.Event().wait(0.001)  # it may need what this thread holds
    return _sleeps(thread)


def _sleeps(thread: threading.Thread) -> bool:
    with (
        contextlib.suppress(FileNotFoundError, ProcessLookupError),  # it has ended, before or now
        open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii") as stat,
    ):
        return stat.read().rpartition(")")[2].split()[0] == "S"
    return True


def until_all_wait() -> None:
    """All other threads, those of clients and of servers: who asks, polls for the answer by now.

    But for those that are in here as well. A process has dozens, so that they are looked at
    together.
    """
    here = threading.current_thread()
    _looking.add(here)
    try:
        asleep_for = 0
        while asleep_for < 20:  # one that needs what another has sleeps as well, but not for long
            threading.Event().wait(0.001)
            others = [each for each in threading.enumerate() if each not in _looking]
            asleep_for = asleep_for + 1 if all(map(_sleeps, others)) else 0
    finally:
        _looking.discard(here)


def eventually(happens: Callable[[], bool]) -> bool:
    """Whether it does, within the patience of these tests."""
    ends = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > ends:
            return False
        threading.Event().wait(0.001)
    return True


class InAThread(Generic[T]):
    """Tells a story in a thread: who waits in it for ever hangs no run."""

    def __init__(self, story: Callable[[], T]) -> None:
        self._met: list[T] = []
        self.thread = threading.Thread(
            target=lambda: self._met.append(story()), name="waits", daemon=True
        )
        self.thread.start()

    def result(self) -> T:
        """What it returns, within the patience of these tests."""
        self.thread.join(PATIENCE)
        assert self._met, "it still waits"
        return self._met[0]


def side_by_side(stories: Iterable[Callable[[], T]]) -> list[T]:
    """What each of them returns; one after the other, each would wait for a timeout."""
    todo = list(stories)
    with ThreadPoolExecutor(len(todo)) as threads:
        return list(threads.map(lambda story: story(), todo))
