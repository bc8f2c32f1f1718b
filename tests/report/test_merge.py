from __future__ import annotations

import random
import re

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.merge import combine
from pytest_resilience.report.merge import merge
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Shard
from tests.report.conftest import cell
from tests.report.conftest import cells
from tests.report.conftest import report


def shard(index: int, count: int, *found: Cell, **rest: str) -> tuple[str, Report]:
    name = f"{'abc'[index - 1]}.json"
    return name, report(*found, shard=Shard(index=index, count=count), seed=7, **rest)


def test_shards_become_one_report() -> None:
    first, second = cell("survived", "a.py::a"), cell("failed", "b.py::b")
    merged = merge(
        [
            shard(2, 2, second, started_at="2026-01-01T10:00:01+00:00", python="3.12.1"),
            shard(1, 2, first, started_at="2026-01-01T10:00:02+00:00", python="3.11.7"),
        ]
    )
    assert merged == report(
        first, second, seed=7, started_at="2026-01-01T10:00:01+00:00", python="3.11.7, 3.12.1"
    )
    assert merged.complete


@pytest.mark.parametrize(
    ("runs", "verdict", "flaky"),
    [
        (["survived", "survived"], "survived", False),
        (["survived", "failed"], "failed", True),
        (["failed", "survived"], "failed", True),
        (["hang", "failed", "leak"], "hang", True),
        (["degraded", "survived"], "degraded", True),
        (["failed", "never_fired"], "never_fired", True),  # no baseline excuses it
        (["hang", "invalid"], "invalid", True),
        (["not_run", "survived"], "survived", False),  # tells nothing, so disagrees with nobody
        (["not_run", "not_run"], "not_run", False),
        (["not_applicable", "survived"], "survived", False),
        (["not_applicable", "not_run"], "not_applicable", False),
    ],
)
def test_the_worst_verdict_wins_and_disagreement_is_flaky(
    runs: list[str], verdict: str, flaky: bool
) -> None:
    named = [
        shard(1, 1, cell(each, reason=each), started_at=f"2026-01-0{number}T10:00:00+00:00")
        for number, each in enumerate(runs, 1)
    ]
    [found] = merge(named).cells
    assert (found.verdict, found.reason, found.flaky) == (verdict, verdict, flaky)


def test_once_flaky_always_flaky() -> None:
    [found] = combine([cell("survived", flaky=True), cell("survived")])
    assert found.flaky


@given(st.lists(cells, max_size=10), st.randoms(use_true_random=False))
def test_no_order_of_runs_changes_a_verdict(found: list[Cell], chance: random.Random) -> None:
    turned = list(found)
    chance.shuffle(turned)
    told = {each.key: (each.verdict, each.flaky) for each in combine(found)}
    assert {each.key: (each.verdict, each.flaky) for each in combine(turned)} == told
    assert set(told) == {each.key for each in found}
    for each in found:
        assert told[each.key][0].severity >= each.verdict.severity
    assert combine(combine(found)) == combine(found)


def test_one_half_of_a_run_in_pieces_tells_which() -> None:
    merged = merge([shard(1, 2), shard(2, 2, interrupted="KeyboardInterrupt")])
    assert not merged.complete
    assert merged.interrupted == "shard 2 of 2: KeyboardInterrupt"


def test_seeds_that_differ_are_no_seed() -> None:
    merged = merge([("a.json", report(seed=1)), ("b.json", report(seed=2))])
    assert merged.seed is None


def test_profiles_are_named_once() -> None:
    named = [("a", report(profiles=("ci", "net"))), ("b", report(profiles=("net", "db")))]
    assert merge(named).profiles == ("ci", "net", "db")


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ([], "no report to merge; name at least one"),
        ([shard(2, 3)], "shard 1, 3 of 3 is missing; there are b.json"),
        ([shard(1, 2), shard(1, 2)], "shard 2 of 2 is missing; there are a.json, a.json"),
        (
            [shard(1, 2), shard(2, 2, configuration="decaf")],
            "b.json is of configuration decaf, a.json of c0ffee: other experiments or parameters;",
        ),
        (
            [shard(1, 2), shard(2, 3)],
            "b.json is shard 2 of 3, a.json is shard 1 of 2; merge the shards of one run",
        ),
    ],
)
def test_what_is_no_whole_run_is_refused(named: list[tuple[str, Report]], text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        merge(named)


def test_verdicts_have_their_order() -> None:
    assert sorted(CellVerdict, key=lambda each: each.severity) == [
        *("not_run", "not_applicable", "unexplorable", "survived", "degraded", "leak", "failed"),
        *("probe", "invariant", "storm", "hang", "stale", "never_fired", "not_started", "invalid"),
    ]


def test_the_same_report_twice_is_a_mistake() -> None:
    first, second = shard(1, 2, cell("survived")), shard(2, 2, cell("failed", "b.py::b"))
    with pytest.raises(ConfigurationError, match=r"a\.json and copy\.json are the same report"):
        merge([first, second, ("copy.json", first[1])])
