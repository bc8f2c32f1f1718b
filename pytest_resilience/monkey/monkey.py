"""A chaos monkey: starts and ends experiments over time, and undoes all of them when stopped."""

from __future__ import annotations

import logging
import threading

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from typing import Self

from pytest_resilience.chaos.context_managers import in_thread
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.quantities import count
from pytest_resilience.chaos.parsing.quantities import period
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import SYSTEM_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import SteadyStateError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.active_experiments import Starter
from pytest_resilience.monkey.events import ExperimentFailed
from pytest_resilience.monkey.events import MonkeyStarted
from pytest_resilience.monkey.events import MonkeyStopped
from pytest_resilience.monkey.schedule import ByChance
from pytest_resilience.monkey.schedule import Schedule
from pytest_resilience.monkey.session import MonkeyRun
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.stop_conditions import StopCondition
from pytest_resilience.monkey.watchdog import Guard
from pytest_resilience.seeds import derive
from pytest_resilience.seeds import new_seed


__all__ = ["Monkey"]

_MOST_EVENTS = 10_000  # that are remembered; the oldest go first
_LONGEST_WAIT = 3600.0  # seconds; far below what an operating system can wait
_logger = logging.getLogger("pytest_resilience.monkey")


class Monkey:
    """Runs registered experiments over time, by chance or by a schedule.

    Each tick draws for each experiment whether it starts; it ends by itself after its
    duration. Experiments of one kind add up, and each ends alone; one that runs is not
    started again. While the monkey runs, stop conditions and the probes of the steady state
    are looked at; either can end it. Whatever ends it, everything is undone.

    Its threads are its own and end with it. With `background=False` there are none, and
    nothing happens but in `tick`.

    Attributes:
        seed: decides everything; the same seed makes the same starts.
        interval: seconds between ticks, unless `start_chaos_monkey` is told another.
        experiments: the registered ones, by name.
        listeners: told of every event.
        verdict: what the last period of chaos has shown; None before its end.

    Raises ConfigurationError for settings that mean nothing.
    """

    def __init__(
        self,
        start: Starter | None = None,
        *,
        approve: Callable[[ChaosExperiment], object] | None = None,
        seed: int | None = None,
        schedule: Schedule | None = None,
        max_active: int | None = None,
        stop_when: Iterable[StopCondition | Callable[[], Any]] = (),
        steady_state: Iterable[Probe] = (),
        interval: float | str = 30.0,
        check_every: float | str = 1.0,
        background: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        name: str = "chaos monkey",
    ) -> None:
        """`start` makes an experiment happen, and `approve` raises ConfigurationError for one that
        it would refuse; `check_every`: seconds between looks at guards.
        """
        self.seed = new_seed() if seed is None else seed
        self.interval = period("interval", interval)
        self.name = name
        self.experiments: dict[str, ChaosExperiment] = {}
        self.listeners = Listeners()
        self.verdict: Verdict | None = None
        if start is None:
            start, approve = self.default_start(), approve or self.default_approve()
        self._start = start
        self._approve = approve
        self._schedule = schedule or ByChance()
        self._max_active = None if max_active is None else count("max_active", max_active)
        self._check_every = period("check_every", check_every)
        self._background = background
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._run: MonkeyRun | None = None
        self._runs = 0
        self._lock = fork_safe(self, "_lock", threading.Lock)
        self._closed = ""  # why, when it is
        self._guard = Guard(stop_when, steady_state, source=name, clock=clock, tell=self._tell)

    def default_start(self) -> Starter:
        """What makes experiments happen when the constructor was not told. Raises here."""
        raise ConfigurationError(
            "nothing is given that makes experiments happen: Monkey(start); "
            "pytest_resilience.ChaosMonkey() has its own"
        )

    def default_approve(self) -> Callable[[ChaosExperiment], object] | None:
        """What raises ConfigurationError for an experiment that `default_start` would refuse."""
        return None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._run is not None and not self._run.over

    @property
    def events(self) -> tuple[Event, ...]:
        """What it has recorded, oldest first; the latest 10 000."""
        return tuple(self._events)

    def register_experiment(self, experiment: ChaosExperiment) -> None:
        """Add an experiment, also while it runs.

        Raises DuplicateNameError, and ConfigurationError for one that could not be started.
        """
        self._check_open()
        if not isinstance(experiment, ChaosExperiment):
            raise ConfigurationError(f"{experiment!r} is no ChaosExperiment")
        if self._approve is not None:
            self._approve(experiment)
        with self._lock:
            if experiment.name in self.experiments:
                raise DuplicateNameError("chaos experiment", experiment.name)
            self.experiments = {**self.experiments, experiment.name: experiment}

    def start_chaos_monkey(self, interval: float | str | None = None) -> None:
        """Begin; the first tick is now, the next after `interval` seconds.

        Does nothing if it runs already at this interval. Raises ConfigurationError if it runs
        at another, UnknownNameError if its schedule needs an experiment that is not
        registered, and SteadyStateError if the system is not well to begin with.
        """
        every = self.interval if interval is None else period("interval", interval)
        self._check_open()
        if self._runs_already(every):
            return
        self._schedule.check(tuple(self.experiments))
        try:
            self._guard.before()
        except SteadyStateError as error:
            self._conclude(Verdict.FAILED, str(error))
            raise
        with self._lock:
            self._check_open()  # once more: it may have been closed meanwhile
            if self.running:  # another thread was faster
                return
            self._runs += 1
            run = MonkeyRun(
                start=self._start,
                schedule=self._schedule,
                interval=every,
                seed=derive(self.seed, "run", self._runs),
                clock=self._clock,
                tell=self._tell,
                most=self._max_active,
            )
            self._run = run
            self.verdict = None
        try:
            self._guard.begin(run.alarm.set)
        except BaseException as error:
            self._end(run, Verdict.FAILED, describe(error))
            raise
        self._tell(MonkeyStarted(at=run.began, source=self.name, interval=every, seed=self.seed))
        self._heed(run, self._guard.alarmed())  # before anything starts
        if self._background:
            # Two: a probe that hangs must not keep an experiment from ending.
            for work in (self._work, self._watch) if self._guard else (self._work,):
                thread = threading.Thread(target=work, args=(run,), name=self.name, daemon=True)
                with limits_lifted():
                    thread.start()

    def _runs_already(self, interval: float) -> bool:
        run = self._run
        if run is not None and not run.over and run.interval != interval:
            raise ConfigurationError(
                f"{self.name} runs already, at an interval of {run.interval:g} s; stop it first"
            )
        return self.running

    def stop_chaos_monkey(self) -> None:
        """End it and everything it began, at once; does nothing if it does not run.

        When this returns all is undone, whoever ended it. A steady state is looked at once
        more after that, which takes as long as its probes do.
        """
        run = self._run
        if run is not None:
            self._end(run, Verdict.PASSED, "stopped")

    def close(self, reason: str) -> None:
        """End it as `stop_chaos_monkey` does, and for good.

        Who starts it, or registers with it, from then on gets ShutdownError with `reason`.
        """
        with self._lock:
            self._closed = reason
        self.stop_chaos_monkey()

    def _check_open(self) -> None:
        if self._closed:
            raise ShutdownError(self._closed)

    def tick(self) -> None:
        """Do what is due by now: end, start, and look at stop conditions and probes.

        Its own threads do so by themselves.
        """
        run = self._run
        if run is not None and not run.over:
            self._step(run)
            run.wake.set()  # what has started may end before the thread would look
            self._heed(run, self._guard.look(lambda: run.over))

    def _work(self, run: MonkeyRun) -> None:
        while not run.over:
            self._step(run)
            wait = min(run.next_step() - self._clock.monotonic(), _LONGEST_WAIT)
            run.wake.wait(max(wait, 0.0))
            run.wake.clear()

    def _watch(self, run: MonkeyRun) -> None:
        while not run.over:
            run.alarm.wait(self._check_every)
            run.alarm.clear()
            self._heed(run, self._guard.look(lambda: run.over))

    def _step(self, run: MonkeyRun) -> None:
        """End and start what is due. What goes wrong is an event, and the monkey goes on."""
        try:
            run.step(tuple(self.experiments.values()))
        except Exception as error:
            run.failures += 1
            why = describe(error)
            _logger.exception("%s: cannot decide: %s", self.name, why)
            now = self._clock.monotonic()
            self._tell(ExperimentFailed(at=now, source=self.name, doing="decide", error=why))

    def _heed(self, run: MonkeyRun, found: tuple[Verdict, str] | None) -> None:
        """End the run if the guard has found a reason."""
        if found is not None:
            self._end(run, *found)

    def _end(self, run: MonkeyRun, verdict: Verdict, reason: str) -> None:
        """End a run; who comes second only waits until all is undone."""
        first = run.finish()
        run.running.close(reason)
        if not first:
            return
        self._guard.end()
        if verdict is not Verdict.DEVIATED:
            missed = self._guard.after()
            if missed:
                verdict, reason = Verdict.DEVIATED, missed
            elif run.failures + run.running.failures:
                verdict = Verdict.FAILED
        self._conclude(verdict, reason)

    def _conclude(self, verdict: Verdict, reason: str) -> None:
        self.verdict = verdict
        now = self._clock.monotonic()
        self._tell(MonkeyStopped(at=now, source=self.name, verdict=verdict, reason=reason))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        _logger.info("%s", event)
        self.listeners.emit(event)

    def get_active_experiments(self) -> dict[str, dict[str, Any]]:
        """What runs now, by name.

        Each with `experiment_name`, `chaos_type`, `start_time` (seconds since 1970-01-01
        UTC), `duration` and `elapsed` (seconds).
        """
        run = self._run
        now = self._clock.monotonic()
        return {
            each.experiment.name: {
                "experiment_name": each.experiment.name,
                "chaos_type": each.experiment.chaos_type.value,
                "start_time": each.start_time,
                "duration": each.experiment.duration,
                "elapsed": now - each.started_at,
            }
            for each in (run.running.all() if run is not None else ())
        }

    def __enter__(self) -> Self:
        self.start_chaos_monkey()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop_chaos_monkey()

    async def __aenter__(self) -> Self:
        return await in_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await in_thread(self.stop_chaos_monkey)

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        active = len(self.get_active_experiments())
        return f"<{type(self).__name__} {self.name!r} {state} active={active} seed={self.seed}>"
