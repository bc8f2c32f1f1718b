"""Faults of the network: frozen data.

A fault names the kinds of operation it can happen to, and tells what it does to a response in
terms of the four things a driver can do: wait, reset, replace, and alter what is read (see
`chaos.response_stream`). Nothing here does any I/O.
"""

from __future__ import annotations

import errno
import math
import os
import socket

from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import ClassVar
from typing import Final

from pytest_resilience.chaos.faults.payload import Altered
from pytest_resilience.chaos.faults.stream_items import Cut
from pytest_resilience.chaos.operation import BODILESS
from pytest_resilience.chaos.operation import CALL
from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import EXPECTANT
from pytest_resilience.chaos.operation import FRAMED
from pytest_resilience.chaos.operation import HANDSHAKE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.operation import RESOLVE
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.operation import SEND_DATAGRAM
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.quantities import DelayDistribution
from pytest_resilience.chaos.parsing.quantities import format_seconds
from pytest_resilience.errors import ServiceFailureError


__all__ = [
    "CHANGED",
    "PACED",
    "RECEIVED",
    "SERVICE_DOWN",
    "Closure",
    "Delay",
    "Duplication",
    "Fault",
    "Latency",
    "Loss",
    "LostResponse",
    "Observation",
    "Outage",
    "Partition",
    "Refusal",
    "Reordering",
    "Reset",
    "ResolutionFailure",
    "ServiceError",
    "Silence",
    "SlowResolution",
    "os_error",
]


def os_error(code: int) -> OSError:
    """The error that the system raises with this errno, of the class that Python has for it."""
    return OSError(code, os.strerror(code))


RECEIVED: Final = "received"  # the first of them
PACED: Final = "paced"  # the first is on the line
CHANGED: Final = "changed"  # or lost, or cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Base of all faults.

    Attributes:
        kinds: the kinds of operation it can happen to.
        waits: whether the caller is made to wait, which only a blocking one can.
        transient: whether what it holds up goes on as if nothing had been, when it has ended.
        needs_response: whether the peer's response must be there before it happens.
        needs_body: whether it happens to the bytes of a response, which must be seen for that.
        is_of_http: whether only a response of HTTP can be this.
        is_of_response: whether it is something about one response, and not about its connection.
        resets: whether the connection is reset when the wait is over.
        closes: whether the peer closes it then, in good order.
        has_direction: whether the same can happen to what the client sends.
        has_place: whether it happens somewhere in the middle, for which all before is counted.
        delay: how long, in seconds; infinite where the response never comes.
        awaits: what bytes have to be before any of it has happened to a message: `RECEIVED`,
            `PACED`, or `CHANGED`; "" for nothing.
    """

    waits: ClassVar[bool] = False
    transient: ClassVar[bool] = False
    needs_response: ClassVar[bool] = False
    needs_body: ClassVar[bool] = False
    is_of_http: ClassVar[bool] = False
    is_of_response: ClassVar[bool] = False
    resets: ClassVar[bool] = False
    closes: ClassVar[bool] = False
    has_direction: ClassVar[bool] = True
    delay: float = 0.0
    awaits: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "awaits", self.awaited)  # frozen for everybody else

    @property
    def awaited(self) -> str:
        """What `awaits` is."""
        if 0 < self.delay < math.inf:
            return RECEIVED
        return CHANGED if self.needs_response else ""

    @property
    def kinds(self) -> frozenset[str]:
        raise NotImplementedError

    @property
    def is_nothing(self) -> bool:
        """Whether nobody could tell that it has happened."""
        return False

    @property
    def parts(self) -> tuple[Fault, ...]:
        """Those that it is made of, where it is several together: see `response.Together`."""
        return (self,)

    @property
    def replacement(self) -> bytes | None:
        """Bytes to receive in place of the response, before EOF; None for the response itself."""
        return None

    @property
    def breaks(self) -> bool:
        """Whether the connection is reset where the bytes are cut off."""
        return False

    @property
    def stalls(self) -> bool:
        """Whether nothing comes any more where the bytes are cut off, and the connection stays."""
        return False

    @property
    def after(self) -> float:
        """For how many seconds the bytes of a response pass before they are changed."""
        return 0.0

    @property
    def has_place(self) -> bool:
        """See above."""
        return False

    @property
    def is_of_stream(self) -> bool:
        """Whether it happens once in all that comes in a conversation."""
        return self.has_place

    def altered(self) -> Altered | None:
        """A new state for one response whose bytes are changed; None if they stay as they are."""
        return None

    def error(self, target: str) -> Exception | None:  # noqa: ARG002  # those that differ use it
        """The exception that the call raises; None where it is the response that fails."""
        return None

    def can_happen_to(self, operation: Operation) -> bool:
        """Whether it is possible where `operation` is done."""
        tcp = operation.tcp
        # A connect is pending in the kernel, whoever waits for it, or nobody.
        pends = operation.kind == CONNECT and self.delay == math.inf
        return (
            (operation.blocking or pends or not self.waits)
            and not (tcp.form == BODILESS and self.needs_body)
            and not (tcp.form in {EXPECTANT, FRAMED} and self.needs_response)
            and (self.transient or not tcp.mid_message)
        )

    @property
    def varies(self) -> bool:
        """Whether `drawn` makes another fault of it for each operation."""
        return False

    def drawn(self, share: float) -> Fault:  # noqa: ARG002  # those that vary use it
        """The fault as it happens once: `share` is uniform in [0, 1)."""
        return self

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation(Fault):
    """Nothing: what it could happen to is seen, and that is all."""

    of: frozenset[str]

    @property
    def kinds(self) -> frozenset[str]:
        return self.of

    @property
    def is_nothing(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(Fault):
    """Base of those that make callers wait for a while.

    Attributes:
        distribution: how delays differ; None where all are the same.
    """

    waits: ClassVar[bool] = True
    distribution: DelayDistribution | None = None

    @property
    def varies(self) -> bool:
        return self.distribution is not None

    def drawn(self, share: float) -> Fault:
        if self.distribution is None:
            return self
        return replace(self, delay=self.distribution.at(share), distribution=None)

    @property
    def is_nothing(self) -> bool:
        return not self.delay and (self.distribution is None or not self.distribution.at(1.0))

    @property
    def length(self) -> str:
        """For people."""
        return f"{format_seconds(self.delay)}{self.distribution or ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Delay):
    """The peer is `delay` seconds further away, there and back."""

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, HANDSHAKE, RECEIVE, RECEIVE_DATAGRAM})

    def __str__(self) -> str:
        return f"latency {self.length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(Fault):
    """The peer never responds: packets are lost without notice."""

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, HANDSHAKE, RECEIVE, RECEIVE_DATAGRAM})
    waits: ClassVar[bool] = True
    delay: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Fault):
    """Nothing listens at the peer's port (ECONNREFUSED)."""

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, SEND_DATAGRAM})

    def error(self, target: str) -> Exception:  # noqa: ARG002
        return os_error(errno.ECONNREFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Fault):
    """The peer tears the connection down while a response is awaited (ECONNRESET)."""

    kinds: ClassVar[frozenset[str]] = frozenset({HANDSHAKE, RECEIVE})
    resets: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure(Fault):
    """The peer closes the connection in good order, without a response: EOF."""

    kinds: ClassVar[frozenset[str]] = frozenset({HANDSHAKE, RECEIVE})
    closes: ClassVar[bool] = True

    def __str__(self) -> str:
        return "closed by the peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage(Closure):
    """The service is gone: connections that it had are closed, whoever speaks next."""

    kinds: ClassVar[frozenset[str]] = frozenset({HANDSHAKE, SEND, RECEIVE})
    has_direction: ClassVar[bool] = False

    def __str__(self) -> str:
        return "outage"


@dataclass(frozen=True, slots=True, kw_only=True)
class LostResponse(Fault):
    """The peer has done what it was asked, and the connection is reset before its response.

    Only its first byte tells that there was one: a peer that ends the connection loses nothing.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({RECEIVE})
    needs_response: ClassVar[bool] = True
    is_of_response: ClassVar[bool] = True
    has_direction: ClassVar[bool] = False

    @property
    def breaks(self) -> bool:
        return True

    def altered(self) -> Altered:
        return Cut()

    def __str__(self) -> str:
        return "lost response"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Fault):
    """Nothing gets through, either way, for as long as the experiment runs; then all of it.

    Nobody sends datagrams again, so those are lost.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({CONNECT, HANDSHAKE, SEND, RECEIVE, *DATAGRAMS})
    waits: ClassVar[bool] = True
    transient: ClassVar[bool] = True
    delay: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Fault):
    """A datagram never arrives, and nobody is told."""

    kinds: ClassVar[frozenset[str]] = DATAGRAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplication(Fault):
    """A datagram arrives twice."""

    kinds: ClassVar[frozenset[str]] = DATAGRAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reordering(Fault):
    """A datagram arrives after the one that was sent next."""

    kinds: ClassVar[frozenset[str]] = DATAGRAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionFailure(Fault):
    """The name server cannot be reached (EAI_AGAIN), or knows of no such name (EAI_NONAME).

    Attributes:
        known: whether the name may exist, for all that anybody knows.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({RESOLVE})
    known: bool = True

    def error(self, target: str) -> Exception:  # noqa: ARG002
        if self.known:
            return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def __str__(self) -> str:
        return "name resolution failure" if self.known else "unknown host"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowResolution(Delay):
    """The name server takes `delay` seconds longer."""

    kinds: ClassVar[frozenset[str]] = frozenset({RESOLVE})

    def __str__(self) -> str:
        return f"slow name resolution {self.length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceError(Fault):
    """Calling the service raises.

    Attributes:
        exception: of which type; it is made from a text alone.
        retry_after: seconds, for its attribute of that name; None for none.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({CALL})
    exception: type[Exception] = ServiceFailureError
    retry_after: float | None = None

    def error(self, target: str) -> Exception:
        ours = issubclass(self.exception, ServiceFailureError)
        error = self.exception(target if ours else f"service {target!r} failed")
        if self.retry_after is not None:
            setattr(error, "retry_after", self.retry_after)  # noqa: B010  # not every one has it
        return error

    def __str__(self) -> str:
        after = self.retry_after
        return self.exception.__name__ + ("" if after is None else f", retry after {after:g} s")


SERVICE_DOWN: Final[tuple[Fault, ...]] = (Refusal(), Outage())
