"""The experiments of one test when it is over; travels between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


__all__ = ["ChaosRecord", "ExperimentRecord"]


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
