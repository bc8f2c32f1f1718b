from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hypothesis import given

from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.junit import add_suite
from pytest_resilience.report.junit import suite_of
from pytest_resilience.report.run_report import Report
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report
from tests.report.conftest import reports


ORDINARY = (
    '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite '
    'name="pytest" errors="0" failures="0" skipped="0" tests="1" time="1.000">'
    '<testcase classname="tests.test_shop" name="test_pays" time="1.000" /></testsuite>'
    "</testsuites>"
)
TEST = "tests/test_shop.py::test_pays"


def suite(found: Report, *, known: Report | None = None) -> ElementTree.Element:
    baseline = None if known is None else baseline_of(known)
    return suite_of(found, judge(found, threshold=None, baseline=baseline, today=TODAY))


def element(verdict: str) -> ElementTree.Element:
    [case] = suite(report(cell(verdict, TEST, reason="because", duration=0.25)))
    [found] = case
    return found


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        ("survived", "system-out"),
        ("degraded", "system-out"),
        ("failed", "failure"),
        ("hang", "failure"),
        ("leak", "failure"),
        ("never_fired", "error"),
        ("not_started", "error"),
        ("invalid", "error"),
        ("not_run", "skipped"),
        ("not_applicable", "skipped"),
    ],
)
def test_each_verdict_is_a_result_that_dashboards_know(verdict: str, tag: str) -> None:
    found = element(verdict)
    assert found.tag == tag
    assert (found.text or "").startswith(f"{verdict.replace('_', ' ')}: ")
    if tag != "system-out":
        assert found.get("type") == verdict
        assert found.get("message") == f"{verdict.replace('_', ' ')}: because"


def test_a_cell_says_all_there_is_to_say() -> None:
    moment = TimelineEntry(at=0.5, kind=EntryKind.FAULT, source="slow", text="latency 300ms")
    broken = cell(
        "failed", TEST, what="slow: latency 300ms", reason="TimeoutError: late\nin pay",
        repeat="pytest t", weight=2, duration=0.25, flaky=True, timeline=(moment,),
    )  # fmt: skip
    [case] = suite(report(broken))
    assert case.attrib == {
        "classname": "tests.test_shop",
        "name": "test_pays[chaos: slow]",
        "time": "0.250",
    }
    assert case[0].text == (
        "failed: the fault happened, and the test failed\n"
        "flaky: several runs of it disagreed\n"
        "experiment: slow: latency 300ms\n"
        "weight: 2\n"
        "TimeoutError: late\n"
        "in pay\n"
        "repeat: pytest t\n"
        "+0.500s slow: latency 300ms"
    )


def test_what_the_baseline_accepts_is_skipped_as_an_expected_failure_is() -> None:
    found = report(cell("failed", TEST, reason="TimeoutError"), cell("hang", "t.py::t"))
    suite_node = suite(found, known=report(found.cells[0]))
    [skipped] = suite_node[0]
    assert skipped.tag == "skipped"
    assert skipped.get("message") == "accepted by the baseline, failed: TimeoutError"
    assert (suite_node.get("skipped"), suite_node.get("failures")) == ("1", "1")


def test_a_reader_of_such_files_finds_the_tests_as_they_were_and_the_cells(tmp_path: Path) -> None:
    junitparser: Any = pytest.importorskip("junitparser")  # that of a widespread GitHub action
    path = tmp_path / "junit.xml"
    path.write_text(ORDINARY)
    found = report(
        cell("survived", TEST, duration=0.5), cell("failed", TEST, "gone", reason="OSError: 1"),
        cell("invalid", TEST, "late"), cell("not_run", TEST, "off"),
        started_at="2026-01-01T10:00:00+00:00",
    )  # fmt: skip
    add_suite(path, found, judge(found, threshold=None, baseline=None, today=TODAY), prefix="ci")
    ordinary, cells = junitparser.JUnitXml.fromfile(str(path))
    assert (ordinary.name, ordinary.tests, ordinary.failures) == ("pytest", 1, 0)
    assert (cells.name, cells.tests, cells.failures) == ("resilience matrix", 4, 1)
    assert (cells.errors, cells.skipped, cells.time) == (1, 1, 0.5)
    names = [(case.classname, case.name, case.time) for case in cells]
    assert names[0] == ("ci.tests.test_shop", "test_pays[chaos: slow]", 0.5)
    assert [case.is_passed for case in cells] == [True, False, False, False]
    [failure] = list(cells)[1].result
    assert failure.message == "failed: OSError: 1"


@given(reports)
def test_every_text_can_be_in_it(found: Report) -> None:
    written = ElementTree.tostring(suite(found), encoding="utf-8")
    read = ElementTree.fromstring(written)
    assert len(read) == len(found.cells) == int(read.get("tests") or -1)
