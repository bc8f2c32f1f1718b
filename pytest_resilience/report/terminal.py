"""Lines for a terminal: what the experiments of a run did."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.report.chaos_record import ChaosRecord


__all__ = ["Tallies", "numbered_operations", "timeline"]

_MOST_LINES = 30  # of one failed test's timeline: its end is what failed it


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

    def lines(self) -> list[str]:
        """A line per experiment: in how many tests, matched, hit, total delay."""
        return [_line(*key, tally) for key, tally in self._by_experiment.items()]


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
