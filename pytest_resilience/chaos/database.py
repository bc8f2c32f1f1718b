"""The chaos type of databases that answer late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos import quantities
from pytest_resilience.chaos.faults import Fault
from pytest_resilience.chaos.faults import QueryDelay
from pytest_resilience.chaos.recipe import Parameter
from pytest_resilience.chaos.recipe import Recipe
from pytest_resilience.chaos.recipe import triggered


__all__ = ["DATABASE_SLOWDOWN"]

MOST_DELAY = 5.0  # seconds at intensity 1


def _slowdown(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    return (QueryDelay(delay=given.get("delay", intensity * MOST_DELAY)),)


DATABASE_SLOWDOWN = Recipe(
    summary="statements take longer, where the code says that it makes one (DatabaseSimulator)",
    parameters=(
        Parameter(
            name="delay", unit="seconds, or us, ms, s, m, h", parse=quantities.seconds,
            default=f"intensity x {MOST_DELAY:g}s", help="added to each statement",
        ),
        *triggered(rate="1"),
    ),
    faults=_slowdown,
    rate=lambda _intensity: 1.0,
)  # fmt: skip
