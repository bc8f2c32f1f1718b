"""The score: which share of what was tried the system held."""

from __future__ import annotations

import math

from collections import Counter
from collections.abc import Container
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from pytest_resilience.report.cell import Cell
from pytest_resilience.report.cell import CellVerdict


__all__ = ["Score"]

_NOT_TRIED = frozenset({
    CellVerdict.NOT_RUN, CellVerdict.NOT_APPLICABLE, CellVerdict.UNEXPLORABLE, CellVerdict.STALE,
    CellVerdict.NOT_STARTED, CellVerdict.INVALID,
})  # fmt: skip


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
