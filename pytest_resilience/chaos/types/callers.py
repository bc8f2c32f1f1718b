"""The chaos types of who does an operation: it is cancelled, or gets no memory."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from pytest_resilience.chaos.faults.callers import CallerFault
from pytest_resilience.chaos.faults.callers import Cancellation
from pytest_resilience.chaos.faults.callers import OutOfMemory
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CHECK_OUT
from pytest_resilience.chaos.operation import COMMIT
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import EXECUTE
from pytest_resilience.chaos.operation import FETCH
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.types.database import STATEMENT_PARAMETERS
from pytest_resilience.chaos.types.files import FILE_STEPS
from pytest_resilience.chaos.types.files import PATH_PARAMETER
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import TARGET_PARAMETERS
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import several_of
from pytest_resilience.chaos.types.schema import trigger_parameters


__all__ = ["CALLER_KINDS", "CANCELLATION", "MEMORY_FAILURE"]

_STEPS: dict[str, frozenset[str]] = {
    "resolve": frozenset({RESOLVE}),
    "connect": frozenset({CONNECT, OPEN_CONNECTION}),
    "handshake": frozenset({HANDSHAKE}),
    "send": frozenset({SEND, SEND_DATAGRAM}),
    "receive": frozenset({RECEIVE, RECEIVE_DATAGRAM}),
    "call": frozenset({CALL}),
    "checkout": frozenset({CHECK_OUT}),
    "execute": frozenset({EXECUTE}),
    "commit": frozenset({COMMIT}),
    "fetch": frozenset({FETCH}),
    **FILE_STEPS,
}
CALLER_KINDS = frozenset[str]().union(*_STEPS.values())


def _schema(summary: str, make: Callable[..., CallerFault], help_: str) -> TypeSchema:
    def faults(given: Mapping[str, Any], _intensity: float) -> tuple[Fault, ...]:
        steps = given.get("at", _STEPS)
        return (make(at=frozenset[str]().union(*(_STEPS[step] for step in steps))),)

    return TypeSchema(
        summary=summary,
        parameters=(
            Parameter(
                name="at", unit=f"{', '.join(_STEPS)}, several between |", default="all of them",
                parse=several_of(_STEPS), help=help_,
            ),
            *TARGET_PARAMETERS,
            *STATEMENT_PARAMETERS,
            PATH_PARAMETER,
            *trigger_parameters(rate="1 in a test; by flag or profile intensity"),
            CHILDREN_PARAMETER,
        ),
        faults=faults,
        rate=lambda _given, intensity: intensity,
    )  # fmt: skip


CANCELLATION = _schema(
    "the task of asyncio, or cancel scope of trio, that awaits an operation is cancelled there",
    Cancellation,
    "which operations are left in this way, where they are awaited",
)

MEMORY_FAILURE = _schema(
    "an operation cannot get the memory that it needs: MemoryError",
    OutOfMemory,
    "which operations raise it",
)
