"""The report of a run that is no matrix: what was injected into each test, and how it ended."""

from __future__ import annotations

import dataclasses
import os

from collections import defaultdict
from collections.abc import Generator
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.matrix.results_and_exit_status import CELLS
from pytest_resilience.plugin.matrix.results_and_exit_status import MATRIX_FAILED
from pytest_resilience.plugin.matrix.results_and_exit_status import EarlyEnd
from pytest_resilience.plugin.matrix.results_and_exit_status import begun
from pytest_resilience.plugin.options import as_argument
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.plugin.settings import report_files
from pytest_resilience.plugin.terminal import RECORD
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.chaos_record import ChaosRecord
from pytest_resilience.report.chaos_record import ExperimentRecord
from pytest_resilience.report.chaos_record import TimelineRecorder
from pytest_resilience.report.json_reader import Fields
from pytest_resilience.report.report_files import check_writable
from pytest_resilience.report.report_files import write_reports
from pytest_resilience.report.run_report import combine
from pytest_resilience.report.run_report import fingerprint


__all__ = ["report_on"]

_TIMELINE = "resilience_timeline"
"""The attribute of a teardown report under which a test's timeline travels."""

_AROUND_MANY = frozenset({"flag", "profile", "monkey", "proxy"})  # who need not hit every test


def report_on(config: pytest.Config, session: ChaosSession) -> None:
    """Record the tests of this process; where the terminal is, write what all have recorded.

    Raises `pytest.UsageError` for a file that could not be written.
    """
    config.pluginmanager.register(_Timelines(session), "resilience-timelines")
    if not is_worker(config):
        config.pluginmanager.register(_Reporter(config, session.settings), "resilience-reporter")


class _Timelines:
    """Records the timeline of each test."""

    def __init__(self, session: ChaosSession) -> None:
        self._session = session
        self._timeline = TimelineRecorder()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        with TimelineRecorder() as self._timeline:
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if RECORD in vars(report):
            scope = self._session.last_scope(item)
            faults = [] if scope is None else scope.faults.timeline()
            entries = self._timeline.moments(faults)
            vars(report)[_TIMELINE] = [entry.to_json() for entry in entries]
        return report


@dataclasses.dataclass(slots=True)
class _Ending:
    """How a test ended, as far as its reports have come.

    Attributes:
        duration: seconds.
        failed: the phase that did, with the error; "" if none has.
        skipped: why, if it was.
        excused: the error of a failure that was expected.
        passed: whether the test function did, or failed as expected.
    """

    duration: float = 0.0
    failed: str = ""
    skipped: str = ""
    excused: str = ""
    passed: bool = False

    def add(self, report: pytest.TestReport) -> None:
        self.duration += report.duration
        error = _error(report)
        if report.failed:
            where = "" if report.when == "call" else f"in {report.when}: "
            self.failed = self.failed or where + error
        elif hasattr(report, "wasxfail"):
            self.excused = f"it failed as expected: {error}" if report.skipped else ""
            self.passed = True
        elif report.skipped:
            self.skipped = error
        elif report.when == "call":
            self.passed = True

    def under(self, row: ExperimentRecord) -> tuple[CellVerdict, str]:
        """The verdict on this test under an experiment, with its reason."""
        if not row.started:
            return CellVerdict.NOT_RUN, "the experiment did not start, by chance or as disabled"
        happened = bool(row.hits or row.pressure)
        if happened and self.failed:
            return CellVerdict.FAILED, self.failed
        if self.failed and not self.passed:
            reason = f"it failed although nothing was injected: {self.failed}"
            return CellVerdict.INVALID, reason
        if self.skipped:
            return CellVerdict.INVALID, f"it was skipped under the experiment: {self.skipped}"
        if happened:
            return CellVerdict.DEGRADED if self.excused else CellVerdict.SURVIVED, self.excused
        return _why_nothing_happened(row)


def _why_nothing_happened(row: ExperimentRecord) -> tuple[CellVerdict, str]:
    if row.matched:
        operations = "1 operation" if row.matched == 1 else f"{row.matched} operations"
        return CellVerdict.NEVER_FIRED, f"it matched {operations} and hit none"
    elsewhere = row.requested_by in _AROUND_MANY
    verdict = CellVerdict.NOT_APPLICABLE if elsewhere else CellVerdict.NEVER_FIRED
    return verdict, "the test did nothing that the experiment could hit"


class _Reporter(EarlyEnd):
    """Makes cells of the records of all tests, here or from workers of xdist, and writes them."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._process = os.getpid()
        self._begun = begun(settings, "")
        self._endings: dict[str, _Ending] = defaultdict(_Ending)
        self._tried: list[tuple[ExperimentRecord, Cell]] = []
        self._explored: list[Cell] = []
        self._errors: list[str] = []
        self._files = report_files(config)
        try:
            for path in self._files:
                check_writable(path)
        except ConfigurationError as error:
            raise pytest.UsageError(printable(with_page(error))) from None

    @pytest.hookimpl(tryfirst=True)  # before the summary takes the record
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = vars(report)
        self._endings[report.nodeid].add(report)
        self._explored += [Cell.from_json(Fields(each)) for each in found.pop(CELLS, ())]
        timeline = [TimelineEntry.from_json(Fields(each)) for each in found.pop(_TIMELINE, ())]
        if report.when == "teardown":
            ending = self._endings.pop(report.nodeid)
            if RECORD in found:
                self._add(ChaosRecord.from_json(found[RECORD]), ending, tuple(timeline))

    def _add(
        self, record: ChaosRecord, ending: _Ending, timeline: tuple[TimelineEntry, ...]
    ) -> None:
        for row in record.experiments:
            verdict, reason = ending.under(row)
            cell = Cell(
                test=record.nodeid,
                experiment=row.name,
                what=row.what,
                verdict=verdict,
                reason=reason,
                repeat=self._settings.repeat.command(as_argument(self._config, record.nodeid)),
                duration=ending.duration,
                timeline=timeline if row.started else (),
            )
            self._tried.append((row, cell))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if os.getpid() != self._process:
            return  # a forked child of a test: the reports are its parent's
        cells = combine([*_named(self._tried), *self._explored])
        experiments = {cell.experiment: cell.what for cell in cells}
        report = dataclasses.replace(
            self._begun,
            cells=cells,
            configuration=fingerprint({name: what} for name, what in experiments.items()),
            interrupted=self.why_ended(session),
        )
        self._errors = write_reports(self._files, report)
        if self._errors and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = MATRIX_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if os.getpid() != self._process:
            return
        if self._config.option.verbose >= -1:
            for path in self._files:
                terminalreporter.line(f"report: {path}")
        for failure in self._errors:
            terminalreporter.line(printable(f"ERROR: {failure}"), red=True)


def _named(tried: Iterable[tuple[ExperimentRecord, Cell]]) -> list[Cell]:
    """The cells; where several experiments of the run have one name, they are told by more.

    Each is a column of the report.
    """
    tried = list(tried)
    alike: dict[str, set[str]] = defaultdict(set)
    asked: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row, cell in tried:
        alike[row.name].add(row.what)
        asked[cell.test, row.what].add(row.requested_by)
    return [
        dataclasses.replace(
            cell,
            experiment=(row.name if len(alike[row.name]) == 1 else row.what)
            + (f" [{row.requested_by}]" if len(asked[cell.test, row.what]) > 1 else ""),
        )
        for row, cell in tried
    ]


def _error(report: pytest.TestReport) -> str:
    """What a report says of an exception or a skip, in short; "" where there was none."""
    found: Any = report.longrepr
    if isinstance(found, tuple):
        return str(found[2]).removeprefix("Skipped: ")
    crash = getattr(found, "reprcrash", None)
    return str(found or "") if crash is None else str(crash.message)
