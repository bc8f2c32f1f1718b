"""What only the real world can bring: data, time, the end of patience; and signals.

A thread waits for the former. Python handles signals in the main thread, in the middle of what that
does or waits for. Where it waits it counts as running from the first line of a handler to the last,
so that time stands. A signal that comes in the middle of what needs the mutex is sent again when
that is free. Waits in C, which no lock of ours can end, are ended by a signal too.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import signal
import threading
import types

from collections import deque
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pytest_resilience.errors import ClockStalledError
from pytest_resilience.proc import is_pipe_of_this_process
from pytest_resilience.proc import number_of_thread
from pytest_resilience.proc import pipe_awaited_by
from pytest_resilience.virtual_time.members import Member
from pytest_resilience.virtual_time.members import times_of_blocked
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.scheduler import Outlook
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.stalls import DEADLOCK
from pytest_resilience.virtual_time.stalls import frame_of
from pytest_resilience.virtual_time.stalls import has_a_timeout
from pytest_resilience.virtual_time.stalls import is_deadlock
from pytest_resilience.virtual_time.stalls import is_in_a_lock_of_c
from pytest_resilience.virtual_time.waiting import poll
from pytest_resilience.virtual_time.waiting import real_ns


__all__ = ["Driver", "Signals"]

# As it is now: with a clock what it starts is a member.
_start_new_thread = _thread.start_new_thread

TICK = 0.02  # seconds
PATIENCE = 1_000_000_000  # nanoseconds of the machine, in which nothing happens
_OVERTAKEN = 40_000_000  # nanoseconds, for which others go first who are blocked or wait outside
_SOON = 1  # millisecond, after which data on its way has mostly come
_STEP = 5  # milliseconds at most, for which descriptors are looked at while time flows


@contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Driver:
    """Serves one scheduler, from a thread that is no member and that `threading` does not know."""

    def __init__(self) -> None:
        self._kicked = _thread.allocate_lock()
        self._kicked.acquire()
        self._ended: _thread.LockType | None = None
        self._resting = _thread.allocate_lock()
        self._stopped = False
        self._seen: object = None
        self._since = 0
        self._used = 0
        self._over: int | None = None

    def serve(self, scheduler: Scheduler, signals: Signals) -> None:
        """Serve `scheduler` from now on."""
        self._scheduler, self._signals = scheduler, signals
        _Serving.driver = self
        self.kick()

    def kick(self) -> None:
        """Look now."""
        if self._ended is None:
            if self._stopped:
                return
            self._ended = _thread.allocate_lock()
            self._ended.acquire()
            with _signals_blocked():  # in the thread too: they are for those of the test
                _start_new_thread(self._run, (self._ended,))
        with contextlib.suppress(RuntimeError):  # two at once
            if self._kicked.locked():
                self._kicked.release()

    def end_by(self, nanoseconds: int) -> None:
        """The test is over; raise in who still waits when so much real time has passed."""
        self._over = real_ns() + nanoseconds
        self.kick()

    def stop(self) -> None:
        """End, and wait for that."""
        _Serving.driver = None  # first, or a fork in another thread would have it serve again
        self.rest()
        self._stopped = True

    def rest(self) -> None:
        """End the thread, and wait for that; the next kick starts another."""
        if self._ended is None or self._scheduler.is_held_here:
            return
        with self._resting:  # another thread may fork at the same moment
            ended = self._ended
            if ended is not None:
                self._stopped = True
                self.kick()
                ended.acquire()
                self._stopped, self._ended = False, None

    def _run(self, ended: _thread.LockType) -> None:
        try:
            pause = TICK
            while not self._stopped:
                self._kicked.acquire(timeout=pause)
                if not self._stopped:
                    pause = self._turn_or_fail()
        finally:
            ended.release()

    def _turn_or_fail(self) -> float:
        try:
            return self._turn()
        except Exception as error:  # for which everybody would wait for ever
            with self._scheduler.mutex:
                self._scheduler.fail(f"virtual time itself has failed: {error!r}", error)
            return TICK

    def _turn(self) -> float:
        """Look once. Returns after how many seconds to look again, if nobody kicks."""
        scheduler = self._scheduler
        with scheduler.mutex:
            self._signals.send_again()
            if not scheduler.members.inside:
                return TICK
            if self._over is not None and real_ns() > self._over:
                self._over = None
                scheduler.fail("threads of the test go on when it is over")
            somebody_runs = scheduler.running() > 0 and not scheduler.members.outside
            before, waiters = scheduler.run_queue.changes, [*scheduler.parked.values()]
            outlook = None if somebody_runs else scheduler.outlook()
            if outlook is not None:
                scheduler.elapsed.flow(outlook is Outlook.OUTSIDE)
            milliseconds = self._milliseconds(outlook)
        if outlook is None:
            return self._watch()
        # Without the mutex: others go on meanwhile, which `changes` tells.
        events = poll(waiters, milliseconds)
        with scheduler.mutex:
            scheduler.wake_readable(events)
            if outlook is Outlook.OUTSIDE:
                scheduler.wake_due(scheduler.elapsed.read(), patience=_OVERTAKEN)
                if scheduler.run_queue.ready:  # one at a time: nobody else hands over
                    scheduler.settle()
                return self._until_due()
            if outlook is Outlook.FLYING and scheduler.run_queue.changes == before:
                return 0.0
            if scheduler.run_queue.changes != before or scheduler.jump():
                scheduler.settle()
                return TICK
            return self._waits_for_ever()

    def _milliseconds(self, outlook: Outlook | None) -> int:
        if outlook is Outlook.OUTSIDE:
            return min(_STEP, round(self._until_due() * 1e3))
        return _SOON if outlook is Outlook.FLYING else self._scheduler.network.patience

    def _until_due(self) -> float:
        nearest = self._scheduler.timers.nearest(patience=_OVERTAKEN)
        if nearest is None:
            return TICK
        return min(TICK, max(0.0, (nearest - self._scheduler.elapsed.read()) / 1e9))

    def _watch(self) -> float:
        """Somebody runs. Who is blocked in a way that the scheduler does not see holds up time."""
        scheduler, began = self._scheduler, real_ns()
        with scheduler.mutex:
            running = scheduler.members.unparked()
        # Without the mutex, for which those wait who are just about to go on.
        blocked = times_of_blocked(running)
        if blocked is None:
            return TICK
        in_locks = self._patience_with_locks(running)
        with scheduler.mutex:
            if scheduler.members.unparked() == running:
                self._judge(blocked, began, in_locks)
        return TICK

    def _judge(self, blocked: dict[int, int], began: int, in_locks: int | None) -> None:
        """Let time, or somebody else, go on, if those who run have been blocked for long.

        `began`: when they were looked at. `in_locks`: see `_patience_with_locks`.
        """
        scheduler = self._scheduler
        connecting = scheduler.members.connecting & blocked.keys()
        if connecting:
            if self._lasts(("connects", *sorted(connecting)), _OVERTAKEN, began):
                for ident in connecting:  # the kernel asks again, after real time
                    scheduler.members.go_outside(ident)
                scheduler.elapsed.flow(True)
                scheduler.settle()
            return
        overtaken = scheduler.timers.has_last
        held_up = scheduler.run_queue.ready or scheduler.timers.nearest() is not None
        if not held_up and in_locks is None:
            return  # what is real is awaited, and takes its time
        patience = _OVERTAKEN if overtaken else in_locks or PATIENCE
        # Who is overtaken, or has a timeout, may look for what it waits for again and again.
        used = None if overtaken else sum(blocked.values())
        if not self._lasts(("blocked", *sorted(blocked)), patience, began, used):
            return
        if overtaken and not scheduler.run_queue.ready:
            scheduler.wake_due(scheduler.elapsed.read())
        if scheduler.run_queue.ready:  # one at a time: somebody else may be able to help
            scheduler.hand_over()
        elif not overtaken:
            scheduler.fail("a thread of the test is blocked where virtual time cannot see it")
            if any(map(scheduler.members.is_test, blocked)):
                self._signals.end_wait_in_c()

    def _patience_with_locks(self, blocked: dict[int, Member]) -> int | None:
        """Nanoseconds for which all may wait for locks in C, or pipes, that only this process ends.

        None if anybody waits for something else.
        """
        members = self._scheduler.members
        if any(thread.is_alive() for thread in members.external):
            return None
        if not all(map(self._is_in_a_lock, blocked.values())):
            return None
        return _OVERTAKEN if self._in_vain(blocked) else PATIENCE

    def _is_in_a_lock(self, member: Member) -> bool:
        frame = frame_of(member.thread.ident or 0)
        if frame is None or is_in_a_lock_of_c(frame):
            return frame is not None
        pipe = pipe_awaited_by(number_of_thread(member.thread))
        return pipe is not None and is_pipe_of_this_process(pipe)

    def _in_vain(self, blocked: Collection[int]) -> bool:
        """Whether those who wait for locks in C wait for nobody, or for time."""
        frames = [frame for frame in map(frame_of, blocked) if frame is not None]
        return not self._scheduler.members.has_strangers() or any(map(has_a_timeout, frames))

    def _waits_for_ever(self) -> float:
        """All wait, without a deadline. Only somebody from outside can end that."""
        if is_deadlock(self._scheduler.parked):
            self._scheduler.fail(DEADLOCK)
        elif self._lasts("for ever"):
            self._scheduler.fail(
                "every thread of the test waits, without a deadline, and nobody woke one"
            )
        return TICK

    def _lasts(
        self,
        what: object,
        patience: int = PATIENCE,
        began: int | None = None,
        used: int | None = None,
    ) -> bool:
        """Whether nothing but `what` has been seen for as long as is patience.

        `began`: when this look did; it may have taken long. `used`: nanoseconds of processor time,
        as they were after that; who uses more than a tenth of the time does something.
        """
        seen = (self._scheduler.run_queue.changes, what)
        lasted = (real_ns() if began is None else began) - self._since
        is_busy = used is not None and used - self._used > lasted // 10
        if seen != self._seen or is_busy:
            self._seen, self._since, self._used = seen, real_ns(), used or 0
            return False
        return lasted > patience


class _Serving:
    """The driver of this process, which is not there in a forked child."""

    driver: Driver | None = None


def _before_fork() -> None:
    # Of a process with one thread more Python warns, and what that holds nobody would release.
    if _Serving.driver is not None:
        _Serving.driver.rest()


def _after_fork() -> None:
    if _Serving.driver is not None:
        _Serving.driver.kick()


def _in_child() -> None:
    _Serving.driver = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)

# What sends a signal, perhaps to this process, where the main thread handles it.
_SENDING: dict[types.ModuleType, tuple[str, ...]] = {
    os: ("kill", "killpg"),
    signal: ("raise_signal", "pthread_kill"),
    _thread: ("interrupt_main",),
}
# As they are now.
_signal, _getsignal = signal.signal, signal.getsignal
_send_to = getattr(signal, "pthread_kill", None)

_END = getattr(signal, "SIGURG", None)
"""Ends a wait in C. Nobody else uses it, and who does not expect it is not disturbed: see Go's."""


class _Handler:
    """In the place of `real`, which is what `signal.signal` was given."""

    __slots__ = ("_signals", "real")

    def __init__(self, signals: Signals, real: Any) -> None:
        self._signals = signals
        self.real = real

    def __call__(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        if self._signals.comes(number) and callable(self.real):
            self.real(number, frame)


def _real(handler: Any) -> Any:
    return handler.real if isinstance(handler, _Handler) else handler


class Signals:
    """Those of one scheduler. Where its test does not run in the main thread it handles none."""

    def __init__(self, scheduler: Scheduler, kick: Callable[[], None]) -> None:
        """`kick`: calls `send_again` soon, in another thread."""
        self._scheduler = scheduler
        self._kick = kick
        self._again: deque[int] = deque()
        self._ends = False
        self._handles = False

    def install(self, patches: Patches) -> None:
        for module, names in _SENDING.items():
            for name in names:
                if hasattr(module, name):
                    patches.set(module, name, _send(getattr(module, name)))
        self._handles = threading.current_thread() is threading.main_thread()
        if not self._handles:
            return
        patches.set(signal, "signal", self._setting(signal.signal))
        patches.set(signal, "getsignal", _getting(signal.getsignal))
        for number in signal.valid_signals():
            handler = _getsignal(number)
            if callable(handler) or number == _END:
                _signal(number, _Handler(self, handler))

    def remove(self) -> None:
        """Put the handlers back, but for those that were set anew by others."""
        for number in signal.valid_signals() if self._handles else ():
            handler = _getsignal(number)
            if isinstance(handler, _Handler):
                _signal(number, handler.real)
        self._handles = False

    def comes(self, number: int) -> bool:
        """A signal has come, in this thread; whether it is to be handled now.

        Raises ClockStalledError for the one that ends a wait in C.
        """
        __tracebackhide__ = True
        scheduler = self._scheduler
        if scheduler.is_held_here:
            self._again.append(number)
            self._kick()
            return False
        with scheduler.mutex:
            scheduler.let_go(_thread.get_ident())
            ends = number == _END and self._ends
            self._ends = self._ends and not ends
        if ends:
            scheduler.members.told(_thread.get_ident())
            raise ClockStalledError(str(scheduler.failure))
        return True

    def send_again(self) -> None:
        """What came at a bad moment. Needs the mutex: so the main thread does not have it."""
        while self._again:
            self._send(self._again.popleft())

    def end_wait_in_c(self) -> None:
        """Raise the failure in the test's thread, which is blocked. Needs the mutex."""
        if self._handles and _END is not None:
            self._ends = True
            self._send(_END)

    def _send(self, number: int) -> None:
        handles = threading.main_thread().ident
        if handles is not None and _send_to is not None:
            _send_to(handles, number)
            self._scheduler.let_go(handles)

    def _setting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def set_handler(signalnum: int, handler: Any) -> Any:
            return _real(real(signalnum, _Handler(self, handler) if callable(handler) else handler))

        return set_handler


def _getting(real: Callable[[int], Any]) -> Callable[[int], Any]:
    return functools.wraps(real)(lambda signalnum: _real(real(signalnum)))


def _send(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def send(*args: Any) -> Any:
        scheduler, handles = current(), threading.main_thread().ident
        if scheduler is None or handles is None or handles == _thread.get_ident():
            return real(*args)
        with scheduler.mutex:  # so that it is not handled in the middle of what needs that
            result = real(*args)
            scheduler.let_go(handles)
            return result

    return send
