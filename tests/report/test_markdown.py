from __future__ import annotations

import html.parser
import re

import cmarkgfm  # type: ignore[import-untyped]  # what GitHub renders summaries with
import pytest

from cmarkgfm.cmark import Options  # type: ignore[import-untyped]
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.gate import Baseline
from pytest_resilience.report.gate import KnownCell
from pytest_resilience.report.gate import judge
from pytest_resilience.report.markdown import markdown_text
from pytest_resilience.report.run_report import Report
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report


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
