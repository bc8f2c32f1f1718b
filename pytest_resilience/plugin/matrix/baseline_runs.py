"""Baseline runs: tests without any experiment, and which operations they do."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_resilience.chaos.recorder import Recorder
from pytest_resilience.plugin.experiment_request import ExperimentRequest
from pytest_resilience.plugin.matrix.verdict import Judgement
from pytest_resilience.plugin.pytest_internals import fixtures_of
from pytest_resilience.plugin.pytest_internals import run_once
from pytest_resilience.plugin.session import ChaosSession
from pytest_resilience.report.cell import CellVerdict


__all__ = ["BaselineRuns"]


class BaselineRuns:
    """Runs one test after the other, and knows which operations the last one did.

    What a test does on a connection that a fixture opened before may not be seen. So a test that
    uses such a fixture is taken to use the connection. Fixtures of functions are made anew for
    each test, so that it is only in this one that they have opened any.
    """

    def __init__(self, session: ChaosSession) -> None:
        self._session = session
        self._recorder: Recorder | None = None
        self._last = Recorder(())
        self._opened: dict[str, set[str]] = {}  # kinds of operation, by the fixture's name
        self._opened_for_test: dict[str, set[str]] = {}
        self._fixtures: Sequence[str] = ()  # of the test that was run last

    def run(
        self, item: pytest.Item, requests: Iterable[ExperimentRequest]
    ) -> list[pytest.TestReport]:
        """The reports of a run; `requests` are what the test is to run under later."""
        with self._session.record(requests) as recorder:
            self._recorder = self._last = recorder
            self._opened_for_test, self._fixtures = {}, getattr(item, "fixturenames", ())
            try:
                return run_once(item, counts=True)
            finally:
                self._recorder = None

    def not_applicable(self, request: ExperimentRequest) -> Judgement | None:
        """The verdict on an experiment that can hit nothing in the test that was run last."""
        experiment = request.experiment
        if self._last.could_hit(experiment) or self.opened_before(request):
            return None
        did = "; ".join(self._last.lines) or "nothing that any could hit"
        kinds = ", ".join(sorted(self._last.possible_kinds(experiment)))
        return CellVerdict.NOT_APPLICABLE, f"it hits {kinds}; without chaos the test did: {did}"

    def opened_before(self, request: ExperimentRequest) -> list[str]:
        """The fixtures of the last test that have opened what the experiment could have hit."""
        kinds = self._last.possible_kinds(request.experiment)
        opened = self._opened | self._opened_for_test
        return [name for name in self._fixtures if not kinds.isdisjoint(opened.get(name, ()))]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Record what is opened by which fixture."""
        __tracebackhide__ = True
        if self._recorder is None:
            return (yield)
        with self._recorder.opening() as kinds:
            result = yield
        if kinds:
            lasting = self._opened if fixturedef.scope != "function" else self._opened_for_test
            lasting.setdefault(fixturedef.argname, set()).update(kinds)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record what the test does, and not what is done around it."""
        __tracebackhide__ = True
        if self._recorder is not None:
            self._fixtures = fixtures_of(item)
        with self._session.record_test():
            return (yield)
