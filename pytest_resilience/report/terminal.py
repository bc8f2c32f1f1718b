"""Lines for a terminal: what the experiments of a run did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field

from pytest_resilience.chaos.engine import FaultInjected
from pytest_resilience.chaos.quantities import format_seconds
from pytest_resilience.report.record import ChaosRecord


__all__ = ["summary", "timeline"]

_MOST_LINES = 30  # of one failed test's timeline: its end is what failed it


def timeline(events: list[tuple[float, FaultInjected]]) -> str:
    """What was injected into one test, a line a fault, seconds since it began."""
    hidden = max(0, len(events) - _MOST_LINES)
    lines = [f"… {hidden} earlier faults"] if hidden else []
    for at, event in events[hidden:]:
        place = f" at {event.place}" if event.place else ""
        lines.append(
            f"+{at:.3f}s {event.source}: {event.fault} on {event.kind} {event.target}{place}"
        )
    return "\n".join(lines) or "no fault was injected"


@dataclass(slots=True)
class _Tally:
    tests: int = 0
    idle: int = 0
    matched: int = 0
    hits: int = 0
    delay: float = 0.0
    pressures: list[str] = field(default_factory=list)


def summary(records: Iterable[ChaosRecord]) -> list[str]:
    """A line per experiment of the run: in how many tests, matched, hit, total delay."""
    tallies: dict[tuple[str, str], _Tally] = {}
    for record in records:
        for row in record.experiments:
            tally = tallies.setdefault((row.what, row.origin), _Tally())
            tally.tests += row.started
            tally.idle += not row.started
            tally.matched += row.matched
            tally.hits += row.hits
            tally.delay += row.delay
            tally.pressures += [row.pressure] if row.pressure else []
    return [_line(what, origin, tally) for (what, origin), tally in tallies.items()]


def _line(what: str, origin: str, tally: _Tally) -> str:
    parts = [f"{tally.tests} test{'' if tally.tests == 1 else 's'}"]
    if tally.idle:
        parts.append(f"not started in {tally.idle} (chance)")
    if tally.pressures:
        more = len(tally.pressures) - 1
        parts.append(tally.pressures[-1] + (f" (the last of {more + 1})" if more else ""))
    elif tally.matched or not tally.tests:
        parts.append(f"matched {tally.matched}")
        parts.append(f"hit {tally.hits}")
    else:
        parts.append("never fired: nothing matched")
    if tally.delay:
        parts.append(f"delayed {format_seconds(tally.delay)}")
    return f"{what} [{origin}] - {', '.join(parts)}"
