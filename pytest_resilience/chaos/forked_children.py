"""Forked children of this process: experiments count in them as well.

A child has the experiments of its parent, and the patches, but memory of its own. So its counts
go into a page that both share, where the parent in turn says that an experiment has ended: a
child, such as the worker of a pool, can outlive it. Each process has the slot of its id. Only two
that share one, and count at the same time, can lose some of their counts, never all.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import threading
import weakref

from typing import Protocol

from pytest_resilience.locks import fork_safe


__all__ = ["PAUSED", "STOPPED", "Forked", "SharedCounts", "watch_forks"]

_SLOTS = 256  # as many as there are in a page of memory
_PAIR = struct.Struct("qq")  # matched, hits; in the place of the first pair is the state
STOPPED, PAUSED = 0, 1  # bytes of the state


class SharedCounts:
    """Counts and state of an experiment, for the process that started it and its forked children.

    Attributes:
        chosen: operations that the trigger chose, hit in the end or not, in this process alone.
        delay: seconds of waiting, in this process alone.
        state: whether it is `STOPPED`, whether it is `PAUSED`, by these; read at every operation.
    """

    def __init__(self) -> None:
        self.chosen = 0
        self.delay = 0.0
        self._matched = 0
        self._hits = 0
        self._number = 0  # of the latest operation that this process matched
        self.state: bytearray | mmap.mmap = bytearray(2)
        self._page: mmap.mmap | None = None  # shared, once there are children
        self._in_child = False
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def matched(self) -> int:
        """Operations matched, of children too."""
        return self._matched + self._of_children(0)

    @property
    def hits(self) -> int:
        """Operations hit, of children too."""
        return self._hits + self._of_children(1)

    def _of_children(self, which: int) -> int:
        if self._page is None:
            return 0
        return sum(pair[which] for pair in _PAIR.iter_unpack(self._page[_PAIR.size :]))

    def set_state(self, which: int, value: bool) -> None:
        """Let it be `STOPPED` or `PAUSED`, or not, in children as well; a child does so alone."""
        if self._in_child:
            self.state = bytearray(self.state[:2])
        self.state[which] = value

    def before_fork(self) -> None:
        """Have something to share with a child that is about to be made."""
        if self._page is None:
            self._page = mmap.mmap(-1, _SLOTS * _PAIR.size)
            self._page[:2] = bytes(self.state)
            self.state = self._page

    def after_fork(self) -> None:
        """In the child: count for the parent."""
        self._in_child = self._page is not None

    def add(self, *, matched: int = 0, chosen: int = 0, hits: int = 0, delay: float = 0.0) -> int:
        """Count operations and a wait; returns how many this process has matched.

        With -1 the latest one is not counted after all.
        """
        with self._lock:
            self._number += matched
            self.chosen += chosen
            self.delay += delay
            if self._in_child:
                self._add_in_page(matched, hits)
            else:
                self._matched += matched
                self._hits += hits
            return self._number

    def _add_in_page(self, matched: int, hits: int) -> None:
        assert self._page is not None  # else this would be no child
        slot = (1 + os.getpid() % (_SLOTS - 1)) * _PAIR.size
        before = _PAIR.unpack_from(self._page, slot)
        _PAIR.pack_into(self._page, slot, before[0] + matched, before[1] + hits)


class Forked(Protocol):
    """Is told when this process forks."""

    def before_fork(self) -> None:
        """A child is about to be made."""

    def after_fork(self) -> None:
        """This is the child."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_lock = fork_safe(sys.modules[__name__], "_lock", threading.Lock)
_registered = False


def watch_forks(watched: Forked) -> None:
    """Tell `watched` of every fork from now on, as long as it lives."""
    global _registered  # noqa: PLW0603  # what is registered with the system stays
    with _lock:
        _watched.add(watched)
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_child=_after)
            _registered = True


def _before() -> None:
    for each in list(_watched):
        with contextlib.suppress(Exception):  # no memory: a fork never fails because of us
            each.before_fork()


def _after() -> None:
    for each in list(_watched):
        with contextlib.suppress(Exception):
            each.after_fork()
