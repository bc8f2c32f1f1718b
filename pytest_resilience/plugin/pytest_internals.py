"""All that is used of pytest without being public, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import pytest


__all__ = [
    "check_markers",
    "count_in_last_line",
    "forget_run",
    "has_markers",
    "run_protocol",
    "subtests_forgotten",
    "taken_options",
    "tear_down_until",
    "write_lines",
]


_LOGREPORT = "pytest_runtest_logreport"


def taken_options(parser: pytest.Parser) -> set[str]:
    """Every option string registered so far.

    The public way is to add an option and see whether that raises, but depending on the
    version it raises only later, when the run is lost already.
    """
    groups = [*parser._groups, parser._anonymous]  # noqa: SLF001
    return {name for group in groups for option in group.options for name in option.names()}


def write_lines(config: pytest.Config, text: str) -> None:
    """Print as pytest prints, before it runs: what the terminal cannot show is escaped."""
    from _pytest.config import create_terminal_writer

    writer = create_terminal_writer(config)
    for line in text.splitlines():
        writer.line(line)


def run_protocol(item: pytest.Item, keep: Any) -> list[pytest.TestReport]:
    """Run a test without telling anybody; `keep`: the node whose fixtures stay."""
    from _pytest.runner import runtestprotocol

    with _overhearing(item.config) as told:
        setup, *rest = runtestprotocol(item, log=False, nextitem=keep)
    return [setup, *told, *rest]


@contextmanager
def _overhearing(config: pytest.Config) -> Iterator[list[pytest.TestReport]]:
    """Keep reports to oneself: subtests tell theirs whatever the protocol is told."""
    told: list[pytest.TestReport] = []

    def keep(report: pytest.TestReport) -> None:
        told.append(report)

    # pytest 8 has a proxy before the hooks, which remembers those that it was asked for.
    places = [vars(config.pluginmanager.hook), vars(config.hook)]
    usual = [place.get(_LOGREPORT) for place in places]
    for place in places:
        place[_LOGREPORT] = keep
    try:
        yield told
    finally:
        for place, found in zip(places, usual, strict=True):
            if found is None:
                place.pop(_LOGREPORT, None)
            else:
                place[_LOGREPORT] = found


@contextmanager
def subtests_forgotten(config: pytest.Config) -> Iterator[None]:
    """Let no subtest that fails in the block count when the test's outcome is told."""
    try:
        from _pytest.subtests import failed_subtests_key
    except ImportError:  # pytest 8 has none of its own
        yield
        return
    counts: Any = config.stash[failed_subtests_key]
    before = dict(counts)
    try:
        yield
    finally:
        counts.clear()
        counts.update(before)


def tear_down_until(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Finish the fixtures that the next test does not need."""
    item.session._setupstate.teardown_exact(nextitem)  # noqa: SLF001


def forget_run(item: pytest.Item) -> None:
    """Take off an item what its last run has left there."""
    item._report_sections.clear()  # noqa: SLF001
    for name in ("_instance", "_obj"):  # else methods share one `self`
        vars(item).pop(name, None)


def count_in_last_line(terminal: Any, what: str, items: Sequence[object], *, failed: bool) -> None:
    """Have pytest's last line say `2 what`, and be red where the run has failed."""
    terminal._add_stats(what, items)  # noqa: SLF001  # `stats` alone is seen only at times
    if failed:
        terminal._add_stats("failed", [])  # noqa: SLF001  # as above


def check_markers(expression: str) -> None:
    """Raise ConfigurationError for what `-m` would not take either."""
    _compiled(expression)


def has_markers(item: pytest.Item, expression: str) -> bool:
    """Whether `-m expression` would select the item."""
    from _pytest.mark import MarkMatcher

    return bool(_compiled(expression).evaluate(MarkMatcher.from_markers(item.iter_markers())))


def _compiled(expression: str) -> Any:
    from _pytest.mark import expression as marks

    from pytest_resilience.errors import ConfigurationError

    try:
        return marks.Expression.compile(expression)
    except (SyntaxError, getattr(marks, "ParseError", SyntaxError)) as error:  # of pytest 9, 8
        what = getattr(error, "msg", error)
        raise ConfigurationError(f"markers={expression!r}: {what}") from None
