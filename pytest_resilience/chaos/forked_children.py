"""Child processes: experiments count in them as well.

A forked child has the experiments of its parent, and the patches, but memory of its own; another
child begins them anew. So their counts go into a page that all share, where the parent in turn says
that an experiment has ended: a child, such as the worker of a pool, can outlive it. Each process
has the slot of its id. Only two that share one, and count at the same time, can lose some of their
counts, never all.
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


__all__ = ["PAUSED", "STOPPED", "Forked", "Pages", "SharedCounts", "watch_forks"]

_CELL = struct.Struct("qqq")  # matched, chosen, hits; in the place of the first is the state
_SLOTS = 170
_PAGE = 4096  # bytes, enough for them
_PAGES = 1024  # who still counts on a page when so many others have begun gets a stranger's
STOPPED, PAUSED = 0, 1  # bytes of the state


class Pages:
    """A page for each of many experiments, in a file that several processes map."""

    def __init__(self, descriptor: int) -> None:
        """Of an open file, which can be closed then."""
        self._all = memoryview(mmap.mmap(descriptor, _PAGES * _PAGE))

    @classmethod
    def make(cls, path: str) -> Pages:
        """In a new file. Raises OSError."""
        return cls._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, make=True)

    @classmethod
    def of(cls, path: str) -> Pages:
        """Those that another process has made. Raises OSError."""
        return cls._open(path, os.O_RDWR)

    @classmethod
    def _open(cls, path: str, flags: int, *, make: bool = False) -> Pages:
        descriptor = os.open(path, flags, 0o600)
        try:
            if make:
                os.ftruncate(descriptor, _PAGES * _PAGE)
            return cls(descriptor)
        finally:
            os.close(descriptor)

    def at(self, number: int) -> memoryview:
        """The page of an experiment."""
        start = number % _PAGES * _PAGE
        return self._all[start : start + _PAGE]


class SharedCounts:
    """Counts and state of an experiment, for the process that started it and its children.

    Attributes:
        delay: seconds of waiting, in this process alone.
        state: whether it is `STOPPED`, whether it is `PAUSED`, by these; read at every operation.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self._here = [0, 0, 0]  # matched, chosen, hits of this process, if it is no child
        self._number = 0  # of the latest operation that this process matched
        self.state: bytearray | memoryview = bytearray(2)
        self._page: memoryview | None = None  # shared, once there are children
        self._in_child = False
        self._lock = fork_safe(self, "_lock", threading.Lock)

    @property
    def matched(self) -> int:
        """Operations matched, of children too."""
        return self._here[0] + self._of_children(0)

    @property
    def chosen(self) -> int:
        """Operations that the trigger chose, hit in the end or not, of children too."""
        return self._here[1] + self._of_children(1)

    @property
    def hits(self) -> int:
        """Operations hit, of children too."""
        return self._here[2] + self._of_children(2)

    def _of_children(self, which: int) -> int:
        if self._page is None:
            return 0
        cells = self._page[_CELL.size : _SLOTS * _CELL.size]
        return sum(cell[which] for cell in _CELL.iter_unpack(cells))

    def set_state(self, which: int, value: bool) -> None:
        """Let it be `STOPPED` or `PAUSED`, or not, in children as well; a child does so alone."""
        if self._in_child:
            self.state = bytearray(self.state[:2])
        self.state[which] = value

    def share(self, page: memoryview) -> None:
        """Have this page to share with children that are no forks."""
        page[:] = bytes(_PAGE)
        page[:2] = bytes(self.state[:2])
        self.state = self._page = page

    def join(self, page: memoryview) -> None:
        """Count for the process whose page it is."""
        self.state = self._page = page
        self._in_child = True

    def settle(self) -> None:
        """Take in what children have counted so far, and share no page any more."""
        self._here = [self.matched, self.chosen, self.hits]
        self.state, self._page = bytearray(self.state[:2]), None

    def before_fork(self) -> None:
        """Have something to share with a child that is about to be made."""
        if self._page is None:
            self.share(memoryview(mmap.mmap(-1, _PAGE)))

    def after_fork(self) -> None:
        """In the child: count for the parent."""
        self._in_child = self._page is not None

    def add(self, *, matched: int = 0, chosen: int = 0, hits: int = 0, delay: float = 0.0) -> int:
        """Count operations and a wait; returns how many this process has matched.

        With -1 the latest one is not counted after all.
        """
        with self._lock:
            self._number += matched
            self.delay += delay
            if self._in_child:
                self._add_in_page(matched, chosen, hits)
            else:
                here = self._here
                here[0] += matched
                here[1] += chosen
                here[2] += hits
            return self._number

    def _add_in_page(self, *more: int) -> None:
        if self._page is None:
            return  # of a child that goes on as if it were the parent
        slot = (1 + os.getpid() % (_SLOTS - 1)) * _CELL.size
        before = _CELL.unpack_from(self._page, slot)
        _CELL.pack_into(self._page, slot, *map(sum, zip(before, more, strict=True)))


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
