"""A cell of the matrix: one test under one experiment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from typing import Final

from pytest_resilience.report.json_reader import Fields


__all__ = [
    "EXPLORATION",
    "INTRODUCTION",
    "OWN_CHAOS",
    "Cell",
    "CellVerdict",
    "EntryKind",
    "TimelineEntry",
]

INTRODUCTION: Final = (
    "A cell is one test under one experiment; the matrix runs each test without chaos first. "
    "Coverage is the share of the applicable cells in which the experiment ran."
)
"""For people who read a report for the first time."""

EXPLORATION: Final = "exploration"
"""Stands for an experiment in the cell of a test that is not explored."""

OWN_CHAOS: Final = "it has chaos of its own"
"""How the reason begins why a test is run under no further experiment."""


class CellVerdict(StrEnum):
    """The outcome of a cell: three that were not tried, then the others from best to worst.

    The worst are those that prove nothing: no baseline accepts them.
    """

    NOT_RUN = "not_run"
    NOT_APPLICABLE = "not_applicable"
    UNEXPLORABLE = "unexplorable"
    SURVIVED = "survived"
    DEGRADED = "degraded"
    LEAK = "leak"
    FAILED = "failed"
    PROBE = "probe"
    INVARIANT = "invariant"
    STORM = "storm"
    HANG = "hang"
    STALE = "stale"
    NEVER_FIRED = "never_fired"
    NOT_STARTED = "not_started"
    INVALID = "invalid"

    @property
    def good(self) -> bool:
        """True if the system held."""
        return self in _GOOD

    @property
    def bad(self) -> bool:
        """True if the system broke."""
        return self in _BAD

    @property
    def proves_nothing(self) -> bool:
        """True if the experiment was to be run, and nothing is known of the system."""
        return self in _VOID

    @property
    def fails(self) -> bool:
        """True if a run with such a cell fails, unless a baseline accepts it."""
        return self.bad or self.proves_nothing

    @property
    def letter(self) -> str:
        """One character, where there is no room for more."""
        return _LETTERS[self]

    @property
    def words(self) -> str:
        """The name, for people."""
        return self.value.replace("_", " ")

    @property
    def meaning(self) -> str:
        """A sentence for people who meet it for the first time."""
        return _MEANINGS[self]

    @property
    def severity(self) -> int:
        """A number to compare by: 0 is the best."""
        return _SEVERITY[self]


_MEANINGS = {
    CellVerdict.NOT_RUN: "it was not to be run, or the run ended before",
    CellVerdict.NOT_APPLICABLE: "without chaos the test did nothing that the experiment could hit, "
    "or it has chaos of its own",
    CellVerdict.UNEXPLORABLE: "without chaos the test does not do the same each time",
    CellVerdict.SURVIVED: "the fault happened, and the test passed",
    CellVerdict.DEGRADED: "the fault happened, and the test failed in a way that it allows",
    CellVerdict.LEAK: "the test passed, but left threads, sockets or files behind",
    CellVerdict.FAILED: "the fault happened, and the test failed",
    CellVerdict.PROBE: "after the fault, without any, it does not work any more",
    CellVerdict.INVARIANT: "after the fault, what has to hold always does not hold",
    CellVerdict.STORM: "the fault made the test do far more operations than without it",
    CellVerdict.HANG: "the fault happened, and the test was still running at its deadline, or "
    "waited for what could not come any more",
    CellVerdict.STALE: "the operation that the fault was for did not come, so this proves nothing",
    CellVerdict.NEVER_FIRED: "the test passed, but no fault happened, so this proves nothing",
    CellVerdict.NOT_STARTED: "the experiment could not begin, so this proves nothing",
    CellVerdict.INVALID: "how the test ended has nothing to do with the experiment, so this proves "
    "nothing",
}
_GOOD = frozenset({CellVerdict.SURVIVED, CellVerdict.DEGRADED})
_BAD = frozenset({
    CellVerdict.LEAK, CellVerdict.FAILED, CellVerdict.PROBE, CellVerdict.INVARIANT,
    CellVerdict.STORM, CellVerdict.HANG,
})  # fmt: skip
_VOID = frozenset({
    CellVerdict.STALE, CellVerdict.NEVER_FIRED, CellVerdict.NOT_STARTED, CellVerdict.INVALID
})  # fmt: skip
# The members of CellVerdict stand in this order.
_SEVERITY = {verdict: number for number, verdict in enumerate(CellVerdict)}
_LETTERS = {verdict: verdict.value[0].upper() for verdict in CellVerdict} | {
    CellVerdict.NOT_RUN: "-",
    CellVerdict.NOT_APPLICABLE: "·",
    CellVerdict.NOT_STARTED: "!",
    CellVerdict.UNEXPLORABLE: "?",
    CellVerdict.PROBE: "P",
    CellVerdict.INVARIANT: "V",
    CellVerdict.STORM: "M",
    CellVerdict.STALE: "T",
}


class EntryKind(StrEnum):
    """The source of an entry of a timeline."""

    OPERATION = "operation"
    FAULT = "fault"
    BREAKER = "breaker"
    RETRY = "retry"
    LOG = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One line of a cell's timeline.

    Attributes:
        at: seconds since the test began.
        kind: says which kind of `source` it is.
        source: the name of the operation, experiment, breaker, retry or logger.
        text: the event in words.
    """

    at: float
    kind: EntryKind
    source: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Built-in types only."""
        return {"at": self.at, "kind": self.kind.value, "source": self.source, "text": self.text}

    @classmethod
    def from_json(cls, fields: Fields) -> TimelineEntry:
        """From the output of `to_json`. Raises MisfitError."""
        fields.only(_ENTRY_KEYS)
        kind = fields.text("kind")
        if kind not in set(EntryKind):
            raise fields.misfit("kind", f"give one of {', '.join(EntryKind)}")
        return cls(
            at=fields.number("at", least=0),
            kind=EntryKind(kind),
            source=fields.text("source"),
            text=fields.text("text"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One test under one experiment.

    Attributes:
        test: pytest's id of the test.
        experiment: the experiment's name.
        what: the experiment in words, with its physical parameters.
        weight: how much it counts in the score; above 0.
        verdict: the outcome.
        reason: why it is not good, in the words of the error; "" if there is nothing to say.
        repeat: the command line that runs this cell again.
        duration: seconds.
        timeline: in order of time.
        flaky: several runs of it disagreed.
    """

    test: str
    experiment: str
    verdict: CellVerdict
    what: str = ""
    weight: float = 1.0
    reason: str = ""
    repeat: str = ""
    duration: float = 0.0
    timeline: tuple[TimelineEntry, ...] = ()
    flaky: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Test and experiment, which identify the cell in a report."""
        return self.test, self.experiment

    def to_json(self) -> dict[str, Any]:
        """Built-in types only."""
        return {
            "test": self.test,
            "experiment": self.experiment,
            "what": self.what,
            "weight": self.weight,
            "verdict": self.verdict.value,
            "flaky": self.flaky,
            "reason": self.reason,
            "repeat": self.repeat,
            "duration": self.duration,
            "timeline": [entry.to_json() for entry in self.timeline],
        }

    @classmethod
    def from_json(cls, fields: Fields) -> Cell:
        """From the output of `to_json`. Raises MisfitError."""
        fields.only(_CELL_KEYS)
        verdict = fields.text("verdict")
        if verdict not in set(CellVerdict):
            raise fields.misfit("verdict", f"give one of {', '.join(CellVerdict)}")
        return cls(
            test=fields.text("test"),
            experiment=fields.text("experiment"),
            what=fields.text("what"),
            weight=fields.number("weight", above=0),
            verdict=CellVerdict(verdict),
            flaky=fields.flag("flaky"),
            reason=fields.text("reason"),
            repeat=fields.text("repeat"),
            duration=fields.number("duration", least=0),
            timeline=tuple(map(TimelineEntry.from_json, fields.rows("timeline"))),
        )


_ENTRY_KEYS = frozenset(TimelineEntry.__dataclass_fields__)
_CELL_KEYS = frozenset(Cell.__dataclass_fields__)
