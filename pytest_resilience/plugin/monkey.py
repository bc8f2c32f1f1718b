"""Monkeys in a test run: one for a test, and those that work while all tests run."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.clock import Clock
from pytest_resilience.hazards import ChaosMonkey
from pytest_resilience.hazards import Hazard
from pytest_resilience.plugin.requested import Requested
from pytest_resilience.plugin.scope import ChaosScope
from pytest_resilience.report.record import ExperimentRecord
from pytest_resilience.seeds import derive


__all__ = ["SessionMonkeys", "monkey_of_a_test"]


@contextmanager
def monkey_of_a_test(
    engine: Engine,
    scope: ChaosScope,
    clock: Clock,
    *,
    approve: Callable[[ChaosExperiment], object],
    manual: bool,
) -> Iterator[ChaosMonkey]:
    """A monkey whose experiments count among those of a test; with a manual clock it ticks
    only when told to.
    """

    def start(experiment: ChaosExperiment, *, seed: int) -> Hazard:
        requested = Requested(experiment=experiment, origin="monkey", must_fire=False)
        return Hazard(engine, scope.start(requested, seed=seed))

    monkey = ChaosMonkey(
        start,
        approve=approve,
        seed=scope.seed_of("chaos_monkey"),
        background=not manual,
        clock=clock,
    )
    try:
        yield monkey
    finally:
        monkey.close(str(scope.over()))


class SessionMonkeys:
    """The monkeys of `--chaos-monkey`; what they begin takes effect inside of tests alone."""

    def __init__(self, engine: Engine, profiles: tuple[Profile, ...], seed: int) -> None:
        self._engine = engine
        self._paused = True
        self._hazards: list[Hazard] = []
        self._monkeys = [self._monkey(profile, seed) for profile in profiles]
        self._experiments = {
            name: experiment
            for monkey in self._monkeys
            for name, experiment in monkey.experiments.items()
        }

    def _monkey(self, profile: Profile, seed: int) -> ChaosMonkey:
        monkey = ChaosMonkey(
            self._start,
            seed=derive(seed, "monkey", profile.name),
            interval=profile.interval,
            max_active=profile.max_active,
            name=f"chaos monkey {profile.name}",
        )
        for each in profile.experiments:
            monkey.register_experiment(each.make())
        return monkey

    def _start(self, experiment: ChaosExperiment, *, seed: int) -> Hazard:
        activation = self._engine.start(experiment, seed=seed, must_fire=False)
        activation.paused = self._paused
        hazard = Hazard(self._engine, activation)
        self._hazards.append(hazard)
        return hazard

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._hazards = [each for each in self._hazards if not each.activation.stopped]
        for hazard in self._hazards:
            hazard.activation.paused = paused
        if self._hazards:
            self._engine.settle()  # pressures are put on and taken off

    def records(self, events: Iterator[FaultInjected]) -> list[ExperimentRecord]:
        """What they did to one test, of whose faults these are all."""
        found: dict[str, list[FaultInjected]] = {}
        for event in events:
            if event.source in self._experiments:
                found.setdefault(event.source, []).append(event)
        return [
            ExperimentRecord(
                what=str(self._experiments[name]),
                origin="monkey",
                started=True,
                matched=len(theirs),
                hits=len(theirs),
            )
            for name, theirs in found.items()
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Let them work while tests run."""
        with ExitStack() as stack:
            for monkey in self._monkeys:
                stack.enter_context(monkey)
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Only what the test itself does is under test."""
        self._pause(False)
        try:
            return (yield)
        finally:
            self._pause(True)
