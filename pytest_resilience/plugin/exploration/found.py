"""What came of explorations: of each test, and of all where the terminal is; told, and kept.

Schedules are kept in the cache of pytest or in a file, and some of those stay untried.
"""

from __future__ import annotations

import json
import os
import re

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.texts import counted
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.chaos.parsing.texts import read_text
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.plugin.exploration.settings import ExploreSettings
from pytest_resilience.plugin.pytest_internals import Progress
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.report_files import write_text


__all__ = [
    "EXPLORED", "REPLAYED", "SKIPPED", "ExplorationSummary", "Failure", "Found", "Store",
    "UntriedSchedules",
]  # fmt: skip

EXPLORED = "resilience_explored"
"""The attribute of a report under which what was found in a test travels."""
REPLAYED = "resilience_replayed"
"""Likewise, what came of a test under the schedule of a replay, in a line."""
SKIPPED = "resilience_untried"
"""Likewise, the number of schedules of a test that was skipped."""

_LOST = "resilience_lost_tests"  # by which a worker of xdist hands them over
_SUMMARY, _UNTRIED = "resilience-exploration-summary", "resilience-untried"  # names of plugins
_MOST_NOTES = 20  # lines about tests in which there was nothing to explore
_MOST_OTHERS = 3  # operations under which a failure comes that is told already
_SELECTING = ("keyword", "markexpr", "deselect", "lf", "ignore", "ignore_glob", "pyargs")
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)

_CACHE = "resilience/failing-schedules"
_HEADING = "# pytest-resilience schedules: test  schedule (two spaces between)"
_BARE = re.compile(r'(?!["#])\S+(?: \S+)*')
_LINE = re.compile(r'("(?:[^"\\]|\\.)*"|(?!["#])\S+(?: \S+)*)(?:\t|  )\s*(\S.*)')


class Store:
    """The schedules of each test that are kept until they pass."""

    def __init__(self, config: pytest.Config, path: Path | None) -> None:
        """Raises `pytest.UsageError` for a file that is none of schedules."""
        self._config = config
        self._path = path
        self._kept = self._read()

    def of(self, nodeid: str) -> list[Schedule]:
        """Those of one test."""
        return list(self._kept.get(nodeid, ()))

    @property
    def nodeids(self) -> tuple[str, ...]:
        """Of the tests that have some."""
        return tuple(self._kept)

    @property
    def place(self) -> str:
        """Where they are kept, for people; "" where there is no place."""
        if self._path is not None:
            return str(self._path)
        return "" if self._cache is None else ".pytest_cache"

    def keep(self, found: Mapping[str, list[Schedule]]) -> None:
        """Put the schedules of these tests in the place of those that were kept of them."""
        after = {name: each for name, each in {**self._kept, **found}.items() if each}
        if after == self._kept:
            return
        self._kept = after
        if self._path is not None:
            write_text(self._path, _schedules_text(after))
        elif self._cache is not None:
            texts = {name: list(map(format_schedule, each)) for name, each in after.items()}
            self._cache.set(_CACHE, texts)

    def forget(self, nodeids: Iterable[str]) -> None:
        """Keep none of these tests any more."""
        self.keep({nodeid: [] for nodeid in nodeids})

    @property
    def _cache(self) -> pytest.Cache | None:
        return getattr(self._config, "cache", None)

    def _read(self) -> dict[str, list[Schedule]]:
        if self._path is not None:
            if ExploreSettings.of(self._config).suite and not self._path.exists():
                return {}  # it is about to be written
            try:
                return _parse_schedules(self._path, read_text(self._path))
            except ConfigurationError as error:
                raise pytest.UsageError(printable(with_page(error))) from None
        found = None if self._cache is None else self._cache.get(_CACHE, None)
        return _cached(found)


def _cached(found: object) -> dict[str, list[Schedule]]:
    """What the cache holds, as far as it still makes sense."""
    kept: dict[str, list[Schedule]] = {}
    for nodeid, texts in (found if isinstance(found, dict) else {}).items():
        for text in texts if isinstance(texts, list) else ():
            try:
                kept.setdefault(nodeid, []).append(parse_schedule(text))
            except (ConfigurationError, TypeError):
                continue  # of another version
    return kept


def _parse_schedules(path: Path, text: str) -> dict[str, list[Schedule]]:
    """The schedules of each test. Raises ConfigurationError with file and line."""
    found: dict[str, list[Schedule]] = {}
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        try:
            if parts is None:
                raise ConfigurationError(
                    f"{line!r} is no line of schedules; write: test  schedule (two spaces between)"
                )
            nodeid = str(json.loads(parts[1])) if parts[1].startswith('"') else parts[1]
            found.setdefault(nodeid, []).append(parse_schedule(parts[2]))
        except (ConfigurationError, ValueError) as error:
            raise ConfigurationError(f"{path}:{number}: {error}") from None
    return found


def _schedules_text(kept: Mapping[str, Iterable[Schedule]]) -> str:
    """The file that `_parse_schedules` reads back, sorted."""
    lines = [
        f"{nodeid if _is_bare(nodeid) else json.dumps(nodeid)}  {format_schedule(schedule)}"
        for nodeid, schedules in kept.items()
        for schedule in schedules
    ]
    return "\n".join([_HEADING, *sorted(lines)]) + "\n"


def _is_bare(nodeid: str) -> bool:
    return nodeid.isprintable() and _BARE.fullmatch(nodeid) is not None


class UntriedSchedules:
    """Says of which schedules nothing is known, where the terminal is, and lets the run fail.

    Their test is gone, or was skipped. Whether one is gone is known only of files that are
    collected whole, in a run that selects none of their tests: of a part nothing is said.
    """

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
        config.pluginmanager.register(cls(config, store), _UNTRIED)

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
        return not is_worker(self._config) and os.getpid() == self._process

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
        if os.getpid() != self._process:
            return
        if self._replayed:
            terminalreporter.section("chaos replay")
        for line in self._replayed:
            terminalreporter.line(printable(line))
        if not self._found:
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
