"""What `ChaosExperiment(...)` takes, by its chaos type, for type checkers.

The last overload takes what no name says, and the types of other plugins. It takes no parameter of
a type, or a misspelt one would be taken for that of another: parameters of another plugin's type
are given as `**parameters`, of a `dict[str, Any]`.

Written by `python -m tests.typing.keywords`, of the schemas of the chaos types: a test compares.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Literal
from typing import Unpack
from typing import overload

from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.catalog import Kind
from pytest_resilience.chaos.types.keywords import CancellationParameters
from pytest_resilience.chaos.types.keywords import CpuStressParameters
from pytest_resilience.chaos.types.keywords import DatabaseFailureParameters
from pytest_resilience.chaos.types.keywords import DatabaseSlowdownParameters
from pytest_resilience.chaos.types.keywords import DiskFailureParameters
from pytest_resilience.chaos.types.keywords import DiskStressParameters
from pytest_resilience.chaos.types.keywords import FdExhaustionParameters
from pytest_resilience.chaos.types.keywords import MemoryFailureParameters
from pytest_resilience.chaos.types.keywords import MemoryStressParameters
from pytest_resilience.chaos.types.keywords import NetworkFailureParameters
from pytest_resilience.chaos.types.keywords import NetworkLatencyParameters
from pytest_resilience.chaos.types.keywords import ServiceFailureParameters
from pytest_resilience.chaos.types.keywords import ThreadExhaustionParameters


__all__ = ["ExperimentConstructor"]


class ExperimentConstructor:
    """Takes the arguments of `ChaosExperiment`."""

    # fmt: off

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["network_latency", ChaosType.NETWORK_LATENCY],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[NetworkLatencyParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["network_failure", ChaosType.NETWORK_FAILURE],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[NetworkFailureParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["cpu_stress", ChaosType.CPU_STRESS],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[CpuStressParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["memory_stress", ChaosType.MEMORY_STRESS],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[MemoryStressParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["disk_stress", ChaosType.DISK_STRESS],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[DiskStressParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["service_failure", ChaosType.SERVICE_FAILURE],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[ServiceFailureParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["database_slowdown", ChaosType.DATABASE_SLOWDOWN],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[DatabaseSlowdownParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["database_failure", ChaosType.DATABASE_FAILURE],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[DatabaseFailureParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["disk_failure", ChaosType.DISK_FAILURE],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[DiskFailureParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["cancellation", ChaosType.CANCELLATION],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[CancellationParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["memory_failure", ChaosType.MEMORY_FAILURE],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[MemoryFailureParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["fd_exhaustion", ChaosType.FD_EXHAUSTION],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[FdExhaustionParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Literal["thread_exhaustion", ChaosType.THREAD_EXHAUSTION],
        probability: float | str = ..., duration: float | str = ...,
        intensity: float | str | None = ..., target_services: Sequence[str] | str | None = ...,
        enabled: bool = ..., **parameters: Unpack[ThreadExhaustionParameters],
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, chaos_type: Kind | str, probability: float | str = ...,
        duration: float | str = ..., intensity: float | str | None = ...,
        target_services: Sequence[str] | str | None = ..., enabled: bool = ...,
    ) -> None: ...

    # fmt: on
    def __init__(  # noqa: PLR0917  # the order is the public one
        self,
        name: str,
        chaos_type: Kind | str,
        probability: float | str = 0.1,
        duration: float | str = 60.0,
        intensity: float | str | None = None,
        target_services: Sequence[str] | str | None = None,
        enabled: bool = True,
        **parameters: Any,
    ) -> None:
        self._read(
            name,
            chaos_type,
            parameters,
            probability=probability,
            duration=duration,
            intensity=intensity,
            target_services=target_services,
            enabled=enabled,
        )

    @abstractmethod
    def _read(
        self, name: str, chaos_type: Kind | str, parameters: Mapping[str, Any], **common: Any
    ) -> None:
        """Check and keep what was given. Raises ConfigurationError."""


# Python's own errors name it: of an argument that is missing, say.
ExperimentConstructor.__init__.__qualname__ = "ChaosExperiment.__init__"
