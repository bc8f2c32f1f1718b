"""What came of explorations: of each test, and of all where the terminal is."""

from __future__ import annotations

import math
import os

from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.exploration.search import Budget
from pytest_resilience.plugin.exploration.kept_schedules import Store
from pytest_resilience.plugin.pytest_internals import Progress
from pytest_resilience.report.cell import Cell


__all__ = ["EXPLORED", "REPLAYED", "ExplorationSummary", "Failure", "Found"]

EXPLORED = "resilience_explored"
"""The attribute of a report under which what was found in a test travels."""
REPLAYED = "resilience_replayed"
"""Likewise, what came of a test under the schedule of a replay, in a line."""

_SUMMARY = "resilience-exploration-summary"  # the name of a plugin
_BETWEEN_SHOWN = 0.2  # seconds between two looks at a test that goes on
_MOST_NOTES = 20  # reasons why tests were not explored
_MOST_OTHERS = 3  # operations under which a failure comes that is told already


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One way in which a test fails under faults.

    Attributes:
        schedule: the smallest that was found.
        outcome: what comes of it.
        place: the innermost function of the project that it went through; "" if there is none.
        repeat: the command that repeats it.
        others: the other sites with faults that fail so, as their cells are named.
    """

    schedule: Schedule
    outcome: Outcome
    place: str
    repeat: str
    others: tuple[str, ...] = ()

    def text(self, *, whole: bool) -> str:
        """What breaks, the line that repeats it, and, perhaps not the `whole`, under what else."""
        first, *more = self.outcome.reason.splitlines()
        where = f", in {self.place}" if self.place else ""
        lines = [f"{self.outcome.verdict.words}: {first}{where}", *filter(str.strip, more)]
        lines.append(self.repeat)
        return "\n    ".join([*lines, *self._also(whole=whole)])

    def _also(self, *, whole: bool) -> list[str]:
        """A line for each operation, with the faults under which it fails so; pairs at the end."""
        faults: dict[str, list[str]] = {}
        for each in self.others:
            operation, _, fault = ("", "", each) if ", " in each else each.rpartition("=")
            faults.setdefault(operation, []).append(fault)
        pairs = faults.pop("", [])
        lines = [f"also under: {each}={' or '.join(names)}" for each, names in faults.items()]
        if whole:
            return [*lines, *(f"also under: {pair}" for pair in pairs)]
        shown = lines[:_MOST_OTHERS]
        left = len(pairs) + sum(len(each) for each in [*faults.values()][_MOST_OTHERS:])
        return [*shown, f"and under {left} more, which -v shows"] if left else shown


@dataclass(slots=True, kw_only=True)
class Found:
    """What came of the exploration of one test.

    Attributes:
        nodeid: of the test.
        cells: by site and fault.
        failures: each way to fail once.
        note: why there was nothing to explore, or no end; "" if there was.
        untried: schedules that failed the last time, and were not run this time.
        runs, unexplored, pruned: how many schedules.
        operations: how many the test does without faults.
        crashes: how many states were looked at that a crash may leave; or why none, in words.
    """

    nodeid: str
    cells: list[Cell] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    untried: list[Schedule] = field(default_factory=list)
    note: str = ""
    runs: int = 0
    unexplored: int = 0
    pruned: int = 0
    operations: int = 0
    crashes: int | str = 0

    def text(self, *, whole: bool) -> str:
        """For the report of a test that has asked for it."""
        ways = counted(len(self.failures), "way")
        head = f"the exploration has found {ways} to fail in {counted(self.runs, 'run')}"
        return "\n".join([head, *self.told(whole=whole), *([self.note] if self.note else [])])

    def told(self, *, whole: bool) -> list[str]:
        """Each way to fail."""
        return [each.text(whole=whole) for each in self.failures]

    def to_json(self, *, whole: bool, is_told: bool = False) -> dict[str, Any]:
        """What travels with a report to where the terminal is.

        `is_told`: whether the report tells each way to fail.
        """
        return {
            "nodeid": self.nodeid,
            "runs": self.runs,
            "unexplored": self.unexplored,
            "pruned": self.pruned,
            "operations": self.operations,
            "note": self.note,
            "crashes": self.crashes,
            "failures": [format_schedule(each.schedule) for each in self.failures],
            "untried": list(map(format_schedule, self.untried)),
            "told": [] if is_told else self.told(whole=whole),
        }


class ExplorationSummary:
    """Adds up what was found in all tests, here or in workers of xdist."""

    def __init__(self, config: pytest.Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._process = os.getpid()
        self._found: list[dict[str, Any]] = []
        self._replayed: list[str] = []
        self._shown = -math.inf  # monotonic seconds

    @classmethod
    def of(cls, config: pytest.Config) -> ExplorationSummary | None:
        """That of this run; None in a worker of xdist."""
        found = config.pluginmanager.get_plugin(_SUMMARY)
        return found if isinstance(found, cls) else None

    @classmethod
    def register(cls, config: pytest.Config, store: Store) -> None:
        """Register one with pytest, once."""
        if not config.pluginmanager.has_plugin(_SUMMARY):
            config.pluginmanager.register(cls(config, store), _SUMMARY)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        replayed: str | None = vars(report).pop(REPLAYED, None)
        if replayed is not None:
            self._replayed.append(replayed)
        found = vars(report).pop(EXPLORED, None)  # pytest keeps reports until the run ends
        if found is not None:
            self._found.append(found)
            self._show_progress()

    def show_ongoing(self, budget: Budget, outcomes: Iterable[Outcome]) -> None:
        """On a terminal, a few times a second: how far the test is that is explored just now."""
        now = MACHINE_CLOCK.monotonic()
        if now - self._shown >= _BETWEEN_SHOWN and Progress.is_wanted(self._config):
            self._shown = now
            ways = {each.signature for each in outcomes if each.verdict.bad}
            self._show_progress(budget.spent, len(ways), f"{budget.left()} left for this test")

    def _show_progress(self, runs: int = 0, ways: int = 0, left: str = "") -> None:
        """What all tests have come to, with what the one that goes on has."""
        if not Progress.is_wanted(self._config):
            return
        all_runs, failures, unexplored = self._totals()
        parts = [
            f"explored {counted(len(self._found), 'test')}",
            counted(all_runs + runs, "run"),
            f"{counted(failures + ways, 'way')} to fail",
        ]
        if left:
            parts.append(left)
        elif unexplored:
            parts.append(f"{counted(unexplored, 'schedule')} left by the budget")
        Progress.of(self._config).show(", ".join(parts))

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
        if os.getpid() != self._process:
            return
        if self._replayed:
            terminalreporter.section("chaos replay")
        for line in self._replayed:
            terminalreporter.line(printable(line))
        if not self._found:
            return
        terminalreporter.section("exploration")
        for line in self._lines():
            terminalreporter.line(printable(line))
        runs, failures, left = self._totals()
        tests = counted(len(self._found), "test")
        line = f"{tests}, {counted(runs, 'run')}, {counted(failures, 'way')} to fail"
        if left:
            line += f", {counted(left, 'schedule')} not explored for want of budget"
        terminalreporter.line(line)
        if failures and self._store.place:
            terminalreporter.line(f"kept in {self._store.place}, and run first the next time")

    def _lines(self) -> Iterator[str]:
        """Of each test that was explored, and once of those that were not for the same reason."""
        is_whole = self._config.option.verbose > 0
        others: dict[str, list[str]] = {}
        for each in self._found:
            if each["runs"]:
                yield from _lines(each)
                continue
            note = each["note"].replace("\n", "\n  ")
            line = f"{each['nodeid']}: {note}"
            others.setdefault(line if is_whole else note, []).append(line)
        told = [*others.values()]
        most = len(told) if is_whole else _MOST_NOTES
        for first, *more in told[:most]:
            yield first
            if more:
                yield f"  and so it is with {counted(len(more), 'more test')}, which -v shows"
        left = sum(map(len, told[most:]))
        if left:
            yield f"and {counted(left, 'more test')} not explored, which -v shows"


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
