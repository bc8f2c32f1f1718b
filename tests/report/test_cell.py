from __future__ import annotations

import pickle

from hypothesis import given

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import Verdict
from pytest_resilience.report.fields import Fields
from pytest_resilience.report.junit import junit_properties
from tests.report.conftest import cell
from tests.report.conftest import cells


@given(cells)
def test_a_cell_travels_as_json_and_by_pickle(original: Cell) -> None:
    assert Cell.from_json(Fields(original.to_json())) == original
    assert pickle.loads(pickle.dumps(original)) == original


def test_each_verdict_is_of_one_sort_at_most() -> None:
    sorts = {verdict: (verdict.good, verdict.bad, verdict.proves_nothing) for verdict in Verdict}
    assert {verdict for verdict, sort in sorts.items() if sort == (True, False, False)} == {
        "survived",
        "degraded",
    }
    assert {verdict for verdict, sort in sorts.items() if sort == (False, True, False)} == {
        "failed",
        "hang",
        "leak",
    }
    assert {verdict for verdict, sort in sorts.items() if sort == (False, False, True)} == {
        "never_fired",
        "not_started",
        "invalid",
    }
    assert sorts[Verdict.NOT_RUN] == (False, False, False)


def test_every_verdict_has_a_letter_of_its_own() -> None:
    assert "".join(verdict.letter for verdict in Verdict) == "-SDLFHN!I"
    assert Verdict.NEVER_FIRED.words == "never fired"


def test_junit_gets_what_there_is_to_say() -> None:
    broken = cell(
        "failed", reason="TimeoutError", repeat="pytest t.py::t", weight=2, duration=0.25,
        what="latency 300ms",
    )  # fmt: skip
    assert junit_properties(broken) == [
        ("resilience.experiment", "slow"),
        ("resilience.what", "latency 300ms"),
        ("resilience.verdict", "failed"),
        ("resilience.reason", "TimeoutError"),
        ("resilience.repeat", "pytest t.py::t"),
        ("resilience.weight", "2"),
        ("resilience.duration", "0.250"),
    ]
    held = dict(junit_properties(cell("survived", flaky=True)))
    assert held["resilience.flaky"] == "true"
    assert "resilience.reason" not in held
