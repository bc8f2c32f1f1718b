"""Reports as one HTML page that asks nobody for anything: a heat map drawn from compact data."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json

from collections import Counter
from collections import defaultdict
from importlib.resources import files
from typing import Any

from pytest_resilience.report.cell import INTRODUCTION
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.gate import GateResult
from pytest_resilience.report.run_report import Report


__all__ = ["page_text"]

_ENTRIES = 160_000  # in each half of a page: more makes it slow to open
_FEWEST, _MOST = 10, 200  # of one cell: its end is what failed it
_LONGEST = 4000  # characters of one text
_AGES = 1e9  # seconds
_KINDS = {kind: number for number, kind in enumerate(EntryKind)}
_VERDICTS = {verdict: number for number, verdict in enumerate(CellVerdict)}


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
        good: max(_FEWEST, min(_MOST, _ENTRIES // (counts[good] or 1))) for good in (True, False)
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
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
