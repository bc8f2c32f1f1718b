"""Cells and reports, as small as a test needs them and as odd as Hypothesis makes them."""

from __future__ import annotations

import datetime
import json

from importlib.resources import files
from typing import Any

from hypothesis import strategies as st

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Shard


SCHEMA = json.loads(
    files("pytest_resilience.report").joinpath("report.schema.json").read_text(encoding="utf-8")
)
TODAY = datetime.date(2026, 6, 15)


def cell(
    verdict: CellVerdict | str, test: str = "t.py::t", experiment: str = "slow", **rest: Any
) -> Cell:
    return Cell(test=test, experiment=experiment, verdict=CellVerdict(verdict), **rest)


def report(*cells: Cell, configuration: str = "c0ffee", **rest: Any) -> Report:
    return Report(cells=cells, configuration=configuration, **rest)


texts = st.text(st.characters(), max_size=20)  # lone surrogates, NUL and all
names = st.sampled_from(["a.py::a", "b.py::b[<|>]"]) | texts
ages = st.floats(min_value=0, max_value=1e9)
finite = ages | st.floats(min_value=0, allow_nan=False, allow_infinity=False)
entries = st.builds(
    TimelineEntry, at=finite, kind=st.sampled_from(EntryKind), source=texts, text=texts
)
cells = st.builds(
    Cell,
    test=names,
    experiment=names,
    what=texts,
    weight=st.floats(min_value=0, exclude_min=True, max_value=1e9, allow_nan=False),
    verdict=st.sampled_from(CellVerdict),
    reason=texts,
    repeat=texts,
    duration=finite,
    timeline=st.lists(entries, max_size=3).map(tuple),
    flaky=st.booleans(),
)
shards = st.tuples(st.integers(1, 5), st.integers(0, 5)).map(
    lambda pair: Shard(index=pair[0], count=pair[0] + pair[1])
)
reports = st.builds(
    Report,
    cells=st.lists(cells, max_size=6, unique_by=lambda cell: cell.key).map(tuple),
    configuration=st.text(max_size=20).filter(str.isprintable),
    profiles=st.lists(texts, max_size=2).map(tuple),
    seed=st.none() | st.integers(min_value=0),
    started_at=texts,
    python=texts,
    pytest=texts,
    plugin=texts,
    interrupted=texts,
    shard=shards,
)
