"""One run of a test under a schedule: faults on, faults off, and what came of it."""

from __future__ import annotations

import gc
import inspect
import math
import sys

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import ExitStack
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.possible_faults import CANCELS
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.diagnosis import had_nothing_to_alter
from pytest_resilience.errors import ClockStalledError
from pytest_resilience.errors import ResilienceError
from pytest_resilience.errors import UnavailableError
from pytest_resilience.exploration.call_limit import CallLimit
from pytest_resilience.exploration.call_limit import StormError
from pytest_resilience.exploration.operation_log import OperationLog
from pytest_resilience.exploration.operation_log import SilenceError
from pytest_resilience.exploration.operation_log import SkippingClock
from pytest_resilience.exploration.operation_log import Watch
from pytest_resilience.exploration.outcome import Facts
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.outcome import chain_of
from pytest_resilience.exploration.outcome import judge
from pytest_resilience.exploration.outcome import text_in_chain
from pytest_resilience.exploration.outcome import told
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.target_names import TargetNames
from pytest_resilience.plugin.exploration.crashes import CrashCheck
from pytest_resilience.plugin.exploration.crashes import TracedLog
from pytest_resilience.plugin.exploration.faults import all_seen
from pytest_resilience.plugin.exploration.faults import place_in
from pytest_resilience.plugin.exploration.faults import start
from pytest_resilience.plugin.exploration.faults import target_names
from pytest_resilience.plugin.exploration.idle_loops import IdleLoops
from pytest_resilience.plugin.exploration.orders import Orders
from pytest_resilience.plugin.exploration.settings import USUAL_DEADLINE
from pytest_resilience.plugin.exploration.settings import Oracle
from pytest_resilience.plugin.matrix.deadline import DeadlineError
from pytest_resilience.plugin.matrix.deadline import KnownHangs
from pytest_resilience.plugin.matrix.deadline import deadline
from pytest_resilience.plugin.matrix.deadline import virtual_deadline
from pytest_resilience.plugin.matrix.leaks import LeakedResources
from pytest_resilience.plugin.matrix.leaks import Snapshot
from pytest_resilience.plugin.matrix.leaks import old_objects_kept
from pytest_resilience.plugin.pytest_internals import run_once
from pytest_resilience.plugin.pytest_internals import temporary_folder
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.plugin.virtual_time import ORDER
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.runtime import awaiting_crashes
from pytest_resilience.stacks import clear_frames
from pytest_resilience.stacks import is_library


__all__ = ["ExploredRuns", "Ran", "is_own"]

_FAULTLESS = pytest.StashKey[float]()  # seconds of its longest run without faults
_LEAST_LOCKED = 0.3  # seconds that others of the test may have a database locked for
_SOON = 0.3  # seconds, after which who waits where a run has hung before hangs as well
_HANGS = (DeadlineError, SilenceError, ClockStalledError)


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


class _Run:
    """The run that goes on.

    Attributes:
        raised: exceptions by phase.
        active: the experiment of each step.
        invariant, probe: what they raised.
        probed: whether what a probe did counts, and not only raises doubts; None if there was none.
    """

    def __init__(
        self,
        log: OperationLog,
        oracle: Oracle,
        probe: Callable[..., object] | bool,
        crashes: CrashCheck | None = None,
        hangs: KnownHangs | None = None,
    ) -> None:
        """`crashes`: that are to be looked at when it is over. `hangs`: of runs before it."""
        self.log = log
        self.oracle = oracle
        self.crashes = crashes
        self.hangs = hangs
        self.raised: dict[str, BaseException] = {}
        self.active: dict[Step, ActiveExperiment] = {}
        self.invariant: BaseException | None = None
        self.probe: BaseException | None = None
        self.probed: bool | None = None
        self._wanted = probe

    @contextmanager
    def faults(self, engine: Engine, item: pytest.Item) -> Iterator[None]:
        """In the block the test's own operations are named, and have their faults."""
        with ExitStack() as stack:
            if self.crashes is not None:
                stack.enter_context(self.crashes.recording(engine, item))
            self.active = start(self.log, engine, stack)
            self.log.is_open = True
            stack.callback(setattr, self.log, "is_open", False)
            limit = self.oracle.deadline
            stack.enter_context(deadline(limit, self.hangs))
            stack.enter_context(virtual_deadline(limit, usual=USUAL_DEADLINE))
            yield

    def outcome(self, judged: tuple[CellVerdict, str, Signature], duration: float) -> Outcome:
        """With what the run did."""
        verdict, reason, signature = judged
        return Outcome(
            verdict=verdict,
            reason=reason,
            signature=signature,
            seen=tuple(self.log.seen),
            positions=self.log.positions,
            hit=frozenset(step for step, one in self.active.items() if one.hits)
            | self.log.of_others,
            in_vain=self.log.in_vain,
            impossible=self.log.woke_nobody or any(map(had_nothing_to_alter, self.active.values())),
            duration=duration,
        )

    def forget(self) -> None:
        """Let go of what was raised, and of what that holds: frames, and sockets.

        Other plugins keep errors until the test is over, which is not to look like a leak.
        """
        for error in chain_of(*self.raised.values(), self.invariant, self.probe):
            clear_frames(error.__traceback__)
            error.__traceback__ = None  # a frame that is cleared still has its function's closure
            vars(error).clear()
        self.raised.clear()
        self.invariant = self.probe = None
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)  # as pytest does, when the next test begins

    def look_at_crashes(self, item: pytest.Item, watch: Watch) -> None:
        """Show the invariants what a crash may leave of the test's files."""
        if self.crashes is not None and self.invariant is None:
            names = {name for each in self.oracle.invariants for name in _arguments(each, item)}
            found: dict[str, Any] = getattr(item, "funcargs", {})
            fixtures = {name: each for name, each in found.items() if name in names}
            self.crashes.look(fixtures, lambda values: self._broken(item, values), watch)

    def _broken(
        self, item: pytest.Item, values: Mapping[str, Any] = MappingProxyType({})
    ) -> BaseException | None:
        """What the first invariant raises that does not hold. `values`: of some fixtures."""
        for invariant in self.oracle.invariants:
            found = _raised_by(invariant, item, self.oracle.deadline, values, self.hangs)
            if found is not None:
                return found
        return None

    def afterwards(self, item: pytest.Item) -> None:
        """See with the faults off whether what has to hold does, and whether it works again."""
        self.invariant = self._broken(item)
        if self.invariant is None and self._wanted is not False:
            self.probed = True
            again = item.runtest if self._wanted is True else self._wanted
            self.probe = _raised_by(again, item, self.oracle.deadline, hangs=self.hangs)
            if self.oracle.probe is None and self._is_as_it_should(self.probe):
                self.probe, self.probed = None, not isinstance(self.probe, AssertionError)

    def _is_as_it_should(self, probe: BaseException | None) -> bool:
        """Whether the test may fail so when it runs once more, for it has failed before.

        A breaker that is open answers with something else. It does not open when its caller is
        cancelled: who gets a wrong answer afterwards got that of the call that was.
        """
        if isinstance(probe, ClockStalledError) or not self.log.schedule:
            return False
        if all(step.fault in CANCELS for step in self.log.schedule):
            return isinstance(probe, ResilienceError)
        return isinstance(probe, (AssertionError, ResilienceError))


class ExploredRuns:
    """Runs tests under schedules; registered with pytest, to be around what it calls.

    Attributes:
        patterns: of the names of files that are others in each run of the test.
    """

    def __init__(self, session: ChaosSession, config: pytest.Config) -> None:
        self.patterns: frozenset[Site] = frozenset()
        self._session = session
        self._run: _Run | None = None
        self._place_of = place_in(session.engine)
        self._watch = Watch()
        self._config = config
        self._is_plain = True
        self._hangs: tuple[pytest.Item | None, KnownHangs] = None, KnownHangs(_SOON)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """In the block every operation can be seen, before there is a fault."""
        with ExitStack() as stack:
            stack.enter_context(self._without_unclosed())
            stack.enter_context(old_objects_kept())
            stack.enter_context(all_seen(self._engine, self._watch))
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
        run = _Run(log, oracle, probe, hangs=self._hangs_of(item) if schedule else None)
        self._is_plain = counts and not schedule
        before, began = Snapshot(), MACHINE_CLOCK.monotonic()
        reports = self._reports(item, run, counts=counts)
        duration = MACHINE_CLOCK.monotonic() - began
        judged = judge(_facts(run, reports, strict=strict), oracle.allowed, is_own)
        broken = "" if run.invariant is None else told(run.invariant)
        probed = None if run.probed is None else run.probe is None
        if not counts:
            run.forget()
        leaked = before.leaked(baseline)
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
        log = TracedLog(self._names(schedule), self._place_of, schedule=faults, limit=limit)
        check = CrashCheck(log=log, wanted=wanted, is_over=is_over, is_own=is_own)
        if earlier is not None:
            check.known = earlier.known
        run = _Run(log, oracle, probe=False, crashes=check)
        try:
            with awaiting_crashes(temporary_folder(self._config)):
                reports = self._reports(item, run, counts=counts)
        except UnavailableError as error:
            check.note = str(error)
            reports = self._reports(item, _Run(log, oracle, probe=False), counts=counts)
        outcome = run.outcome(judge(_facts(run, reports, strict=True), oracle.allowed, is_own), 0.0)
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

    def _reports(self, item: pytest.Item, run: _Run, *, counts: bool) -> list[pytest.TestReport]:
        engine, self._run = self._engine, run
        patience = run.oracle.patience
        silent = None if run.hangs is None else run.hangs.silent_loops
        faultless = item.stash.get(_FAULTLESS, 0.0)
        loops = IdleLoops(faultless, patience, silent)
        most = max(faultless, _LEAST_LOCKED) if run.log.schedule else math.inf
        clock = engine.clock
        done = () if patience == run.oracle.deadline else run.log.noted  # one limit for all of them
        engine.clock = SkippingClock(patience, loops.look, most_locked=most, done=done)
        began = MACHINE_CLOCK.monotonic()
        self._watch.log = run.log
        try:
            return run_once(item, counts=counts)
        finally:
            self._watch.log, engine.clock, self._run = None, clock, None
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

    def _look(self, run: _Run, item: pytest.Item) -> None:
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


def _raised_by(
    function: Callable[..., object],
    item: pytest.Item,
    limit: float,
    values: Mapping[str, Any] = MappingProxyType({}),
    hangs: KnownHangs | None = None,
) -> BaseException | None:
    """What a function raises that is given the test's fixtures by its parameters.

    `values`: instead of those of some fixtures.
    """
    try:
        with deadline(limit, hangs):
            given = _arguments(function, item)
            found = function(**{name: values.get(name, each) for name, each in given.items()})
            if inspect.iscoroutine(found):
                import asyncio

                asyncio.run(found)
    except (KeyboardInterrupt, pytest.exit.Exception):
        raise
    except BaseException as error:
        return error
    return None


def _arguments(function: Callable[..., object], item: pytest.Item) -> dict[str, Any]:
    fixtures = getattr(item, "funcargs", {})
    is_test = function == getattr(item, "runtest", None)
    names = () if is_test else inspect.signature(function).parameters
    return {name: fixtures[name] for name in names if name in fixtures}


def _facts(run: _Run, reports: list[pytest.TestReport], *, strict: bool) -> Facts:
    """What is known of a run that is over, but for what it has leaked."""
    bad = next((report for report in reports if report.failed), None)
    error = None if bad is None else run.raised.get(bad.when or "")
    if bad is not None and error is None:
        error = AssertionError(f"it failed in {bad.when}")
    return Facts(
        void=_void(reports, run.raised),
        missed=_missed(run, strict=strict),
        hang=next(filter(None, (text_in_chain(error, each) for each in _HANGS)), ""),
        storm=text_in_chain(error, StormError),
        error=error,
        invariant=run.invariant,
        probe=run.probe,
    )


def _void(reports: list[pytest.TestReport], raised: dict[str, BaseException]) -> str:
    for report in reports:
        if report.failed and report.when == "setup":
            return f"its set-up failed this time: {raised.get('setup')!r}"
        if report.skipped and not hasattr(report, "wasxfail"):
            return "it was skipped this time"
    return ""


def _missed(run: _Run, *, strict: bool) -> str:
    unmet = run.log.unmet
    idle = [step for step, each in run.active.items() if not each.hits and step not in unmet]
    if not strict and len(unmet) + len(idle) < len(run.log.schedule):
        return ""
    if unmet:
        did = ", ".join(dict.fromkeys(str(each.point.site) for each in run.log.seen)) or "nothing"
        steps = ", ".join(str(step.point) for step in unmet)
        return f"{steps} did not come; the test did: {did}{run.log.needed}"
    if idle:
        return f"nothing of {', '.join(map(str, idle))} has happened to its operation"
    return ""
