"""What chaos was in a test, and when: records, which travel between processes, and lines."""

from __future__ import annotations

import logging
import re

from dataclasses import dataclass
from typing import Any
from typing import Self

from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry


__all__ = [
    "ChaosRecord",
    "ExperimentRecord",
    "Tallies",
    "TimelineRecorder",
    "numbered_operations",
    "timeline",
]

_NUMBER = re.compile(r"\d[\d.]*")
_MOST_ALIKE = 3  # experiments with a line each, where they differ in numbers only
_MOST_LINES = 30  # of one failed test's timeline: its end is what failed it


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRecord:
    """One experiment of one test.

    Attributes:
        name: the experiment's.
        what: the experiment in words, with its physical parameters.
        requested_by: "marker", "fixture", "flag", "profile", "matrix", "monkey", "proxy", or
            "usual" where nobody asked for it and it only counts.
        started: False if its `probability` decided against it.
        matched: operations that its target matched.
        hits: operations that got a fault.
        delay: seconds by which it delayed callers, added up.
        pressure: of stress, what was asked and what was achieved, in words.
        counted: the operations that it matched, with their numbers, where they were to be shown.
    """

    name: str
    what: str
    requested_by: str
    started: bool
    matched: int = 0
    hits: int = 0
    delay: float = 0.0
    pressure: str = ""
    counted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosRecord:
    """The experiments of one test.

    Attributes:
        nodeid: pytest's id of the test.
        experiments: in the order in which they were started.
    """

    nodeid: str
    experiments: tuple[ExperimentRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Built-in types only."""
        names = ExperimentRecord.__slots__
        rows = [{name: getattr(row, name) for name in names} for row in self.experiments]
        return {"nodeid": self.nodeid, "experiments": rows}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ChaosRecord:
        """From the output of `to_json`."""
        rows = tuple(
            ExperimentRecord(**{**row, "counted": tuple(row["counted"])})
            for row in data["experiments"]
        )
        return cls(nodeid=data["nodeid"], experiments=rows)


def timeline(events: list[tuple[float, FaultInjected]]) -> str:
    """The faults of one test, one a line, with the seconds since it began."""
    hidden = max(0, len(events) - _MOST_LINES)
    lines = [f"… {hidden} earlier faults"] if hidden else []
    for at, event in events[hidden:]:
        place = f" at {event.place}" if event.place else ""
        lines.append(
            f"+{at:.3f}s {event.source}: {event.fault} on {event.kind} {event.target}{place}"
        )
    return "\n".join(lines) or "no fault was injected"


def numbered_operations(record: ChaosRecord) -> list[str]:
    """The operations of one test, by the numbers that each of its experiments gives them.

    What an experiment that somebody asked for has not counted is told as well.
    """
    lines = [record.nodeid]
    for row in record.experiments:
        if row.counted:
            lines += [
                f"  {row.what} [{row.requested_by}]",
                *(f"    {each}" for each in row.counted),
            ]
        elif row.started and row.requested_by != "usual":
            lines.append(f"  {row.what} [{row.requested_by}]: nothing")
    return lines if len(lines) > 1 else [f"{record.nodeid}: nothing that a fault could hit"]


@dataclass(slots=True)
class _Tally:
    tests: int = 0
    idle: int = 0
    matched: int = 0
    hits: int = 0
    delay: float = 0.0
    readings: int = 0
    last_reading: str = ""


class Tallies:
    """The counts of each experiment, added up over the tests of a run."""

    def __init__(self) -> None:
        self._by_experiment: dict[tuple[str, str], _Tally] = {}

    def add(self, record: ChaosRecord) -> None:
        """Add the counts of one test."""
        for row in record.experiments:
            tally = self._by_experiment.setdefault((row.what, row.requested_by), _Tally())
            tally.tests += row.started
            tally.idle += not row.started
            tally.matched += row.matched
            tally.hits += row.hits
            tally.delay += row.delay
            if row.pressure:
                tally.readings += 1
                tally.last_reading = row.pressure

    def lines(self, *, whole: bool = True) -> list[str]:
        """A line per experiment: in how many tests, matched, hit, total delay.

        Unless the `whole` is asked for, many that differ in their numbers only share a line, as
        those of a test that is parametrised.
        """
        alike: dict[tuple[str, str], list[tuple[str, _Tally]]] = {}
        for (what, requested_by), tally in self._by_experiment.items():
            key = what if whole else _NUMBER.sub("#", what)
            alike.setdefault((key, requested_by), []).append((what, tally))
        lines = []
        for (_, requested_by), group in alike.items():
            if len(group) > _MOST_ALIKE:
                more = f"{group[0][0]}, and {len(group) - 1} more with other numbers"
                lines.append(_line(more, requested_by, _sum([tally for _, tally in group])))
            else:
                lines += [_line(what, requested_by, tally) for what, tally in group]
        return lines


def _sum(tallies: list[_Tally]) -> _Tally:
    read = [each for each in tallies if each.readings]
    return _Tally(
        tests=sum(each.tests for each in tallies),
        idle=sum(each.idle for each in tallies),
        matched=sum(each.matched for each in tallies),
        hits=sum(each.hits for each in tallies),
        delay=sum(each.delay for each in tallies),
        readings=sum(each.readings for each in tallies),
        last_reading=read[-1].last_reading if read else "",
    )


def _line(what: str, requested_by: str, tally: _Tally) -> str:
    parts = [f"{tally.tests} test{'' if tally.tests == 1 else 's'}"]
    if tally.idle:
        parts.append(f"not started in {tally.idle} (chance)")
    if tally.readings:  # of stress, which hits no operations
        last = f" (the last of {tally.readings})" if tally.readings > 1 else ""
        parts.append(f"{tally.last_reading}{last}")
    elif tally.matched or not tally.tests:
        parts.append(f"matched {tally.matched}")
        parts.append(f"hit {tally.hits}")
    else:
        parts.append("never fired: nothing matched")
    if tally.delay:
        parts.append(f"delayed {format_seconds(tally.delay)}")
    return f"{what} [{requested_by}] - {', '.join(parts)}"


_MOST_MOMENTS = 500  # records of one run; the first show what led to the rest
_KINDS = {"breaker": EntryKind.BREAKER, "retry": EntryKind.RETRY}
_root = logging.getLogger("pytest_resilience")


class TimelineRecorder(logging.Handler):
    """Collects what this package logs in one run of a test, while its block runs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._records: list[tuple[float, logging.LogRecord]] = []

    def __enter__(self) -> Self:
        self._began = MACHINE_CLOCK.monotonic()
        self._usual = _root.level
        _root.setLevel(logging.INFO)
        _root.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _root.removeHandler(self)
        _root.setLevel(self._usual)

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._records) < _MOST_MOMENTS:
            self._records.append((MACHINE_CLOCK.monotonic() - self._began, record))

    def moments(self, faults: list[tuple[float, FaultInjected]]) -> tuple[TimelineEntry, ...]:
        """The records and `faults`, each with the seconds since the run began, in order."""
        found = [
            TimelineEntry(
                at=at,
                kind=_KINDS.get(record.name.rpartition(".")[2], EntryKind.LOG),
                source=record.name.rpartition(".")[2],
                text=record.getMessage(),
            )
            for at, record in self._records
        ]
        found += [
            TimelineEntry(
                at=at,
                kind=EntryKind.FAULT,
                source=event.source,
                text=f"{event.fault} on {event.kind} {event.target}"
                + (f" at {event.place}" if event.place else ""),
            )
            for at, event in faults[:_MOST_MOMENTS]
        ]
        return tuple(sorted(found, key=lambda moment: moment.at))
