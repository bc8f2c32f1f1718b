"""Child processes: experiments count in them as well.

A forked child has the experiments of its parent, and the patches, but memory of its own; another
child begins them anew. So their counts go into a page that all share, where the parent in turn says
that an experiment has ended: a child, such as the worker of a pool, can outlive it. Each process
has the slot of its id. Only two that share one, and count at the same time, can lose some of their
counts, never all.

Where a trigger goes by numbers, such as the second operation of all, one process takes a number
after the other.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import threading
import weakref

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pytest_resilience.locks import fork_safe
from pytest_resilience.locks import living


__all__ = ["PAUSED", "STOPPED", "Forked", "Page", "Pages", "watch_forks"]

# Matched, chosen, hits, seconds of waiting. In the place of the first are the state and a number.
_CELL = struct.Struct("qqqd")
_NUMBER = struct.Struct("q")  # of the latest operation that any of the processes matched
_NUMBER_AT = 8  # after the state
_SLOTS = 256
_PAGE = _SLOTS * _CELL.size
_PAGES = 1024  # who still counts on a page when so many others have begun gets a stranger's
_TRIES = 100_000  # for who takes a number: it may be stopped in the middle
STOPPED, PAUSED = 0, 1  # bytes of the state


@dataclass(frozen=True, slots=True)
class Page:
    """What the processes of an experiment share.

    Attributes:
        memory: of all of them.
        path: of a file that one of them at a time can lock; "" if there is none.
    """

    memory: memoryview
    path: str = ""

    def take_number(self, matched: int) -> int:
        """The number of an operation among those of all processes; -1 gives the latest back."""
        with self.locked():
            number: int = _NUMBER.unpack_from(self.memory, _NUMBER_AT)[0] + matched
            _NUMBER.pack_into(self.memory, _NUMBER_AT, number)
            return number

    @classmethod
    def of_fork(cls) -> Page:
        """One that is shared with a child that is about to be forked, and with nobody else."""
        return cls(memoryview(mmap.mmap(-1, _PAGE)))

    def begin(self, state: bytes, number: int) -> None:
        """Have the `STOPPED` and `PAUSED` of the state, and the number of the latest operation."""
        self.memory[:] = bytes(_PAGE)
        self.memory[: len(state)] = state
        # Not under the lock: this is the beginning of a fork, which waits for no other thread.
        _NUMBER.pack_into(self.memory, _NUMBER_AT, number)

    def total(self, which: int) -> float:
        """What all children have counted of it: matched, chosen, hits, seconds of waiting."""
        cells = self.memory[_CELL.size :]
        total: float = sum(cell[which] for cell in _CELL.iter_unpack(cells))
        return total

    def count(self, *more: float) -> None:
        """This process, a child, has counted so much more of each."""
        slot = (1 + os.getpid() % (_SLOTS - 1)) * _CELL.size
        before = _CELL.unpack_from(self.memory, slot)
        _CELL.pack_into(self.memory, slot, *map(sum, zip(before, more, strict=True)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process into the block, as long as none is stopped in it."""
        import fcntl
        import posix  # whose functions no experiment replaces

        try:
            descriptor = posix.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # who made it has gone, and with it everything that counts
            yield
            return
        try:
            for _ in range(_TRIES):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                posix.sched_yield()  # nothing that gevent could use to let others run
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also of a copy that a fork has made meanwhile
            posix.close(descriptor)


class Pages:
    """A page for each of many experiments, in a file that several processes map."""

    def __init__(self, path: str, descriptor: int) -> None:
        """Of an open file, which can be closed then."""
        self._path = path
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
            return cls(path, descriptor)
        finally:
            os.close(descriptor)

    def at(self, number: int) -> Page:
        """The page of an experiment."""
        start = number % _PAGES * _PAGE
        return Page(self._all[start : start + _PAGE], self._path)


class Forked(Protocol):
    """Is told when this process forks."""

    def before_fork(self) -> None:
        """A child is about to be made."""

    def after_fork(self) -> None:
        """This is the child."""


_watched: weakref.WeakKeyDictionary[Forked, None] = weakref.WeakKeyDictionary()
_lock = fork_safe(sys.modules[__name__], "_lock", threading.Lock)
_registered = False


def watch_forks(watched: Forked) -> None:
    """Tell `watched` of every fork from now on, as long as it lives."""
    global _registered  # noqa: PLW0603  # what is registered with the system stays
    with _lock:
        _watched[watched] = None
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_child=_after)
            _registered = True


def _before() -> None:
    for each in living(_watched):
        with contextlib.suppress(Exception):  # no memory: a fork never fails because of us
            each.before_fork()


def _after() -> None:
    for each in living(_watched):
        with contextlib.suppress(Exception):
            each.after_fork()
