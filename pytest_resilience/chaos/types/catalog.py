"""All chaos types by name, each with its schema.

`intensity` (0 to 1) is the one knob every type has. A schema translates it into the
type's own physical parameters, each of which can always be given instead.
"""

from __future__ import annotations

import functools

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pytest_resilience.chaos.parsing.messages import nearest
from pytest_resilience.chaos.parsing.messages import shortened
from pytest_resilience.chaos.types.callers import CANCELLATION
from pytest_resilience.chaos.types.callers import MEMORY_FAILURE
from pytest_resilience.chaos.types.database import DATABASE_FAILURE
from pytest_resilience.chaos.types.database import DATABASE_SLOWDOWN
from pytest_resilience.chaos.types.files import DISK_FAILURE
from pytest_resilience.chaos.types.network import NETWORK_FAILURE
from pytest_resilience.chaos.types.network import NETWORK_LATENCY
from pytest_resilience.chaos.types.resources import CPU_STRESS
from pytest_resilience.chaos.types.resources import DISK_STRESS
from pytest_resilience.chaos.types.resources import FD_EXHAUSTION
from pytest_resilience.chaos.types.resources import MEMORY_STRESS
from pytest_resilience.chaos.types.resources import THREAD_EXHAUSTION
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.service import SERVICE_FAILURE
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.errors import DuplicateNameError


__all__ = ["SCHEMAS", "ChaosType", "Kind", "OwnType", "add_type", "chaos_type"]


class ChaosType(Enum):
    """The built-in chaos types."""

    NETWORK_LATENCY = "network_latency"
    NETWORK_FAILURE = "network_failure"
    CPU_STRESS = "cpu_stress"
    MEMORY_STRESS = "memory_stress"
    DISK_STRESS = "disk_stress"
    SERVICE_FAILURE = "service_failure"
    DATABASE_SLOWDOWN = "database_slowdown"
    DATABASE_FAILURE = "database_failure"
    DISK_FAILURE = "disk_failure"
    CANCELLATION = "cancellation"
    MEMORY_FAILURE = "memory_failure"
    FD_EXHAUSTION = "fd_exhaustion"
    THREAD_EXHAUSTION = "thread_exhaustion"


@dataclass(frozen=True, slots=True)
class OwnType:
    """A chaos type that a plugin has added."""

    value: str


Kind = ChaosType | OwnType

SCHEMAS: dict[Kind, TypeSchema] = {
    ChaosType.NETWORK_LATENCY: NETWORK_LATENCY,
    ChaosType.NETWORK_FAILURE: NETWORK_FAILURE,
    ChaosType.SERVICE_FAILURE: SERVICE_FAILURE,
    ChaosType.DATABASE_SLOWDOWN: DATABASE_SLOWDOWN,
    ChaosType.DATABASE_FAILURE: DATABASE_FAILURE,
    ChaosType.CPU_STRESS: CPU_STRESS,
    ChaosType.MEMORY_STRESS: MEMORY_STRESS,
    ChaosType.DISK_STRESS: DISK_STRESS,
    ChaosType.DISK_FAILURE: DISK_FAILURE,
    ChaosType.CANCELLATION: CANCELLATION,
    ChaosType.MEMORY_FAILURE: MEMORY_FAILURE,
    ChaosType.FD_EXHAUSTION: FD_EXHAUSTION,
    ChaosType.THREAD_EXHAUSTION: THREAD_EXHAUSTION,
}


def add_type(name: str, schema: TypeSchema) -> Callable[[], None]:
    """Add a chaos type of a plugin; call the result to take it out again.

    Raises DuplicateNameError if there is one of that name.
    """
    kind = OwnType(name)
    if name in (each.value for each in SCHEMAS):
        raise DuplicateNameError("chaos type", name)
    SCHEMAS[kind] = schema
    return functools.partial(SCHEMAS.pop, kind, None)  # type: ignore[return-value]


def chaos_type(value: Any) -> Kind:
    """The type meant by a `ChaosType` or its name. Raises ConfigurationError."""
    if isinstance(value, (ChaosType, OwnType)):
        return value
    known = {each.value: each for each in SCHEMAS}
    names = list(known)
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    guess = nearest(value, names) if isinstance(value, str) else ""
    raise ConfigurationError(
        f"unknown chaos type {shortened(value)}{guess}; known: {', '.join(names)}"
    )
