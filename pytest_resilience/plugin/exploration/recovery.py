"""Runs a test without faults until it is itself again, and tells where it never is."""

from __future__ import annotations

import operator

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.exploration.operation_log import differences
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.outcome import Signature
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.plugin.exploration.runs import ExploredRuns
from pytest_resilience.plugin.exploration.runs import Ran
from pytest_resilience.plugin.exploration.settings import Oracle
from pytest_resilience.plugin.matrix.leaks import LeakedResources
from pytest_resilience.plugin.pytest_internals import tear_down
from pytest_resilience.report.cell import CellVerdict


__all__ = ["Recovery", "StateLeaksError"]

_PAUSES = (0.0, 0.1, 0.5, 2.0)  # seconds, before a run without faults is as the first ones
_MOST_RENEWED = 20  # times that fixtures of wider scopes are made anew for one test


class StateLeaksError(Exception):
    """What a run under faults has left makes later ones fail without any."""


class Recovery:
    """Judges runs of one test by what comes after them as well.

    Attributes:
        faultless: the operations without faults; none where they do not matter.
    """

    def __init__(self, runs: ExploredRuns, item: pytest.Item, oracle: Oracle) -> None:
        self.faultless: Sequence[Seen] = ()
        self._runs = runs
        self._item = item
        self._oracle = oracle
        self._known: set[Signature] = set()
        self._renewed = 0

    def judged(
        self, schedule: Schedule, *, baseline: LeakedResources, looks: bool = False, **options: Any
    ) -> Ran:
        """A run under faults: it leaks where it does so each time.

        What a fault leaves busy makes a pool grow, or a loop that is run again has still to close
        it. `looks`: whether the test runs without faults after it in any case, and not only where
        the probe has failed as it may. `options`: as of `ExploredRuns.run`.
        """
        run, item, oracle = self._runs.run, self._item, self._oracle
        ran = run(item, schedule, oracle, baseline=baseline, **options)
        if ran.outcome.verdict is CellVerdict.LEAK:
            grown = replace(baseline, there=ran.leaked.there)
            again = run(item, schedule, oracle, baseline=grown, **options | {"counts": False})
            ran = replace(ran, outcome=again.outcome) if again.outcome.verdict.good else ran
        if not ran.outcome.verdict.good or not (looks or ran.is_in_doubt):
            return ran
        return self._as_it_ends(ran)

    def _as_it_ends(self, ran: Ran) -> Ran:
        """The run; as one of which the test never recovers, where that is so.

        It asks the world for the same again, all is answered, and the result is wrong: a client
        takes the answer to another question. Who does not ask any more, such as a breaker that is
        open, answers with something else.
        """
        after, _ = self._calm_run()
        if after.outcome.verdict is not CellVerdict.FAILED:
            return ran
        asked = {each.point.site for each in after.outcome.seen}
        if not all(step.point.site in asked for step in ran.outcome.hit):
            return ran
        found = CellVerdict.PROBE
        outcome = replace(
            ran.outcome,
            verdict=found,
            reason=f"from then on it fails without faults: {after.outcome.reason}",
            signature=replace(after.outcome.signature, verdict=found),
        )
        return replace(ran, outcome=outcome)

    def await_calm(self, schedule: Schedule) -> None:
        """See that what `schedule` has left makes no other fail: a client's back-off ends soon.

        Where it does not, fixtures of wider scopes are made anew: of classes and modules, and if
        that is not enough those of the session. Raises StateLeaksError where nothing helps.
        """
        _, differs = self._calm_run(at_once=self._renewed > 0)
        if differs and self._renewed < _MOST_RENEWED:
            self._renewed += 1
            for kept in (self._item.session, None):
                tear_down(self._item, kept)
                _, differs = self._calm_run(at_once=True)
                if not differs:
                    break
        if differs:
            raise StateLeaksError(
                f"{format_schedule(schedule)} has left something that outlives the test's "
                "fixtures, so that it is not the same test any more without faults: "
                f"{differs}; the rest was not explored"
            )

    def _calm_run(self, *, at_once: bool = False) -> tuple[Ran, str]:
        """The first run without faults that is as it was before, or the last; and what differs.

        Nobody waits where that was in vain before: `at_once`, or where it ends in a known way.
        """
        pauses = iter(_PAUSES)
        while True:
            MACHINE_CLOCK.sleep(next(pauses))
            ran = self._runs.run(self._item, (), self._oracle)
            differs = differences(self.faultless, ran.outcome.seen) if self.faultless else ""
            differs = differs or ran.outcome.reason
            if ran.outcome.verdict is CellVerdict.SURVIVED and not differs:
                return ran, ""
            if at_once or ran.outcome.signature in self._known:
                return ran, differs
            if not operator.length_hint(pauses):
                self._known.add(ran.outcome.signature)
                return ran, differs
