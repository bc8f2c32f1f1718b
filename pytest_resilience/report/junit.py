"""Cells for JUnit files: the properties of a test case."""

from __future__ import annotations

from pytest_resilience.report.cell import Cell


__all__ = ["junit_properties"]


def junit_properties(cell: Cell) -> list[tuple[str, str]]:
    """Names and values, as `record_property` and `report.user_properties` take them."""
    pairs = {
        "experiment": cell.experiment,
        "what": cell.what,
        "verdict": cell.verdict.value,
        "flaky": "true" if cell.flaky else "",
        "reason": cell.reason,
        "repeat": cell.repeat,
        "weight": f"{cell.weight:g}",
        "duration": f"{cell.duration:.3f}",
    }
    return [(f"resilience.{name}", value) for name, value in pairs.items() if value]
