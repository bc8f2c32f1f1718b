"""The chaos of a run in its header and summary, in the process that owns the terminal."""

from __future__ import annotations

import os

from typing import Any

import pytest

from pytest_resilience.chaos.parsing.texts import counted
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.plugin.experiment_request import RunMode
from pytest_resilience.plugin.markers import PROBLEMS
from pytest_resilience.plugin.options import as_argument
from pytest_resilience.plugin.settings import SEED_KEY
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.plugin.settings import settings_of
from pytest_resilience.report.chaos_record import ChaosRecord
from pytest_resilience.report.chaos_record import Tallies
from pytest_resilience.report.chaos_record import numbered_operations


__all__ = ["RECORD", "ChaosSummary", "configure_node"]

RECORD = "resilience_chaos"
"""The attribute of a teardown report under which a test's record travels."""

_NAME = "resilience-summary"
_QUIET = -1  # the verbosity below which nothing is said
_MOST_COMMANDS = 5  # that are shown unless all are asked for


def configure_node(node: Any) -> None:
    """On xdist's controller, before a worker starts: `node` is its WorkerController."""
    settings = settings_of(node.config)
    node.workerinput[SEED_KEY] = settings.seed
    ChaosSummary.register(node.config, settings)


class ChaosSummary:
    """Adds up the records of all tests, here or from xdist's workers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process = os.getpid()
        self._tallies = Tallies()
        self._counted: list[str] = []  # lines about the operations of tests
        self._tests: dict[str, None] = {}  # by their ids, those with records
        self._failed: set[str] = set()
        self._problems: dict[str, None] = {}

    @classmethod
    def register(cls, config: pytest.Config, settings: Settings) -> None:
        """Register one with pytest, once."""
        if not config.pluginmanager.has_plugin(_NAME):
            config.pluginmanager.register(cls(settings), _NAME)

    def pytest_report_header(self) -> list[str] | None:
        lines = [f"  {each.experiment}" for each in self._settings.experiments]
        lines += [
            f"  profile {profile.name}: {counted(len(requested), 'experiment')}"
            for profile, requested in self._settings.profiles
        ]
        lines += [
            f"  monkey {profile.name}: {counted(len(profile.experiments), 'experiment')}"
            for profile in self._settings.monkeys
        ]
        if self._settings.mode is RunMode.NOTHING:
            return ["chaos: none (--no-chaos)"]
        if self._settings.mode is RunMode.COUNT:
            return ["chaos: operations are counted, and nothing is injected (--chaos-operations)"]
        return [f"chaos: seed {self._settings.seed}", *lines] if lines else None

    def pytest_report_collectionfinish(self) -> str | None:
        # Only now are the markers known; with flags the header has said it.
        settings = self._settings
        is_told = settings.mode is not RunMode.INJECT
        if settings.experiments or settings.profiles or settings.monkeys or is_told:
            return None
        return f"chaos: seed {self._settings.seed}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of xdist found wrong; a crashed one says nothing."""
        problems = getattr(node, "workeroutput", {}).get(PROBLEMS, ())
        self._problems.update(dict.fromkeys(problems))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._problems:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        found = vars(report).pop(RECORD, None)  # pytest keeps reports until the run ends
        if found is not None:
            record = ChaosRecord.from_json(found)
            if self._settings.mode is RunMode.COUNT:
                self._counted += numbered_operations(record)
                return
            self._tallies.add(record)
            self._tests[report.nodeid] = None

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if os.getpid() != self._process:
            return  # a forked child of a test that went on as if it were the run
        for problem in self._problems:
            terminalreporter.line(printable(f"ERROR: {problem}"), red=True)
        if self._counted:
            terminalreporter.section("chaos operations")
        for line in self._counted:
            terminalreporter.line(printable(line))
        if not self._tests or config.option.verbose < _QUIET:
            return
        terminalreporter.section(f"chaos (seed {self._settings.seed})")
        whole = config.option.verbose > 0
        for line in self._tallies.lines(whole=whole):
            terminalreporter.line(printable(line))
        failed = list(filter(self._failed.__contains__, self._tests))
        for nodeid in failed if whole else failed[:_MOST_COMMANDS]:
            command = self._settings.repeat.command(as_argument(config, nodeid))
            terminalreporter.line(printable(f"repeat: {command}"))
        if not whole and len(failed) > _MOST_COMMANDS:
            more = len(failed) - _MOST_COMMANDS
            terminalreporter.line(f"… and {more} more to repeat: -v shows them")
