"""The matrix: each test without chaos, then under each experiment, in one session."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.plugin.experiment_requests import ExperimentRequest
from pytest_resilience.plugin.markers import DEADLINE
from pytest_resilience.plugin.markers import Expectation
from pytest_resilience.plugin.matrix.cells import Judgement
from pytest_resilience.plugin.matrix.cells import Planned
from pytest_resilience.plugin.matrix.cells import in_shard
from pytest_resilience.plugin.matrix.cells import judge_baseline_run
from pytest_resilience.plugin.matrix.cells import judge_cell
from pytest_resilience.plugin.matrix.cells import place_of
from pytest_resilience.plugin.matrix.cells import plan_of
from pytest_resilience.plugin.matrix.deadline import deadline
from pytest_resilience.plugin.matrix.deadline import virtual_deadline
from pytest_resilience.plugin.matrix.leaks import LeakedResources
from pytest_resilience.plugin.matrix.leaks import Snapshot
from pytest_resilience.plugin.matrix.leaks import old_objects_kept
from pytest_resilience.plugin.matrix.leaks import threads_let_go
from pytest_resilience.plugin.matrix.results_and_exit_status import CELLS
from pytest_resilience.plugin.matrix.results_and_exit_status import PLAN
from pytest_resilience.plugin.matrix.results_and_exit_status import Results
from pytest_resilience.plugin.pytest_internals import fixtures_of
from pytest_resilience.plugin.pytest_internals import run_once
from pytest_resilience.plugin.pytest_internals import tear_down
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.plugin.settings import runs_tests
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.report.cell import OWN_CHAOS
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.chaos_record import TimelineRecorder


__all__ = ["register"]

_BREAKING = frozenset({"postgres_chaos", "sqlite_chaos"})  # fixtures; they run no experiments

_EXPECTED = pytest.StashKey[Expectation]()
_DEADLINE = pytest.StashKey[float]()  # on an item while it runs under an experiment
_RAISED = pytest.StashKey[dict[str, BaseException]]()


@contextmanager
def _kept_errors(item: pytest.Item) -> Iterator[dict[str, BaseException]]:
    """While it lasts, the exceptions of a test are kept by phase."""
    raised = item.stash[_RAISED] = {}
    try:
        yield raised
    finally:
        del item.stash[_RAISED]
        raised.clear()  # tracebacks keep what their frames held


@contextmanager
def _limited(item: pytest.Item) -> Iterator[None]:
    """While it lasts, the test is ended at its deadline."""
    item.stash[_DEADLINE] = item.stash[_EXPECTED].deadline
    try:
        yield
    finally:
        del item.stash[_DEADLINE]


def register(config: pytest.Config, session: ChaosSession) -> None:
    """Let this process run the matrix; where the terminal is, collect what all have found."""
    if not runs_tests(config):
        return
    results = None
    if not is_worker(config):
        results = Results.register(config, session.settings)
    runs = BaselineRuns(session)
    config.pluginmanager.register(runs, "resilience-baseline-runs")
    config.pluginmanager.register(Matrix(session, runs, results), "resilience-matrix")


class Matrix:
    """Takes the place of pytest's own protocol for the tests that profiles select.

    Plugins that do so too, to run a test again when it fails, do not see these tests.
    """

    def __init__(
        self, session: ChaosSession, baseline_runs: BaselineRuns, results: Results | None
    ) -> None:
        """`results`: of this process; None in a worker of xdist, which sends what it finds."""
        self._session = session
        self._baseline_runs = baseline_runs
        self._results = results
        self._plan: dict[str, list[Planned]] = {}
        self._unsent: list[list[Any]] = []

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Read how the tests may end."""
        result = yield
        self._deselect_other_shards(items)
        for item in items:
            try:
                item.stash[_EXPECTED] = Expectation.of(item)
            except (
                ConfigurationError
            ):  # reported with its line when all marks are checked, after this
                item.stash[_EXPECTED] = Expectation()
        return result

    def _deselect_other_shards(self, items: list[pytest.Item]) -> None:
        """Leave to other machines the tests of their shards."""
        assert self._session.settings.matrix is not None
        shard = self._session.settings.matrix.shard
        others = [item for item in items if not in_shard(item.nodeid, shard)]
        if others:
            items[:] = [item for item in items if in_shard(item.nodeid, shard)]
            others[0].config.hook.pytest_deselected(items=others)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan the cells, so that those which are never run are known to be missing."""
        self._plan = plan_of(session.items, self._session.settings)
        if self._results is not None:
            self._results.plan(self._all_planned())
        else:
            self._unsent = [cell.to_json() for cell in self._all_planned()]  # type: ignore[misc]

    def _all_planned(self) -> list[Cell]:
        return [planned.cell for cells in self._plan.values() for planned in cells]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        """Run the matrix of one test."""
        planned = self._plan.get(item.nodeid)
        if not planned:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        before = Snapshot()
        to_run = [each.request for each in planned if not each.disabled]
        with _kept_errors(item) as raised:
            reports = self._baseline_runs.run(item, to_run)
            own = self._own_chaos(item)
            alone = "under its own chaos alone" if own else "without any experiment"
            idle = self._left_to_its_own(item, own)
            failed = idle or judge_baseline_run(reports, raised, item, alone=alone)
        try:
            leaked = before.leaked()
            if failed is None and leaked != LeakedResources():
                leaked = self._left_again(item)
            with old_objects_kept():
                cells = [self._finished(item, each, failed, leaked) for each in planned]
            end = tear_down(item, nextitem)
        except BaseException:
            tear_down(item, None)
            raise
        vars(reports[-1])[CELLS] = [cell.to_json() for cell in cells]
        if self._unsent:
            vars(reports[-1])[PLAN], self._unsent = self._unsent, []
        for report in [*reports, *([end] if end is not None else [])]:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _left_again(self, item: pytest.Item) -> LeakedResources:
        """What a test leaves without any experiment where all is set up that it shares."""
        before = Snapshot()
        with _limited(item):
            run_once(item, counts=False)
        return before.leaked()

    def _own_chaos(self, item: pytest.Item) -> str:
        """What the run before asked for of its own, by name; "" for nothing."""
        scope = self._session.last_scope(item)
        names = () if scope is None else scope.experiments.own
        return ", ".join([*names, *_BREAKING.intersection(getattr(item, "fixturenames", ()))])

    def _left_to_its_own(self, item: pytest.Item, own: str) -> Judgement | None:
        """The verdict on all cells of a test that says itself which chaos it is for."""
        if not own or item.stash[_EXPECTED].own_chaos:
            return None
        return CellVerdict.NOT_APPLICABLE, (
            f"{OWN_CHAOS} ({own}), and says how it ends under that alone; "
            "@pytest.mark.resilience(own_chaos=True) runs it under this experiment as well"
        )

    def _finished(
        self,
        item: pytest.Item,
        planned: Planned,
        failed: Judgement | None,
        leaked: LeakedResources,
    ) -> Cell:
        """A cell with its verdict; it is run only where nothing decides that before.

        `failed`: the verdict where the baseline run decides it; `leaked`: by that run.
        """
        judgement = (
            failed or planned.disabled or self._baseline_runs.not_applicable(planned.request)
        )
        if judgement is None:
            cell, left = self._run(item, planned, leaked)
            if cell.verdict is CellVerdict.LEAK:  # it is one that comes each time
                again, _ = self._run(item, planned, replace(leaked, there=left.there))
                cell = again if again.verdict.good else cell
        else:
            cell = planned.finished(*judgement)
        cell = item.ihook.pytest_resilience_verdict(item=item, cell=cell) or cell
        if self._results is not None:
            self._results.add(cell)
        return cell

    def _run(
        self, item: pytest.Item, planned: Planned, baseline: LeakedResources
    ) -> tuple[Cell, LeakedResources]:
        """A cell of one run, and what that has left."""
        before, began = Snapshot(), MACHINE_CLOCK.monotonic()
        timeline = TimelineRecorder()
        begun = self._session.matrix_experiment(item, planned.request)
        with _kept_errors(item) as raised:
            with _limited(item), threads_let_go(), begun, timeline:
                reports = run_once(item, counts=False)
            scope = self._session.last_scope(item)
            started = [] if scope is None else scope.experiments.started
            active_experiment = next(
                (each for request, each in started if request is planned.request), None
            )
            opened = self._baseline_runs.opened_before(planned.request)
            verdict, reason = judge_cell(
                reports, raised, item.stash[_EXPECTED], active_experiment, opened
            )
            at_fault = verdict is CellVerdict.INVALID and bool(raised)
            place = place_of(next(iter(raised.values()), None), item)
        left = before.leaked(baseline)
        if verdict.good and (leaked := left.more_than(baseline)):
            verdict, reason = CellVerdict.LEAK, f"it left {leaked} behind"
        if verdict.bad or at_fault:
            reason += f"\nat {place}"
        faults = [] if scope is None else scope.faults.timeline()
        cell = planned.finished(
            verdict,
            reason,
            duration=MACHINE_CLOCK.monotonic() - began,
            timeline=timeline.moments(faults),
        )
        return cell, left

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """End what hangs under chaos."""
        __tracebackhide__ = True
        limit = item.stash.get(_DEADLINE, None)
        if limit is None:
            return (yield)
        with deadline(limit), virtual_deadline(limit, usual=DEADLINE):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep the exception: a report has its text alone."""
        if _RAISED in item.stash and call.excinfo is not None:
            item.stash[_RAISED][call.when] = call.excinfo.value
        return (yield)


class BaselineRuns:
    """Runs one test after the other, and knows which operations the last one did.

    What a test does on a connection that a fixture opened before may not be seen. So a test that
    uses such a fixture is taken to use the connection. Fixtures of functions are made anew for
    each test, so that it is only in this one that they have opened any.
    """

    def __init__(self, session: ChaosSession) -> None:
        self._session = session
        self._recorder: Recorder | None = None
        self._last = Recorder(())
        self._opened: dict[str, set[str]] = {}  # kinds of operation, by the fixture's name
        self._opened_for_test: dict[str, set[str]] = {}
        self._fixtures: Sequence[str] = ()  # of the test that was run last

    def run(
        self, item: pytest.Item, requests: Iterable[ExperimentRequest]
    ) -> list[pytest.TestReport]:
        """The reports of a run; `requests` are what the test is to run under later."""
        with self._session.record(requests) as recorder:
            self._recorder = self._last = recorder
            self._opened_for_test, self._fixtures = {}, getattr(item, "fixturenames", ())
            try:
                return run_once(item, counts=True)
            finally:
                self._recorder = None

    def not_applicable(self, request: ExperimentRequest) -> Judgement | None:
        """The verdict on an experiment that can hit nothing in the test that was run last."""
        experiment = request.experiment
        if self._last.could_hit(experiment) or self.opened_before(request):
            return None
        did = "; ".join(self._last.lines) or "nothing that any could hit"
        kinds = ", ".join(sorted(self._last.possible_kinds(experiment)))
        return CellVerdict.NOT_APPLICABLE, f"it hits {kinds}; without chaos the test did: {did}"

    def opened_before(self, request: ExperimentRequest) -> list[str]:
        """The fixtures of the last test that have opened what the experiment could have hit."""
        kinds = self._last.possible_kinds(request.experiment)
        opened = self._opened | self._opened_for_test
        return [name for name in self._fixtures if not kinds.isdisjoint(opened.get(name, ()))]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Record what is opened by which fixture."""
        __tracebackhide__ = True
        if self._recorder is None:
            return (yield)
        with self._recorder.opening() as kinds:
            result = yield
        if kinds:
            lasting = self._opened if fixturedef.scope != "function" else self._opened_for_test
            lasting.setdefault(fixturedef.argname, set()).update(kinds)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record what the test does, and not what is done around it."""
        __tracebackhide__ = True
        if self._recorder is not None:
            self._fixtures = fixtures_of(item)
        with self._session.record_test():
            return (yield)
