"""What a benchmark prints: each figure beside its target."""

from __future__ import annotations

import os
import statistics

from collections.abc import Sequence
from dataclasses import dataclass


__all__ = ["Figure", "lateness", "pin", "show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something measured.

    Attributes:
        what: in words.
        value: measured, in `unit`.
        target: what it may be at most; None: no target, shown for comparison.
        unit: "ms", "us", "x" …
    """

    what: str
    value: float
    target: float | None
    unit: str

    @property
    def missed(self) -> bool:
        return self.target is not None and self.value > self.target

    def __str__(self) -> str:
        value = f"{self.value:.3f} {self.unit}"
        if self.target is None:
            return f"{self.what:<64} {value:>12}"
        verdict = "MISSED" if self.missed else "ok"
        return f"{self.what:<64} {value:>12}   target {self.target:g} {self.unit}: {verdict}"


def lateness(
    who: str,
    asked: float,
    took: Sequence[float],
    real: Sequence[float],
    *,
    target: float,
) -> list[Figure]:
    """How far requests that were to take `asked` ms are off, all in ms.

    `real` is of a server that really takes as long: who has waited finds the caches cold, the
    client and the server too, so even those are late.
    """
    late, less = statistics.median(took) - asked, max(0.0, asked - min(took))
    usual, what = statistics.median(real) - asked, f"{who}: asked {asked} ms, median later by"
    return [
        Figure(what=what, value=late, target=target, unit="ms"),
        Figure(what="  a server that really takes it, median", value=usual, target=None, unit="ms"),
        Figure(what="  earliest before its time", value=less, target=0.0, unit="ms"),
    ]


def show(figures: list[Figure]) -> int:
    """Print them; the exit status: 1 if a target was missed."""
    for figure in figures:
        print(figure)
    return int(any(figure.missed for figure in figures))


def pin() -> None:
    """Stay on one core, with everything started from here: the last one, the least busy."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
