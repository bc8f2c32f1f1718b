from __future__ import annotations

import datetime
import re

from dataclasses import replace
from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.report.cell import EXPLORATION
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.gate import Baseline
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.gate import KnownCell
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.gate import problem_texts
from pytest_resilience.report.gate import read_baseline
from pytest_resilience.report.report_files import write_text
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Shard
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report
from tests.report.conftest import reports
from tests.report.conftest import texts


HEADER = "# configuration: c0ffee\n"
plain = st.builds(
    KnownCell,
    verdict=st.sampled_from([verdict for verdict in CellVerdict if verdict.bad]),
    experiment=texts,
    test=texts,
)
reasons = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
waivers = st.builds(
    KnownCell,
    verdict=st.just(CellVerdict.HANG),
    experiment=texts,
    test=texts,
    reason=reasons,
    until=st.dates(),
)


def baseline(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "baseline.txt"
    path.write_text(text, encoding="utf-8")
    return path


@given(st.lists(plain | waivers, max_size=6, unique_by=lambda each: (each.test, each.experiment)))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, known: list[KnownCell]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.txt"
    original = Baseline(configuration="c0ffee", known=tuple(known))
    write_text(path, original.text())
    found = read_baseline(path)
    assert found.by_key() == original.by_key()
    assert found.configuration == "c0ffee"
    assert found.text() == original.text()


def test_the_file_is_sorted_a_line_a_cell() -> None:
    known = (
        KnownCell(
            verdict=CellVerdict.LEAK,
            experiment="slow payments",
            test="t.py::test_pay[a b]",
            reason="the pool of payments is closed late, SHOP-12",
            until=datetime.date(2026, 12, 31),
        ),
        KnownCell(verdict=CellVerdict.FAILED, experiment="two  spaces", test='t.py::test["x" #1]'),
        KnownCell(verdict=CellVerdict.FAILED, experiment="gone", test="t.py::test_b#c"),
    )
    assert Baseline(configuration="c0ffee", known=known).text() == (
        "# pytest-resilience baseline: what is known to break\n"
        "# verdict  experiment  test  # reason; until 2026-12-31\n"
        "# configuration: c0ffee\n"
        'failed  "two  spaces"  "t.py::test[\\"x\\" #1]"\n'
        "failed  gone  t.py::test_b#c\n"
        "leak  slow payments  t.py::test_pay[a b]  # the pool of payments is closed late, SHOP-12;"
        " until 2026-12-31\n"
    )


def test_people_write_it_too(tmp_path: Path) -> None:
    found = read_baseline(
        baseline(
            tmp_path,
            "\ufeff# ours\r\n\r\n"
            "#configuration:   c0ffee  \r\n"
            "failed\tslow\tt.py::t\r\n"
            "  hang      gone   t.py::t # it is; known ;until   2026-12-31 \r\n",
        )
    )
    assert found == Baseline(
        configuration="c0ffee",
        place=f"{tmp_path / 'baseline.txt'}:3",
        known=(
            KnownCell(verdict=CellVerdict.FAILED, experiment="slow", test="t.py::t"),
            KnownCell(
                verdict=CellVerdict.HANG,
                experiment="gone",
                test="t.py::t",
                reason="it is; known",
                until=datetime.date(2026, 12, 31),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("failed slow t.py::t", "'failed slow t.py::t' is no line of a baseline; write: verdict"),
        ("failed  slow", "'failed  slow' is no line of a baseline"),
        ("failed  slow  t.py::t  more", "is no line of a baseline"),
        ('failed  "slow  t.py::t', "is no line of a baseline"),
        (r'failed  "\x"  t.py::t', repr(r'"\x"') + " is no text in quotes"),
        (
            "faild  slow  t.py::t",
            "verdict 'faild': what can be known is leak, failed, probe, invariant, storm, hang",
        ),
        ("never_fired  slow  t.py::t", "verdict 'never_fired': what can be known is leak, "),
        (
            "failed  slow  t.py::t  # later; untl 2026-12-31",
            "'later; untl 2026-12-31' is no waiver; write: # reason; until 2026-12-31",
        ),
        ("failed  slow  t.py::t  # until 2026-12-31", "'until 2026-12-31' is no waiver"),
        ("failed  slow  t.py::t  # ; until 2026-12-31", "'; until 2026-12-31' is no waiver"),
        ("failed  slow  t.py::t  #", "'' is no waiver"),
        (
            "failed  slow  t.py::t  # known; until 2026-02-30",
            "until 2026-02-30: day is out of range for month",
        ),
        ("hang  slow  t.py::a", "t.py::a under 'slow' is listed already; one line a cell"),
    ],
)
def test_a_line_that_means_nothing_is_refused(tmp_path: Path, line: str, text: str) -> None:
    path = baseline(tmp_path, f"{HEADER}failed  slow  t.py::a\n{line}\n")
    with pytest.raises(ConfigurationError, match=re.escape(f"{path}:3: ") + ".*" + re.escape(text)):
        read_baseline(path)


def test_a_baseline_of_no_configuration_is_refused(tmp_path: Path) -> None:
    path = baseline(tmp_path, "failed  slow  t.py::t\n")
    with pytest.raises(
        ConfigurationError, match=re.escape(f"{path}:1: the line '# configuration: …' is missing")
    ):
        read_baseline(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.txt is not there; `.* baseline` writes a"):
        read_baseline(tmp_path / "none.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"# configuration: caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"latin\.txt cannot be read: 'utf-8' codec"):
        read_baseline(latin)


def test_a_baseline_of_other_experiments_is_refused(tmp_path: Path) -> None:
    found = read_baseline(baseline(tmp_path, f"# ours\n{HEADER}"))
    found.check(report())
    with pytest.raises(
        ConfigurationError,
        match=r"baseline\.txt:2: configuration c0ffee is not that of this run, decaf: experiments",
    ):
        found.check(report(configuration="decaf"))


def test_a_new_baseline_lists_what_breaks_and_keeps_what_is_waived() -> None:
    waived = KnownCell(
        verdict=CellVerdict.HANG, experiment="slow", test="b", reason="known", until=TODAY
    )
    too_mild = KnownCell(
        verdict=CellVerdict.LEAK, experiment="slow", test="c", reason="known", until=TODAY
    )
    gone = KnownCell(verdict=CellVerdict.FAILED, experiment="slow", test="d")
    before = Baseline(configuration="decaf", known=(waived, too_mild, gone))
    now = report(
        cell("survived", "d"), cell("failed", "b"), cell("hang", "c"), cell("leak", "a"),
        cell("never_fired", "e"), cell("invalid", "f"), cell("not_started", "g"),
    )  # fmt: skip
    found = baseline_of(now, before)
    assert found.configuration == "c0ffee"
    assert found.known == (
        waived,
        KnownCell(verdict=CellVerdict.HANG, experiment="slow", test="c"),
        KnownCell(verdict=CellVerdict.LEAK, experiment="slow", test="a"),
    )
    assert len(baseline_of(now).known) == 3


def test_a_waiver_holds_until_its_last_day_is_over() -> None:
    waiver = KnownCell(
        verdict=CellVerdict.FAILED, experiment="slow", test="t", reason="known", until=TODAY
    )
    assert not waiver.expired(TODAY)
    assert waiver.expired(TODAY + datetime.timedelta(days=1))


def gate(
    found: Report, threshold: float | None = None, baseline: Baseline | None = None
) -> GateResult:
    return judge(found, threshold=threshold, baseline=baseline, today=TODAY)


def known(verdict: str = "failed", until: datetime.date | None = None) -> Baseline:
    reason = "known" if until else ""
    each = KnownCell(
        verdict=CellVerdict(verdict), experiment="slow", test="t.py::t", reason=reason, until=until
    )
    return Baseline(configuration="c0ffee", known=(each,))


def whats(result: GateResult) -> list[str]:
    return [problem.what for problem in result.problems]


def words(verdict: str) -> str:
    return verdict.replace("_", " ")


def test_what_holds_passes() -> None:
    found = gate(report(cell("survived"), cell("degraded", "b")), threshold=100)
    assert found.passed
    assert str(found) == "resilience gate passed: 100 %, 100 asked, coverage 100 %"


@pytest.mark.parametrize("threshold", [None, 0, 95])
def test_nothing_run_is_never_green(threshold: float | None) -> None:
    found = gate(report(), threshold)
    assert found.reasons == (
        "nothing was run: no test was selected; a profile does so by its paths and markers",
    )
    assert str(found).startswith("resilience gate FAILED: no score")
    found = gate(report(cell("not_run"), cell("not_run", "b")), threshold)
    assert found.reasons == ("nothing was run: none of 2 planned cells held or broke, so no score",)


def test_a_run_that_was_cut_short_is_never_green() -> None:
    found = gate(report(cell("survived"), interrupted="KeyboardInterrupt"))
    assert found.reasons == ("the run did not come to its end: KeyboardInterrupt",)


def test_a_part_of_a_run_may_have_nothing_that_could_break() -> None:
    assert gate(report(cell("not_run"), shard=Shard(index=2, count=3)), 95).passed


def test_a_score_below_what_is_asked_fails() -> None:
    found = gate(report(cell("survived"), cell("failed", "t.py::t", "gone")), 50.1)
    assert "the score is 50 %, below the 50.1 asked" in found.reasons
    assert len(gate(report(cell("survived"), cell("failed", "a")), 50).reasons) == 1


@pytest.mark.parametrize("verdict", ["failed", "hang", "leak"])
def test_each_cell_that_breaks_fails(verdict: str) -> None:
    found = gate(report(cell("survived", "a"), cell(verdict)))
    assert whats(found) == [f"{verdict}: t.py::t under 'slow'"]
    assert found.reasons == (f"1 bad cell that no baseline accepts: 1 {verdict}",)


@pytest.mark.parametrize("verdict", ["never_fired", "not_started", "invalid"])
def test_each_cell_that_proves_nothing_fails(verdict: str) -> None:
    found = gate(report(cell("survived", "a"), cell(verdict)))
    assert whats(found) == [f"{words(verdict)}: t.py::t under 'slow'"]
    assert found.reasons == (f"1 cell proves nothing: 1 {words(verdict)}",)


def test_a_failed_gate_names_each_of_its_reasons() -> None:
    found = gate(
        report(
            cell("survived", "a"), cell("failed", "b"), cell("failed", "c"), cell("leak", "d"),
            cell("hang", "e"), cell("never_fired", "f"), cell("not_started", "g"),
            cell("invalid", "h"), cell("invalid", "i"), interrupted="worker gw1 crashed",
        ),
        95,
        Baseline(
            configuration="c0ffee",
            known=(KnownCell(verdict=CellVerdict.LEAK, experiment="slow", test="d"),),
        ),
    )  # fmt: skip
    assert str(found) == (
        "resilience gate FAILED: 25 %, 95 asked, coverage 66.6 %\n"
        "  - the run did not come to its end: worker gw1 crashed\n"
        "  - the score is 25 %, below the 95 asked\n"
        "  - 3 bad cells that no baseline accepts: 1 hang, 2 failed\n"
        "  - 4 cells prove nothing: 2 invalid, 1 not started, 1 never fired"
    )


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


def test_problems_begin_with_the_worst() -> None:
    found = gate(
        report(cell("leak", "a"), cell("survived", "b"), cell("hang", "c"), cell("invalid", "d"))
    )
    assert [text.partition(" ")[0] for text in whats(found)] == ["invalid:", "hang:", "leak:"]


def test_what_is_not_applicable_spoils_no_gate() -> None:
    found = gate(report(cell("survived"), cell("not_applicable", "b")), 100)
    assert found.passed
    assert str(found) == "resilience gate passed: 100 %, 100 asked, coverage 100 %"
    assert found.notes == ()


def test_problems_of_a_test_that_are_alike_are_told_in_one() -> None:
    reason = "OSError: nothing at 0x7f00, line 3"
    alike = [cell("failed", "a", name, reason=reason) for name in ("refuse", "reset")]
    other = [
        cell("failed", "a", "timeout", reason=reason.replace("nothing", "no answer")),
        cell("failed", "b", "reset", reason=reason),
        cell("leak", "a", "close", reason=reason),
        replace(alike[0], experiment="truncate", reason=reason.replace("0x7f00", "0x7f01")),
    ]
    problems = gate(report(*alike, *other)).problems
    texts = list(problem_texts(problems, whole=False))
    assert len(texts) == 4
    assert texts[0] == f"{problems[0]}\n    also under: reset; truncate"
    assert list(problem_texts(problems, whole=True)) == list(map(str, problems))


def test_an_experiment_that_is_applicable_to_no_test_is_told() -> None:
    idle = [cell("not_applicable", test, "gone") for test in "ab"]
    told = "'gone' is applicable to no test: what it could hit, none of them does"
    assert gate(report(cell("survived"), *idle), 100).notes == (told,)
    part = report(cell("survived"), *idle, shard=Shard(index=1, count=2))
    assert gate(part, 100).notes == ()
    [reason] = gate(report(*idle)).reasons
    assert reason == (
        "nothing was run: none of 0 planned cells held or broke; 2 more are not applicable, so no "
        "score"
    )


def test_what_the_baseline_accepts_passes_and_is_out_of_the_score() -> None:
    broken = cell("failed")
    found = gate(report(broken), 100, known())
    assert found.passed
    assert found.accepted == (broken,)
    assert str(found) == "resilience gate passed: no score, 100 asked, coverage 100 %"
    assert found.notes == ("1 bad cell is accepted by the baseline, and out of the score",)
    others = [cell("survived", "a"), cell("survived", "b"), cell("failed", "c")]
    assert gate(report(broken, *others), 0, known()).score.percent == 66.6
    assert gate(report(broken, *others), 0).score.percent == 50.0


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


def test_what_is_gone_is_told() -> None:
    other = replace(cell("survived"), experiment="fast")
    found = gate(report(other), 100, known())
    assert found.passed
    assert found.notes == (
        "no such cell any more, take it out of the baseline: failed  slow  t.py::t",
    )


def test_of_a_test_that_was_not_run_or_not_to_its_end_nothing_is_gone() -> None:
    other = replace(cell("survived"), experiment="fast")
    left = replace(cell("not_run"), experiment="soon")
    unexplorable = replace(cell("unexplorable"), experiment=EXPLORATION)
    for cells in ([cell("survived", "b")], [other, left], [unexplorable]):
        assert not gate(report(*cells), 0, known()).notes


def test_a_baseline_of_other_experiments_is_not_compared() -> None:
    with pytest.raises(ConfigurationError, match="baseline: configuration c0ffee is not that of"):
        gate(report(cell("failed"), configuration="decaf"), 0, known())


@given(reports, st.none() | st.floats(min_value=0, max_value=100))
def test_green_is_no_accident(found: Report, threshold: float | None) -> None:
    result = gate(found, threshold)
    verdicts = {each.verdict for each in found.cells}
    assert result.passed == (
        found.complete
        and (found.shard.count > 1 or any(verdict.good for verdict in verdicts))
        and not any(verdict.bad or verdict.proves_nothing for verdict in verdicts)
    )
    result = gate(found, threshold, baseline_of(found))
    assert result.passed == (
        found.complete
        and not any(verdict.proves_nothing for verdict in verdicts)
        and (found.shard.count > 1 or any(verdict.good or verdict.bad for verdict in verdicts))
    )
