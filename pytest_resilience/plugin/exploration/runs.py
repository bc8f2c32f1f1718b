"""One run of a test under a schedule: faults on, faults off, and what came of it."""

from __future__ import annotations

import gc
import math
import sys

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import pytest

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import SkippingClock
from pytest_resilience.errors import UnavailableError
from pytest_resilience.exploration.operation_log import CallLimit
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import Watch
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.exploration.outcome import Facts
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import chain_of
from pytest_resilience.exploration.outcome import judge
from pytest_resilience.exploration.outcome import told
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.plugin.exploration.crashes import CrashCheck
from pytest_resilience.plugin.exploration.crashes import TracedLog
from pytest_resilience.plugin.exploration.faults import all_seen
from pytest_resilience.plugin.exploration.faults import place_in
from pytest_resilience.plugin.exploration.faults import target_names
from pytest_resilience.plugin.exploration.idle_loops import IdleLoops
from pytest_resilience.plugin.exploration.ongoing_run import OngoingRun
from pytest_resilience.plugin.exploration.ongoing_run import facts_of
from pytest_resilience.plugin.exploration.orders import Orders
from pytest_resilience.plugin.exploration.settings import Oracle
from pytest_resilience.plugin.matrix.deadline import KnownHangs
from pytest_resilience.plugin.matrix.leaks import LeakedResources
from pytest_resilience.plugin.matrix.leaks import Snapshot
from pytest_resilience.plugin.matrix.leaks import old_objects_kept
from pytest_resilience.plugin.matrix.leaks import threads_let_go
from pytest_resilience.plugin.pytest_internals import run_once
from pytest_resilience.plugin.pytest_internals import temporary_folder
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.plugin.virtual_time import ORDER
from pytest_resilience.runtime import awaiting_crashes
from pytest_resilience.stacks import clear_frames
from pytest_resilience.stacks import is_library


__all__ = ["ExploredRuns", "Ran", "is_own"]

_FAULTLESS = pytest.StashKey[float]()  # seconds of its longest run without faults
_LEAST_LOCKED = 0.3  # seconds that others of the test may have a database locked for
_SOON = 0.3  # seconds, after which who waits where a run has hung before hangs as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run that is over.

    Attributes:
        outcome: the verdict, and what the run did.
        reports: of setup, call and teardown.
        leaked: the resources that it has left.
        probed: whether the test passed once more in its fixtures; None where that was not tried.
        is_in_doubt: whether it did not, as it may after faults.
        broken: the invariant that does not hold, in words; "" if all do.
        raised: exceptions by phase; none of a run that pytest does not report.
    """

    outcome: Outcome
    reports: list[pytest.TestReport]
    leaked: LeakedResources
    probed: bool | None
    broken: str
    raised: Mapping[str, BaseException]
    is_in_doubt: bool = False


class ExploredRuns:
    """Runs tests under schedules; registered with pytest, to be around what it calls.

    Attributes:
        patterns: of the names of files that are others in each run of the test.
    """

    def __init__(self, session: ChaosSession, config: pytest.Config) -> None:
        self.patterns: frozenset[Site] = frozenset()
        self._session = session
        self._run: OngoingRun | None = None
        self._place_of = place_in(session.engine)
        self._watch = Watch()
        self._config = config
        self._is_plain = True
        self._before: Snapshot | None = None  # the run before, if nothing else has run since
        self._hangs: tuple[pytest.Item | None, KnownHangs] = None, KnownHangs(_SOON)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """In the block every operation can be seen, before there is a fault."""
        with ExitStack() as stack:
            stack.enter_context(self._without_unclosed())
            stack.enter_context(old_objects_kept())
            stack.enter_context(all_seen(self._engine, self._watch))
            stack.callback(setattr, self, "_before", None)
            yield

    @contextmanager
    def _without_unclosed(self) -> Iterator[None]:
        """Let no run fail for what an earlier one has not closed: `leak` tells of that."""
        usual = sys.unraisablehook

        def hook(unraisable: sys.UnraisableHookArgs) -> None:
            if self._is_plain or not isinstance(unraisable.exc_value, ResourceWarning):
                usual(unraisable)

        sys.unraisablehook = hook
        try:
            yield
            gc.collect()  # what is in cycles would be told of in the next test
        finally:
            sys.unraisablehook = usual

    @property
    def _engine(self) -> Engine:
        return self._session.engine

    def run(
        self,
        item: pytest.Item,
        schedule: Schedule,
        oracle: Oracle,
        *,
        limit: CallLimit | None = None,
        baseline: LeakedResources | None = None,
        counts: bool = False,
        probe: Callable[..., object] | bool = False,
        strict: bool = True,
    ) -> Ran:
        """One run, judged. `limit`: of operations; `baseline`: what it leaks without faults.

        Unless it is `strict`, it is not stale where only some of the faults did not happen.
        """
        if any(step.is_crash for step in schedule):
            return self._crash_again(item, schedule, oracle, limit=limit, counts=counts)
        orders = Orders()
        log = orders.log = OperationLog(
            self._names(schedule), self._place_of, schedule=schedule, limit=limit, others=orders
        )
        item.stash[ORDER] = orders
        run = OngoingRun(log, oracle, probe, hangs=self._hangs_of(item) if schedule else None)
        self._is_plain = counts and not schedule
        before, began = Snapshot(self._before), MACHINE_CLOCK.monotonic()
        reports = self._reports(item, run, counts=counts)
        duration = MACHINE_CLOCK.monotonic() - began
        judged = judge(facts_of(run, reports, strict=strict), oracle.allowed, is_own)
        broken = "" if run.invariant is None else told(run.invariant)
        probed = None if run.probed is None else run.probe is None
        if not counts:
            run.forget()
        leaked, self._before = before.leaked(baseline), before
        if baseline is not None and judged[0].good and (more := leaked.more_than(baseline)):
            judged = judge(Facts(leaked=more), (), is_own)
        return Ran(
            outcome=run.outcome(judged, duration), reports=reports, leaked=leaked, probed=probed,
            broken=broken, raised=run.raised, is_in_doubt=run.probed is False,
        )  # fmt: skip

    def crash(
        self,
        item: pytest.Item,
        oracle: Oracle,
        *,
        wanted: Callable[[Step], bool],
        schedule: Schedule = (),
        is_over: Callable[[], bool] = lambda: False,
        earlier: CrashCheck | None = None,
        limit: CallLimit | None = None,
        counts: bool = False,
    ) -> tuple[Ran, CrashCheck]:
        """One run, and what the invariants say of the crashes in it, after all of its faults.

        `schedule`: of those, perhaps with a crash. `earlier`: of the same test.
        """
        faults = tuple(step for step in schedule if not step.is_crash)
        self._before = None
        log = TracedLog(self._names(schedule), self._place_of, schedule=faults, limit=limit)
        check = CrashCheck(log=log, wanted=wanted, is_over=is_over, is_own=is_own)
        if earlier is not None:
            check.known = earlier.known
        run = OngoingRun(log, oracle, probe=False, crashes=check)
        try:
            with awaiting_crashes(temporary_folder(self._config)):
                reports = self._reports(item, run, counts=counts)
        except UnavailableError as error:
            check.note = str(error)
            reports = self._reports(item, OngoingRun(log, oracle, probe=False), counts=counts)
        outcome = run.outcome(
            judge(facts_of(run, reports, strict=True), oracle.allowed, is_own), 0.0
        )
        none = LeakedResources()
        ran = Ran(outcome=outcome, reports=reports, leaked=none, probed=None, broken="", raised={})
        return ran, check

    def _crash_again(
        self,
        item: pytest.Item,
        schedule: Schedule,
        oracle: Oracle,
        *,
        limit: CallLimit | None,
        counts: bool,
    ) -> Ran:
        *_, crash = schedule
        ran, check = self.crash(
            item, oracle, schedule=schedule, limit=limit, counts=counts,
            wanted=lambda each: each.fault == crash.fault,
        )  # fmt: skip
        if not ran.outcome.verdict.good:
            return ran
        return replace(ran, outcome=check.outcome_of(crash))

    def _hangs_of(self, item: pytest.Item) -> KnownHangs:
        if self._hangs[0] is not item:
            folder = str(self._config.invocation_params.dir)
            self._hangs = item, KnownHangs(_SOON, folder)
        return self._hangs[1]

    def _names(self, schedule: Schedule) -> TargetNames:
        return target_names(self._config, schedule, self.patterns)

    def _reports(
        self, item: pytest.Item, run: OngoingRun, *, counts: bool
    ) -> list[pytest.TestReport]:
        engine, self._run = self._engine, run
        patience = run.oracle.patience
        silent = None if run.hangs is None else run.hangs.silent_loops
        faultless = item.stash.get(_FAULTLESS, 0.0)
        is_whole = patience == run.oracle.deadline  # one limit for all that is waited for
        loops = IdleLoops(faultless, patience, silent, most=patience if is_whole else math.inf)
        if run.hangs is not None:
            run.hangs.at_rest = lambda loop: loops.look_at_rest(loop) if run.log.positions else None
        most = max(faultless, _LEAST_LOCKED) if run.log.schedule else math.inf
        clock = engine.clock
        done = () if is_whole else run.log.noted
        engine.clock = SkippingClock(patience, loops.look, most_locked=most, done=done)
        began = MACHINE_CLOCK.monotonic()
        self._watch.log = run.log
        try:
            with threads_let_go() if run.log.schedule else nullcontext():
                return run_once(item, counts=counts)
        finally:
            self._watch.log, engine.clock, self._run = None, clock, None
            run.log.let_go()
            if not run.log.schedule:
                seconds = MACHINE_CLOCK.monotonic() - began
                item.stash[_FAULTLESS] = max(seconds, item.stash.get(_FAULTLESS, 0.0))

    # The innermost wrapper, as those of the session: what others do around is not under test.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        __tracebackhide__ = True
        run = self._run
        if run is None:
            return (yield)
        try:
            with run.faults(self._engine, item):
                result = yield
        except (KeyboardInterrupt, pytest.exit.Exception):
            raise
        except BaseException as error:
            option = item.config.option
            if run.log.schedule and not (option.showlocals or getattr(option, "usepdb", False)):
                for each in chain_of(error):  # as after an `except`, nothing is held for its sake
                    clear_frames(each.__traceback__, of_coroutines=False)
            self._look(run, item)
            raise
        self._look(run, item)
        return result

    def _look(self, run: OngoingRun, item: pytest.Item) -> None:
        run.afterwards(item)
        run.look_at_crashes(item, self._watch)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep the exception: a report has its text alone."""
        report = yield
        if self._run is not None and call.excinfo is not None:
            self._run.raised[call.when] = call.excinfo.value
        return report


def is_own(file: str) -> bool:
    """Whether a file is the project's, and no library's."""
    return not is_library(file)
