"""Resources that a run of a test leaks: threads, sockets, files."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import stat
import threading

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from typing import TypeAlias

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.patching import Patches
from pytest_resilience.proc import threads_of_python


__all__ = ["LeakedResources", "Snapshot", "old_objects_kept", "threads_let_go"]

_PATIENCE = 5  # times that threads are waited for
_KINDS = ("threads", "sockets", "files")
_starts = Patches()


@contextmanager
def old_objects_kept() -> Iterator[None]:
    """In the block the garbage collector looks at what was made there alone.

    It looks after each run that has opened something, and takes a tenth of a second for all that a
    project has loaded.
    """
    is_done = gc.get_freeze_count()  # by the project, who may rely on it
    if not is_done:
        gc.freeze()
    try:
        yield
    finally:
        if not is_done:
            gc.unfreeze()


@contextmanager
def threads_let_go() -> Iterator[None]:
    """In the block threads begin as daemons.

    One that a fault has left waiting for ever would keep the process from ending, when all that
    there is to say of it has been said.
    """
    _starts.replace(threading.Thread, "start", _as_daemon)
    try:
        yield
    finally:
        _starts.restore()


def _as_daemon(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @functools.wraps(start)
    def start_as_daemon(self: threading.Thread) -> None:
        with contextlib.suppress(RuntimeError):  # what is wrong is for `start` to say
            self.daemon = True
        start(self)

    return start_as_daemon


@dataclass(frozen=True, slots=True)
class LeakedResources:
    """How many more there are after a run than before it, by kind.

    Attributes:
        there: how many there are after it, of threads, sockets and files.
    """

    threads: int = 0
    sockets: int = 0
    files: int = 0
    there: tuple[int, int, int] = field(default=(0, 0, 0), compare=False)

    def more_than(self, other: LeakedResources) -> str:
        """The resources beyond those that another run leaks, in words; "" if there are none."""
        found = []
        for name in _KINDS:
            more = getattr(self, name) - getattr(other, name)
            if more > 0:
                found.append(f"{more} {name if more > 1 else name[:-1]}")
        return ", ".join(found)


class Snapshot:
    """The threads, sockets and files before a run.

    Attributes:
        left: the descriptors that were there when it was last asked what the run has leaked.
    """

    def __init__(self, earlier: Snapshot | None = None) -> None:
        """`earlier`: of the run before, since which nothing of the test has run.

        As many descriptors as that has left are taken to be those: a look at each takes longer
        than most else of a run. Another one in the place of one of them is no more than before.
        """
        self.left = frozenset[_Descriptor]()
        self._threads = set(threads_of_python())
        left = self.left if earlier is None else earlier.left
        self._is_as_left = _is_number_of(left)
        self._open = left if self._is_as_left else _descriptors()

    def leaked(self, baseline: LeakedResources | None = None) -> LeakedResources:
        """By how many there are more now; counted again if that is more than `baseline`.

        Not all that is new is more. The pool of a fixture puts another connection for one that
        died, or for one of which an earlier run has left none: there are as many then as after
        the run whose `baseline` that is. Without one all that is new is: what of old has gone
        meanwhile may be what a test before it has left. After another run of the same test,
        nothing of that is left: as many descriptors as there were are taken to be those.
        """
        allowed = baseline or LeakedResources()
        if baseline is None and self._is_as_left and _is_number_of(self._open):
            found = self._compared(self._open)
        else:
            found = self._new()
        if not found.more_than(allowed):  # nor are there more then: who is more is new
            return found
        # What only a cycle keeps open is closed: in the next run it would hide another one.
        gc.collect()
        compare = self._new if baseline is None else functools.partial(self._more, allowed.there)
        for _ in range(_PATIENCE):
            found = compare()
            if not found.more_than(allowed):
                return found
            self._await_threads()
        return compare()

    def _await_threads(self) -> None:
        """Give those that are just ending the time to close what they have."""
        me = threading.current_thread()
        # Nobody can join one that is just being started.
        ending = [
            each
            for each in set(threads_of_python()) - self._threads
            if each is not me and each.is_alive()
        ]
        for each in ending:
            each.join(0.05)
        if not ending and threading.active_count() > 1:
            # Another one, such as that of a server, may be about to start it, or to close a socket.
            MACHINE_CLOCK.sleep(0.05)

    def _new(self) -> LeakedResources:
        return self._compared(_descriptors_again(self._open))

    def _compared(self, now: _Descriptors) -> LeakedResources:
        self.left = now
        threads = set(threads_of_python())
        new = len(threads - self._threads), *_counted(now - self._open)
        return LeakedResources(*new, there=(len(threads), *_counted(now)))

    def _more(self, usual: tuple[int, int, int]) -> LeakedResources:
        before = (len(self._threads), *_counted(self._open))
        self.left = _descriptors()
        there = (len(threads_of_python()), *_counted(self.left))
        threads, sockets, files = (
            max(0, now - max(had, most))
            for now, had, most in zip(there, before, usual, strict=True)
        )
        return LeakedResources(threads, sockets, files, there)


_Descriptor: TypeAlias = tuple[int, bool, int, int]  # number, is a socket, device, inode
_Descriptors: TypeAlias = frozenset[_Descriptor]


def _descriptors() -> _Descriptors:
    """The open file descriptors; none where that cannot be known."""
    try:
        return _looked_at(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return frozenset()


def _descriptors_again(before: _Descriptors) -> _Descriptors:
    """As `_descriptors`: mostly they have the numbers that they had."""
    found = _looked_at([number for number, *_ in before])
    return found if len(found) == len(before) and _is_number_of(found) else _descriptors()


def _is_number_of(descriptors: _Descriptors) -> bool:
    """Whether there are as many, which is known of none where it is not told."""
    return bool(descriptors) and _number_open() == len(descriptors)


def _number_open() -> int:
    """How many there are; 0 where that is not told: Linux does since 6.2."""
    try:
        return os.stat("/proc/self/fd").st_size
    except OSError:
        return 0


def _looked_at(numbers: Iterable[int]) -> _Descriptors:
    found = set[_Descriptor]()
    for number in numbers:
        try:
            each = os.fstat(number)  # takes a fifth of the time to read the link
        except OSError:  # the one that it took to look
            continue
        found.add((number, stat.S_ISSOCK(each.st_mode), each.st_dev, each.st_ino))
    return frozenset(found)


@functools.lru_cache(maxsize=4)  # mostly they are those of the run before
def _counted(descriptors: _Descriptors) -> tuple[int, int]:
    """How many sockets and others there are."""
    sockets = sum(is_socket for _, is_socket, *_ in descriptors)
    return sockets, len(descriptors) - sockets
