"""What a transport of asyncio receives.

The transport reads when there is something. What is not due yet goes to the protocol that delays
it, so that the loop goes on; only a throttled response stays in the kernel, piece by piece.
"""

from __future__ import annotations

import errno
import os
import socket

from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connections import TcpConnection
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall


if TYPE_CHECKING:
    from pytest_resilience.interceptors.sockets.delaying_protocol import DelayingProtocol


__all__ = ["AsyncioReceiver"]


class AsyncioReceiver:
    """Receives for transports, and has their protocols told of it when it is time."""

    def __init__(self, engine: Engine, loops: AsyncioLoops) -> None:
        self._engine = engine
        self._loops = loops

    def receive(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        call: SocketCall,
        protocol: DelayingProtocol,
    ) -> Any:
        """Do `call`, of one of the socket's receiving methods, for a transport of `protocol`."""
        __tracebackhide__ = True
        if not effects.readable(sock, 0):  # only what is there is a response: bytes, EOF, an error
            return call()
        self._begin(connection, protocol)
        inbound, most = connection.inbound, 0
        stream = inbound.stream
        if stream is not None:
            match stream.next(effects.available(sock), self._engine.clock.monotonic()):
                case WaitUntil(due):
                    protocol.pause_reading(stream, due)
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                case ResetConnection():
                    inbound.stream = None
                    effects.reset_by_peer(sock)
                    return call()
                case CloseConnection():
                    inbound.stream = None
                    effects.close_by_peer(sock)
                    return call()
                case ReadReplacement():
                    return effects.replay(sock, inbound, call)
                case ReadPeer(most):
                    pass
        if (stream is None or stream.is_unchanged) and CLOSE not in self._engine.active_kinds:
            return call()
        arguments = ReceiveArguments(call)
        data = arguments.fetch(*[most] if stream is not None else [])
        if stream is not None and not effects.available(sock):
            stream.drained()
        if not data and arguments.size:
            self._hold_eof(connection, protocol)
        return arguments.returned(effects.take(sock, stream, data, arguments))

    def _begin(self, connection: TcpConnection, protocol: DelayingProtocol) -> None:
        """Something has come: if it begins a response, what happens to that?"""
        turn, inbound = connection.turn, connection.inbound
        if not turn.receiving and not protocol.is_closing_tls:
            # In TLS 1.3 a server's tickets may come before its response, and look the same.
            inbound.tickets = turn.after_handshake
            connection.begin_response(self._engine, through=protocol.protocol)
        elif inbound.tickets:
            inbound.tickets = False
        else:
            return
        stream = inbound.stream
        if stream is None:
            return
        now = self._engine.clock.monotonic()
        arrived = self._loops.iterations.arrival(protocol.loop, turn.sent_at, now)
        due = stream.arrive(arrived)
        if stream.effect.delay and stream.effect.pace is None:
            protocol.hold(stream)
            stream.waited(due)

    def _hold_eof(self, connection: TcpConnection, protocol: DelayingProtocol) -> None:
        eof = connection.begin_eof(self._engine, through=protocol.protocol)
        if eof is not None and eof.effect.delay:
            eof.arrive(self._engine.clock.monotonic())
            protocol.hold(eof)
