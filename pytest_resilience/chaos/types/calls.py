"""What takes a chaos type by name, with its parameters, for type checkers.

The last two overloads of each take what no name says. They take no parameter of a type, or a
misspelt one of a type that is known would be taken for that of another.

Written by `python -m tests.typing.keywords`, of the schemas of the chaos types: a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from typing import Protocol
from typing import TypeVar
from typing import Unpack
from typing import overload

from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.keywords import Cancellation
from pytest_resilience.chaos.types.keywords import CpuStress
from pytest_resilience.chaos.types.keywords import DatabaseFailure
from pytest_resilience.chaos.types.keywords import DatabaseSlowdown
from pytest_resilience.chaos.types.keywords import DiskFailure
from pytest_resilience.chaos.types.keywords import DiskStress
from pytest_resilience.chaos.types.keywords import Experiments
from pytest_resilience.chaos.types.keywords import FdExhaustion
from pytest_resilience.chaos.types.keywords import MemoryFailure
from pytest_resilience.chaos.types.keywords import MemoryStress
from pytest_resilience.chaos.types.keywords import NetworkFailure
from pytest_resilience.chaos.types.keywords import NetworkLatency
from pytest_resilience.chaos.types.keywords import ServiceFailure
from pytest_resilience.chaos.types.keywords import ThreadExhaustion


__all__ = ["Inject", "InjectIntoProxy", "MarkChaos"]

_R_co = TypeVar("_R_co", covariant=True)

# fmt: off


class Inject(Protocol[_R_co]):
    """`Chaos.inject`."""

    @overload
    def __call__(
        self, experiment: Literal["network_latency", ChaosType.NETWORK_LATENCY], *,
        must_fire: bool = ..., **parameters: Unpack[NetworkLatency],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["network_failure", ChaosType.NETWORK_FAILURE], *,
        must_fire: bool = ..., **parameters: Unpack[NetworkFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["cpu_stress", ChaosType.CPU_STRESS], *, must_fire: bool = ...,
        **parameters: Unpack[CpuStress],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["memory_stress", ChaosType.MEMORY_STRESS], *,
        must_fire: bool = ..., **parameters: Unpack[MemoryStress],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["disk_stress", ChaosType.DISK_STRESS], *, must_fire: bool = ...,
        **parameters: Unpack[DiskStress],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["service_failure", ChaosType.SERVICE_FAILURE], *,
        target_services: str | Sequence[str], must_fire: bool = ...,
        **parameters: Unpack[ServiceFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["database_slowdown", ChaosType.DATABASE_SLOWDOWN], *,
        must_fire: bool = ..., **parameters: Unpack[DatabaseSlowdown],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["database_failure", ChaosType.DATABASE_FAILURE], *,
        must_fire: bool = ..., **parameters: Unpack[DatabaseFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["disk_failure", ChaosType.DISK_FAILURE], *,
        must_fire: bool = ..., **parameters: Unpack[DiskFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["cancellation", ChaosType.CANCELLATION], *,
        must_fire: bool = ..., **parameters: Unpack[Cancellation],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["memory_failure", ChaosType.MEMORY_FAILURE], *,
        must_fire: bool = ..., **parameters: Unpack[MemoryFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["fd_exhaustion", ChaosType.FD_EXHAUSTION], *,
        must_fire: bool = ..., **parameters: Unpack[FdExhaustion],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["thread_exhaustion", ChaosType.THREAD_EXHAUSTION], *,
        must_fire: bool = ..., **parameters: Unpack[ThreadExhaustion],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: ChaosExperiment, *, must_fire: bool = ...,
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: str, *, must_fire: bool = ..., **parameters: Unpack[Experiments],
    ) -> _R_co: ...


class InjectIntoProxy(Protocol[_R_co]):
    """`ChaosProxy.inject`; a text may be a whole experiment, as flags take it."""

    @overload
    def __call__(
        self, experiment: Literal["network_latency", ChaosType.NETWORK_LATENCY], *,
        must_fire: bool = ..., **parameters: Unpack[NetworkLatency],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["network_failure", ChaosType.NETWORK_FAILURE], *,
        must_fire: bool = ..., **parameters: Unpack[NetworkFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["service_failure", ChaosType.SERVICE_FAILURE], *,
        target_services: str | Sequence[str], must_fire: bool = ...,
        **parameters: Unpack[ServiceFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: ChaosExperiment, *,
        stream: Literal["upstream", "downstream", "both"] | None = ..., must_fire: bool = ...,
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: str, *, stream: Literal["upstream", "downstream", "both"] | None = ...,
        must_fire: bool = ..., **parameters: Unpack[Experiments],
    ) -> _R_co: ...


class MarkChaos(Protocol[_R_co]):
    """`@pytest.mark.chaos`."""

    @overload
    def __call__(
        self, experiment: Literal["network_latency", ChaosType.NETWORK_LATENCY], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[NetworkLatency],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["network_failure", ChaosType.NETWORK_FAILURE], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[NetworkFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["cpu_stress", ChaosType.CPU_STRESS], *, must_fire: bool = ...,
        include_setup: bool = ..., **parameters: Unpack[CpuStress],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["memory_stress", ChaosType.MEMORY_STRESS], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[MemoryStress],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["disk_stress", ChaosType.DISK_STRESS], *, must_fire: bool = ...,
        include_setup: bool = ..., **parameters: Unpack[DiskStress],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["service_failure", ChaosType.SERVICE_FAILURE], *,
        target_services: str | Sequence[str], must_fire: bool = ..., include_setup: bool = ...,
        **parameters: Unpack[ServiceFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["database_slowdown", ChaosType.DATABASE_SLOWDOWN], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[DatabaseSlowdown],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["database_failure", ChaosType.DATABASE_FAILURE], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[DatabaseFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["disk_failure", ChaosType.DISK_FAILURE], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[DiskFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["cancellation", ChaosType.CANCELLATION], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[Cancellation],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["memory_failure", ChaosType.MEMORY_FAILURE], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[MemoryFailure],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["fd_exhaustion", ChaosType.FD_EXHAUSTION], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[FdExhaustion],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: Literal["thread_exhaustion", ChaosType.THREAD_EXHAUSTION], *,
        must_fire: bool = ..., include_setup: bool = ..., **parameters: Unpack[ThreadExhaustion],
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: ChaosExperiment, *, must_fire: bool = ..., include_setup: bool = ...,
    ) -> _R_co: ...

    @overload
    def __call__(
        self, experiment: str, *, must_fire: bool = ..., include_setup: bool = ...,
        **parameters: Unpack[Experiments],
    ) -> _R_co: ...
