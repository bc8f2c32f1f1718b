from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cmarkgfm  # type: ignore[import-untyped]  # what GitHub renders summaries with
import pytest

from cmarkgfm.cmark import Options  # type: ignore[import-untyped]
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.formats import add_suite
from pytest_resilience.report.formats import markdown_text
from pytest_resilience.report.formats import page_text
from pytest_resilience.report.formats import suite_of
from pytest_resilience.report.gate import Baseline
from pytest_resilience.report.gate import KnownCell
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.run_report import Report
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report
from tests.report.conftest import reports


HOSTILE = (
    "</script <!--<script></script><script>alert(1)</script>"
    "<!--<img src=x onerror=alert(1)>&\u2028\u2029\"'"
)
ORDINARY = (
    '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite '
    'name="pytest" errors="0" failures="0" skipped="0" tests="1" time="1.000">'
    '<testcase classname="tests.test_shop" name="test_pays" time="1.000" /></testsuite>'
    "</testsuites>"
)
TEST = "tests/test_shop.py::test_pays"


class Page(html.parser.HTMLParser):
    """The tables of a rendered page, cell by cell, and every tag there is."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._inside |= tag in {"td", "th"}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        elif tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data


def rendered(text: str) -> Page:
    return Page(cmarkgfm.github_flavored_markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE))


PLAIN_TAGS = {
    *("h2", "p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "br"),
    *("details", "summary", "sub"),
}


def story(**rest: str) -> Report:
    return report(
        cell("survived", "a"),
        cell("survived", "b", "gone", weight=2, what="connection refused", **rest),
        cell("leak", "c", reason="2 sockets are open\nin pay", repeat="pytest c --chaos-seed 1"),
        cell("hang", "d", repeat="pytest d"),
        cell("not_run", "e", reason="the test is skipped"),
        profiles=("ci",), seed=1, python="3.11.7",
    )  # fmt: skip


def test_the_worst_comes_first_with_its_repeat_line_and_the_rest_is_folded() -> None:
    page = rendered(markdown_text(story()))
    bad, experiments, others, meanings = page.tables
    assert bad == [
        ["verdict", "test", "experiment", "reason", "repeat"],
        ["hang", "d", "slow", "", "pytest d"],
        ["leak", "c", "slow", "2 sockets are open\nin pay", "pytest c --chaos-seed 1"],
    ]
    assert experiments[0][2:-1] == ["not run", "survived", "leak", "hang"]
    assert [row[0] for row in experiments] == ["experiment", "slow", "gone\nconnection refused"]
    assert experiments[1] == ["slow", "1", "1", "1", "1", "1", "33.3 %"]
    assert experiments[2][-1] == "100 %"
    assert others[1:] == [
        ["survived", "a", "slow", ""],
        ["survived", "b", "gone", ""],
        ["not run", "e", "slow", "the test is skipped"],
    ]
    assert [row[0] for row in meanings[1:]] == ["not run", "survived", "leak", "hang"]
    assert page.tags <= PLAIN_TAGS


def test_it_begins_with_the_verdict_of_the_gate() -> None:
    known = KnownCell(verdict=CellVerdict.LEAK, experiment="slow", test="c")
    no_longer = KnownCell(verdict=CellVerdict.LEAK, experiment="slow", test="a")
    baseline = Baseline(configuration="c0ffee", known=(known, no_longer))
    gate = judge(story(), threshold=95, baseline=baseline, today=TODAY)
    assert markdown_text(story(), gate).splitlines()[:10] == [
        "## Resilience",
        "",
        "**❌ failed: 75 %**, 95 asked",
        "- the score is 75 %, below the 95 asked",
        "- 1 bad cell that no baseline accepts&#58; 1 hang",
        "- 1 bad cell is accepted by the baseline, and out of the score",
        "- survived, take it out of the baseline&#58; leak  slow  a",
        "- coverage 80 %: 4 of 5 cells were tried",
        "",
        INTRODUCTION,
    ]
    fine = report(cell("survived"))
    gate = judge(fine, threshold=None, baseline=None, today=TODAY)
    assert "**✅ passed: 100 %**\n" in markdown_text(fine, gate)


def test_without_a_gate_it_says_what_it_can() -> None:
    text = markdown_text(report(cell("not_run"), interrupted="a worker <died>"))
    assert "**no score**\n- the run did not come to its end: a worker &#60;died&#62;\n" in text
    assert markdown_text(report()).startswith("## Resilience\n\n**no score**\n")


@pytest.mark.parametrize(
    "hostile",
    [
        "a | b",
        r"a \| b",
        "<script>alert(1)</script>",
        "`code` ``more``",
        "`",
        "**bold** _it_ ~~gone~~ [x](http://e.com) ![i](i.png)",
        "&lt;b&gt; &amp;",
        "$x$ :smile: #1 @team",
        "\\",
    ],
)
def test_no_text_becomes_markup(hostile: str) -> None:
    found = report(
        cell("failed", hostile, hostile, what=f"{hostile}!", reason=hostile, repeat=hostile),
        cell("survived", f"good {hostile}", hostile, reason=hostile),
        profiles=(hostile,),
    )
    page = rendered(markdown_text(found))
    bad, experiments, others, _ = page.tables
    assert bad[1] == ["failed", hostile, hostile, hostile, hostile]
    assert experiments[1][0] == f"{hostile}\n{hostile}!"
    assert others[1] == ["survived", f"good {hostile}", hostile, hostile]
    assert page.tags <= PLAIN_TAGS


@example("| \\| `|` <b> \\\\|\n|x|")
@given(st.text("|\\`<>&ab \n-*_[]()#", max_size=12))
def test_every_text_stays_in_its_cell(text: str) -> None:
    bad = cell("failed", text, text, reason=text, repeat=text)
    page = rendered(markdown_text(report(bad)))
    assert [len(row) for row in page.tables[0]] == [5, 5]
    assert page.tags <= PLAIN_TAGS
    squeezed = re.sub(r"\s+", "", text)
    assert [re.sub(r"\s+", "", each) for each in page.tables[0][1]] == ["failed", *[squeezed] * 4]


def test_a_summary_is_never_too_long_for_a_step() -> None:
    long = "x" * 3000
    found = report(
        *(cell("failed", f"{number}::{'é' * 400}", reason=long) for number in range(2000)),
        *(cell("survived", f"s{number}") for number in range(9000)),
    )
    text = markdown_text(found)
    assert len(text.encode()) < 2**20
    rows = text.count("\n| failed | `")
    assert 100 < rows < 2000
    assert f"… and {2000 - rows} more: see the HTML or JSON report" in text


class Elements(html.parser.HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self.texts.append((tag, ""))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in {"script", "style"} and self.texts:
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self.found.append(("", {}))  # what follows is no longer inside


def embedded(page: str) -> Any:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def tags(page: str) -> list[str]:
    return [tag for tag, _ in Elements(page).found]


def told(data: Any) -> list[tuple[Any, ...]]:
    """The cells as page.js reads them."""
    texts, found = data["texts"], []
    for test, column, verdict, flags, ms, reason, repeat, hidden, flat in data["cells"]:
        name = data["tests"][test]
        at, moments = 0, []
        for start in range(0, len(flat), 4):
            since, kind, source, text = flat[start : start + 4]
            at += since
            moments.append((at, data["kinds"][kind], texts[source], texts[text]))
        found.append(
            (
                *(name, data["experiments"][column][0], data["verdicts"][verdict][0], flags),
                *(ms, texts[reason], texts[repeat].replace("\0", name), hidden, moments),
            )
        )
    return found


@settings(deadline=None, max_examples=50)  # a template is compiled for each page
@given(reports)
def test_the_page_holds_every_cell_and_lets_no_text_become_markup(found: Report) -> None:
    page = page_text(found)
    assert told(embedded(page)) == [
        (
            *(
                each.test,
                each.experiment,
                each.verdict,
                int(each.flaky),
                milliseconds(each.duration),
            ),
            *(each.reason, repeat(each.repeat, each.test), 0),
            [(milliseconds(m.at), m.kind, m.source, m.text) for m in each.timeline],
        )
        for each in found.cells
    ]
    same = report(cell("survived"), seed=None if found.seed is None else 1)
    assert {*tags(page)} <= {*tags(page_text(same)), "dd", "dt", "div", "ul", "li"}


def milliseconds(seconds: float) -> int:
    return round(max(-1e9, min(1e9, seconds)) * 1000)


def repeat(line: str, test: str) -> str:
    """A NUL of one's own stands for the test as well; no command line can hold one."""
    return line.replace("\0", test)


def test_hostile_texts_stay_texts() -> None:
    hostile = cell(
        "failed", HOSTILE, HOSTILE, what=HOSTILE, reason=HOSTILE, repeat=f"pytest {HOSTILE}",
        timeline=(TimelineEntry(at=0, kind=EntryKind.LOG, source=HOSTILE, text=HOSTILE),),
    )  # fmt: skip
    found = report(
        hostile, interrupted=HOSTILE, profiles=(HOSTILE,), configuration=HOSTILE, python=HOSTILE,
    )  # fmt: skip
    page = page_text(found, judge(found, threshold=1, baseline=None, today=TODAY))
    assert tags(page).count("script") == 2
    assert "img" not in tags(page)
    assert not {"\u2028", "\u2029"} & set(
        "".join(re.findall("<script.*?</script>", page, re.DOTALL))
    )
    [cell_told] = told(embedded(page))
    assert cell_told[0] == HOSTILE
    assert cell_told[6] == f"pytest {HOSTILE}"


def test_the_page_asks_nobody_for_anything() -> None:
    page = page_text(report(cell("failed")))
    elements = Elements(page)
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in {"src", "href", "action", "data", "srcset"}:
                assert (tag, value) == ("link", "data:,")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|https?://", page)


def test_the_policy_allows_what_is_in_the_page_and_nothing_else() -> None:
    page = page_text(report(cell("failed")))
    elements = Elements(page)
    [policy] = [
        attributes["content"]
        for tag, attributes in elements.found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    hashes = {
        f"{tag}-src '{digest(text)}'"
        for tag, text in elements.texts
        if not text.startswith("{")  # the data, which is not run
    }
    assert set(policy.split("; ")) == {
        *("default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"),
        *hashes,
    }
    assert len(hashes) == 2


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_head_says_score_gate_and_conditions() -> None:
    found = report(
        cell("survived"), cell("failed", "b"), cell("not_run", "c"),
        profiles=("ci", "net"), seed=0, python="3.11.7", interrupted="KeyboardInterrupt",
    )  # fmt: skip
    page = page_text(found, judge(found, threshold=95, baseline=None, today=TODAY))
    words = " ".join(re.sub(r"<[^>]+>", " ", page.partition("<main>")[0]).split())
    assert (
        "Resilience 50 % gate failed , 95 asked; coverage 66.6 %: 2 of 3 cells tried"
        f" {INTRODUCTION} the run did not come to its end: KeyboardInterrupt"
        " the score is 50 %, below the 95 asked"
        " 1 bad cell that no baseline accepts: 1 failed"
    ) in words
    for name, value in [("profile", "ci, net"), ("seed", "0"), ("Python", "3.11.7")]:
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert "<dt>shard</dt>" not in page
    assert "did not come to its end" in page_text(found)


def test_a_long_timeline_keeps_its_end_and_says_what_is_missing() -> None:
    moments = tuple(
        TimelineEntry(at=number, kind=EntryKind.LOG, source="s", text=str(number))
        for number in range(1000)
    )
    [shown] = told(embedded(page_text(report(cell("failed", timeline=moments)))))
    hidden, kept = shown[-2:]
    assert hidden == 800
    assert [int(text) for *_, text in kept] == list(range(800, 1000))


def test_good_cells_leave_room_for_the_timelines_of_bad_ones() -> None:
    moments = tuple(
        TimelineEntry(at=number, kind=EntryKind.LOG, source="s", text="x") for number in range(300)
    )
    many = [cell("survived", f"t{number}", timeline=moments) for number in range(16_000)]
    *good, bad = told(embedded(page_text(report(*many, cell("failed", timeline=moments)))))
    assert {len(each[-1]) for each in good} == {10}
    assert len(bad[-1]) == 200


def test_a_text_of_a_megabyte_is_cut() -> None:
    [shown] = told(embedded(page_text(report(cell("failed", reason="x" * 1_000_000)))))
    assert shown[5] == "x" * 4000 + "…"


def test_each_text_is_kept_once() -> None:
    same = [
        cell("failed", f"t{number}", reason="same", repeat=f"pytest t{number} --chaos-seed 1")
        for number in range(50)
    ]
    assert embedded(page_text(report(*same)))["texts"] == ["same", "pytest \0 --chaos-seed 1"]


def test_cells_of_the_baseline_are_marked() -> None:
    found = report(cell("failed", "a"), cell("failed", "b", flaky=True), cell("survived", "c"))
    gate = judge(found, threshold=None, baseline=baseline_of(found), today=TODAY)
    assert [each[3] for each in told(embedded(page_text(found, gate)))] == [2, 3, 0]
    page = page_text(report(cell("survived", "a")), gate=None)
    assert "by the baseline" not in page
    told_so = "<li>2 bad cells are accepted by the baseline, and out of the score</li>"
    assert told_so in page_text(found, gate)


def test_what_no_longer_breaks_is_told() -> None:
    before = baseline_of(report(cell("failed", "<a>")))
    now = report(cell("survived", "<a>"))
    page = page_text(now, judge(now, threshold=None, baseline=before, today=TODAY))
    note = "survived, take it out of the baseline: failed  slow  &lt;a&gt;"
    assert f"<li>{note}</li>" in page


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
