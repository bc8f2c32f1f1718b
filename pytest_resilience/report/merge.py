"""One report out of the reports of several machines, or of several runs."""

from __future__ import annotations

import dataclasses
import itertools

from collections.abc import Iterable
from collections.abc import Sequence

from pytest_resilience.errors import ConfigurationError
from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict
from pytest_resilience.report.run_report import Report
from pytest_resilience.report.run_report import Shard


__all__ = ["combine", "merge"]

_UNTOLD = frozenset({CellVerdict.NOT_RUN, CellVerdict.NOT_APPLICABLE, CellVerdict.UNEXPLORABLE})
_MOST_NAMED = 20  # shards that are missing


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
        interrupted="; ".join(filter(None, map(_interrupted, reports))),
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


def _interrupted(report: Report) -> str:
    whole = report.shard == Shard()
    return report.interrupted and ("" if whole else f"shard {report.shard}: ") + report.interrupted


def _all(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(filter(None, texts)))
