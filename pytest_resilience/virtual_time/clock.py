"""The clock of one test, as its user sees it: the beginning and the end of a scheduler.

And who keeps a time of its own, with which this one cannot be; and what to do then.
"""

from __future__ import annotations

import datetime
import functools
import gc
import math
import random
import sys
import threading
import weakref

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from typing import Self

from pytest_resilience.clock import running_loop
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import LeakedThreadsError
from pytest_resilience.errors import missing_extra
from pytest_resilience.locks import entries
from pytest_resilience.patching import ImportHook
from pytest_resilience.virtual_time.locks import install_locks
from pytest_resilience.virtual_time.members import Order
from pytest_resilience.virtual_time.members import RunQueue
from pytest_resilience.virtual_time.patches import Patches
from pytest_resilience.virtual_time.real_world import Driver
from pytest_resilience.virtual_time.real_world import Signals
from pytest_resilience.virtual_time.scheduler import Scheduler
from pytest_resilience.virtual_time.scheduler import activate
from pytest_resilience.virtual_time.scheduler import current
from pytest_resilience.virtual_time.scheduler import reader
from pytest_resilience.virtual_time.socket_calls import install_polls
from pytest_resilience.virtual_time.socket_calls import install_socket_calls
from pytest_resilience.virtual_time.socket_calls import install_tls
from pytest_resilience.virtual_time.sockets import Sockets
from pytest_resilience.virtual_time.sockets import install_selectors
from pytest_resilience.virtual_time.stalls import where
from pytest_resilience.virtual_time.tasks import install_tasks
from pytest_resilience.virtual_time.threads import MULTIPROCESSING
from pytest_resilience.virtual_time.threads import install_executors
from pytest_resilience.virtual_time.threads import install_processes
from pytest_resilience.virtual_time.threads import install_threads
from pytest_resilience.virtual_time.threads import outside
from pytest_resilience.virtual_time.time_functions import WallClock
from pytest_resilience.virtual_time.time_functions import Zero
from pytest_resilience.virtual_time.time_functions import install_time_functions
from pytest_resilience.virtual_time.waiting import Waiter
from pytest_resilience.virtual_time.waiting import Wake
from pytest_resilience.virtual_time.waiting import nanoseconds


__all__ = ["VirtualClock", "check_installed", "check_surroundings", "start_of"]

# What threads have to end in after their test, in nanoseconds.
_LAST = 60_000_000_000  # virtual
_LAST_REAL = 10_000_000_000  # for those who compute, or wait for what is real

# What is said to those with whom this time cannot be.
_FREEZES = (
    "freezegun freezes the time, which virtual time moves; use virtual_time(start=…) in its place, "
    "and virtual_clock.advance(…)"
)
_TRAVELS = (
    "time-machine moves the date, as virtual time does; use virtual_time(start=…) in its place, "
    "and virtual_clock.advance(…)"
)
_GREENLETS = "{} has replaced what waits, and its hub waits in C; test this part in real time"
_UVLOOP = (
    "virtual time cannot see what uvloop waits for; let the test use asyncio's own loop, as with "
    "asyncio.run(…), event_loop_policy or anyio_backend 'asyncio'"
)
_TRIO = (
    "trio keeps a time of its own; give it its own virtual clock: "
    "trio.run(…, clock=trio.testing.MockClock(autojump_threshold=0)), or for anyio "
    "anyio_backend ('trio', {'clock': MockClock(autojump_threshold=0)})"
)


class VirtualClock:
    """Virtual time for this thread and all that it starts, while used as a context manager.

    Every wait is over at once: time jumps to the next deadline when nobody in the test has anything
    to do. Other threads keep real time.
    """

    def __init__(
        self,
        start: int | None = None,
        *,
        chance: random.Random | None = None,
        order: Order | None = None,
    ) -> None:
        """`start`: of the date, as `start_of` gives it; None for now.

        `chance`: chooses which thread runs next, one at a time. `order`: says where all others go
        first, one at a time as well. Without either all who can run do.
        """
        self._start = start
        self._driver = Driver()
        self._patches = Patches()
        self._sockets = Sockets()
        self._shadows: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._imports = self._when_imported()
        self._scheduler = Scheduler(
            network=self._sockets, run_queue=RunQueue(chance, order), kick=self._driver.kick
        )
        self._signals = Signals(self._scheduler, self._driver.kick)
        self._wall: WallClock | None = None
        self._zero = Zero(0)

    # What users call.

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return self._scheduler.elapsed.read() / 1e9

    def now(self) -> datetime.datetime:
        """The virtual date, in UTC."""
        seconds, rest = divmod(self._zero.wall + self._scheduler.elapsed.read(), 1_000_000_000)
        begin = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return begin + datetime.timedelta(seconds=seconds, microseconds=rest // 1000)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, as if the test slept."""
        __tracebackhide__ = True
        if not 0 <= seconds < math.inf:
            raise ValueError(f"time cannot pass by {seconds!r} s; give 0 or more")
        if running_loop() is not None:
            raise ConfigurationError(
                f"advance({seconds!r}) would stop the event loop; write "
                f"`await asyncio.sleep({seconds!r})`"
            )
        self._check_member("advance").wait(Waiter("sleep"), nanoseconds(seconds))

    def wait_idle(self) -> None:
        """Return when all other threads of the test wait; time stands still."""
        __tracebackhide__ = True
        self._check_member("wait_idle").wait(Waiter("sleep"), 0, last=True)

    @property
    def jumps(self) -> int:
        """How often time has jumped."""
        return self._scheduler.timeline.jumps

    def timeline(self) -> tuple[Wake, ...]:
        """The latest waits that ended, at most 10 000, oldest first."""
        with self._scheduler.mutex:
            return tuple(self._scheduler.timeline.wakes)

    def real(self) -> AbstractContextManager[None]:
        """In the block this thread waits for real, and time goes on as the machine's."""
        return outside()

    def external(self, thread: threading.Thread) -> None:
        """`thread`, which is none of the test's, may be what the test waits for.

        While it lives, and somebody waits for more than time, time goes on as the machine's.
        """
        if not isinstance(thread, threading.Thread):
            raise ConfigurationError(f"external({thread!r}): give a threading.Thread")
        with self._scheduler.mutex:
            self._scheduler.members.external.append(thread)

    def absent(self) -> AbstractContextManager[None]:
        """In the block this thread waits for real, while time stands; it starts no members.

        For what is none of the test's, but happens in its thread.
        """
        return self._scheduler.members.absence(threading.get_ident())

    def _check_member(self, called: str) -> Scheduler:
        if current() is not self._scheduler:
            raise ConfigurationError(
                f"{called} was called where time is real: in a thread that is none of the test's, "
                "or inside of real(); call it from the test, outside of that"
            )
        return self._scheduler

    # The beginning and the end.

    def __enter__(self) -> Self:
        if reader() is not None:
            raise ConfigurationError("there is a virtual clock already; a test has one")
        check_surroundings()
        self._wall = WallClock()
        self._zero = Zero(self._start)
        try:
            self._wall.install(self._zero)
            install_time_functions(self._patches, self._zero)
            install_locks(self._patches)
            install_threads(self._patches)
            self._signals.install(self._patches)
            install_selectors(self._patches)
            install_polls(self._patches)
            install_socket_calls(self._patches, self._sockets)
            install_processes(self._patches)
            self._imports.install()
            self._patches.rebind()
            self._scheduler.enter(threading.current_thread())
            self._driver.serve(self._scheduler, self._signals)
            activate(self._scheduler)
        except BaseException:
            self._remove()
            raise
        return self

    def _when_imported(self) -> ImportHook:
        """What is replaced in modules that the test may be the first to import."""
        executors = functools.partial(install_executors, self._shadows)
        every: dict[str, Callable[[Patches], None]] = {
            "asyncio": install_tasks,
            "ssl": install_tls,
            "concurrent.futures.thread": executors,
            **MULTIPROCESSING,
            **_REFUSALS,
        }
        return ImportHook({n: functools.partial(each, self._patches) for n, each in every.items()})

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the threads of the test end, and put everything back.

        Raises LeakedThreadsError for those that do not end, and ClockStalledError where an error of
        the clock has not reached the test.
        """
        left: list[str] = []
        try:
            if kind is None or not issubclass(kind, KeyboardInterrupt):
                left = self._end_threads()
        finally:
            self._remove()
        failure = self._scheduler.failure
        if kind is None and failure is not None and self._scheduler.members.untold:
            raise ClockStalledError(str(failure)) from failure.__cause__
        if kind is None and left:
            raise LeakedThreadsError(tuple(left))

    def _end_threads(self) -> list[str]:
        """Wait for all other threads of the test; those that stay, each with where it is."""
        for _, shadow in entries(self._shadows):
            shadow.shutdown(wait=False)
        others = self._others()
        if others:
            del others
            gc.collect()  # an executor that nobody has any more lets its threads go
            self._driver.end_by(_LAST_REAL)
        for thread in self._others().values():
            try:
                thread.join(_LAST / 1e9)
            except ClockStalledError:
                break  # nothing can happen any more
        return [f"{thread.name}, {where(thread)}" for thread in self._others().values()]

    def _others(self) -> dict[int, threading.Thread]:
        with self._scheduler.mutex:
            members = self._scheduler.members.inside.items()
            return {ident: each.thread for ident, each in members if not each.is_test}

    def _remove(self) -> None:
        undo: list[Callable[[], None]] = [lambda: activate(None), self._scheduler.end]
        undo += [self._driver.stop, self._signals.remove, self._imports.remove]
        undo += [self._patches.remove]
        if self._wall is not None:
            undo.append(self._wall.remove)
        for step in undo:
            step()


def start_of(start: object) -> int:
    """Nanoseconds since 1970 of a date: an ISO text, a datetime, or a timestamp.

    One without a time zone is in UTC. Raises ConfigurationError.
    """
    try:
        if isinstance(start, str):
            start = datetime.datetime.fromisoformat(start)
        if isinstance(start, datetime.datetime):
            zone = start if start.tzinfo is not None else start.replace(tzinfo=datetime.UTC)
            begin = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
            return (zone - begin) // datetime.timedelta(microseconds=1) * 1000
        if isinstance(start, (int, float)) and not isinstance(start, bool):
            return round(start * 1e9)
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(
        f"start={start!r} is no date; write start='2030-01-01T00:00Z', a datetime or a timestamp"
    )


def check_installed() -> Any:
    """The module time_machine, which moves dates. Raises ConfigurationError where it is missing."""
    try:
        import time_machine
    except ImportError:
        raise missing_extra("virtual time", "time-machine", "clock") from None
    return time_machine


def check_surroundings() -> None:
    """Raise ConfigurationError if virtual time cannot begin here."""
    freezegun: Any = sys.modules.get("freezegun.api")
    if freezegun is not None and freezegun.freeze_factories:
        raise ConfigurationError(_FREEZES)
    if check_installed().escape_hatch.is_travelling():
        raise ConfigurationError(_TRAVELS)
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.saved:
        raise ConfigurationError(_GREENLETS.format("gevent"))
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.already_patched:
        raise ConfigurationError(_GREENLETS.format("eventlet"))
    _check_loop(running_loop())


def _check_loop(loop: Any) -> None:
    if loop is not None and type(loop).__module__.partition(".")[0] == "uvloop":
        raise ConfigurationError(_UVLOOP)


def _in_asyncio(patches: Patches) -> None:
    runner: Any = sys.modules["asyncio.runners"].Runner
    patches.set(runner, "get_loop", _get_loop(runner.get_loop))
    patches.set(runner, "run", _run(runner.run))


def _in_uvloop(patches: Patches) -> None:
    uvloop: Any = sys.modules["uvloop"]
    patches.set(uvloop, "new_event_loop", _refuse(uvloop.new_event_loop, _UVLOOP))
    for name in ("run_forever", "run_until_complete"):
        patches.set(uvloop.Loop, name, _refuse(getattr(uvloop.Loop, name), _UVLOOP))


def _in_trio(patches: Patches) -> None:
    trio: Any = sys.modules["trio._core._run"]
    patches.set(trio, "setup_runner", _refuse_without_clock(trio.setup_runner))


def _in_gevent(patches: Patches) -> None:
    hub: Any = sys.modules["gevent.hub"].Hub
    patches.set(hub, "run", _refuse(hub.run, _GREENLETS.format("gevent")))


def _in_freezegun(patches: Patches) -> None:
    freezer: Any = sys.modules["freezegun.api"]._freeze_time  # noqa: SLF001  # what freezes
    patches.set(freezer, "start", _refuse(freezer.start, _FREEZES))


def _in_time_machine(patches: Patches) -> None:
    travel: Any = sys.modules["time_machine"].travel
    patches.set(travel, "start", _refuse(travel.start, _TRAVELS))


_REFUSALS = {
    "asyncio.runners": _in_asyncio,
    "uvloop": _in_uvloop,
    "trio._core._run": _in_trio,
    "gevent.hub": _in_gevent,
    "freezegun.api": _in_freezegun,
    "time_machine": _in_time_machine,
}
"""What refuses members who begin to wait by another time, by the module that they import for it."""


def _get_loop(real: Any) -> Any:
    def get_loop(self: Any) -> Any:
        loop = real(self)
        if reader() is not None:
            _check_loop(loop)
        return loop

    return get_loop


def _run(real: Any) -> Any:
    def run(self: Any, coro: Any, *, context: Any = None) -> Any:
        if reader() is not None:
            try:
                _check_loop(self.get_loop())
            except ConfigurationError:
                coro.close()
                raise
        return real(self, coro, context=context)

    return run


def _refuse(real: Any, why: str) -> Any:
    def refuse(*args: Any, **options: Any) -> Any:
        if reader() is not None:
            raise ConfigurationError(why)
        return real(*args, **options)

    return refuse


def _refuse_without_clock(real: Any) -> Any:
    def setup_runner(clock: Any, *args: Any, **options: Any) -> Any:
        if clock is None and reader() is not None:
            raise ConfigurationError(_TRIO)
        return real(clock, *args, **options)

    return setup_runner
