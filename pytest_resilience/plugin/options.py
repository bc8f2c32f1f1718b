"""The command-line flags, under names that no other plugin holds."""

from __future__ import annotations

import pytest

from pytest_resilience.plugin.pytest_private import taken_options


__all__ = ["FLAGS", "NAMES", "SESSION", "add_options", "given"]

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
}

_CAPS = {
    "chaos_max_cpu": "share of the CPUs that this process may use (default 100%)",
    "chaos_max_memory": "memory, or share of what is available to this process (default 50%)",
    "chaos_max_disk": "bytes on a disk, or share of what is free there (default 10%)",
}

SESSION = "resilience-chaos"
"""The name under which the session is registered with pytest."""

NAMES = pytest.StashKey[dict[str, str]]()
"""Flag name -> the option to type for it in this run."""


def add_options(parser: pytest.Parser, config: pytest.Config) -> bool:
    """Add every flag, by its short name where nobody else has taken that; whether one has."""
    taken = taken_options(parser)
    group = parser.getgroup(PREFIX, "chaos and resilience")
    names = {}
    for flag, settings in FLAGS.items():
        short, long = f"--{flag}", f"--{PREFIX}-{flag}"
        free = [short, long] if short not in taken else [long]
        names[flag] = free[0]
        group.addoption(*free, dest=_dest(flag), default=None, **settings)
    parser.addini(
        "chaos_services",
        "Services that experiments can fail, a line each: "
        "'payment = payments.internal:443 | shop.clients:Payment.charge'.",
        type="linelist",
    )
    for name, meaning in _CAPS.items():
        parser.addini(name, f"The most that experiments may ask for: {meaning}.", default="")
    config.stash[NAMES] = names
    return any(name != f"--{flag}" for flag, name in names.items())


def given(config: pytest.Config, flag: str) -> list[str]:
    """What was given for `flag`, each time; empty when it was not, ['True'] for a switch."""
    value = config.getoption(_dest(flag), default=None)
    return list(map(str, value)) if isinstance(value, list) else ["True"] * bool(value)


def _dest(flag: str) -> str:
    return f"{PREFIX}_{flag}".replace("-", "_")
