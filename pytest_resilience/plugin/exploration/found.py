"""What came of the exploration of one test, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from typing import Any

from pytest_resilience.chaos.parsing.texts import counted
from pytest_resilience.exploration.outcome import Outcome
from pytest_resilience.exploration.schedule import Schedule
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.report.cell import Cell


__all__ = ["Failure", "Found"]

_MOST_OTHERS = 3  # operations under which a failure comes that is told already


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One way in which a test fails under faults.

    Attributes:
        schedule: the smallest that was found.
        outcome: what comes of it.
        place: the innermost function of the project that it went through; "" if there is none.
        repeat: the command that repeats it.
        others: the other sites with faults that fail so, as their cells are named.
    """

    schedule: Schedule
    outcome: Outcome
    place: str
    repeat: str
    others: tuple[str, ...] = ()

    def text(self, *, whole: bool) -> str:
        """What breaks, the line that repeats it, and, perhaps not the `whole`, under what else."""
        first, *more = self.outcome.reason.splitlines()
        where = f", in {self.place}" if self.place else ""
        lines = [f"{self.outcome.verdict.words}: {first}{where}", *filter(str.strip, more)]
        lines.append(self.repeat)
        return "\n    ".join([*lines, *self._also(whole=whole)])

    def _also(self, *, whole: bool) -> list[str]:
        """A line for each operation, with the faults under which it fails so; pairs at the end."""
        faults: dict[str, list[str]] = {}
        for each in self.others:
            operation, _, fault = ("", "", each) if ", " in each else each.rpartition("=")
            faults.setdefault(operation, []).append(fault)
        pairs = faults.pop("", [])
        lines = [f"also under: {each}={' or '.join(names)}" for each, names in faults.items()]
        if whole:
            return [*lines, *(f"also under: {pair}" for pair in pairs)]
        shown = lines[:_MOST_OTHERS]
        left = len(pairs) + sum(len(each) for each in [*faults.values()][_MOST_OTHERS:])
        return [*shown, f"and under {left} more, which -v shows"] if left else shown


@dataclass(slots=True, kw_only=True)
class Found:
    """What came of the exploration of one test.

    Attributes:
        nodeid: of the test.
        cells: by site and fault.
        failures: each way to fail once.
        note: why there was nothing to explore, or no end; "" if there was.
        untried: schedules that failed the last time, and were not run this time.
        runs, unexplored, pruned: how many schedules.
        operations: how many the test does without faults.
        crashes: how many states were looked at that a crash may leave; or why none, in words.
    """

    nodeid: str
    cells: list[Cell] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    untried: list[Schedule] = field(default_factory=list)
    note: str = ""
    runs: int = 0
    unexplored: int = 0
    pruned: int = 0
    operations: int = 0
    crashes: int | str = 0

    def text(self, *, whole: bool) -> str:
        """For the report of a test that has asked for it."""
        ways = counted(len(self.failures), "way")
        head = f"the exploration has found {ways} to fail in {counted(self.runs, 'run')}"
        return "\n".join([head, *self.told(whole=whole), *([self.note] if self.note else [])])

    def told(self, *, whole: bool) -> list[str]:
        """Each way to fail."""
        return [each.text(whole=whole) for each in self.failures]

    def to_json(self, *, whole: bool, is_told: bool = False) -> dict[str, Any]:
        """What travels with a report to where the terminal is.

        `is_told`: whether the report tells each way to fail.
        """
        return {
            "nodeid": self.nodeid,
            "runs": self.runs,
            "unexplored": self.unexplored,
            "pruned": self.pruned,
            "operations": self.operations,
            "note": self.note,
            "crashes": self.crashes,
            "failures": [format_schedule(each.schedule) for each in self.failures],
            "untried": list(map(format_schedule, self.untried)),
            "told": [] if is_told else self.told(whole=whole),
        }
