"""A chaos monkey: starts and ends experiments over time, and undoes all of them when stopped."""

from __future__ import annotations

import logging
import threading

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import Self

from pytest_resilience.chaos.context_managers import in_thread
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.quantities import count
from pytest_resilience.chaos.parsing.quantities import period
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import SteadyStateError
from pytest_resilience.events import Event
from pytest_resilience.events import Listeners
from pytest_resilience.events import describe
from pytest_resilience.locks import fork_safe
from pytest_resilience.monkey.events import ExperimentFailed
from pytest_resilience.monkey.events import Journal
from pytest_resilience.monkey.events import MonkeyStarted
from pytest_resilience.monkey.events import MonkeyStopped
from pytest_resilience.monkey.schedule import ByChance
from pytest_resilience.monkey.schedule import Schedule
from pytest_resilience.monkey.session import MonkeySession
from pytest_resilience.monkey.session import MonkeySettings
from pytest_resilience.monkey.session import Starter
from pytest_resilience.monkey.steady_state import Probe
from pytest_resilience.monkey.steady_state import Verdict
from pytest_resilience.monkey.stop_conditions import StopCondition
from pytest_resilience.monkey.stop_conditions import Watchdog
from pytest_resilience.seeds import derive
from pytest_resilience.seeds import new_seed


__all__ = ["Monkey"]

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
        experiments: the registered ones, by name.
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
        clock: Clock = MACHINE_CLOCK,
        name: str = "chaos monkey",
    ) -> None:
        """`start` makes an experiment happen, and `approve` raises ConfigurationError for one that
        it would refuse; `check_every`: seconds between looks at stop conditions and probes.
        """
        self.seed = new_seed() if seed is None else seed
        self.experiments: dict[str, ChaosExperiment] = {}
        self.verdict: Verdict | None = None
        if start is None:
            start, approve = self.default_start(), approve or self.default_approve()
        self._settings = MonkeySettings(
            start=start,
            approve=approve or _approve_any,
            schedule=schedule or ByChance(),
            interval=period("interval", interval),
            max_active=None if max_active is None else count("max_active", max_active),
            check_every=period("check_every", check_every),
            background=background,
        )
        self._journal = Journal(name, clock)
        self._watchdog = Watchdog(stop_when, steady_state, self._journal)
        self._session: MonkeySession | None = None  # the last one, when it is over
        self._sessions = 0
        self._closed = ""  # why, when it is
        self._lock = fork_safe(self, "_lock", threading.Lock)

    def default_start(self) -> Starter:
        """The `start` where the constructor is given none. Raises ConfigurationError."""
        raise ConfigurationError(
            "nothing is given that makes experiments happen: Monkey(start); "
            "pytest_resilience.ChaosMonkey() has its own"
        )

    def default_approve(self) -> Callable[[ChaosExperiment], object] | None:
        """The `approve` that goes with `default_start`."""
        return None

    @property
    def name(self) -> str:
        """Its name in logs and events."""
        return self._journal.name

    @property
    def interval(self) -> float:
        """Seconds between ticks, unless `start_chaos_monkey` is told another."""
        return self._settings.interval

    @property
    def listeners(self) -> Listeners:
        """Told of every event."""
        return self._journal.listeners

    @property
    def events(self) -> tuple[Event, ...]:
        """Its latest 10 000 events, the oldest first."""
        return tuple(self._journal.events)

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._session is not None and not self._session.is_over

    def register_experiment(self, experiment: ChaosExperiment) -> None:
        """Add an experiment, also while it runs.

        Raises DuplicateNameError, and ConfigurationError for one that could not be started.
        """
        self._check_open()
        if not isinstance(experiment, ChaosExperiment):
            raise ConfigurationError(
                f"{experiment!r} is no ChaosExperiment; give one, such as "
                "ChaosExperiment('slow', 'network_latency', delay='1s')"
            )
        self._settings.approve(experiment)
        with self._lock:
            if experiment.name in self.experiments:
                raise DuplicateNameError("chaos experiment", experiment.name)
            # Replaced, never changed in place: a thread may be walking it.
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
        self._settings.schedule.check(tuple(self.experiments))
        try:
            self._watchdog.check_before()
        except SteadyStateError as error:
            self._conclude(Verdict.FAILED, str(error))
            raise
        # No lock is held while probes run, so another thread may have come before.
        session = self._new_session(every)
        if session is None:
            return
        try:
            self._watchdog.begin(session.alarm.set)
        except BaseException as error:  # a condition of the user's has failed
            self._end(session, Verdict.FAILED, describe(error))
            raise
        self._journal.record(
            MonkeyStarted(at=session.began, source=self.name, interval=every, seed=self.seed)
        )
        self._end_if(session, self._watchdog.check_conditions())  # before anything starts
        if self._settings.background:
            self._start_threads(session)

    def _runs_already(self, interval: float) -> bool:
        session = self._session
        if session is not None and not session.is_over and session.interval != interval:
            raise ConfigurationError(
                f"{self.name} runs already, at an interval of {session.interval:g} s; stop it first"
            )
        return self.running

    def _new_session(self, interval: float) -> MonkeySession | None:
        with self._lock:
            self._check_open()  # once more: it may have been closed meanwhile
            if self.running:  # another thread was faster
                return None
            self._sessions += 1
            seed = derive(self.seed, "run", self._sessions)
            self._session = MonkeySession(
                self._settings, self._journal, interval=interval, seed=seed
            )
            self.verdict = None
            return self._session

    def _start_threads(self, session: MonkeySession) -> None:
        # Two: a probe that hangs must not keep an experiment from ending.
        for work in (self._work, self._watch) if self._watchdog else (self._work,):
            thread = threading.Thread(target=work, args=(session,), name=self.name, daemon=True)
            with limits_lifted():
                thread.start()

    def stop_chaos_monkey(self) -> None:
        """End it and everything it began, at once; does nothing if it does not run.

        When this returns all is undone, whoever ended it. A steady state is looked at once
        more after that, which takes as long as its probes do.
        """
        if self._session is not None:
            self._end(self._session, Verdict.PASSED, "stopped")

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
        session = self._session
        if session is not None and not session.is_over:
            self._step(session)
            session.wake.set()  # what has started may end before the thread would look
            self._end_if(session, self._watchdog.check(lambda: session.is_over))

    def _work(self, session: MonkeySession) -> None:
        while not session.is_over:
            self._step(session)
            wait = min(session.next_step() - self._journal.clock.monotonic(), _LONGEST_WAIT)
            session.wake.wait(max(wait, 0.0))
            session.wake.clear()  # after the wait: whoever sets it from now on wakes the next one

    def _watch(self, session: MonkeySession) -> None:
        while not session.is_over:
            session.alarm.wait(self._settings.check_every)
            session.alarm.clear()
            self._end_if(session, self._watchdog.check(lambda: session.is_over))

    def _step(self, session: MonkeySession) -> None:
        """Stop and start what is due. What goes wrong is an event, and the monkey goes on."""
        try:
            session.step(tuple(self.experiments.values()))
        except Exception as error:
            session.active.failures += 1
            why, now = describe(error), self._journal.clock.monotonic()
            _logger.exception("%s: cannot decide: %s", self.name, why)
            self._journal.record(
                ExperimentFailed(at=now, source=self.name, doing="decide", error=why)
            )

    def _end_if(self, session: MonkeySession, found: tuple[Verdict, str] | None) -> None:
        if found is not None:
            self._end(session, *found)

    def _end(self, session: MonkeySession, verdict: Verdict, reason: str) -> None:
        """End a session; who comes second only waits until all is undone."""
        first = session.finish()
        session.active.close(reason)
        if not first:
            return
        self._watchdog.end()
        # A deviation was seen under chaos; that the system recovers later does not excuse it.
        if verdict is not Verdict.DEVIATED:
            problems = self._watchdog.check_after()
            if problems:
                verdict, reason = Verdict.DEVIATED, problems
            elif session.active.failures:
                verdict = Verdict.FAILED
        self._conclude(verdict, reason)

    def _conclude(self, verdict: Verdict, reason: str) -> None:
        self.verdict = verdict
        now = self._journal.clock.monotonic()
        self._journal.record(
            MonkeyStopped(at=now, source=self.name, verdict=verdict, reason=reason)
        )

    def get_active_experiments(self) -> dict[str, dict[str, Any]]:
        """The active experiments, by name.

        Each with `experiment_name`, `chaos_type`, `start_time` (seconds since 1970-01-01
        UTC), `duration` and `elapsed` (seconds).
        """
        session, now = self._session, self._journal.clock.monotonic()
        return {
            each.experiment.name: {
                "experiment_name": each.experiment.name,
                "chaos_type": each.experiment.chaos_type.value,
                "start_time": each.start_time,
                "duration": each.experiment.duration,
                "elapsed": now - each.started_at,
            }
            for each in (() if session is None else session.active.all())
        }

    def __enter__(self) -> Self:
        self.start_chaos_monkey()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_chaos_monkey()

    async def __aenter__(self) -> Self:
        return await in_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await in_thread(self.stop_chaos_monkey)

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        active = len(self.get_active_experiments())
        return f"<{type(self).__name__} {self.name!r} {state} active={active} seed={self.seed}>"


def _approve_any(_: ChaosExperiment) -> None:
    pass
