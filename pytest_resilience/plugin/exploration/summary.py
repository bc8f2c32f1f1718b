"""What explorations have found, told where the terminal is, and kept."""

from __future__ import annotations

import os

from typing import Any

import pytest

from pytest_resilience.chaos.parsing.texts import counted
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.plugin.exploration.store import Store
from pytest_resilience.plugin.pytest_internals import Progress


__all__ = ["EXPLORED", "ExplorationSummary"]

EXPLORED = "resilience_explored"
"""The attribute of a report under which what was found in a test travels."""

_NAME = "resilience-exploration-summary"
_MOST_NOTES = 20  # lines about tests in which there was nothing to explore


class ExplorationSummary:
    """Adds up what was found in all tests, here or in workers of xdist."""

    def __init__(self, config: pytest.Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._process = os.getpid()
        self._found: list[dict[str, Any]] = []

    @classmethod
    def register(cls, config: pytest.Config, store: Store) -> None:
        """Register one with pytest, once."""
        if not config.pluginmanager.has_plugin(_NAME):
            config.pluginmanager.register(cls(config, store), _NAME)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = vars(report).pop(EXPLORED, None)  # pytest keeps reports until the run ends
        if found is not None:
            self._found.append(found)
            self._show_progress()

    def _show_progress(self) -> None:
        """On a terminal; nothing elsewhere, or under -q."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or self._config.option.verbose < 0 or not terminal.isatty:
            return
        runs, failures, left = self._totals()
        budget = f", {counted(left, 'schedule')} left by the budget" if left else ""
        Progress.of(self._config).show(
            f"explored {counted(len(self._found), 'test')}, {counted(runs, 'run')}, "
            f"{counted(failures, 'way')} to fail{budget}"
        )

    def _totals(self) -> tuple[int, int, int]:
        return (
            sum(each["runs"] for each in self._found),
            sum(len(each["failures"]) for each in self._found),
            sum(each["unexplored"] for each in self._found),
        )

    def pytest_sessionfinish(self) -> None:
        """Keep what fails, to be run first the next time."""
        if os.getpid() != self._process:
            return
        kept: dict[str, list[Schedule]] = {
            each["nodeid"]: [
                parse_schedule(text)
                for text in dict.fromkeys([*each["failures"], *each["untried"]])
            ]
            for each in self._found
            if each["runs"]
        }
        if kept:
            self._store.keep(kept)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What was tried, what was not, and each way to fail with the line that repeats it."""
        if os.getpid() != self._process or not self._found:
            return
        terminalreporter.section("exploration")
        notes = 0
        for each in self._found:
            if not each["runs"]:
                notes += 1
                if notes <= _MOST_NOTES:
                    note = each["note"].replace("\n", "\n  ")
                    terminalreporter.line(printable(f"{each['nodeid']}: {note}"))
                continue
            for line in _lines(each):
                terminalreporter.line(printable(line))
        if notes > _MOST_NOTES:
            more = counted(notes - _MOST_NOTES, "more test")
            terminalreporter.line(f"and {more} not explored")
        runs, failures, left = self._totals()
        tests = counted(len(self._found), "test")
        line = f"{tests}, {counted(runs, 'run')}, {counted(failures, 'way')} to fail"
        if left:
            line += f", {counted(left, 'schedule')} not explored for want of budget"
        terminalreporter.line(line)
        if failures and self._store.place:
            terminalreporter.line(f"kept in {self._store.place}, and run first the next time")


def _lines(found: dict[str, Any]) -> list[str]:
    pruned = f", {found['pruned']} left out as known" if found["pruned"] else ""
    crashes = found["crashes"]
    why_none = crashes if isinstance(crashes, str) else ""
    states = f", {counted(crashes, 'state')} after crashes" if crashes and not why_none else ""
    head = (
        f"{found['nodeid']}: {counted(found['operations'], 'operation')}, "
        f"{counted(found['runs'], 'run')}{states}{pruned}, "
        f"{counted(len(found['failures']), 'way')} to fail"
    )
    return [
        head,
        *(f"  {text}" for text in found["told"]),
        *(f"  {note}" for note in (found["note"], why_none) if note),
    ]
