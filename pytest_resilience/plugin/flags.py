"""Flags of which one value counts, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from pytest_resilience.chaos.parsing.texts import inline
from pytest_resilience.chaos.parsing.texts import shortened
from pytest_resilience.chaos.profile import gate_of
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.plugin import options


__all__ = ["first", "part", "score", "single", "times_typed"]

_Value = TypeVar("_Value")
_DIGITS = 9  # of a number of shards


def single(
    config: pytest.Config, flag: str, names: dict[str, str], parse: Callable[[str, str], _Value]
) -> _Value | None:
    """The value of a flag that can have one only; what is typed overrules `addopts`."""
    values = options.given(config, flag)
    times = times_typed(config, flag)
    parsed = [parse(names[flag], value) for value in values[-times:]]
    if len(set(parsed)) > 1:
        raise ConfigurationError(
            f"{names[flag]} is given more than once, as {inline(', '.join(values[-times:]))}; "
            "keep one"
        )
    return parsed[0] if parsed else None


def times_typed(config: pytest.Config, flag: str) -> int:
    """How often a flag stands on the command line itself, by whichever name."""
    forms = {f"--{flag}", f"--{options.PREFIX}-{flag}"}
    return sum(str(arg).partition("=")[0] in forms for arg in config.invocation_params.args)


def first(*values: _Value | None) -> _Value | None:
    """The first that is given: who comes earlier overrules."""
    return next((value for value in values if value is not None), None)


def score(name: str, value: str) -> float:
    """That of a gate. Raises ConfigurationError, as all of these."""
    is_number = value.isascii() and value.replace(".", "", 1).isdigit()
    return gate_of(name, float(value) if is_number else value)


def part(name: str, value: str) -> tuple[int, int]:
    """Which of how many, as in `1/3`."""
    index, slash, count = value.partition("/")
    numbers = index.isascii() and count.isascii() and index.isdigit() and count.isdigit()
    short = len(index) <= _DIGITS and len(count) <= _DIGITS
    if not (slash and numbers and short and 1 <= int(index) <= int(count)):
        raise ConfigurationError(f"{name}={shortened(value)}: give a part such as 1/3")
    return int(index), int(count)
