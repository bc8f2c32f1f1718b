"""Has operations seen and named, and lets the faults of a schedule happen to them.

In a whole test; or in a block of one, by the fixture `chaos_schedules`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.possible_faults import CANCEL
from pytest_resilience.chaos.possible_faults import fault_named
from pytest_resilience.chaos.possible_faults import possible_faults
from pytest_resilience.chaos.types.callers import Cancellation
from pytest_resilience.chaos.types.callers import LateResponse
from pytest_resilience.clock import SkippingClock
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.exploration.operation_log import AtStep
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import Watch
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.exploration.operation_names import patterns_in
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.plugin.experiment_requests import RunMode
from pytest_resilience.plugin.exploration.settings import USUAL_DEADLINE
from pytest_resilience.plugin.pytest_internals import temporary_folder
from pytest_resilience.plugin.scope import ChaosScope
from pytest_resilience.seeds import derive


__all__ = ["ChaosSchedules", "all_seen", "place_in", "start", "target_names"]

_ABOVE = 5  # frames between a place and its interceptor: from `call_site` to the engine's `decide`
_LATE = 0.5  # seconds
_EXPLORED = frozenset(kind for kind in KINDS if possible_faults(kind))


@contextmanager
def all_seen(engine: Engine, watch: Watch) -> Iterator[None]:
    """In the block every operation is seen, and none has a fault for that."""
    with ExitStack() as stack:
        seen = ChaosExperiment.observing("observed", _EXPLORED)
        stack.callback(engine.start(seen, seed=0, must_fire=False).stop)
        stack.enter_context(engine.recording(watch))
        for service in engine.services.names:
            _observe_service(engine, service, stack)
        yield


def _observe_service(engine: Engine, name: str, stack: ExitStack) -> None:
    if not engine.services.find(name).callables:
        return
    experiment = ChaosExperiment(
        f"observed {name}", "service_failure", 1.0, float("inf"), None, [name],
        mode="error", children=False,
    ).counting_only()  # fmt: skip
    stack.callback(engine.start(experiment, seed=0, must_fire=False).stop)


def target_names(
    config: pytest.Config, schedule: Schedule = (), patterns: Iterable[Site] = ()
) -> TargetNames:
    """Those of one run. `patterns`: of the names of files that are others in each run."""
    return TargetNames(
        temporary=temporary_folder(config),
        project=str(config.rootpath),
        patterns={*patterns, *patterns_in(schedule)},
    )


def place_in(engine: Engine) -> Callable[[Operation], str]:
    """Tells where in the user's code an operation is done."""

    def place_of(operation: Operation) -> str:
        site = operation.call_site
        return engine.call_site(site.loop_objects, above=_ABOVE) or site.place

    return place_of


def start(log: OperationLog, engine: Engine, stack: ExitStack) -> dict[Step, ActiveExperiment]:
    """The experiment of each step of the log's schedule, which ends with the stack."""
    active: dict[Step, ActiveExperiment] = {}
    steps = [step for step in log.schedule if not step.is_of_others]
    if not steps:
        return active
    ending = ExitStack()  # each ends, whatever the end of another raises

    def stop() -> None:
        with engine.at_once():
            ending.close()

    stack.callback(stop)
    with engine.at_once():
        for step in steps:
            experiment = _experiment_of(step).triggered_by(AtStep(log, step))
            seed = derive(0, str(step))  # the same in every run, and in a replay
            active[step] = engine.start(experiment, seed=seed, must_fire=False)
            ending.callback(active[step].stop)
            active[step].counted = None  # nobody asks for numbers: the log has them
    return active


_experiments: dict[tuple[str, str, str], ChaosExperiment] = {}


def _experiment_of(step: Step) -> ChaosExperiment:
    """The experiment that makes the fault of a step, at whatever operation."""
    site = step.point.site
    fault = fault_named(site.kind, step.fault)
    key = (site.kind, step.fault, site.target if fault.of_service else "")
    if key not in _experiments:
        made = fault.experiment(step.fault, site.target).all_derived()
        if site.kind == RECEIVE and step.fault == CANCEL:
            made = _while_it_waits(made)
        _experiments[key] = made
    return _experiments[key]


def _while_it_waits(cancellation: ChaosExperiment) -> ChaosExperiment:
    """Who waits for a response is cancelled before it comes, as by a timeout.

    So it comes when the client may have asked for something else, on the same connection.
    """
    [fault] = cancellation.faults
    assert isinstance(fault, Cancellation)
    late = LateResponse(delay=_LATE, cancellation=fault)
    return cancellation.with_faults(replace(fault, is_late=True), late)


class ChaosSchedules:
    """Records what parts of a test do, and puts the faults of a schedule into them.

    A recording is what `fault_schedules` draws from, and a block takes what it has drawn:

        with chaos_schedules.recording() as recording:
            save(path)

        @given(fault_schedules(recording))
        def saves(schedule):
            with chaos_schedules.faults(schedule):
                save(path)

    What faults make a block wait for is not waited for, and what would wait for ever is an error
    (SilenceError). Blocks are not nested. ShutdownError is raised when the test is over.
    """

    def __init__(self, scope: ChaosScope, engine: Engine, config: pytest.Config) -> None:
        self._scope = scope
        self._engine = engine
        self._config = config
        self._in_block = False

    @contextmanager
    def recording(self) -> Iterator[OperationLog]:
        """The operations of the block, in which there are no faults; `seen` has them in order."""
        with self._logged(()) as log:
            yield log

    @contextmanager
    def faults(self, schedule: Schedule | str) -> Iterator[OperationLog]:
        """The block has the faults of a schedule, or of its text; numbers begin with the block.

        What it gives knows its operations as `seen`, and the steps whose operations have not come
        as `unmet`. Raises ConfigurationError for a text that is no schedule, and for a crash,
        `later`, `cancel_woken` or `cancel_waiting`, which are a whole test's. "" has no faults.
        """
        if isinstance(schedule, str):
            schedule = parse_schedule(schedule) if schedule else ()
        steps: Schedule = schedule
        if any(step.is_of_others or step.is_crash for step in steps):
            raise ConfigurationError(
                f"{format_schedule(steps)}: a block has faults of its own, and no crash, "
                "`later`, `cancel_woken` or `cancel_waiting`; try those with --chaos-replay"
            )
        in_force = steps if self._scope.mode is RunMode.INJECT else ()
        self._scope.experiments.scheduled += map(str, in_force)
        with self._logged(in_force) as log:
            yield log

    @contextmanager
    def _logged(self, schedule: Schedule) -> Iterator[OperationLog]:
        self._scope.check_open()
        if self._in_block:
            raise ConfigurationError("a block of chaos_schedules is in another one; end that first")
        engine = self._engine
        watch = Watch(outer=engine.recorder)
        names = target_names(self._config, schedule)
        log = watch.log = OperationLog(names, place_in(engine), schedule=schedule)
        with ExitStack() as stack:
            stack.callback(setattr, self, "_in_block", False)
            self._in_block = True
            if not isinstance(engine.clock, SkippingClock):  # else the test itself is explored
                stack.callback(setattr, engine, "clock", engine.clock)
                engine.clock = SkippingClock(USUAL_DEADLINE)
            stack.enter_context(all_seen(engine, watch))
            start(log, engine, stack)
            stack.callback(setattr, log, "is_open", False)
            log.is_open = True
            yield log
