"""The chaos around one test: what was started, what it did, what never fired."""

from __future__ import annotations

import dataclasses
import threading

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.types.service import Service
from pytest_resilience.chaos.types.service import Services
from pytest_resilience.diagnosis import missed_by_chance
from pytest_resilience.diagnosis import never_entered
from pytest_resilience.diagnosis import never_fired
from pytest_resilience.errors import NeverFiredError
from pytest_resilience.errors import ShutdownError
from pytest_resilience.errors import UnavailableError
from pytest_resilience.events import Event
from pytest_resilience.locks import fork_safe
from pytest_resilience.plugin.experiment_request import Requested
from pytest_resilience.report.chaos_record import ChaosRecord
from pytest_resilience.report.chaos_record import ExperimentRecord
from pytest_resilience.seeds import Stream
from pytest_resilience.seeds import derive


__all__ = ["ChaosScope", "over"]

_MOST_EVENTS = 10_000  # of one test; the oldest go first


def over(nodeid: str) -> ShutdownError:
    """The error for chaos of a test that begins when the test has ended."""
    return ShutdownError(
        f"the chaos of {nodeid or 'this test'} is over, and something of it wants to begin: a "
        "thread or a task has outlived the test; end it there"
    )


class ChaosScope:
    """Everything chaotic about one run of one test.

    Attributes:
        started: the experiments that ran, with who asked for them, in order.
        idle: those whose chance did not come up.
        events: what was injected, in order; the latest 10 000.
        outcome: of the call phase, once known.
        tell: who is told of each fault, by `nodeid` and `event`.
    """

    def __init__(self, engine: Engine, nodeid: str, seed: int, *, calm: bool = False) -> None:
        """`seed` is the run's; in a calm scope nothing takes effect."""
        self.started: list[tuple[Requested, ActiveExperiment]] = []
        self.idle: list[Requested] = []
        self.events: deque[FaultInjected] = deque(maxlen=_MOST_EVENTS)
        self.outcome = ""
        self.tell: Callable[..., object] | None = None
        self._engine = engine
        self._calm = calm
        self._closed = False
        self._lock = fork_safe(self, "_lock", threading.RLock)
        self._nodeid = nodeid
        self._seed = derive(seed, nodeid)
        self._asked: dict[str, int] = {}
        self._waiting: list[Requested] = []
        self._others: list[Callable[[], list[NeverFiredError]]] = []
        self._others_spared: list[Callable[[], list[str]]] = []
        self._services: list[Service] = []
        self._began = engine.clock.monotonic()
        self._forget = engine.listeners.add(self.note)

    def note(self, event: Event) -> None:
        """Count a fault among those of this test."""
        if isinstance(event, FaultInjected):
            self.events.append(event)
            if self.tell is not None:
                self.tell(nodeid=self._nodeid, event=event)

    def roll(self, requested: Requested) -> None:
        """Start an experiment if it is enabled and its probability comes up."""
        self.check_open()
        if self._calm:
            return
        experiment = requested.experiment
        seed = self._next_seed(experiment.name)
        if not experiment.enabled or Stream.at(seed, "start").draw(0) >= experiment.probability:
            self.idle.append(requested)
        else:
            self._start(requested, seed)

    def await_start(self, requested: Requested) -> None:
        """Expect `start`: an experiment that is asked for and forgotten proves nothing."""
        self.check_open()
        self._waiting.append(requested)

    def start(self, requested: Requested, *, seed: int | None = None) -> ActiveExperiment:
        """Start an experiment for certain; in a calm run, or disabled, it does nothing."""
        self.check_open()
        self._waiting = [each for each in self._waiting if each is not requested]
        if self._calm or not requested.experiment.enabled:
            return ActiveExperiment(requested.experiment, seed=0, started_at=0.0, must_fire=False)
        if seed is None:
            seed = self._next_seed(requested.experiment.name)
        return self._start(requested, seed)

    @property
    def calm(self) -> bool:
        """Whether nothing takes effect."""
        return self._calm

    @property
    def services(self) -> Services:
        """What experiments of this test can name."""
        return self._engine.services

    def seed_of(self, name: str) -> int:
        """The seed, in this test, of something that draws for itself."""
        return derive(self._seed, name)

    def declare(self, service: Service) -> None:
        """Make a service known until the test ends. Raises DuplicateNameError."""
        with self._lock:
            self.check_open()
            self._engine.services.add(service)
            self._services.append(service)

    def check(self, requested: Requested) -> None:
        """Raise ConfigurationError for an experiment that cannot be started."""
        self._engine.check(requested.experiment)

    def _next_seed(self, name: str) -> int:
        """A seed of its own for each experiment of a test, by name and order."""
        self._asked[name] = self._asked.get(name, 0) + 1
        return derive(self._seed, name, self._asked[name])

    def _start(self, requested: Requested, seed: int) -> ActiveExperiment:
        with self._lock:  # or it could begin after the end has stopped all
            self.check_open()
            try:
                active_experiment = self._engine.start(
                    requested.experiment, seed=seed, must_fire=requested.must_fire
                )
            except UnavailableError as error:
                pytest.skip(f"chaos experiment {requested.experiment.name!r}: {error}")
            self.started.append((requested, active_experiment))
        return active_experiment

    def check_open(self) -> None:
        """Raise ShutdownError when the test is over: what begins now would hit others."""
        if self._closed:
            raise self.over()

    def over(self) -> ShutdownError:
        """The error for what begins when the test has ended."""
        return over(self._nodeid)

    def stop(self, active_experiment: ActiveExperiment) -> None:
        """End one experiment."""
        active_experiment.stop()

    def stop_all(self) -> None:
        """End every experiment; harmless when they have ended."""
        for _, active_experiment in self.started:
            if not active_experiment.stopped:
                active_experiment.stop()

    def close(self) -> None:
        """End everything, listen no more, and let nothing begin."""
        with self._lock:
            self._closed = True
        self.stop_all()
        self._engine.refresh()
        while self._services:
            self._engine.services.remove(self._services.pop())
        self._forget()

    def raise_never_fired(self) -> None:
        """Raise `NeverFiredError` if one that had to fire matched nothing; it names them all."""
        errors = self.never_fired()
        if errors:
            errors[0].args = ("\n".join(map(str, errors)),)
            raise errors[0]

    def never_fired(self) -> list[NeverFiredError]:
        """An error for each experiment that had to fire and matched nothing."""
        silent = [each for _, each in self.started if each.must_fire and not each.matched]
        forgotten = [each for each in self._waiting if each.must_fire and not self._calm]
        return [
            *(never_fired(each) for each in silent),
            *(never_entered(each.experiment) for each in forgotten),
            *(error for other in self._others for error in other()),
        ]

    def spared(self) -> list[str]:
        """A line for each experiment that chance, and nothing else, kept from hitting more."""
        lines = [
            f"{each.experiment.name}: by chance it did not start "
            f"(probability {each.experiment.probability:g})"
            for each in self.idle
            if each.experiment.enabled
        ]
        for _, each in self.started:
            lines += missed_by_chance(each)
        return [*lines, *(line for other in self._others_spared for line in other())]

    def include(
        self, never_fired: Callable[[], list[NeverFiredError]], spared: Callable[[], list[str]]
    ) -> None:
        """Ask somebody else as well what never fired in this test, and what chance spared."""
        self._others.append(never_fired)
        self._others_spared.append(spared)

    def record(self, monkeys: Sequence[ExperimentRecord] = ()) -> ChaosRecord:
        """What is reported of this test; `monkeys`: what those of the whole run did to it.

        One row for each experiment, however often it ran: a block can be entered in a loop.
        """
        rows: dict[tuple[str, str, bool], ExperimentRecord] = {}
        for requested, active_experiment in self.started:
            what = str(active_experiment.experiment)
            key = what, requested.origin, True
            known = rows.get(key) or ExperimentRecord(
                what=what, origin=requested.origin, started=True
            )
            rows[key] = dataclasses.replace(
                known,
                matched=known.matched + active_experiment.matched,
                hits=known.hits + active_experiment.hits,
                delay=known.delay + active_experiment.delay,
                pressure=str(active_experiment.pressure or known.pressure),
            )
        for each in self.idle:
            what = str(each.experiment)
            rows[what, each.origin, False] = ExperimentRecord(
                what=what, origin=each.origin, started=False
            )
        return ChaosRecord(nodeid=self._nodeid, experiments=(*rows.values(), *monkeys))

    def timeline(self) -> list[tuple[float, FaultInjected]]:
        """Each fault with the seconds since the test began."""
        return [(event.at - self._began, event) for event in self.events]
