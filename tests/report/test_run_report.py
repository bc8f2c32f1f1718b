from __future__ import annotations

import itertools
import json
import random
import re

from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.json_reader import MisfitError
from pytest_resilience.report.report_files import json_text
from pytest_resilience.report.report_files import read_report
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Score
from pytest_resilience.report.run_report import Shard
from pytest_resilience.report.run_report import combine
from pytest_resilience.report.run_report import fingerprint
from pytest_resilience.report.run_report import merge
from tests.report.conftest import SCHEMA
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import cells
from tests.report.conftest import report
from tests.report.conftest import reports


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


VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

FULL = report(
    cell(
        "failed",
        timeline=(TimelineEntry(at=0.5, kind=EntryKind.FAULT, source="slow", text="latency 1s"),),
    ),
    cell("survived", "b"),
    seed=1,
)


@given(reports)
def test_every_report_comes_back_and_fits_its_schema(original: Report) -> None:
    data = json.loads(json_text(original))
    VALIDATOR.validate(data)
    assert Report.from_json(data) == original
    assert json_text(original).isascii()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    defs = SCHEMA["$defs"]
    assert defs["cell"]["properties"]["verdict"]["enum"] == list(CellVerdict)
    assert defs["entry"]["properties"]["kind"]["enum"] == list(EntryKind)


def test_other_readers_find_score_and_coverage() -> None:
    data = FULL.to_json()
    assert (data["score"], data["coverage"], data["complete"]) == (50.0, 100.0, True)


def test_the_score_is_that_of_the_gate_where_there_is_one() -> None:
    gate = judge(FULL, threshold=None, baseline=baseline_of(FULL), today=TODAY)
    data = json.loads(json_text(FULL, gate))
    assert (data["score"], data["coverage"]) == (100.0, 100.0)


def test_a_cell_is_a_line() -> None:
    lines = json_text(FULL).splitlines()
    assert [line for line in lines if '"test"' in line] == lines[-4:-2]


def paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """To everything below a document."""
    found = []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        found.append((*path, key))
        if isinstance(value, (dict, list)):
            found += paths(value, (*path, key))
    return found


STRANGE: list[Any] = [None, True, 0, -1, 1.5, "", "odd", [], {}, ["a", 1]]


@pytest.mark.parametrize("path", paths(FULL.to_json()), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("value", [*STRANGE, "missing", "one more"], ids=repr)
def test_what_the_reader_refuses_the_schema_refuses_and_the_other_way_round(
    path: tuple[str | int, ...], value: Any
) -> None:
    data = json.loads(json_text(FULL))
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    if value == "missing":
        del holder[path[-1]]
    elif value == "one more" and isinstance(holder, dict):
        holder["more"] = 1
    else:
        holder[path[-1]] = value
    try:
        Report.from_json(data)
    except MisfitError:
        read = False
    else:
        read = True
    # Score and coverage are worked out anew, never read.
    if path[0] not in {"score", "coverage"}:
        assert read == VALIDATOR.is_valid(data)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("format",), 2, "2: format: 2: this version reads format 1"),
        (("seed",), "x", "9: seed: 'x': give a whole number, 0 or more"),
        (("shard", "index"), 2, "10: shard.index: 2: there are 1 shards"),
        (("complete",), False, "11: complete: False: `interrupted` says why a run is not, and"),
        (
            ("cells", 1, "verdict"),
            "odd",
            "17: cells[1].verdict: 'odd': give one of not_run, not_applicable, ",
        ),
        (("cells", 1, "weight"), 0, "17: cells[1].weight: 0: give a finite number above 0"),
        (("cells", 1, "weight"), 10**400, "17: cells[1].weight: 1000"),
        (("cells", 1, "flaky"), 1, "17: cells[1].flaky: 1: give true or false"),
        (("cells", 1, "odd"), 1, "17: cells[1].odd: unknown key; allowed: duration, experiment"),
        (("cells", 1, "timeline"), {}, "17: cells[1].timeline: {}: give a list of objects"),
        (
            ("cells", 0, "timeline", 0, "kind"),
            "odd",
            "16: cells[0].timeline[0].kind: 'odd': give one of operation, fault, breaker, retry",
        ),
        (("cells", 0, "timeline", 0), 3, "16: cells[0].timeline[0]: 3 is no object"),
        (("profiles",), [1], "7: profiles[0]: 1: give a text"),
        (("cells", 1), FULL.cells[0].to_json(), "17: cells[1]: t.py::t under 'slow' is there"),
    ],
)
def test_what_does_not_fit_is_named_by_file_line_and_key(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, text: str
) -> None:
    data: Any = FULL.to_json()
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    file = tmp_path / "a.json"
    cells = ",\n".join(map(json.dumps, data.pop("cells")))
    head = "".join(f'"{key}": {json.dumps(each)},\n' for key, each in data.items())
    file.write_text(f'{{\n{head}"cells":\n[{cells}]}}')
    with pytest.raises(ConfigurationError, match=re.escape(f"{file}:{text}")):
        read_report(file)


def test_a_key_that_is_missing_is_named_by_the_line_of_its_object(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{\n"format": 1,\n"plugin": "1",\n"pytest":\n"9"}')
    with pytest.raises(ConfigurationError, match=r"a\.json:1: python: missing; give a text"):
        read_report(file)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "a.json:1: no JSON: Expecting value at column 1"),
        (b'{\n"format": 1,\n!}', "a.json:3: no JSON: "),
        (b"[]", "a.json:1: the document: [] is no object"),
        (b"\xff", "a.json cannot be read: 'utf-8' codec"),
        (b'{"format": NaN}', "a.json cannot be read: NaN is no JSON"),
        (b"[" * 200_000, "a.json cannot be read: "),
        (b"9" * 5000, "a.json cannot be read: Exceeds the limit"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, raw: bytes, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        read_report(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json cannot be read: .*No such file"):
        read_report(tmp_path / "none.json")


@given(st.integers(0, len(json_text(FULL).rstrip()) - 1))
def test_a_file_that_is_cut_off_is_refused(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.json"
    file.write_text(json_text(FULL)[:end])
    with pytest.raises(ConfigurationError, match=r"cut\.json:\d+: no JSON: "):
        read_report(file)


def test_a_configuration_is_its_experiments_and_nothing_else() -> None:
    slow = {"name": "slow", "chaos_type": "network_latency", "delay": "300ms", "weight": 2}
    gone = {"name": "gone", "chaos_type": "network_refused", "weight": 1}
    same = fingerprint([slow, gone])
    assert re.fullmatch(r"[0-9a-f]{12}", same)
    assert fingerprint([dict(reversed(gone.items())), slow]) == same
    assert fingerprint([slow]) != same
    assert fingerprint([slow | {"delay": "301ms"}, gone]) != same
    assert fingerprint([slow | {"weight": 1}, gone]) != same
    assert fingerprint([]) != same


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
