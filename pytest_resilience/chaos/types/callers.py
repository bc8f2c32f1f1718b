"""The chaos types of who does an operation, and not of what it is done with: cancelled, no memory.

They happen before the operation, which nothing else is done to: a task that is cancelled leaves it
at its `await`, and one without memory does not come to it.
"""

from __future__ import annotations

import errno

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import ClassVar

from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.faults.network import Latency
from pytest_resilience.chaos.faults.network import os_error
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
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.types.database import STATEMENT_PARAMETERS
from pytest_resilience.chaos.types.files import FILE_STEPS
from pytest_resilience.chaos.types.files import PATH_PARAMETER
from pytest_resilience.chaos.types.schema import CHILDREN_PARAMETER
from pytest_resilience.chaos.types.schema import TARGET_PARAMETERS
from pytest_resilience.chaos.types.schema import Parameter
from pytest_resilience.chaos.types.schema import TypeSchema
from pytest_resilience.chaos.types.schema import several_of
from pytest_resilience.chaos.types.schema import trigger_parameters
from pytest_resilience.clock import running_loop


__all__ = [
    "CALLER_KINDS",
    "CANCELLATION",
    "MEMORY_FAILURE",
    "CallerFault",
    "Cancellation",
    "LateResponse",
    "OutOfMemory",
]

_STEPS_TO_WAIT = 10  # of a loop, from a request that is sent to the wait for its response
_TRIED_FIRST = frozenset({SEND, RECEIVE, SEND_DATAGRAM, RECEIVE_DATAGRAM})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerFault(Fault):
    """Base of these.

    Attributes:
        at: the kinds of operation.
    """

    at: frozenset[str]

    @property
    def kinds(self) -> frozenset[str]:
        return self.at

    def strike(self, operation: Operation) -> None:
        """Let it happen now, to who does `operation`; may raise what that meets."""
        raise NotImplementedError

    def can_happen_to(self, operation: Operation) -> bool:
        is_here = not (operation.tcp.unseen or operation.call_site.is_elsewhere)
        return is_here and Fault.can_happen_to(self, operation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation(CallerFault):
    """Who awaits the operation is cancelled there: a task of asyncio, or a cancel scope of trio.

    Attributes:
        is_late: whether the response, which a delay holds back, has come before who asked for it
            awaits it: then that is let come so far.
    """

    is_late: bool = False

    def can_happen_to(self, operation: Operation) -> bool:
        can = CallerFault.can_happen_to(self, operation)
        return can and cancellation_of(operation.call_site.loop_objects) is not None

    def strike(self, operation: Operation) -> None:
        cancellation = cancellation_of(operation.call_site.loop_objects)
        if cancellation is None:
            return
        loop = running_loop()
        if self.is_late and loop is not None and not cancellation.is_here:
            _call_later(loop, cancellation.cancel, _STEPS_TO_WAIT)
            return
        cancellation.cancel()
        if cancellation.is_here and operation.kind in _TRIED_FIRST:
            # A loop tries before it waits, and can be cancelled only while it waits.
            raise os_error(errno.EAGAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateResponse(Latency):
    """The response comes late, where who awaits it can be cancelled meanwhile."""

    cancellation: Cancellation

    def can_happen_to(self, operation: Operation) -> bool:
        return Latency.can_happen_to(self, operation) and self.cancellation.can_happen_to(operation)


def _call_later(loop: Any, call: Callable[[], object], steps: int) -> None:
    """Call it when everybody in the loop has gone on for so many steps."""
    if steps:
        loop.call_soon(_call_later, loop, call, steps - 1)
    else:
        call()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory(CallerFault):
    """The operation cannot get the memory that it needs: MemoryError."""

    needs_response: ClassVar[bool] = True  # what is received needs memory, and not the wait for it

    @property
    def awaited(self) -> str:
        return ""  # it raises as soon as it is decided

    def strike(self, operation: Operation) -> None:  # noqa: ARG002  # it is the same for all
        __tracebackhide__ = True
        raise MemoryError

    def __str__(self) -> str:
        return "out of memory"


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
