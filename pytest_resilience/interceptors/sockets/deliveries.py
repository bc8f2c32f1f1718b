"""What a socket delivers of the bytes that have come from the peer, or that take their place.

What the kernel had received already when an outage began is delivered all the same: what a peer has
said before it falls silent, or before it closes or resets the connection, is in the buffer of this
side. Its end as well, where that has come. Nothing that comes later is.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Final

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.datagram_faults import datagram
from pytest_resilience.chaos.descriptors import available
from pytest_resilience.chaos.descriptors import borrowed
from pytest_resilience.chaos.descriptors import private_descriptors
from pytest_resilience.chaos.descriptors import readable_descriptors
from pytest_resilience.chaos.descriptors import taken
from pytest_resilience.chaos.descriptors import unread
from pytest_resilience.chaos.operation import DATAGRAMS
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.operation import RECEIVE_DATAGRAM
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.foreign_objects import or_none
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import kept_while_replaced
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.peer_names import HostNames
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import held
from pytest_resilience.interceptors.sockets.socket_classes import is_udp
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.socket_classes import tls_modules
from pytest_resilience.interceptors.sockets.tcp_connection import Inbound
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.wire_format import RECORD
from pytest_resilience.interceptors.sockets.wire_format import begins_with_whole_record


__all__ = [
    "NOTHING",
    "DatagramsBefore",
    "ReceivedBefore",
    "end",
    "give_up",
    "is_withheld",
    "look",
    "pass_over",
    "replay",
    "take",
]

NOTHING: Final = object()  # none of it is left
_MOST_DATAGRAM = 65535  # bytes
_PEEK_OFF: Final = 42  # an option of sockets for which Python has no name
_END_POLLED = sum(getattr(select, name, 0) for name in ("POLLRDHUP", "POLLHUP", "POLLERR"))


def replay(sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
    """Do `call` on what is received in the peer's place; after that, EOF."""
    __tracebackhide__ = True
    inbound = connection.inbound
    assert inbound.stream is not None  # it is what replaces the peer
    arguments = ReceiveArguments(call)
    data = inbound.stream.replay(arguments.size, peeks=arguments.peeks)
    if not data and arguments.size and not inbound.eof_received:
        inbound.eof_received = True
        if sock.gettimeout() != 0:  # a loop closes it, and has it registered until then
            with kept_while_replaced(connection, sock):
                effects.close_by_peer(sock)
            while arguments.fetch():  # TLS may have more, and has to see the end as well
                pass
    return arguments.returned(data)


def look(sock: socket.socket, inbound: Inbound, arguments: ReceiveArguments, most: int) -> bytes:
    """What is delivered to who leaves it where it is (MSG_PEEK), of `most` bytes from the peer.

    Empty if nothing of what has come is delivered: then the next step is the one of a receive.
    """
    __tracebackhide__ = True
    stream = inbound.stream
    data = inbound.unread[:most] or arguments.fetch(most)
    if data and not inbound.unread and stream is not None and not stream.is_unchanged:
        # All of it, for a part may be changed in another way.
        size, flags = min(most, available(sock)), socket.MSG_PEEK | socket.MSG_DONTWAIT
        data = KernelSocket.recv(kernel_socket(sock), max(size, len(data)), flags)
    return (data if stream is None else stream.look(data))[: arguments.size]


def take(
    sock: socket.socket, connection: TcpConnection, data: bytes, arguments: ReceiveArguments
) -> bytes:
    """The bytes that are delivered for `data` from the peer; EOF or RST may follow them at once."""
    __tracebackhide__ = True
    if (stream := connection.inbound.stream) is None or not data:
        return data
    delivered = stream.take(data)
    if len(delivered) < len(data):  # what comes behind what is lost, as if that was never sent
        while (room := arguments.size - len(delivered)) and _follows(sock, connection.inbound):
            delivered += stream.take(arguments.fetch(room, takes=True))
    while (stream.is_reset or stream.is_stalled) and getattr(sock, "pending", int)():
        arguments.fetch()  # the rest of the record is lost as well
    if stream.is_reset and not delivered:
        effects.end_once(connection, ResetConnection(), sock)
        return arguments.fetch()  # which raises
    if stream.is_replaced or stream.is_reset:
        effects.end_of_stream(sock)  # whoever polls it is told, and then comes for the rest
    return delivered


def _follows(sock: Any, inbound: Inbound) -> bool:
    """Whether more is there of a response of which some is lost, and can be received at once."""
    stream = inbound.stream
    if stream is None or stream.is_replaced or stream.is_reset or stream.is_stalled:
        return False
    if stream.effect.pace is not None or inbound.unread or inbound.asked_early:
        return False
    return bool(sock.pending() if effects.speaks_tls(sock) else available(sock))


def end(sock: Any, connection: TcpConnection, step: ResetConnection | CloseConnection) -> None:
    """The connection is over; what TLS has of a record of which some was read is lost with it."""
    while getattr(sock, "pending", int)():
        sock._sslobj.read(RECORD)  # noqa: SLF001  # below all that reads
    effects.end_once(connection, step, sock)


def give_up(connection: TcpConnection) -> None:
    """Nobody looks at `connection` any more: reset it, if bytes that have come are lost."""
    connection.inbound.give_back(connection.owner())
    stream = connection.inbound.stream
    if stream is not None and stream.is_stalled:
        with contextlib.suppress(OSError):  # no descriptor to be had
            effects.end_once(connection, ResetConnection())


def is_withheld(stream: ResponseStream | None, data: bytes, delivered: bytes) -> bool:
    """Whether nothing is delivered for `data`, although it is not the end."""
    ends = stream is None or stream.is_replaced or stream.is_reset
    return bool(data) and not (delivered or ends)


def pass_over(sock: socket.socket, inbound: Inbound, most: int) -> bool:
    """Take what has come where nothing is delivered for it; whether that was so, and more may come.

    For who polls a socket and then blocks in receiving. `most`: bytes that may be read.
    """
    stream, size = inbound.stream, min(most, available(sock))
    if stream is None or stream.is_unchanged or not size:
        return False
    below_all, at_once = kernel_socket(sock), socket.MSG_DONTWAIT
    tls = effects.speaks_tls(sock)
    if tls:
        inbound.unread = data = _decrypted(sock)
    else:
        data = KernelSocket.recv(below_all, size, socket.MSG_PEEK | at_once)
    if not data or stream.look(data):
        return False
    inbound.unread = b""
    stream.take(data if tls else KernelSocket.recv(below_all, len(data), at_once))
    if stream.is_replaced or stream.is_reset:
        effects.end_of_stream(sock)  # of which it is told
        return False
    return True


def _decrypted(sock: Any) -> bytes:
    """What has come of TLS on a socket that blocks, without waiting for the rest of a record."""
    limit = sock.gettimeout()
    sock.settimeout(0)
    try:
        return bytes(sock._sslobj.read(RECORD))  # noqa: SLF001  # below all that reads
    except OSError:  # it is not whole, or what is for who receives
        return b""
    finally:
        sock.settimeout(limit)


class DatagramsBefore:
    """How many datagrams of that, by socket: what they are is seen when they are received."""

    def __init__(self, names: HostNames) -> None:
        self._names = names
        self._left: dict[int, int] = {}  # by inode, which all descriptors of a socket share

    def note(
        self,
        readable: Iterable[int],
        begun: Sequence[ActiveExperiment],
        others: Sequence[ActiveExperiment],
    ) -> None:
        """As in `ReceivedBefore`, of these descriptors."""
        self._left.clear()
        if not any(each.experiment.kinds & DATAGRAMS for each in begun):
            return
        for descriptor in readable:
            with contextlib.suppress(OSError), borrowed(descriptor) as sock:
                senders = _senders(sock) if is_udp(sock) else []
                of = [datagram(RECEIVE_DATAGRAM, self._names.of(*each[:2])) for each in senders]
                if not any(each.matches_target(about) for each in others for about in of):
                    self._left[os.fstat(descriptor).st_ino] = len(senders)

    def forget(self) -> None:
        """No outage is left."""
        self._left.clear()

    def take(self, sock: socket.socket) -> bool:
        """One is received: whether it is one of them."""
        if not self._left:
            return False
        inode = os.fstat(sock.fileno()).st_ino
        left = self._left.pop(inode, 0)
        if left > 1:
            self._left[inode] = left - 1
        return left > 0


def _senders(sock: KernelSocket) -> list[Any]:
    """Whose the datagrams are that the kernel has: each is looked at behind those before it."""
    found = []
    try:
        before = sock.getsockopt(socket.SOL_SOCKET, _PEEK_OFF)
        sock.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, 0)
    except OSError:  # there is no such option here
        return []
    try:
        while True:
            found.append(sock.recvfrom(_MOST_DATAGRAM, socket.MSG_PEEK | socket.MSG_DONTWAIT)[1])
    except OSError:  # there are no more
        return found
    finally:
        sock.setsockopt(socket.SOL_SOCKET, _PEEK_OFF, before)


class ReceivedBefore:
    """What the kernel had received already when an outage began.

    Attributes:
        left: how many bytes of it nobody has received; infinite where its end is among it.
        datagrams: the same over UDP.
    """

    def __init__(self, connections: ConnectionTable) -> None:
        self.left: dict[TcpConnection, float] = {}
        self.datagrams = DatagramsBefore(connections.names)
        self._connections = connections

    def note(self, begun: Sequence[ActiveExperiment], others: Sequence[ActiveExperiment]) -> None:
        """These outages have begun just now; of what the `others` keep back, nothing has come."""
        ready = readable_descriptors()
        users = ready.keys() - private_descriptors()
        self.datagrams.note(users, begun, others)
        for descriptor in users:
            connection = or_none(self._connections.at, descriptor)
            if connection is None or not _is_delivered(connection.inbound.stream):
                continue
            operation = connection.operation(RECEIVE)
            if any(each.matches_target(operation) for each in others):
                continue
            if any(each.matches_target(operation) for each in begun):
                with contextlib.suppress(OSError), held(descriptor, connection.ends) as sock:
                    ended = bool(ready[descriptor] & _END_POLLED)
                    self.left[connection] = math.inf if ended else unread(sock)

    def forget(self) -> None:
        """No outage is left."""
        self.left.clear()
        self.datagrams.forget()

    def receive(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call`, of one of the receiving methods, on what is left; `NOTHING` if nothing is."""
        __tracebackhide__ = True
        left = self.left.get(connection, 0)
        if left == math.inf:
            return call()
        arguments = ReceiveArguments(call)
        if not (left and unread(sock)) or (arguments.wants_all and arguments.size > left):
            self.left.pop(connection, None)
            return NOTHING
        if effects.speaks_tls(sock):
            with connection.send_queue.undisturbed(tls=True):
                return self._receive_record(sock, connection, call)
        data = arguments.fetch(int(left))
        if not arguments.peeks:
            self.left[connection] = left - len(data)
        return arguments.returned(data)

    def _receive_record(self, sock: Any, connection: TcpConnection, call: SocketCall) -> Any:
        """In TLS there is nothing before all of a record is there; and that may be a ticket.

        After tickets OpenSSL reads on, into what has come since: that is kept for its turn.
        """
        __tracebackhide__ = True
        left, began, timeout = int(self.left.get(connection, 0)), taken(sock), sock.gettimeout()
        sock.settimeout(0)
        try:
            seen = KernelSocket.recv(kernel_socket(sock), left, socket.MSG_PEEK)
            if begins_with_whole_record(seen):
                result = call()
                left -= taken(sock) - began
                if left >= -1:  # which may be the end of the stream
                    self.left[connection] = max(0, left)
                    return result
                connection.inbound.unread += ReceiveArguments(call).content(result)
                connection.inbound.tickets = False
        except (BlockingIOError, tls_modules()[0].SSLWantReadError):
            pass
        finally:
            sock.settimeout(timeout)
        self.left.pop(connection, None)
        return NOTHING


def _is_delivered(stream: ResponseStream | None) -> bool:
    """Whether what has come of a response is delivered as it is, though maybe not at once.

    For the experiments that have held it back may have ended just now.
    """
    if stream is None or stream.is_unchanged:
        return True
    return stream.content is None and not stream.effect.left()
