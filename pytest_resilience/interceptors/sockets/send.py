"""What clients send: passed on as it is, changed, late or in pieces, or kept for later.

What a partition keeps is in `partitioned_sends`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import threading

from collections.abc import Callable
from typing import Any

from pytest_resilience.chaos.descriptors import timeout_of
from pytest_resilience.chaos.descriptors import unacknowledged
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.network import os_error
from pytest_resilience.chaos.operation import SEND
from pytest_resilience.chaos.request_stream import AHEAD
from pytest_resilience.chaos.request_stream import CAPACITY
from pytest_resilience.chaos.response_stream import CloseConnection
from pytest_resilience.chaos.response_stream import ReadPeer
from pytest_resilience.chaos.response_stream import ResetConnection
from pytest_resilience.chaos.response_stream import WaitUntil
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.abandoned import end_given_up
from pytest_resilience.interceptors.sockets.abandoned import kept_while_replaced
from pytest_resilience.interceptors.sockets.asyncio_loops import AsyncioLoops
from pytest_resilience.interceptors.sockets.connections import ConnectionTable
from pytest_resilience.interceptors.sockets.partitioned_sends import PartitionedSends
from pytest_resilience.interceptors.sockets.pending_receives import PendingReceives
from pytest_resilience.interceptors.sockets.receive import Receiver
from pytest_resilience.interceptors.sockets.socket_calls import SocketCall
from pytest_resilience.interceptors.sockets.socket_calls import is_at_once
from pytest_resilience.interceptors.sockets.socket_calls import message_of
from pytest_resilience.interceptors.sockets.socket_calls import untaken
from pytest_resilience.interceptors.sockets.socket_classes import KernelSocket
from pytest_resilience.interceptors.sockets.socket_classes import ends_of
from pytest_resilience.interceptors.sockets.socket_classes import is_udp
from pytest_resilience.interceptors.sockets.socket_classes import kernel_socket
from pytest_resilience.interceptors.sockets.socket_classes import leave_no_room
from pytest_resilience.interceptors.sockets.ssl_objects import SslObjects
from pytest_resilience.interceptors.sockets.tcp_connection import TcpConnection
from pytest_resilience.interceptors.sockets.tcp_connection import moment
from pytest_resilience.interceptors.sockets.wire_format import beginning
from pytest_resilience.interceptors.waiting import wait


__all__ = ["Sender"]

_FILE = "os.sendfile"
_SOON = 0.01  # seconds for what was sent before to arrive, where the end strikes at once
_AT_ONCE = 0.001  # seconds until it is seen that what was sent has arrived


class Sender:
    """Sends for clients, and notes whose turn it is then.

    Attributes:
        partitions: keeps what does not get through.
    """

    def __init__(
        self,
        engine: Engine,
        connections: ConnectionTable,
        loops: AsyncioLoops,
        *,
        ssl_objects: SslObjects,
        partitions: PartitionedSends,
        receiver: Receiver,
        waiting: PendingReceives,
    ) -> None:
        self._engine, self._connections, self._loops = engine, connections, loops
        self._ssl_objects = ssl_objects  # what is encrypted above the sockets
        self.partitions = partitions
        self._receiver, self._waiting = receiver, waiting

    def send(self, sock: socket.socket, call: SocketCall) -> Any:
        """Do `call`, of one of the socket's sending methods."""
        __tracebackhide__ = True
        connection = self._connections.of(sock, SEND)
        if connection is None and self._connections.look(is_udp, sock):
            return self._receiver.datagrams.send(sock, call)
        if connection is None:
            return call()
        if connection in self._connections.proxies and len(call.args) > 1:
            self._connections.look(self._ssl_objects.hear, sock, connection, call.args[1])
        if connection.untargeted and not connection.send_queue.messages:
            if connection.stale and len(call.args) > 1:  # the recorder is told whether it is HTTP
                self._connections.look(_note_request, connection, call.args[1])
            return call()
        me = threading.get_ident()
        if me in connection.send_queue.threads:
            return call()
        connection.send_queue.threads.seen = True
        connection.send_queue.threads.add(me)
        try:
            return self._send_on(sock, connection, call)
        finally:
            connection.send_queue.threads.discard(me)

    def _send_on(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call` on a connection that is a target."""
        __tracebackhide__ = True
        turn, queue, began = connection.turn, connection.send_queue, self._engine.clock.monotonic()
        if queue.ended.is_set() or not (connection.ends or ends_of(sock)):
            if queue.messages and sock.fileno() >= 0:  # the kernel learns of the end after those
                raise os_error(errno.EPIPE)
            return call()
        _end_replaced(sock, connection)
        message = beginning(call.args[1] if len(call.args) > 1 else b"")
        before, blocking = turn.receiving, sock.gettimeout() != 0
        if not turn.decrypted:  # else it was heard before it became records
            self._ssl_objects.send(connection, message)
        if blocking:  # another thread may receive the response before this one is back
            connection.sent(message, began)
            self._waiting.expect(sock, connection)
        try:
            if self.partitions.holds(sock, connection):
                if blocking:  # nobody who polls it is told of anything meanwhile
                    self._waiting.cut(sock, connection)
                result = self.partitions.keep(sock, connection, call)
            else:
                queue.flush(sock)
                result = self._pass_on(sock, connection, call)
        except OSError as error:
            turn.receiving = before  # nothing new has been asked
            end_given_up(sock, connection, error)
            raise
        turn.sent_at = moment(began, self._engine.clock.monotonic())
        if not blocking:
            if self._engine.active.strikes_waiting:
                self._receiver.asyncio.expect(sock, connection)
            connection.sent(message, turn.sent_at)
            self._loops.sent(turn.sent_at)
            connection.task = self._loops.task() or connection.task
        if turn.handshaking and not turn.decrypted:
            self._ssl_objects.sent_hello(connection, message)
        return result

    def held_for(self, connection: TcpConnection) -> float:
        """Seconds in which a poll tells of no room to send; 0 if it tells what the kernel does."""
        queue, requests = connection.send_queue, connection.send_queue.requests
        if queue.threads or queue.ended.is_set():
            return 0.0
        if requests.cut is not None and queue.is_full:
            return min(requests.cut.left(), queue.patience(connection.owner()))
        effect, now = requests.effect, self._engine.clock.monotonic()
        if requests.rest and effect is not None:
            match requests.next(requests.rest, now):
                case WaitUntil(due):
                    return max(0.0, min(due - now, effect.left()))
        return 0.0

    def _pass_on(self, sock: socket.socket, connection: TcpConnection, call: SocketCall) -> Any:
        """Do `call`, as far as what happens to the message lets it."""
        __tracebackhide__ = True
        requests = connection.send_queue.requests
        if requests.is_unchanged and (sock.gettimeout() != 0 or SEND not in self._engine.kinds):
            requests.rest = 0
            result = call()
            requests.rest = untaken(call, result)
            return result
        send, data = message_of(call)
        was_cut = requests.rest > 0 and not is_at_once(call)
        requests.rest = len(data)  # where it is tried again, it is no new message
        sent = self._send(connection, call, send, data, was_cut=was_cut)
        requests.rest -= sent
        return None if call.name == "sendall" else sent

    def _send(
        self,
        connection: TcpConnection,
        call: SocketCall,
        send: Callable[..., int | None],
        data: bytes,
        *,
        was_cut: bool,
    ) -> int:
        """Send `data`, or some of it if `call` may; returns how many bytes. See `_end`."""
        __tracebackhide__ = True
        sock, whole, at_once = call.args[0], call.name == "sendall", is_at_once(call)
        requests, clock = connection.send_queue.requests, self._engine.clock
        sent, asked_at = 0, clock.monotonic()
        while sent < len(data) or not data:
            match requests.next(len(data) - sent, clock.monotonic()):
                case WaitUntil(due):
                    if sent and not whole:
                        break
                    self._hold(sock, connection, due, asked_at, at_once=at_once)
                    requests.waited(due)
                case ReadPeer(most):
                    ready = requests.take(
                        data[sent : sent + most], data[sent + most : sent + most + AHEAD]
                    )
                    done = send(sock, ready) if ready or not data else 0
                    sent += requests.passed(len(ready) if done is None else done)
                    if (sent and not whole) or not data:
                        break
                case ResetConnection() | CloseConnection() as step:
                    self._let_arrive(sock, connection, asked_at, at_once=at_once)
                    self._end(call, connection, step, was_cut=was_cut)
                    if isinstance(step, ResetConnection) and self._tells_later(call, len(data)):
                        return min(len(data), CAPACITY)
        if sent == len(data):
            self._end_if_sent(call, connection, asked_at)
        return sent

    def _end_if_sent(self, call: SocketCall, connection: TcpConnection, asked_at: float) -> None:
        """Let the connection end with what was sent, if it does: who sends no more is told too."""
        __tracebackhide__ = True
        match connection.send_queue.requests.next(0, self._engine.clock.monotonic()):
            case ResetConnection() | CloseConnection() as step:
                if not is_at_once(call):  # else it was sent, and cannot be asked for again
                    self._let_arrive(call.args[0], connection, asked_at)
                self._end(call, connection, step)

    def _tells_later(self, call: SocketCall, size: int) -> bool:
        """Whether a kernel takes what is sent, and tells of a reset who comes again.

        A transport comes to read. What sends files by a loop gives up where it is told at once.
        """
        is_file = call.name == _FILE and is_at_once(call) and size > CAPACITY
        return is_file or self._loops.transport(call.args[0]) is not None

    def _hold(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        due: float,
        asked_at: float,
        *,
        at_once: bool,
    ) -> None:
        """Let nothing be sent until `due`; raises where the socket does not block for so long."""
        __tracebackhide__ = True
        effect = connection.send_queue.requests.effect
        assert effect is not None  # it is what is in the way
        if at_once:
            raise effects.no_room(sock)
        ended = connection.send_queue.ended
        effects.hold_sending(sock, effect, ended, due=due, asked_at=asked_at)

    def _let_arrive(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        asked_at: float,
        *,
        at_once: bool = False,
    ) -> None:
        """Let the peer have what was sent, for it ends the connection only after that.

        A reset takes with it what has not left this side yet. As with all that is sent, the peer
        may take its time, but no longer than the socket's timeout; raises where it does not block.
        """
        __tracebackhide__ = True
        effect, clock = connection.send_queue.requests.effect, self._engine.clock
        if effect is None or not unacknowledged(sock):
            return
        failure = effect.failure
        is_cut = failure is not None and not (failure.resets or failure.closes)
        if at_once:
            if is_cut and effect.left():
                leave_no_room(sock)
                raise effects.no_room(sock)
            return
        limit = timeout_of(sock, socket.SO_SNDTIMEO)
        ends = math.inf if limit is None else asked_at + limit
        if not is_cut:  # it strikes at once, whoever has what was sent before
            ends = min(ends, clock.monotonic() + _SOON)
        ended = connection.send_queue.ended
        while unacknowledged(sock) and effect.left() and not ended.is_set():
            if clock.monotonic() >= ends:
                if is_cut:
                    raise effects.send_timed_out(sock)
                return
            wait(clock, _AT_ONCE, effect.left, ended)

    def _end(
        self,
        call: SocketCall,
        connection: TcpConnection,
        step: ResetConnection | CloseConnection,
        *,
        was_cut: bool = False,
    ) -> None:
        """Let the peer have ended the connection: what is sent next tells.

        `was_cut`: a call before has sent some of the message, and would have sent all.
        """
        __tracebackhide__ = True
        sock = call.args[0]
        requests = connection.send_queue.requests
        if requests.effect is not None:
            self.partitions.keep_open(sock, requests.effect)
        requests.begin(None)
        connection.is_over()
        with kept_while_replaced(connection, sock):
            effects.end(sock, step)
        if was_cut:
            _be_told(sock, step, is_file=call.name == _FILE)


def _be_told(
    sock: socket.socket, step: ResetConnection | CloseConnection, *, is_file: bool
) -> None:
    """What an earlier call had on its way has met the end: so the kernel was told of it already."""
    with contextlib.suppress(OSError):  # it was
        if isinstance(step, CloseConnection):
            KernelSocket.send(kernel_socket(sock), b"\0")  # to which nobody there answers with RST
        elif is_file:  # which tells how much it has sent, and not what it has met then
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _end_replaced(sock: socket.socket, connection: TcpConnection) -> None:
    """Let the peer be gone that has ended the connection with its response: what is sent tells."""
    stream = connection.inbound.stream
    if stream is not None and (stream.is_replaced or stream.is_reset):
        step = CloseConnection() if stream.is_replaced else ResetConnection()
        effects.end_once(connection, step, sock)


def _note_request(connection: TcpConnection, message: object) -> None:
    """Remember the request, if it is one, of a connection that no experiment has for a target."""
    connection.turn.requests.feed(beginning(message), answered=True)
