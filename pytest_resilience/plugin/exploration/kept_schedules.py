"""Schedules that are kept until they pass, in a cache or a file, and those that stay untried."""

from __future__ import annotations

import json
import os
import re

from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.chaos.parsing.experiment_specs import read_text
from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import parse_schedule
from pytest_resilience.plugin.exploration.settings import ExploreSettings
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.xdist_workers import is_worker
from pytest_resilience.report.report_files import write_text


__all__ = ["SKIPPED", "Store", "UntriedSchedules"]

SKIPPED = "resilience_untried"
"""The attribute of a report under which the number of schedules of a skipped test travels."""

_LOST = "resilience_lost_tests"  # by which a worker of xdist hands them over
_UNTRIED = "resilience-untried"  # the name of a plugin
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
            is_written = ExploreSettings.of(self._config).suite  # when the run is over
            if not self._path.exists():
                if is_written:
                    return {}
                raise pytest.UsageError(self._absent())
            try:
                return _parse_schedules(self._path, read_text(self._path))
            except ConfigurationError as error:
                raise pytest.UsageError(printable(with_page(error))) from None
        found = None if self._cache is None else self._cache.get(_CACHE, None)
        return _cached(found)

    def _absent(self) -> str:
        option, explore = (
            option_name(self._config, name) for name in ("chaos-schedules", "chaos-explore")
        )
        what = inline(str(self._path))
        return f"{option}={what}: there is no such file; a run with {explore} writes it"


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
