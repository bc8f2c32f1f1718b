"""One period of a chaos monkey, from its start to its end."""

from __future__ import annotations

import threading

from collections.abc import Callable
from collections.abc import Sequence

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.clock import Clock
from pytest_resilience.events import Event
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.active_experiments import RunningExperiments
from pytest_resilience.monkey.active_experiments import Starter
from pytest_resilience.monkey.schedule import Moment
from pytest_resilience.monkey.schedule import Schedule
from pytest_resilience.seeds import derive


__all__ = ["MonkeyRun"]


class MonkeyRun:
    """Decides what starts when, and says when there is something to do next.

    Attributes:
        interval: seconds between ticks.
        began: monotonic seconds.
        over: whether it has ended.
        failures: how often deciding failed.
        running: the experiments.
        wake: set when the next step may have changed, or it is over.
        alarm: set when it is to be looked at at once, or is over.
    """

    def __init__(
        self,
        *,
        start: Starter,
        schedule: Schedule,
        interval: float,
        seed: int,
        clock: Clock,
        tell: Callable[[Event], None],
        most: int | None,
    ) -> None:
        self.interval = interval
        self.began = clock.monotonic()
        self.over = False
        self.failures = 0
        self.running = RunningExperiments(start, clock=clock, tell=tell)
        self.wake = threading.Event()
        self.alarm = threading.Event()
        self._schedule = schedule
        self._seed = seed
        self._clock = clock
        self._most = most
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._moments = schedule.moments(interval)
        self._next = next(self._moments, float("inf"))
        self._number = 0

    def next_step(self) -> float:
        """Monotonic seconds when something is to be started or ended; maybe infinite."""
        return min(self.began + self._next, self.running.next_end())

    def step(self, experiments: Sequence[ChaosExperiment]) -> None:
        """End what has run long enough, then start what is due."""
        self.running.end_due()
        now = self._clock.monotonic()
        numbers = self._passed(now - self.began)
        if not numbers:
            return
        moment = Moment(
            numbers=numbers, elapsed=now - self.began, time=self._clock.time(), seed=self._seed
        )
        allowed = self._schedule.allowed(moment)
        if allowed <= 0:
            return
        enabled = [each for each in experiments if each.enabled]
        for experiment in self._schedule.choose(enabled, moment):
            self.running.start(
                experiment,
                seed=derive(self._seed, "experiment", experiment.name, numbers[-1]),
                allowed=allowed,
                most=self._most,
            )

    def _passed(self, elapsed: float) -> range:
        """The numbers of the moments that have come since this was last asked."""
        with self._lock:
            first = self._number
            while self._next <= elapsed:
                self._next = next(self._moments, float("inf"))
                self._number += 1
            return range(first, self._number)

    def finish(self) -> bool:
        """Be over; whether it was not before."""
        with self._lock:
            first, self.over = not self.over, True
        self.wake.set()
        self.alarm.set()
        return first
