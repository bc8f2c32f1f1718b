from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re

from typing import Any

from hypothesis import given
from hypothesis import settings

from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import baseline_of
from pytest_resilience.report.gate import judge
from pytest_resilience.report.page import page_text
from pytest_resilience.report.run_report import Report
from tests.report.conftest import TODAY
from tests.report.conftest import cell
from tests.report.conftest import report
from tests.report.conftest import reports


HOSTILE = (
    "</script <!--<script></script><script>alert(1)</script>"
    "<!--<img src=x onerror=alert(1)>&\u2028\u2029\"'"
)


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
