"""What a socket delivers of the bytes that have come from the peer, or that take their place."""

from __future__ import annotations

import socket

from typing import Any

from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.tcp_connection import Inbound
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.wire_format import RECORD


__all__ = ["end", "is_withheld", "look", "pass_over", "replay", "take"]


def replay(sock: socket.socket, inbound: Inbound, call: SocketCall) -> Any:
    """Do `call` on what is received in the peer's place; after that, EOF."""
    __tracebackhide__ = True
    assert inbound.stream is not None  # it is what replaces the peer
    arguments = ReceiveArguments(call)
    data = inbound.stream.replay(arguments.size, peeks=arguments.peeks)
    if not data and arguments.size and not inbound.eof_received:
        inbound.eof_received = True
        if sock.gettimeout() != 0:  # a loop closes it, and has it registered until then
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
        size, flags = min(most, effects.available(sock)), socket.MSG_PEEK | socket.MSG_DONTWAIT
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
    while (stream.is_reset or stream.is_stalled) and getattr(sock, "pending", int)():
        arguments.fetch()  # the rest of the record is lost as well
    if stream.is_reset and not delivered:
        effects.end_once(connection, ResetConnection(), sock)
        return arguments.fetch()  # which raises
    if stream.is_replaced or stream.is_reset:
        effects.end_of_stream(sock)  # whoever polls it is told, and then comes for the rest
    return delivered


def end(sock: Any, connection: TcpConnection, step: ResetConnection | CloseConnection) -> None:
    """The connection is over; what TLS has of a record of which some was read is lost with it."""
    while getattr(sock, "pending", int)():
        sock._sslobj.read(RECORD)  # noqa: SLF001  # below all that reads
    effects.end_once(connection, step, sock)


def is_withheld(stream: ResponseStream | None, data: bytes, delivered: bytes) -> bool:
    """Whether nothing is delivered for `data`, although it is not the end."""
    ends = stream is None or stream.is_replaced or stream.is_reset
    return bool(data) and not (delivered or ends)


def pass_over(sock: socket.socket, inbound: Inbound, most: int) -> bool:
    """Take what has come where nothing is delivered for it; whether that was so, and more may come.

    For who polls a socket and then blocks in receiving. `most`: bytes that may be read.
    """
    stream, size = inbound.stream, min(most, effects.available(sock))
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
