from __future__ import annotations

import datetime
import re

from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.report.baseline import Baseline
from pytest_resilience.report.baseline import KnownCell
from pytest_resilience.report.baseline import baseline_of
from pytest_resilience.report.baseline import read_baseline
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.writers import write_text
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report
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
    with pytest.raises(ConfigurationError, match=r"none\.txt cannot be read: .*No such file"):
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
