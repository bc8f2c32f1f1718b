"""Schedules that were to be repeated and were not: their test is gone, or was skipped.

Whether a test is gone is known only of files that are collected whole, in a run that selects none
of their tests: of a part nothing is said.
"""

from __future__ import annotations

import os

from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.texts import counted
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.plugin.exploration.settings import ExploreSettings
from pytest_resilience.plugin.exploration.store import Store


__all__ = ["SKIPPED", "UntriedSchedules"]

SKIPPED = "resilience_untried"
"""The attribute of a report under which the number of schedules of a skipped test travels."""

_LOST = "resilience_lost_tests"  # by which a worker of xdist hands them over
_NAME = "resilience-untried"
_SELECTING = ("keyword", "markexpr", "deselect", "lf", "ignore", "ignore_glob", "pyargs")
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


class UntriedSchedules:
    """Says of which schedules nothing is known, where the terminal is, and lets the run fail."""

    def __init__(self, config: pytest.Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._process = os.getpid()
        self._settings = ExploreSettings.of(config)
        self._lost: dict[str, None] = {}  # node ids
        self._skipped: dict[str, int] = {}  # node ids, and how many schedules
        self._tried = 0  # tests
        self._collected: set[Path] = set()  # files, and folders
        self._incomplete: set[Path] = set()  # of those too

    @classmethod
    def register(cls, config: pytest.Config, store: Store) -> None:
        """Register one with pytest, in each process."""
        config.pluginmanager.register(cls(config, store), _NAME)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        # Else it has an error, or is skipped as a whole.
        whole = self._collected if report.passed else self._incomplete
        whole.add(self._file_of(report.nodeid))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Before others have chosen among them."""
        if any(getattr(config.option, name, None) for name in _SELECTING):
            return
        there = {item.nodeid for item in items}
        lost = [
            nodeid
            for nodeid in self._store.nodeids
            if nodeid not in there and self._is_collected(self._file_of(nodeid))
        ]
        if hasattr(config, "workeroutput"):
            config.workeroutput[_LOST] = lost
        self._lost = dict.fromkeys(lost)

    def _file_of(self, nodeid: str) -> Path:
        return self._config.rootpath / nodeid.partition("::")[0]

    def _is_collected(self, file: Path) -> bool:
        """Whether all tests of a file are; or it is there no more, and not only ignored."""
        if file not in self._collected and file.exists():
            return False
        folder = self._config.invocation_params.dir
        chosen = [Path(os.path.abspath(folder / each)) for each in self._config.args]
        return not any(each == file or each in file.parents for each in self._incomplete) and any(
            each == file or each in file.parents for each in chosen
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of xdist knows; the controller collects nothing."""
        self._lost |= dict.fromkeys(getattr(node, "workeroutput", {}).get(_LOST, ()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = vars(report).pop(SKIPPED, None)
        if found:
            self._skipped[report.nodeid] = found
        elif report.when == "call":
            self._tried += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._is_here:
            return
        nothing = self._settings.replay is not None and self._skipped and not self._tried
        is_gone = self._lost and not self._settings.suite
        if (is_gone or nothing) and session.exitstatus in _GREEN:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def _is_here(self) -> bool:
        """Whether this is the process that has the terminal."""
        return not hasattr(self._config, "workerinput") and os.getpid() == self._process

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._is_here:
            return
        if self._lost or self._skipped:
            terminalreporter.section("schedules that were not tried")
        forgotten = self._settings.suite
        for nodeid in self._lost:
            kept = counted(len(self._store.of(nodeid)), "schedule")
            what = "forgotten" if forgotten else f"give its new name in {self._store.place}"
            line = f"{nodeid}: there is no such test any more, with {kept}; {what}"
            terminalreporter.line(printable(line), red=not forgotten)
        for nodeid, number in self._skipped.items():
            line = f"{nodeid}: it was skipped, with {counted(number, 'schedule')}"
            terminalreporter.line(printable(line))
        if forgotten:
            self._store.forget(self._lost)
