"""Faults of who does an operation, and not of what it is done with: cancellation, and no memory.

They happen before the operation, which nothing else is done to: a task that is cancelled leaves it
at its `await`, and one without memory does not come to it.
"""

from __future__ import annotations

import errno
import os

from dataclasses import dataclass
from typing import ClassVar

from pytest_resilience.chaos.cancelling import cancellation_of
from pytest_resilience.chaos.faults.network import Fault
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.operation import Operation


__all__ = ["CallerFault", "Cancellation", "OutOfMemory"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation(CallerFault):
    """Who awaits the operation is cancelled there: a task of asyncio, or a cancel scope of trio."""

    def can_happen_to(self, operation: Operation) -> bool:
        return (
            Fault.can_happen_to(self, operation)
            and not operation.tcp.unseen
            and cancellation_of(operation.call_site.loop_objects) is not None
        )

    def strike(self, operation: Operation) -> None:
        cancellation = cancellation_of(operation.call_site.loop_objects)
        if cancellation is None:
            return
        cancellation.cancel()
        if cancellation.is_here and operation.kind in _TRIED_FIRST:
            # A loop tries before it waits, and can be cancelled only while it waits.
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory(CallerFault):
    """The operation cannot get the memory that it needs: MemoryError."""

    needs_response: ClassVar[bool] = True  # what is received needs memory, and not the wait for it

    def awaits_bytes(self, kind: str) -> bool:  # noqa: ARG002  # it raises as soon as it is decided
        return False

    def can_happen_to(self, operation: Operation) -> bool:
        return Fault.can_happen_to(self, operation) and not operation.tcp.unseen

    def strike(self, operation: Operation) -> None:  # noqa: ARG002  # it is the same for all
        __tracebackhide__ = True
        raise MemoryError

    def __str__(self) -> str:
        return "out of memory"
