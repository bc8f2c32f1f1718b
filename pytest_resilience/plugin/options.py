"""The command-line flags, under names that no other plugin holds."""

from __future__ import annotations

import pytest

from pytest_resilience.plugin.pytest_internals import taken_options


__all__ = ["FLAGS", "NAMES", "SESSION", "add_options", "add_settings", "given", "typed", "wanted"]

PREFIX = "resilience"

# name, argparse settings; every one of them also as --resilience-NAME
FLAGS = {
    "chaos": {
        "action": "append",
        "metavar": "SPEC",
        "help": "Put an experiment around every selected test, e.g. "
        "'network_latency:delay=200ms,rate=0.5,target=api.*'. Repeatable.",
    },
    "chaos-profile": {
        "action": "append",
        "metavar": "NAME",
        "help": "Put the experiments of a profile around every test that it selects: a table "
        "[tool.pytest_resilience.profiles.NAME] of pyproject.toml, or FILE.toml:NAME. Repeatable.",
    },
    "chaos-monkey": {
        "action": "append",
        "metavar": "PROFILE",
        "help": "Start and end the experiments of a profile by chance while tests run.",
    },
    "chaos-matrix": {
        "action": "store_true",
        "help": "Run each test that a profile selects once calm and once under each of its "
        "experiments, and tell what survived.",
    },
    "chaos-experiment": {
        "action": "append",
        "metavar": "NAME",
        "help": "Of the profiles' experiments take this one only. Repeatable.",
    },
    "chaos-seed": {
        "action": "append",
        "metavar": "N",
        "help": "Seed of all chance in this run; the same seed gives the same faults.",
    },
    "chaos-intensity": {
        "action": "append",
        "metavar": "X",
        "help": "Intensity, 0 to 1, of experiments that name none.",
    },
    "chaos-probability": {
        "action": "append",
        "metavar": "P",
        "help": "Probability, 0 to 1, that an experiment that names none starts in a test.",
    },
    "no-chaos": {
        "action": "store_true",
        "help": "A calm run: no experiment starts, not even those of markers and fixtures.",
    },
    "chaos-list": {
        "action": "store_true",
        "help": "Show every chaos type with its parameters, units and defaults, then exit.",
    },
    "resilience-report": {
        "action": "append",
        "metavar": "PATH",
        "help": "Write what the matrix found to a file, by its suffix: .json, .md or .html. "
        "Repeatable.",
    },
    "resilience-gate": {
        "action": "append",
        "metavar": "SCORE",
        "help": "The least score, 0 to 100, with which the matrix passes. It fails in any case "
        "where a cell is bad that no baseline accepts, or proves nothing.",
    },
    "resilience-report-only": {
        "action": "store_true",
        "help": "Tell what the matrix found, and fail no run for it.",
    },
    "resilience-baseline": {
        "action": "append",
        "metavar": "FILE",
        "help": "The cells that are known to break, and until when that is accepted.",
    },
    "resilience-shard": {
        "action": "append",
        "metavar": "I/N",
        "help": "Run the I-th of N parts of the tests; their reports can be merged.",
    },
}

_LONG = f"--{PREFIX}"
_HELP = frozenset({"-h", "--help"})
_CAPS = {
    "chaos_max_cpu": "share of the CPUs that this process may use (default 100%)",
    "chaos_max_memory": "memory, or share of what is available to this process (default 50%)",
    "chaos_max_disk": "bytes on a disk, or share of what is free there (default 10%)",
}

SESSION = "resilience-chaos"
"""The name under which the session is registered with pytest."""

NAMES = pytest.StashKey[dict[str, str]]()
"""Flag name -> the option to type for it in this run."""


def typed(args: list[str]) -> bool:
    """Whether one of our flags may be among these arguments."""
    return any("chaos" in arg or arg.startswith(_LONG) for arg in args)


def wanted(args: list[str]) -> bool:
    """Whether somebody asks for one of our flags, or what flags there are."""
    return typed(args) or not _HELP.isdisjoint(args)


def add_settings(parser: pytest.Parser) -> None:
    """Add what can be said in the ini file."""
    parser.addini(
        "chaos_services",
        "Services that experiments can fail, a line each: "
        "'payment = payments.internal:443 | shop.clients:Payment.charge' (which is imported).",
        type="linelist",
    )
    for name, meaning in _CAPS.items():
        parser.addini(name, f"The most that experiments may ask for: {meaning}.", default="")


def add_options(parser: pytest.Parser, config: pytest.Config) -> bool:
    """Add every flag, by its short name where nobody else has taken that; whether one has.

    They are added only where they are `wanted`: each is read again and again by every run.
    """
    taken = taken_options(parser)
    group = parser.getgroup(PREFIX, "chaos and resilience")
    names = {}
    for flag, settings in FLAGS.items():
        short, long = f"--{flag}", f"--{PREFIX}-{flag}"
        if flag.startswith(PREFIX):
            long = short
        free = [short, long] if short != long and short not in taken else [long]
        names[flag] = free[0]
        group.addoption(*free, dest=_dest(flag), default=None, **settings)
    config.stash[NAMES] = names
    return any(name != f"--{flag}" for flag, name in names.items())


def given(config: pytest.Config, flag: str) -> list[str]:
    """What was given for `flag`, each time; empty when it was not, ['True'] for a switch."""
    value = config.getoption(_dest(flag), default=None)
    return list(map(str, value)) if isinstance(value, list) else ["True"] * bool(value)


def _dest(flag: str) -> str:
    return f"{PREFIX}_{flag}".replace("-", "_")
