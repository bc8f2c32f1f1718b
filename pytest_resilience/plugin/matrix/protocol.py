"""The matrix: each test once calm, then once under each experiment, in one session."""

from __future__ import annotations

import time

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any
from typing import Protocol

import pytest

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.plugin.experiment_request import Requested
from pytest_resilience.plugin.matrix.baseline_runs import CalmRuns
from pytest_resilience.plugin.matrix.baseline_runs import Watches
from pytest_resilience.plugin.matrix.expectation import Expectation
from pytest_resilience.plugin.matrix.expectation import deadline
from pytest_resilience.plugin.matrix.leaks import Leftovers
from pytest_resilience.plugin.matrix.leaks import Snapshot
from pytest_resilience.plugin.matrix.plan import Planned
from pytest_resilience.plugin.matrix.plan import in_shard
from pytest_resilience.plugin.matrix.plan import plan_of
from pytest_resilience.plugin.matrix.rerun import finish
from pytest_resilience.plugin.matrix.rerun import run_once
from pytest_resilience.plugin.matrix.results import CELLS
from pytest_resilience.plugin.matrix.results import PLAN
from pytest_resilience.plugin.matrix.results import Results
from pytest_resilience.plugin.matrix.timeline import Timeline
from pytest_resilience.plugin.matrix.verdict import Judgement
from pytest_resilience.plugin.matrix.verdict import of_calm_run
from pytest_resilience.plugin.matrix.verdict import of_cell
from pytest_resilience.plugin.scope import ChaosScope
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict


__all__ = ["Matrix", "register"]

_RUNNING_NOTHING = ("collectonly", "setuponly", "setupplan")

_EXPECTED = pytest.StashKey[Expectation]()
_LIMIT = pytest.StashKey[float]()
_RAISED = pytest.StashKey[dict[str, BaseException]]()


class Runs(Watches, Protocol):
    """What knows which experiments a test is run under: the chaos session."""

    def running(self, item: pytest.Item, requested: Requested) -> AbstractContextManager[None]:
        """Put every run of `item` in the block under one experiment more."""

    def last(self, item: pytest.Item) -> ChaosScope | None:
        """What was chaotic about the last run of `item`."""


def register(config: pytest.Config, session: Runs, settings: Settings) -> None:
    """Let this process run the matrix; where the terminal is, collect what all have found.

    A run that runs no tests, as with --collect-only, is none.
    """
    if any(config.getoption(option, False) for option in _RUNNING_NOTHING):
        return
    results = None
    if not hasattr(config, "workerinput"):
        results = Results.register(config, settings)
    calm = CalmRuns(session)
    config.pluginmanager.register(calm, "resilience-calm-runs")
    config.pluginmanager.register(Matrix(session, settings, calm, results), "resilience-matrix")


class Matrix:
    """Takes the place of pytest's own protocol for the tests that profiles select.

    Plugins that do so too, to run a test again when it fails, do not see these tests.
    """

    def __init__(
        self, session: Runs, settings: Settings, calm: CalmRuns, results: Results | None
    ) -> None:
        """`results`: of this process; None in a worker of xdist, which sends what it finds."""
        self._session = session
        self._settings = settings
        self._calm = calm
        self._results = results
        self._plan: dict[str, list[Planned]] = {}
        self._unsent: list[list[Any]] = []

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Read what the tests expect; bad marks are told of elsewhere."""
        result = yield
        self._take_part(items)
        for item in items:
            try:
                item.stash[_EXPECTED] = Expectation.of(item)
            except ConfigurationError:  # told with its line when all marks are checked, hereafter
                item.stash[_EXPECTED] = Expectation()
        return result

    def _take_part(self, items: list[pytest.Item]) -> None:
        """Leave to other machines what is theirs."""
        others = [item for item in items if not in_shard(item.nodeid, self._settings.shard)]
        if others:
            items[:] = [item for item in items if in_shard(item.nodeid, self._settings.shard)]
            others[0].config.hook.pytest_deselected(items=others)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan the cells, so that those which are never run are known to be missing."""
        self._plan = plan_of(session.items, self._settings)
        if self._results is not None:
            self._results.planned(self._all_planned())
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
        reports = self._calm.run(item, [each.requested for each in planned if not each.spared])
        usual = before.leftovers()
        spared = of_calm_run(reports)
        try:
            cells = [self._ended(item, each, spared, usual) for each in planned]
            end = finish(item, nextitem)
        except BaseException:
            finish(item, None)
            raise
        vars(reports[-1])[CELLS] = [cell.to_json() for cell in cells]
        if self._unsent:
            vars(reports[-1])[PLAN], self._unsent = self._unsent, []
        for report in [*reports, *([end] if end is not None else [])]:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _ended(
        self, item: pytest.Item, planned: Planned, spared: Judgement | None, usual: Leftovers
    ) -> Cell:
        """What came of a cell; where it is `spared`, without running it."""
        spared = spared or planned.spared or self._calm.spares(item, planned.requested)
        cell = planned.ended(*spared) if spared else self._run(item, planned, usual)
        told = item.ihook.pytest_resilience_verdict(item=item, cell=cell)
        cell = cell if told is None else told
        if self._results is not None:
            self._results.add(cell)
        return cell

    def _run(self, item: pytest.Item, planned: Planned, usual: Leftovers) -> Cell:
        expected = item.stash[_EXPECTED]
        item.stash[_LIMIT] = expected.deadline
        raised: dict[str, BaseException] = {}
        item.stash[_RAISED] = raised
        before, began = Snapshot(), time.perf_counter()
        timeline = Timeline()
        try:
            with self._session.running(item, planned.requested), timeline:
                reports = run_once(item, brief=True)
        finally:
            del item.stash[_LIMIT]
        scope = self._session.last(item)
        started = [] if scope is None else scope.started
        active_experiment = next(
            (each for asked, each in started if asked is planned.requested), None
        )
        verdict, reason = of_cell(reports, raised, expected, active_experiment)
        opened = self._calm.opened_before(item, planned.requested)
        if opened and verdict is CellVerdict.NEVER_FIRED:
            reason += f"; what a fixture opens before it is out of its reach: {', '.join(opened)}"
        raised.clear()  # tracebacks keep what their frames held
        left = before.leftovers(usual).beyond(usual)
        if left and verdict.good:
            verdict, reason = CellVerdict.LEAK, f"it left {left} behind"
        moments = timeline.moments(scope.timeline() if scope is not None else [])
        return planned.ended(
            verdict, reason, duration=time.perf_counter() - began, timeline=moments
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """End what hangs under chaos."""
        limit = item.stash.get(_LIMIT, None)
        if limit is None:
            return (yield)
        with deadline(limit):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep the exception: a report has its text alone."""
        if _LIMIT in item.stash and call.excinfo is not None:
            item.stash[_RAISED][call.when] = call.excinfo.value
        return (yield)
