"""What blocking clients receive, and the choice between the three ways to receive.

Each way drives the same `ResponseStream` (see `chaos.response_stream`). Nothing is taken from the
kernel before it is due: until then there is nothing, for timeouts and for polls as well.
"""

from __future__ import annotations

import contextlib
import functools
import math
import socket
import sys
import threading

from collections.abc import Sequence
from typing import Any

from pytest_resilience.chaos.active_experiment import ActiveExperiment
from pytest_resilience.chaos.descriptors import available
from pytest_resilience.chaos.descriptors import readable
from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.chaos.operation import RECEIVE
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ReadReplacement
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import ResponseStream
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.interceptors.sockets import deliveries
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import end_given_up
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.datagrams import DatagramSockets
from pytest_resilience.interceptors.sockets.deliveries import NOTHING
from pytest_resilience.interceptors.sockets.deliveries import ReceivedBefore
from pytest_resilience.interceptors.sockets.http2 import Http2Streams
from pytest_resilience.interceptors.sockets.receive_asyncio import AsyncioReceiver
from pytest_resilience.interceptors.sockets.receive_nonblocking import NonblockingReceiver
from pytest_resilience.interceptors.sockets.socket_calls import ReceiveArguments
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import asks_for_bytes
from pytest_resilience.interceptors.sockets.socket_calls import is_at_once
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import is_udp
from pytest_resilience.interceptors.sockets.socket_classes import mark_of
from pytest_resilience.interceptors.sockets.tcp_connection import Inbound
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.tcp_connection import moment
from pytest_resilience.interceptors.sockets.unseen_traffic import note_urgent
from pytest_resilience.interceptors.sockets.wire_format import RECORD
from pytest_resilience.interceptors.waiting import hold


__all__ = ["Receiver"]

_A_WHILE = 0.01  # seconds: how soon who waits meets what another thread has asked for


class Receiver:
    """Receives for clients what the experiments leave them, and when.

    Attributes:
        received_before: what outages do not happen to.
        datagrams: for what is received over UDP.
        nonblocking: for who polls.
        asyncio: for transports.
    """

    def __init__(
        self,
        engine: Engine,
        connections: ConnectionTable,
        loops: AsyncioLoops,
        http2: Http2Streams,
    ) -> None:
        self.received_before = ReceivedBefore(connections)
        before = self.received_before.datagrams
        self.datagrams = DatagramSockets(engine, connections, loops, before)
        self.nonblocking = NonblockingReceiver(engine)
        self.asyncio = AsyncioReceiver(engine, loops)
        self._http2 = http2  # which has a way of its own
        self._engine, self._connections = engine, connections
        self._loops = loops

    def receive(self, sock: socket.socket, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's receiving methods."""
        __tracebackhide__ = True
        connection = self._connections.of(sock, RECEIVE)
        if connection is None:
            is_datagram = self._connections.look(is_udp, sock)
            return self.datagrams.receive(sock, call) if is_datagram else call()
        if connection.untargeted:
            if connection in self._connections.proxies:
                self._connections.look(self._connections.receives, sock, connection)
            if connection.inbound.unread:
                deliveries.give_up(connection)
            connection.send_queue.flush_if_free(sock)  # or TLS is read while another sends it
            return call()
        if not (call.is_plain or asks_for_bytes(call)):
            self._connections.look(note_urgent, self._engine, connection, call)
            return call()
        me = threading.get_ident()
        if me in connection.inbound.threads:
            return call()
        connection.inbound.threads.seen = True
        connection.inbound.threads.add(me)
        try:
            receive = self._receive
            if connection in self._http2.connections:
                receive = functools.partial(self._http2.receive, receive)
            return receive(sock, connection, call)
        finally:
            connection.inbound.threads.discard(me)
            if connection.inbound.threads.abandoned:
                connection.inbound.give_back(sock)

    def _receive(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call` on a connection that is a target, in the way of who calls."""
        __tracebackhide__ = True
        inbound = connection.inbound
        pending = None if inbound.stream or inbound.unread else getattr(sock, "pending", None)
        if pending is not None and pending():
            return call()  # more of a TLS record of which some was delivered as it is
        try:
            if connection in self.received_before.left:
                result = self.received_before.receive(sock, connection, call)
                if result is not NOTHING:
                    return result
            if inbound.stream is not None and inbound.stream.is_replaced:
                return deliveries.replay(sock, connection, call)
            if inbound.ended.is_set() or not (connection.ends or ends_of(sock)):
                return call()  # its connect may have succeeded, though nobody waited for that
            if sock.gettimeout() != 0 if call.is_plain else not is_at_once(call):
                return self._receive_blocking(sock, connection, call)
            protocol = self._loops.delaying_protocol(sock)
            return (
                self.nonblocking.receive(sock, connection, call)
                if protocol is None
                else self.asyncio.receive(sock, connection, call, protocol)
            )
        except TimeoutError as error:
            end_given_up(sock, connection, error)
            raise

    def _receive_blocking(
        self, sock: socket.socket, connection: TcpConnection, call: SocketCall
    ) -> Any:
        __tracebackhide__ = True
        turn, inbound = connection.turn, connection.inbound
        asked_at, stream = self._engine.clock.monotonic(), inbound.stream
        readiness = self.nonblocking.readiness
        if (held := readiness.held.get(connection)) is not None:
            held.tell()
            if not readiness.is_silent(connection):
                readiness.release(connection)
        if inbound.eof is not None:
            return self._deliver_eof(sock, connection, inbound.eof, ReceiveArguments(call))
        awaits_peer = stream is None or (stream.begun and not stream.is_stalled)
        if turn.receiving and not inbound.unread and awaits_peer:
            if stream is not None and not available(sock):
                stream.drained()
            self._await_more(sock, connection)  # of this response; or another thread asks meanwhile
        elif not inbound.unread and connection.is_sending:
            self._await_more(sock, connection)
        was_expected, inbound.expected = inbound.expected, False
        expected, asked = was_expected or not turn.receiving, was_expected or turn.asked
        if expected:
            stream = inbound.stream if was_expected else connection.begin_response(self._engine)
            if stream is not None and asked and inbound.tickets and not inbound.unread:
                self._receive_tickets(connection, stream, call)
        result = self._read(sock, connection, call, asked_at)
        inbound.tickets = False  # they have come before
        meant = []
        if expected and not asked:
            # What waited before anything was asked has been decided about, and this is the
            # response, whoever has asked; but nobody knew which request it would be.
            active = self._engine.active if turn.asked and inbound.stream is None else ()
            meant = [each for each in active if each.experiment.is_of_http]
            turn.receiving, turn.asked = True, False
        if not (meant or inbound.expected) and (expected or turn.receiving):
            return result
        return self._receive_late(sock, connection, call, result, among=meant or None)

    def _await_more(self, sock: socket.socket, connection: TcpConnection) -> None:
        """Wait until there is something to receive, and take nothing; or for the socket's timeout.

        Or until another thread has sent a request, to which something may happen at once.
        """
        __tracebackhide__ = True
        limit = timeout_of(sock, socket.SO_RCVTIMEO)
        now = MACHINE_CLOCK.monotonic  # as the kernel, whatever a test has frozen
        ends = math.inf if limit is None else now() + limit
        while not _is_there(sock, connection, max(0.0, min(_A_WHILE, ends - now()))):
            if self._engine.active.strikes_waiting and connection.is_struck:
                return
            if now() >= ends:
                raise effects.timed_out(sock)

    def _receive_tickets(
        self, connection: TcpConnection, stream: ResponseStream, call: SocketCall
    ) -> None:
        """Know when the response has come: what TLS 1.3 has to say first looks the same.

        It can only be told apart by receiving. What has to wait for that is kept for then.
        """
        __tracebackhide__ = True
        if not stream.needs_response:
            return  # nobody waits for what is lost
        clock, inbound = self._engine.clock, connection.inbound
        began = clock.monotonic()
        inbound.unread = ReceiveArguments(call).fetch()
        inbound.tickets = False
        now = clock.monotonic()
        stream.arrive(connection.turn.sent_at if moment(began, now) == began else now)

    def _receive_late(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        call: SocketCall,
        result: Any,
        *,
        among: Sequence[ActiveExperiment] | None,
    ) -> Any:
        """Another thread has asked while this one was receiving: `result` is a response.

        `among`: the experiments about which nothing is decided yet.
        """
        __tracebackhide__ = True
        inbound = connection.inbound
        decided, inbound.expected = inbound.expected, False  # when it was sent
        if not decided:
            connection.begin_response(self._engine, among=among)
        stream = inbound.stream
        if stream is None:
            return result
        arguments = ReceiveArguments(call)
        if not arguments.peeks:
            inbound.unread = arguments.content(result) + inbound.unread
        arrived = self._engine.clock.monotonic()
        stream.arrive(arrived)
        return self._read(sock, connection, call, arrived)

    def _read(
        self, sock: socket.socket, connection: TcpConnection, call: SocketCall, asked_at: float
    ) -> Any:
        """Receive more of a response, as soon as it is there."""
        __tracebackhide__ = True
        inbound = connection.inbound
        most = self._await_turn(sock, connection, asked_at)
        if inbound.ended.is_set() and sock.fileno() >= 0:  # whatever comes from now on
            return ReceiveArguments(call).returned(b"")
        stream = inbound.stream
        if stream is not None and stream.is_replaced:
            return deliveries.replay(sock, connection, call)
        if connection.send_queue.messages:
            connection.send_queue.flush(sock)
        plain = stream is None or stream.is_unchanged
        if plain and not inbound.unread and CLOSE not in self._engine.active.kinds:
            return call()
        arguments = ReceiveArguments(call)
        if not inbound.unread and not arguments.size:
            return call()
        data = _fetch(sock, connection, arguments, most)
        while data is None:
            most = self._await_turn(sock, connection, asked_at)
            data = _fetch(sock, connection, arguments, most)
        if not data and not (stream is not None and stream.is_replaced):
            eof = connection.begin_eof(self._engine)
            if eof is not None:
                eof.arrive(self._engine.clock.monotonic())
                return self._deliver_eof(sock, connection, eof, arguments)
        if arguments.wants_all and data:
            data += self._read_rest(
                sock, connection, arguments, arguments.size - len(data), asked_at
            )
        return arguments.returned(data)

    def _read_rest(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        arguments: ReceiveArguments,
        size: int,
        asked_at: float,
    ) -> bytes:
        """Receive all of `size` bytes (MSG_WAITALL), or less where no more comes."""
        data, stream = b"", connection.inbound.stream
        while len(data) < size and not (stream is not None and stream.is_reset):
            more: bytes | None = b""
            with contextlib.suppress(TimeoutError, BlockingIOError):  # what is there is enough
                most = self._await_turn(sock, connection, asked_at)
                if connection.inbound.stream is not stream:  # the connection is reset
                    break
                more = _fetch(sock, connection, arguments, min(most, size - len(data)))
            if more == b"":
                break
            data += more or b""
        return data

    def _await_turn(self, sock: socket.socket, connection: TcpConnection, asked_at: float) -> int:
        """Do what the stream says until something can be read; returns how many bytes at most."""
        __tracebackhide__ = True
        inbound, stream = connection.inbound, connection.inbound.stream
        if stream is None:
            return sys.maxsize
        clock, there = self._engine.clock, len(inbound.unread)
        readiness = self.nonblocking.readiness
        now = since = self._await_arrival(sock, connection, stream)
        least = 1 if stream.effect.pace is None else mark_of(sock)
        if not there and stream.effect.pace is not None and not stream.is_stalled:
            there = _await_piece(sock, stream, least)
            now = since = clock.monotonic()
        while True:
            step = stream.next(there, now, least=least)
            if inbound.stream is not stream:  # given up, or overtaken by another
                return self._await_turn(sock, connection, asked_at)
            match step:
                case WaitUntil(due):
                    _hold(sock, inbound, stream, due, since=since, asked_at=asked_at)
                    if connection in readiness.held:
                        readiness.release(connection)
                    if inbound.ended.is_set():
                        connection.give_up_response()
                        effects.discard(sock)
                    # As far as the socket's timeout and the clock let it come.
                    now, since = due, clock.monotonic()
                case ReadPeer(most):
                    if connection in readiness.held:  # and has ended just now
                        readiness.release(connection)
                    return most
                case ReadReplacement():
                    inbound.unread = b""
                    return 0
                case ResetConnection() | CloseConnection():
                    deliveries.end(sock, connection, step)
                    return sys.maxsize

    def _await_arrival(
        self, sock: socket.socket, connection: TcpConnection, stream: ResponseStream
    ) -> float:
        """Find out when the response has come; what that takes is a part of its delay.

        Returns until when it has taken, in monotonic seconds.

        One that is not there yet is late from its arrival on. One that is there, or comes at once
        after the last send, is late from that send on: later it cannot have been asked for.
        """
        __tracebackhide__ = True
        clock, delay = self._engine.clock, stream.effect.delay
        if stream.due is not None:
            return clock.monotonic()
        if not stream.effect.left():
            if not stream.effect.passes and sock.gettimeout() is None:
                raise effects.silenced()  # it began, and ended, while this was waiting
            return clock.monotonic()
        if not stream.needs_response or connection.inbound.unread or readable(sock, 0):
            due = stream.arrive(connection.turn.sent_at)
        elif readable(sock, timeout_of(sock, socket.SO_RCVTIMEO)):
            due = stream.arrive(moment(connection.turn.sent_at, clock.monotonic()))
        else:
            raise effects.timed_out(sock)
        now = clock.monotonic()
        if 0 < delay < math.inf:  # of which some has passed already
            stream.effect.add_delay(delay - max(0.0, due - now))
        return now

    @staticmethod
    def _deliver_eof(
        sock: socket.socket,
        connection: TcpConnection,
        eof: ResponseStream,
        arguments: ReceiveArguments,
    ) -> Any:
        __tracebackhide__ = True
        connection.inbound.eof = eof
        assert eof.due is not None  # it has arrived
        since = eof.due - eof.effect.delay
        _hold(sock, connection.inbound, eof, eof.due, since=since)
        connection.inbound.eof = None
        return arguments.returned(b"")


def _hold(
    sock: socket.socket,
    inbound: Inbound,
    stream: ResponseStream,
    due: float,
    *,
    since: float,
    asked_at: float = math.inf,
) -> None:
    """Wait until `due`, in monotonic seconds; past the socket's timeout raise that.

    The timeout counts from `asked_at` on, if that was before. `since`: when the wait began, for
    what has passed is a part of it.
    """
    __tracebackhide__ = True
    effect = stream.effect
    now = effect.clock.monotonic()
    effect.add_delay(max(0.0, min(now, due) - since))
    if due <= now:
        return
    limit = timeout_of(sock, socket.SO_RCVTIMEO) if due < math.inf else sock.gettimeout()
    if limit is not None:
        limit = max(0.0, limit - max(0.0, now - asked_at))
    error = functools.partial(effects.timed_out, sock)
    ended, left = inbound.ended, stream.left
    if due < math.inf:
        hold(effect, due - now, limit, error, ended, left=left)
        return
    kernel = effects.kernel_patience(sock, silent=True, connecting=False)
    effects.hold_on_socket(effect, due, limit, error, ended, kernel=kernel, sock=sock, left=left)


def _await_piece(sock: socket.socket, stream: ResponseStream, least: int) -> int:
    """Wait for more of a paced response, if all that has come was read; how many bytes it is.

    Or all but fewer than the client waits for, unless they are the last.
    """
    __tracebackhide__ = True
    there = available(sock)
    if stream.begun and there < least:
        if not there:
            stream.drained()
        if available(sock) < least and not readable(sock, timeout_of(sock, socket.SO_RCVTIMEO)):
            raise effects.timed_out(sock)
    return available(sock)


def _is_there(sock: socket.socket, connection: TcpConnection, seconds: float) -> bool:
    """Whether there is something to receive, or comes within so many seconds.

    While a request is still being sent, a little in TLS may be tickets, which tell nothing.
    """
    if connection.inbound.tickets and connection.is_sending and available(sock) <= RECORD:
        return connection.inbound.ended.wait(seconds)
    return readable(sock, seconds)


def _fetch(
    sock: socket.socket, connection: TcpConnection, arguments: ReceiveArguments, most: int
) -> bytes | None:
    """Read `most` bytes at most, of those unread first; returns what is delivered for them.

    None if that is nothing, and more is to come: nothing would be EOF.
    """
    __tracebackhide__ = True
    inbound = connection.inbound
    if arguments.peeks and (seen := deliveries.look(sock, inbound, arguments, most)):
        return seen
    if inbound.unread:
        size = min(arguments.size, most)
        data, inbound.unread = inbound.unread[:size], inbound.unread[size:]
    else:
        data = arguments.fetch(most, takes=True)
    delivered = deliveries.take(sock, connection, data, arguments)
    return None if deliveries.is_withheld(inbound.stream, data, delivered) else delivered
