"""Hooks for runs that call for them; loaded and registered only there."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.plugin import options
from pytest_resilience.plugin.pytest_internals import write_lines


__all__ = ["Listing", "MovedOptions", "XdistController", "add_adapters", "check_marks"]


class Listing:
    """Where a flag of ours is given."""

    def pytest_cmdline_main(self, config: pytest.Config) -> int | None:
        """Answer --chaos-list."""
        if not options.given(config, "chaos-list"):
            return None
        from pytest_resilience.plugin.profiles import all_profiles
        from pytest_resilience.plugin.settings import settings_of
        from pytest_resilience.report.chaos_types import listing

        settings_of(config)  # with the types that others have given
        write_lines(config, listing(all_profiles(config)))
        return 0


class MovedOptions:
    """Where another plugin has taken names of ours."""

    def pytest_report_header(self, config: pytest.Config) -> str:
        """Say what to type instead."""
        names = config.stash[options.NAMES]
        moved = [f"{name} for --{flag}" for flag, name in names.items() if name != f"--{flag}"]
        return f"resilience: another plugin has taken our options; type {', '.join(moved)}"


class XdistController:
    """Where pytest-xdist is installed."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker the seed of the run, and collect what it reports."""
        from pytest_resilience.plugin import xdist

        xdist.configure_node(node)


def add_adapters(config: pytest.Config) -> None:
    """Let the assertions use, for this run, the readers that others have given."""
    from pytest_resilience.assertions.readers import add_reader

    for readers in config.hook.pytest_resilience_adapters():
        for reader in readers:
            config.add_cleanup(add_reader(reader))


def check_marks(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raise `pytest.UsageError` naming each bad mark `resilience` or `no_chaos` of `items`."""
    from pytest_resilience.chaos.parsing.texts import printable
    from pytest_resilience.errors import ConfigurationError
    from pytest_resilience.plugin.marker_location import mark_location
    from pytest_resilience.plugin.matrix.expectation import Expectation

    problems: dict[str, None] = {}
    for item in items:
        for node, mark in item.iter_markers_with_node():
            try:
                if mark.name == "resilience":
                    Expectation.read(mark)
                elif mark.name == "no_chaos" and (mark.args or mark.kwargs):
                    raise ConfigurationError("no_chaos takes nothing; write @pytest.mark.no_chaos")
            except ConfigurationError as error:
                problems[f"{mark_location(node, mark)}: {error}"] = None
    if problems and hasattr(config, "workerinput"):
        from pytest_resilience.plugin.xdist import hand_over

        hand_over(config, items, list(problems))
    elif problems:
        raise pytest.UsageError(printable("\n".join(problems)))
