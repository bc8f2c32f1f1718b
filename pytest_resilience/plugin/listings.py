"""What there is to ask for: the chaos types of --chaos-list, the profiles of --chaos-profile=?."""

from __future__ import annotations

import shutil
import textwrap

from collections.abc import Iterable

import pytest

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.parsing.texts import printable
from pytest_resilience.chaos.profile import Profile
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.catalog import Kind
from pytest_resilience.chaos.types.catalog import chaos_type
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import with_page
from pytest_resilience.plugin.options import given
from pytest_resilience.plugin.options import option_name
from pytest_resilience.plugin.profiles import all_profiles
from pytest_resilience.plugin.pytest_internals import write_lines
from pytest_resilience.plugin.settings import custom_types
from pytest_resilience.plugin.settings import settings_of


__all__ = ["list_profiles", "list_types"]

_NAMES = 14  # columns for the names of parameters
_LEAST = 79  # columns of a line, however narrow the terminal is
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
