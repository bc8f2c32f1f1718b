"""Forked children of this process: what they meet counts, and no lock of ours stays held in them.

A child has the experiments of its parent, and the patches, but memory of its own. So its counts
go into a page that both share. A slot is written by one child alone, unless there are more
than `_SLOTS`, or children of children, at once: then some of their counts can be lost, never all.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import weakref

from collections.abc import Iterable
from typing import Protocol


__all__ = ["Forked", "ForkedCounts", "watch_forks"]

_SLOTS = 128
_PAIR = struct.Struct("qq")  # matched, hit


class ForkedCounts:
    """What the forked children of one process have matched and hit."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _SLOTS * _PAIR.size)
        self._next = 0

    def take_slot(self) -> int:
        """The place of the next child."""
        self._next = (self._next + 1) % _SLOTS
        return self._next

    def add(self, slot: int, matched: int, hits: int) -> None:
        """In a child: count so many more."""
        before = _PAIR.unpack_from(self._page, slot * _PAIR.size)
        _PAIR.pack_into(self._page, slot * _PAIR.size, before[0] + matched, before[1] + hits)

    @property
    def totals(self) -> tuple[int, int]:
        """What all of them have matched and hit."""
        pairs = list(_PAIR.iter_unpack(self._page[:]))
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


class Forked(Protocol):
    """What has to know that this process forks."""

    def before_fork(self) -> None:
        """A child is about to be made."""

    def after_fork(self) -> None:
        """This is the child."""


class _Watched(Protocol):
    def forked(self) -> Iterable[Forked]:
        """What has to know of a fork."""


_watched: weakref.WeakSet[_Watched] = weakref.WeakSet()
_lock = threading.Lock()
_registered = False


def watch_forks(watched: _Watched) -> None:
    """Tell what `watched` names of every fork from now on, as long as it lives."""
    global _registered  # noqa: PLW0603  # what is registered with the system stays
    with _lock:
        _watched.add(watched)
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_child=_after)
            _registered = True


def _before() -> None:
    for each in _all():
        with contextlib.suppress(Exception):  # no memory: a fork never fails because of us
            each.before_fork()


def _after() -> None:
    global _lock  # noqa: PLW0603  # a thread that is not here may hold it
    _lock = threading.Lock()
    for each in _all():
        with contextlib.suppress(Exception):
            each.after_fork()


def _all() -> list[Forked]:
    return [each for watched in list(_watched) for each in watched.forked()]
