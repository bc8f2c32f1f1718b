"""Which faults an operation can have, by its kind: what an exploration tries at each.

A fault comes in by being listed here: its name, the experiment that makes it, and the kinds of
operation that it is tried at. Those of a kind stand from the simplest to the strangest.
"""

from __future__ import annotations

import functools

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Final

from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.crash_states import CrashModel
from pytest_resilience.chaos.experiment import ChaosExperiment
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import CREATE
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import LOCK_FILE
from pytest_resilience.chaos.operation import MAKE
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import OPEN_IN_VAIN
from pytest_resilience.chaos.operation import OPEN_TO_WRITE
from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import REMOVE
from pytest_resilience.chaos.operation import RENAME
from pytest_resilience.chaos.operation import RESIZE
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.operation import SYNC
from pytest_resilience.chaos.operation import TURNS
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.operation import CallSite
from pytest_resilience.chaos.operation import HttpDetails
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.operation import SqlDetails
from pytest_resilience.chaos.operation import TcpDetails
from pytest_resilience.chaos.types.callers import CALLER_KINDS
from pytest_resilience.chaos.types.callers import CallerFault
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.errors import ConfigurationError


__all__ = [
    "CANCEL",
    "CANCELS",
    "CANCEL_WAITING",
    "CANCEL_WOKEN",
    "CRASHES",
    "CRASHING",
    "LATER",
    "OF_HTTP",
    "OF_OTHERS",
    "PossibleFault",
    "fault_named",
    "fault_names",
    "names_unawaited",
    "possible_faults",
    "possible_names",
]

CRASHES: Final[Mapping[str, CrashModel]] = {
    "killed": CrashModel.KILLED, "crash_ext4": CrashModel.EXT4, "crash_posix": CrashModel.POSIX,
}  # fmt: skip
"""No faults that an operation could see: the process, or the system, has died at it."""

CANCEL: Final = "cancel"
"""The task, or the scope, of who does the operation is cancelled."""
CANCEL_WOKEN: Final = "cancel_woken"
"""A task that another one wakes after the operation is cancelled before it can go on."""
CANCEL_WAITING: Final = "cancel_waiting"
"""Another task, which waits for what others of the test do, is cancelled before the operation."""
LATER: Final = "later"
"""No fault: who does the operation goes on after all others. In virtual time alone."""
CANCELS: Final = frozenset({CANCEL, CANCEL_WOKEN, CANCEL_WAITING})
OF_OTHERS: Final[Mapping[str, str]] = {
    LATER: "virtual time, and others who could go first",
    CANCEL_WOKEN: "a task that another one wakes after the operation",
    CANCEL_WAITING: "a task that waits for another one while the operation is done",
}
"""What happens beside an operation, which itself is done as ever; each with what it needs."""

CRASHING: Final = frozenset({
    CREATE, OPEN_TO_WRITE, WRITE, RESIZE, RENAME, MAKE, REMOVE, OPEN_CONNECTION, EXECUTE, COMMIT,
})  # fmt: skip
"""The kinds of operation that change what a disk holds.

What is not yet synced may be lost in a crash at the last of them before the sync.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PossibleFault:
    """A fault that operations of some kinds can have.

    Attributes:
        name: as it is written in schedules; each kind has it once.
        chaos_type: the chaos type that makes it.
        kinds: the kinds of operation that it is tried at.
        parameters: those of the chaos type.
        of_service: whether the operation's target is a service, which the experiment has to name.
        lasts: whether it can stay, from an operation on.
        comes_after: whether the operation has been done, which nobody is told.
    """

    name: str
    chaos_type: str
    kinds: frozenset[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    of_service: bool = False
    lasts: bool = True
    comes_after: bool = False

    def experiment(self, name: str, target: str) -> ChaosExperiment:
        """An experiment of this name that happens to every operation of the kinds.

        Not to those of child processes, whose operations nobody counts here.
        """
        services = [target] if self.of_service else None
        parameters = dict(self.parameters)
        if CHILDREN_PARAMETER in SCHEMAS[ChaosType(self.chaos_type)].parameters:
            parameters[CHILDREN_PARAMETER.name] = False
        return ChaosExperiment(
            name, self.chaos_type, 1.0, float("inf"), None, services, **parameters
        )

    def can_happen_to(self, operation: Operation) -> bool:
        """Whether it is possible where `operation` is done."""
        if operation.kind not in self.kinds:
            return False
        faults = _probe(self, operation.target if self.of_service else "").faults
        return any(
            operation.kind in fault.kinds and fault.can_happen_to(operation) for fault in faults
        )

    def __hash__(self) -> int:
        return hash((self.name, self.chaos_type, self.kinds))


@functools.lru_cache(maxsize=1024)
def _probe(fault: PossibleFault, target: str) -> ChaosExperiment:
    return fault.experiment(fault.name, target)


def _network(name: str, *kinds: str, **parameters: Any) -> PossibleFault:
    given = {"mode": name, "rate": 1.0} | parameters
    return PossibleFault(
        name=name, chaos_type="network_failure", kinds=frozenset(kinds), parameters=given,
        comes_after=name == "lose_answer",
    )  # fmt: skip


def _database(name: str, kind: str, **parameters: Any) -> PossibleFault:
    given = {"rate": 1.0} | parameters
    return PossibleFault(
        name=name, chaos_type="database_failure", kinds=frozenset({kind}), parameters=given,
        comes_after="after" in parameters,
    )  # fmt: skip


def _disk(name: str, *kinds: str, at: bool = True, lasts: bool = True) -> PossibleFault:
    """One mode at these kinds; `at` where the mode would happen elsewhere by itself."""
    steps = " | ".join(dict.fromkeys(_STEPS[kind] for kind in kinds))
    given: dict[str, Any] = {"mode": name, "rate": 1.0} | ({"at": steps} if at else {})
    return PossibleFault(
        name=name, chaos_type="disk_failure", kinds=frozenset(kinds), parameters=given, lasts=lasts
    )


def _of_caller(name: str, chaos_type: str, kinds: frozenset[str]) -> PossibleFault:
    return PossibleFault(
        name=name, chaos_type=chaos_type, kinds=kinds, parameters={"rate": 1.0}, lasts=False
    )


_STEPS = {
    OPEN: "open", OPEN_TO_WRITE: "open", CREATE: "open", READ: "read", WRITE: "write",
    RESIZE: "resize", SYNC: "sync", RENAME: "rename", MAKE: "make", REMOVE: "remove",
    LOCK_FILE: "lock",
}  # fmt: skip

_ALL: Final = (
    _network("dns", RESOLVE),
    _network("refuse", CONNECT, SEND_DATAGRAM),
    _network("reset", HANDSHAKE, RECEIVE),
    _network("close", HANDSHAKE, RECEIVE),
    _network("status", RECEIVE, status=503),
    _network("lose_answer", RECEIVE),
    _network("truncate", RECEIVE),
    _network("corrupt", RECEIVE, share=0.5),  # of less nobody may notice
    _network("timeout", CONNECT, HANDSHAKE, RECEIVE, RECEIVE_DATAGRAM),
    _network("drop", *DATAGRAMS),
    _network("duplicate", *DATAGRAMS),
    PossibleFault(
        name="error",
        chaos_type="service_failure",
        kinds=frozenset({CALL}),
        parameters={"mode": "error", "rate": 1.0},
        of_service=True,
    ),
    _database("refused", OPEN_CONNECTION, mode="refused"),
    _database("pool_exhausted", CHECK_OUT, mode="pool_exhausted"),
    _database("lost", EXECUTE, before="execute"),
    _database("locked", EXECUTE, mode="locked"),
    _database("deadlock", EXECUTE, mode="deadlock"),
    _database("constraint", EXECUTE, mode="constraint"),
    _database("disk_full", EXECUTE, mode="disk_full"),
    _database("lost_answer", EXECUTE, after="execute"),
    _database("lost", COMMIT, before="commit"),
    _database("locked", COMMIT, mode="locked", during="commit"),
    _database("serialization_failure", COMMIT, mode="serialization_failure"),
    _database("disk_full", COMMIT, mode="disk_full", during="commit"),
    _database("lost_answer", COMMIT, after="commit"),
    _database("lost", FETCH, before="fetch"),
    _disk("io_error", READ, WRITE),
    _disk("disk_full", CREATE, WRITE, RESIZE, MAKE),
    _disk("permission_denied", OPEN, OPEN_TO_WRITE, CREATE, RENAME, MAKE, REMOVE),
    _disk("torn_write", WRITE, at=False),
    _disk("failed_fsync", SYNC, at=False),
    _disk("failed_rename", RENAME, at=False),
    _disk("locked", LOCK_FILE, at=False, lasts=False),  # who has a lock gives it back
    _of_caller("memory", "memory_failure", CALLER_KINDS - {OPEN_IN_VAIN}),
    _of_caller(CANCEL, "cancellation", CALLER_KINDS - {OPEN_IN_VAIN}),
)


OF_HTTP: Final = frozenset({"status"})
"""Those that a server can do to a client of HTTP alone."""


def possible_names(operation: Operation) -> tuple[str, ...]:
    """The names of those that can happen where an operation is done, in order."""
    kind = operation.kind
    if kind == CALL:
        return tuple(each.name for each in possible_faults(kind) if each.can_happen_to(operation))
    sql = None if operation.has_no_statement else operation.sql
    if operation.is_plain:
        names, awaited = _names_where(kind, operation.blocking, sql)
    else:
        state, stream = operation.tcp[1:], operation.http.stream  # the same on each connection
        elsewhere = operation.call_site.is_elsewhere
        names, awaited = _names_where(
            kind, operation.blocking, sql, state, stream=stream, elsewhere=elsewhere
        )
    if awaited and cancellation_of(operation.call_site.loop_objects) is not None:
        return (*names, awaited)
    return names


@functools.cache
def names_unawaited(kind: str) -> tuple[str, ...]:
    """As `possible_names`, of a blocking operation of which a kind is all that is known, and for
    which nobody waits.
    """
    names, _ = _names_where(kind, True, None)
    return names


@functools.lru_cache(maxsize=1024)
def _names_where(
    kind: str,
    blocking: bool,
    sql: SqlDetails | None,
    state: tuple[Any, ...] | None = None,
    *,
    stream: bool = False,
    elsewhere: bool = False,
) -> tuple[tuple[str, ...], str]:
    """For `possible_names`: those that do not depend on who waits, and the one that does, or "".

    `state`: of `TcpDetails`, all but which connection it is.
    """
    operation = Operation(kind=kind, target="", names=(), blocking=blocking)
    if sql is not None:
        operation = operation._replace(sql=sql)
    if state is not None:
        tcp, http = TcpDetails(0, *state), HttpDetails(stream=stream)
        site = CallSite(is_elsewhere=elsewhere)
        operation = operation._replace(tcp=tcp, http=http, call_site=site)
    *others, last = possible_faults(kind)
    depends = last.name == CANCEL
    fixed = others if depends else [*others, last]
    names = tuple(each.name for each in fixed if each.can_happen_to(operation))
    if not depends:
        return names, ""
    [cancellation] = _probe(last, "").faults
    assert isinstance(cancellation, CallerFault)
    return names, last.name if CallerFault.can_happen_to(cancellation, operation) else ""


@functools.cache
def possible_faults(kind: str) -> tuple[PossibleFault, ...]:
    """Those that operations of a kind can have, the simplest first."""
    return tuple(each for each in _ALL if kind in each.kinds)


@functools.cache
def fault_names(kind: str) -> tuple[str, ...]:
    """The names of all that a schedule can say of operations of a kind, what is no fault last."""
    faults = [each.name for each in possible_faults(kind)]
    crashes = CRASHES if kind in CRASHING else ()
    order = [LATER] if faults or kind in TURNS else []
    others = [CANCEL_WOKEN, CANCEL_WAITING] if CANCEL in faults else []
    return (*faults, *crashes, *order, *others)


def fault_named(kind: str, name: str) -> PossibleFault:
    """The one of a kind of operation that has this name. Raises ConfigurationError."""
    found = possible_faults(kind)
    for each in found:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in found) or "none"
    raise ConfigurationError(f"{name!r} is no fault of {kind}, which can have: {known}")
