from __future__ import annotations

import itertools
import random

from fractions import Fraction

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.score import Score
from tests.report.conftest import cell
from tests.report.conftest import cells


def score(*verdicts: str) -> Score:
    return Score.of(cell(verdict) for verdict in verdicts)


@pytest.mark.parametrize(
    ("verdicts", "percent", "shown"),
    [
        ([], None, "no score"),
        (["never_fired", "not_started", "invalid", "not_run"], None, "no score"),
        (["survived"], 100.0, "100 %"),
        (["survived", "degraded", "never_fired", "invalid", "not_run"], 100.0, "100 %"),
        (["failed"], 0.0, "0 %"),
        (["survived", "failed"], 50.0, "50 %"),
        (["survived", "survived", "leak"], 66.6, "66.6 %"),
        (["survived", "hang", "hang"], 33.3, "33.3 %"),
        (["survived"] * 9999 + ["failed"], 99.9, "99.9 %"),
    ],
)
def test_the_score(verdicts: list[str], percent: float | None, shown: str) -> None:
    assert score(*verdicts).percent == percent
    assert str(score(*verdicts)) == shown


def test_nothing_run_is_no_score_and_reaches_nothing() -> None:
    assert not score("not_run").reaches(0)
    assert score("failed").reaches(0)


def test_experiments_count_as_much_as_they_weigh() -> None:
    found = Score.of([cell("survived", weight=2), cell("failed", experiment="gone", weight=0.5)])
    assert found.percent == 80.0


def test_a_tenth_is_a_tenth() -> None:
    weights = [0.1, 0.2, 0.7]  # as binary fractions their sum is below 1
    found = Score.of([*(cell("survived", weight=each) for each in weights), cell("failed")])
    assert found.percent == 50.0
    assert found.reaches(50)


def test_what_is_judged_is_the_figure_that_is_shown() -> None:
    assert score(*["survived"] * 999, "failed").reaches(99.9)
    assert not score(*["survived"] * 9994, *["failed"] * 6).reaches(99.92)  # 99.94, shown as 99.9


def test_what_is_accepted_counts_for_coverage_alone() -> None:
    found = [cell("survived", "a"), cell("failed", "b"), cell("hang", "c"), cell("survived", "d")]
    accepted = {each.key for each in found[1:]}
    assert Score.of(found, {("b", "slow")}).percent == 66.6
    assert Score.of(found, accepted).percent == 100.0
    assert Score.of(found, accepted).coverage == 100.0
    assert Score.of(found[1:3], accepted).percent is None


def test_coverage_stands_apart() -> None:
    found = score(
        *("survived", "not_run", "not_started", "invalid", "never_fired", "failed", "degraded")
    )
    assert found.percent == 66.6
    assert (found.tried, found.planned, found.coverage) == (4, 7, 57.1)
    assert score().coverage is None


def test_what_is_not_applicable_counts_for_nothing() -> None:
    found = score("survived", "failed", "not_run", "not_applicable", "not_applicable")
    assert (found.percent, found.tried, found.planned, found.coverage) == (50.0, 2, 3, 66.6)
    assert score("not_applicable").percent is None
    assert score("not_applicable").coverage is None


@given(st.lists(cells, max_size=8), st.randoms(use_true_random=False))
def test_no_order_matters_and_nothing_rounds_up(found: list[Cell], chance: random.Random) -> None:
    percent = Score.of(found).percent
    turned = list(found)
    chance.shuffle(turned)
    assert Score.of(turned).percent == percent
    if percent is None:
        assert not any(each.verdict.good or each.verdict.bad for each in found)
    else:
        assert 0 <= percent <= 100
        bad = any(each.verdict.bad for each in found)
        assert (percent == 100) == (not bad)


@given(st.lists(st.sampled_from(["survived", "failed", "invalid"]), max_size=30))
def test_a_cell_that_breaks_never_lifts_the_score(verdicts: list[str]) -> None:
    before, after = score(*verdicts), score(*verdicts, "failed")
    assert after.percent is not None
    assert before.percent is None or after.percent <= before.percent


def test_the_figure_is_exact() -> None:
    for good, bad in itertools.product(range(30), range(30)):
        if good + bad:
            percent = score(*["survived"] * good, *["hang"] * bad).percent
            assert percent is not None
            share = Fraction(100 * good, good + bad)
            assert Fraction(str(percent)) <= share < Fraction(str(percent)) + Fraction(1, 10)


def test_verdicts_are_what_their_names_say() -> None:
    assert score(*CellVerdict) == score(*reversed(CellVerdict))
