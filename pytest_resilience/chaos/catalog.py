"""The chaos types there are, what each can be told, and what faults it makes.

`intensity` (0 to 1) is the one knob every type has. A recipe translates it into the
type's own physical parameters, each of which can always be given instead.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from pytest_resilience.chaos.database import DATABASE_FAILURE
from pytest_resilience.chaos.database import DATABASE_SLOWDOWN
from pytest_resilience.chaos.disk import DISK_FAILURE
from pytest_resilience.chaos.network import NETWORK_FAILURE
from pytest_resilience.chaos.network import NETWORK_LATENCY
from pytest_resilience.chaos.recipe import Recipe
from pytest_resilience.chaos.recipe import nearest
from pytest_resilience.chaos.service import SERVICE_FAILURE
from pytest_resilience.chaos.stress import CPU_STRESS
from pytest_resilience.chaos.stress import DISK_STRESS
from pytest_resilience.chaos.stress import FD_EXHAUSTION
from pytest_resilience.chaos.stress import MEMORY_STRESS
from pytest_resilience.chaos.stress import THREAD_EXHAUSTION
from pytest_resilience.errors import ConfigurationError


__all__ = ["RECIPES", "ChaosType", "chaos_type", "recipe_of"]


class ChaosType(Enum):
    """What kind of trouble."""

    NETWORK_LATENCY = "network_latency"
    NETWORK_FAILURE = "network_failure"
    CPU_STRESS = "cpu_stress"
    MEMORY_STRESS = "memory_stress"
    DISK_STRESS = "disk_stress"
    SERVICE_FAILURE = "service_failure"
    DATABASE_SLOWDOWN = "database_slowdown"
    DATABASE_FAILURE = "database_failure"
    DISK_FAILURE = "disk_failure"
    FD_EXHAUSTION = "fd_exhaustion"
    THREAD_EXHAUSTION = "thread_exhaustion"


RECIPES: dict[ChaosType, Recipe] = {
    ChaosType.NETWORK_LATENCY: NETWORK_LATENCY,
    ChaosType.NETWORK_FAILURE: NETWORK_FAILURE,
    ChaosType.SERVICE_FAILURE: SERVICE_FAILURE,
    ChaosType.DATABASE_SLOWDOWN: DATABASE_SLOWDOWN,
    ChaosType.DATABASE_FAILURE: DATABASE_FAILURE,
    ChaosType.CPU_STRESS: CPU_STRESS,
    ChaosType.MEMORY_STRESS: MEMORY_STRESS,
    ChaosType.DISK_STRESS: DISK_STRESS,
    ChaosType.DISK_FAILURE: DISK_FAILURE,
    ChaosType.FD_EXHAUSTION: FD_EXHAUSTION,
    ChaosType.THREAD_EXHAUSTION: THREAD_EXHAUSTION,
}


def chaos_type(value: Any) -> ChaosType:
    """The type meant by a `ChaosType` or its name. Raises ConfigurationError."""
    if isinstance(value, ChaosType):
        return value
    names = [each.value for each in ChaosType]
    if isinstance(value, str) and value.strip().lower() in names:
        return ChaosType(value.strip().lower())
    guess = nearest(value, names) if isinstance(value, str) else ""
    raise ConfigurationError(f"unknown chaos type {value!r}{guess}; known: {', '.join(names)}")


def recipe_of(kind: ChaosType) -> Recipe:
    """Its recipe."""
    return RECIPES[kind]
