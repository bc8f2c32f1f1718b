"""The gate: whether a report is good enough. Its baseline: cells that are known to break.

The baseline is committed beside the code, a line each.
"""

from __future__ import annotations

import datetime
import json
import os
import re

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_resilience.chaos.parsing.experiment_specs import read_text
from pytest_resilience.chaos.parsing.messages import inline
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.report.cell import EXPLORATION
from pytest_resilience.report.cell import OWN_CHAOS
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Score


__all__ = [
    "Baseline",
    "GateResult",
    "KnownCell",
    "Problem",
    "baseline_of",
    "judge",
    "problem_texts",
    "read_baseline",
]

_HEADING = "# pytest-resilience baseline: what is known to break"
_SHAPE = "verdict  experiment  test  # reason; until 2026-12-31"
_BARE = r'(?!["#])\S+(?: (?!#)\S+)*'  # a field as it is: two spaces end it, " #" does too
_FIELD = rf'("(?:[^"\\]|\\.)*"|{_BARE})'
# Names may hold single spaces, so two of them, or a tab, are what separates fields.
_GAP = r"(?:\t|  )\s*"
_LINE = re.compile(rf"{_FIELD}{_GAP}{_FIELD}{_GAP}{_FIELD}(?:\s+#(.*))?")
_CONFIGURATION = re.compile(r"#\s*configuration:\s*(\S+)")
_WAIVER = re.compile(r"(.*\S)\s*;\s*until\s+(\d{4}-\d{2}-\d{2})")
_IDLE = CellVerdict.NOT_APPLICABLE
_CHANGING = re.compile(r"0x[0-9a-f]+|\d+")  # addresses and numbers, which differ between runs


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCell:
    """A cell that may be bad; with `reason` and `until`, a waiver that ends.

    Attributes:
        verdict: as bad as this, and no worse.
        experiment: the experiment's name.
        test: pytest's id of the test.
        reason: why it is waived; "" if it is only known.
        until: the last day on which it is.
    """

    verdict: CellVerdict
    experiment: str
    test: str
    reason: str = ""
    until: datetime.date | None = None

    def allows(self, cell: Cell) -> bool:
        """True if a bad cell is no worse than this one."""
        return cell.verdict.severity <= self.verdict.severity

    def expired(self, today: datetime.date) -> bool:
        """True after the last day."""
        return self.until is not None and today > self.until

    def __str__(self) -> str:
        line = "  ".join(map(_field, (self.verdict.value, self.experiment, self.test)))
        return f"{line}  # {self.reason}; until {self.until}" if self.until else line


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """All that is known to break under one configuration.

    Attributes:
        configuration: the fingerprint of the experiments it was made with.
        known: the cells, each once.
        place: where the configuration is written, as `file:line`, for messages.
    """

    configuration: str
    known: tuple[KnownCell, ...] = ()
    place: str = "baseline"

    def check(self, report: Report) -> None:
        """Raises ConfigurationError if the report comes from other experiments."""
        if self.configuration != report.configuration:
            raise ConfigurationError(
                f"{self.place}: configuration {self.configuration} is not that of this run, "
                f"{report.configuration}: experiments or their parameters have changed, so "
                "nothing can be compared; look at what breaks now and write the baseline anew"
            )

    def by_key(self) -> dict[tuple[str, str], KnownCell]:
        """The known cells by `Cell.key`."""
        return {(each.test, each.experiment): each for each in self.known}

    def text(self) -> str:
        """The file: the lines in the order of `sort`, below a heading."""
        # In an order of their own, so that two branches conflict only where both changed a line.
        lines = sorted(map(str, self.known))
        head = [_HEADING, f"# {_SHAPE}", f"# configuration: {self.configuration}"]
        return "\n".join([*head, *lines]) + "\n"


def baseline_of(report: Report, earlier: Baseline | None = None) -> Baseline:
    """Make a baseline of a report's bad cells; waivers of `earlier` are kept where they hold."""
    before = earlier.by_key() if earlier else {}
    found = []
    for cell in report.cells:
        if cell.verdict.bad:
            known = before.get(cell.key)
            if known is None or not known.allows(cell):
                known = KnownCell(verdict=cell.verdict, experiment=cell.experiment, test=cell.test)
            found.append(known)
    return Baseline(configuration=report.configuration, known=tuple(found))


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises ConfigurationError with file, line and what is wrong."""
    if not os.path.exists(path):  # nor is there one whose name is too long, which a `Path` raises
        raise ConfigurationError(
            f"{inline(str(path))} is not there; `python -m pytest_resilience baseline` writes a "
            "baseline from a report of --resilience-report, as in `… baseline all.json -o FILE`"
        )
    lines = read_text(path).split("\n")
    configuration, place = "", ""
    known: dict[tuple[str, str], KnownCell] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        where = f"{path}:{number}"
        if heading := _CONFIGURATION.fullmatch(line):
            configuration, place = heading[1], where
        elif line and not line.startswith("#"):
            cell = _parse(line, where)
            if (cell.test, cell.experiment) in known:
                raise ConfigurationError(
                    f"{where}: {cell.test} under {cell.experiment!r} is listed already; one line "
                    "a cell"
                )
            known[cell.test, cell.experiment] = cell
    if not configuration:
        raise ConfigurationError(f"{path}:1: the line '# configuration: …' is missing")
    return Baseline(configuration=configuration, known=tuple(known.values()), place=place)


def _field(text: str) -> str:
    bare = text.isprintable() and re.fullmatch(_BARE, text)
    return text if bare else json.dumps(text)


def _parse(line: str, where: str) -> KnownCell:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise ConfigurationError(
            f"{where}: {shortened(line)} is no line of a baseline; write: {_SHAPE} (two spaces "
            "between)"
        )
    verdict, experiment, test = (_unquoted(parts[number], where) for number in (1, 2, 3))
    if not any(each.bad and each == verdict for each in CellVerdict):
        allowed = ", ".join(each for each in CellVerdict if each.bad)
        raise ConfigurationError(
            f"{where}: verdict {shortened(verdict)}: what can be known is {allowed}"
        )
    reason, until = _waiver(parts[4], where)
    return KnownCell(
        verdict=CellVerdict(verdict), experiment=experiment, test=test, reason=reason, until=until
    )


def _unquoted(field: str, where: str) -> str:
    if not field.startswith('"'):
        return field
    try:
        return str(json.loads(field))
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{where}: {shortened(field)} is no text in quotes") from None


def _waiver(comment: str | None, where: str) -> tuple[str, datetime.date | None]:
    if comment is None:
        return "", None
    # Half a waiver, or a misspelt one, would hold for ever.
    parts = _WAIVER.fullmatch(comment.strip())
    if parts is None:
        raise ConfigurationError(
            f"{where}: {shortened(comment.strip())} is no waiver; write: # reason; until 2026-12-31"
        )
    try:
        return parts[1].strip(), datetime.date.fromisoformat(parts[2])
    except ValueError as error:
        raise ConfigurationError(f"{where}: until {parts[2]}: {error}") from None


_Listed = dict[tuple[str, str], KnownCell]


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
        if not report.cells and report.shard.count == 1:
            yield (
                "nothing was run: no test was selected; a profile does so by its paths and markers"
            )
        elif not accepted and report.shard.count == 1:
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
    for each in _gone(report, listed):
        yield f"no such cell any more, take it out of the baseline: {each}"


def _gone(report: Report, listed: _Listed) -> Iterator[KnownCell]:
    """Known cells of tests that were run whole, and have them no more: their code has changed.

    Of a pair of faults there is a cell only while it fails, and as far as there was a budget.
    """
    whole = {cell.test for cell in report.cells if report.shard.count == 1}
    whole -= {
        cell.test
        for cell in report.cells
        if cell.verdict is CellVerdict.NOT_RUN or cell.experiment == EXPLORATION
    }
    there = {cell.key for cell in report.cells}
    for key, each in listed.items():
        if each.test in whole and key not in there and ", " not in each.experiment:
            yield each


def _with_own_chaos(report: Report) -> set[str]:
    """The tests that the matrix leaves to the chaos that they have of their own."""
    return {
        cell.test
        for cell in report.cells
        if cell.verdict is _IDLE
        and cell.reason.startswith(OWN_CHAOS)
        and cell.experiment != EXPLORATION
    }
