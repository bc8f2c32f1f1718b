"""Reports as GitHub-flavoured Markdown, fit for the summary of a CI step."""

from __future__ import annotations

import re

from collections import Counter
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Iterator

from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Score


__all__ = ["markdown_text"]

_MOST = 800_000  # bytes of rows: GitHub drops a step's summary of more than 1 MiB altogether
_LONGEST = 500  # characters of a reason
# Entities, not backslashes: they hold inside <code> too, and nothing in them is markup.
_ESCAPED = {ord(char): f"&#{ord(char)};" for char in "&<>|`*_[]\\~@$:#\"'"}


def markdown_text(report: Report, gate: GateResult | None = None) -> str:
    """The document: the verdict, what is bad, the experiments, all else folded away."""
    lines = ["## Resilience", "", *_headline(report, gate), "", INTRODUCTION, ""]
    room = _MOST
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
    reason = _plain(cell.reason[:_LONGEST])
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
