"""The chaos around one test: what was started, what it did, what never fired."""

from __future__ import annotations

import dataclasses
import threading

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.triggers import Never
from pytest_resilience.chaos.types.resources import PRESSURES
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.diagnosis import counted_operations
from pytest_resilience.diagnosis import missed_by_chance
from pytest_resilience.diagnosis import never_entered
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import UnavailableError
from pytest_resilience.errors import with_page
from pytest_resilience.events import Event
from pytest_resilience.locks import fork_safe
from pytest_resilience.plugin.experiment_requests import ExperimentRequest
from pytest_resilience.plugin.experiment_requests import RunMode
from pytest_resilience.report.chaos_record import ChaosRecord
from pytest_resilience.report.chaos_record import ExperimentRecord
from pytest_resilience.seeds import Stream
from pytest_resilience.seeds import derive


__all__ = ["ChaosScope", "ExperimentLog", "FaultLog", "after_test_error"]

_MOST_FAULTS = 10_000  # of one test; the oldest go first
_OWN = ("marker", "fixture", "monkey")  # who asks for experiments of one test


def after_test_error(nodeid: str) -> ShutdownError:
    """The error for chaos of a test that begins when the test has ended."""
    return ShutdownError(
        f"the chaos of {nodeid or 'this test'} is over, and something of it wants to begin: a "
        "thread or a task has outlived the test; end it there"
    )


class Children(Protocol):
    """The child processes of the test."""

    @property
    def are_there(self) -> bool:
        """Whether there are some, for which who starts an experiment waits."""

    def gather(self) -> None:
        """Take in the faults that they have told of so far."""


class FaultLog:
    """The faults injected into one test.

    Attributes:
        faults: in order; the latest 10 000.
        notify: called with `nodeid` and `event` for each.
        children: whose faults are among them; None where none can be reached.
    """

    def __init__(self, nodeid: str, began: float) -> None:
        """`began`: when the test did, in seconds of the engine's clock."""
        self.faults: deque[FaultInjected] = deque(maxlen=_MOST_FAULTS)
        self.notify: Callable[..., object] | None = None
        self.children: Children | None = None
        self._nodeid = nodeid
        self._began = began

    def add(self, event: Event) -> None:
        """Keep an event if it is a fault."""
        if isinstance(event, FaultInjected):
            self.faults.append(event)
            if self.notify is not None:
                self.notify(nodeid=self._nodeid, event=event)

    def timeline(self) -> list[tuple[float, FaultInjected]]:
        """Each fault with the seconds since the test began."""
        return [(event.at - self._began, event) for event in self.faults]


class Elsewhere(Protocol):
    """Runs experiments of the test, as a proxy does: see `ChaosProxy`."""

    @property
    def injected(self) -> Sequence[ActiveExperiment]:
        """Those that have been started."""

    def forgotten(self) -> list[NeverFiredError]:
        """An error for each that had to fire and was never started."""

    def spared(self) -> list[str]:
        """A line for each that chance kept from hitting more."""


class ExperimentLog:
    """The experiments of one test, and what came of them.

    Attributes:
        started: those that ran, with who asked for them, in order.
        not_started: those that are disabled or whose probability did not come up.
        expected: those of blocks that have not been entered.
        scheduled: the steps of schedules that were put into blocks.
        elsewhere: those whose experiments have another engine than the session's.
    """

    def __init__(self) -> None:
        self.started: list[tuple[ExperimentRequest, ActiveExperiment]] = []
        self.not_started: list[ExperimentRequest] = []
        self.expected: list[ExperimentRequest] = []
        self.scheduled: list[str] = []
        self.elsewhere: list[Elsewhere] = []

    def never_fired(self) -> list[NeverFiredError]:
        """An error for each experiment that had to fire and did nothing."""
        silent = [each for _, each in self.started if each.must_fire and each.proves_nothing]
        forgotten = [each for each in self.expected if each.must_fire]
        return [
            *(never_fired(each) for each in silent),
            *(never_entered(each.experiment) for each in forgotten),
            *(error for each in self.elsewhere for error in each.forgotten()),
        ]

    def raise_never_fired(self) -> None:
        """Raise `NeverFiredError` if one that had to fire did nothing; it names them all."""
        errors = self.never_fired()
        if errors:
            errors[0].args = ("\n".join(map(with_page, errors)),)  # which are shown without notes
            raise errors[0]

    def by_chance(self) -> list[str]:
        """A line for each experiment that chance, and nothing else, kept from hitting more."""
        lines = [
            f"{each.experiment.name}: by chance it did not start "
            f"(probability {each.experiment.probability:g})"
            for each in self.not_started
            if each.experiment.enabled
        ]
        for _, each in self.started:
            lines += missed_by_chance(each)
        return [*lines, *(line for each in self.elsewhere for line in each.spared())]

    @property
    def own(self) -> tuple[str, ...]:
        """What the test itself asked for, or a fixture for it alone: names, and steps."""
        requests = [*(request for request, _ in self.started), *self.not_started, *self.expected]
        names = [each.experiment.name for each in requests if each.requested_by in _OWN]
        names += [ran.experiment.name for each in self.elsewhere for ran in each.injected]
        return tuple(dict.fromkeys(names + self.scheduled))

    def record(self, nodeid: str, monkeys: Sequence[ExperimentRecord] = ()) -> ChaosRecord:
        """The record of the test; `monkeys`: the rows of those of the whole run.

        One row for each experiment, however often it ran: a block can be entered in a loop.
        """
        rows: dict[tuple[str, str, bool], ExperimentRecord] = {}
        for request, active_experiment in self.started:
            key = str(active_experiment.experiment), request.requested_by, True
            rows[key] = _row(key, active_experiment, rows.get(key))
        for ran in (ran for each in self.elsewhere for ran in each.injected):
            of_proxy = str(ran.experiment), "proxy", True
            rows[of_proxy] = _row(of_proxy, ran, rows.get(of_proxy))
        for request in self.not_started:
            key = str(request.experiment), request.requested_by, False
            rows[key] = ExperimentRecord(
                name=request.experiment.name, what=key[0], requested_by=key[1], started=False
            )
        return ChaosRecord(nodeid=nodeid, experiments=(*rows.values(), *monkeys))


def _counted(active_experiment: ActiveExperiment) -> tuple[str, ...]:
    """What is shown of an experiment that only counts."""
    only_counts = Never() in active_experiment.experiment.triggers
    return counted_operations(active_experiment) if only_counts else ()


def _row(
    key: tuple[str, str, bool], ran: ActiveExperiment, before: ExperimentRecord | None
) -> ExperimentRecord:
    """The row of one that ran, added to that of the times it ran `before`."""
    what, requested_by, started = key
    return ExperimentRecord(
        name=ran.experiment.name,
        what=what,
        requested_by=requested_by,
        started=started,
        matched=ran.matched + (before.matched if before else 0),
        hits=ran.hits + (before.hits if before else 0),
        delay=ran.delay + (before.delay if before else 0.0),
        pressure=str(ran.pressure or (before.pressure if before else "")),
        counted=(before.counted if before else ()) + _counted(ran),
    )


class _Seeds:
    """The seeds of one test: the same whichever tests run before it, and in whatever process."""

    def __init__(self, seed: int, nodeid: str) -> None:
        self._seed = derive(seed, nodeid)
        self._times: dict[str, int] = {}

    def of(self, name: str) -> int:
        """That of something that draws for itself."""
        return derive(self._seed, name)

    def next(self, experiment: str) -> int:
        """One for each experiment of the test, by its name and how often that was started."""
        self._times[experiment] = self._times.get(experiment, 0) + 1
        return derive(self._seed, experiment, self._times[experiment])


class ChaosScope:
    """Everything chaotic about one run of one test.

    Attributes:
        experiments: what was started, and what came of it.
        faults: what was injected.
        seeds: of what draws in this test.
        outcome: of the call phase, once known.
        mode: what becomes of the experiments.
        nodeid: of the test.
    """

    def __init__(self, engine: Engine, nodeid: str, seed: int, *, mode: RunMode) -> None:
        """`seed` is the run's."""
        self.experiments = ExperimentLog()
        self.faults = FaultLog(nodeid, engine.clock.monotonic())
        self.seeds = _Seeds(seed, nodeid)
        self.outcome = ""
        self.mode = mode
        self.nodeid = nodeid
        self._engine = engine
        self._closed = False
        self._lock = fork_safe(self, "_lock", threading.RLock)
        self._cleanup = ExitStack()
        self._cleanup.callback(engine.listeners.add(self.faults.add))

    @property
    def services(self) -> Services:
        """The services that experiments of this test can name."""
        return self._engine.services

    def declare(self, service: Service) -> None:
        """Make a service known until the test ends. Raises DuplicateNameError."""
        with self._lock:
            self.check_open()
            self._engine.services.add(service)
            self._cleanup.callback(self._engine.services.remove, service)

    def check(self, request: ExperimentRequest) -> None:
        """Raise ConfigurationError for an experiment that cannot be started."""
        self._engine.check(request.experiment)

    def check_open(self) -> None:
        """Raise ShutdownError when the test is over: what begins now would hit others."""
        if self._closed:
            raise after_test_error(self.nodeid)

    def start_by_chance(self, request: ExperimentRequest) -> None:
        """Start an experiment if it is enabled and its probability comes up."""
        self.check_open()
        if self.mode is not RunMode.INJECT:
            self.start(request)
            return
        experiment = request.experiment
        seed = self.seeds.next(experiment.name)
        certain = experiment.probability >= 1
        if experiment.enabled and (certain or self._comes_up(experiment.probability, seed)):
            self._start(request, seed)
        else:
            self.experiments.not_started.append(request)

    @staticmethod
    def _comes_up(probability: float, seed: int) -> bool:
        return Stream.at(seed, "start").draw(0) < probability

    def expect_start(self, request: ExperimentRequest) -> None:
        """Expect `start`: an experiment that is asked for and forgotten proves nothing."""
        self.check_open()
        if self.mode is RunMode.INJECT:
            self.experiments.expected.append(request)

    def start(self, request: ExperimentRequest, *, seed: int | None = None) -> ActiveExperiment:
        """Start an experiment for certain; one that is disabled does nothing.

        Nor does one that may only count, or not even that; pressure has nothing to count.
        """
        self.check_open()
        log = self.experiments
        log.expected = [each for each in log.expected if each is not request]
        counts_only = self.mode is RunMode.COUNT and not request.experiment.kinds & PRESSURES
        if not request.experiment.enabled or not (counts_only or self.mode is RunMode.INJECT):
            return self._engine.not_started(request.experiment)
        if counts_only:
            harmless = request.experiment.counting_only()
            request = dataclasses.replace(request, experiment=harmless, must_fire=False)
        if seed is None:
            seed = self.seeds.next(request.experiment.name)
        return self._start(request, seed)

    def _start(self, request: ExperimentRequest, seed: int) -> ActiveExperiment:
        with self._lock:  # or it could begin after the end has stopped all
            self.check_open()
            try:
                active_experiment = self._engine.start(
                    request.experiment, seed=seed, must_fire=request.must_fire
                )
            except UnavailableError as error:
                pytest.skip(f"chaos experiment {request.experiment.name!r}: {error}")
            self.experiments.started.append((request, active_experiment))
        return active_experiment

    def stop_all(self) -> None:
        """End every experiment; harmless when they have ended."""
        for _, active_experiment in self.experiments.started:
            if not active_experiment.stopped:
                active_experiment.stop()

    def close(self) -> None:
        """End everything, listen no more, and let nothing begin."""
        with self._lock:
            self._closed = True
        self.stop_all()
        self._engine.settle()
        self._cleanup.close()
