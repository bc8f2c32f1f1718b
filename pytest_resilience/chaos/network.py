"""The chaos types of the network: peers that are far away, or cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.faults import Fault
from pytest_resilience.chaos.faults import Latency
from pytest_resilience.chaos.faults import Refusal
from pytest_resilience.chaos.faults import Reset
from pytest_resilience.chaos.faults import ResolutionFailure
from pytest_resilience.chaos.faults import Silence
from pytest_resilience.chaos.recipe import TARGETED
from pytest_resilience.chaos.recipe import Parameter
from pytest_resilience.chaos.recipe import Recipe
from pytest_resilience.chaos.recipe import delayed
from pytest_resilience.chaos.recipe import one_of
from pytest_resilience.chaos.recipe import spread_of
from pytest_resilience.chaos.recipe import triggered


__all__ = ["NETWORK_FAILURE", "NETWORK_LATENCY"]

MOST_LATENCY = 2.0  # seconds at intensity 1

_MODES: dict[str, Fault] = {
    "refuse": Refusal(),
    "reset": Reset(),
    "timeout": Silence(),
    "dns": ResolutionFailure(),
}


def _latency(given: Mapping[str, Any], intensity: float) -> tuple[Fault, ...]:
    delay = given.get("delay", intensity * MOST_LATENCY)
    return (Latency(delay=delay, spread=spread_of(given, delay)),)


def _failure(given: Mapping[str, Any], _intensity: float) -> tuple[Fault, ...]:
    return (_MODES[given.get("mode", "refuse")],)


NETWORK_LATENCY = Recipe(
    summary="the peer is further away: connecting and every answer take longer",
    parameters=(
        *delayed(f"intensity x {MOST_LATENCY:g}s", "added to each round trip"),
        *TARGETED,
        *triggered(rate="1"),
    ),
    faults=_latency,
    rate=lambda _intensity: 1.0,
)  # fmt: skip

NETWORK_FAILURE = Recipe(
    summary="the peer cannot be reached, or goes away",
    parameters=(
        Parameter(
            name="mode", unit=", ".join(_MODES), default="refuse", parse=one_of(_MODES),
            help="connection refused, reset while an answer is awaited, silence until a "
            "timeout, or name resolution failure",
        ),
        *TARGETED,
        *triggered(rate="intensity"),
    ),
    faults=_failure,
    rate=lambda intensity: intensity,
)  # fmt: skip
