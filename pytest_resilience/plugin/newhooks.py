"""The hooks by which other plugins and conftest files extend this one, or are notified."""

from __future__ import annotations

import sys

from collections.abc import Callable
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import pytest

from pluggy import PluginValidationError

from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import printable
from pytest_resilience.chaos.parsing.messages import shortened


if TYPE_CHECKING:
    from pytest_resilience.assertions.readings import Reader
    from pytest_resilience.chaos.engine import FaultInjected
    from pytest_resilience.report.cell import Cell
    from pytest_resilience.report.run_report import Report
    from pytest_resilience.runtime import NewChaosType


_PREFIX = "pytest_resilience_"
_ASKED = {
    "adapters": "a list of functions, each of one object",
    "chaos_types": "a list of NewChaosType",
}


def gathered(hook: str, results: Iterable[Any], is_one: Callable[[Any], bool]) -> list[Any]:
    """All that was given by a hook. Raises `pytest.UsageError` for what it is not asked for."""
    found: list[Any] = []
    for result in results:
        things = list(result) if isinstance(result, Iterable) else None
        if things is None or not all(map(is_one, things)):
            raise pytest.UsageError(
                f"the hook pytest_resilience_{hook} gave {shortened(result)}; return {_ASKED[hook]}"
            )
        found += things
    return found


def add_readers(config: pytest.Config, results: Iterable[Any]) -> None:
    """Let assertions ask those that the hook for adapters gave, for this run. Raises as above."""
    from pytest_resilience.assertions.readings import add_reader

    for reader in gathered("adapters", results, callable):
        config.add_cleanup(add_reader(reader))


@pytest.hookspec
def pytest_resilience_adapters() -> Iterable[Reader]:  # type: ignore[empty-body]
    """Give the readers with which assertions read breakers and retries of your own.

    A reader is a function of one object. It returns a `CircuitReading` or a `RetryReading`
    from `pytest_resilience.assertions`, or None for what it does not know, and changes
    nothing. It is asked before our own.

    Examples:
        >>> def pytest_resilience_adapters():
        ...     return [read_fuse]
    """


@pytest.hookspec
def pytest_resilience_chaos_types() -> Iterable[NewChaosType]:  # type: ignore[empty-body]
    """Give chaos types of your own: a name, its parameters, and where it happens.

    They are asked for once, when the first chaos of a run is asked for; flags are read before
    any conftest.py but that of the root.

    Examples:
        >>> def pytest_resilience_chaos_types():
        ...     return [NewChaosType("late_mail", LATE_MAIL, MailInterceptor)]
    """


@pytest.hookspec
def pytest_resilience_fault_injected(nodeid: str, event: FaultInjected) -> None:
    """A fault has happened to a test; called in the thread that it happened to.

    Examples:
        >>> def pytest_resilience_fault_injected(nodeid, event):
        ...     print(f"{nodeid}: {event.fault} on {event.target}")
    """


@pytest.hookspec(firstresult=True)
def pytest_resilience_verdict(item: pytest.Item, cell: Cell) -> Cell | None:
    """Look at a cell of the matrix; give another in its place, or None to leave it.

    Examples:
        >>> def pytest_resilience_verdict(item, cell):
        ...     if "504" in cell.reason:
        ...         return dataclasses.replace(cell, verdict=CellVerdict.DEGRADED)
    """


@pytest.hookspec
def pytest_resilience_report_section(report: Report) -> str | None:
    """Give a text of your own for the terminal's summary of the matrix, and the CI's.

    Examples:
        >>> def pytest_resilience_report_section(report):
        ...     return f"dashboard: https://chaos.example.com/{report.configuration}"
    """


def describe(manager: pytest.PytestPluginManager) -> None:
    """Make them known to pytest, if they are not yet: an idle run does without.

    Raises `pytest.UsageError` for one that somebody has with other arguments, or that begins as
    ours do and is none: pytest refuses these with a traceback of its own.
    """
    _check_names(manager)
    known = getattr(manager.hook, "pytest_resilience_adapters", None)
    if known is None or not known.has_spec():
        try:
            manager.add_hookspecs(sys.modules[__name__])
        except PluginValidationError as error:
            raise pytest.UsageError(printable(str(error))) from None


def _check_names(manager: pytest.PytestPluginManager) -> None:
    ours = {name.removeprefix(_PREFIX): name for name in globals() if name.startswith(_PREFIX)}
    for name, hook in vars(manager.hook).items():
        if name.startswith(_PREFIX) and name not in ours.values():
            for each in hook.get_hookimpls():
                meant = nearest(name.removeprefix(_PREFIX), ours) and nearest(name, ours.values())
                raise pytest.UsageError(
                    f"{each.plugin_name}: unknown hook {name}{meant}; known: "
                    f"{', '.join(sorted(ours.values()))}"
                )
