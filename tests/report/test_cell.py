from __future__ import annotations

import pickle

from hypothesis import given

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.json_reader import Fields
from tests.report.conftest import cells


@given(cells)
def test_a_cell_travels_as_json_and_by_pickle(original: Cell) -> None:
    assert Cell.from_json(Fields(original.to_json())) == original
    assert pickle.loads(pickle.dumps(original)) == original


def test_each_verdict_is_of_one_sort_at_most() -> None:
    sorts = {
        verdict: (verdict.good, verdict.bad, verdict.proves_nothing) for verdict in CellVerdict
    }
    assert {verdict for verdict, sort in sorts.items() if sort == (True, False, False)} == {
        "survived",
        "degraded",
    }
    assert {verdict for verdict, sort in sorts.items() if sort == (False, True, False)} == {
        "failed",
        "hang",
        "invariant",
        "leak",
        "probe",
        "storm",
    }
    assert {verdict for verdict, sort in sorts.items() if sort == (False, False, True)} == {
        "never_fired",
        "not_started",
        "invalid",
        "stale",
    }
    for neutral in (CellVerdict.NOT_RUN, CellVerdict.NOT_APPLICABLE, CellVerdict.UNEXPLORABLE):
        assert sorts[neutral] == (False, False, False)
        assert not neutral.fails


def test_every_verdict_has_a_letter_of_its_own() -> None:
    assert "".join(verdict.letter for verdict in CellVerdict) == "-·?SDLFPVMHTN!I"
    assert CellVerdict.NEVER_FIRED.words == "never fired"


def test_every_verdict_is_explained() -> None:
    assert all(("proves nothing" in each.meaning) == each.proves_nothing for each in CellVerdict)
