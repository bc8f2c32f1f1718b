"""Forked children of this process: what they meet counts, and no lock of ours stays held in them.

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


__all__ = ["Forked", "SharedState", "watch_forks"]

_SLOTS = 256  # as many as there are in a page of memory
_PAIR = struct.Struct("qq")  # matched, hit; the first of all is: ended, paused


class SharedState:
    """What one process and its forked children know of an experiment of that process."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _SLOTS * _PAIR.size)

    def say(self, *, ended: bool, paused: bool) -> None:
        """In the parent: whether it has ended, or has no effect for now."""
        _PAIR.pack_into(self._page, 0, ended, paused)

    @property
    def ended(self) -> bool:
        """Whether the parent has ended it."""
        return bool(_PAIR.unpack_from(self._page)[0])

    @property
    def paused(self) -> bool:
        """Whether it has no effect for now."""
        return bool(_PAIR.unpack_from(self._page)[1])

    def add(self, matched: int, hits: int) -> None:
        """In a child: count so many more."""
        place = (1 + os.getpid() % (_SLOTS - 1)) * _PAIR.size
        before = _PAIR.unpack_from(self._page, place)
        _PAIR.pack_into(self._page, place, before[0] + matched, before[1] + hits)

    @property
    def counts(self) -> tuple[int, int]:
        """What all children have matched and hit."""
        pairs = list(_PAIR.iter_unpack(self._page[_PAIR.size :]))
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


class Forked(Protocol):
    """What has to know that this process forks."""

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
