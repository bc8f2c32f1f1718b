"""What a program receives that polls its sockets by itself.

As one on `selectors` does, and trio, and `loop.sock_recv`. Who reads without blocking asks the
system when there is something to read, or a loop that asks it. So it is the kernel that has to keep
quiet, and it does below the socket's low-water mark. What the mark cannot keep back, the end of a
stream and a full buffer, is polled again until its time; so is everything where there is no mark.
"""

from __future__ import annotations

import math
import socket
import sys

from typing import Any

from pytest_resilience.chaos.descriptors import available
from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.sockets import deliveries
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.readiness import Held
from pytest_resilience.interceptors.sockets.readiness import Readiness
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_classes import mark_of
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.wire_format import RECORD


__all__ = ["NonblockingReceiver"]

_AT_ONCE = 1e-6  # seconds


class NonblockingReceiver:
    """Receives for clients that poll; raises what a socket raises until something is due.

    Attributes:
        readiness: the sockets on which something is held back.
    """

    def __init__(self, engine: Engine) -> None:
        self.readiness = Readiness(engine.clock)
        self._engine = engine

    def receive(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's receiving methods."""
        __tracebackhide__ = True
        with connection.send_queue.undisturbed(tls=effects.speaks_tls(sock)):
            return self._receive(sock, connection, call)

    def held_for(self, sock: socket.socket, connection: TcpConnection) -> float:
        """Seconds in which a poll tells of nothing to receive; 0 if it tells what the kernel does.

        What needs nothing to be there for it happens, if the client waits for it.
        """
        turn, inbound = connection.turn, connection.inbound
        held = self.readiness.held.get(connection)
        if held is not None and held.due == math.inf:  # what ends it is for who receives
            if turn.asked and sock.gettimeout() != 0:  # held since it was sent into a partition
                connection.begin_response(self._engine)
            now = self._engine.clock.monotonic()
            return 0.0 if held.is_over(now) or held.is_given_up(sock) else held.left
        if not (held or turn.receiving or turn.asked or turn.partial or available(sock)):
            return 0.0
        try:
            with connection.send_queue.undisturbed(tls=effects.speaks_tls(sock)):
                self._resume(sock, connection)
                if inbound.eof is not None:
                    self._await_eof(sock, connection, inbound.eof, polls=True)
                    return 0.0
                if not inbound.asked_early:
                    self._begin(sock, connection)
                most = self._await_turn(sock, connection, polls=True)
                if sock.gettimeout() != 0 and deliveries.pass_over(sock, inbound, most):
                    if inbound.stream is not None and inbound.stream.is_stalled:
                        self.readiness.silence(sock, connection, inbound.stream)
                    held = self.readiness.held.get(connection)
                    return _AT_ONCE if held is None else held.left
                return 0.0
        except OSError:  # nothing yet, or what is for who receives
            held = self.readiness.held.get(connection)
            return 0.0 if held is None else held.left

    def _receive(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        __tracebackhide__ = True
        if sock.fileno() < 0:
            return call()  # which says so
        inbound = connection.inbound
        held = self.readiness.held.get(connection)
        if held is not None and held.is_given_up(sock):
            self.readiness.release(connection)
            connection.give_up_response()
            return call()  # which says so
        self._resume(sock, connection)
        if inbound.eof is not None:
            return self._deliver_eof(sock, connection, inbound.eof, ReceiveArguments(call))
        if not inbound.asked_early:
            self._begin(sock, connection)
        most = self._await_turn(sock, connection)
        if inbound.stream is not None and inbound.stream.is_replaced:
            return deliveries.replay(sock, connection, call)
        return self._read(sock, connection, call, most)

    def _resume(self, sock: socket.socket, connection: TcpConnection) -> None:
        """If something was held back, go on with it; raises while it is."""
        __tracebackhide__ = True
        held = self.readiness.ended(sock, connection)
        if held is None:
            return
        held.stream.waited(held.due)
        if held.size and not connection.turn.receiving:  # more was asked meanwhile
            inbound = connection.inbound
            inbound.stream, inbound.asked_early = held.stream, held.size
            inbound.more_early = available(sock) > held.size

    def _begin(self, sock: socket.socket, connection: TcpConnection) -> None:
        """If what is there begins a response, what happens to that? Raises if nothing is."""
        __tracebackhide__ = True
        turn, inbound = connection.turn, connection.inbound
        if not readable(sock, 0):
            if not self._strike(connection):
                raise effects.nothing_yet(sock)
            return
        if inbound.expected:
            inbound.expected = False
            return
        if turn.receiving or not (turn.asked or not effects.speaks_tls(sock)):
            return  # unasked, what comes in TLS is no response
        was_early, inbound.more_early = inbound.more_early, False
        stream = connection.begin_response(self._engine)
        if stream is not None and was_early:
            stream.arrive(turn.sent_at)  # else it has come just now, as it is told then

    def _strike(self, connection: TcpConnection) -> bool:
        """The client waits: whether something happens now, for there may never be a response."""
        turn, inbound = connection.turn, connection.inbound
        if connection.is_sending:
            return False
        awaits = not turn.receiving and (turn.asked or turn.partial)
        if awaits and self._engine.active.strikes_waiting:
            connection.begin_response(self._engine, early=True)
        stream = inbound.stream
        if not inbound.expected or stream is None or stream.needs_response:
            return False
        stream.arrive(turn.sent_at)
        return True

    def _await_turn(self, sock: Any, connection: TcpConnection, *, polls: bool = False) -> int:
        """Do what the stream says; returns how many bytes can be read. Raises while none can.

        `polls`: for who comes when that is over, whether the socket blocks or not.
        """
        __tracebackhide__ = True
        inbound, stream = connection.inbound, connection.inbound.stream
        tls = effects.speaks_tls(sock)
        while stream is not None:
            there = inbound.asked_early or available(sock)
            if tls:  # which gives nothing of a record before all of it is there
                there = 0 if sock.pending() else min(RECORD, there)
            now = self._engine.clock.monotonic()
            least = 1 if stream.effect.pace is None else mark_of(sock)
            step = stream.next(there, now, whole=tls, least=least)
            if inbound.stream is not stream:  # overtaken by another
                stream = inbound.stream
                continue
            match step:
                case WaitUntil(due):
                    is_later = tls or stream.begun or (polls and sock.gettimeout() != 0)
                    held = Held(sock, stream, due, 0 if is_later else there, polls=polls)
                    self.readiness.hold(sock, connection, held, now)
                    stream.waited(due)
                case ReadPeer(most):
                    return min(most, inbound.asked_early or sys.maxsize)
                case ReadReplacement():
                    return 0
                case ResetConnection() | CloseConnection():
                    deliveries.end(sock, connection, step)
                    break
        return sys.maxsize

    def _read(
        self, sock: socket.socket, connection: TcpConnection, call: SocketCall, most: int
    ) -> Any:
        __tracebackhide__ = True
        inbound, stream = connection.inbound, connection.inbound.stream
        tls = effects.speaks_tls(sock)
        plain = (stream is None or stream.is_unchanged) and CLOSE not in self._engine.active.kinds
        try:
            if plain and not inbound.asked_early:
                result = call()
                inbound.stream = None if tls else stream  # it was the response, and no ticket
                return result
            arguments = ReceiveArguments(call)
            if arguments.peeks and (seen := deliveries.look(sock, inbound, arguments, most)):
                return arguments.returned(seen)
            data = arguments.fetch(most, takes=True)
        except OSError:
            if tls and stream is not None and stream.is_unchanged:
                stream.await_again()  # what had come were tickets
            elif tls and stream is not None:
                stream.drained()  # it was not all of a record
            raise
        delivered = deliveries.take(sock, connection, data, arguments)
        if stream is not None and stream.is_stalled:
            self.readiness.silence(sock, connection, stream)
        if stream is not None and not available(sock):
            stream.drained()
        if inbound.asked_early:
            inbound.asked_early = max(0, inbound.asked_early - len(data)) if data else 0
        elif not data and arguments.size:
            eof = connection.begin_eof(self._engine)
            if eof is not None:
                inbound.eof = eof
                return self._deliver_eof(sock, connection, eof, arguments)
        if deliveries.is_withheld(stream, data, delivered):
            raise effects.nothing_yet(sock)
        return arguments.returned(delivered)

    def _deliver_eof(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        eof: ResponseStream,
        arguments: ReceiveArguments,
    ) -> Any:
        __tracebackhide__ = True
        self._await_eof(sock, connection, eof)
        connection.inbound.eof = None
        return arguments.returned(b"")

    def _await_eof(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        eof: ResponseStream,
        *,
        polls: bool = False,
    ) -> None:
        __tracebackhide__ = True
        now = self._engine.clock.monotonic()
        match eof.next(0, now):
            case WaitUntil(due):
                held = Held(sock, eof, due, 0, polls=polls)
                self.readiness.hold(sock, connection, held, now)
