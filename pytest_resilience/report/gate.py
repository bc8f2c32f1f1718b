"""The gate: whether a report is good enough, and what stands in the way if it is not."""

from __future__ import annotations

import datetime
import re

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_resilience.report.baseline import Baseline
from pytest_resilience.report.baseline import KnownCell
from pytest_resilience.report.cell import EXPLORATION
from pytest_resilience.report.cell import OWN_CHAOS
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Score


__all__ = ["GateResult", "Problem", "judge", "problem_texts"]

_IDLE = CellVerdict.NOT_APPLICABLE
_Listed = dict[tuple[str, str], KnownCell]
_CHANGING = re.compile(r"0x[0-9a-f]+|\d+")  # addresses and numbers, which differ between runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A cell that keeps a report from passing.

    Attributes:
        what: which one, and how it stands with the baseline, in one line.
        cell: the cell.
    """

    what: str
    cell: Cell

    def __str__(self) -> str:
        return self.told("auto")

    def told(self, style: str) -> str:
        """What is said of it, in a style of tracebacks as `--tb` names them."""
        reason = self.cell.reason.splitlines()
        if style == "no":
            return self.what
        if style == "line":  # the error, and where it was
            places = [line for line in reason[1:] if line.startswith("at ")]
            return "\n    ".join([self.what, *reason[:1], *places])
        repeat = [f"repeat: {self.cell.repeat}"] if self.cell.repeat else []
        return "\n    ".join([self.what, *reason, *repeat])


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The verdict on a run.

    Attributes:
        score: of its cells, without those that are accepted.
        threshold: the least score that passes; None if any does.
        reasons: all that keeps it from passing, a line each.
        problems: the cells that do, the worst first.
        accepted: bad cells that the baseline lists.
        notes: hints that keep nothing from passing.
    """

    score: Score
    threshold: float | None = None
    reasons: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    accepted: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if there is no reason against it."""
        return not self.reasons

    @property
    def headline(self) -> str:
        """The result in one line."""
        bar = "" if self.threshold is None else f", {self.threshold:g} asked"
        cover = "" if self.score.coverage is None else f", coverage {self.score.coverage:g} %"
        return f"resilience gate {'passed' if self.passed else 'FAILED'}: {self.score}{bar}{cover}"

    def __str__(self) -> str:
        return "\n  - ".join([self.headline, *self.reasons])


def problem_texts(
    problems: Iterable[Problem], *, whole: bool, style: str = "auto"
) -> Iterator[str]:
    """Each problem; unless the `whole` is asked for, those of a test that are alike in one.

    In the style "no" there is nothing but names, so each is told.
    """
    whole = whole or style == "no"
    alike: dict[object, list[Problem]] = {}
    for number, each in enumerate(problems):
        title = each.cell.reason.partition("\n")[0]
        of_which = each.what.replace(repr(each.cell.experiment), "")
        key = (of_which, _CHANGING.sub("", title))
        alike.setdefault(number if whole else key, []).append(each)
    for first, *others in alike.values():
        also = "; ".join(each.cell.experiment for each in others)
        told = first.told(style)
        yield f"{told}\n    also under: {also}" if others else told


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
    problems, accepted = [], []
    # The worst first: a log of CI is read from its top, and cut at its end.
    for cell in sorted(report.cells, key=lambda cell: -cell.verdict.severity):
        why = _objection(cell, known, today)
        if why is not None:
            title = f"{cell.verdict.words}: {cell.test} under {cell.experiment!r}"
            problems.append(Problem(what=f"{title}{' (flaky)' * cell.flaky}{why}", cell=cell))
        elif cell.verdict.bad:
            accepted.append(cell)
    score = Score.of(report.cells, {cell.key for cell in accepted})
    reasons = [*_run_reasons(report, score, threshold, accepted), *_cell_reasons(problems)]
    return GateResult(
        score=score,
        threshold=threshold,
        reasons=tuple(reasons),
        problems=tuple(problems),
        accepted=tuple(accepted),
        notes=tuple(_notes(report, known or {}, len(accepted))),
    )


def _run_reasons(
    report: Report, score: Score, threshold: float | None, accepted: list[Cell]
) -> Iterator[str]:
    if not report.complete:
        yield f"the run did not come to its end: {report.interrupted}"
    if score.percent is None:
        # One part of the tests may be none that could break.
        if not accepted and report.shard.count == 1:
            idle = len(report.cells) - score.planned
            more = f"; {idle} more are not applicable" if idle else ""
            yield (
                f"nothing was run: none of {score.planned} planned cells held or broke{more}, so "
                "no score"
            )
    elif threshold is not None and not score.reaches(threshold):
        yield f"the score is {score}, below the {threshold:g} asked"


def _cell_reasons(problems: list[Problem]) -> Iterator[str]:
    for void, one, several in (
        (False, "bad cell that no baseline accepts", "bad cells that no baseline accepts"),
        (True, "cell proves nothing", "cells prove nothing"),
    ):
        verdicts = [each.cell.verdict for each in problems]
        counts = Counter(each for each in verdicts if each.proves_nothing == void)
        if counts:
            told = ", ".join(f"{count} {verdict.words}" for verdict, count in counts.items())
            yield f"{counts.total()} {one if counts.total() == 1 else several}: {told}"


def _objection(cell: Cell, listed: _Listed | None, today: datetime.date) -> str | None:
    """The reason why a cell keeps the report from passing, put behind its name; else None."""
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


def _notes(report: Report, listed: _Listed, accepted: int) -> Iterator[str]:
    if accepted:
        cells = "1 bad cell is" if accepted == 1 else f"{accepted} bad cells are"
        yield f"{cells} accepted by the baseline, and out of the score"
    own = _with_own_chaos(report)
    if own:
        tests = f"{len(own)} tests have" if len(own) > 1 else "1 test has"
        yield (
            f"{tests} chaos already, and no further experiment: "
            "@pytest.mark.resilience(own_chaos=True) runs both"
        )
    if report.shard.count == 1:
        # That a test has nothing to explore says nothing of the others.
        hit = {
            cell.experiment
            for cell in report.cells
            if cell.verdict is not _IDLE or cell.test in own
        }
        hit.add(EXPLORATION)
        for name in dict.fromkeys(cell.experiment for cell in report.cells):
            if name not in hit:
                yield f"{name!r} is applicable to no test: what it could hit, none of them does"
    # Else a cell that breaks again would be accepted.
    for cell in report.cells:
        if cell.verdict.good and cell.key in listed:
            yield f"{cell.verdict.words}, take it out of the baseline: {listed[cell.key]}"


def _with_own_chaos(report: Report) -> set[str]:
    """The tests that the matrix leaves to the chaos that they have of their own."""
    return {
        cell.test
        for cell in report.cells
        if cell.verdict is _IDLE
        and cell.reason.startswith(OWN_CHAOS)
        and cell.experiment != EXPLORATION
    }
