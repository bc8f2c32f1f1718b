"""The gate: whether a report is good enough, and what stands in the way if it is not."""

from __future__ import annotations

import datetime

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_resilience.report.baseline import Baseline
from pytest_resilience.report.baseline import KnownCell
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.document import Report
from pytest_resilience.report.score import Score


__all__ = ["GateResult", "Problem", "judge"]

_Listed = dict[tuple[str, str], KnownCell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that keeps a report from passing.

    Attributes:
        what: in one line.
        cell: the cell it is about; None if it is about the whole run.
    """

    what: str
    cell: Cell | None = None

    def __str__(self) -> str:
        if self.cell is None:
            return self.what
        lines = [self.what, *self.cell.reason.splitlines()]
        lines += [f"repeat: {self.cell.repeat}"] if self.cell.repeat else []
        return "\n    ".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The verdict on a run.

    Attributes:
        score: of its cells.
        threshold: the least score that passes; None if any does.
        problems: what keeps it from passing, the whole run first, then the worst cells.
        waived: bad cells that the baseline lists.
        notes: what is worth knowing and in nobody's way.
    """

    score: Score
    threshold: float | None = None
    problems: tuple[Problem, ...] = ()
    waived: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.problems

    def __str__(self) -> str:
        bar = "" if self.threshold is None else f", {self.threshold:g} asked"
        cover = "" if self.score.coverage is None else f", coverage {self.score.coverage:g} %"
        return f"resilience gate {'passed' if self.passed else 'FAILED'}: {self.score}{bar}{cover}"


def judge(
    report: Report,
    *,
    threshold: float | None,
    baseline: Baseline | None,
    today: datetime.date,
) -> GateResult:
    """Hold a report against the least score and against what is known to break.

    Raises ConfigurationError if the baseline belongs to other experiments.
    """
    if baseline is not None:
        baseline.check(report)
    known = baseline.by_key() if baseline is not None else None
    score = report.score
    problems = [Problem(what=what) for what in _of_the_run(report, score, threshold)]
    waived = []
    for cell in sorted(report.cells, key=lambda cell: -cell.verdict.severity):
        why = _standing(cell, known, today)
        if why is not None:
            title = f"{cell.verdict.words}: {cell.test} under {cell.experiment!r}"
            problems.append(Problem(what=f"{title}{' (flaky)' * cell.flaky}{why}", cell=cell))
        elif cell.verdict.bad:
            waived.append(cell)
    return GateResult(
        score=score,
        threshold=threshold,
        problems=tuple(problems),
        waived=tuple(waived),
        notes=tuple(_notes(report, known or {})),
    )


def _of_the_run(report: Report, score: Score, threshold: float | None) -> Iterator[str]:
    if not report.complete:
        yield f"the run did not come to its end: {report.interrupted}"
    if score.percent is None:
        yield f"nothing was run: none of {score.planned} planned cells held or broke, so no score"
    elif threshold is not None and not score.reaches(threshold):
        yield f"the score is {score}, below the {threshold:g} asked"


def _standing(cell: Cell, listed: _Listed | None, today: datetime.date) -> str | None:
    """Why a cell keeps the report from passing, to be put behind its name; None if it does not."""
    if cell.verdict.proves_nothing:
        return ""
    if not cell.verdict.bad:
        return None
    if listed is None:
        return ""
    known = listed.get(cell.key)
    if known is None:
        return ", not in the baseline"
    if not known.allows(cell):
        return f", known only as {known.verdict.words}"
    return f", waived until {known.until} only: {known.reason}" if known.expired(today) else None


def _notes(report: Report, listed: _Listed) -> Iterator[str]:
    for cell in report.cells:
        if cell.verdict.good and cell.key in listed:
            yield f"{cell.verdict.words}, take it out of the baseline: {listed[cell.key]}"
