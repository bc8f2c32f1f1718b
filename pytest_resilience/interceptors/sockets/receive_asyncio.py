"""What a transport of asyncio receives.

The transport reads when there is something. What is not due yet goes to the protocol that delays
it, so that the loop goes on; only a throttled response stays in the kernel, piece by piece.
"""

from __future__ import annotations

import errno
import math
import socket
import weakref

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.call_site import is_awaited
from pytest_resilience.chaos.descriptors import available
from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.sockets import deliveries
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import flags_of
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.waiting import Wait


if TYPE_CHECKING:
    from pytest_resilience.interceptors.sockets.delaying_protocol import DelayingProtocol


__all__ = ["AsyncioReceiver"]

_A_WHILE = 0.01  # seconds: parts of one request follow each other faster


class AsyncioReceiver:
    """Receives for transports, and has their protocols told of it when it is time."""

    def __init__(self, engine: Engine, loops: AsyncioLoops) -> None:
        self._engine = engine
        self._loops = loops
        # Weakly: a loop that is closed just then never looks.
        self._expected: weakref.WeakSet[TcpConnection] = weakref.WeakSet()
        self._listening: weakref.WeakSet[TcpConnection] = weakref.WeakSet()
        self._pauses = weakref.WeakKeyDictionary[TcpConnection, Wait]()

    def expect(self, sock: socket.socket, connection: TcpConnection) -> None:
        """Something was sent. Whoever sends no more for a while waits for the response."""
        protocol = self._loops.delaying_protocol(sock)
        if protocol is None or not self._engine.active.strikes_waiting:
            return
        if connection in self._listening:
            self._listening.discard(connection)
            # Who still waits goes on to; who has given up, and asks now, begins another wait.
            connection.inbound.expected &= is_awaited(protocol.protocol)
        if connection in self._expected:
            return
        sent_at = connection.turn.sent_at

        def look() -> None:
            self._expected.discard(connection)
            if protocol.is_writing or connection.turn.sent_at != sent_at:
                self.expect(sock, connection)
            elif not connection.is_sending:
                self._strike(connection, protocol)

        self._expected.add(connection)
        protocol.loop.call_later(_A_WHILE, look)

    def silence(
        self, connection: TcpConnection, protocol: DelayingProtocol, stream: ResponseStream
    ) -> None:
        """Let nothing be read until the end of `stream`."""
        now = self._engine.clock.monotonic()
        self._pauses[connection] = protocol.pause_reading(stream, math.inf, now)

    def end(self, sock: socket.socket, connection: TcpConnection) -> None:
        """This side takes no more: who waits is told of the end now, as the kernel tells."""
        protocol, pause = self._loops.delaying_protocol(sock), self._pauses.pop(connection, None)
        is_paused = pause is not None and not pause.cancelled
        if protocol is None or not (is_paused or protocol.is_holding):
            return
        connection.give_up_response()
        effects.discard(sock)
        protocol.end()
        if pause is not None and is_paused:
            pause.end()

    def delivers(self, sock: socket.socket) -> bool:
        """Whether what was held back by experiments that have ended is about to be delivered.

        What begins after their end holds it back no longer, or a series of them would for ever.
        """
        protocol = self._loops.delaying_protocol(sock)
        return protocol is not None and protocol.is_due

    def strike(
        self, sock: socket.socket, connection: TcpConnection, begun: Sequence[ActiveExperiment]
    ) -> None:
        """These have begun while a task waits for a response, of whatever."""
        protocol = self._loops.delaying_protocol(sock)
        if protocol is not None:
            self._strike(connection, protocol, begun)

    def _strike(
        self,
        connection: TcpConnection,
        protocol: DelayingProtocol,
        begun: Sequence[ActiveExperiment] = (),
    ) -> None:
        """The client waits: what needs no response happens now, for there may never be one."""
        turn, inbound = connection.turn, connection.inbound
        if (
            (turn.receiving and not begun)
            or protocol.is_closing
            or not self._engine.active.strikes_waiting
        ):
            return
        is_coming = turn.receiving or turn.partial  # what others do to it is decided
        asked = turn.asked
        among = inbound.threads.claim(begun) if is_coming else None
        through = protocol.protocol
        stream = connection.begin_response(self._engine, through=through, among=among, early=True)
        if stream is None and not asked:
            self._listening.add(connection)
        if stream is None or stream.needs_response:
            return
        due = stream.arrive(turn.sent_at)
        if protocol.is_holding and (begun or (protocol.is_silent and due != math.inf)):
            protocol.overtake(stream)
        if due == math.inf:
            protocol.hold(stream)
        else:
            protocol.read(stream, due)

    def receive(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        call: SocketCall,
        protocol: DelayingProtocol,
    ) -> Any:
        """Do `call`, of one of the socket's receiving methods, for a transport of `protocol`."""
        __tracebackhide__ = True
        inbound, most = connection.inbound, 0
        stream = inbound.stream if inbound.expected else None
        is_stalled = inbound.stream is not None and inbound.stream.is_stalled
        needs_response = (stream is None or stream.needs_response) and not is_stalled
        peeks = not call.is_plain and flags_of(call) & socket.MSG_PEEK  # which no transport does
        if inbound.ended.is_set() or peeks or (needs_response and not readable(sock, 0)):
            return call()  # only what is there is a response, unless nobody takes any
        now = self._begin(connection, protocol)
        stream = inbound.stream
        if stream is not None:
            there = 0 if stream.effect.pace is None else available(sock)
            match stream.next(there, now):
                case WaitUntil(due):
                    self._pauses[connection] = protocol.pause_reading(stream, due, now)
                    raise os_error(errno.EAGAIN)
                case ResetConnection() | CloseConnection() as step:
                    effects.end_once(connection, step, sock)
                    return call()
                case ReadReplacement():
                    return deliveries.replay(sock, connection, call)
                case ReadPeer(most):
                    pass
        return self._read(sock, connection, call, protocol, most)

    def _read(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        call: SocketCall,
        protocol: DelayingProtocol,
        most: int,
    ) -> Any:
        """Read `most` bytes at most, where something happens to them."""
        __tracebackhide__ = True
        stream = connection.inbound.stream
        if (stream is None or stream.is_unchanged) and CLOSE not in self._engine.active.kinds:
            return call()
        arguments = ReceiveArguments(call)
        data = arguments.fetch(*[most] if stream is not None else [])
        if stream is not None and not available(sock):
            stream.drained()
        if not data and arguments.size:
            self._hold_eof(connection, protocol)
        delivered = deliveries.take(sock, connection, data, arguments)
        if stream is not None and stream.is_stalled:
            self.silence(connection, protocol, stream)
        if deliveries.is_withheld(stream, data, delivered):
            raise effects.nothing_yet(sock)
        return arguments.returned(delivered)

    def _begin(self, connection: TcpConnection, protocol: DelayingProtocol) -> float:
        """Something has come: if it begins a response, what happens to that?

        Returns when the client is told of it, in monotonic seconds: now, or later, if `protocol`
        holds back what comes.
        """
        turn, inbound = connection.turn, connection.inbound
        stream, now = inbound.stream, self._engine.clock.monotonic()
        if inbound.expected:
            inbound.expected = False
            if stream is not None and stream.due is not None:
                return now  # it needed none
        elif not turn.receiving and not protocol.is_closing:
            stream = connection.begin_response(self._engine, through=protocol.protocol)
        elif inbound.tickets:
            inbound.tickets = False
        else:
            return now
        if stream is None:
            return now
        arrived = self._loops.iterations.arrival(protocol.loop, turn.sent_at, now)
        due = stream.arrive(arrived)
        if stream.effect.delay and stream.effect.pace is None:
            protocol.hold(stream, max(arrived, now - stream.effect.delay))
            return max(now, due)
        return now

    def _hold_eof(self, connection: TcpConnection, protocol: DelayingProtocol) -> None:
        eof = connection.begin_eof(self._engine, through=protocol.protocol)
        if eof is not None and eof.effect.delay:
            now = self._engine.clock.monotonic()
            eof.arrive(now)
            protocol.hold(eof, now)
