"""A report in the formats of others: Markdown for a CI step, a page of HTML, cases of JUnit.

GitHub-flavoured Markdown is fit for the summary of a step. The page asks nobody for anything: a
heat map, drawn from compact data. In a JUnit file cells are cases of their own in a suite of their
own, and that of the tests, which pytest has written, stays as it is. A cell is named after its test
there, so that dashboards show both together: `tests.test_shop.test_pay` and, below it,
`tests.test_shop.test_pay[chaos: slow payments]`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import platform
import re

from collections import Counter
from collections import defaultdict
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from typing import Final
from xml.etree import ElementTree

from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Score


__all__ = ["add_suite", "markdown_text", "page_text", "suite_of"]

_MOST_ROWS = 800_000  # bytes of rows: GitHub drops a step's summary of more than 1 MiB altogether
_LONGEST_REASON = 500  # characters of a reason
# Entities, not backslashes: they hold inside <code> too, and nothing in them is markup.
_ESCAPED = {ord(char): f"&#{ord(char)};" for char in "&<>|`*_[]\\~@$:#\"'"}
_ENTRIES_OF_PAGE = 160_000  # in each half of a page: more makes it slow to open
_FEWEST_ENTRIES, _MOST_ENTRIES = 10, 200  # of one cell: its end is what failed it
_LONGEST_TEXT = 4000  # characters of one text
_AGES = 1e9  # seconds
_KINDS = {kind: number for number, kind in enumerate(EntryKind)}
_VERDICTS = {verdict: number for number, verdict in enumerate(CellVerdict)}
_SUITE: Final = "resilience matrix"
# What XML 1.0 cannot hold, however it is escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def markdown_text(report: Report, gate: GateResult | None = None) -> str:
    """The document: the verdict, what is bad, the experiments, all else folded away."""
    lines = ["## Resilience", "", *_headline(report, gate), "", INTRODUCTION, ""]
    room = _MOST_ROWS
    cells = sorted(report.cells, key=lambda cell: -cell.verdict.severity)
    failing = [cell for cell in cells if cell.verdict.fails]
    if failing:
        rows = _fitting((_row(*_fields(cell), _code(cell.repeat)) for cell in failing), room)
        room -= sum(map(_size, rows))
        lines += _table("verdict", "test", "experiment", "reason", "repeat", rows=rows)
        lines += _left_out(len(failing) - len(rows))
    accepted = {cell.key for cell in gate.accepted} if gate else set()
    lines += _experiments(report, accepted)
    others = [cell for cell in cells if not cell.verdict.fails]
    if others:
        rows = _fitting((_row(*_fields(cell)) for cell in others), room)
        lines += [f"<details><summary>{len(others)} other cells</summary>", ""]
        lines += _table("verdict", "test", "experiment", "reason", rows=rows)
        lines += [*_left_out(len(others) - len(rows)), "</details>", ""]
    return "\n".join([*lines, *_meanings(report), _conditions(report)]) + "\n"


def _headline(report: Report, gate: GateResult | None) -> Iterator[str]:
    score = gate.score if gate else report.score
    if gate is None:
        yield f"**{score}**"
    else:
        asked = "" if gate.threshold is None else f", {gate.threshold:g} asked"
        yield f"**{'✅ passed' if gate.passed else '❌ failed'}: {score}**{asked}"
        for reason in gate.reasons:
            yield f"- {_plain(reason)}"
        for note in gate.notes[:20]:
            yield f"- {_plain(note)}"
    if gate is None and not report.complete:
        yield f"- the run did not come to its end: {_plain(report.interrupted)}"
    if score.coverage is not None:
        yield f"- coverage {score.coverage:g} %: {score.tried} of {score.planned} cells were tried"


def _fields(cell: Cell) -> list[str]:
    words = cell.verdict.words + (" (flaky)" if cell.flaky else "")
    reason = _plain(cell.reason[:_LONGEST_REASON])
    return [words, _code(cell.test), _plain(cell.experiment), reason]


def _verdicts(report: Report) -> list[CellVerdict]:
    """The verdicts that occur."""
    found = {cell.verdict for cell in report.cells}
    return [verdict for verdict in CellVerdict if verdict in found]


def _meanings(report: Report) -> list[str]:
    rows = [_row(verdict.words, verdict.meaning) for verdict in _verdicts(report)]
    if not rows:
        return []
    table = _table("verdict", "meaning", rows=rows)
    return ["<details><summary>What the verdicts mean</summary>", "", *table, "</details>", ""]


def _experiments(report: Report, accepted: Container[tuple[str, str]]) -> list[str]:
    """A table: how many cells of each verdict."""
    verdicts = _verdicts(report)
    by_name: dict[str, list[Cell]] = {}
    for cell in report.cells:
        by_name.setdefault(cell.experiment, []).append(cell)
    rows = []
    for name, cells in by_name.items():
        what = f"<br>{_plain(cells[0].what)}" if cells[0].what not in {"", name} else ""
        counts = Counter(cell.verdict for cell in cells)
        numbers = [str(counts[verdict] or "") for verdict in verdicts]
        score = str(Score.of(cells, accepted))
        rows.append(_row(_plain(name) + what, f"{cells[0].weight:g}", *numbers, score))
    words = [verdict.words for verdict in verdicts]
    return _table("experiment", "weight", *words, "score", rows=rows)


def _table(*columns: str, rows: Iterable[str]) -> list[str]:
    return [_row(*columns), _row(*["---"] * len(columns)), *rows, ""]


def _row(*values: str) -> str:
    return f"| {' | '.join(values)} |"


def _fitting(rows: Iterable[str], room: int) -> list[str]:
    found = []
    for row in rows:
        room -= _size(row)
        if room < 0:
            break
        found.append(row)
    return found


def _size(row: str) -> int:
    return len(row.encode(errors="backslashreplace")) + 1  # the end of the line


def _left_out(number: int) -> list[str]:
    return [f"… and {number} more: see the HTML or JSON report", ""] if number else []


def _plain(text: str) -> str:
    lines = text.translate(_ESCAPED).splitlines()
    return "<br>".join(line for line in lines if line.strip())


def _code(text: str) -> str:
    line = " ".join(text.splitlines())
    if not line.strip():
        return f"<code>{line.translate(_ESCAPED)}</code>" if line else ""
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    inner = line.replace("|", r"\|")
    return f"{fence}{pad}{inner}{pad}{fence}"


def _conditions(report: Report) -> str:
    parts = {
        "profile": ", ".join(report.profiles),
        "seed": "" if report.seed is None else str(report.seed),
        "started": report.started_at,
        "Python": report.python,
        "pytest": report.pytest,
        "pytest-resilience": report.plugin,
        "configuration": report.configuration,
    }
    words = ", ".join(f"{name} {_plain(text)}" for name, text in parts.items() if text)
    return f"<sub>{words}</sub>"


def page_text(report: Report, gate: GateResult | None = None) -> str:
    """The page. Raises ImportError without Jinja2."""
    from markupsafe import Markup

    script, style = _resource("page.js"), _resource("page.css")
    text: str = _template().render(
        report=report,
        score=gate.score if gate else report.score,
        introduction=INTRODUCTION,
        gate=gate,
        script=Markup(script),  # noqa: S704  # ours, word for word
        style=Markup(style),  # noqa: S704  # as above
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
        data=Markup(_json_in_html(_data(report, gate))),  # noqa: S704  # escaped by its own rules
    )
    return text


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_resource("page.html"))


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _csp_hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _json_in_html(data: Any) -> str:
    """JSON that can end no script element; being ASCII, it ends no line of one either."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _data(report: Report, gate: GateResult | None) -> dict[str, Any]:
    """The data from which the script draws; their format is told at the top of page.js."""
    accepted = {cell.key for cell in gate.accepted} if gate else set()
    # Each text once, numbered in order of first use.
    tests: dict[str, int] = defaultdict(itertools.count().__next__)
    texts: dict[str, int] = defaultdict(itertools.count().__next__)
    experiments: dict[str, Cell] = {}
    for cell in report.cells:
        experiments.setdefault(cell.experiment, cell)
    columns = {name: number for number, name in enumerate(experiments)}
    shown = _shown_entries(report.cells)
    rows = [
        [
            tests[cell.test],
            columns[cell.experiment],
            _VERDICTS[cell.verdict],
            cell.flaky + 2 * (cell.key in accepted),
            _milliseconds(cell.duration),
            texts[_cut(cell.reason)],
            # Most command lines differ in nothing but the test.
            texts[cell.repeat.replace(cell.test, "\0") if cell.test else cell.repeat],
            max(0, len(cell.timeline) - shown[cell.verdict.good]),
            _flat(cell.timeline[-shown[cell.verdict.good] :], texts),
        ]
        for cell in report.cells
    ]
    return {
        "verdicts": [[each.value, each.words, each.letter, each.meaning] for each in CellVerdict],
        "kinds": list(EntryKind),
        "tests": list(tests),
        "experiments": [[each.experiment, each.what, each.weight] for each in experiments.values()],
        "texts": list(texts),
        "cells": rows,
    }


def _shown_entries(cells: tuple[Cell, ...]) -> dict[bool, int]:
    """The number of entries that are shown of a cell that is good (True), and of another."""
    counts = Counter(cell.verdict.good for cell in cells)
    return {
        good: max(_FEWEST_ENTRIES, min(_MOST_ENTRIES, _ENTRIES_OF_PAGE // (counts[good] or 1)))
        for good in (True, False)
    }


def _flat(timeline: tuple[TimelineEntry, ...], texts: dict[str, int]) -> list[int]:
    """Four numbers each: milliseconds since the one before, kind, source, text."""
    flat = []
    before = 0
    for entry in timeline:
        at = _milliseconds(entry.at)
        flat += [at - before, _KINDS[entry.kind], texts[entry.source], texts[_cut(entry.text)]]
        before = at
    return flat


def _milliseconds(seconds: float) -> int:
    # A file may claim anything; a script counts exactly up to 2**53 only.
    return round(min(max(seconds, -_AGES), _AGES) * 1000)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def add_suite(path: Path, report: Report, gate: GateResult, *, prefix: str | None = None) -> None:
    """Add the cells to the JUnit file that pytest has written.

    `prefix` is what pytest puts before class names. Raises OSError and
    `xml.etree.ElementTree.ParseError`.
    """
    document = ElementTree.parse(path)  # noqa: S314  # what pytest has just written
    document.getroot().append(suite_of(report, gate, prefix=prefix))
    document.write(path, encoding="utf-8", xml_declaration=True)


def suite_of(report: Report, gate: GateResult, *, prefix: str | None = None) -> ElementTree.Element:
    """The `testsuite`; bad cells that the baseline accepts count as skipped, as xfail does."""
    accepted = {cell.key for cell in gate.accepted}
    tags = [_tag(cell, cell.key in accepted) for cell in report.cells]
    counts = Counter(tags)
    suite = ElementTree.Element(
        "testsuite",
        name=_SUITE,
        errors=str(counts["error"]),
        failures=str(counts["failure"]),
        skipped=str(counts["skipped"]),
        tests=str(len(tags)),
        time=f"{sum(cell.duration for cell in report.cells):.3f}",
        timestamp=_legal(report.started_at),
        hostname=_legal(platform.node()),
    )
    for cell, tag in zip(report.cells, tags, strict=True):
        classname, name = _case_names(cell.test, prefix)
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_legal(classname),
            name=_legal(f"{name}[chaos: {cell.experiment}]"),
            time=f"{cell.duration:.3f}",
        )
        if tag:
            message = _legal(f"{_label(cell, tag)}{cell.reason or cell.verdict.meaning}")
            found = ElementTree.SubElement(case, tag, type=cell.verdict.value, message=message)
            found.text = _legal(_details(cell))
        else:
            ElementTree.SubElement(case, "system-out").text = _legal(_details(cell))
    return suite


def _tag(cell: Cell, accepted: bool) -> str:
    """The element that says how a cell ended; "" for one that is good."""
    if cell.verdict.good:
        return ""
    if cell.verdict.proves_nothing:
        return "error"
    return "failure" if cell.verdict.bad and not accepted else "skipped"


def _label(cell: Cell, tag: str) -> str:
    known = "accepted by the baseline, " if cell.verdict.bad and tag == "skipped" else ""
    return f"{known}{cell.verdict.words}: "


def _case_names(test: str, prefix: str | None) -> tuple[str, str]:
    """Class name and name of a test, as pytest writes them for its id."""
    # As `_pytest.junitxml.mangle_test_address` does it, which is private.
    address, bracket, parameters = test.partition("[")
    path, *names = address.split("::")
    module = re.sub(r"\.py$", "", path.replace("/", "."))
    *above, name = [module, *names]
    return ".".join([*([prefix] if prefix else []), *above]), name + bracket + parameters


def _details(cell: Cell) -> str:
    """Everything about a cell, for the text of its element."""
    lines = [f"{cell.verdict.words}: {cell.verdict.meaning}"]
    lines += ["flaky: several runs of it disagreed"] * cell.flaky
    lines += [f"experiment: {cell.what or cell.experiment}", f"weight: {cell.weight:g}"]
    lines += cell.reason.splitlines()
    lines += [f"repeat: {cell.repeat}"] * bool(cell.repeat)
    lines += [f"+{each.at:.3f}s {each.source}: {each.text}" for each in cell.timeline]
    return "\n".join(lines)


def _legal(text: str) -> str:
    return _ILLEGAL.sub(lambda found: f"#x{ord(found[0]):02X}", text)
