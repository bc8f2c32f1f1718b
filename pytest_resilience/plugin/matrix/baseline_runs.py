"""Tests run without any experiment, and what experiments could hit in them."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any
from typing import Protocol

import pytest

from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.plugin.experiment_request import Requested
from pytest_resilience.plugin.matrix.rerun import run_once
from pytest_resilience.plugin.matrix.verdict import Judgement
from pytest_resilience.report.cell import CellVerdict


__all__ = ["CalmRuns", "Watches"]


class Watches(Protocol):
    """What sees the operations of a test: the chaos session."""

    def watching(self, requests: Iterable[Requested]) -> AbstractContextManager[Recorder]:
        """Note what is done in the block that these could hit."""

    def noting(self) -> AbstractContextManager[None]:
        """What is done in the block is what the test itself does."""


class CalmRuns:
    """Runs one test after the other, and knows of the last what it did.

    Of connections that a fixture has opened before the test no more may be seen, so who uses that
    fixture is taken to use them.
    """

    def __init__(self, session: Watches) -> None:
        self._session = session
        self._watch: Recorder | None = None
        self._last = Recorder(())
        self._opened: dict[str, set[str]] = {}  # kinds of operation, by the fixture's name

    def run(self, item: pytest.Item, requests: Iterable[Requested]) -> list[pytest.TestReport]:
        """The reports of a calm run; `requests` are what the test is to run under later."""
        with self._session.watching(requests) as recorder:
            self._watch = self._last = recorder
            try:
                return run_once(item, brief=False)
            finally:
                self._watch = None

    def spares(self, item: pytest.Item, requested: Requested) -> Judgement | None:
        """The verdict of an experiment that can hit nothing in the test that was run last."""
        experiment = requested.experiment
        if self._last.could_hit(experiment) or self.opened_before(item, requested):
            return None
        did = "; ".join(self._last.lines) or "nothing that any could hit"
        kinds = ", ".join(sorted(self._last.possible_kinds(experiment)))
        return CellVerdict.NOT_APPLICABLE, f"it hits {kinds}; in the calm run the test did: {did}"

    def opened_before(self, item: pytest.Item, requested: Requested) -> list[str]:
        """The fixtures of a test that have opened what the experiment could have hit."""
        kinds = self._last.possible_kinds(requested.experiment)
        names = getattr(item, "fixturenames", ())
        return [name for name in names if not kinds.isdisjoint(self._opened.get(name, ()))]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Note what is opened by which fixture."""
        if self._watch is None:
            return (yield)
        with self._watch.opening() as kinds:
            result = yield
        if kinds:
            self._opened.setdefault(fixturedef.argname, set()).update(kinds)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Note what the test does, and not what is done around it."""
        with self._session.noting():
            return (yield)
