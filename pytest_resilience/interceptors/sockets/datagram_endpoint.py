"""One socket of UDP: its peers, what is on its way to and from them, and whether it is readable."""

from __future__ import annotations

import contextlib
import math
import os
import socket

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Final
from typing import TypeAlias

from pytest_resilience.chaos.datagram_faults import DatagramLine
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.clock import Clock
from pytest_resilience.interceptors.foreign_objects import is_a
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets.peer_names import is_literal
from pytest_resilience.interceptors.sockets.socket_calls import Datagram
from pytest_resilience.interceptors.sockets.socket_calls import DatagramMessage
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.waiting import head_start
from pytest_resilience.interceptors.waiting import wait


__all__ = ["Endpoint", "FastestClock", "Peer", "PeerKey", "is_place", "peer_key", "resolved"]

_ANCILLARY = 1024  # bytes
_MOST_SOURCES = 256
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)  # not on every system
# No poll tells of what is kept here. But where errors are asked for (IP_RECVERR), the kernel
# reports what is too large to be sent: then the socket is readable, and nothing has left it.
_TOO_LARGE: Final = bytes(65535)
_REPORTING = {
    socket.AF_INET: (socket.IPPROTO_IP, 11, ("127.0.0.1", 9)),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25, ("::1", 9)),
}


class FastestClock:
    """Goes with a clock, the machine, or a loop whose time is virtual: whichever is ahead.

    So one that stands still delays nothing for ever.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_at = clock.monotonic(), MACHINE_CLOCK.monotonic()
        self._ahead = 0.0  # of the clock, in seconds

    def now(self) -> float:
        """Monotonic seconds."""
        clock, machine = self._clock.monotonic(), MACHINE_CLOCK.monotonic()
        if self._clock is not MACHINE_CLOCK:
            clock_before, machine_before = self._looked_at
            self._ahead += max(0.0, machine - machine_before - (clock - clock_before))
            self._looked_at = clock, machine
        return clock + self._ahead

    def skip(self, seconds: float) -> None:
        """A loop is so far ahead."""
        self._ahead += seconds


PeerKey: TypeAlias = tuple[str, int]  # address and port


def peer_key(where: Any) -> PeerKey:
    """The same for every form of an address, as where a socket speaks both versions of IP."""
    return where[0].removeprefix("::ffff:").partition("%")[0], where[1]


def is_place(where: Any) -> bool:
    """Whether it is a host and a port, or nothing."""
    return where is None or (
        is_a(where, tuple) and len(where) > 1 and is_a(where[0], str) and is_a(where[1], int)
    )


def resolved(sock: socket.socket, where: Any) -> Any:
    """The address with the host's own in place of its name, which is asked for as others are."""
    __tracebackhide__ = True
    if where is None or is_literal(where[0]):
        return where
    return socket.getaddrinfo(where[0], where[1], sock.family, socket.SOCK_DGRAM)[0][4]


@dataclass(slots=True)
class Peer:
    """Somebody to whom a socket has sent.

    Attributes:
        names: every `host:port` by which it is known, the best first.
        targeted: whether an experiment is about it; None until that is found out.
        is_served: it has sent first, so that this side is its server.
    """

    names: tuple[str, ...]
    is_served: bool = False
    targeted: bool | None = None


@dataclass(slots=True, eq=False)
class _Inbound:
    """What comes in on a socket.

    Attributes:
        line: what is on its way.
        peeked: what was looked at, and is still to be received.
        error: what the next call on the socket raises.
        awake: the socket was made ready to read.
        reports: its owner asks for errors as well.
        attended: somebody waits who sees by himself when something is due.
        looked_at: when last nothing was there, in monotonic seconds.
        transport: of asyncio, that reads it.
        ended: this side takes no more.
    """

    line: DatagramLine[Datagram] = field(default_factory=DatagramLine)
    peeked: Datagram | None = None
    error: OSError | None = None
    awake: bool = False
    reports: bool = False
    attended: bool = False
    looked_at: float = 0.0
    transport: Any = None
    ended: bool = False


@dataclass(slots=True, eq=False)
class Endpoint:
    """A socket, and what is under way on it.

    Attributes:
        owner: a weak reference to it.
        peers: those to whom it has sent, by address.
        sources: where the latest came from at which nobody looked.
        connected_to: the address that it is connected to; None where it is not, as far as known.
        called: that address as it was given.
        inbound: what comes in.
        outbound: what is on its way to the peers.
        sender: sends that, once the socket is closed.
        sent_at: monotonic seconds of the last send.
        task: of an event loop, that has sent on it last.
    """

    owner: Callable[[], socket.socket | None]
    peers: dict[PeerKey, Peer] = field(default_factory=dict)
    sources: deque[Any] = field(default_factory=lambda: deque(maxlen=_MOST_SOURCES))
    connected_to: Any = None
    called: Any = None
    inbound: _Inbound = field(default_factory=_Inbound)
    outbound: DatagramLine[DatagramMessage] = field(default_factory=DatagramLine)
    sender: KernelSocket | None = None
    sent_at: float = 0.0
    task: Callable[[], object] | None = None

    @property
    def port(self) -> int:
        """Its own; 0 where it has none yet, or is closed."""
        name = or_none(lambda: self.owner().getsockname())  # type: ignore[union-attr]
        return name[1] if name else 0

    def is_client_of(self, port: int) -> bool:
        """Whether it has asked somebody at this port."""
        return any(key[1] == port and not each.is_served for key, each in self.peers.items())

    @property
    def due(self) -> float:
        """When something is to be done for it that nobody else does, in monotonic seconds."""
        inbound = self.inbound
        if inbound.awake or inbound.attended:
            return self.outbound.due
        return min(self.outbound.due, inbound.line.due - head_start())

    def peer_address(self) -> Any:
        """The address that it is connected to; None where it is not."""
        if self.connected_to is None:
            self.connected_to = or_none(lambda: self.owner().getpeername())  # type: ignore[union-attr]
        return self.connected_to

    def bind(self) -> None:
        """Give it an address, as the first send does."""
        sock = self.owner()
        if sock is not None and not self.port:
            with contextlib.suppress(OSError), borrowed(sock.fileno()) as kernel:
                kernel.bind(("", 0))

    def read(self) -> Datagram | None:
        """The next datagram that the kernel has; None if there is none.

        Raises what came instead of one.
        """
        __tracebackhide__ = True
        sock = self.owner()
        assert sock is not None  # who reads has it
        with borrowed(sock.fileno()) as kernel:
            try:
                data, ancillary, flags, where = kernel.recvmsg(65535, _ANCILLARY, _AT_ONCE)
            except BlockingIOError:
                return None
        return Datagram(data=data, ancillary=ancillary, flags=flags, where=where)

    def take(self, clock: FastestClock, now: float) -> Datagram | None:
        """The next datagram that has arrived, if one has; or nearly has: then it waits for that."""
        line, due = self.inbound.line, self.inbound.line.due
        if not 0 < due - now <= head_start():
            return line.take(now)
        found = line.take(due)
        self.settle(now)  # which takes time, so not when it is due
        wait(MACHINE_CLOCK, due - clock.now(), lambda: math.inf)
        return found

    def raise_error(self, now: float) -> None:
        """Raise what the next call has to, if there is something."""
        __tracebackhide__ = True
        error, self.inbound.error = self.inbound.error, None
        if error is not None:
            self.settle(now)
            raise error

    def settle(self, now: float) -> None:
        """Let it be readable if something has arrived, or nearly has."""
        inbound = self.inbound
        arrived = inbound.error or inbound.peeked or inbound.line.due - head_start() <= now
        self._set_awake(awake=bool(arrived))

    def _set_awake(self, *, awake: bool) -> None:
        """Let it be readable, whatever the kernel has for it; or as the kernel says."""
        inbound, sock = self.inbound, self.owner()
        if inbound.awake == awake or sock is None or sock.fileno() < 0 or not _AT_ONCE:
            return
        inbound.awake = awake
        level, option, nowhere = _REPORTING[sock.family]
        with contextlib.suppress(OSError), borrowed(sock.fileno()) as kernel:
            if awake:
                inbound.reports = bool(kernel.getsockopt(level, option))
                kernel.setsockopt(level, option, 1)
                kernel.sendto(_TOO_LARGE, _AT_ONCE, nowhere)
            elif inbound.reports:
                kernel.recvmsg(1, _ANCILLARY, _AT_ONCE | socket.MSG_ERRQUEUE)
            else:
                kernel.setsockopt(level, option, 0)  # which forgets what was reported

    def close(self) -> None:
        """The socket is about to be closed: what it has sent still arrives."""
        sock = self.owner()
        if self.outbound and sock is not None:
            with limits_lifted(), contextlib.suppress(OSError):
                self.sender = KernelSocket(fileno=os.dup(sock.fileno()))

    def send_due(self, now: float) -> None:
        """Send what is due."""
        sock = self.sender or self.owner()
        while (due := self.outbound.take(now)) is not None:
            if sock is not None and sock.fileno() >= 0:
                with borrowed(sock.fileno()) as kernel:
                    due.send_through(kernel)
        if self.sender is not None and not self.outbound:
            self.sender.close()

    def give_up(self) -> None:
        """Nothing is late any more: send all, and give asyncio what it waits for.

        Others read from the kernel, where what was taken cannot be put back.
        """
        self.send_due(math.inf)
        self._set_awake(awake=False)
        transport = self.inbound.transport
        while (late := self.inbound.line.take(math.inf)) is not None:
            if transport is None or transport.is_closing():
                continue
            protocol, loop = transport.get_protocol(), transport._loop  # noqa: SLF001  # as it is
            with contextlib.suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(protocol.datagram_received, late.data, late.where)
