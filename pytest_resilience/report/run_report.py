"""The report of a run: its cells, their score, and under which conditions they came about.

And one report out of those of several machines, or of several runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math

from collections import Counter
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.json_reader import Fields
from pytest_resilience.report.json_reader import MisfitError


__all__ = ["FORMAT", "Report", "Score", "Shard", "combine", "fingerprint", "merge"]

_MOST_SHARDS = 10**9
FORMAT = 1  # of the JSON document; raised when an older reader would misread a newer one
_NOT_TRIED = frozenset({
    CellVerdict.NOT_RUN, CellVerdict.NOT_APPLICABLE, CellVerdict.UNEXPLORABLE, CellVerdict.STALE,
    CellVerdict.NOT_STARTED, CellVerdict.INVALID,
})  # fmt: skip
_UNTOLD = frozenset({CellVerdict.NOT_RUN, CellVerdict.NOT_APPLICABLE, CellVerdict.UNEXPLORABLE})
_MOST_NAMED = 20  # shards that are missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The cells of a run, added up.

    Attributes:
        good: the weights of the cells that held, added.
        bad: the weights of those that broke and that no baseline accepts, added.
        tried: cells in which the experiment ran.
        planned: all cells but those that are not applicable.
    """

    good: Fraction
    bad: Fraction
    tried: int
    planned: int

    @classmethod
    def of(cls, cells: Iterable[Cell], accepted: Container[tuple[str, str]] = ()) -> Score:
        """Of these cells; each counts as much as its experiment weighs.

        Bad ones whose keys are `accepted`, as a baseline does, count for coverage alone.
        """
        counts = Counter((cell.verdict, cell.weight, cell.key in accepted) for cell in cells)
        good = bad = Fraction(0)
        for (verdict, weight, known), number in counts.items():
            # By way of repr: 0.1 is a tenth, as it was written, and sums do not depend on order.
            share = Fraction(repr(float(weight))) * number
            good += share if verdict.good else 0
            bad += share if verdict.bad and not known else 0
        tried = sum(n for (verdict, *_), n in counts.items() if verdict not in _NOT_TRIED)
        idle = sum(
            n for (verdict, *_), n in counts.items() if verdict is CellVerdict.NOT_APPLICABLE
        )
        return cls(good=good, bad=bad, tried=tried, planned=counts.total() - idle)

    @property
    def percent(self) -> float | None:
        """Good of good and bad, 0 to 100, rounded down to a tenth.

        100 only if nothing broke; None if nothing held and nothing broke.
        """
        return _percent(self.good, self.good + self.bad)

    @property
    def coverage(self) -> float | None:
        """Tried of planned, 0 to 100, rounded down to a tenth; None if none was planned."""
        return _percent(Fraction(self.tried), Fraction(self.planned))

    def reaches(self, threshold: float) -> bool:
        """True if `percent`, as it is shown, is `threshold` or more; False without a score."""
        return self.percent is not None and self.percent >= threshold

    def __str__(self) -> str:
        return "no score" if self.percent is None else f"{self.percent:g} %"


def _percent(part: Fraction, whole: Fraction) -> float | None:
    return math.floor(1000 * part / whole) / 10 if whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A part of a run on several machines: the `index`th of `count`, from 1."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a run.

    Attributes:
        cells: one per test and experiment, also those that were planned and not run.
        configuration: the `fingerprint` of the experiments.
        profiles: the names of the profiles that asked for them.
        seed: of all chance; None if the parts of the run had several.
        started_at: when, as an ISO 8601 text with its offset from UTC.
        python, pytest, plugin: versions; `plugin` is this package's.
        interrupted: why the run ended before its end; "" if it did not.
        shard: which part of a run this is.
    """

    cells: tuple[Cell, ...]
    configuration: str
    profiles: tuple[str, ...] = ()
    seed: int | None = None
    started_at: str = ""
    python: str = ""
    pytest: str = ""
    plugin: str = ""
    interrupted: str = ""
    shard: Shard = Shard()

    @property
    def complete(self) -> bool:
        """True if the run came to its end."""
        return not self.interrupted

    @property
    def score(self) -> Score:
        """Of all cells, none accepted."""
        return Score.of(self.cells)

    def to_json(self, score: Score | None = None) -> dict[str, Any]:
        """Built-in types only; score and coverage are there for other readers.

        `score` is that of the gate, where there was one.
        """
        score = score or self.score
        return {
            "format": FORMAT,
            "plugin": self.plugin,
            "pytest": self.pytest,
            "python": self.python,
            "started_at": self.started_at,
            "profiles": list(self.profiles),
            "configuration": self.configuration,
            "seed": self.seed,
            "shard": {"index": self.shard.index, "count": self.shard.count},
            "complete": self.complete,
            "interrupted": self.interrupted,
            "score": score.percent,
            "coverage": score.coverage,
            "cells": [cell.to_json() for cell in self.cells],
        }

    @classmethod
    def from_json(cls, data: Any) -> Report:
        """From the output of `to_json`; the score is computed anew. Raises MisfitError."""
        fields = Fields(data)
        if fields.whole("format", least=1) != FORMAT:
            raise fields.misfit("format", f"this version reads format {FORMAT}")
        fields.only(_KEYS)
        return cls(
            plugin=fields.text("plugin"),
            pytest=fields.text("pytest"),
            python=fields.text("python"),
            started_at=fields.text("started_at"),
            profiles=fields.texts("profiles"),
            configuration=fields.line("configuration"),
            seed=None if fields.none("seed") else fields.whole("seed", least=0),
            shard=_shard(fields.below("shard")),
            interrupted=_interrupted(fields),
            cells=_cells(fields),
        )


_KEYS = frozenset(Report.__dataclass_fields__) | {"format", "complete", "score", "coverage"}


def fingerprint(experiments: Iterable[Mapping[str, Any]]) -> str:
    """A short hash of experiments given as tables, whatever their order.

    Runs can be compared, and their shards merged, only where it is the same.
    """
    tables = sorted(json.dumps(dict(each), sort_keys=True, default=str) for each in experiments)
    # 12 digits: short enough for a line, and enough to tell the configurations of a project apart.
    return hashlib.sha256("\n".join(tables).encode()).hexdigest()[:12]


def _shard(fields: Fields) -> Shard:
    fields.only(frozenset({"index", "count"}))
    count = fields.whole("count", least=1)
    if count > _MOST_SHARDS:
        raise fields.misfit("count", f"give {_MOST_SHARDS} at most")
    index = fields.whole("index", least=1)
    if index > count:
        raise fields.misfit("index", f"there are {count} shards")
    return Shard(index=index, count=count)


def _interrupted(fields: Fields) -> str:
    text = fields.text("interrupted")
    if fields.flag("complete") == bool(text):
        raise fields.misfit("complete", "`interrupted` says why a run is not, and only then")
    return text


def _cells(fields: Fields) -> tuple[Cell, ...]:
    found: dict[tuple[str, str], Cell] = {}
    for row in fields.rows("cells"):
        cell = Cell.from_json(row)
        if cell.key in found:
            raise MisfitError(
                row.path, f"{cell.test} under {cell.experiment!r} is there already; one cell each"
            )
        found[cell.key] = cell
    return tuple(found.values())


def merge(named: Sequence[tuple[str, Report]]) -> Report:
    """One report of all, each given with the name of its file.

    The worst verdict of a cell wins, and where runs disagree it is flaky. Raises
    ConfigurationError if a shard is missing, or if they are not parts of one run.
    """
    if not named:
        raise ConfigurationError("no report to merge; name at least one")
    _same_configuration(named)
    _all_there(named)
    _all_different(named)
    reports = [report for _, report in sorted(named, key=lambda each: each[1].shard.index)]
    # Shards of one run have the same seed, repetitions of a run need not.
    seeds = {report.seed for report in reports}
    return Report(
        cells=combine(cell for report in reports for cell in report.cells),
        configuration=reports[0].configuration,
        profiles=tuple(dict.fromkeys(name for each in reports for name in each.profiles)),
        seed=seeds.pop() if len(seeds) == 1 else None,
        started_at=min((report.started_at for report in reports if report.started_at), default=""),
        python=_all(report.python for report in reports),
        pytest=_all(report.pytest for report in reports),
        plugin=_all(report.plugin for report in reports),
        interrupted="; ".join(filter(None, map(_how_interrupted, reports))),
    )


def combine(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Each cell once, in order of first appearance: the worst of its runs."""
    runs: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        runs.setdefault(cell.key, []).append(cell)
    return tuple(each[0] if len(each) == 1 else _worst(each) for each in runs.values())


def _worst(runs: list[Cell]) -> Cell:
    worst = max(runs, key=lambda cell: cell.verdict.severity)
    # One that was not run tells nothing, so it disagrees with nobody.
    told = {cell.verdict for cell in runs} - _UNTOLD
    flaky = any(cell.flaky for cell in runs) or len(told) > 1
    return dataclasses.replace(worst, flaky=flaky)


def _same_configuration(named: Sequence[tuple[str, Report]]) -> None:
    first, report = named[0]
    for name, other in named:
        if other.configuration != report.configuration:
            raise ConfigurationError(
                f"{name} is of configuration {other.configuration}, {first} of "
                f"{report.configuration}: other experiments or parameters; merge reports of one"
            )
        if other.shard.count != report.shard.count:
            raise ConfigurationError(
                f"{name} is shard {other.shard}, {first} is shard {report.shard}; merge the "
                "shards of one run"
            )


def _all_there(named: Sequence[tuple[str, Report]]) -> None:
    count = named[0][1].shard.count
    there = {report.shard.index for _, report in named}
    if len(there) < count:
        missing = (each for each in range(1, count + 1) if each not in there)
        names = ", ".join(map(str, itertools.islice(missing, _MOST_NAMED)))
        names += ", …" * (count - len(there) > _MOST_NAMED)
        raise ConfigurationError(
            f"shard {names} of {count} is missing; there are {', '.join(name for name, _ in named)}"
        )


def _all_different(named: Sequence[tuple[str, Report]]) -> None:
    for number, (name, report) in enumerate(named):
        for other, same in named[:number]:
            if report == same:
                raise ConfigurationError(
                    f"{other} and {name} are the same report of shard {report.shard}; name it once"
                )


def _how_interrupted(report: Report) -> str:
    whole = report.shard == Shard()
    return report.interrupted and ("" if whole else f"shard {report.shard}: ") + report.interrupted


def _all(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(filter(None, texts)))
