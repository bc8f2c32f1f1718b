"""Receives that wait for a response: told of silence, and of the end, by who does something else.

A thread that sends, closes or polls, or the end of a conversation, decides here about a call that
receives, whether that has begun or not. What the call itself meets is in `receive`.
"""

from __future__ import annotations

import math
import socket

from pytest_resilience.chaos.active_experiment import tell_of_ends
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.receive import Receiver
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection


__all__ = ["PendingReceives"]


class PendingReceives:
    """See the module."""

    def __init__(self, engine: Engine, loops: AsyncioLoops, receiver: Receiver) -> None:
        self._engine = engine
        self._loops = loops
        self._received_before = receiver.received_before
        self._nonblocking, self._asyncio = receiver.nonblocking, receiver.asyncio
        self._readiness = receiver.nonblocking.readiness

    def expect(self, sock: socket.socket, connection: TcpConnection) -> None:
        """A request is about to be sent: silence begins before there can be a response.

        For who blocks already, in receiving or in polling it.
        """
        turn, inbound = connection.turn, connection.inbound
        if (turn.receiving and not inbound.expected) or self._received_before.left.get(connection):
            return
        silences = self._engine.active.silences
        if silences and not inbound.expected and not turn.requests.lacks_end:
            stream = connection.begin_response(self._engine, early=True)
            if stream is not None and stream.effect.delay == math.inf:
                self._readiness.silence(sock, connection, stream)

    def held_for(self, sock: socket.socket, connection: TcpConnection) -> float:
        """As `NonblockingReceiver.held_for`, of any socket."""
        turn, inbound = connection.turn, connection.inbound
        blocking, stream = sock.gettimeout() != 0, inbound.stream
        if (
            inbound.threads
            or inbound.ended.is_set()
            or inbound.unread
            or (stream is not None and stream.is_replaced)
            or self._received_before.left.get(connection)
            or (not blocking and self._loops.transport(sock))
            or self._engine.active.strikes_callers
        ):
            return 0.0
        expects = inbound.expected or not turn.receiving
        try:
            return self._nonblocking.held_for(sock, connection)
        finally:
            if blocking and inbound.tickets and expects:  # only a receive tells them apart
                inbound.expected = turn.receiving

    def cut(self, sock: socket.socket, connection: TcpConnection) -> None:
        """Nothing gets through, either way."""
        effect = connection.send_queue.requests.cut
        is_silent = effect is not None and effect.delay == math.inf
        if effect is not None and is_silent and not self._received_before.left.get(connection):
            stream = ResponseStream(effect)
            self._readiness.silence(sock, connection, stream, sends=True)

    def stall(self, connection: TcpConnection) -> None:
        """Nothing more is delivered of a response: whoever waits for it is told when that ends.

        For who finds that out above the socket; who blocks in receiving from it comes by itself.
        """
        sock, stream = connection.owner(), connection.inbound.stream
        if sock is None or stream is None or sock.gettimeout() != 0:
            return
        protocol = self._loops.delaying_protocol(sock)
        if protocol is not None:
            self._asyncio.silence(connection, protocol, stream)
        else:
            self._readiness.silence(sock, connection, stream)

    def end(
        self, sock: socket.socket, connection: TcpConnection, how: int = socket.SHUT_RDWR
    ) -> None:
        """This side takes or sends no more: whoever is held goes on, as the kernel wakes them."""
        takes, is_held = how == socket.SHUT_WR, connection in self._readiness.held
        if is_held and not takes:
            connection.give_up_response()
            effects.discard(sock)  # before anybody comes for it
        if how != socket.SHUT_RD:
            connection.send_queue.ended.set()
        if not takes:
            connection.inbound.ended.set()
        tell_of_ends()
        if is_held and not takes:
            self._readiness.release(connection)
        if not takes:
            self._asyncio.end(sock, connection)
