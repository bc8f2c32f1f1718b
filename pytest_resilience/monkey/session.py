"""One period of a chaos monkey, from its start to its end, and its active experiments.

Each of those is started and stopped on its own.
"""

from __future__ import annotations

import logging
import math
import threading

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from typing import Protocol

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.events import ExperimentEnded
from pytest_resilience.monkey.events import ExperimentFailed
from pytest_resilience.monkey.events import ExperimentHeldBack
from pytest_resilience.monkey.events import ExperimentStarted
from pytest_resilience.monkey.events import Journal
from pytest_resilience.monkey.schedule import Moment
from pytest_resilience.monkey.schedule import Schedule
from pytest_resilience.seeds import derive


__all__ = ["ActiveExperiments", "MonkeySession", "MonkeySettings", "Starter", "TimedExperiment"]

_PATIENCE = 5.0  # seconds of real time for a start or a stop that is under way elsewhere
_logger = logging.getLogger("pytest_resilience.monkey")


class Starter(Protocol):
    """Starts experiments, as `Runtime.start` does."""

    def __call__(self, experiment: ChaosExperiment, *, seed: int) -> ActiveExperiment:
        """Start it; `seed` decides all chance in it."""


@dataclass(slots=True, kw_only=True, eq=False)
class TimedExperiment:
    """An experiment with the time that the monkey gives it, which its window may cut short.

    Attributes:
        experiment: which.
        started_at, ends_at: monotonic seconds.
        start_time: seconds since 1970-01-01 UTC.
        reason: why it ends at `ends_at`.
        active: what was started; None until it is.
    """

    experiment: ChaosExperiment
    started_at: float
    ends_at: float
    start_time: float
    reason: str
    active: ActiveExperiment | None = None


class ActiveExperiments:
    """Starts and stops experiments, from any threads. No lock is held while either happens.

    Attributes:
        failures: how many starts and stops have failed.
    """

    def __init__(self, start: Starter, journal: Journal) -> None:
        self.failures = 0
        self._start = start
        self._journal = journal
        self._closed = False
        # A name is taken before its experiment starts, so that no other thread starts it as well.
        self._by_name: dict[str, TimedExperiment] = {}
        # Being started or stopped just now, and in which thread: only that one goes on with it.
        self._busy: dict[TimedExperiment, int] = {}
        self._changed = fork_safe(self, "_changed", lambda: threading.Condition(threading.Lock()))

    def start(
        self,
        experiment: ChaosExperiment,
        *,
        seed: int,
        allowed: float = math.inf,
        most: int | None = None,
    ) -> None:
        """Start it for its duration, at most `allowed` seconds. Its failure is an event.

        Does nothing if it is active, and holds it back if as many as `most` are.
        """
        clock = self._journal.clock
        now = clock.monotonic()
        timed = TimedExperiment(
            experiment=experiment,
            started_at=now,
            ends_at=now + min(experiment.duration, allowed),
            start_time=clock.time(),
            reason="its time was over" if experiment.duration <= allowed else "its window closed",
        )
        if not self._reserve(timed, most):
            return
        try:
            timed.active = self._start(experiment, seed=seed)
        except Exception as error:
            self._release(timed)
            self._failed(timed, "start", error)
        except BaseException:  # an interrupt
            self._release(timed)
            raise
        else:
            self._started(timed, seed)

    def _reserve(self, timed: TimedExperiment, most: int | None) -> bool:
        """Take its name, and a place among `most`; False if there is none."""
        name = timed.experiment.name
        with self._changed:
            if self._closed or name in self._by_name:
                return False
            full = most is not None and len(self._by_name) >= most
            if not full:
                self._by_name[name] = timed
                self._busy[timed] = threading.get_ident()
        if full and most is not None:
            self._journal.record(ExperimentHeldBack(at=timed.started_at, source=name, most=most))
        return not full

    def _release(self, timed: TimedExperiment) -> None:
        with self._changed:
            if self._by_name.get(timed.experiment.name) is timed:
                del self._by_name[timed.experiment.name]
            self._done(timed)

    def _done(self, timed: TimedExperiment) -> None:
        self._busy.pop(timed, None)
        self._changed.notify_all()

    def _started(self, timed: TimedExperiment, seed: int) -> None:
        """Keep what was started, or stop it if all was closed in the meantime."""
        name = timed.experiment.name
        with self._changed:
            kept = self._by_name.get(name) is timed
            if kept:
                self._done(timed)
        self._journal.record(
            ExperimentStarted(
                at=timed.started_at,
                source=name,
                what=str(timed.experiment),
                seed=seed,
                ends_at=timed.ends_at,
            )
        )
        if not kept:
            self._stop(timed, "stopped while it started")

    def _stop(self, timed: TimedExperiment, reason: str) -> None:
        """Stop one that was taken out of `_by_name`, so that no other thread does."""
        try:
            if timed.active is not None:
                timed.active.stop()
        except Exception as error:
            self._failed(timed, "stop", error)
        else:
            now, name = self._journal.clock.monotonic(), timed.experiment.name
            lasted = now - timed.started_at
            self._journal.record(ExperimentEnded(at=now, source=name, lasted=lasted, reason=reason))
        finally:
            with self._changed:
                self._done(timed)

    def _failed(
        self, timed: TimedExperiment, doing: Literal["start", "stop"], error: Exception
    ) -> None:
        self.failures += 1
        name, now = timed.experiment.name, self._journal.clock.monotonic()
        _logger.error("%s: cannot %s it: %s", name, doing, describe(error), exc_info=error)
        self._journal.record(
            ExperimentFailed(at=now, source=name, doing=doing, error=describe(error))
        )

    def stop_due(self) -> None:
        """Stop those whose time is over."""
        now = self._journal.clock.monotonic()
        for timed in self._take(lambda each: each.ends_at <= now):
            self._stop(timed, timed.reason)

    def close(self, reason: str) -> None:
        """Stop all and start none any more; returns when all are stopped.

        What another thread is starting or stopping at this moment is waited for, 5 s at most.
        An interrupt does not keep the others from being stopped.
        """
        with self._changed:
            self._closed = True
        interrupt: BaseException | None = None
        for timed in self._take(lambda _: True):
            try:
                self._stop(timed, reason)
            except BaseException as error:  # a second Ctrl-C, and the others must end all the same
                interrupt = error
        self._wait()
        if interrupt is not None:
            raise interrupt

    def _take(self, chosen: Callable[[TimedExperiment], bool]) -> list[TimedExperiment]:
        """Take those out that are chosen and no other thread is about to start, oldest first."""
        me = threading.get_ident()
        taken = []
        with self._changed:
            for name, timed in list(self._by_name.items()):
                if not chosen(timed):
                    continue
                # An interrupt may have cut this thread's own start off after it was done.
                mine = self._busy.get(timed) == me and timed.active is not None
                if timed not in self._busy or mine:
                    del self._by_name[name]
                    self._busy[timed] = me
                    taken.append(timed)
                elif self._closed:  # whoever starts it will see that it is gone
                    del self._by_name[name]
        return taken

    def _wait(self) -> None:
        me = threading.get_ident()
        with self._changed:
            settled = self._changed.wait_for(
                lambda: all(thread == me for thread in self._busy.values()), _PATIENCE
            )
            late = [timed.experiment.name for timed in self._busy]
        if not settled:
            _logger.error("%s: under way for %g s, undone as soon as it can be", late, _PATIENCE)

    def next_end(self) -> float:
        """Monotonic seconds when the next one ends; infinite if none is active."""
        return min((each.ends_at for each in self.all()), default=math.inf)

    def all(self) -> tuple[TimedExperiment, ...]:
        """The active ones, oldest first; without those that are just being started."""
        with self._changed:
            return tuple(each for each in self._by_name.values() if each not in self._busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonkeySettings:
    """The constructor's parameters, checked.

    Attributes:
        start: starts an experiment.
        approve: raises ConfigurationError for an experiment that `start` would refuse.
        schedule: when experiments start.
        interval: seconds between ticks.
        max_active: how many experiments may be active at once; None for any number.
        check_every: seconds between looks of the watchdog.
        background: whether it has threads of its own.
    """

    start: Starter
    approve: Callable[[ChaosExperiment], object]
    schedule: Schedule
    interval: float
    max_active: int | None
    check_every: float
    background: bool


class MonkeySession:
    """Starts what is due and stops what has run long enough; knows when that is to be done next.

    Attributes:
        interval: seconds between ticks.
        began: monotonic seconds.
        active: the experiments.
        wake: set when the next step may have changed, or it is over.
        alarm: set when the watchdog is to look at once, or it is over.
    """

    def __init__(
        self, settings: MonkeySettings, journal: Journal, *, interval: float, seed: int
    ) -> None:
        self.interval = interval
        self.began = journal.clock.monotonic()
        self.active = ActiveExperiments(settings.start, journal)
        self.wake = threading.Event()
        self.alarm = threading.Event()
        self._settings = settings
        self._clock = journal.clock
        self._seed = seed
        self._moments = _Moments(settings.schedule, interval)
        # Emptied by who ends it: `pop` is atomic, so of two threads one is the first.
        self._open = [True]

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return not self._open

    def next_step(self) -> float:
        """Monotonic seconds when an experiment is to be started or stopped; maybe infinite."""
        return min(self.began + self._moments.next, self.active.next_end())

    def step(self, experiments: Sequence[ChaosExperiment]) -> None:
        """Stop what has run long enough, then start what is due."""
        self.active.stop_due()  # first, for there may be no room for more
        elapsed = self._clock.monotonic() - self.began
        numbers = self._moments.take(elapsed)
        if not numbers:
            return
        moment = Moment(numbers=numbers, elapsed=elapsed, time=self._clock.time(), seed=self._seed)
        schedule = self._settings.schedule
        allowed = schedule.allowed(moment)
        if allowed <= 0:
            return
        for experiment in schedule.choose([each for each in experiments if each.enabled], moment):
            self.active.start(
                experiment,
                # By name and number, so that neither other experiments nor late ticks change it.
                seed=derive(self._seed, "experiment", experiment.name, numbers[-1]),
                allowed=allowed,
                most=self._settings.max_active,
            )

    def finish(self) -> bool:
        """Be over; False if it was before."""
        try:
            self._open.pop()
        except IndexError:
            return False
        self.wake.set()
        self.alarm.set()
        return True


class _Moments:
    """The moments of a schedule that are still to come.

    Attributes:
        next: seconds since the start until the next one; infinite if there is none.
    """

    def __init__(self, schedule: Schedule, interval: float) -> None:
        self._all = schedule.moments(interval)
        self.next = next(self._all, math.inf)
        self._number = 0
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def take(self, elapsed: float) -> range:
        """The numbers of those that have come since the last call."""
        with self._lock:  # `tick` and the monkey's own thread may ask at once
            first = self._number
            while self.next <= elapsed:
                self.next = next(self._all, math.inf)
                self._number += 1
            return range(first, self._number)
