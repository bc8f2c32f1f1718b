"""The gate of a run, where the terminal is: its cells, the exit status, the reports."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform

from collections.abc import Generator
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin import pytest_internals
from pytest_resilience.plugin.matrix.cells import configuration_of
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.formats import add_suite
from pytest_resilience.report.gate import Baseline
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.gate import Problem
from pytest_resilience.report.gate import judge
from pytest_resilience.report.gate import problem_texts
from pytest_resilience.report.gate import read_baseline
from pytest_resilience.report.json_reader import Fields
from pytest_resilience.report.report_files import append_summary
from pytest_resilience.report.report_files import check_writable
from pytest_resilience.report.report_files import write_reports
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Shard
from pytest_resilience.report.run_report import combine
from pytest_resilience.report.run_report import fingerprint


__all__ = ["CELLS", "MATRIX_FAILED", "PLAN", "EarlyEnd", "Grid", "Results", "begun"]

CELLS = "resilience_cells"
"""The attribute of a report under which the cells of a test travel."""

PLAN = "resilience_plan"
"""The attribute of a worker's first report under which its plan travels."""

MATRIX_FAILED = 10
"""The exit status of a run whose tests passed and whose matrix did not."""

_NAME = "resilience-results"
_MOST_ROWS = 50  # of a grid
_EXPLORED = fingerprint([{"explored": "every operation"}])  # whatever the budget is


def _now() -> datetime.datetime:
    return datetime.datetime.fromtimestamp(MACHINE_CLOCK.time(), datetime.UTC)


_SUMMARY = "GITHUB_STEP_SUMMARY"


def begun(settings: Settings, configuration: str) -> Report:
    """The report of a run that begins now, in which nothing has happened yet."""
    return Report(
        cells=(),
        configuration=configuration,
        profiles=tuple(profile.name for profile, _ in settings.profiles),
        seed=settings.seed,
        started_at=_now().isoformat(timespec="seconds"),
        python=platform.python_version(),
        pytest=pytest.__version__,
        plugin=metadata.version("pytest-resilience"),
    )


class _CellLog:
    """The cells of a run, planned and finished, here or in workers of xdist.

    Attributes:
        finished: in the order in which they ended.
    """

    def __init__(self, settings: Settings, shard: tuple[int, int]) -> None:
        self.finished: list[Cell] = []
        self._planned: dict[tuple[str, str], Cell] = {}
        self._failing = 0
        self._began = MACHINE_CLOCK.monotonic()
        index, count = shard
        explores = settings.matrix is not None and settings.matrix.explores
        profiles = [profile for profile, _ in settings.profiles]
        configuration = _EXPLORED if explores else configuration_of(profiles)
        self._report = dataclasses.replace(
            begun(settings, configuration), shard=Shard(index=index, count=count)
        )

    def plan(self, cells: Iterable[Cell]) -> None:
        """These are to be run, here or elsewhere."""
        for cell in cells:
            self._planned.setdefault(cell.key, cell)

    def add(self, cell: Cell) -> None:
        """A cell has been run."""
        self.finished.append(cell)
        self._failing += cell.verdict.fails

    def progress(self) -> str:
        """How far the run is, in a line."""
        done, total = len(self.finished), max(len(self._planned), len(self.finished))
        left = (MACHINE_CLOCK.monotonic() - self._began) / done * (total - done)
        return f"matrix {done}/{total}, {self._failing} not good, {left:.0f} s left"

    def report(self, interrupted: str = "") -> Report:
        """The report of the cells so far; `interrupted`: why the run came to an early end."""
        keys = {cell.key for cell in self.finished}
        missing = [cell for key, cell in self._planned.items() if key not in keys]
        return dataclasses.replace(
            self._report,
            cells=combine([*self.finished, *missing]),
            interrupted=interrupted or _never_run(missing),
        )


class EarlyEnd:
    """Notes why a run came to an early end, here or in a worker of xdist: a base of plugins."""

    _interrupted = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker that crashed takes along what it has found."""
        if error:
            self._interrupted = f"worker {node.gateway.id} crashed"

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        """The report is written all the same."""
        self._interrupted = "it was interrupted"

    def why_ended(self, session: pytest.Session) -> str:
        """Why; "" if the run came to its end."""
        return self._interrupted or str(session.shouldstop or session.shouldfail or "")


class Results(EarlyEnd):
    """Collects the cells where the terminal is, and judges them in the end."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        """Raises `pytest.UsageError` for what could not be written or compared in the end."""
        assert settings.matrix is not None
        self._config = config
        self._settings = settings.matrix
        self._process = os.getpid()
        self._cells = _CellLog(settings, settings.matrix.shard)
        self._outcome: tuple[Report, GateResult] | None = None
        self._errors: list[str] = []  # reports that could not be written
        self._failed = False
        self._junit = _junit_file(config)
        try:
            for path in settings.matrix.reports:
                check_writable(path)
            self._baseline = self._read_baseline(settings.matrix.baseline)
        except ConfigurationError as error:
            raise pytest.UsageError(printable(with_page(error))) from None

    @classmethod
    def register(cls, config: pytest.Config, settings: Settings) -> Results:
        """Register one with pytest, once."""
        found = config.pluginmanager.get_plugin(_NAME)
        if found is None:
            found = cls(config, settings)
            config.pluginmanager.register(found, _NAME)
        assert isinstance(found, cls)
        return found

    def _read_baseline(self, path: Path | None) -> Baseline | None:
        if path is None:
            return None
        baseline = read_baseline(path)
        baseline.check(self._cells.report())
        return baseline

    def plan(self, cells: Iterable[Cell]) -> None:
        """These are to be run, here or elsewhere."""
        self._cells.plan(cells)

    def add(self, cell: Cell) -> None:
        """A cell has been run: progress on a terminal, elsewhere a line if it is bad."""
        self._cells.add(cell)
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or self._config.option.verbose < 0:
            return
        if self._settings.explores:
            return  # an exploration tells of whole tests
        if pytest_internals.Progress.is_wanted(self._config):
            pytest_internals.Progress.of(self._config).show(self._cells.progress())
        elif cell.verdict.fails:
            terminal.ensure_newline()
            terminal.write_line(
                printable(f"{cell.verdict.words}: {cell.test} under {cell.experiment!r}")
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take over what a worker has found; what was found here is known already."""
        plan, cells = (vars(report).pop(name, ()) for name in (PLAN, CELLS))  # reports are kept
        self.plan([Cell.from_json(Fields(each)) for each in plan])
        if getattr(report, "node", None) is not None:
            for each in cells:
                self.add(Cell.from_json(Fields(each)))

    # Innermost: then the JUnit file is there, and the terminal has not summed up.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge, and write the reports; also when the run was interrupted."""
        if os.getpid() != self._process:
            return (yield)  # a forked child of a test: the reports are its parent's
        report = self._cells.report(self.why_ended(session))
        gate = judge(
            report,
            threshold=self._settings.gate,
            baseline=self._baseline,
            today=_now().date(),
        )
        self._outcome = report, gate
        self._errors = write_reports(self._settings.reports, report, gate)
        if os.environ.get(_SUMMARY):
            try:
                append_summary(Path(os.environ[_SUMMARY]), report, gate)
            except OSError as error:
                self._errors.append(f"{_SUMMARY} was not written: {error}")
        result = yield
        self._add_to_junit(report, gate)
        self._failed = bool(self._errors) or not (gate.passed or self._settings.report_only)
        if self._failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = MATRIX_FAILED
        return result

    def _add_to_junit(self, report: Report, gate: GateResult) -> None:
        """Give the cells a suite of their own in the file that pytest has just written."""
        if self._junit is None or not report.cells:
            return
        try:
            add_suite(self._junit, report, gate, prefix=self._config.option.junitprefix)
        except (OSError, ElementTree.ParseError) as error:
            self._errors.append(f"{self._junit} did not get the cells: {error}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> Generator[None, object, object]:
        """Show what survived, and let the last line count the cells, beside the tests.

        That comes after all other plugins, which take for reports what they find counted.
        """
        if self._outcome is None or exitstatus == pytest.ExitCode.USAGE_ERROR:
            return (yield)
        report, gate = self._outcome
        result = yield
        self._show(terminalreporter, report, gate)
        if report.cells:
            pytest_internals.count_in_last_line(
                terminalreporter, _tally(report, gate), report.cells, failed=self._failed
            )
        return result

    def _show(
        self, terminalreporter: pytest.TerminalReporter, report: Report, gate: GateResult
    ) -> None:
        terminalreporter.section("gate" if self._settings.explores else "resilience matrix")
        if not self._settings.explores:  # which has told what it is about, and of each test
            self._show_cells(terminalreporter, report)
        whole, style = self._config.option.verbose > 0, self._config.option.tbstyle
        if self._settings.explores and not whole and self._baseline is not None:
            style = "no"  # how they stand with the baseline
        for text in problem_texts(self._untold(gate, whole=whole), whole=whole, style=style):
            terminalreporter.line(printable(text))
        for note in gate.notes:
            terminalreporter.line(printable(f"note: {note}"))
        terminalreporter.line(printable(str(gate)), red=not gate.passed, green=gate.passed)
        if self._settings.report_only:
            terminalreporter.line("reported only: this fails no run")
        for path in self._settings.reports:
            terminalreporter.line(f"report: {path}")
        for text in self._config.hook.pytest_resilience_report_section(report=report):
            terminalreporter.line(text)
        for failure in self._errors:
            terminalreporter.line(printable(f"ERROR: {failure}"), red=True)

    def _untold(self, gate: GateResult, *, whole: bool) -> list[Problem]:
        """Without what the exploration has told already: each way to fail, with what repeats it."""
        is_told = self._settings.explores and not whole and self._baseline is None
        return [each for each in gate.problems if not (is_told and each.cell.verdict.bad)]

    def _show_cells(self, terminal: pytest.TerminalReporter, report: Report) -> None:
        verbosity = self._config.option.verbose
        if verbosity >= 0:
            terminal.line(INTRODUCTION)
            if terminal.isatty and report.cells:
                width = self._config.get_terminal_writer().fullwidth
                _show_grid(terminal, Grid(report.cells, width))
        if verbosity >= -1:
            for line in _counts(report):
                terminal.line(printable(line))
        if verbosity > 0:
            for cell in report.cells:
                if not (cell.verdict.good or cell.verdict.fails):
                    name = f"{cell.verdict.words}: {cell.test} under {cell.experiment!r}"
                    terminal.line(printable(f"{name}: {cell.reason}"))


class Grid:
    """Tests by experiments, a letter for each cell, cut to the width of a terminal.

    Attributes:
        rows: the name of a test, padded, and the verdicts with what is shown of each.
        legend: what the letters and the columns mean, and what is left out.
    """

    def __init__(self, cells: Iterable[Cell], width: int) -> None:
        tests: dict[str, dict[str, CellVerdict]] = {}
        for cell in cells:
            tests.setdefault(cell.test, {})[cell.experiment] = cell.verdict
        experiments = list(dict.fromkeys(name for found in tests.values() for name in found))
        wide = len(str(len(experiments))) + 1
        columns = min(len(experiments), max(1, width // 2 // wide))
        room = min(max(map(len, tests)), max(1, width - 1 - columns * wide))
        self.rows = [
            (
                _end_of(test, room).ljust(room),
                [
                    (found[name], found[name].letter.rjust(wide))
                    if name in found
                    else (CellVerdict.NOT_RUN, " " * wide)
                    for name in experiments[:columns]
                ],
            )
            for test, found in list(tests.items())[:_MOST_ROWS]
        ]
        seen = {verdict for found in tests.values() for verdict in found.values()}
        self.legend = [
            " " * room + "".join(str(number + 1).rjust(wide) for number in range(columns)),
            *(f"{number + 1} {name}" for number, name in enumerate(experiments[:columns])),
            ", ".join(f"{each.letter} {each.words}" for each in CellVerdict if each in seen),
        ]
        left = len(tests) - len(self.rows), len(experiments) - columns
        if any(left):
            self.legend.append(
                f"not shown: {counted(left[0], 'test')}, {counted(left[1], 'experiment')}"
            )


def _end_of(text: str, room: int) -> str:
    """Its end, which tells tests of one file apart."""
    return text if len(text) <= room else "…" + text[len(text) - room + 1 :]


def _show_grid(terminal: pytest.TerminalReporter, grid: Grid) -> None:
    for label, cells in grid.rows:
        terminal.write(printable(label))
        for verdict, text in cells:
            colours = {"green": verdict.good, "red": verdict.bad, "yellow": verdict.proves_nothing}
            terminal.write(text, **colours)
        terminal.line("")
    for line in grid.legend:
        terminal.line(printable(line))


def _tally(report: Report, gate: GateResult) -> str:
    """How many cells are good, bad and so on, as it stands behind their number."""
    verdicts = [cell.verdict for cell in report.cells]
    counts = {
        "good": sum(each.good for each in verdicts),
        "bad": sum(each.bad for each in verdicts) - len(gate.accepted),
        "accepted": len(gate.accepted),
        "proving nothing": sum(each.proves_nothing for each in verdicts),
        "left out": sum(not (each.good or each.fails) for each in verdicts),
    }
    parts = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"cell{'' if len(verdicts) == 1 else 's'} ({parts})"


def _junit_file(config: pytest.Config) -> Path | None:
    """Where pytest writes its JUnit file, if it does."""
    given = config.getoption("xmlpath", None)
    return Path(os.path.expandvars(given)).expanduser().absolute() if given else None


def _never_run(missing: list[Cell]) -> str:
    """Why a run that nobody has interrupted is not complete; "" if it is."""
    if not missing:
        return ""
    number = "1 planned cell was" if len(missing) == 1 else f"{len(missing)} planned cells were"
    return f"{number} never run, {missing[0].test} under {missing[0].experiment!r} first"


def _counts(report: Report) -> list[str]:
    """A line per experiment: how many cells of each verdict."""
    lines = []
    for name in dict.fromkeys(cell.experiment for cell in report.cells):
        verdicts = [cell.verdict for cell in report.cells if cell.experiment == name]
        parts = [f"{verdicts.count(each)} {each.words}" for each in CellVerdict if each in verdicts]
        lines.append(f"{name}: {', '.join(parts)}")
    return lines
