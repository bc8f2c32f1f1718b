"""Takes the place of pytest's own protocol for tests that are explored, or run under schedules."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.plugin.experiment_requests import RunMode
from pytest_resilience.plugin.exploration.explorer import Explorer
from pytest_resilience.plugin.exploration.findings import EXPLORED
from pytest_resilience.plugin.exploration.findings import REPLAYED
from pytest_resilience.plugin.exploration.findings import ExplorationSummary
from pytest_resilience.plugin.exploration.findings import Found
from pytest_resilience.plugin.exploration.kept_schedules import SKIPPED
from pytest_resilience.plugin.exploration.kept_schedules import Store
from pytest_resilience.plugin.exploration.kept_schedules import UntriedSchedules
from pytest_resilience.plugin.exploration.recovery import Recovery
from pytest_resilience.plugin.exploration.runs import ExploredRuns
from pytest_resilience.plugin.exploration.runs import Ran
from pytest_resilience.plugin.exploration.settings import ExploreSettings
from pytest_resilience.plugin.exploration.settings import Plan
from pytest_resilience.plugin.exploration.settings import plan_of
from pytest_resilience.plugin.exploration.settings import replays_of
from pytest_resilience.plugin.matrix.results_and_exit_status import CELLS
from pytest_resilience.plugin.matrix.results_and_exit_status import Results
from pytest_resilience.plugin.pytest_internals import captured_throughout
from pytest_resilience.plugin.pytest_internals import tear_down
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.plugin.settings import report_files
from pytest_resilience.plugin.settings import runs_tests
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.report.cell import OWN_CHAOS
from pytest_resilience.report.cell import CellVerdict


__all__ = ["Exploration", "check_mark", "register"]

_NAME = "resilience-exploration"
_WITHOUT_TEXT = ("no", "line")  # styles of tracebacks that show no report's text


def register(config: pytest.Config, session: ChaosSession, *, own_chaos: AbstractSet[str]) -> None:
    """Let this process explore; where the terminal is, collect what all have found. Once.

    `own_chaos`: the fixtures of tests that have chaos of their own.
    """
    if config.pluginmanager.has_plugin(_NAME) or not runs_tests(config):
        return
    if session.settings.mode is not RunMode.INJECT:
        return
    store = Store(config, ExploreSettings.of(config).file)
    UntriedSchedules.register(config, store)
    results = None
    if not is_worker(config):
        if session.settings.matrix is not None:
            results = Results.register(config, session.settings)
        ExplorationSummary.register(config, store)
    runs = ExploredRuns(session, config)
    config.pluginmanager.register(runs, "resilience-explored-runs")
    config.pluginmanager.register(Exploration(session, runs, results, store, own_chaos), _NAME)


def check_mark(item: pytest.Item, mark: pytest.Mark) -> None:
    """Raise ConfigurationError for a bad mark `chaos_explore` or `chaos_replay`."""
    if mark.name == "chaos_explore":
        plan_of(item, ExploreSettings())
    elif mark.name == "chaos_replay":
        replays_of(item)


class Exploration:
    """Explores those tests that ask for it, or all, and repeats schedules.

    Plugins that run a test again when it fails do not see these tests.
    """

    def __init__(
        self,
        session: ChaosSession,
        runs: ExploredRuns,
        results: Results | None,
        store: Store,
        own_chaos: AbstractSet[str],
    ) -> None:
        """`results`: of this process; None in a worker of xdist, which sends what it finds."""
        self._own_chaos = own_chaos
        self._session = session
        self._runs = runs
        self._results = results
        self._store = store

    def _plan_of(self, item: pytest.Item) -> Plan | None:
        """How a test is explored; None if it is not."""
        suite = ExploreSettings.of(item.config).suite
        marked = item.get_closest_marker("chaos_explore") is not None
        if item.get_closest_marker("no_chaos") is not None or not (suite or marked):
            return None
        return plan_of(item, ExploreSettings.of(item.config))

    def _replays_of(self, item: pytest.Item) -> list[Schedule]:
        """The schedules that a test is only repeated under."""
        settings = ExploreSettings.of(item.config)
        if settings.replay is not None:
            return [settings.replay]
        kept = self._store.of(item.nodeid) if settings.file and not settings.suite else []
        return [*replays_of(item), *kept]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        """Run a test as often as it takes."""
        replays = self._replays_of(item)
        plan = None if replays else self._plan_of(item)
        if not replays and plan is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            with captured_throughout(item.config):
                with self._runs.observing():
                    explored = None if plan is None else self._explore(item, plan)
                    reports = self._replay(item, replays) if explored is None else explored
                end = tear_down(item, nextitem)
        except BaseException:
            tear_down(item, None)
            raise
        for report in [*reports, *([end] if end is not None else [])]:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _explore(self, item: pytest.Item, plan: Plan) -> list[pytest.TestReport]:
        explorer = Explorer(item, self._runs, plan, self._session.settings, self._store)
        if not plan.marked and self._has_own_chaos(item):
            reports, found = explorer.left_alone(
                f"{OWN_CHAOS}; mark it chaos_explore to explore it all the same"
            )
        else:
            reports, found = explorer.explore()
        in_matrix = self._session.settings.matrix is not None
        is_told = not in_matrix and _fail(reports, found, whole=_is_verbose(item))
        if item.config.option.tbstyle in _WITHOUT_TEXT:
            is_told = False
        vars(reports[-1])[EXPLORED] = found.to_json(whole=_is_verbose(item), is_told=is_told)
        if not (in_matrix or report_files(item.config)):
            return reports
        cells = [
            item.ihook.pytest_resilience_verdict(item=item, cell=cell) or cell
            for cell in found.cells
        ]
        vars(reports[-1])[CELLS] = [cell.to_json() for cell in cells]
        if self._results is not None:
            for cell in cells:
                self._results.add(cell)
        return reports

    def _has_own_chaos(self, item: pytest.Item) -> bool:
        fixtures = getattr(item, "fixturenames", ())
        return item.get_closest_marker("chaos") is not None or not self._own_chaos.isdisjoint(
            fixtures
        )

    def _replay(self, item: pytest.Item, schedules: Sequence[Schedule]) -> list[pytest.TestReport]:
        """The reports of the first run that is not good, or of the last."""
        oracle = plan_of(item, ExploreSettings.of(item.config)).oracle
        faultless = self._runs.run(item, (), oracle, counts=True)
        if any(report.failed or report.skipped for report in faultless.reports):
            if not any(report.failed for report in faultless.reports):
                vars(faultless.reports[-1])[SKIPPED] = len(schedules)
            return faultless.reports
        limit, reports = oracle.limit(faultless.outcome.seen), faultless.reports
        for schedule in schedules:
            probe = oracle.probe if callable(oracle.probe) else oracle.probe is not False
            if probe is True:
                probe = bool(self._runs.run(item, (), oracle, probe=True).probed)
            ran = Recovery(self._runs, item, oracle).judged(
                schedule, limit=limit, baseline=faultless.leaked, counts=True, probe=probe,
                looks=oracle.probe is None,
            )  # fmt: skip
            reports = _judged(ran, schedule)
            if not ran.outcome.verdict.good:
                break
            if schedule is ExploreSettings.of(item.config).replay:  # which somebody looks at
                vars(reports[-1])[REPLAYED] = _line(item, ran.outcome)
        return reports


def _line(item: pytest.Item, outcome: Outcome) -> str:
    """What came of a test that has passed, which a dot does not tell."""
    why = "".join(f": {line}" for line in outcome.reason.splitlines()[:1])
    return f"{item.nodeid}: {outcome.verdict.words}{why}"


def _judged(ran: Ran, schedule: Schedule) -> list[pytest.TestReport]:
    """The reports of a replay, in which what is good has passed, and nothing else has."""
    outcome = ran.outcome
    first, *more = filter(str.strip, f"{outcome.verdict.words}: {outcome.reason}".splitlines())
    text = "\n".join([first, *more, f"under {format_schedule(schedule)}"])
    call = _own_call(ran.reports) or ran.reports[-1]
    if outcome.verdict.good:
        for report in ran.reports:
            if report.failed and report.when == "call":
                report.outcome, report.longrepr = "passed", None
    elif call.failed:
        call.sections.append(("chaos replay", text))
        crash = getattr(call.longrepr, "reprcrash", None)
        if crash is not None and outcome.verdict is not CellVerdict.FAILED:
            crash.message = first  # and not how the test ended, which may be allowed
    else:
        _fail_for(call, text)
    return ran.reports


def _own_call(reports: Sequence[pytest.TestReport]) -> pytest.TestReport | None:
    """That of the test's own call, which comes after those of its subtests."""
    return next((each for each in reversed(reports) if each.when == "call"), None)


def _is_verbose(item: pytest.Item) -> bool:
    return bool(item.config.option.verbose > 0)


def _fail(reports: list[pytest.TestReport], found: Found, *, whole: bool) -> bool:
    """Let a test that asked for it fail for what was found, and where nothing could be tried.

    Returns whether it does, so that its report tells what was found.
    """
    call = _own_call(reports)
    proves_nothing = not found.runs
    if call is None or hasattr(call, "wasxfail"):
        return False  # whether it may pass is what `xfail` says
    if call.passed and (found.failures or proves_nothing):
        text = found.note if proves_nothing else found.text(whole=whole)
        _fail_for(call, text)
        return True
    return False


def _fail_for(report: pytest.TestReport, text: str) -> None:
    """Let it fail as by `pytest.fail`: a mere text is nothing to the short summary of pytest 8."""
    try:
        pytest.fail(text, pytrace=False)
    except pytest.fail.Exception:
        told = pytest.ExceptionInfo.from_current().getrepr(style="value")
    if told.reprcrash is not None:
        told.reprcrash.message = text
        told.reprcrash.path, line, _ = report.location  # of the test, and not of this module
        told.reprcrash.lineno = (line or 0) + 1
    report.outcome, report.longrepr = "failed", told
