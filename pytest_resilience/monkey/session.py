"""One period of a chaos monkey, from its start to its end."""

from __future__ import annotations

import math
import threading

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.active_experiments import ActiveExperiments
from pytest_resilience.monkey.active_experiments import Starter
from pytest_resilience.monkey.events import Journal
from pytest_resilience.monkey.schedule import Moment
from pytest_resilience.monkey.schedule import Schedule
from pytest_resilience.seeds import derive


__all__ = ["MonkeySession", "MonkeySettings"]


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
