"""What experiments take by keyword, for type checkers and editors.

And what `ChaosExperiment(...)` takes, by its chaos type. The last overload takes what no name says,
and the types of other plugins. It takes no parameter of a type, or a misspelt one would be taken
for that of another: parameters of another plugin's type are given as `**parameters`, of a
`dict[str, Any]`.

Written by `python -m tests.typing.keywords`, of the schemas of the chaos types: a test compares.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence
from os import PathLike
from typing import Any
from typing import Literal
from typing import TypedDict
from typing import Unpack
from typing import overload

from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.catalog import Kind


__all__ = [
    "Cancellation", "CancellationParameters", "CpuStress", "CpuStressParameters", "DatabaseFailure",
    "DatabaseFailureParameters", "DatabaseSlowdown", "DatabaseSlowdownParameters", "Delays",
    "DiskFailure", "DiskFailureParameters", "DiskStress", "DiskStressParameters",
    "ExperimentConstructor", "Experiments", "FdExhaustion", "FdExhaustionParameters",
    "MemoryFailure", "MemoryFailureParameters", "MemoryStress", "MemoryStressParameters",
    "NetworkFailure", "NetworkFailureParameters", "NetworkLatency", "NetworkLatencyParameters",
    "Requests", "Responses", "ServiceFailure", "ServiceFailureParameters", "ThreadExhaustion",
    "ThreadExhaustionParameters", "Triggers",
]  # fmt: skip


class Experiments(TypedDict, total=False):
    """What every chaos type takes."""

    name: str
    intensity: float | str
    probability: float | str
    duration: float | str
    enabled: bool


class Delays(TypedDict, total=False):
    """How long a delay is."""

    delay: float | str
    jitter: float | str
    distribution: Literal["uniform", "normal", "lognormal", "pareto"]
    p99: float | str


class Requests(TypedDict, total=False):
    """Which requests are meant."""

    method: str | Sequence[str]
    path: str | Sequence[str]
    header: str | Sequence[str]
    rpc: str | Sequence[str]


class Responses(TypedDict, total=False):
    """The response that is injected."""

    status: int
    retry_after: float | str
    body: str
    headers: str | Mapping[str, str | float]


class Triggers(TypedDict, total=False):
    """Which of the operations are hit, and in which processes."""

    rate: float | str
    nth: int
    first: int
    from_nth: int
    every: int
    between: str | tuple[float | str, float | str]
    children: bool


class NetworkLatencyParameters(Delays, Requests, Triggers, total=False):
    """What `network_latency` takes, and not every type."""

    mode: Literal["round_trip", "slow_close", "slow_dns", "bandwidth", "dribble"]
    bandwidth: int | str
    piece: int
    after_bytes: int | str
    after_items: int
    after: float | str
    target: str | Sequence[str]
    stream: Literal["upstream", "downstream", "both"]


class NetworkLatency(NetworkLatencyParameters, Experiments, total=False):
    """The peer is further away: connecting and every response take longer."""


class NetworkFailureParameters(Requests, Responses, Triggers, total=False):
    """What `network_failure` takes, and not every type."""

    mode: Literal[
        "refuse",
        "reset",
        "close",
        "timeout",
        "dns",
        "dns_not_found",
        "partition",
        "lose_answer",
        "drop",
        "duplicate",
        "reorder",
        "truncate",
        "corrupt",
        "drop_message",
        "status",
        "malformed_json",
        "down",
    ]
    share: float | str
    after_bytes: int | str
    after_items: int
    after: float | str
    end: Literal["eof", "reset"]
    target: str | Sequence[str]
    stream: Literal["upstream", "downstream", "both"]


class NetworkFailure(NetworkFailureParameters, Experiments, total=False):
    """The peer cannot be reached, or goes away, or what it says is damaged."""


class CpuStressParameters(TypedDict, total=False):
    """What `cpu_stress` takes, and not every type."""

    load: float | str
    cores: int
    gil: bool
    engine: Literal["built-in", "stress-ng"]


class CpuStress(CpuStressParameters, Experiments, total=False):
    """Processes compute: less of the CPUs is left."""


class MemoryStressParameters(TypedDict, total=False):
    """What `memory_stress` takes, and not every type."""

    size: int | str
    ramp: float | str
    reserve: int | str
    mode: Literal["hold", "fail"]
    headroom: int | str
    engine: Literal["built-in", "stress-ng"]


class MemoryStress(MemoryStressParameters, Experiments, total=False):
    """A process holds memory; or, with mode=fail, this one gets no more."""


class DiskStressParameters(TypedDict, total=False):
    """What `disk_stress` takes, and not every type."""

    size: int | str
    fill: bool
    floor: int | str
    path: str
    engine: Literal["built-in", "stress-ng"]


class DiskStress(DiskStressParameters, Experiments, total=False):
    """A process writes, syncs and reads; or fills the disk."""


class ServiceFailureParameters(Responses, Triggers, total=False):
    """What `service_failure` takes, and not every type."""

    mode: Literal["error", "refuse", "reset", "close", "timeout", "status", "down"]
    exception: str | type[Exception]
    stream: Literal["upstream", "downstream", "both"]


class ServiceFailure(ServiceFailureParameters, Experiments, total=False):
    """Services of yours fail: on the wire where they are hosts, else with an exception."""


class DatabaseSlowdownParameters(Delays, Triggers, total=False):
    """What `database_slowdown` takes, and not every type."""

    at: str
    match: str
    position: int
    database: str


class DatabaseSlowdown(DatabaseSlowdownParameters, Experiments, total=False):
    """A database responds late."""


class DatabaseFailureParameters(Triggers, total=False):
    """What `database_failure` takes, and not every type."""

    mode: Literal[
        "lost",
        "refused",
        "locked",
        "deadlock",
        "serialization_failure",
        "statement_timeout",
        "pool_exhausted",
        "read_only",
        "disk_full",
        "constraint",
        "too_many_connections",
    ]
    before: Literal["connect", "execute", "commit", "fetch"]
    during: Literal["connect", "execute", "commit", "fetch"]
    after: Literal["connect", "execute", "commit", "fetch"]
    match: str
    position: int
    database: str


class DatabaseFailure(DatabaseFailureParameters, Experiments, total=False):
    """A database fails, with the driver's own error and code."""


class DiskFailureParameters(Delays, Triggers, total=False):
    """What `disk_failure` takes, and not every type."""

    mode: Literal[
        "disk_full",
        "quota_exceeded",
        "io_error",
        "read_only",
        "permission_denied",
        "too_many_open_files",
        "failed_fsync",
        "failed_rename",
        "locked",
        "short_write",
        "torn_write",
        "slow_write",
        "ENOSPC",
        "EDQUOT",
        "EIO",
        "EROFS",
        "EACCES",
        "EMFILE",
        "EAGAIN",
    ]
    at: str
    path: str | Sequence[str] | PathLike[str]
    bytes_written: int | str


class DiskFailure(DiskFailureParameters, Experiments, total=False):
    """Files cannot be opened, written, synced or renamed, with the system's own error."""


class CancellationParameters(Triggers, total=False):
    """What `cancellation` takes, and not every type."""

    at: str
    target: str | Sequence[str]
    match: str
    position: int
    database: str
    path: str | Sequence[str] | PathLike[str]


class Cancellation(CancellationParameters, Experiments, total=False):
    """The task of asyncio, or cancel scope of trio, that awaits an operation is cancelled there."""


class MemoryFailureParameters(Triggers, total=False):
    """What `memory_failure` takes, and not every type."""

    at: str
    target: str | Sequence[str]
    match: str
    position: int
    database: str
    path: str | Sequence[str] | PathLike[str]


class MemoryFailure(MemoryFailureParameters, Experiments, total=False):
    """An operation cannot get the memory that it needs: MemoryError."""


class FdExhaustionParameters(TypedDict, total=False):
    """What `fd_exhaustion` takes, and not every type."""

    leave: int


class FdExhaustion(FdExhaustionParameters, Experiments, total=False):
    """This process cannot open files and sockets any more (EMFILE)."""


class ThreadExhaustionParameters(TypedDict, total=False):
    """What `thread_exhaustion` takes, and not every type."""


class ThreadExhaustion(ThreadExhaustionParameters, Experiments, total=False):
    """This process cannot start threads any more (RuntimeError)."""


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
