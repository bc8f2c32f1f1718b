"""The flags: a plugin of its own, which is loaded where one of them may be typed."""

from __future__ import annotations

import argparse
import os

from typing import Any

import pytest

from pytest_resilience.plugin.pytest_internals import taken_options


__all__ = ["FLAGS", "VALUES", "as_argument", "given", "option_name", "times_typed"]

PREFIX = "resilience"

# Name and help of each; every one is also there as --resilience-NAME.
FLAGS = {
    "chaos": "Put an experiment around every selected test, e.g. "
    "'network_latency:delay=200ms,rate=0.5,target=api.*'. Repeatable.",
    "chaos-profile": "Put the experiments of a profile around every test that it selects: a table "
    "[tool.pytest_resilience.profiles.NAME] of pyproject.toml, or FILE.toml:NAME, or one of those "
    "that come with the plugin; ? lists all. Repeatable.",
    "chaos-monkey": "Start and end the experiments of a profile by chance while tests run.",
    "chaos-matrix": "Run each test that a profile selects once without chaos and once under each "
    "of its experiments, and report what survived.",
    "chaos-explore": "Run each test under every fault that each of its operations can have, and "
    "then under pairs of them, and report what breaks; =DEPTH faults at once (default 2).",
    "chaos-explore-budget": "How much --chaos-explore tries of each test: runs such as 200 (the "
    "default), or seconds such as 30s. Repeatable, for both.",
    "no-prune": "Let --chaos-explore try even those schedules of which it is known what would come "
    "of them.",
    "chaos-replay": "Run each selected test under one schedule that an exploration has printed, "
    "such as 'connect(payments:443)#1=refuse'.",
    "chaos-schedules": "A file of tests and schedules, which they are run under; what "
    "--chaos-explore finds is kept there.",
    "chaos-experiment": "Of the profiles' experiments take this one only, and let it happen for "
    "certain. Repeatable.",
    "chaos-seed": "Seed of all chance in this run; the same seed gives the same faults.",
    "chaos-intensity": "Intensity, 0 to 1, of experiments that name none.",
    "chaos-probability": "Probability, 0 to 1, that experiments that name none start in a test.",
    "no-chaos": "Start no experiment, not even those of markers and fixtures.",
    "chaos-operations": "Inject nothing, and show for each selected test the operations that its "
    "experiments count, with the numbers that nth, first, from_nth and every go by.",
    "virtual-time": "Give every selected test virtual time: each wait of it and of its threads is "
    "over at once.",
    "chaos-list": "Show every chaos type, or one, with its parameters, units and defaults, then "
    "exit.",
    "resilience-report": "Write what was injected into each test, and how it ended, to a file, by "
    "its suffix: .json, .md or .html. Repeatable.",
    "resilience-gate": "The least score, 0 to 100, with which the matrix passes. It fails in any "
    "case where a cell is bad that no baseline accepts, or proves nothing.",
    "resilience-report-only": "Report what the matrix found, and fail no run for it.",
    "resilience-baseline": "The cells that are known to break, and until when that is accepted.",
    "resilience-shard": "Run the I-th of N parts of the tests; their reports can be merged.",
}
# The name of the value of those that are no switch; in brackets where it can be left out.
VALUES = {
    "chaos": "SPEC",
    "chaos-profile": "NAME",
    "chaos-monkey": "PROFILE",
    "chaos-explore": "DEPTH",
    "chaos-explore-budget": "BUDGET",
    "chaos-replay": "SCHEDULE",
    "chaos-schedules": "FILE",
    "chaos-experiment": "NAME",
    "chaos-seed": "N",
    "chaos-intensity": "X",
    "chaos-probability": "P",
    "chaos-list": "[TYPE]",
    "resilience-report": "PATH",
    "resilience-gate": "SCORE",
    "resilience-baseline": "FILE",
    "resilience-shard": "I/N",
}
_RENAMED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add every flag, by its short name only where no other plugin has taken that."""
    taken = taken_options(parser)
    renamed = [flag for flag in FLAGS if f"--{flag}" in taken]
    group = parser.getgroup(PREFIX, "chaos and resilience")
    for flag, meaning in FLAGS.items():
        names = dict.fromkeys([_long(flag)] if flag in renamed else [f"--{flag}", _long(flag)])
        group.addoption(*names, dest=_dest(flag), default=None, help=meaning, **_kind(flag))
    config = pluginmanager.get_plugin("pytestconfig")
    assert isinstance(config, pytest.Config)
    config.stash[_RENAMED] = renamed


def _kind(flag: str) -> dict[str, Any]:
    """What the parser is told of a flag's value."""
    value = VALUES.get(flag)
    if value is None:
        return {"action": "store_true"}
    if value.startswith("["):
        return {"action": "append", "nargs": "?", "const": "", "metavar": value.strip("[]")}
    return {"action": "append", "metavar": value}


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what to type where another plugin has taken names of our flags."""
    names = [f"{option_name(config, flag)} for --{flag}" for flag in config.stash[_RENAMED]]
    line = f"resilience: another plugin has taken our options; type {', '.join(names)}"
    return line if names else None


def option_name(config: pytest.Config, flag: str) -> str:
    """The option to type for a flag in this run."""
    return _long(flag) if flag in config.stash.get(_RENAMED, ()) else f"--{flag}"


def given(config: pytest.Config, flag: str) -> list[str]:
    """Every value given for `flag`; empty when it was not given, ['True'] for a switch."""
    value = config.getoption(_dest(flag), default=None)
    return list(map(str, value)) if isinstance(value, list) else ["True"] * bool(value)


def is_on(config: pytest.Config, name: str) -> bool:
    """Whether an ini option says so. Raises `pytest.UsageError`, which pytest 8 does not."""
    try:
        return bool(config.getini(name))
    except (ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"ini option {name}: {error}; give true or false") from None


def may_inject(known: argparse.Namespace) -> bool:
    """Whether a flag starts a session that may inject something."""
    flags = FLAGS.keys() - {"chaos-list", "no-chaos", "virtual-time"}
    is_off = getattr(known, _dest("no-chaos"))
    return not is_off and any(getattr(known, _dest(flag)) for flag in flags)


def times_typed(config: pytest.Config, flag: str) -> int:
    """How often a flag stands on the command line itself, by either name, not in `addopts`."""
    names = {f"--{flag}", _long(flag)}
    return sum(str(arg).partition("=")[0] in names for arg in config.invocation_params.args)


def _long(flag: str) -> str:
    return f"--{flag}" if flag.startswith(PREFIX) else f"--{PREFIX}-{flag}"


def _dest(flag: str) -> str:
    return f"{PREFIX}_{flag}".replace("-", "_")


def as_argument(config: pytest.Config, nodeid: str) -> str:
    """The node id as it is typed in the directory where this run was started."""
    path, colons, rest = nodeid.partition("::")
    return os.path.relpath(config.rootpath / path, config.invocation_params.dir) + colons + rest
