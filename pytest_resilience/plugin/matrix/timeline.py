"""The timeline of one run under an experiment: its faults, and what this package logs."""

from __future__ import annotations

import logging

from typing import Self

from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.report.cell import EntryKind
from pytest_resilience.report.cell import TimelineEntry


__all__ = ["Timeline"]

_MOST = 500  # records of one run; the first show what led to the rest
_KINDS = {"breaker": EntryKind.BREAKER, "retry": EntryKind.RETRY}
_root = logging.getLogger("pytest_resilience")


class Timeline(logging.Handler):
    """Collects log records of this package while its block runs."""

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
        if len(self._records) < _MOST:
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
            for at, event in faults[:_MOST]
        ]
        return tuple(sorted(found, key=lambda moment: moment.at))
