from __future__ import annotations

import datetime

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.report.baseline import Baseline
from pytest_resilience.report.baseline import KnownCell
from pytest_resilience.report.baseline import baseline_of
from pytest_resilience.report.cell import Verdict
from pytest_resilience.report.document import Report
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.gate import judge
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report
from tests.report.conftest import reports


def gate(
    found: Report, threshold: float | None = None, baseline: Baseline | None = None
) -> GateResult:
    return judge(found, threshold=threshold, baseline=baseline, today=TODAY)


def known(verdict: str = "failed", until: datetime.date | None = None) -> Baseline:
    reason = "known" if until else ""
    each = KnownCell(
        verdict=Verdict(verdict), experiment="slow", test="t.py::t", reason=reason, until=until
    )
    return Baseline(configuration="c0ffee", known=(each,))


def whats(result: GateResult) -> list[str]:
    return [problem.what for problem in result.problems]


def test_what_holds_passes() -> None:
    found = gate(report(cell("survived"), cell("degraded", "b")), threshold=100)
    assert found.passed
    assert str(found) == "resilience gate passed: 100 %, 100 asked, coverage 100 %"


@pytest.mark.parametrize("threshold", [None, 0, 95])
def test_nothing_run_is_never_green(threshold: float | None) -> None:
    found = gate(report(), threshold)
    assert whats(found) == ["nothing was run: none of 0 planned cells held or broke, so no score"]
    assert str(found).startswith("resilience gate FAILED: no score")
    found = gate(report(cell("not_run"), cell("not_run", "b")), threshold)
    assert whats(found) == ["nothing was run: none of 2 planned cells held or broke, so no score"]


def test_a_run_that_was_cut_short_is_never_green() -> None:
    found = gate(report(cell("survived"), interrupted="KeyboardInterrupt"))
    assert whats(found) == ["the run did not come to its end: KeyboardInterrupt"]


def test_a_score_below_what_is_asked_fails() -> None:
    shown = report(cell("survived"), cell("failed", "t.py::t", "gone"))
    found = gate(shown, 50.1, baseline_of(shown))
    assert whats(found) == ["the score is 50 %, below the 50.1 asked"]
    assert gate(shown, 50, baseline_of(shown)).passed


@pytest.mark.parametrize(
    "verdict", ["failed", "hang", "leak", "never_fired", "not_started", "invalid"]
)
def test_each_cell_that_does_not_hold_fails(verdict: str) -> None:
    found = gate(report(cell("survived", "a"), cell(verdict)))
    assert whats(found) == [f"{verdict.replace('_', ' ')}: t.py::t under 'slow'"]


def test_a_problem_prints_cell_reason_and_repeat_line() -> None:
    broken = cell(
        "failed", reason="AssertionError: 1 != 2\nin pay", repeat="pytest t.py::t", flaky=True
    )
    [problem] = gate(report(broken), 0, Baseline(configuration="c0ffee")).problems
    assert str(problem) == (
        "failed: t.py::t under 'slow' (flaky), not in the baseline\n"
        "    AssertionError: 1 != 2\n"
        "    in pay\n"
        "    repeat: pytest t.py::t"
    )
    assert problem.cell is broken


def test_problems_begin_with_the_run_and_then_the_worst() -> None:
    found = gate(
        report(cell("leak", "a"), cell("survived", "b"), cell("hang", "c"), cell("invalid", "d")),
        95,
    )
    assert [text.partition(" ")[0] for text in whats(found)] == [
        "the",
        "invalid:",
        "hang:",
        "leak:",
    ]


def test_what_the_baseline_lists_passes() -> None:
    broken = cell("failed")
    found = gate(report(broken), 0, known())
    assert found.passed
    assert found.waived == (broken,)


@pytest.mark.parametrize(
    ("listed", "now", "passes"),
    [
        ("hang", "failed", True),
        ("failed", "leak", True),
        ("leak", "failed", False),
        ("failed", "hang", False),
    ],
)
def test_the_baseline_excuses_nothing_worse_than_it_says(
    listed: str, now: str, passes: bool
) -> None:
    found = gate(report(cell(now)), 0, known(listed))
    assert whats(found) == (
        [] if passes else [f"{now}: t.py::t under 'slow', known only as {listed}"]
    )


@pytest.mark.parametrize("verdict", ["never_fired", "not_started", "invalid"])
def test_the_baseline_excuses_nothing_that_proves_nothing(verdict: str) -> None:
    found = gate(report(cell(verdict), cell("survived", "b")), 0, known("hang"))
    assert whats(found) == [f"{verdict.replace('_', ' ')}: t.py::t under 'slow'"]


def test_a_waiver_that_has_expired_excuses_nothing() -> None:
    assert gate(report(cell("failed")), 0, known(until=TODAY)).passed
    yesterday = TODAY - datetime.timedelta(days=1)
    found = gate(report(cell("failed")), 0, known(until=yesterday))
    assert whats(found) == ["failed: t.py::t under 'slow', waived until 2026-06-14 only: known"]


def test_what_no_longer_breaks_is_told() -> None:
    found = gate(report(cell("survived")), 100, known())
    assert found.passed
    assert found.notes == ("survived, take it out of the baseline: failed  slow  t.py::t",)


def test_a_baseline_of_other_experiments_is_not_compared() -> None:
    with pytest.raises(ConfigurationError, match="baseline: configuration c0ffee is not that of"):
        gate(report(cell("failed"), configuration="decaf"), 0, known())


@given(reports, st.none() | st.floats(min_value=0, max_value=100))
def test_green_is_no_accident(found: Report, threshold: float | None) -> None:
    result = gate(found, threshold)
    verdicts = {each.verdict for each in found.cells}
    assert result.passed == (
        found.complete
        and any(verdict.good for verdict in verdicts)
        and not any(verdict.bad or verdict.proves_nothing for verdict in verdicts)
    )
    result = gate(found, threshold, baseline_of(found))
    assert result.passed == (
        found.complete
        and found.score.percent is not None
        and found.score.reaches(threshold or 0)
        and not any(verdict.proves_nothing for verdict in verdicts)
    )
