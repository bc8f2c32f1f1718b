"""What the terminal is told: the chaos of a run in its header and summary, and lists.

The summary is in the process that owns the terminal. Where pytest-xdist distributes the tests this
module is a plugin there, for a worker may turn out to have chaos. The lists are of what there is to
ask for: the chaos types of --chaos-list, the profiles of --chaos-profile=?.
"""

from __future__ import annotations

import os
import shutil
import textwrap

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.messages import counted
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.catalog import Kind
from pytest_resilience.chaos.types.catalog import chaos_type
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.experiment_requests import RunMode
from pytest_resilience.plugin.experiment_requests import all_profiles
from pytest_resilience.plugin.markers import PROBLEMS
from pytest_resilience.plugin.options import as_argument
from pytest_resilience.plugin.options import given
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.pytest_internals import write_lines
from pytest_resilience.plugin.settings import Settings
from pytest_resilience.plugin.settings import custom_types
from pytest_resilience.plugin.settings import settings_of
from pytest_resilience.plugin.xdist_workers import hand_seed
from pytest_resilience.report.chaos_record import ChaosRecord
from pytest_resilience.report.chaos_record import Tallies
from pytest_resilience.report.chaos_record import numbered_operations


__all__ = ["RECORD", "ChaosSummary", "list_profiles", "list_types"]

RECORD = "resilience_chaos"
"""The attribute of a teardown report under which a test's record travels."""

_NAME = "resilience-summary"
_QUIET = -1  # the verbosity below which nothing is said
_MOST_COMMANDS = 5  # that are shown unless all are asked for
_NAMES = 14  # columns for the names of parameters
_LEAST = 79  # columns of a line, however narrow the terminal is


class ChaosSummary:
    """Adds up the records of all tests, here or from xdist's workers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process = os.getpid()
        self._tallies = Tallies()
        self._counted: list[str] = []  # lines about the operations of tests
        self._tests: dict[str, None] = {}  # by their ids, those with records
        self._requested: set[tuple[str, str]] = set()  # who has asked for which experiments in them
        self._has_run = False
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

    def pytest_report_collectionfinish(self, config: pytest.Config) -> str | None:
        # Only now are the markers known; with flags the header has said it. Where there is none, a
        # matrix would not: it has no summary of experiments.
        settings = self._settings
        if settings.mode is not RunMode.INJECT:
            return None
        in_header = bool(settings.experiments or settings.profiles or settings.monkeys)
        if settings.matrix is not None:
            in_header &= config.option.verbose >= 0 and not config.option.no_header
        return None if in_header else f"chaos: seed {settings.seed}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker of xdist found wrong; a crashed one says nothing."""
        problems = getattr(node, "workeroutput", {}).get(PROBLEMS, ())
        self._problems.update(dict.fromkeys(problems))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._problems:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._has_run |= report.when == "call"
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
            self._requested |= {(each.requested_by, each.name) for each in record.experiments}

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
        unused = [*self._unused_profiles()]
        if not (self._tests or unused) or config.option.verbose < _QUIET:
            return
        terminalreporter.section(f"chaos (seed {self._settings.seed})")
        whole = config.option.verbose > 0
        for line in self._tallies.lines(whole=whole) + unused:
            terminalreporter.line(printable(line))
        failed = list(filter(self._failed.__contains__, self._tests))
        for nodeid in failed if whole else failed[:_MOST_COMMANDS]:
            command = self._settings.repeat.command(as_argument(config, nodeid))
            terminalreporter.line(printable(f"repeat: {command}"))
        if not whole and len(failed) > _MOST_COMMANDS:
            more = len(failed) - _MOST_COMMANDS
            terminalreporter.line(f"… and {more} more to repeat: -v shows them")

    def _unused_profiles(self) -> Iterator[str]:
        """A line for each profile of the flags that was around none of the tests."""
        settings = self._settings
        if not self._has_run or settings.mode is not RunMode.INJECT or settings.matrix is not None:
            return
        for profile, requests in settings.profiles:
            names = {("profile", each.experiment.name) for each in requests}
            if names.isdisjoint(self._requested):
                by = [f"paths {', '.join(profile.paths)}"] if profile.paths else []
                by += [f"markers {profile.markers}"] if profile.markers else []
                how = f"; it selects by {' and '.join(by)}" if by else ""
                yield f"profile {profile.name} - around no test{how}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist the seed of the run, and add up what it reports."""
    settings = settings_of(node.config)
    hand_seed(node, settings.seed)
    ChaosSummary.register(node.config, settings)


_USUAL = ChaosExperiment("usual", ChaosType.NETWORK_LATENCY)

_COMMON = (
    ("intensity", "0..1", f"{_USUAL.intensity:g}", "the one knob of every type"),
    ("duration", "seconds, or us, ms, s, m, h", f"{_USUAL.duration:g}s", "ends by itself after it"),
    ("probability", "0..1 or %", "1", "whether it starts at all, drawn once per test"),
    ("name", "text", "the type's name", "what reports call it"),
)


def list_types(config: pytest.Config) -> int:
    """Show every chaos type, those of other plugins and profiles too; the exit status.

    Or those alone that are named.
    """
    settings_of(config)  # with the types of other plugins
    try:
        kinds = [chaos_type(name) for name in given(config, "chaos-list") if name]
    except ConfigurationError as error:
        option = option_name(config, "chaos-list")
        raise pytest.UsageError(printable(with_page(error.within(option)))) from None
    write_lines(config, _types_text(kinds, () if kinds else all_profiles(config)))
    return 0


def list_profiles(config: pytest.Config) -> int:
    """Show every profile, those that come with the package too; the exit status."""
    custom_types(config)
    lines = ["Profiles, for --chaos-profile=NAME; with --chaos-matrix one experiment at a time:"]
    for profile in all_profiles(config):
        about = f": {profile.description}" if profile.description else ""
        lines += [
            "",
            f"{profile.name}{about}",
            *(f"  {each.make()}" for each in profile.experiments),
        ]
    write_lines(config, printable("\n".join(lines)))
    return 0


def _types_text(kinds: Iterable[Kind], profiles: Iterable[Profile]) -> str:
    """Those types, or every one, with their parameters, units and defaults; then the profiles."""
    lines = ["Chaos types and what each can be told (name, unit; default - meaning):"]
    for kind in tuple(kinds) or SCHEMAS:
        lines += ["", *_type(kind)]
    lines += ["", "every type"]
    lines += [_row(*row) for row in _COMMON]
    for profile in profiles:
        lines += [
            "",
            f"profile {profile.name}",
            *(_filled(str(each.make()), 4) for each in profile.experiments),
        ]
    return "\n".join(lines)


def _type(kind: Kind) -> list[str]:
    schema = SCHEMAS[kind]
    return [f"{kind.value}: {schema.summary}", *map(_parameter, schema.shown)]


def _parameter(parameter: Parameter) -> str:
    return _row(parameter.name, parameter.unit, parameter.default, parameter.help)


def _row(name: str, unit: str, default: str, meaning: str) -> str:
    """One line if there is room for it, else several, those after the first indented."""
    return _filled(f"{name:<{_NAMES}}{unit}; default {default} - {meaning}", _NAMES + 2)


def _filled(text: str, indent: int) -> str:
    """In the width of the terminal, the first line indented by 2 and others by `indent`."""
    return textwrap.fill(
        text,
        width=max(_LEAST, shutil.get_terminal_size().columns - 1),
        initial_indent="  ",
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
