"""Delaying a caller for a time, or until its experiments have ended.

One who blocks waits here. A loop of asyncio goes on meanwhile, and is told by a `Wait` when it is
over; nothing here imports asyncio before there is a loop.

What waits in between is written once for both, as a generator of steps. It decides and does no
I/O: it yields what is to be done, is sent what came of it or has thrown at it what that raised,
and returns the result. `run_steps` and `run_steps_async` have the steps done.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import select
import threading
import weakref

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Generator
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

from pytest_resilience.chaos.active_experiment import ends_watched
from pytest_resilience.chaos.active_experiment import unwatch_ends
from pytest_resilience.chaos.active_experiment import watch_ends
from pytest_resilience.chaos.descriptors import below
from pytest_resilience.chaos.effect import Effect
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.clock import ExactSleep
from pytest_resilience.clock import IdlingClock
from pytest_resilience.clock import MachineClock
from pytest_resilience.clock import in_trio
from pytest_resilience.clock import is_frozen


if TYPE_CHECKING:
    import asyncio


__all__ = [
    "SLICE", "Wait", "head_start", "hold", "pause", "run_steps", "run_steps_async",
    "wait", "wait_async", "wait_for_change",
]  # fmt: skip

_Step = TypeVar("_Step")
_R = TypeVar("_R")

SLICE = 0.05  # seconds: how soon a wait notices that its experiment is over
_APART = 1.0  # seconds between the time of a loop and the machine's, where one of them is another's
_LATE = 0.0005  # seconds by which the operating system may wake a thread up late
_SPIN = 0.0001  # seconds: even the shortest sleep takes that long, so the rest is spun
_NAP = 1e-6  # seconds: the others go on meanwhile
_LOOK = 2e-8  # seconds that it takes at least to look at the time
_HEAD_START = 0.0004  # seconds: cold caches take some, after a long wait


def head_start() -> float:
    """Seconds that who polls needs to come, once told: for what is left of that it is held up.

    In virtual time it takes none.
    """
    return _HEAD_START if not MACHINE_CLOCK.is_exact else 0.0


def wait_for_change(changed: threading.Condition, rest: float) -> None:
    """Wait until it is notified, `rest` seconds have passed, or an experiment may have ended.

    It is notified when one has ended in this process; in children it is time to look. In virtual
    time there are none. The lock is held, and given back; at the end nobody needs to notify.
    """
    if MACHINE_CLOCK.is_exact:
        changed.wait(None if rest == math.inf else rest)
    elif rest > _LATE:
        changed.wait(min(rest - _LATE, SLICE))
    else:
        changed.release()
        try:
            wait(MACHINE_CLOCK, rest, lambda: math.inf)
        finally:
            changed.acquire()


def wait(
    clock: Clock,
    seconds: float,
    left: Callable[[], float],
    ended: threading.Event | None = None,
) -> float:
    """Sleep until `seconds` have passed or none are `left()`; returns the seconds it took.

    Either may be infinite. Another thread can end it early: it sets `ended`, and tells of that by
    `tell_of_ends`. On a clock that stands still, as a frozen one does, it ends after as many
    slices as fit. In virtual time it is one sleep.
    """
    __tracebackhide__ = True
    started = clock.monotonic()
    rest = min(seconds, left())
    is_machine = isinstance(clock, MachineClock)
    exact = clock.exact_sleep if isinstance(clock, MachineClock) else None
    if exact is not None and (one := exact()) is not None:
        _sleep_in_one(one, lambda: min(started + seconds - clock.monotonic(), left()), ended)
        return clock.monotonic() - started
    # Where nobody ends it no lock is taken: what looks for calls that block a loop would raise.
    sleep = clock.sleep if ended is None or not is_machine else ended.wait
    while rest > 0 and left() > 0 and not (ended is not None and ended.is_set()):
        step = min(rest, SLICE)
        if is_machine and step == rest:  # nearly all of that, then yield to others, then spin
            step = max(rest - _LATE, _NAP) if rest > _SPIN else 0.0
        if step:
            sleep(step)
        rest = min(rest - (step or _LOOK), started + seconds - clock.monotonic())
    return clock.monotonic() - started


def hold(
    effect: Effect,
    delay: float,
    limit: float | None = None,
    error: Callable[[], OSError] = TimeoutError,
    ended: threading.Event | None = None,
    *,
    left: Callable[[], float] | None = None,
) -> float:
    """Wait `delay` seconds and book them; past `limit` raise an `error`, as a socket would.

    Returns the seconds it took. `left`: as of `wait`, if it is not what is left of `effect`.
    """
    __tracebackhide__ = True
    left = left or effect.left
    # Asked before: the end of experiments that have just begun may still be put off a little.
    too_long = limit is not None and min(delay, left()) > limit
    longest = limit if too_long and limit is not None else delay
    taken = wait(effect.clock, longest, left, ended)
    effect.add_delay(taken)
    if too_long and left() > 0 and not (ended is not None and ended.is_set()):
        raise error()
    return taken


def _sleep_in_one(
    exact: ExactSleep, rest: Callable[[], float], ended: threading.Event | None
) -> None:
    with ends_watched(exact.wake):
        while (seconds := rest()) > 0 and not (ended is not None and ended.is_set()):
            exact.sleep(seconds)


async def wait_async(clock: Clock, seconds: float, left: Callable[[], float]) -> float:
    """As `wait`, without blocking the loop of asyncio."""
    started = clock.monotonic()
    rest = min(seconds, left())
    if isinstance(clock, MachineClock) and clock.is_exact:
        await _sleep_in_one_task(lambda: min(started + seconds - clock.monotonic(), left()))
        return clock.monotonic() - started
    while rest > 0 and left() > 0:
        step = min(rest, SLICE)
        await clock.asleep(step)
        rest = min(rest - step, started + seconds - clock.monotonic())
    return clock.monotonic() - started


async def _sleep_in_one_task(rest: Callable[[], float]) -> None:
    import asyncio  # whose task this is

    loop, looks = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        loop.call_soon_threadsafe(looks.set)

    with ends_watched(look):
        while (seconds := rest()) > 0:
            looks.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(looks.wait(), None if seconds == math.inf else seconds)


_LATE_IN_A_LOOP = 0.002  # seconds: selectors count in milliseconds, round up, and wake up late
_AWAKE = 0.0003  # seconds that it takes to wake up otherwise, with cold caches
_EPSILON = 1e-9  # seconds: less than that is lost when times are added up


class Wait:
    """Calls `then` once, when `seconds` have passed or no experiment of `effect` is left.

    Time passes with the clock or with the loop, whichever is faster: a clock that stands
    still delays nobody for ever, and in a loop whose time is virtual no real time is taken.
    A loop whose time a test has frozen is woken by the machine's.
    The delay is added to that of the experiments as it passes.

    Attributes:
        due: when it is over, in the loop's time, unless the clock is faster.
        cancelled: it is over, or was cancelled.
    """

    __slots__ = ("_booked", "_effect", "_ends", "_then", "cancelled", "due")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        effect: Effect,
        seconds: float,
        then: Callable[[], None],
        *,
        since: float = math.inf,
        early: float = 0.0,
    ) -> None:
        """`since`: when the delay began, in monotonic seconds, if that was before now.

        `then` is called so many seconds too `early`, and waits for the rest by itself.
        """
        self.cancelled = False
        self._effect = effect
        self._then = then
        now = effect.clock.monotonic()
        self._booked = min(since, now)
        seconds = min(seconds, effect.left())
        self._ends = now + seconds
        self.due = _time_of(loop) + max(0.0, seconds - early)
        # While it waits, its timer keeps a schedule: a loop that is closed lets go of both, and of
        # what the waits know, such as its transports.
        schedule = _schedules[loop]() if loop in _schedules else None
        if schedule is None:
            schedule = _Schedule(loop)
            _schedules[loop] = weakref.ref(schedule)
        schedule.add(self)

    def cancel(self) -> None:
        """Never call, if it has not."""
        if not self.cancelled:
            self.cancelled = True
            self._book()

    def end(self, *, in_full: bool = False) -> None:
        """Call now. `in_full`: all of it has passed by the loop's time, maybe not by the clock."""
        self.cancelled = True
        self._book(self._ends if in_full else -math.inf)
        self._then()

    @property
    def clock(self) -> Clock:
        """By which it passes."""
        return self._effect.clock

    def is_over(self) -> bool:
        """By the clock, or because the experiments have ended."""
        self._book()
        return self._ends <= self._booked or self._effect.left() <= 0

    def _book(self, at_least: float = -math.inf) -> None:
        now = max(self._effect.clock.monotonic(), self._booked, at_least)
        self._effect.add_delay(now - self._booked)
        self._booked = now


class _Schedule:
    """All waits of one loop, with one timer, so that many cost little more than one.

    No timer of a loop is exact to a millisecond. So the timer is set a little too early, and
    from then on the loop looks at the time in each of its iterations, between which it may idle.
    In virtual time timers are exact, and the loop is woken when experiments end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waits: list[tuple[float, int, Wait]] = []  # a heap
        self._numbers = itertools.count()
        self._handle: asyncio.Handle | threading.Timer | None = None
        self._ending = False
        self._polled_at = _time_of(loop)
        self._ran_at = -math.inf

    def add(self, wait: Wait) -> None:
        heapq.heappush(self._waits, (wait.due, next(self._numbers), wait))
        if self._ending or (self._handle is not None and self._waits[0][2] is not wait):
            return
        if self._handle is not None:
            self._handle.cancel()
        loop = self._loop()
        assert loop is not None  # it is the one that runs
        self._handle = loop.call_soon(self._run)

    @property
    def resilience_due(self) -> float:
        """When the first of its waits passes, by the loop's time; infinite if none ever does.

        Its timer runs more often, as experiments may end.
        """
        return min((wait.due for _, _, wait in self._waits if not wait.cancelled), default=math.inf)

    def _run(self) -> None:
        loop = self._loop()
        assert loop is not None
        now, self._ending = _time_of(loop), True
        try:
            if now - self._polled_at > SLICE - _EPSILON:
                self._polled_at = now
                self._poll(loop)
            while self._waits and (
                self._waits[0][2].cancelled or self._waits[0][0] - now < _EPSILON
            ):
                wait = heapq.heappop(self._waits)[2]
                if not wait.cancelled:
                    wait.end(in_full=True)
        finally:  # whatever one of them has raised
            self._ending = False
            self._handle = self._next(loop, now)
            self._ran_at = now

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        for _, _, wait in sorted(self._waits):
            if not wait.cancelled and wait.is_over():
                wait.end()
        clocks = [wait.clock for _, _, wait in self._waits if not wait.cancelled]
        if clocks and isinstance(clocks[0], IdlingClock):
            clocks[0].idle_in(loop, self.resilience_due)

    def _next(
        self, loop: asyncio.AbstractEventLoop, now: float
    ) -> asyncio.Handle | threading.Timer | None:
        """The handle of the next run; None if nothing waits, or only for an end of experiments."""
        if not self._waits:
            return None
        rest = self._waits[0][0] - now
        is_exact = MACHINE_CLOCK.is_exact
        if is_exact and all(isinstance(wait.clock, MachineClock) for _, _, wait in self._waits):
            watch_ends(self, self._look_soon)
            return None if rest == math.inf else loop.call_later(rest, self._run)
        if rest > _LATE_IN_A_LOOP + _EPSILON:
            next_poll = max(0.0, self._polled_at + SLICE - now)
            seconds = min(rest - _LATE_IN_A_LOOP, next_poll)
            if abs(now - loop.time()) >= SLICE:  # which is frozen
                return _call_by_the_machine(loop, seconds, self._run)
            return loop.call_later(seconds, self._run)
        if now > self._ran_at:
            _idle(loop, rest - _AWAKE)
            return loop.call_soon(self._run)
        # Virtual time stands still until the loop has nothing else to do.
        return loop.call_later(rest, self._run)

    def _look_soon(self) -> None:
        loop = self._loop()
        if loop is not None and self._waits:
            with contextlib.suppress(RuntimeError):  # it was closed
                loop.call_soon_threadsafe(self._look)
                return
        unwatch_ends(self)

    def _look(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._polled_at = -math.inf
        self._run()


def _time_of(loop: asyncio.AbstractEventLoop) -> float:
    """The time of a loop; the machine's, if that of the loop is what a test has frozen."""
    now, machine = loop.time(), MACHINE_CLOCK.monotonic()
    return machine if abs(now - machine) > _APART and is_frozen() else now


def _idle(loop: Any, seconds: float) -> None:
    """Wait until something happens in the loop or so many seconds have passed, to the microsecond.

    As a loop of Python does in its selector, which cannot be told so exactly; who looks at the
    time without a pause gets behind all others that want to use the machine.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError, ValueError):  # of another kind
        if not loop._ready:  # noqa: SLF001  # what the loop has to do
            timers = loop._scheduled  # noqa: SLF001
            if timers:
                seconds = min(seconds, timers[0].when() - loop.time())
            if seconds > 0:
                below(select.select)([loop._selector], [], [], seconds)  # noqa: SLF001


def _call_by_the_machine(
    loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]
) -> threading.Timer:
    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(call)

    timer = threading.Timer(seconds, wake)
    timer.daemon = True
    with limits_lifted():
        timer.start()
    return timer


_schedules: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Schedule]] = (
    weakref.WeakKeyDictionary()
)


async def pause(effect: Effect, seconds: float | None = None) -> None:
    """Suspend the task for so long, or for the delay of `effect`. Can be cancelled."""
    seconds = effect.delay if seconds is None else seconds
    if in_trio():
        from pytest_resilience.interceptors.trio import pause_in_trio  # not paid by all others

        await pause_in_trio(effect, seconds)
        return
    import asyncio  # whose task this is

    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not over.done():  # cancelled just now
            over.set_result(None)

    wait = Wait(loop, effect, seconds, end)
    try:
        await over
    finally:
        wait.cancel()


def run_steps(steps: Generator[_Step, Any, _R], perform: Callable[[_Step], object]) -> _R:
    """Have each step performed; returns or raises what the generator does."""
    __tracebackhide__ = True
    result, error = None, None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as done:
            returned: _R = done.value
            return returned
        finally:
            error = None  # its traceback leads to this frame: a cycle otherwise
        try:
            result = perform(step)
        except BaseException as raised:  # for the generator, which may expect it
            error = raised


async def run_steps_async(
    steps: Generator[_Step, Any, _R], perform: Callable[[_Step], Awaitable[object]]
) -> _R:
    """As `run_steps`, for steps that are awaited."""
    __tracebackhide__ = True
    result, error = None, None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as done:
            returned: _R = done.value
            return returned
        finally:
            error = None  # as above
        try:
            result = await perform(step)
        except BaseException as raised:  # as above
            error = raised
