"""How long a test may take under chaos, and where it hangs if it takes longer."""

from __future__ import annotations

import itertools
import signal
import threading
import weakref

from _signal import signal as _install_handler  # type: ignore[import-not-found]
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pytest_resilience.plugin.matrix.loop_waits import LoopWait
from pytest_resilience.plugin.matrix.loop_waits import Place
from pytest_resilience.plugin.matrix.loop_waits import guest_of_trio
from pytest_resilience.plugin.matrix.loop_waits import other_threads
from pytest_resilience.plugin.matrix.loop_waits import raise_in_trio
from pytest_resilience.plugin.matrix.loop_waits import running_loop_in_c
from pytest_resilience.plugin.matrix.loop_waits import runs_project
from pytest_resilience.stacks import is_library
from pytest_resilience.stacks import shown_file
from pytest_resilience.virtual_time.members import Limit
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.stalls import is_in_a_lock_of_c
from pytest_resilience.virtual_time.stalls import waits_for_ever
from pytest_resilience.virtual_time.waiting import real_ns


__all__ = ["DeadlineError", "KnownHangs", "deadline", "virtual_deadline"]

_REPEAT = 0.5  # seconds between signals after the deadline
_LOOK = 0.5  # and between looks before it
_TRIES_IN_TRIO = 4  # signals of which a run of trio is told, before what waits in its place is


class DeadlineError(BaseException):
    """The test took too long. Not an Exception: code that survives anything would catch it."""


class _InLoopError(DeadlineError, SystemExit):
    """Ends an event loop written in C: it tells of whatever else is raised in it, and goes on."""


class KnownHangs:
    """Where runs of a test have hung until their deadline: others that wait there need not.

    A thread waits for a lock or a queue that no thread is about to release; what is tried again
    after a sleep may be done yet. Of an event loop all tasks wait where they did, none has gone
    a step since the look before, and no timer wakes one before the deadline. Where it waits for
    nothing but what comes later than that, no run has to wait any longer; nor where all threads
    wait for locks, without a timeout.

    Attributes:
        soon: seconds after which a run that waits there hangs.
        silent: seconds after which one does that may yet be told something by a connection.
        folder: where pytest was called, which messages leave out.
        silent_loops: in which a fault holds back what they wait for, for ever.
        at_rest: is told at each look of the event loop that waits; None for nobody, and then
            there are no looks after `silent`.
    """

    def __init__(self, soon: float, folder: str = "", *, silent: float = 1.0) -> None:
        self.soon = soon
        self.silent = silent
        self.folder = folder
        self.silent_loops: weakref.WeakSet[Any] = weakref.WeakSet()
        self.at_rest: Callable[[Any], object] | None = None
        self._places: set[Place | frozenset[Place]] = set()
        self._place: Place | None = None
        self._awaited: frozenset[tuple[Any, ...]] | None = None
        self._stuck: frozenset[tuple[int, Place]] | None = None

    def looks(self, seconds: float) -> list[float]:
        """When it is to be looked whether a run hangs that may take so many."""
        self._place = None
        # In virtual time a hang is known at once, unless signals keep interrupting who finds it.
        is_asked = self.at_rest is not None and current() is None
        more = int((seconds - self.silent) / _LOOK) if is_asked else 0
        later = (self.silent + _LOOK * each for each in range(1, more + 1))
        return [each for each in (self.soon, self.silent, *later) if each < seconds]

    def add(self, frame: FrameType | None) -> str:
        """It has hung here; returns where that is, for a message."""
        wait = LoopWait.of(frame, 0.0)
        if wait is not None:
            self._places.add(wait.places)
            return _where_tasks_wait(wait, self.folder)
        if frame is not None and is_in_a_lock_of_c(frame) and not _another_is_at_work():
            self._places.add(_place(frame))
        return _where(frame, self.folder)

    def is_one(self, frame: FrameType | None, left: float) -> bool:
        """Whether it hangs here, as far as can be told at this look, and at that before it.

        `left`: the seconds to the deadline.
        """
        if self.at_rest is not None and (resting := LoopWait.of(frame, 0.0)) is not None:
            self.at_rest(resting.loop)
        wait = LoopWait.of(frame, left)
        if wait is None:
            self._awaited = None
            return frame is not None and (self._is_stuck(frame) or self._is_known(frame))
        before, self._awaited = self._awaited, wait.awaited
        is_known = before == wait.awaited and wait.places in self._places
        return is_known or wait.is_for_nothing or wait.loop in self.silent_loops

    def _is_known(self, frame: FrameType) -> bool:
        """Whether one has hung here, where this one was at the look before, if there was one."""
        before, self._place = self._place, _place(frame)
        return self._place in self._places and before in {None, self._place}

    def _is_stuck(self, frame: FrameType) -> bool:
        """Whether all threads wait for locks, as at the look before: who was just woken goes on."""
        before, self._stuck = self._stuck, _in_locks(frame)
        return before is not None and before == self._stuck


def _in_locks(frame: FrameType) -> frozenset[tuple[int, Place]] | None:
    """Where all threads wait for locks without a timeout; None if one of them does not."""
    found = {threading.get_ident(): frame} | other_threads()
    if all(is_in_a_lock_of_c(each) and waits_for_ever(each) for each in found.values()):
        return frozenset((ident, _place(each)) for ident, each in found.items())
    return None


def _another_is_at_work() -> bool:
    """Whether another thread may yet release what this one waits for, after a sleep or a timeout.

    It runs the project's own code, or an event loop, and waits for no lock; or it waits in the
    place of a guest run of trio.
    """
    frames = other_threads().values()
    return guest_of_trio() is not None or any(
        not is_in_a_lock_of_c(frame) and runs_project(frame) for frame in frames
    )


def _place(frame: FrameType | None) -> Place:
    found = []
    while frame is not None:
        found.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def _where(frame: FrameType | None, folder: str) -> str:
    """The line of the project that runs, for a message; "" if there is none."""
    while frame is not None:
        code = frame.f_code
        if not is_library(code.co_filename):
            file = shown_file(code.co_filename, folder)
            return f", at {file}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return ""


def _where_tasks_wait(wait: LoopWait, folder: str) -> str:
    """The lines of the project where they do, innermost of each task, for a message."""
    found: set[str] = set()
    for frames in wait.tasks:
        own = [each for each in frames if not is_library(each.f_code.co_filename)]
        found.update(_where(each, folder) for each in own[-1:])
    return "".join(sorted(found))


@contextmanager
def deadline(seconds: float, known: KnownHangs | None = None) -> Iterator[bool]:
    """Raise DeadlineError in the block after so many seconds; gives whether that can be done.

    It is done by SIGALRM, so in the main thread alone, where it reaches blocking calls too. A
    timer that somebody else has set goes on afterwards. Who waits where a run is `known` to hang
    need not wait for the deadline.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(signal, "setitimer"):
        yield False
        return
    inside, rings = True, itertools.count()
    soon, *later = [*([] if known is None else known.looks(seconds)), seconds]

    def expired(_number: int, frame: FrameType | None) -> None:
        nonlocal soon
        hangs = known is not None and known.is_one(frame, seconds - soon)
        if inside and later and not hangs:
            following = later.pop(0)
            signal.setitimer(signal.ITIMER_REAL, following - soon, _REPEAT)
            soon = following
        elif inside:
            where = "" if known is None else known.add(frame)
            _end(f"it was still running after {soon:g} s{where}", frame, next(rings))

    began = real_ns()  # as the timer goes, also where the test's time is virtual
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)  # or it would ring for this one
    # `signal.signal` looks for each handler in an enum, which takes longer than all else here.
    before = _install_handler(signal.SIGALRM, expired)
    try:
        # Again and again: raised in a destructor or a callback it would reach nobody.
        signal.setitimer(signal.ITIMER_REAL, soon, _REPEAT)
        yield True
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        _install_handler(signal.SIGALRM, before)
        if left:  # at its time, or at once if that is over
            rest = left - (real_ns() - began) / 1e9
            signal.setitimer(signal.ITIMER_REAL, max(rest, 1e-6), interval)


def _end(why: str, frame: FrameType | None, rings: int) -> None:
    """Raise DeadlineError here; or where a run of trio waits, unless `rings` have not ended it."""
    error = DeadlineError(why) if running_loop_in_c() is None else _InLoopError(why)
    if rings >= _TRIES_IN_TRIO or not raise_in_trio(error, frame):
        raise error


@contextmanager
def virtual_deadline(seconds: float, *, usual: float) -> Iterator[None]:
    """As `deadline`, of a test in virtual time: after so many virtual seconds.

    Where they are those that are `usual`, nobody has said how many: such a test may wait as long
    as it likes, though not in a loop without an end.
    """
    scheduler = current()
    if scheduler is None:
        yield
        return
    said = None if seconds == usual else seconds
    limit = Limit(said, lambda when: DeadlineError(f"it was still running after {when}"))
    with scheduler.limited(limit):
        yield
